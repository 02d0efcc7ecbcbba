//! Encrypted reasoning in requests to Responses upstreams.
//!
//! An upstream that is not asked to store gives its reasoning encrypted and takes it back from the
//! account that it was made for only. A request that goes to another account, or that the upstream
//! refuses for its reasoning, goes without.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::value::RawValue;

use super::Refusal;
use super::attachment::Attachment;
use crate::model::include::{ENCRYPTED, ENCRYPTED_REASONING};
use crate::model::json::{Members, RawObject, push_array};

/// Most models of one endpoint that are known to give no encrypted reasoning.
const MAX_MODELS: usize = 1024;

/// What a request to a Responses upstream says of encrypted reasoning.
#[derive(Clone, Debug, Default)]
pub struct CarriedReasoning {
    /// The tag of the credential that the body's encrypted reasoning belongs to; `None` if it holds
    /// none, or if the upstream has no tag.
    pub credential: Option<String>,
    /// Whether the gateway asked for encrypted reasoning, not the client.
    pub asked: bool,
    /// Who answers.
    pub answer: AnswerOrigin,
}

/// Who answers a request, once that is known. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct AnswerOrigin(Arc<Mutex<Origin>>);

#[derive(Clone, Debug, Default)]
struct Origin {
    credential: Option<String>,
    replays: bool,
    /// The endpoint, if it goes on without a connection.
    holder: Option<Holder>,
    /// What it goes on with.
    attachment: Option<Attachment>,
}

/// An endpoint that goes on without a connection.
#[derive(Clone, Debug)]
struct Holder {
    name: String,
    /// Whether another process can ask it: the request has no key of its client.
    public: bool,
}

/// Models that an endpoint does not make encrypted reasoning for.
#[derive(Default)]
pub(super) struct PlainModels(Mutex<HashSet<String>>);

/// What an upstream refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The reasoning in the request.
    Reasoning,
    /// That encrypted reasoning is asked for.
    Include,
}

// === impl AnswerOrigin ===

impl AnswerOrigin {
    /// Records the tag of the credential of the upstream that answers.
    pub(super) fn set(&self, credential: Option<String>) {
        *self.0.lock() = Origin {
            credential,
            ..Origin::default()
        };
    }

    /// Records that this endpoint goes on without a connection. `public` says whether other processes
    /// can ask it for the answer.
    pub(super) fn hold(&self, name: &str, public: bool) {
        let name = name.to_owned();
        self.0.lock().holder = Some(Holder { name, public });
    }

    /// Records that another process has asked the upstream for this.
    pub(crate) fn attached(attachment: Attachment) -> Self {
        Self(Arc::new(Mutex::new(Origin {
            holder: Some(Holder {
                name: attachment.upstream.clone(),
                public: true,
            }),
            attachment: Some(attachment),
            ..Origin::default()
        })))
    }

    /// Records the upstream's id of the answer. Returns what other processes find it by, if they can.
    pub(crate) fn begun(&self, id: &str) -> Option<Attachment> {
        let mut origin = self.0.lock();
        let holder = origin.holder.clone()?;
        let attachment = Attachment::new(&holder.name, id)?;
        origin.attachment = Some(attachment.clone());
        holder.public.then_some(attachment)
    }

    /// Records that the upstream has ended the answer.
    pub(crate) fn over(&self) {
        let mut origin = self.0.lock();
        origin.holder = None;
        origin.attachment = None;
    }

    /// What the upstream goes on with, once its id is known, until it ends.
    pub(crate) fn attachment(&self) -> Option<Attachment> {
        self.0.lock().attachment.clone()
    }

    /// Whether the upstream goes on without a connection with an answer whose id is not known.
    pub(crate) fn is_unnamed(&self) -> bool {
        let origin = self.0.lock();
        origin.holder.is_some() && origin.attachment.is_none()
    }

    /// Records that the records of another generation are replayed.
    pub(crate) fn set_replay(&self) {
        self.0.lock().replays = true;
    }

    /// Returns the tag of the credential that was used.
    pub(crate) fn credential(&self) -> Option<String> {
        self.0.lock().credential.clone()
    }

    /// Whether another generation's records are replayed.
    pub(crate) fn replays(&self) -> bool {
        self.0.lock().replays
    }
}

// === impl PlainModels ===

impl PlainModels {
    pub(super) fn note(&self, model: &str) {
        let mut models = self.0.lock();
        if models.len() < MAX_MODELS {
            models.insert(model.to_owned());
        }
    }

    pub(super) fn contains(&self, model: &str) -> bool {
        self.0.lock().contains(model)
    }
}

impl fmt::Debug for PlainModels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainModels")
    }
}

