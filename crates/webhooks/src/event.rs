//! The event of a webhook: a response has ended, with its status, or a watch rule has matched. Of content
//! it holds at most what a rule asks for.

use serde_json::{Map, Value};
use tokenwire_core::generation::Generation;
use tokenwire_core::model::event::Ending;
use tokenwire_core::model::id::{GenerationId, random_id};
use tokenwire_core::model::time::unix_now;

/// The end of one response or a match in it, for one endpoint. Its id is also the delivery's, and is the same at
/// every attempt.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) id: String,
    /// `response.completed`, `.incomplete`, `.failed` or `.cancelled`, or [`MATCHED`].
    pub(crate) kind: &'static str,
    /// Unix time of the end, in seconds.
    pub(crate) created_at: u64,
    pub(crate) response: GenerationId,
    /// Further members of `data`.
    pub(crate) data: Option<Map<String, Value>>,
}

/// The kind of a match.
pub(crate) const MATCHED: &str = "tokenwire:stream.matched";

// === impl Event ===

impl Event {
    /// Describes the end of a generation, which must have ended.
    pub(crate) fn of(generation: &Generation) -> Self {
        let kind = match generation.outcome().as_ref().map(|outcome| &outcome.ending) {
            Some(Ending::Completed) => "response.completed",
            Some(Ending::Incomplete { .. }) => "response.incomplete",
            Some(Ending::Failed(_)) => "response.failed",
            // A generation that was deleted while it ran has no outcome.
            Some(Ending::Cancelled) | None => "response.cancelled",
        };
        Self::new(kind, generation.meta().id.clone())
    }

    /// Returns the kind of this name.
    pub(crate) fn kind_of(name: &str) -> Option<&'static str> {
        let kinds = [
            "response.completed",
            "response.incomplete",
            "response.failed",
            "response.cancelled",
            MATCHED,
        ];
        kinds.into_iter().find(|kind| *kind == name)
    }

    pub(crate) fn new(kind: &'static str, response: GenerationId) -> Self {
        Self {
            id: random_id("evt_"),
            kind,
            created_at: unix_now(),
            response,
            data: None,
        }
    }

    /// Describes a match.
    pub(crate) fn of_match(response: GenerationId, data: Map<String, Value>) -> Self {
        Self {
            data: Some(data),
            ..Self::new(MATCHED, response)
        }
    }

    /// Whether it tells of a match of a watch rule.
    pub(crate) fn is_match(&self) -> bool {
        self.kind == MATCHED
    }

    /// Returns the body of the request: the same bytes at every attempt.
    pub(crate) fn body(&self) -> String {
        let Self {
            id,
            kind,
            created_at,
            response,
            data,
        } = self;
        let mut members = String::new();
        for (name, value) in data.iter().flatten() {
            members.push_str(&format!(",{}:{value}", Value::from(name.as_str())));
        }
        // No value contains a character that JSON escapes.
        format!(
            r#"{{"id":"{id}","object":"event","type":"{kind}","created_at":{created_at},"data":{{"id":"{response}"{members}}}}}"#
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_has_the_shape_that_sdks_unwrap() {
        let event = Event::new("response.completed", "resp_abc".parse().unwrap());
        let body: serde_json::Value = serde_json::from_str(&event.body()).unwrap();
        assert_eq!(
            body,
            serde_json::json!({"id": event.id, "object": "event", "type": "response.completed", "created_at": event.created_at, "data": {"id": "resp_abc"}})
        );
        assert!(event.id.starts_with("evt_") && event.id.len() == 28);
    }

    #[test]
    fn match_has_its_members_beside_the_id() {
        let data = serde_json::json!({"rule": "a \"b\"", "offset": 7});
        let data = data.as_object().unwrap().clone();
        let event = Event::of_match("resp_abc".parse().unwrap(), data);
        let body: Value = serde_json::from_str(&event.body()).unwrap();
        assert_eq!(body["type"], MATCHED);
        let expected = serde_json::json!({"id": "resp_abc", "rule": "a \"b\"", "offset": 7});
        assert_eq!(body["data"], expected);
    }
}
