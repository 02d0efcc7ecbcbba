//! A JSON value and where it came from.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use crate::model::error::ApiError;
use crate::model::json::{self, Kind, Node, quoted, unescape};

/// A JSON value of a request, and the parameter that it came from, such as `input[0].content`.
///
/// `Debug` shows no contents.
#[derive(Clone)]
pub struct Value<'a> {
    json: Cow<'a, str>,
    path: Cow<'a, str>,
}

impl<'a> Value<'a> {
    /// A JSON value at this path.
    #[must_use]
    pub fn new(raw: &'a RawValue, path: impl Into<Cow<'a, str>>) -> Self {
        Self {
            json: Cow::Borrowed(raw.get()),
            path: path.into(),
        }
    }

    /// A string that is not escaped yet.
    #[must_use]
    pub fn string(text: &str, path: impl Into<Cow<'a, str>>) -> Self {
        Self::owned(quoted(text), path)
    }

    /// JSON that was written here.
    pub(crate) fn owned(json: String, path: impl Into<Cow<'a, str>>) -> Self {
        Self {
            json: Cow::Owned(json),
            path: path.into(),
        }
    }

    /// JSON that is constant or borrowed.
    pub(crate) fn borrowed(json: &'a str, path: impl Into<Cow<'a, str>>) -> Self {
        Self {
            json: Cow::Borrowed(json),
            path: path.into(),
        }
    }

    /// The value of a node that is of this kind.
    pub(crate) fn of_kind(node: Node<'a>, kind: Kind) -> Result<Self, ApiError> {
        node.of_kind(kind)?;
        Ok(node.into())
    }

    /// The JSON, byte for byte.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The parameter that it came from.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The decoded text of a string.
    #[must_use]
    pub fn text(&self) -> Option<Cow<'_, str>> {
        let inside = self.json.strip_prefix('"')?.strip_suffix('"')?;
        Some(if inside.contains('\\') {
            Cow::Owned(unescape(inside))
        } else {
            Cow::Borrowed(inside)
        })
    }

    /// The escaped text of a string, without quotes.
    pub(crate) fn inside(&self) -> Option<&str> {
        self.json.strip_prefix('"')?.strip_suffix('"')
    }

    /// Copies what is borrowed.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        Value {
            json: Cow::Owned(self.json.into_owned()),
            path: Cow::Owned(self.path.into_owned()),
        }
    }

    /// Returns `unsupported_parameter` for it. `why` is one or more sentences.
    #[must_use]
    pub fn unsupported(&self, why: &str) -> ApiError {
        json::unsupported(&self.path, why)
    }
}

impl<'a> From<Node<'a>> for Value<'a> {
    fn from(node: Node<'a>) -> Self {
        Self {
            json: Cow::Borrowed(node.raw.get()),
            path: Cow::Owned(node.path),
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value")
            .field("path", &self.path)
            .field("bytes", &self.json.len())
            .finish()
    }
}
