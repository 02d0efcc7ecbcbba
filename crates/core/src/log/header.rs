//! The header of a log: what a process that did not write the log must know to use it.
//!
//! ```text
//!   ┌─────────┬──────────┬───────┬─────────┬─────────────┬─────────────┬─────────────┐
//!   │ version │ identity │ flags │ request │ idempotency │ predecessor │ input items │
//!   │ 1 byte  │          │       │         │ (optional)  │ (optional)  │ (optional)  │
//!   └─────────┴──────────┴───────┴─────────┴─────────────┴─────────────┴─────────────┘
//! ```
//!
//! Numbers are varints. Texts are their length in bytes, then UTF-8. A header never holds a
//! credential or a header of the client's request.

use std::fmt;
use std::sync::Arc;

use serde_json::value::RawValue;

use crate::model::id::{GenerationId, Owner};
use crate::model::snapshot::{Api, Meta};

/// The newest version that is read and written. It differs from version 1 in what the log's
/// records may hold: closing events and terminal objects of a Responses upstream are
/// [folded](crate::model::folded_json). Other logs are written as version 1.
pub const HEADER_VERSION: u8 = 2;
/// The oldest version, and that of logs without such records.
pub(super) const UNFOLDED_VERSION: u8 = 1;

const BACKGROUND: u8 = 1;
const STORE: u8 = 1 << 1;
const INCLUDE_USAGE: u8 = 1 << 2;
const RESPONSES: u8 = 1 << 3;
const NAMED_OWNER: u8 = 1 << 4;
const KEYED: u8 = 1 << 5;
const CONTINUES: u8 = 1 << 6;
const HAS_INPUT: u8 = 1 << 7;

/// The first part of a log: who and what it belongs to, and how it is rendered.
#[derive(Clone)]
pub struct LogHeader {
    /// The version in which the records are stored. Logs of chat upstreams have version 1 in any case.
    pub version: u8,
    /// The facts that rendering needs.
    pub meta: Meta,
    /// The configured name of the upstream.
    pub upstream: Arc<str>,
    /// The idempotency key of the request, if it had one.
    pub idempotency: Option<IdempotencyKey>,
    /// The response that this one continues.
    pub predecessor: Option<GenerationId>,
    /// The request's input items, each with an id. Encoded only where the response is stored:
    /// `input_items` and later turns read them there.
    pub input: Vec<Box<RawValue>>,
}

/// An idempotency key, and what it stands for.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The key as the client sent it.
    pub key: Arc<str>,
    /// Identifies route, body and credential. The same in every process.
    pub fingerprint: [u8; 16],
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Another version of the program wrote it.
    #[error("the log header has version {found}, known are 1 to {HEADER_VERSION}")]
    UnknownVersion {
        /// The version that it has.
        found: u8,
    },
    /// The bytes are damaged.
    #[error("the log header is damaged at byte {offset}: {expected} expected")]
    Damaged {
        /// The position of the first byte that does not fit.
        offset: usize,
        /// What should be there.
        expected: &'static str,
    },
}

impl fmt::Debug for LogHeader {
    /// Omits the input, the request's fields and the idempotency key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHeader")
            .field("version", &self.version)
            .field("meta", &self.meta)
            .field("upstream", &self.upstream)
            .field("keyed", &self.idempotency.is_some())
            .field("predecessor", &self.predecessor)
            .field("input_items", &self.input.len())
            .finish()
    }
}

impl fmt::Debug for IdempotencyKey {
    /// Omits the key, which the client chose.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyKey").finish_non_exhaustive()
    }
}

// === impl LogHeader ===

impl LogHeader {
    /// Returns the header of a generation without a key, a predecessor or input.
    #[must_use]
    pub fn new(meta: Meta, upstream: impl Into<Arc<str>>) -> Self {
        Self {
            version: HEADER_VERSION,
            meta,
            upstream: upstream.into(),
            idempotency: None,
            predecessor: None,
            input: Vec::new(),
        }
    }

