//! Identifiers: generations, positions in their logs, and owners.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::random::random_bits;

const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Random characters of an id, about 5.95 random bits each.
const RANDOM: usize = 24;

/// Random characters of an id that names its process: 131 bits.
const TAGGED: usize = 22;

/// Returns an id: the prefix and 24 random characters of `[A-Za-z0-9]` (142 bits).
#[must_use]
pub fn random_id(prefix: &str) -> String {
    with_random(&[prefix], RANDOM)
}

fn with_random(prefix: &[&str], random: usize) -> String {
    let mut id =
        String::with_capacity(prefix.iter().map(|part| part.len()).sum::<usize>() + random);
    id.extend(prefix.iter().copied());
    let length = id.len() + random;
    while id.len() < length {
        // Ten pieces of six bits. The two values without a character are skipped.
        let bits = random_bits();
        for i in 0..10 {
            if let Some(byte) = ALPHABET.get((bits >> (6 * i)) as usize & 63)
                && id.len() < length
            {
                id.push(char::from(*byte));
            }
        }
    }
    id
}

/// The name of one start of a process: 8 random characters of `[A-Za-z0-9]`. The ids of its
/// generations begin with it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Tag(Arc<str>);

impl Tag {
    /// Characters of a tag.
    pub const LENGTH: usize = 8;

    /// Returns a new random tag.
    #[must_use]
    pub fn random() -> Self {
        Self(with_random(&[], Self::LENGTH).into())
    }

    /// Returns the characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != Self::LENGTH || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(InvalidId);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A generation's id, which is its response id: `resp_` and random characters of `[A-Za-z0-9]`.
/// Never reused.
///
/// There are 24 of them (142 bits), or where other processes may be asked for the generation the
/// [`Tag`] of its process and 22 (131 bits).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GenerationId(Arc<str>);

impl GenerationId {
    /// Returns a new random id.
    #[must_use]
    pub fn random() -> Self {
        Self(random_id("resp_").into())
    }

    /// Returns a new random id that names the process.
    #[must_use]
    pub fn tagged(tag: &Tag) -> Self {
        Self(with_random(&["resp_", tag.as_str()], TAGGED).into())
    }

    /// Returns the tag of the process that started the generation, if the id names one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        let suffix = self.suffix();
        let named = suffix.len() == Tag::LENGTH + TAGGED;
        suffix.get(..Tag::LENGTH).filter(|_| named)
    }

    /// Returns the id as it is sent to clients.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the random part. The ids of the generation's items are derived from it.
    #[must_use]
    pub fn suffix(&self) -> &str {
        self.0.strip_prefix("resp_").unwrap_or(&self.0)
    }
}

/// Makes the ids of new generations.
pub trait IdSource: Send + Sync + fmt::Debug {
    /// Returns an id that was never returned before.
    fn generation_id(&self) -> GenerationId;
}

/// Makes random ids. The source of every engine but those of simulations.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

impl IdSource for RandomIds {
    fn generation_id(&self) -> GenerationId {
        GenerationId::random()
    }
}

/// Makes random ids that name the process.
#[derive(Clone, Debug)]
pub struct TaggedIds(pub Tag);

impl IdSource for TaggedIds {
    fn generation_id(&self) -> GenerationId {
        GenerationId::tagged(&self.0)
    }
}

/// Error of parsing a [`GenerationId`] or a [`Tag`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `resp_` followed by letters and digits")]
pub struct InvalidId;

impl FromStr for GenerationId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let suffix = text.strip_prefix("resp_").ok_or(InvalidId)?;
        if suffix.is_empty()
            || suffix.len() > 64
            || !suffix.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err(InvalidId);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A writer's right to append to a log, and its share of the numbers: epoch e starts at
/// (e − 1) · 2²⁴. The first is 1. The default is the epoch before the first writer.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of a log's first writer.
    pub const FIRST: Self = Self(1);
    /// The numbers of one epoch.
    pub const NUMBERS: u64 = 1 << 24;

    /// Returns the number of its first event.
    #[must_use]
    pub const fn first_seq(self) -> Seq {
        Seq(self.0.saturating_sub(1).saturating_mul(Self::NUMBERS))
    }
}

/// The number of an event in its generation's log: `sequence_number`, from 0. Gaps are before an
/// [`Epoch`] and before a terminal event only.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Seq(pub u64);

impl Seq {
    /// Returns the next number.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The owner of a generation. An owner cannot see the streams of another owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The owner of all requests where no keys are configured.
    #[default]
    Anonymous,
    /// The holder of a key, by the key's configured name.
    Named(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_differ_and_parse_back() {
        let (a, b) = (GenerationId::random(), GenerationId::random());
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), 29);
        assert!((0..100).all(|_| random_id("x").bytes().all(|b| b.is_ascii_alphanumeric())));
        assert_eq!(a.as_str().parse::<GenerationId>(), Ok(a));
    }

    #[test]
    fn tagged_ids_name_their_process() {
        let tag = Tag::random();
        let id = GenerationId::tagged(&tag);
        assert_eq!(id.as_str().len(), 35);
        assert_eq!(id.tag(), Some(tag.as_str()));
        assert_eq!(id.as_str().parse::<GenerationId>(), Ok(id));
        assert_eq!(tag.as_str().parse::<Tag>(), Ok(tag));
        assert_eq!(GenerationId::random().tag(), None);
        assert_eq!("abc".parse::<Tag>(), Err(InvalidId));
    }

    #[test]
    fn invalid_ids_are_rejected() {
        for text in [
            "",
            "resp_",
            "resp",
            "chatcmpl-1",
            "resp_a.b",
            "resp_ä",
            &format!("resp_{}", "a".repeat(65)),
        ] {
            assert_eq!(text.parse::<GenerationId>(), Err(InvalidId), "{text}");
        }
    }
}
