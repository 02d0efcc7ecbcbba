//! A stream of entries.

use super::reply::Reply;

/// The id of an entry: `<first>-<second>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId(pub u64, pub u64);

/// An entry: its id, and the names and values of its fields.
type Entry = (EntryId, Vec<Vec<u8>>);

/// Entries in the order of their ids.
#[derive(Debug, Default)]
pub(super) struct Stream {
    entries: Vec<Entry>,
    last: EntryId,
}

// === impl EntryId ===

impl EntryId {
    /// Parses an id. One without a second part has this one.
    pub(super) fn parse(text: &[u8], second: u64) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        match text.split_once('-') {
            Some((first, second)) => Some(Self(first.parse().ok()?, second.parse().ok()?)),
            None => Some(Self(text.parse().ok()?, second)),
        }
    }

    /// Parses the lower or the upper end of a range.
    fn bound(text: &[u8], is_upper: bool) -> Option<Self> {
        let second = if is_upper { u64::MAX } else { 0 };
        match text {
            b"-" => Some(Self(0, 0)),
            b"+" => Some(Self(u64::MAX, u64::MAX)),
            [b'(', rest @ ..] => {
                let id = Self::parse(rest, second)?;
                if is_upper { id.before() } else { id.after() }
            }
            text => Self::parse(text, second),
        }
    }

    fn after(self) -> Option<Self> {
        match self {
            Self(first, u64::MAX) => Some(Self(first.checked_add(1)?, 0)),
            Self(first, second) => Some(Self(first, second + 1)),
        }
    }

    fn before(self) -> Option<Self> {
        match self {
            Self(first, 0) => Some(Self(first.checked_sub(1)?, u64::MAX)),
            Self(first, second) => Some(Self(first, second - 1)),
        }
    }
}

// === impl Stream ===

impl Stream {
    /// Adds an entry. Returns false if its id is not above all others, unless that is ignored.
    pub(super) fn add(&mut self, id: EntryId, fields: Vec<Vec<u8>>, ignores_order: bool) -> bool {
        if id <= self.last && !ignores_order {
            return false;
        }
        // Without an order the entry that came last is the last one.
        self.last = id;
        self.entries.push((id, fields));
        true
    }

    /// Returns entries of a range, the last ones first if `is_reversed`. `None` if an end of the
    /// range is no id.
    pub(super) fn range(
        &self,
        (from, to): (&[u8], &[u8]),
        most: usize,
        is_reversed: bool,
    ) -> Option<Reply> {
        let (from, to) = (EntryId::bound(from, false)?, EntryId::bound(to, true)?);
        let found = self.entries.iter();
        let found = found.filter(|(id, _)| (from..=to).contains(id));
        let found: Vec<&Entry> = if is_reversed {
            found.rev().take(most).collect()
        } else {
            found.take(most).collect()
        };
        Some(Reply::List(found.into_iter().map(reply).collect()))
    }
}

fn reply((id, fields): &Entry) -> Reply {
    let fields = fields.iter().map(|field| Reply::bytes(field)).collect();
    let id = format!("{}-{}", id.0, id.1).into_bytes();
    Reply::List(vec![Reply::Bytes(id), Reply::List(fields)])
}
