//! Names of keys, ids of entries, and what a script says of a log. See `REDIS.md`.

use std::str::FromStr;

use tokenwire_core::log::{Block, Epoch, StoreError};
use tokenwire_core::model::id::{GenerationId, Seq};

/// Number of partitions. All keys of a log are in one slot of a Redis Cluster.
const PARTITIONS: u32 = 64;

/// The keys of a log.
pub(super) struct Keys {
    pub(super) log: String,
    pub(super) object: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, id: &GenerationId) -> Self {
        let partition = crc32fast::hash(id.as_str().as_bytes()) % PARTITIONS;
        Self {
            log: format!("{prefix}{{{partition}}}:log:{id}"),
            object: format!("{prefix}{{{partition}}}:object:{id}"),
        }
    }
}

/// Returns the id of the entry that ends at `next`.
pub(super) fn entry_id(epoch: Epoch, next: Seq) -> String {
    format!("{}-{next}", epoch.0)
}

/// Returns the least id of an entry that holds the event `from`.
pub(super) fn first_id(from: Seq) -> String {
    let epoch = from.0 / Epoch::NUMBERS + 1;
    format!("{epoch}-{}", from.0.saturating_add(1))
}

/// What Redis has of a log.
#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) epoch: Epoch,
    pub(super) epoch_ends: Vec<Seq>,
    pub(super) end: Seq,
}

/// Where a log is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The script changed it as it was asked to.
    Done,
    Running,
    Sealed,
    /// The records have expired, the object is kept.
    Kept,
}

// === impl State ===

impl State {
    /// Reads what the function `state` of the scripts returns.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Deleted`] and [`StoreError::Corrupt`].
    pub(super) fn parse(parts: &[String]) -> Result<Self, StoreError> {
        let part = |index: usize| parts.get(index).map(String::as_str);
        let phase = match part(0) {
            Some("done") => Phase::Done,
            Some("running") => Phase::Running,
            Some("sealed") => Phase::Sealed,
            Some("kept") => Phase::Kept,
            Some("missing") => return Err(StoreError::NotFound),
            Some("deleted") => return Err(StoreError::Deleted),
            _ => return Err(StoreError::Corrupt),
        };
        let number = |text: &str| u64::from_str(text).map_err(|_| StoreError::Corrupt);
        let ends = part(3).unwrap_or_default().split(',');
        let ends = ends.filter(|end| !end.is_empty());
        Ok(Self {
            phase,
            epoch: Epoch(number(part(1).unwrap_or_default())?),
            end: Seq(number(part(2).unwrap_or_default())?),
            epoch_ends: ends
                .map(|end| number(end).map(Seq))
                .collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Sealed | Phase::Kept)
    }

    /// Returns the part of a block that the log does not have.
    ///
    /// # Errors
    /// Why the log does not take it.
    pub(super) fn lacks<'a>(&self, block: Block<'a>) -> Result<Block<'a>, StoreError> {
        if block.epoch != self.epoch {
            return Err(StoreError::Fenced {
                held: block.epoch,
                current: self.epoch,
            });
        }
        block.check()?;
        let new = block.after(self.end)?;
        if self.has_ended() && !new.bytes.is_empty() {
            return Err(StoreError::Sealed);
        }
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_log_are_in_one_slot() {
        let id: GenerationId = "resp_a".parse().unwrap();
        let Keys { log, object } = Keys::new("tw:", &id);
        let tag = |key: &str| key[..key.find('}').unwrap()].to_owned();
        assert_eq!(tag(&log), tag(&object));
        assert!(
            log.starts_with("tw:{") && log.ends_with("}:log:resp_a"),
            "{log}"
        );
    }

    #[test]
    fn event_is_looked_for_in_its_epoch() {
        assert_eq!(first_id(Seq(0)), "1-1");
        assert_eq!(first_id(Seq((1 << 24) - 1)), "1-16777216");
        assert_eq!(first_id(Seq(1 << 24)), "2-16777217");
        assert_eq!(entry_id(Epoch(2), Seq(7)), "2-7");
    }

    #[test]
    fn state_that_cannot_be_read_is_corrupt() {
        let parse = |parts: &[&str]| {
            let parts: Vec<_> = parts.iter().map(|part| (*part).to_owned()).collect();
            State::parse(&parts)
        };
        let state = parse(&["running", "3", "9", "4,9"]).unwrap();
        assert_eq!((state.epoch, state.end), (Epoch(3), Seq(9)));
        assert_eq!(state.epoch_ends, [Seq(4), Seq(9)]);
        for parts in [
            &["running"][..],
            &["other", "1", "2", ""],
            &[],
            &["sealed", "1", "x", ""],
        ] {
            assert_eq!(parse(parts).unwrap_err(), StoreError::Corrupt, "{parts:?}");
        }
        assert_eq!(parse(&["missing"]).unwrap_err(), StoreError::NotFound);
    }
}
