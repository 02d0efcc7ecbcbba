//! What a server answers.

/// The reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status, such as `OK`.
    Status(&'static str),
    /// An error with its code.
    Error(String),
    /// A number.
    Number(i64),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Nothing.
    Nil,
    /// Several replies.
    List(Vec<Reply>),
}

// === impl Reply ===

impl Reply {
    /// Returns the reply in the form of the protocol (RESP 2).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        let line = |out: &mut Vec<u8>, kind: char, text: &str| {
            out.extend_from_slice(format!("{kind}{text}\r\n").as_bytes());
        };
        match self {
            Self::Status(text) => line(out, '+', text),
            Self::Error(text) => line(out, '-', text),
            Self::Number(number) => line(out, ':', &number.to_string()),
            Self::Nil => line(out, '$', "-1"),
            Self::Bytes(bytes) => {
                line(out, '$', &bytes.len().to_string());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::List(replies) => {
                line(out, '*', &replies.len().to_string());
                replies.iter().for_each(|reply| reply.write(out));
            }
        }
    }

    pub(super) fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }

    pub(super) fn optional(bytes: Option<&[u8]>) -> Self {
        bytes.map_or(Self::Nil, Self::bytes)
    }

    pub(super) fn count(count: usize) -> Self {
        Self::Number(i64::try_from(count).unwrap_or(i64::MAX))
    }

    pub(super) fn error(text: &str) -> Self {
        Self::Error(text.to_owned())
    }
}