/// Returns what an upstream's refusal is about, if that is reasoning.
pub(super) fn refused(refusal: &Refusal) -> Option<Refused> {
    if !matches!(refusal.status, 400 | 404 | 422) {
        return None;
    }
    let body: Members<'_> = serde_json::from_slice(&refusal.body).ok()?;
    let error = body.object("error").unwrap_or(body);
    let text = |name: &str| error.text(name).unwrap_or_default();
    refused_by(&text("code"), &text("message"), &text("param"))
}

/// As [`refused`], from the members of the error.
pub(super) fn refused_by(code: &str, message: &str, param: &str) -> Option<Refused> {
    let message = message.to_ascii_lowercase();
    let encrypted = message.contains("encrypted content") || message.contains(ENCRYPTED);
    if param.starts_with("include") || (encrypted && message.contains("not supported")) {
        Some(Refused::Include)
    } else if code == "invalid_encrypted_content"
        || encrypted
        || message.contains("'rs_")
        || message.contains("reasoning item")
    {
        Some(Refused::Reasoning)
    } else {
        None
    }
}

/// Returns the body without its reasoning items; `None` if it has none.
pub(super) fn without_reasoning(body: &[u8]) -> Option<Vec<u8>> {
    let members: Members<'_> = serde_json::from_slice(body).ok()?;
    let input: Vec<&RawValue> = serde_json::from_str(members.get("input")?.get()).ok()?;
    let kept: Vec<&RawValue> = input
        .iter()
        .copied()
        .filter(|item| !is_reasoning(item))
        .collect();
    if kept.len() == input.len() {
        return None;
    }
    let mut out = String::with_capacity(body.len());
    push_array(&mut out, &kept, |out, item| out.push_str(item.get()));
    Some(members.write_with(&[("input", &out)]).into_bytes())
}

/// Returns the body without the request for encrypted reasoning; `None` if it has none.
pub(super) fn without_include(body: &[u8]) -> Option<Vec<u8>> {
    let mut object = RawObject::parse(body).ok()?;
    let include: Vec<String> = serde_json::from_str(object.get("include")?.get()).ok()?;
    let kept: Vec<&String> = include
        .iter()
        .filter(|value| *value != ENCRYPTED_REASONING)
        .collect();
    if kept.len() == include.len() {
        return None;
    }
    if kept.is_empty() {
        object.remove("include");
    } else {
        object.insert_raw("include", serde_json::value::to_raw_value(&kept).ok()?);
    }
    Some(object.to_bytes())
}

fn is_reasoning(item: &RawValue) -> bool {
    serde_json::from_str::<Members<'_>>(item.get())
        .is_ok_and(|item| item.text("type").as_deref() == Some("reasoning"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, expected: Option<Refused>) {
        let refusal = Refusal {
            status,
            content_type: None,
            body: body.to_owned().into(),
            headers: Vec::new(),
            should_retry: None,
        };
        assert_eq!(refused(&refusal), expected, "{body}");
    }

    #[test]
    fn refusals_of_reasoning_are_recognised() {
        let error = |code: &str, message: &str, param: &str| {
            serde_json::json!({"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}).to_string()
        };
        let gone = "Item with id 'rs_68a' not found. Items are not persisted when `store` is set to false.";
        check(404, &error("", gone, "input"), Some(Refused::Reasoning));
        let broken = "The encrypted content for item rs_1 could not be verified.";
        check(
            400,
            &error("invalid_encrypted_content", broken, ""),
            Some(Refused::Reasoning),
        );
        let plain = "Encrypted content is not supported with this model.";
        check(400, &error("", plain, "include"), Some(Refused::Include));
        check(400, &error("", plain, ""), Some(Refused::Include));
        check(500, &error("", broken, ""), None);
        check(404, &error("model_not_found", "No such model.", ""), None);
        check(400, &error("", "Item with id 'msg_1' not found.", ""), None);
        check(400, "nothing", None);
    }

    #[test]
    fn bodies_lose_reasoning_only() {
        let body = br#"{"model":"m","input":[{"type":"reasoning","id":"rs_1"},{"role":"user","content":"a"}],"x":1.0}"#;
        let without = br#"{"model":"m","input":[{"role":"user","content":"a"}],"x":1.0}"#;
        assert_eq!(without_reasoning(body).as_deref(), Some(&without[..]));
        assert_eq!(without_reasoning(without), None);
        assert_eq!(without_reasoning(br#"{"input":"a"}"#), None);
        let asked = br#"{"include":["reasoning.encrypted_content"],"input":"a"}"#;
        assert_eq!(
            without_include(asked).as_deref(),
            Some(&br#"{"input":"a"}"#[..])
        );
        let both = br#"{"include":["reasoning.encrypted_content","x.y"]}"#;
        assert_eq!(
            without_include(both).as_deref(),
            Some(&br#"{"include":["x.y"]}"#[..])
        );
        assert_eq!(without_include(br#"{"include":["x.y"]}"#), None);
    }
}
