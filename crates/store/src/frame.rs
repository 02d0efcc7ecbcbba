//! Frames: what every file of a store consists of. `FORMAT.md` has the bytes.
//!
//! ```text
//!   file  = name and version (8) · salt and its checksum (12), twice · frame*
//!   frame = length and kind (4) · log (4) · checksum of the body (4) · checksum of the head (4) · body
//! ```
//!
//! Numbers are little-endian. The head has a checksum of its own, so that a damaged body costs only
//! its own log: the head still tells whose it was and where the next frame begins. A reader that
//! meets a damaged head looks for the next valid frame.
//!
//! Both checksums begin with the file's random salt. So a block of a file that is gone, or text of a
//! user that looks like a frame, is never taken for one.

/// Bytes of a frame before its body.
pub(crate) const HEAD: usize = 16;

/// Bytes of a file before its first frame.
pub(crate) const FILE_HEAD: usize = MAGIC.len() + 2 * SALT;

/// The first bytes of every file: a name and the version of the format.
const MAGIC: [u8; 8] = *b"twstore\x01";

/// Bytes of a salt and its checksum.
const SALT: usize = 12;

/// Most bytes of a body.
pub(crate) const MAX_BODY: usize = (1 << KIND_SHIFT) - 1;

const KIND_SHIFT: u32 = 28;

/// Where the checksums of a file begin. Another one for each file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt {
    head: u32,
    body: u32,
}

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileHead {
    /// A file of this version.
    Known(Salt),
    /// The file ends before its first frame.
    Torn,
    /// Another version, or another program.
    Foreign,
    /// Nothing can be read of the file.
    Damaged,
}

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
    /// What lies in a part of a kept file.
    Listing = 8,
    /// The end of a kept file: where its last listing lies.
    Footer = 9,
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
    /// Where the checksum of the body begins.
    salt: u32,
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
    salt: Salt,
}

// === impl Salt ===

impl Salt {
    /// Returns a salt that no other file has.
    pub(crate) fn random() -> Self {
        Self::of(rand::random::<[u8; 8]>())
    }

    fn of(bytes: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self {
            head: u32::from_le_bytes([a, b, c, d]),
            body: u32::from_le_bytes([e, f, g, h]),
        }
    }

    /// Returns the first bytes of a file with this salt. They hold it twice, since without it nothing
    /// of the file can be read.
    pub(crate) fn file_head(self) -> [u8; FILE_HEAD] {
        let mut copy = [0; SALT];
        copy[..4].copy_from_slice(&self.head.to_le_bytes());
        copy[4..8].copy_from_slice(&self.body.to_le_bytes());
        let checksum = salt_checksum(&copy[..8]);
        copy[8..].copy_from_slice(&checksum.to_le_bytes());
        let mut head = [0; FILE_HEAD];
        head[..8].copy_from_slice(&MAGIC);
        head[8..8 + SALT].copy_from_slice(&copy);
        head[8 + SALT..].copy_from_slice(&copy);
        head
    }
}

/// The checksum of a salt covers the version, whose own bytes may be damaged.
fn salt_checksum(salt: &[u8]) -> u32 {
    checksum(crc32fast::hash(&MAGIC), salt)
}

/// Returns the CRC-32 of `bytes`, continued from `salt`.
fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

// === impl FileHead ===

impl FileHead {
    /// Reads the first bytes of a file: [`FILE_HEAD`] of them, or all that there are.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let copies = bytes.get(MAGIC.len()..).unwrap_or_default();
        let salt = copies.as_chunks::<SALT>().0.iter().find_map(|copy| {
            let (salt, own) = copy.split_first_chunk::<8>()?;
            let own = u32::from_le_bytes(*own.first_chunk()?);
            (salt_checksum(salt) == own).then(|| Salt::of(*salt))
        });
        let (name, version) = MAGIC.split_at(MAGIC.len() - 1);
        let found = bytes.get(name.len()..MAGIC.len());
        let other = bytes.starts_with(name) && found.is_some_and(|found| found != version);
        match salt {
            Some(salt) if bytes.len() >= FILE_HEAD => Self::Known(salt),
            _ if other => Self::Foreign,
            _ if bytes.len() < FILE_HEAD => Self::Torn,
            _ => Self::Damaged,
        }
    }
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
            8 => Self::Listing,
            9 => Self::Footer,
            _ => return None,
        })
    }
}

// === impl Head ===

impl Head {
    /// Reads the head at the start of `bytes`; `None` if there is no valid one.
    pub(crate) fn parse(bytes: &[u8], salt: Salt) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD>()?;
        let [first, log, body, own] = head.as_chunks::<4>().0 else {
            return None;
        };
        let first = u32::from_le_bytes(*first);
        // Cheaper than the checksum, and false at most offsets that are no head.
        let kind = Kind::of(first >> KIND_SHIFT)?;
        if checksum(salt.head, &head[..HEAD - 4]) != u32::from_le_bytes(*own) {
            return None;
        }
        Some(Self {
            kind,
            log: u32::from_le_bytes(*log),
            length: first as usize & MAX_BODY,
            checksum: u32::from_le_bytes(*body),
            salt: salt.body,
        })
    }

    /// Returns whether this is its body.
    pub(crate) fn matches(&self, body: &[u8]) -> bool {
        body.len() == self.length && checksum(self.salt, body) == self.checksum
    }

    /// Bytes of the frame.
    pub(crate) fn frame_len(&self) -> usize {
        HEAD + self.length
    }
}