    /// Returns the memory that the header holds beside itself, in bytes.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        // Fields that are all at their defaults are shared by all generations.
        let request_fields = if Arc::strong_count(&self.meta.request_fields) > 1 {
            0
        } else {
            self.meta.request_fields.len()
        };
        let key = self.idempotency.as_ref().map_or(0, |key| key.key.len());
        self.meta.model.len() + request_fields + key + self.input_size()
    }

    /// Returns the memory that the input items hold, in bytes.
    #[must_use]
    pub fn input_size(&self) -> usize {
        self.input.iter().map(|item| item.get().len() + 16).sum()
    }

    /// Returns the header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Appends the header's bytes.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        self.encode_in(self.version, out);
    }

    /// Returns the header's bytes for records of this version.
    #[must_use]
    pub fn encode_as(&self, version: u8) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_in(version, &mut out);
        out
    }

    fn encode_in(&self, version: u8, out: &mut Vec<u8>) {
        let meta = &self.meta;
        let owner = match &meta.owner {
            Owner::Anonymous => None,
            Owner::Named(name) => Some(name),
        };
        let input: &[_] = if meta.store { &self.input } else { &[] };
        let flags = [
            (BACKGROUND, meta.background),
            (STORE, meta.store),
            (INCLUDE_USAGE, meta.include_usage),
            (RESPONSES, meta.api == Api::Responses),
            (NAMED_OWNER, owner.is_some()),
            (KEYED, self.idempotency.is_some()),
            (CONTINUES, self.predecessor.is_some()),
            (HAS_INPUT, !input.is_empty()),
        ];
        out.push(match meta.api {
            Api::Chat => UNFOLDED_VERSION,
            Api::Responses => version,
        });
        push_text(out, meta.id.as_str());
        push_number(out, meta.created_at);
        out.push(
            flags
                .iter()
                .filter(|(_, set)| *set)
                .fold(0, |all, (flag, _)| all | flag),
        );
        if let Some(owner) = owner {
            push_text(out, owner);
        }
        push_text(out, &self.upstream);
        push_text(out, &meta.model);
        push_text(out, &meta.request_fields);
        if let Some(key) = &self.idempotency {
            push_text(out, &key.key);
            out.extend_from_slice(&key.fingerprint);
        }
        if let Some(predecessor) = &self.predecessor {
            push_text(out, predecessor.as_str());
        }
        if !input.is_empty() {
            push_number(out, input.len() as u64);
            input.iter().for_each(|item| push_text(out, item.get()));
        }
    }

    /// Reads a header. Allocates no more than a small multiple of the length of `bytes`.
    ///
    /// # Errors
    /// [`HeaderError`], with the version or the offset of the damage.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut input = Input { bytes, offset: 0 };
        let version = input.byte("a version")?;
        if !(UNFOLDED_VERSION..=HEADER_VERSION).contains(&version) {
            return Err(HeaderError::UnknownVersion { found: version });
        }
        let id = input.id()?;
        let created_at = input.number()?;
        let flags = input.byte("flags")?;
        let has = |flag| flags & flag != 0;
        let owner = if has(NAMED_OWNER) {
            Owner::Named(input.text()?.into())
        } else {
            Owner::Anonymous
        };
        let upstream = input.text()?.into();
        let meta = Meta {
            id,
            owner,
            created_at,
            model: input.text()?.to_owned(),
            request_fields: input.text()?.into(),
            api: if has(RESPONSES) {
                Api::Responses
            } else {
                Api::Chat
            },
            background: has(BACKGROUND),
            store: has(STORE),
            include_usage: has(INCLUDE_USAGE),
        };
        let idempotency = if has(KEYED) {
            Some(input.idempotency_key()?)
        } else {
            None
        };
        let predecessor = if has(CONTINUES) {
            Some(input.id()?)
        } else {
            None
        };
        let items = if has(HAS_INPUT) {
            input.items()?
        } else {
            Vec::new()
        };
        if input.offset < bytes.len() {
            return Err(input.damaged("the end"));
        }
        Ok(Self {
            version,
            meta,
            upstream,
            idempotency,
            predecessor,
            input: items,
        })
    }
}

