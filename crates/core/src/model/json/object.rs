//! An owned JSON object.

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;

use super::body::read_object;
use super::members::{Members, Node, present};
use super::write::{ObjectWriter, raw_string};
use crate::model::error::ApiError;

/// An owned JSON object: its members in their order, values byte for byte as they were read.
///
/// A member that is `null` counts as absent when it is asked for, and stays in the bytes. `Debug`
/// shows no contents.
#[derive(Clone, Default)]
pub struct RawObject {
    members: Vec<(String, Box<RawValue>)>,
}

impl RawObject {
    /// Reads an object.
    ///
    /// # Errors
    /// `invalid_json` with line and column where `body` is not JSON, with the offset where it is
    /// not UTF-8, and with the position where it is nested deeper than `MAX_DEPTH`;
    /// `invalid_type` where it is JSON but not an object; `invalid_value` that names a repeated
    /// member.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let (_, members) = read_object(body)?;
        Ok(members.into())
    }

    /// The value of a member; `None` where it is absent or `null`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        present(self.raw(name))
    }

    /// The text of a member that is a string.
    #[must_use]
    pub fn get_str(&self, name: &str) -> Option<Cow<'_, str>> {
        self.node(name)?.text().ok()
    }

    /// The value of a member that is a boolean.
    #[must_use]
    pub fn get_bool(&self, name: &str) -> Option<bool> {
        self.node(name)?.boolean().ok()
    }

    /// Sets a member to a string, in its place or, if it is new, at the end.
    pub fn set(&mut self, name: &str, text: &str) {
        self.insert_raw(name, raw_string(text));
    }

    /// Sets a member to any value, in its place or, if it is new, at the end.
    pub fn insert_raw(&mut self, name: &str, value: Box<RawValue>) {
        match self.members.iter_mut().find(|(key, _)| key == name) {
            Some((_, slot)) => *slot = value,
            None => self.members.push((name.to_owned(), value)),
        }
    }

    /// Removes a member and returns its value, `null` included.
    pub fn remove(&mut self, name: &str) -> Option<Box<RawValue>> {
        let at = self.members.iter().position(|(key, _)| key == name)?;
        Some(self.members.remove(at).1)
    }

    /// The members in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.members
            .iter()
            .map(|(name, raw)| (name.as_str(), raw.as_ref()))
    }

    /// The number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Returns the object as JSON: values byte for byte, no white space between members.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let size = self
            .members
            .iter()
            .map(|(name, raw)| name.len() + raw.get().len() + 4)
            .sum::<usize>()
            + 2;
        let mut out = String::with_capacity(size);
        let mut object = ObjectWriter::begin(&mut out);
        for (name, raw) in self.iter() {
            object.raw(name, raw.get());
        }
        object.end();
        out.into_bytes()
    }

    /// The value of a member, `null` included.
    pub(crate) fn raw(&self, name: &str) -> Option<&RawValue> {
        self.members
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, raw)| raw.as_ref())
    }

    /// The value of a member with its path, for checks; `None` where it is absent or `null`.
    pub(crate) fn node(&self, name: &str) -> Option<Node<'_>> {
        self.get(name).map(|raw| Node::new(raw, name))
    }
}

impl From<Members<'_>> for RawObject {
    fn from(members: Members<'_>) -> Self {
        let members = members
            .iter()
            .map(|(name, raw)| (name.to_owned(), raw.to_owned()))
            .collect();
        Self { members }
    }
}

