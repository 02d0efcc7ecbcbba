//! The form of an answer's text.

use super::{Extra, Value};

/// The form of an answer's text.
#[derive(Clone, Debug)]
pub struct Format<'a> {
    /// The kind of text.
    pub kind: FormatKind<'a>,
    /// The name of the kind as the client sent it.
    pub name: Value<'a>,
    /// Members that are not modelled.
    pub extra: Vec<Extra<'a>>,
}

/// The kinds of text.
#[derive(Clone, Debug)]
pub enum FormatKind<'a> {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema {
        /// The schema's name, a string.
        name: Value<'a>,
        /// What it is for, a string.
        description: Option<Value<'a>>,
        /// The schema, an object.
        schema: Value<'a>,
        /// Whether the answer must match it exactly, a boolean.
        strict: Option<Value<'a>>,
    },
    /// A kind that is not modelled.
    Other,
}

impl Format<'_> {
    pub(super) fn into_owned(self) -> Format<'static> {
        Format {
            kind: match self.kind {
                FormatKind::Text => FormatKind::Text,
                FormatKind::JsonObject => FormatKind::JsonObject,
                FormatKind::JsonSchema {
                    name,
                    description,
                    schema,
                    strict,
                } => FormatKind::JsonSchema {
                    name: name.into_owned(),
                    description: description.map(Value::into_owned),
                    schema: schema.into_owned(),
                    strict: strict.map(Value::into_owned),
                },
                FormatKind::Other => FormatKind::Other,
            },
            name: self.name.into_owned(),
            extra: super::extra::owned(self.extra),
        }
    }
}
