//! What is known of a call's arguments while they are streamed, without a copy of them.

/// Length, hash and nesting of JSON-escaped arguments. Takes constant memory, and time in
/// proportion to the pieces.
#[derive(Clone, Debug)]
pub(super) struct Arguments {
    bytes: usize,
    hash: u64,
    /// Objects and arrays that are open.
    depth: u32,
    in_string: bool,
    /// The next character is escaped within the document.
    escaped: bool,
    /// Whether an object or array has begun.
    begun: bool,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            bytes: 0,
            // FNV-1a.
            hash: 0xcbf2_9ce4_8422_2325,
            depth: 0,
            in_string: false,
            escaped: false,
            begun: false,
        }
    }
}

impl Arguments {
    /// Returns the statistics of a complete text.
    pub(super) fn of(text: &str) -> Self {
        let mut arguments = Self::default();
        arguments.push(text.as_bytes());
        arguments
    }

    /// Adds a piece, which is JSON-escaped.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.bytes += piece.len();
        for byte in piece {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut rest = piece.iter().copied();
        while let Some(byte) = rest.next() {
            // An escape is never split: each piece is a string of its own.
            let character = match byte {
                b'\\' => match rest.next() {
                    Some(b'u') => {
                        let code = [rest.next(), rest.next(), rest.next(), rest.next()];
                        match code.map(|digit| digit.unwrap_or_default().to_ascii_lowercase()) {
                            [b'0', b'0', b'2', b'2'] => b'"',
                            [b'0', b'0', b'5', b'c'] => b'\\',
                            _ => b'x',
                        }
                    }
                    Some(escape @ (b'"' | b'\\')) => escape,
                    // A line break or the like.
                    _ => b' ',
                },
                byte => byte,
            };
            self.character(character);
        }
    }

    fn character(&mut self, character: u8) {
        if std::mem::take(&mut self.escaped) {
            return;
        }
        match character {
            b'\\' => self.escaped = self.in_string,
            b'"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            b'{' | b'[' => {
                self.depth += 1;
                self.begun = true;
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    /// Returns the bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns true if an object or array has begun and is closed again.
    pub(super) fn is_complete(&self) -> bool {
        self.begun && self.depth == 0 && !self.in_string
    }

    /// Returns true if both are of the same text.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.hash == other.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_complete_once_its_outer_object_is_closed() {
        for (text, complete) in [
            ("", false),
            ("{", false),
            ("{}", true),
            (r#"{\"a\":1}"#, true),
            (r#"{\"a\":\"}"#, false),
            (r#"{\"a\":\"}\"}"#, true),
            (r#"{\"a\":\"\\\"}"#, false),
            (r#"{\"a\":\"\\\\\"}"#, true),
            (r#"{\u0022a\u0022:\u0022}\u0022}"#, true),
            (r"[1,\n[2]]", true),
            ("null", false),
            ("{{}", false),
        ] {
            assert_eq!(Arguments::of(text).is_complete(), complete, "{text}");
        }
    }

    #[test]
    fn pieces_add_up_to_the_whole() {
        let mut pieces = Arguments::default();
        for piece in [r#"{\"a\""#, r#":\"\\"#, r#"\"\"}"#] {
            pieces.push(piece.as_bytes());
        }
        let whole = Arguments::of(r#"{\"a\":\"\\\"\"}"#);
        assert!(pieces.is_same(&whole) && pieces.is_complete());
        assert!(!pieces.is_same(&Arguments::of("{}")));
    }
}
