//! The resume table, written a second time.

use std::sync::Arc;

use tokenwire_core::engine::{ReaderKind, Resumption};
use tokenwire_core::generation::Generation;
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::Seq;

use super::session::Session;

/// The row of the table that a cursor is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expectation {
    ReadFrom(u64),
    NothingLeft,
    /// The position is past the head of a log that has ended.
    PastHead,
    /// The event was shown and never stored. What follows is the ending alone, or the whole answer.
    Lost {
        ending: bool,
    },
}

impl Session {
    /// Returns what a reader must get that comes back after this number; `None` where the log is
    /// gone.
    pub(super) fn expect(
        &self,
        number: usize,
        generation: &Arc<Generation>,
        after: Option<u64>,
    ) -> Option<Expectation> {
        let tail = generation.tail().ok()?;
        let model = self.world.model.lock();
        let known = &model.generations[number];
        if after.is_some_and(|after| known.is_lost_at(after)) {
            let ending = known.epoch_ends.iter().all(|end| *end > 0);
            return Some(Expectation::Lost { ending });
        }
        let from = after.map_or(Seq(0), |after| Seq(after + 1));
        Some(if !tail.sealed || from < tail.next {
            Expectation::ReadFrom(from.0)
        } else if from == tail.next {
            Expectation::NothingLeft
        } else {
            Expectation::PastHead
        })
    }
}

impl Expectation {
    /// Compares what a reader of this kind got.
    ///
    /// # Errors
    /// The difference.
    pub(super) fn check(
        self,
        kind: ReaderKind,
        resumed: &Result<Resumption, ApiError>,
    ) -> Result<(), String> {
        let is_sdk = kind == ReaderKind::Sdk;
        let agrees = match (self, resumed) {
            // The store does not answer.
            (_, Err(error)) if error.status == 503 => true,
            (Self::ReadFrom(wanted), Ok(Resumption::Read { from, .. })) => from.0 == wanted,
            (Self::NothingLeft, Ok(Resumption::NothingLeft { .. })) => true,
            (Self::PastHead, Ok(Resumption::Reset { .. })) => !is_sdk,
            (Self::PastHead, Err(error)) => is_sdk && error.status == 400,
            (Self::Lost { ending }, Ok(Resumption::Read { .. })) => ending || !is_sdk,
            (Self::Lost { ending }, Err(error)) => is_sdk && !ending && error.status == 410,
            _ => false,
        };
        if agrees {
            return Ok(());
        }
        let got = match resumed {
            Ok(Resumption::Read { from, .. }) => format!("reads from {from}"),
            Ok(Resumption::NothingLeft { .. }) => "is told that nothing is left".to_owned(),
            Ok(Resumption::Reset { generation }) => {
                format!("is reset at {}", generation.reset_event().0)
            }
            Ok(Resumption::Lost(_)) => "is told that the node is lost".to_owned(),
            Err(error) => format!("is refused with {}", error.status),
        };
        Err(format!("the table says {self:?}, the reader {got}"))
    }
}
