//! The model of a JSON object, and of a value with its path.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::refusal::{invalid, missing, quote, repeats, unsupported};
use super::string::{string_inside, unescape};
use super::write::ObjectWriter;
use crate::model::error::{ApiError, ErrorCode};

/// Objects of up to this many members are searched for repeated names by comparison. Larger ones
/// use a table, which keeps the work linear.
const FEW: usize = 12;

/// The six kinds of JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Number,
    Boolean,
    Null,
}

/// A value and the path that leads to it, such as `input[0].content`.
#[derive(Clone)]
pub(crate) struct Node<'a> {
    pub(crate) raw: &'a RawValue,
    pub(crate) path: String,
}

/// The members of a JSON object in their order, names decoded and values as they were written.
///
/// A member that is `null` counts as absent. Of members with one name the last counts; requests
/// with such members are refused ([`Members::unique`]).
#[derive(Default)]
pub(crate) struct Members<'a> {
    /// The path of the object. Empty for the outermost object, and for upstream data.
    path: String,
    list: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// Returns the value if it is there and not `null`.
pub(crate) fn present(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| Kind::of(raw) != Kind::Null)
}

// === impl Kind ===

impl Kind {
    /// Returns the kind. A raw value is valid JSON without surrounding white space, so its first
    /// byte is enough.
    pub(crate) fn of(raw: &RawValue) -> Self {
        match raw.get().as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::String,
            Some(b't' | b'f') => Self::Boolean,
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number,
        }
    }

    pub(crate) const fn phrase(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::String => "a string",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::Null => "null",
        }
    }
}

// === impl Node ===

impl<'a> Node<'a> {
    pub(crate) fn new(raw: &'a RawValue, path: impl Into<String>) -> Self {
        Self {
            raw,
            path: path.into(),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        Kind::of(self.raw)
    }

    /// Returns the raw value if it is of `kind`.
    pub(crate) fn of_kind(&self, kind: Kind) -> Result<&'a str, ApiError> {
        if self.kind() == kind {
            Ok(self.raw.get())
        } else {
            Err(self.wrong_type(kind.phrase()))
        }
    }

    pub(crate) fn text(&self) -> Result<Cow<'a, str>, ApiError> {
        let raw = self.of_kind(Kind::String)?;
        let Text(text) = serde_json::from_str(raw).map_err(|_| {
            self.invalid(
                "a string whose escapes are Unicode, without half of a surrogate pair",
                "one that is not",
            )
        })?;
        Ok(text)
    }

    pub(crate) fn boolean(&self) -> Result<bool, ApiError> {
        Ok(self.of_kind(Kind::Boolean)? == "true")
    }

    /// A number within `low..=high`.
    pub(crate) fn number(&self, low: f64, high: f64) -> Result<f64, ApiError> {
        let raw = self.of_kind(Kind::Number)?;
        match raw.parse::<f64>() {
            Ok(number) if (low..=high).contains(&number) => Ok(number),
            _ => Err(self.invalid(&format!("a number from {low} to {high}"), &quote(raw))),
        }
    }

    /// An integer within `low..=high`, written without a fraction or an exponent.
    pub(crate) fn integer(&self, low: u64, high: u64) -> Result<u64, ApiError> {
        let raw = self.of_kind(Kind::Number)?;
        if raw.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) {
            return Err(self.wrong_type("an integer"));
        }
        match raw.parse::<u64>() {
            Ok(number) if (low..=high).contains(&number) => Ok(number),
            _ if high == u64::MAX => {
                Err(self.invalid(&format!("an integer of at least {low}"), &quote(raw)))
            }
            _ => Err(self.invalid(&format!("an integer from {low} to {high}"), &quote(raw))),
        }
    }

    pub(crate) fn array(&self) -> Result<Vec<Node<'a>>, ApiError> {
        let raw = self.of_kind(Kind::Array)?;
        let elements: Vec<&'a RawValue> =
            serde_json::from_str(raw).map_err(|error| unreadable(&self.path, &error))?;
        Ok(elements
            .into_iter()
            .enumerate()
            .map(|(i, raw)| Node {
                raw,
                path: [&self.path, "[", itoa::Buffer::new().format(i), "]"].concat(),
            })
            .collect())
    }

    /// Returns the members of an object. Refuses repeated names.
    pub(crate) fn object(&self) -> Result<Members<'a>, ApiError> {
        let raw = self.of_kind(Kind::Object)?;
        let members: Members<'a> =
            serde_json::from_str(raw).map_err(|error| unreadable(&self.path, &error))?;
        members.at(&self.path).unique()
    }

    pub(crate) fn wrong_type(&self, expected: &str) -> ApiError {
        let Self { path, .. } = self;
        let message = format!(
            "Invalid type for '{path}': expected {expected}, but got {} instead.",
            self.kind().phrase()
        );
        ApiError::new(ErrorCode::InvalidType, message).param(path)
    }

    /// An error for a value of the right type that is invalid. `found` is shown to the client as it
    /// is.
    pub(crate) fn invalid(&self, expected: &str, found: &str) -> ApiError {
        invalid(&self.path, expected, found)
    }

    pub(crate) fn unsupported(&self, why: &str) -> ApiError {
        unsupported(&self.path, why)
    }
}

