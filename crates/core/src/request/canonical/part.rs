//! The content of messages and outputs.

use super::{Extra, Value, extra};
use crate::model::error::ApiError;
use crate::model::json::{Kind, Node};

/// A part of the content of a message or an output.
#[derive(Clone, Debug)]
pub struct Part<'a> {
    /// What it is.
    pub kind: PartKind<'a>,
    /// The name of its type as the client sent it, a string.
    pub name: Value<'a>,
    /// Members that are not modelled.
    pub extra: Vec<Extra<'a>>,
}

/// The kinds of part. All values are strings.
#[derive(Clone, Debug)]
pub enum PartKind<'a> {
    /// Text.
    Text(Value<'a>),
    /// A refusal of the model.
    Refusal(Value<'a>),
    /// An image: its URL, or the id of a file at the server.
    Image {
        /// A URL, or a data URL with the image.
        url: Option<Value<'a>>,
        /// The id of an uploaded file.
        file_id: Option<Value<'a>>,
        /// How closely the model looks; `None` leaves it to the server.
        detail: Option<Value<'a>>,
    },
    /// Audio: an object with its base64 and its format.
    Audio {
        /// The base64.
        data: Value<'a>,
        /// The format, such as `wav`.
        format: Value<'a>,
    },
    /// A file: its data, its URL, or its id at the server.
    File {
        /// Its name.
        filename: Option<Value<'a>>,
        /// A data URL with the file.
        data: Option<Value<'a>>,
        /// The id of an uploaded file.
        file_id: Option<Value<'a>>,
        /// A URL.
        url: Option<Value<'a>>,
    },
    /// A part that is not modelled.
    Other,
}

// === impl Part ===

impl<'a> Part<'a> {
    /// Reads a content: a string, or an array of parts that `part` reads.
    pub(in crate::request) fn read_content(
        node: &Node<'a>,
        part: impl Fn(&Node<'a>) -> Result<Self, ApiError>,
    ) -> Result<Vec<Self>, ApiError> {
        match node.kind() {
            Kind::String => Ok(vec![Self::text(node.clone().into())]),
            Kind::Array => node.array()?.iter().map(part).collect(),
            _ => Err(node.wrong_type("a string or an array of parts")),
        }
    }

    /// A text, a JSON string.
    #[must_use]
    pub fn text(text: Value<'a>) -> Self {
        Self {
            kind: PartKind::Text(text),
            name: Value::borrowed("\"text\"", ""),
            extra: Vec::new(),
        }
    }

    /// Whether it is a text without other members.
    pub(crate) fn plain_text(&self) -> Option<&Value<'a>> {
        match &self.kind {
            PartKind::Text(text) if self.extra.is_empty() => Some(text),
            _ => None,
        }
    }

    pub(super) fn into_owned(self) -> Part<'static> {
        let own = |value: Option<Value<'a>>| value.map(Value::into_owned);
        Part {
            kind: match self.kind {
                PartKind::Text(text) => PartKind::Text(text.into_owned()),
                PartKind::Refusal(refusal) => PartKind::Refusal(refusal.into_owned()),
                PartKind::Image {
                    url,
                    file_id,
                    detail,
                } => PartKind::Image {
                    url: own(url),
                    file_id: own(file_id),
                    detail: own(detail),
                },
                PartKind::Audio { data, format } => PartKind::Audio {
                    data: data.into_owned(),
                    format: format.into_owned(),
                },
                PartKind::File {
                    filename,
                    data,
                    file_id,
                    url,
                } => PartKind::File {
                    filename: own(filename),
                    data: own(data),
                    file_id: own(file_id),
                    url: own(url),
                },
                PartKind::Other => PartKind::Other,
            },
            name: self.name.into_owned(),
            extra: extra::owned(self.extra),
        }
    }
}
