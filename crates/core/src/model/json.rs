//! Fast, byte-exact reading and writing of JSON.
//!
//! Token texts stay in the escaped form that the upstream wrote. They are not decoded and encoded
//! again, so a chunk leaves as it arrived. A surrogate pair that a server splits between two tokens
//! survives.

use std::borrow::Cow;

use serde_json::value::RawValue;

/// Returns the content of `raw` between its quotes if it is a JSON string.
pub(crate) fn string_inside(raw: &RawValue) -> Option<&str> {
    let text = raw.get();
    text.strip_prefix('"')?.strip_suffix('"')
}

/// Returns the raw value unless it is absent or `null`.
pub(crate) fn present(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

/// Appends `text` as a JSON string, with its quotes.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    if needs_no_escape(text) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    // Writing a str into a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *out, text);
}

/// Returns `text` as a JSON string, with its quotes.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}

/// Returns true if a JSON string can hold `text` without escapes, as it can hold nearly all names.
pub(crate) fn needs_no_escape(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
}

/// Returns `text` as the content of a JSON string, without quotes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    let inside = out.get(1..out.len().saturating_sub(1)).unwrap_or_default();
    String::from_utf8_lossy(inside).into_owned()
}

/// Appends a number in decimal.
pub(crate) fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Returns true if `inside` is valid content of a JSON string: UTF-8, no control characters, no bare
/// quote, only valid escapes.
pub(crate) fn is_string_inside(inside: &[u8]) -> bool {
    let mut bytes = inside.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            0..0x20 | b'"' => return false,
            b'\\' => match bytes.next() {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {}
                Some(b'u') => {
                    for _ in 0..4 {
                        if !bytes.next().is_some_and(u8::is_ascii_hexdigit) {
                            return false;
                        }
                    }
                }
                _ => return false,
            },
            _ => {}
        }
    }
    std::str::from_utf8(inside).is_ok()
}

/// Returns the length of the JSON string content at the start of `input`, up to its closing quote.
/// Returns `None` if it is not closed.
pub(crate) fn string_inside_len(input: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', &input[at..])?;
        if input[at] == b'"' {
            return Some(at);
        }
        // A backslash escapes the next byte.
        at += 2;
        if at > input.len() {
            return None;
        }
    }
}