// === impl Members ===

impl<'a> Members<'a> {
    /// Sets the path, which errors show.
    pub(crate) fn at(self, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            list: self.list,
        }
    }

    /// The members in their order, `null` included.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &'a RawValue)> {
        self.list.iter().map(|(name, raw)| (name.as_ref(), *raw))
    }

    /// The number of members.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The last member of this name, unless it is `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, raw) = self.list.iter().rev().find(|(key, _)| key == name)?;
        present(Some(raw))
    }

    // --- Lenient accessors, for what upstreams send. A value of another kind counts as absent.

    /// The decoded text of a string. A lone surrogate becomes U+FFFD.
    pub(crate) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        let inside = string_inside(self.get(name)?)?;
        Some(if inside.contains('\\') {
            Cow::Owned(unescape(inside))
        } else {
            Cow::Borrowed(inside)
        })
    }

    /// The value of an unsigned integer.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.get().parse().ok()
    }

    /// The members of an object.
    pub(crate) fn object(&self, name: &str) -> Option<Members<'a>> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// The objects of an array. An element of another kind yields an empty object, so that
    /// positions stay right.
    pub(crate) fn objects(&self, name: &str) -> Vec<Members<'a>> {
        let elements: Vec<&'a RawValue> = self
            .get(name)
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default();
        elements
            .into_iter()
            .map(|raw| serde_json::from_str(raw.get()).unwrap_or_default())
            .collect()
    }

    /// Writes the object with the values of some members replaced. Those that are absent are added
    /// at the end.
    pub(crate) fn write_with(&self, replaced: &[(&str, &str)]) -> String {
        let size = |name: &str, value: &str| name.len() + value.len() + 4;
        let own: usize = self.iter().map(|(key, raw)| size(key, raw.get())).sum();
        let others: usize = replaced.iter().map(|(name, value)| size(name, value)).sum();
        let mut out = String::with_capacity(own + others + 2);
        let mut object = ObjectWriter::begin(&mut out);
        for (key, raw) in self.iter() {
            let value = replaced
                .iter()
                .find(|(name, _)| *name == key)
                .map_or(raw.get(), |(_, value)| *value);
            object.raw(key, value);
        }
        for (name, value) in replaced {
            if !self.iter().any(|(key, _)| key == *name) {
                object.raw(name, value);
            }
        }
        object.end();
        out
    }

    // --- Checked accessors, for what clients send.

    /// The value of a member with its path; `None` where it is absent or `null`.
    pub(crate) fn node(&self, name: &str) -> Option<Node<'a>> {
        let raw = self.get(name)?;
        Some(Node::new(raw, self.path_of(name)))
    }

    /// As [`Members::node`], for a member that must be there.
    pub(crate) fn require(&self, name: &str) -> Result<Node<'a>, ApiError> {
        self.node(name).ok_or_else(|| missing(&self.path_of(name)))
    }

    /// The members that are not `null` and not among `known`.
    pub(crate) fn others<'s>(
        &'s self,
        known: &'s [&str],
    ) -> impl Iterator<Item = (&'s str, &'a RawValue)> + 's {
        self.iter()
            .filter(|(name, raw)| !known.contains(name) && Kind::of(raw) != Kind::Null)
    }

    /// Refuses members that are not among `known`.
    pub(crate) fn only(&self, known: &[&str], why: &str) -> Result<(), ApiError> {
        match self.others(known).next() {
            Some((name, _)) => Err(unsupported(&self.path_of(&quote(name)), why)),
            None => Ok(()),
        }
    }

    /// The path of a member.
    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            // `format!` takes several times as long, and every checked value has a path.
            [&self.path, ".", name].concat()
        }
    }

    /// Refuses repeated names. Parsers differ in which of the values they use, so the gateway and
    /// an upstream could read different requests.
    pub(crate) fn unique(self) -> Result<Self, ApiError> {
        let repeated = if self.list.len() <= FEW {
            (1..self.list.len()).find(|&i| {
                let (name, _) = &self.list[i];
                self.list[..i].iter().any(|(earlier, _)| earlier == name)
            })
        } else {
            let mut names = HashSet::with_capacity(self.list.len());
            self.list.iter().position(|(name, _)| !names.insert(name))
        };
        match repeated {
            Some(i) => Err(repeats(&self.path_of(&quote(&self.list[i].0)))),
            None => Ok(self),
        }
    }
}

impl fmt::Debug for Members<'_> {
    /// Without contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Members")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some((Text(name), raw)) = map.next_entry()? {
                    list.push((name, raw));
                }
                Ok(Members {
                    path: String::new(),
                    list,
                })
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

/// A string that is borrowed where it has no escapes. serde's own `Cow` never borrows.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }

        deserializer.deserialize_str(TextVisitor).map(Text)
    }
}

/// An error for a value that cannot be read. The whole body is known to be JSON before any part of
/// it is read, so only a name that is not Unicode leads here.
fn unreadable(path: &str, error: &serde_json::Error) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidJson,
        format!("The value of '{path}' cannot be read: {error} of it."),
    )
    .param(path)
}
