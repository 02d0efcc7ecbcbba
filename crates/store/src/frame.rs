//! Frames: what every file of a store consists of.
//!
//! ```text
//!   file  = "twstore" version frame*
//!   frame = length and kind (4) · log (4) · checksum of the body (4) · checksum of the head (4) · body
//! ```
//!
//! Numbers are little-endian. The head has a checksum of its own, so that a damaged body costs only
//! its own log: the head still tells whose it was and where the next frame begins. A reader that
//! meets a damaged head looks for the next valid frame.

/// Bytes of a frame before its body.
pub(crate) const HEAD: usize = 16;

/// The first bytes of every file: a name and the version of the format.
pub(crate) const MAGIC: [u8; 8] = *b"twstore\x01";

/// Most bytes of a body.
pub(crate) const MAX_BODY: usize = (1 << KIND_SHIFT) - 1;

const KIND_SHIFT: u32 = 28;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The head of a log: its header, its epochs, and the frames of records that follow it.
    Log = 1,
    /// Records of a log, after the number at which they begin.
    Records = 2,
    /// The head of a response object, which the next frame holds.
    Object = 3,
    /// The bytes of a response object.
    Bytes = 4,
    /// A log was ended and written to the kept files.
    Ended = 5,
    /// A log was deleted.
    Deleted = 6,
    /// A small record was written or removed.
    Entry = 7,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: Kind,
    /// The log's number in a journal; 0 elsewhere.
    pub(crate) log: u32,
    /// Bytes of the body.
    pub(crate) length: usize,
    checksum: u32,
}

/// A frame that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A frame at this offset.
    Frame(usize, Head, &'a [u8]),
    /// The body of the frame at this offset is damaged.
    Damaged(usize, Head),
    /// Bytes that are no frame were skipped.
    Skipped(usize),
}

/// The frames of a file's bytes, in order. Ends at a torn tail.
#[derive(Clone, Debug)]
pub(crate) struct Frames<'a> {
    bytes: &'a [u8],
    offset: usize,
}

// === impl Kind ===

impl Kind {
    fn of(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Log,
            2 => Self::Records,
            3 => Self::Object,
            4 => Self::Bytes,
            5 => Self::Ended,
            6 => Self::Deleted,
            7 => Self::Entry,
            _ => return None,
        })
    }
}

// === impl Head ===

impl Head {
    /// Reads the head at the start of `bytes`; `None` if there is no valid one.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD>()?;
        let [first, log, checksum, own] = head.as_chunks::<4>().0 else {
            return None;
        };
        let first = u32::from_le_bytes(*first);
        // Cheaper than the checksum, and false at most offsets that are no head.
        let kind = Kind::of(first >> KIND_SHIFT)?;
        if crc32fast::hash(&head[..HEAD - 4]) != u32::from_le_bytes(*own) {
            return None;
        }
        Some(Self {
            kind,
            log: u32::from_le_bytes(*log),
            length: first as usize & MAX_BODY,
            checksum: u32::from_le_bytes(*checksum),
        })
    }

    /// Returns whether this is its body.
    pub(crate) fn matches(&self, body: &[u8]) -> bool {
        body.len() == self.length && crc32fast::hash(body) == self.checksum
    }

    /// Bytes of the frame.
    pub(crate) fn frame_len(&self) -> usize {
        HEAD + self.length
    }
}

/// Appends a frame whose body `write` appends. Returns whether it fits; else nothing is appended.
pub(crate) fn push(
    out: &mut Vec<u8>,
    kind: Kind,
    log: u32,
    write: impl FnOnce(&mut Vec<u8>),
) -> bool {
    let start = out.len();
    out.resize(start + HEAD, 0);
    write(out);
    let (head, body) = out[start..].split_at_mut(HEAD);
    if body.len() > MAX_BODY {
        out.truncate(start);
        return false;
    }
    let first = body.len() as u32 | (kind as u32) << KIND_SHIFT;
    head[0..4].copy_from_slice(&first.to_le_bytes());
    head[4..8].copy_from_slice(&log.to_le_bytes());
    head[8..12].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let own = crc32fast::hash(&head[..HEAD - 4]);
    head[12..].copy_from_slice(&own.to_le_bytes());
    true
}