impl fmt::Debug for RawObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawObject")
            .field("members", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::json::MAX_DEPTH;

    fn check(body: &[u8], expected: Result<&str, (&str, &str)>) {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        match (RawObject::parse(body), expected) {
            (Ok(object), Ok(bytes)) => assert_eq!(
                String::from_utf8_lossy(&object.to_bytes()),
                bytes,
                "{shown}"
            ),
            (Err(error), Err((code, part))) => {
                assert_eq!(error.code.as_deref(), Some(code), "{shown}: {error}");
                assert!(error.message.contains(part), "{shown}: {}", error.message);
            }
            (found, expected) => panic!("{shown}: {found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn errors_name_the_position_in_an_invalid_body() {
        check(b"{}", Ok("{}"));
        check(
            b" { \"b\" : 1.50 , \"a\" : [ 1 ] } \n",
            Ok(r#"{"b":1.50,"a":[ 1 ]}"#),
        );
        check(
            br#"{"\u0061":"\u00e9","n":12345678901234567890.123}"#,
            Ok(r#"{"a":"\u00e9","n":12345678901234567890.123}"#),
        );
        check(b"", Err(("invalid_json", "is empty")));
        check(
            b"{\"a\":1,\n \"b\"}",
            Err(("invalid_json", "expected `:` at line 2 column 5")),
        );
        check(
            b"{\"a\":1",
            Err((
                "invalid_json",
                "EOF while parsing an object at line 1 column 6",
            )),
        );
        check(
            b"{} {}",
            Err(("invalid_json", "trailing characters at line 1 column 4")),
        );
        check(b"hello", Err(("invalid_json", "line 1 column 1")));
        check(
            "\u{feff}{}".as_bytes(),
            Err(("invalid_json", "line 1 column 1")),
        );
        check(
            b"[1]",
            Err(("invalid_type", "expected an object, but got an array")),
        );
        check(b" \"x\"", Err(("invalid_type", "but got a string")));
        check(b"null", Err(("invalid_type", "but got null")));
        check(b"{\"a\":\"\xff\"}", Err(("invalid_json", "offset 6")));
        check(br#"{"\ud800":1}"#, Err(("invalid_json", "line 1 column")));
    }

    #[test]
    fn nesting_limit_equals_that_of_serde_json() {
        let nested = |depth: usize| {
            format!(
                "{{\"a\":{}{}}}",
                "[".repeat(depth - 1),
                "]".repeat(depth - 1)
            )
        };
        let deepest = nested(MAX_DEPTH);
        check(deepest.as_bytes(), Ok(&deepest));
        assert!(serde_json::from_str::<serde_json::Value>(&deepest).is_ok());
        assert!(serde_json::from_str::<serde_json::Value>(&nested(MAX_DEPTH + 1)).is_err());
        check(
            nested(MAX_DEPTH + 1).as_bytes(),
            Err(("invalid_json", "line 1 column 132")),
        );
        check(
            nested(1_000_000).as_bytes(),
            Err(("invalid_json", "nested deeper than 127")),
        );
        check(
            format!("{{\"a\":\"{}\"}}", "\\\"[".repeat(1000)).as_bytes(),
            Ok(&format!("{{\"a\":\"{}\"}}", "\\\"[".repeat(1000))),
        );
    }

    #[test]
    fn null_counts_as_absent_and_is_written_back() {
        let object = RawObject::parse(br#"{"a":null,"b":"x\ny","c":true}"#).unwrap();
        assert!(object.get("a").is_none());
        assert_eq!(object.get_str("b").as_deref(), Some("x\ny"));
        assert_eq!(
            (object.get_bool("c"), object.get_bool("b")),
            (Some(true), None)
        );
        assert_eq!(object.to_bytes(), br#"{"a":null,"b":"x\ny","c":true}"#);
    }

    #[test]
    fn members_are_set_in_place_or_at_the_end() {
        let mut object = RawObject::parse(br#"{"a":1,"b":2}"#).unwrap();
        object.set("a", "\"");
        object.insert_raw("c", RawValue::TRUE.to_owned());
        assert_eq!(
            object
                .remove("b")
                .map(|raw| raw.get().to_owned())
                .as_deref(),
            Some("2")
        );
        assert!(object.remove("b").is_none());
        assert_eq!(object.to_bytes(), br#"{"a":"\"","c":true}"#);
    }

    #[test]
    fn repeated_members_are_refused_by_name() {
        let few = r#"{"a":1,"b":2,"a":null}"#.to_owned();
        let escaped = r#"{"a":1,"\u0061":2}"#.to_owned();
        let members =
            |count: usize| -> String { (0..count).map(|i| format!("\"{i}\":{i},")).collect() };
        let many = format!("{{{}\"a\":1,\"a\":1}}", members(100_000));
        for body in [few, escaped, many] {
            let error = RawObject::parse(body.as_bytes()).unwrap_err();
            assert_eq!(
                (error.code.as_deref(), error.param.as_deref(), error.status),
                (Some("invalid_value"), Some("a"), 400)
            );
            assert!(error.message.contains("'a'"), "{}", error.message);
        }
        let unique = format!("{{{}\"a\":1}}", members(100_000));
        assert_eq!(RawObject::parse(unique.as_bytes()).unwrap().len(), 100_001);
        check(br#"{"a":{"b":1,"b":2}}"#, Ok(r#"{"a":{"b":1,"b":2}}"#));
    }

    #[test]
    fn debug_shows_no_contents() {
        let object = RawObject::parse(br#"{"secret_name":"secret_value"}"#).unwrap();
        assert!(!format!("{object:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = RawObject::parse(&body);
        }

        #[test]
        fn objects_are_written_as_they_were_read(members in proptest::collection::vec((".{0,8}", any::<i64>()), 0..20)) {
            let mut object = RawObject::default();
            for (name, number) in &members {
                object.insert_raw(name, RawValue::from_string(number.to_string()).unwrap());
            }
            let bytes = object.to_bytes();
            let again = RawObject::parse(&bytes).unwrap();
            prop_assert_eq!(again.to_bytes(), bytes);
            for (name, _) in &members {
                prop_assert_eq!(again.get(name).map(RawValue::get), object.get(name).map(RawValue::get));
            }
        }
    }
}
