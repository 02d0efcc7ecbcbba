//! Which members of a chat stream reasoning came in, so that it can go back the same way.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::model::json::{ObjectWriter, quoted};
use crate::upstream::translate::chunk::{Delta, text};

/// Members of a reasoning object that are streamed in pieces.
const STREAMED: [&str; 4] = ["text", "thinking", "summary", "data"];

/// The members that the reasoning of a choice came in.
#[derive(Debug, Default)]
pub(super) struct ReasoningOrigin {
    /// The member that held it as a string.
    field: Option<&'static str>,
    /// Members that held it as lists of objects, with the pieces joined.
    lists: Vec<(&'static str, Vec<Value>)>,
}

impl ReasoningOrigin {
    /// Notes the members of a delta. A delta that repeats an earlier one but for its text need not
    /// be noted.
    pub(super) fn note(&mut self, delta: &Delta<'_>) {
        if self.field.is_none() {
            let mut strings = delta.reasoning_strings().into_iter();
            self.field = strings
                .find(|(_, raw)| text(*raw).is_some())
                .map(|(name, _)| name);
        }
        for (name, pieces) in delta.reasoning_lists() {
            if pieces.is_empty() {
                continue;
            }
            let at = match self.lists.iter().position(|(known, _)| *known == name) {
                Some(at) => at,
                None => {
                    self.lists.push((name, Vec::new()));
                    self.lists.len() - 1
                }
            };
            for piece in pieces {
                join(&mut self.lists[at].1, piece);
            }
        }
    }

    /// Whether reasoning came as objects.
    pub(super) fn has_objects(&self) -> bool {
        !self.lists.is_empty()
    }

    /// Returns what is kept with the reasoning: `field`, with a `value` if that is a list, or
    /// `fields` by name where it came in several.
    pub(super) fn to_json(&self) -> String {
        let value = |list: &[Value]| {
            // JSON values always serialise.
            serde_json::to_string(list).unwrap_or_else(|_| "[]".to_owned())
        };
        let mut out = String::new();
        let mut object = ObjectWriter::begin(&mut out);
        match (self.field, self.lists.as_slice()) {
            (Some(field), []) => object.string("field", field),
            (None, [(field, list)]) => {
                object.string("field", field);
                object.raw("value", &value(list));
            }
            (None, []) => {}
            (field, lists) => {
                let mut fields = ObjectWriter::begin(object.name("fields"));
                for (name, list) in lists {
                    fields.raw(name, &value(list));
                }
                fields.end();
                if let Some(field) = field {
                    object.raw("field", &quoted(field));
                }
            }
        }
        object.end();
        out
    }
}

/// Adds a piece to the list: to the object of its type and index, or as a further one.
fn join(list: &mut Vec<Value>, piece: &RawValue) {
    let Ok(piece) = serde_json::from_str::<Value>(piece.get()) else {
        return;
    };
    let same = |known: &Value| known["type"] == piece["type"] && known["index"] == piece["index"];
    let Some(known) = list.iter_mut().rfind(|known| same(known)) else {
        list.push(piece);
        return;
    };
    let (Some(known), Value::Object(piece)) = (known.as_object_mut(), piece) else {
        return;
    };
    for (name, value) in piece {
        match (known.get_mut(&name), &value) {
            (_, Value::Null) => {}
            (Some(Value::String(text)), Value::String(more)) if STREAMED.contains(&&*name) => {
                text.push_str(more);
            }
            _ => {
                known.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(deltas: &[&str]) -> String {
        let mut origin = ReasoningOrigin::default();
        for delta in deltas {
            origin.note(&serde_json::from_str(delta).unwrap());
        }
        origin.to_json()
    }

    #[test]
    fn member_that_reasoning_came_in_is_kept_by_name() {
        assert_eq!(
            origin(&[
                r#"{"reasoning_content":"a"}"#,
                r#"{"reasoning_content":"b"}"#
            ]),
            r#"{"field":"reasoning_content"}"#
        );
        assert_eq!(origin(&[r#"{"thought":"a"}"#]), r#"{"field":"thought"}"#);
        assert_eq!(origin(&[r#"{"content":"a"}"#]), "{}");
    }

    #[test]
    fn pieces_of_reasoning_details_are_joined() {
        let details = |json: &str| format!(r#"{{"reasoning_details":[{json}]}}"#);
        let kept = origin(&[
            &details(r#"{"type":"reasoning.text","text":"so ","index":0}"#),
            &details(r#"{"type":"reasoning.text","text":"be it","index":0}"#),
            &details(r#"{"type":"reasoning.text","signature":"s","index":0}"#),
            &details(r#"{"type":"reasoning.encrypted","data":"x","index":1}"#),
        ]);
        let kept: Value = serde_json::from_str(&kept).unwrap();
        assert_eq!(
            kept,
            serde_json::json!({"field": "reasoning_details", "value": [
                {"type": "reasoning.text", "text": "so be it", "signature": "s", "index": 0},
                {"type": "reasoning.encrypted", "data": "x", "index": 1},
            ]})
        );
    }

    #[test]
    fn several_members_are_all_kept() {
        let both =
            r#"{"reasoning":"a","reasoning_details":[{"type":"reasoning.text","text":"a"}]}"#;
        let kept: Value = serde_json::from_str(&origin(&[both])).unwrap();
        assert_eq!(kept["field"], "reasoning");
        assert_eq!(kept["fields"]["reasoning_details"][0]["text"], "a");
    }
}
