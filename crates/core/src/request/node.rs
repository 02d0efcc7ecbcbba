//! A borrowed view of JSON that knows where in the request it stands, so that every complaint names
//! its place.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::model::error::{ApiError, ErrorCode};

/// The longest piece of a client's own value that an error repeats, in characters.
const QUOTE_CHARS: usize = 64;

/// Up to so many members are compared with each other; with more of them a table is quicker, and it
/// keeps the work linear.
const FEW: usize = 12;

/// The six kinds of JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    String,
    Number,
    Boolean,
    Null,
}

/// A value and the path that leads to it, such as `input[0].content`.
#[derive(Clone)]
pub(super) struct Node<'a> {
    pub(super) raw: &'a RawValue,
    pub(super) path: String,
}

/// An object's members in their order, every name once.
pub(super) struct Object<'a> {
    pub(super) path: String,
    pub(super) members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// Members as they were written, a repeated name included.
pub(super) struct Written<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

// === impl Kind ===

impl Kind {
    /// A raw value is valid JSON without white space around it, so its first byte tells.
    pub(super) fn of(raw: &RawValue) -> Self {
        match raw.get().as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::String,
            Some(b't' | b'f') => Self::Boolean,
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number,
        }
    }

    pub(super) const fn phrase(self) -> &'static str {
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
    pub(super) fn new(raw: &'a RawValue, path: impl Into<String>) -> Self {
        Self {
            raw,
            path: path.into(),
        }
    }

    pub(super) fn kind(&self) -> Kind {
        Kind::of(self.raw)
    }

    /// The raw bytes, once the value is known to be of `kind`.
    pub(super) fn of_kind(&self, kind: Kind) -> Result<&'a str, ApiError> {
        if self.kind() == kind {
            Ok(self.raw.get())
        } else {
            Err(self.wrong_type(kind.phrase()))
        }
    }

    pub(super) fn text(&self) -> Result<Cow<'a, str>, ApiError> {
        let raw = self.of_kind(Kind::String)?;
        let Text(text) = serde_json::from_str(raw).map_err(|_| {
            self.invalid(
                "a string whose escapes are Unicode, without half of a surrogate pair",
                "one that is not",
            )
        })?;
        Ok(text)
    }

    pub(super) fn boolean(&self) -> Result<bool, ApiError> {
        Ok(self.of_kind(Kind::Boolean)? == "true")
    }

    /// A number within `low..=high`.
    pub(super) fn number(&self, low: f64, high: f64) -> Result<f64, ApiError> {
        let raw = self.of_kind(Kind::Number)?;
        match raw.parse::<f64>() {
            Ok(number) if (low..=high).contains(&number) => Ok(number),
            _ => Err(self.invalid(&format!("a number from {low} to {high}"), &quote(raw))),
        }
    }

    /// An integer within `low..=high`, written without a fraction or an exponent.
    pub(super) fn integer(&self, low: u64, high: u64) -> Result<u64, ApiError> {
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

    pub(super) fn array(&self) -> Result<Vec<Node<'a>>, ApiError> {
        let raw = self.of_kind(Kind::Array)?;
        let elements: Vec<&'a RawValue> =
            serde_json::from_str(raw).map_err(|error| unreadable(&self.path, &error))?;
        Ok(elements
            .into_iter()
            .enumerate()
            .map(|(i, raw)| Node {
                raw,
                path: format!("{}[{i}]", self.path),
            })
            .collect())
    }

    pub(super) fn object(&self) -> Result<Object<'a>, ApiError> {
        let raw = self.of_kind(Kind::Object)?;
        let written: Written<'a> =
            serde_json::from_str(raw).map_err(|error| unreadable(&self.path, &error))?;
        Ok(Object {
            path: self.path.clone(),
            members: written.last_of_each(),
        })
    }

    pub(super) fn wrong_type(&self, expected: &str) -> ApiError {
        let Self { path, .. } = self;
        let message = format!(
            "Invalid type for '{path}': expected {expected}, but got {} instead.",
            self.kind().phrase()
        );
        ApiError::new(ErrorCode::InvalidType, message).param(path)
    }

    /// The value is of the right type and wrong all the same. `found` is already fit to be shown.
    pub(super) fn invalid(&self, expected: &str, found: &str) -> ApiError {
        invalid(&self.path, expected, found)
    }

    pub(super) fn unsupported(&self, why: &str) -> ApiError {
        unsupported(&self.path, why)
    }
}

