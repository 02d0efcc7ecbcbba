//! The input of a custom tool that was declared as a function with one text argument.
//!
//! The upstream streams `{"input":"…"}`, escaped once more as a text of its chunks. The text between
//! the inner quotes is the input, and is JSON-escaped as a delta has to be.

use crate::model::json::{Members, Unescaper, escape, string_inside, unescape};

/// The only argument.
const NAME: &[u8] = b"input";

/// Takes the input out of the arguments, piece by piece.
#[derive(Debug, Default)]
pub(super) struct CustomInput {
    /// The JSON-escaped arguments so far.
    received: String,
    unescaper: Unescaper,
    /// Decoded arguments that are not read yet.
    unread: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the opening quote of the input.
    #[default]
    Before,
    /// Within the input.
    Inside,
    /// After it.
    After,
    /// The arguments have another form. They are read when they are complete.
    Other,
}

/// What the decoded arguments begin with.
enum Beginning {
    /// The input begins at this byte.
    Input(usize),
    /// More is needed.
    Incomplete,
    /// Something else.
    Other,
}

// === impl CustomInput ===

impl CustomInput {
    /// The JSON-escaped arguments so far.
    pub(super) fn received(&self) -> &str {
        &self.received
    }

    /// Takes a JSON-escaped piece of the arguments. Returns the JSON-escaped input that follows from
    /// it, which may be empty.
    pub(super) fn push(&mut self, piece: &str) -> String {
        self.received.push_str(piece);
        self.unescaper.push(piece, &mut self.unread);
        if self.state == State::Before {
            match beginning(&self.unread) {
                Beginning::Input(at) => {
                    self.unread.drain(..at);
                    self.state = State::Inside;
                }
                Beginning::Incomplete => {}
                Beginning::Other => self.state = State::Other,
            }
        }
        match self.state {
            State::Inside => self.read(),
            State::After | State::Other => {
                self.unread.clear();
                String::new()
            }
            State::Before => String::new(),
        }
    }

    /// Ends the arguments. Returns what is left of the input.
    pub(super) fn finish(&mut self) -> String {
        if matches!(self.state, State::Inside | State::After) {
            return String::new();
        }
        let text = unescape(&self.received);
        if let Ok(members) = serde_json::from_str::<Members<'_>>(&text) {
            let mut values = members.iter().map(|(_, raw)| raw);
            return match (members.get("input").or(values.next()), members.len()) {
                (None, _) => String::new(),
                (Some(raw), 1) if string_inside(raw).is_some() => {
                    string_inside(raw).unwrap_or_default().to_owned()
                }
                _ => escape(&text),
            };
        }
        // A model that writes the input itself, as it would for a custom tool.
        escape(&text)
    }

    /// Reads up to the closing quote. The beginning of an escape is left for the next piece.
    fn read(&mut self) -> String {
        let mut out = Vec::with_capacity(self.unread.len());
        let mut at = 0;
        while let Some(&byte) = self.unread.get(at) {
            let length = match byte {
                b'"' => {
                    self.state = State::After;
                    at = self.unread.len();
                    break;
                }
                b'\\' => match self.unread.get(at + 1) {
                    None => break,
                    Some(b'u') if self.unread.len() < at + 6 => break,
                    Some(b'u') => 6,
                    Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                    Some(_) => {
                        // No escape of JSON. The backslash itself is meant.
                        out.push(b'\\');
                        1
                    }
                },
                0..0x20 => {
                    out.extend_from_slice(
                        escape(char::from(byte).encode_utf8(&mut [0; 4])).as_bytes(),
                    );
                    at += 1;
                    continue;
                }
                _ => 1,
            };
            out.extend_from_slice(&self.unread[at..at + length]);
            at += length;
        }
        self.unread.drain(..at);
        // All pieces are taken at the border of a character.
        String::from_utf8(out).unwrap_or_default()
    }
}

/// Reads `{"input":"` with any white space between.
fn beginning(decoded: &[u8]) -> Beginning {
    let mut at = 0;
    let tokens: [&[u8]; 5] = [b"{", b"\"", NAME, b"\"", b":"];
    for (number, token) in tokens.iter().chain([&b"\"".as_slice()]).enumerate() {
        // There is no white space within the name.
        if !matches!(number, 2 | 3) {
            at += decoded[at..]
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace())
                .count();
        }
        let rest = &decoded[at..];
        if rest.starts_with(token) {
            at += token.len();
        } else if token.starts_with(rest) {
            return Beginning::Incomplete;
        } else {
            return Beginning::Other;
        }
    }
    Beginning::Input(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// The input that the pieces of these arguments give, decoded.
    fn input(arguments: &str, size: usize) -> String {
        let mut read = CustomInput::default();
        let mut out = String::new();
        let escaped: Vec<String> = arguments
            .chars()
            .collect::<Vec<_>>()
            .chunks(size)
            .map(|piece| escape(&piece.iter().collect::<String>()))
            .collect();
        for piece in &escaped {
            let text = read.push(piece);
            assert!(
                crate::model::json::is_string_inside(text.as_bytes()),
                "{text}"
            );
            out += &text;
        }
        assert_eq!(unescape(read.received()), arguments);
        out += &read.finish();
        unescape(&out)
    }

    #[test]
    fn other_forms_of_arguments_are_read_at_their_end() {
        for (arguments, expected) in [
            ("{}", ""),
            ("", ""),
            (r#"{"text":"a\nb"}"#, "a\nb"),
            ("*** Begin Patch", "*** Begin Patch"),
            (r#"{"a":1,"b":2}"#, r#"{"a":1,"b":2}"#),
            ("{\"input\":\"a\nb\\d\"}", "a\nb\\d"),
            (r#"{"input":"cut"#, "cut"),
            (r#" { "input" : "spaced" } "#, "spaced"),
        ] {
            for size in [1, 3, 100] {
                assert_eq!(
                    input(arguments, size),
                    expected,
                    "{arguments} in pieces of {size}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn input_of_any_text_is_read_from_any_pieces(text in any::<String>(), size in 1..20usize) {
            prop_assert_eq!(input(&json!({"input": text}).to_string(), size), text);
        }
    }
}