/// Returns the body of the frame that `bytes` consist of; `None` if it is damaged.
pub(crate) fn body(bytes: &[u8], kind: Kind) -> Option<&[u8]> {
    let head = Head::parse(bytes).filter(|head| head.kind == kind)?;
    let body = bytes.get(HEAD..)?;
    head.matches(body).then_some(body)
}

// === impl Frames ===

impl<'a> Frames<'a> {
    /// Iterates over the frames of a file from this offset on.
    pub(crate) fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, offset }
    }

    /// Looks for the next valid frame after a damaged head. `None` if the file ends before.
    fn resume(&self) -> Option<usize> {
        (self.offset + 1..self.bytes.len().saturating_sub(HEAD - 1)).find(|offset| {
            let rest = &self.bytes[*offset..];
            Head::parse(rest).is_some_and(|head| {
                let body = rest.get(HEAD..head.frame_len());
                body.is_some_and(|body| head.matches(body))
            })
        })
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let start = self.offset;
        let rest = self.bytes.get(start..)?;
        let Some(head) = Head::parse(rest) else {
            self.offset = self.resume().unwrap_or(self.bytes.len());
            let torn = self.offset == self.bytes.len();
            return (!torn).then_some(Found::Skipped(start));
        };
        let Some(body) = rest.get(HEAD..head.frame_len()) else {
            self.offset = self.bytes.len();
            return None;
        };
        self.offset += head.frame_len();
        Some(if head.matches(body) {
            Found::Frame(start, head, body)
        } else {
            Found::Damaged(start, head)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (log, body) in (1..).zip(bodies) {
            assert!(push(&mut out, Kind::Records, log, |out| out.extend(body)));
        }
        out
    }

    fn logs(bytes: &[u8]) -> Vec<(u32, bool)> {
        let frames = Frames::new(bytes, 0).filter_map(|found| match found {
            Found::Frame(_, head, _) => Some((head.log, true)),
            Found::Damaged(_, head) => Some((head.log, false)),
            Found::Skipped(_) => None,
        });
        frames.collect()
    }

    #[test]
    fn torn_tail_ends_the_frames_before_it() {
        let bytes = file(&[vec![1; 10], vec![2; 20]]);
        let first = HEAD + 10;
        for length in 0..bytes.len() {
            let expected: &[_] = if length < first { &[] } else { &[(1, true)] };
            assert_eq!(logs(&bytes[..length]), expected, "cut to {length}");
        }
    }

    #[test]
    fn hole_of_zeros_is_skipped() {
        let mut bytes = file(&[vec![1; 10]]);
        bytes.extend([0; 4096]);
        bytes.extend(file(&[vec![7; 5]]));
        assert_eq!(logs(&bytes), [(1, true), (1, true)]);
        bytes.extend([0; 4096]);
        assert_eq!(logs(&bytes), [(1, true), (1, true)]);
    }

    #[test]
    fn length_beyond_the_file_allocates_nothing_and_ends_it() {
        let mut bytes = file(&[vec![1; 10]]);
        let mut head = file(&[vec![0; 1 << 16]]);
        head.truncate(HEAD);
        bytes.extend(head);
        assert_eq!(logs(&bytes), [(1, true)]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Frames::new(&bytes, 0).count();
            let _ = Frames::new(&bytes, 1000).count();
        }

        #[test]
        fn flipped_bit_costs_one_frame(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..8),
            at: proptest::sample::Index,
            bit in 0u8..8,
        ) {
            let whole = file(&bodies);
            let mut bytes = whole.clone();
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            let mut end = 0;
            let hit = bodies.iter().position(|body| {
                end += HEAD + body.len();
                at < end
            });
            let hit = hit.unwrap() as u32 + 1;
            let good: Vec<_> = logs(&bytes).into_iter().filter(|(_, good)| *good).collect();
            let expected: Vec<_> = (1..=bodies.len() as u32)
                .filter(|log| *log != hit)
                .map(|log| (log, true))
                .collect();
            prop_assert_eq!(good, expected);
        }

        #[test]
        fn frames_are_found_as_they_were_written(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..8),
        ) {
            let bytes = file(&bodies);
            let found: Vec<Vec<u8>> = Frames::new(&bytes, 0)
                .map(|found| match found {
                    Found::Frame(_, _, body) => body.to_vec(),
                    other => panic!("{other:?}"),
                })
                .collect();
            prop_assert_eq!(found, bodies);
        }
    }
}
