//! What a reader is shown of items that are kept with more.
//!
//! A kept output item may hold two members that not every client sees:
//!
//! * `encrypted_content` of reasoning, which only a reader whose own request asks for it is shown;
//! * `tokenwire`, an object of the gateway's own, which no client is shown. It says what must go
//!   back to the upstream in a later turn.

use std::borrow::Cow;

use memchr::memmem;

use crate::model::json::{Members, ObjectWriter, quoted};

/// The member of a kept item that no client is shown.
pub(crate) const PRIVATE: &str = "tokenwire";

/// The member of reasoning that is shown on request.
pub(crate) const ENCRYPTED: &str = "encrypted_content";

/// The value of `include` that asks for [`ENCRYPTED`].
pub(crate) const ENCRYPTED_REASONING: &str = "reasoning.encrypted_content";

/// What a reader's own request asks to be shown beside the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Include {
    /// `reasoning.encrypted_content`
    pub encrypted_reasoning: bool,
}

/// Which members of an item are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All, those that no client is shown included.
    Kept,
    /// Those that a reader is shown.
    Shown(Include),
}

impl Default for Form {
    fn default() -> Self {
        Self::Shown(Include::default())
    }
}

impl Form {
    /// Returns a response object of a Responses upstream in this form.
    pub(crate) fn response(self, kept: &str) -> Cow<'_, str> {
        match self {
            Self::Kept => Cow::Borrowed(kept),
            Self::Shown(include) => include.response(kept),
        }
    }

    /// Returns an item of a Responses upstream in this form.
    pub(crate) fn item(self, kept: &str) -> Cow<'_, str> {
        match self {
            Self::Kept => Cow::Borrowed(kept),
            Self::Shown(include) => include.item(kept),
        }
    }

    /// Returns an array of items of a Responses upstream in this form.
    pub(crate) fn items(self, kept: &str) -> Cow<'_, str> {
        match self {
            Self::Kept => Cow::Borrowed(kept),
            Self::Shown(include) => include.items(kept),
        }
    }
}

impl Include {
    /// Reads the values of `include`. Other values ask for nothing that is left out by default.
    pub fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            encrypted_reasoning: values.into_iter().any(|value| value == ENCRYPTED_REASONING),
        }
    }

    /// Whether this JSON may hold a member that the reader is not shown.
    fn may_hide(self, json: &str) -> bool {
        let holds = |name: &str| memmem::find(json.as_bytes(), name.as_bytes()).is_some();
        holds(r#""tokenwire""#) || (!self.encrypted_reasoning && holds(r#""encrypted_content""#))
    }

    /// Returns an event of a Responses upstream as the reader is shown it.
    pub(crate) fn event<'a>(self, name: &str, json: &'a str) -> Cow<'a, str> {
        let holder = match name {
            "response.output_item.added" | "response.output_item.done" => "item",
            "response.created" | "response.queued" | "response.in_progress" => "response",
            _ => return Cow::Borrowed(json),
        };
        if !self.may_hide(json) {
            return Cow::Borrowed(json);
        }
        let Ok(members) = serde_json::from_str::<Members<'_>>(json) else {
            return Cow::Borrowed(json);
        };
        let Some(held) = members.get(holder).map(|raw| raw.get()) else {
            return Cow::Borrowed(json);
        };
        let shown = match holder {
            "item" => self.item(held),
            _ => self.response(held),
        };
        Cow::Owned(members.write_with(&[(holder, &shown)]))
    }

    /// Returns a response object as the reader is shown it.
    pub(crate) fn response<'a>(self, json: &'a str) -> Cow<'a, str> {
        if !self.may_hide(json) {
            return Cow::Borrowed(json);
        }
        let Ok(members) = serde_json::from_str::<Members<'_>>(json) else {
            return Cow::Borrowed(json);
        };
        let shown = match members.get("output") {
            Some(output) => members.write_with(&[("output", &self.items(output.get()))]),
            None => json.to_owned(),
        };
        match serde_json::from_str::<Members<'_>>(&shown) {
            Ok(members) if members.get(PRIVATE).is_some() => {
                Cow::Owned(without(&members, |name| name == PRIVATE))
            }
            _ => Cow::Owned(shown),
        }
    }

    /// Returns an array of items as the reader is shown it.
    pub(crate) fn items<'a>(self, json: &'a str) -> Cow<'a, str> {
        if !self.may_hide(json) {
            return Cow::Borrowed(json);
        }
        let Ok(items) = serde_json::from_str::<Vec<&serde_json::value::RawValue>>(json) else {
            return Cow::Borrowed(json);
        };
        let items: Vec<_> = items.iter().map(|item| self.item(item.get())).collect();
        Cow::Owned(format!("[{}]", items.join(",")))
    }

    /// Returns an item as the reader is shown it.
    #[must_use]
    pub fn item(self, json: &str) -> Cow<'_, str> {
        if !self.may_hide(json) {
            return Cow::Borrowed(json);
        }
        let Ok(members) = serde_json::from_str::<Members<'_>>(json) else {
            return Cow::Borrowed(json);
        };
        let reasoning = members.text("type").as_deref() == Some("reasoning");
        let hides = |name: &str| {
            name == PRIVATE || (name == ENCRYPTED && reasoning && !self.encrypted_reasoning)
        };
        Cow::Owned(without(&members, hides))
    }
}

