//! Finds the ends of requests in the bytes that actix reads.
//!
//! A connection may leave actix only between two requests, and the dispatcher of actix does not say
//! where it stands in its buffer. So the same bytes are parsed here, by the rules of its decoder. A
//! request that the decoder would refuse makes the tracker lost for the rest of the connection,
//! which then stays with actix.

/// Maximum number of bytes that are kept of a line. A longer line of a header that matters makes the
/// tracker lost.
const MAX_LINE: usize = 256;

/// Tracks the requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct RequestTracker {
    state: State,
    /// Bytes since the connection began.
    total_read: u64,
    /// Requests that were read completely, up to the switch of protocols for an upgrade.
    complete: u64,
    /// Requests that actix has passed to the application.
    dispatched: u64,
    /// The head that is being read.
    head: Head,
    /// The beginning of a line whose end was not read.
    line: Vec<u8>,
}

/// The incomplete part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Head,
    Body,
    /// The tracker is lost, and nothing may be incomplete.
    Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// At the end of a request, or at the start of the connection.
    #[default]
    Between,
    /// After a blank line before a request.
    Blank,
    /// After the CR of a blank line.
    BlankCr,
    /// In the request line or a header.
    Head,
    /// In a body with so many bytes left.
    Body(u64),
    /// In a body in chunks.
    Chunked(Chunk),
    /// After an upgrade at this position. The bytes are no longer HTTP.
    Raw { from: u64 },
    /// After bytes that actix refuses.
    Lost,
}

/// The next expected part of a body in chunks (RFC 9112, section 7.1), with the size of the current
/// chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    SizeFirst,
    Size(u64),
    SizeSpace(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    EndCr,
    EndLf,
    Trailer,
    TrailerLf,
}

/// The parts of a head that decide where the request ends.
#[derive(Debug, Default)]
struct Head {
    has_request_line: bool,
    is_connect: bool,
    is_chunked: bool,
    is_websocket: bool,
    length: Option<u64>,
}

// === impl RequestTracker ===

impl RequestTracker {
    /// Advances by bytes that actix reads, up to the end of a request. Returns their number.
    pub(crate) fn on_read(&mut self, bytes: &[u8]) -> usize {
        let complete = self.complete;
        let mut total = 0;
        while total < bytes.len() && self.complete == complete {
            let used = self.step(bytes.get(total..).unwrap_or_default());
            self.total_read += used as u64;
            total += used;
        }
        match self.state {
            // What follows an upgrade is not another request.
            State::Raw { .. } => {
                self.total_read += (bytes.len() - total) as u64;
                bytes.len()
            }
            _ => total,
        }
    }

    /// Whether the last request was read completely, and the next one has not begun.
    pub(crate) fn is_between(&self) -> bool {
        self.state == State::Between
    }

    /// Whether actix has passed every complete request to the application.
    pub(crate) fn is_dispatched(&self) -> bool {
        self.complete <= self.dispatched
    }

    /// Counts a request that actix passes to the application.
    pub(crate) fn on_dispatch(&mut self) {
        self.dispatched += 1;
    }

    /// Returns the number of bytes since the connection began.
    pub(crate) fn total_read(&self) -> u64 {
        self.total_read
    }

    /// Returns the position after the last dispatched request if it was read completely, and nothing
    /// was read after it.
    pub(crate) fn end_of_request(&self) -> Option<u64> {
        (self.state == State::Between && self.complete == self.dispatched)
            .then_some(self.total_read)
    }

    /// Returns the position of the upgrade if the last dispatched request is one.
    pub(crate) fn end_of_upgrade(&self) -> Option<u64> {
        match self.state {
            State::Raw { from } if self.complete == self.dispatched => Some(from),
            _ => None,
        }
    }

    /// Returns the incomplete request and its part, if the client owes bytes.
    pub(crate) fn incomplete(&self) -> Option<(u64, Part)> {
        let part = match self.state {
            State::Blank | State::BlankCr | State::Head => Part::Head,
            State::Body(_) | State::Chunked(_) => Part::Body,
            State::Lost => Part::Unknown,
            State::Between | State::Raw { .. } => return None,
        };
        Some((self.complete, part))
    }