// === impl Object ===

impl<'a> Object<'a> {
    /// The member of that name; `null` counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<Node<'a>> {
        let (_, raw) = self.members.iter().find(|(key, _)| key == name)?;
        (Kind::of(raw) != Kind::Null).then(|| Node {
            raw,
            path: self.path_of(name),
        })
    }

    pub(super) fn require(&self, name: &str) -> Result<Node<'a>, ApiError> {
        self.get(name).ok_or_else(|| missing(&self.path_of(name)))
    }

    /// The members that are not `null` and not among `known`.
    pub(super) fn others<'s>(
        &'s self,
        known: &'s [&str],
    ) -> impl Iterator<Item = (&'s str, &'a RawValue)> + 's {
        self.members
            .iter()
            .filter(|(name, raw)| !known.contains(&name.as_ref()) && Kind::of(raw) != Kind::Null)
            .map(|(name, raw)| (name.as_ref(), *raw))
    }

    /// Refuses members that are not among `known`, where passing them on is not possible.
    pub(super) fn only(&self, known: &[&str], why: &str) -> Result<(), ApiError> {
        match self.others(known).next() {
            Some((name, _)) => Err(unsupported(&self.path_of(&quote(name)), why)),
            None => Ok(()),
        }
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}

// === impl Written ===

impl<'a> Written<'a> {
    /// Of members with one name the last value counts, in the first one's place, as in JavaScript.
    pub(super) fn last_of_each(self) -> Vec<(Cow<'a, str>, &'a RawValue)> {
        let Self(mut members) = self;
        let repeated = |i: usize| members[..i].iter().any(|(name, _)| *name == members[i].0);
        if members.len() <= FEW && !(1..members.len()).any(repeated) {
            return members;
        }
        let mut place: HashMap<&str, usize> = HashMap::with_capacity(members.len());
        let mut repeats: Vec<(usize, usize)> = Vec::new();
        for (i, (name, _)) in members.iter().enumerate() {
            match place.get(name.as_ref()) {
                Some(&first) => repeats.push((first, i)),
                None => {
                    place.insert(name, i);
                }
            }
        }
        if repeats.is_empty() {
            return members;
        }
        let mut gone = vec![false; members.len()];
        for (first, later) in repeats {
            members[first].1 = members[later].1;
            gone[later] = true;
        }
        let mut gone = gone.into_iter();
        members.retain(|_| !gone.next().unwrap_or(false));
        members
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Written<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Written<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(name), raw)) = map.next_entry()? {
                    members.push((name, raw));
                }
                Ok(Written(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// A string that is borrowed where it holds no escapes, which serde's own `Cow` never is.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unescaped;

        impl<'de> Visitor<'de> for Unescaped {
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

        deserializer.deserialize_str(Unescaped).map(Text)
    }
}

// === the complaints ===

pub(super) fn missing(path: &str) -> ApiError {
    ApiError::new(
        ErrorCode::MissingParameter,
        format!("Missing required parameter: '{path}'."),
    )
    .param(path)
}

pub(super) fn invalid(path: &str, expected: &str, found: &str) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidValue,
        format!("Invalid value for '{path}': expected {expected}, but got {found}."),
    )
    .param(path)
}

pub(super) fn unsupported(path: &str, why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::UnsupportedParameter,
        format!("Unsupported parameter: '{path}'. {why}"),
    )
    .param(path)
}

/// The start of a client's own value, for an error to repeat. Not for what messages say.
pub(super) fn quote(value: &str) -> String {
    match value.char_indices().nth(QUOTE_CHARS) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// Only a name that is no Unicode gets here: the whole body was found to be JSON before any part of
/// it is looked at.
fn unreadable(path: &str, error: &serde_json::Error) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidJson,
        format!("The value of '{path}' cannot be read: {error} of it."),
    )
    .param(path)
}