/// Writes an object without the members that `hides` names.
pub(crate) fn without(members: &Members<'_>, hides: impl Fn(&str) -> bool) -> String {
    let mut out = String::new();
    let mut object = ObjectWriter::begin(&mut out);
    for (name, raw) in members.iter().filter(|(name, _)| !hides(name)) {
        object.raw(name, raw.get());
    }
    object.end();
    out
}

/// What is kept beside an item of a Responses upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptWith {
    /// The upstream's own id of the item.
    pub(crate) id: String,
    /// The credential that the item's encrypted content belongs to, if it is known.
    pub(crate) credential: Option<String>,
}

impl KeptWith {
    /// Reads the private member of a kept item.
    pub(crate) fn of(item: &Members<'_>) -> Option<Self> {
        let private = item.object(PRIVATE)?;
        Some(Self {
            id: private.text("id")?.into_owned(),
            credential: private.text("credential").map(Cow::into_owned),
        })
    }

    /// Returns the value of the private member.
    pub(crate) fn to_json(&self) -> String {
        let id = quoted(&self.id);
        match &self.credential {
            Some(credential) => {
                format!(r#"{{"id":{id},"credential":{}}}"#, quoted(credential))
            }
            None => format!(r#"{{"id":{id}}}"#),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Include = Include {
        encrypted_reasoning: true,
    };

    #[test]
    fn private_members_are_shown_to_no_reader() {
        let item = r#"{"id":"ws_1","type":"web_search_call","tokenwire":{"id":"x"},"a":[1, 2]}"#;
        let shown = r#"{"id":"ws_1","type":"web_search_call","a":[1, 2]}"#;
        assert_eq!(Include::default().item(item), shown);
        assert_eq!(ALL.item(item), shown);
        let event = format!(r#"{{"type":"response.output_item.done","item":{item}}}"#);
        let expected = format!(r#"{{"type":"response.output_item.done","item":{shown}}}"#);
        assert_eq!(ALL.event("response.output_item.done", &event), expected);
    }

    #[test]
    fn encrypted_reasoning_is_shown_to_readers_that_ask() {
        let item = r#"{"type":"reasoning","encrypted_content":"e","summary":[]}"#;
        let response = format!(r#"{{"id":"r","output":[{item}]}}"#);
        assert_eq!(ALL.response(&response), response);
        assert_eq!(
            Include::default().response(&response),
            r#"{"id":"r","output":[{"type":"reasoning","summary":[]}]}"#
        );
        // Other items need theirs in the next request.
        let compaction = r#"{"type":"compaction","encrypted_content":"e"}"#;
        assert_eq!(Include::default().item(compaction), compaction);
    }

    #[test]
    fn kept_with_is_read_back() {
        let kept = KeptWith {
            id: "rs_\"1".to_owned(),
            credential: Some("ab".to_owned()),
        };
        let item = format!(r#"{{"tokenwire":{}}}"#, kept.to_json());
        let members = serde_json::from_str(&item).unwrap();
        assert_eq!(KeptWith::of(&members), Some(kept));
    }
}