    /// Takes one step, and returns the number of bytes that it used.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let byte = bytes.first().copied().unwrap_or_default();
        match self.state {
            State::Between | State::Blank => match byte {
                b'\r' => self.state = State::BlankCr,
                b'\n' => self.state = State::Blank,
                _ => {
                    self.state = State::Head;
                    return self.read_line(bytes);
                }
            },
            State::BlankCr if byte == b'\n' => self.state = State::Blank,
            State::BlankCr => self.state = State::Lost,
            State::Head => return self.read_line(bytes),
            State::Body(left) => {
                let used = at_most(left, bytes.len());
                self.expect_body(left - used as u64);
                return used;
            }
            State::Chunked(Chunk::Data(left)) => {
                let used = at_most(left, bytes.len());
                self.state = State::Chunked(match left - used as u64 {
                    0 => Chunk::DataCr,
                    left => Chunk::Data(left),
                });
                return used;
            }
            State::Chunked(chunk) => match chunk.next(byte) {
                Some(Some(chunk)) => self.state = State::Chunked(chunk),
                Some(None) => self.end_request(State::Between),
                None => self.state = State::Lost,
            },
            State::Raw { .. } | State::Lost => return bytes.len(),
        }
        1
    }

    /// Reads up to the end of a line.
    fn read_line(&mut self, bytes: &[u8]) -> usize {
        let end = memchr::memchr(b'\n', bytes);
        let text = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let used = end.map_or(bytes.len(), |end| end + 1);
        // One byte more than the maximum marks a truncated line.
        let kept = text
            .get(..(MAX_LINE + 1).saturating_sub(self.line.len()))
            .unwrap_or(text);
        if end.is_none() {
            self.line.extend_from_slice(kept);
        } else if self.line.is_empty() {
            self.on_line(kept, used);
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(kept);
            self.on_line(&line, used);
        }
        used
    }

    /// Handles a line without its LF. `used` is the number of bytes up to its end.
    fn on_line(&mut self, line: &[u8], used: usize) {
        match line.strip_suffix(b"\r").unwrap_or(line) {
            b"" => self.end_head(self.total_read + used as u64),
            line if self.head.on_line(line) => {}
            _ => self.state = State::Lost,
        }
    }

    /// Decides where the request ends. `position` is the end of its head.
    fn end_head(&mut self, position: u64) {
        let head = std::mem::take(&mut self.head);
        let length = head.length.unwrap_or_default();
        if head.is_chunked && head.length.is_some() {
            self.state = State::Lost;
        } else if head.is_chunked {
            self.state = State::Chunked(Chunk::SizeFirst);
        } else if head.is_websocket || (head.is_connect && length == 0) {
            self.end_request(State::Raw { from: position });
        } else {
            self.expect_body(length);
        }
    }

    fn expect_body(&mut self, left: u64) {
        if left > 0 {
            self.state = State::Body(left);
        } else {
            self.end_request(State::Between);
        }
    }

    fn end_request(&mut self, state: State) {
        self.complete += 1;
        self.state = state;
    }
}

// === impl Head ===

impl Head {
    /// Reads a request line or a header. Returns whether the request may still be valid.
    fn on_line(&mut self, line: &[u8]) -> bool {
        if !self.has_request_line {
            self.has_request_line = true;
            self.is_connect = line.starts_with(b"CONNECT ");
            return true;
        }
        let Some(colon) = memchr::memchr(b':', line) else {
            // The name of a truncated line is longer than any that matters.
            return line.len() > MAX_LINE;
        };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let is_complete = line.len() <= MAX_LINE;
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok());
            let is_first = self.length.is_none();
            self.length = length;
            is_complete && is_first && digits && length.is_some()
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_first = !self.is_chunked;
            self.is_chunked = true;
            is_complete && is_first && value.eq_ignore_ascii_case(b"chunked")
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.is_websocket |= value.eq_ignore_ascii_case(b"websocket");
            is_complete
        } else {
            true
        }
    }
}

// === impl Chunk ===

impl Chunk {
    /// Returns the part after `byte`: `Some(None)` at the end of the body, `None` for a byte that
    /// actix refuses. Not for [`Chunk::Data`].
    fn next(self, byte: u8) -> Option<Option<Self>> {
        let next = match (self, byte) {
            (Self::SizeFirst, byte) => Self::Size(hex(byte)?),
            (Self::Size(size) | Self::SizeSpace(size), b' ' | b'\t') => Self::SizeSpace(size),
            (Self::Size(size) | Self::SizeSpace(size), b';') => Self::Extension(size),
            (Self::Size(size) | Self::SizeSpace(size) | Self::Extension(size), b'\r') => {
                Self::SizeLf(size)
            }
            (Self::Size(size), byte) => Self::Size(size.checked_mul(16)? + hex(byte)?),
            (Self::Extension(_), 0x00..=0x08 | 0x0a..=0x1f | 0x7f) => return None,
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeLf(0), b'\n') => Self::EndCr,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::SizeFirst,
            (Self::EndCr, b'\r') => Self::EndLf,
            (Self::EndLf, b'\n') => return Some(None),
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::EndCr | Self::Trailer, _) => Self::Trailer,
            (Self::TrailerLf, b'\n') => Self::EndCr,
            _ => return None,
        };
        Some(Some(next))
    }
}

fn hex(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

fn at_most(left: u64, available: usize) -> usize {
    usize::try_from(left).map_or(available, |left| left.min(available))
}

#[cfg(test)]
mod tests;
