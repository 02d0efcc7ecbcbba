//! Kept items as a Responses upstream takes them back.
//!
//! The upstream is not asked to store, so it knows no ids but those beside encrypted content.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::model::include::{ENCRYPTED, KeptWith, PRIVATE, without};
use crate::model::json::{Members, push_array, quoted};

/// The input of a request to a Responses upstream.
pub(super) struct UpstreamInput {
    /// A JSON array of items.
    pub(super) json: String,
    /// Whether it differs from the items that it was made of.
    pub(super) changed: bool,
    /// Whether it has encrypted reasoning of a known credential.
    pub(super) encrypted: bool,
}

/// Returns the tag of the credential that the latest encrypted reasoning belongs to.
pub(super) fn credential_of(items: &[&RawValue]) -> Option<String> {
    items.iter().rev().find_map(|item| {
        let item = item.get();
        memchr::memmem::find(item.as_bytes(), b"\"credential\"")?;
        KeptWith::of(&serde_json::from_str(item).ok()?)?.credential
    })
}

/// Writes kept items and a client's own for the upstream that is asked with the credential of this
/// tag.
pub(super) fn write(items: &[&RawValue], credential: Option<&str>) -> UpstreamInput {
    let read: Vec<Members<'_>> = items
        .iter()
        .map(|item| serde_json::from_str(item.get()).unwrap_or_default())
        .collect();
    let mut upstream_ids: HashMap<Cow<'_, str>, String> = HashMap::new();
    for item in &read {
        if let (Some(id), Some(kept)) = (item.text("id"), KeptWith::of(item)) {
            upstream_ids.insert(id, kept.id);
        }
    }
    let mut input = UpstreamInput {
        json: String::new(),
        changed: false,
        encrypted: false,
    };
    let mut written: Vec<Cow<'_, str>> = Vec::with_capacity(items.len());
    for (item, members) in items.iter().zip(&read) {
        match one(members, credential, &upstream_ids) {
            Written::AsItIs => written.push(Cow::Borrowed(item.get())),
            Written::Changed { json, encrypted } => {
                input.changed = true;
                input.encrypted |= encrypted;
                written.push(Cow::Owned(json));
            }
            Written::Dropped => input.changed = true,
        }
    }
    let length: usize = written.iter().map(|item| item.len() + 1).sum();
    input.json.reserve(length + 2);
    push_array(&mut input.json, &written, |out, item| out.push_str(item));
    input
}

enum Written {
    AsItIs,
    Changed { json: String, encrypted: bool },
    Dropped,
}

fn one(
    item: &Members<'_>,
    credential: Option<&str>,
    upstream_ids: &HashMap<Cow<'_, str>, String>,
) -> Written {
    let kind = item.text("type");
    let kept = KeptWith::of(item);
    let changed = |json| Written::Changed {
        json,
        encrypted: false,
    };
    match kind.as_deref() {
        Some("reasoning") => reasoning(item, kept, credential),
        None
        | Some(
            "message"
            | "function_call"
            | "function_call_output"
            | "custom_tool_call"
            | "custom_tool_call_output",
        ) => {
            if item.get("id").is_none() && item.get(PRIVATE).is_none() {
                return Written::AsItIs;
            }
            changed(without(item, |name| matches!(name, "id" | PRIVATE)))
        }
        Some("mcp_approval_response") => {
            let request = item.text("approval_request_id");
            match request.and_then(|id| upstream_ids.get(&id)) {
                Some(id) => changed(item.write_with(&[("approval_request_id", &quoted(id))])),
                None => Written::AsItIs,
            }
        }
        _ => match kept {
            Some(kept) => {
                let own = item.write_with(&[("id", &quoted(&kept.id))]);
                let own: Members<'_> = serde_json::from_str(&own).unwrap_or_default();
                changed(without(&own, |name| name == PRIVATE))
            }
            None if item.get(PRIVATE).is_some() => changed(without(item, |name| name == PRIVATE)),
            None => Written::AsItIs,
        },
    }
}