/// The members of a JSON object in their order, with decoded keys and raw values.
#[derive(Debug, Default)]
pub(crate) struct Members<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Returns the last member of this name, unless it is `null`.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .and_then(|(_, raw)| present(Some(raw)))
    }

    /// Returns the decoded string of this name.
    pub(crate) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        let inside = string_inside(self.get(name)?)?;
        Some(if inside.contains('\\') {
            Cow::Owned(unescape(inside))
        } else {
            Cow::Borrowed(inside)
        })
    }

    /// Returns the number of this name.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.get().parse().ok()
    }

    /// Returns the object of this name.
    pub(crate) fn object(&self, name: &str) -> Option<Members<'a>> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// Returns the objects in the array of this name. Other elements become empty objects, so that
    /// indexes stay right.
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

    /// Writes the object with some values replaced. Missing members are added at the end.
    pub(crate) fn write_with(&self, replaced: &[(&str, &str)]) -> String {
        let mut out = Vec::new();
        out.push(b'{');
        let kept = self.0.iter().map(|(key, raw)| {
            let value = replaced
                .iter()
                .find(|(name, _)| name == key)
                .map_or(raw.get(), |(_, value)| *value);
            (&**key, value)
        });
        let added = replaced
            .iter()
            .filter(|(name, _)| !self.0.iter().any(|(key, _)| key == name))
            .copied();
        for (index, (key, value)) in kept.chain(added).enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_string(&mut out, key);
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'}');
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<Key<'de>>()? {
                    members.push((key.0, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// A key, borrowed unless it holds escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Key<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// Decodes escaped text in pieces. A surrogate pair may be split between two pieces.
#[derive(Debug, Default)]
pub(crate) struct Unescaper {
    high: Option<u16>,
}

impl Unescaper {
    /// Appends the decoded text of `inside` to `out`. Half a surrogate pair waits for the next piece;
    /// a lone one becomes U+FFFD.
    pub(crate) fn push(&mut self, inside: &str, out: &mut Vec<u8>) {
        let mut rest = inside;
        while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
            let (plain, escape) = rest.split_at(at);
            self.plain(plain, out);
            let mut chars = escape[1..].chars();
            let kind = chars.next();
            let mut after = chars.as_str();
            if kind == Some('u') {
                let unit = after
                    .get(..4)
                    .and_then(|hex| u16::from_str_radix(hex, 16).ok());
                after = after.get(4..).unwrap_or_default();
                self.unit(unit.unwrap_or(0xFFFD), out);
            } else {
                let decoded = match kind {
                    Some('b') => "\u{8}",
                    Some('f') => "\u{c}",
                    Some('n') => "\n",
                    Some('r') => "\r",
                    Some('t') => "\t",
                    Some('"') => "\"",
                    Some('/') => "/",
                    _ => "\\",
                };
                self.plain(decoded, out);
            }
            rest = after;
        }
        self.plain(rest, out);
    }

    /// Ends the text: half a pair that waits becomes U+FFFD.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        if self.high.take().is_some() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }

    fn plain(&mut self, text: &str, out: &mut Vec<u8>) {
        if !text.is_empty() {
            self.finish(out);
            out.extend_from_slice(text.as_bytes());
        }
    }

    fn unit(&mut self, unit: u16, out: &mut Vec<u8>) {
        let pair = match self.high.take() {
            Some(high) => char::decode_utf16([high, unit])
                .next()
                .and_then(Result::ok)
                .filter(|c| *c as u32 > 0xFFFF),
            None => None,
        };
        if let Some(character) = pair {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return;
        }
        if (0xD800..0xDC00).contains(&unit) {
            self.high = Some(unit);
            return;
        }
        let character = char::from_u32(u32::from(unit)).unwrap_or('\u{FFFD}');
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// Decodes a complete escaped string.
pub(crate) fn unescape(inside: &str) -> String {
    let mut out = Vec::with_capacity(inside.len());
    let mut unescaper = Unescaper::default();
    unescaper.push(inside, &mut out);
    unescaper.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn surrogate_pair_split_between_pieces_decodes_to_one_character() {
        let mut out = Vec::new();
        let mut unescaper = Unescaper::default();
        for piece in ["a\\ud83d", "\\ude0a b", "\\ud83d", "x", "\\ude0a"] {
            unescaper.push(piece, &mut out);
        }
        unescaper.finish(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a😊 b\u{FFFD}x\u{FFFD}");
    }

    #[test]
    fn string_content_is_validated() {
        for good in ["", "plain", "\\n\\u00e9\\\"", "häß", "\\ud83d"] {
            assert!(is_string_inside(good.as_bytes()), "{good}");
        }
        for bad in [
            b"\"".as_slice(),
            b"\n",
            b"\\x",
            b"\\u12g4",
            b"\\",
            b"\\u12",
            b"\xFF",
            b"\xE2\x82",
        ] {
            assert!(!is_string_inside(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn unescape_reverses_escape(text in ".*") {
            let escaped = escape(&text);
            prop_assert!(is_string_inside(escaped.as_bytes()));
            prop_assert_eq!(unescape(&escaped), text);
        }

        #[test]
        fn string_validation_agrees_with_serde_json(inside in proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'"'), Just(b'u'), Just(b'd'), Just(b'8'), Just(b'n'), any::<u8>()], 0..24)) {
            let quoted = [b"\"".as_slice(), &inside, b"\""].concat();
            let valid = serde_json::from_slice::<&RawValue>(&quoted).is_ok();
            prop_assert_eq!(is_string_inside(&inside), valid);
            if valid {
                prop_assert_eq!(string_inside_len(&quoted[1..]), Some(inside.len()));
            }
        }
    }
}
