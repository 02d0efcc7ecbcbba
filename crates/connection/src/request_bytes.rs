//! Counts the bytes of the current request, and finds the end of its head.

/// The bytes that were read of the current request.
#[derive(Debug, Default)]
pub(crate) struct RequestBytes {
    /// Bytes since the connection began.
    total_read: u64,
    /// Bytes since the last response.
    bytes: u64,
    /// How many of them are the head, once it is complete.
    head: Option<u64>,
    /// How much of `\r\n\r\n` was just read.
    matched: usize,
    /// Whether bytes were written since; the next byte begins another request.
    answered: bool,
}

// === impl RequestBytes ===

impl RequestBytes {
    /// Counts bytes that were read.
    pub(crate) fn on_read(&mut self, bytes: &[u8]) {
        if self.answered && !bytes.is_empty() {
            *self = Self {
                total_read: self.total_read,
                ..Self::default()
            };
        }
        self.total_read += bytes.len() as u64;
        if self.head.is_none() {
            for (index, byte) in bytes.iter().enumerate() {
                self.matched = match (self.matched, byte) {
                    (0 | 2, b'\r') | (1 | 3, b'\n') => self.matched + 1,
                    (_, b'\r') => 1,
                    _ => 0,
                };
                if self.matched == 4 {
                    self.head = Some(self.bytes + index as u64 + 1);
                    break;
                }
            }
        }
        self.bytes += bytes.len() as u64;
    }

    /// Notes that bytes were written.
    pub(crate) fn on_write(&mut self) {
        self.answered = true;
    }

    /// Returns the number of bytes since the connection began.
    pub(crate) fn total_read(&self) -> u64 {
        self.total_read
    }

    /// Whether the head and `length` bytes after it were read, nothing after them, and no response
    /// has begun.
    pub(crate) fn is_complete(&self, length: u64) -> bool {
        let end = self.head.and_then(|head| head.checked_add(length));
        !self.answered && end == Some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&str], length: u64, complete: bool) {
        let mut request = RequestBytes::default();
        for piece in pieces {
            request.on_read(piece.as_bytes());
        }
        assert_eq!(request.is_complete(length), complete, "{pieces:?}");
    }

    #[test]
    fn request_is_complete_with_its_body_and_no_further_bytes() {
        check(&["POST / HTTP/1.1\r\na: b\r\n\r\n{}"], 2, true);
        check(
            &["POST / HTTP/1.1\r\na: b\r", "\n\r", "\n", "{", "}"],
            2,
            true,
        );
        check(&["GET / HTTP/1.1\r\n\r\n"], 0, true);
        check(&["POST / HTTP/1.1\r\n\r\n{"], 2, false);
        check(&["POST / HTTP/1.1\r\n\r\n{}GET"], 2, false);
        check(&["GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"], 0, false);
        check(&["GET / HTTP/1.1\n\n"], 0, false);
        check(&["GET / HTTP/1.1\r\n\r\r\n\r\n"], 0, true);
    }

    #[test]
    fn bytes_after_a_response_begin_the_next_request() {
        let mut request = RequestBytes::default();
        request.on_read(b"GET / HTTP/1.1\r\n\r\n");
        request.on_write();
        assert!(!request.is_complete(0));
        request.on_read(b"GET /2 HTTP/1.1\r\n\r\n");
        assert_eq!(request.total_read(), 37);
        assert!(request.is_complete(0));
    }
}
