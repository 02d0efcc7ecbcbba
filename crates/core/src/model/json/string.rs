//! JSON strings: escaping, unescaping and validation.

use serde_json::value::RawValue;

/// Returns the escaped text between the quotes if `raw` is a string.
pub(crate) fn string_inside(raw: &RawValue) -> Option<&str> {
    let text = raw.get();
    text.strip_prefix('"')?.strip_suffix('"')
}

/// Appends `text` as a JSON string, quotes included.
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

/// Returns `text` as a JSON string, quotes included.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether `text` can be written between quotes unchanged. Nearly all names can.
pub(crate) fn needs_no_escape(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
}

/// Escapes `text` for a JSON string, without the quotes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    let inside = out.get(1..out.len().saturating_sub(1)).unwrap_or_default();
    String::from_utf8_lossy(inside).into_owned()
}

/// Whether `inside` is valid between two quotes: UTF-8, no control characters, no bare quote, only
/// escapes that JSON defines.
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

/// Returns the length of the string whose opening quote precedes `input`, up to its closing quote.
/// `None` if it is not closed.
pub(crate) fn string_inside_len(input: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', &input[at..])?;
        if input[at] == b'"' {
            return Some(at);
        }
        // Skip the escaped byte.
        at += 2;
        if at > input.len() {
            return None;
        }
    }
}

/// Decodes escaped text in pieces. A surrogate pair may be split between two pieces.
#[derive(Debug, Default)]
pub(crate) struct Unescaper {
    high: Option<u16>,
}

impl Unescaper {
    /// Appends the decoded text of `inside` to `out`. Half a surrogate pair is held until the next
    /// piece; a lone one becomes U+FFFD.
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

    /// Whether half a surrogate pair is held.
    pub(crate) fn holds(&self) -> bool {
        self.high.is_some()
    }

    /// Ends the text. Half a surrogate pair that is still held becomes U+FFFD.
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
    fn surrogate_pair_split_between_pieces_is_decoded() {
        let mut out = Vec::new();
        let mut unescaper = Unescaper::default();
        for piece in ["a\\ud83d", "\\ude0a b", "\\ud83d", "x", "\\ude0a"] {
            unescaper.push(piece, &mut out);
        }
        unescaper.finish(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "a😊 b\u{FFFD}x\u{FFFD}");
    }

    #[test]
    fn validates_string_contents() {
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
        fn unescape_inverts_escape(text in ".*") {
            let escaped = escape(&text);
            prop_assert!(is_string_inside(escaped.as_bytes()));
            prop_assert_eq!(unescape(&escaped), text);
        }

        #[test]
        fn validation_agrees_with_serde_json(inside in proptest::collection::vec(prop_oneof![Just(b'\\'), Just(b'"'), Just(b'u'), Just(b'd'), Just(b'8'), Just(b'n'), any::<u8>()], 0..24)) {
            let quoted = [b"\"".as_slice(), &inside, b"\""].concat();
            let theirs = serde_json::from_slice::<&RawValue>(&quoted).is_ok();
            prop_assert_eq!(is_string_inside(&inside), theirs);
            if theirs {
                prop_assert_eq!(string_inside_len(&quoted[1..]), Some(inside.len()));
            }
        }
    }
}
