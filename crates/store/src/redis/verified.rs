//! Which logs may be appended to without a look at them first.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokenwire_core::log::{Block, Epoch};
use tokenwire_core::model::id::{GenerationId, Seq};

/// Logs from which on those are forgotten that were not written for long.
const PRUNE_FROM: usize = 1024;

/// The logs whose end is known, because this process wrote it over the connection that it still
/// has. Another connection may lead to a server that has lost the end.
#[derive(Debug)]
pub(super) struct Verified {
    logs: Mutex<Logs>,
    /// How long a log is kept after it was written.
    kept: Duration,
}

#[derive(Debug)]
struct Logs {
    ends: HashMap<GenerationId, End>,
    prune_at: usize,
}

#[derive(Debug)]
struct End {
    epoch: Epoch,
    end: Seq,
    connection: u64,
    /// When the time that it is kept was last begun anew.
    renewed: Instant,
}

/// How a block is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Redis is asked for the log's end, and changed only if the block follows it.
    Checked,
    /// A plain command, which Redis refuses to an earlier epoch.
    Plain {
        /// Whether its time is to be begun anew.
        renew: bool,
    },
}

// === impl Verified ===

impl Verified {
    pub(super) fn new(kept: Duration) -> Self {
        Self {
            logs: Mutex::new(Logs {
                ends: HashMap::new(),
                prune_at: PRUNE_FROM,
            }),
            kept,
        }
    }

    pub(super) fn way(&self, block: &Block<'_>, connection: u64) -> Way {
        let mut logs = self.logs.lock();
        match logs.ends.get_mut(block.id) {
            Some(known)
                if (known.epoch, known.end, known.connection)
                    == (block.epoch, block.first, connection) =>
            {
                let renew = known.renewed.elapsed() > self.kept / 4;
                if renew {
                    known.renewed = Instant::now();
                }
                Way::Plain { renew }
            }
            _ => Way::Checked,
        }
    }

    /// Notes that a log ends here, after a checked append.
    pub(super) fn insert(&self, id: &GenerationId, epoch: Epoch, end: Seq, connection: u64) {
        let mut logs = self.logs.lock();
        let renewed = Instant::now();
        let known = End {
            epoch,
            end,
            connection,
            renewed,
        };
        logs.ends.insert(id.clone(), known);
        if logs.ends.len() >= logs.prune_at {
            let kept = self.kept;
            logs.ends.retain(|_, end| end.renewed.elapsed() < kept);
            logs.prune_at = PRUNE_FROM.max(logs.ends.len() * 2);
        }
    }

    /// Notes that a log ends here, after a plain append.
    pub(super) fn advance(&self, id: &GenerationId, end: Seq) {
        if let Some(known) = self.logs.lock().ends.get_mut(id) {
            known.end = end;
        }
    }

    pub(super) fn forget(&self, id: &GenerationId) {
        self.logs.lock().ends.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_connection_epoch_or_end_is_checked() {
        let id: GenerationId = "resp_a".parse().unwrap();
        let verified = Verified::new(Duration::from_secs(60));
        let block = |epoch, first| Block {
            id: &id,
            epoch: Epoch(epoch),
            first: Seq(first),
            next: Seq(first + 1),
            bytes: &[],
        };
        assert_eq!(verified.way(&block(1, 0), 1), Way::Checked);
        verified.insert(&id, Epoch(1), Seq(4), 1);
        let plain = Way::Plain { renew: false };
        assert_eq!(verified.way(&block(1, 4), 1), plain);
        for (epoch, first, connection) in [(2, 4, 1), (1, 5, 1), (1, 3, 1), (1, 4, 2)] {
            let way = verified.way(&block(epoch, first), connection);
            assert_eq!(way, Way::Checked, "{epoch} {first} {connection}");
        }
        verified.advance(&id, Seq(5));
        assert_eq!(verified.way(&block(1, 5), 1), plain);
        verified.forget(&id);
        assert_eq!(verified.way(&block(1, 5), 1), Way::Checked);
    }

    #[test]
    fn logs_that_are_not_written_are_forgotten() {
        let verified = Verified::new(Duration::ZERO);
        for _ in 0..5 * PRUNE_FROM {
            verified.insert(&GenerationId::random(), Epoch(1), Seq(1), 1);
        }
        assert!(verified.logs.lock().ends.len() < PRUNE_FROM);
    }
}