/// Appends a frame whose body `write` appends, without its checksums. Returns whether it fits; else
/// nothing is appended.
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
    true
}

/// Fills in the checksums of the frames that `bytes` consist of, for a file with this salt.
pub(crate) fn seal(bytes: &mut [u8], salt: Salt) {
    let mut rest = bytes;
    while let Some((head, after)) = rest.split_first_chunk_mut::<HEAD>() {
        let [first, ..] = head.as_chunks::<4>().0 else {
            return;
        };
        let length = u32::from_le_bytes(*first) as usize & MAX_BODY;
        let Some((body, next)) = after.split_at_mut_checked(length) else {
            return;
        };
        head[8..12].copy_from_slice(&checksum(salt.body, body).to_le_bytes());
        let own = checksum(salt.head, &head[..HEAD - 4]);
        head[12..].copy_from_slice(&own.to_le_bytes());
        rest = next;
    }
}

/// Returns the body of the frame that `bytes` consist of; `None` if it is damaged.
pub(crate) fn body(bytes: &[u8], kind: Kind, salt: Salt) -> Option<&[u8]> {
    let head = Head::parse(bytes, salt).filter(|head| head.kind == kind)?;
    let body = bytes.get(HEAD..)?;
    head.matches(body).then_some(body)
}

// === impl Frames ===

impl<'a> Frames<'a> {
    /// Iterates over the frames of a file from this offset on.
    pub(crate) fn new(bytes: &'a [u8], offset: usize, salt: Salt) -> Self {
        Self {
            bytes,
            offset,
            salt,
        }
    }

    /// Looks for the next valid frame after a damaged head. `None` if the file ends before.
    fn resume(&self) -> Option<usize> {
        (self.offset + 1..self.bytes.len().saturating_sub(HEAD - 1)).find(|offset| {
            let rest = &self.bytes[*offset..];
            Head::parse(rest, self.salt).is_some_and(|head| {
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
        let Some(head) = Head::parse(rest, self.salt) else {
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

    const SALT: Salt = Salt {
        head: 0x1234_5678,
        body: 0x9abc_def0,
    };

    fn file(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (log, body) in (1..).zip(bodies) {
            assert!(push(&mut out, Kind::Records, log, |out| out.extend(body)));
        }
        seal(&mut out, SALT);
        out
    }

    fn logs(bytes: &[u8]) -> Vec<(u32, bool)> {
        let frames = Frames::new(bytes, 0, SALT).filter_map(|found| match found {
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

    #[test]
    fn frames_have_the_bytes_of_version_1() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let head = "747773746f726501";
        let salt = "78563412f0debc9a4f606fa9";
        assert_eq!(hex(&SALT.file_head()), format!("{head}{salt}{salt}"));
        assert_eq!(
            hex(&file(&[b"Hello".to_vec()])),
            "05000020010000009172843e81e1493048656c6c6f"
        );
    }

    #[test]
    fn frame_of_another_file_is_no_frame() {
        let mut bytes = file(&[vec![1; 10]]);
        let mut other = file(&[vec![2; 10], Vec::new()]);
        for salt in [Salt { head: 1, ..SALT }, Salt { body: 1, ..SALT }] {
            seal(&mut other, salt);
            bytes.extend(&other);
        }
        bytes.extend(file(&[vec![3; 10]]));
        assert_eq!(logs(&bytes), [(1, true), (1, true)]);
    }

    #[test]
    fn file_head_survives_a_flipped_bit_and_tells_other_versions() {
        let head = SALT.file_head();
        for bit in 0..FILE_HEAD * 8 {
            let mut head = head;
            head[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHead::parse(&head), FileHead::Known(SALT), "bit {bit}");
        }
        for length in 0..FILE_HEAD {
            assert_eq!(FileHead::parse(&head[..length]), FileHead::Torn);
        }
        assert_eq!(FileHead::parse(&[0; FILE_HEAD]), FileHead::Damaged);
        assert_eq!(FileHead::parse(b"twstore\x02 and more"), FileHead::Foreign);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Frames::new(&bytes, 0, SALT).count();
            let _ = Frames::new(&bytes, 1000, SALT).count();
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
            let found: Vec<Vec<u8>> = Frames::new(&bytes, 0, SALT)
                .map(|found| match found {
                    Found::Frame(_, _, body) => body.to_vec(),
                    other => panic!("{other:?}"),
                })
                .collect();
            prop_assert_eq!(found, bodies);
        }
    }
}