fn push_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    push_number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// The bytes of a header that are being read.
struct Input<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Input<'a> {
    fn damaged(&self, expected: &'static str) -> HeaderError {
        HeaderError::Damaged {
            offset: self.offset,
            expected,
        }
    }

    fn take(&mut self, length: usize, expected: &'static str) -> Result<&'a [u8], HeaderError> {
        let end = self.offset.checked_add(length);
        let taken = end
            .and_then(|end| self.bytes.get(self.offset..end))
            .ok_or_else(|| self.damaged(expected))?;
        self.offset += length;
        Ok(taken)
    }

    fn byte(&mut self, expected: &'static str) -> Result<u8, HeaderError> {
        self.take(1, expected).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Result<u64, HeaderError> {
        let start = self.offset;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte("a number")?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        self.offset = start;
        Err(self.damaged("a number of at most 64 bits"))
    }

    fn text(&mut self) -> Result<&'a str, HeaderError> {
        let length = self.number()?;
        let length = usize::try_from(length).map_err(|_| self.damaged("a text"))?;
        let start = self.offset;
        let bytes = self.take(length, "a text")?;
        std::str::from_utf8(bytes).map_err(|error| HeaderError::Damaged {
            offset: start + error.valid_up_to(),
            expected: "UTF-8",
        })
    }

    fn id(&mut self) -> Result<GenerationId, HeaderError> {
        let start = self.offset;
        self.text()?.parse().map_err(|_| HeaderError::Damaged {
            offset: start,
            expected: "a response id",
        })
    }

    fn idempotency_key(&mut self) -> Result<IdempotencyKey, HeaderError> {
        let key = self.text()?.into();
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(self.take(16, "a fingerprint")?);
        Ok(IdempotencyKey { key, fingerprint })
    }

    fn items(&mut self) -> Result<Vec<Box<RawValue>>, HeaderError> {
        let count = self.number()?;
        // The count is not trusted: the list grows with the items that are really there.
        let mut items = Vec::new();
        for _ in 0..count {
            let start = self.offset;
            let item = RawValue::from_string(self.text()?.to_owned());
            items.push(item.map_err(|_| HeaderError::Damaged {
                offset: start,
                expected: "JSON",
            })?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> LogHeader {
        let meta = Meta {
            id: "resp_abc".parse().unwrap(),
            owner: Owner::Named("alice".into()),
            created_at: 1_700_000_000,
            model: "model".to_owned(),
            request_fields: r#""instructions":"a secret""#.into(),
            api: Api::Chat,
            background: true,
            store: true,
            include_usage: false,
        };
        LogHeader {
            idempotency: Some(IdempotencyKey {
                key: "order-7".into(),
                fingerprint: [7; 16],
            }),
            predecessor: Some("resp_before".parse().unwrap()),
            input: vec![RawValue::from_string(r#"{"secret":1}"#.to_owned()).unwrap()],
            ..LogHeader::new(meta, "local")
        }
    }

    fn assert_same(a: &LogHeader, b: &LogHeader) {
        let meta = |m: &Meta| {
            (
                (m.id.clone(), m.owner.clone(), m.created_at, m.model.clone()),
                (m.request_fields.clone(), m.api),
                (m.background, m.store, m.include_usage),
            )
        };
        let input = |h: &LogHeader| h.input.iter().map(|item| item.get().to_owned()).collect();
        let (a_input, b_input): (Vec<_>, Vec<_>) = (input(a), input(b));
        assert_eq!(meta(&a.meta), meta(&b.meta));
        assert_eq!(a_input, b_input);
        assert_eq!(
            (&a.upstream, &a.idempotency, &a.predecessor),
            (&b.upstream, &b.idempotency, &b.predecessor)
        );
    }

    #[test]
    fn every_cut_is_an_error_with_its_offset() {
        let bytes = header().encode();
        assert_same(&LogHeader::decode(&bytes).unwrap(), &header());
        for length in 0..bytes.len() {
            match LogHeader::decode(&bytes[..length]) {
                Err(HeaderError::Damaged { offset, .. }) => assert!(offset <= length),
                other => panic!("cut to {length}: {other:?}"),
            }
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(
            LogHeader::decode(&longer).unwrap_err(),
            HeaderError::Damaged {
                offset: bytes.len(),
                expected: "the end"
            }
        );
    }

    #[test]
    fn unknown_version_is_named() {
        let mut bytes = header().encode();
        bytes[0] = 9;
        let error = LogHeader::decode(&bytes).unwrap_err();
        assert_eq!(error, HeaderError::UnknownVersion { found: 9 });
        assert_eq!(
            error.to_string(),
            "the log header has version 9, known are 1 to 2"
        );
    }

    #[test]
    fn version_is_kept_and_that_of_chat_logs_is_the_first() {
        let mut header = header();
        assert_eq!(header.encode()[0], 1);
        header.meta.api = Api::Responses;
        for version in [1, 2] {
            let bytes = header.encode_as(version);
            let decoded = LogHeader::decode(&bytes).unwrap();
            assert_eq!((bytes[0], decoded.version), (version, version));
            assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn length_beyond_the_end_is_refused_before_it_is_allocated() {
        let mut bytes = vec![HEADER_VERSION];
        push_number(&mut bytes, u64::MAX);
        bytes.push(b'r');
        assert!(matches!(
            LogHeader::decode(&bytes),
            Err(HeaderError::Damaged { .. })
        ));
    }

    #[test]
    fn input_of_an_unstored_response_is_not_encoded() {
        let mut header = header();
        header.meta.store = false;
        let bytes = header.encode();
        assert!(LogHeader::decode(&bytes).unwrap().input.is_empty());
        assert!(!String::from_utf8_lossy(&bytes).contains(r#"{"secret":1}"#));
    }

    #[test]
    fn debug_shows_no_contents() {
        let shown = format!("{:?} {:?}", header(), header().idempotency);
        for hidden in ["secret", "order-7", "instructions", "alice"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }

    fn text() -> impl Strategy<Value = String> {
        ".{0,40}"
    }

    fn any_header() -> impl Strategy<Value = LogHeader> {
        let id = || "resp_[a-zA-Z0-9]{1,64}".prop_map(|id| id.parse::<GenerationId>().unwrap());
        let identity = (
            id(),
            proptest::option::of(text()),
            any::<u64>(),
            text(),
            text(),
        );
        let flags = (any::<[bool; 4]>(), text());
        let references = (
            proptest::option::of((text(), any::<[u8; 16]>())),
            proptest::option::of(id()),
            proptest::collection::vec(text(), 0..4),
        );
        (identity, flags, references).prop_map(|(identity, flags, references)| {
            let (id, owner, created_at, model, upstream) = identity;
            let ([responses, background, store, include_usage], fields) = flags;
            let (key, predecessor, input) = references;
            let meta = Meta {
                id,
                owner: owner.map_or(Owner::Anonymous, |name| Owner::Named(name.into())),
                created_at,
                model,
                request_fields: fields.into(),
                api: if responses { Api::Responses } else { Api::Chat },
                background,
                store,
                include_usage,
            };
            LogHeader {
                idempotency: key.map(|(key, fingerprint)| IdempotencyKey {
                    key: key.into(),
                    fingerprint,
                }),
                predecessor,
                input: input
                    .iter()
                    .filter(|_| store)
                    .map(|text| serde_json::value::to_raw_value(text).unwrap())
                    .collect(),
                ..LogHeader::new(meta, upstream)
            }
        })
    }

    proptest! {
        #[test]
        fn decoded_header_is_the_encoded_one(header in any_header()) {
            let bytes = header.encode();
            let decoded = LogHeader::decode(&bytes).unwrap();
            assert_same(&decoded, &header);
            prop_assert_eq!(decoded.encode(), bytes);
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), versioned: bool) {
            if let (true, Some(first)) = (versioned, bytes.first_mut()) {
                *first = HEADER_VERSION;
            }
            if let Ok(header) = LogHeader::decode(&bytes) {
                prop_assert!(header.memory_size() <= 32 * bytes.len());
            }
        }

        #[test]
        fn damaged_headers_never_panic(header in any_header(), at: proptest::sample::Index, bit in 0u8..8) {
            let mut bytes = header.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            if let Ok(header) = LogHeader::decode(&bytes) {
                prop_assert!(header.memory_size() <= 32 * bytes.len());
            }
        }
    }
}