fn reasoning(item: &Members<'_>, kept: Option<KeptWith>, credential: Option<&str>) -> Written {
    let encrypted = item.get(ENCRYPTED).is_some();
    match kept {
        Some(kept) if encrypted && kept.credential.as_deref() == credential => {
            let own = item.write_with(&[("id", &quoted(&kept.id))]);
            let own: Members<'_> = serde_json::from_str(&own).unwrap_or_default();
            return Written::Changed {
                json: without(&own, |name| name == PRIVATE),
                encrypted: true,
            };
        }
        // The client's own, of which nothing is known here.
        None if encrypted => {
            let ours = item
                .text("id")
                .is_some_and(|id| super::resolve::is_ours(&id));
            if !ours {
                return Written::AsItIs;
            }
            return Written::Changed {
                json: without(item, |name| matches!(name, "id" | PRIVATE)),
                encrypted: true,
            };
        }
        _ => {}
    }
    if !super::resolve::has_text(item) {
        return Written::Dropped;
    }
    let hidden = |name: &str| matches!(name, "id" | PRIVATE | ENCRYPTED);
    if item.iter().any(|(name, _)| hidden(name)) {
        return Written::Changed {
            json: without(item, hidden),
            encrypted: false,
        };
    }
    Written::AsItIs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::raw_value;

    fn check(items: &[&str], credential: Option<&str>, expected: &str) {
        let items: Vec<_> = items
            .iter()
            .map(|item| raw_value((*item).to_owned()))
            .collect();
        let items: Vec<&RawValue> = items.iter().map(|item| &**item).collect();
        assert_eq!(write(&items, credential).json, expected);
    }

    const REASONING: &str = r#"{"id":"rs_ours0000","type":"reasoning","summary":[],"encrypted_content":"e","tokenwire":{"id":"rs_theirs","credential":"a"}}"#;

    #[test]
    fn encrypted_reasoning_goes_back_to_its_account_under_its_own_id() {
        let theirs =
            r#"[{"id":"rs_theirs","type":"reasoning","summary":[],"encrypted_content":"e"}]"#;
        check(&[REASONING], Some("a"), theirs);
        check(&[REASONING], Some("b"), "[]");
        check(&[REASONING], None, "[]");
    }

    #[test]
    fn reasoning_without_encrypted_content_is_used_by_its_text() {
        let text = r#"{"id":"rs_1","type":"reasoning","summary":[],"content":[{"type":"reasoning_text","text":"so"}]}"#;
        check(
            &[text],
            None,
            r#"[{"type":"reasoning","summary":[],"content":[{"type":"reasoning_text","text":"so"}]}]"#,
        );
        check(
            &[r#"{"id":"rs_1","type":"reasoning","summary":[]}"#],
            None,
            "[]",
        );
    }

    #[test]
    fn ids_go_up_only_where_the_upstream_knows_them() {
        check(
            &[
                r#"{"type":"message","id":"msg_ours0000","role":"user","content":"a"}"#,
                r#"{"role":"user","content": "b"}"#,
                r#"{"type":"mcp_approval_request","id":"item_ours0001","tokenwire":{"id":"mcpr_1"}}"#,
                r#"{"type":"mcp_approval_response","approval_request_id":"item_ours0001"}"#,
                r#"{"type":"compaction","id":"cmp_1","encrypted_content":"e"}"#,
            ],
            None,
            r#"[{"type":"message","role":"user","content":"a"},{"role":"user","content": "b"},{"type":"mcp_approval_request","id":"mcpr_1"},{"type":"mcp_approval_response","approval_request_id":"mcpr_1"},{"type":"compaction","id":"cmp_1","encrypted_content":"e"}]"#,
        );
    }

    #[test]
    fn latest_credential_is_preferred() {
        let later = REASONING.replace(r#":"a""#, r#":"b""#);
        let items = [raw_value(REASONING.to_owned()), raw_value(later)];
        let items: Vec<&RawValue> = items.iter().map(|item| &**item).collect();
        assert_eq!(credential_of(&items).as_deref(), Some("b"));
    }
}
