//! The resume table, written a second time.

use std::sync::Arc;

use tokenwire_core::engine::ReaderKind;
use tokenwire_core::generation::Generation;
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::Seq;

use super::client::Session;
use super::process::Resumed;

/// The row of the table that a cursor is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expectation {
    ReadFrom(u64),
    NothingLeft,
    /// The position is past the head of a log that has ended.
    PastHead,
    /// The event was shown and never stored, and what follows is the ending.
    Lost,
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
        if after.is_some_and(|after| model.generations[number].is_lost_at(after)) {
            return Some(Expectation::Lost);
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
        resumed: &Result<Resumed, ApiError>,
    ) -> Result<(), String> {
        let is_sdk = kind == ReaderKind::Sdk;
        let agrees = match (self, resumed) {
            (Self::ReadFrom(from), Ok(Resumed::Read(_, read))) => read.0 == from,
            (Self::NothingLeft, Ok(Resumed::NothingLeft)) => true,
            (Self::PastHead, Ok(Resumed::Reset(..))) => !is_sdk,
            (Self::PastHead, Err(error)) => is_sdk && error.status == 400,
            (Self::Lost, Ok(Resumed::Reset(..))) => !is_sdk,
            (Self::Lost, Ok(Resumed::Read(..))) => is_sdk,
            _ => false,
        };
        if agrees {
            return Ok(());
        }
        let got = match resumed {
            Ok(Resumed::Read(_, from)) => format!("reads from {from}"),
            Ok(Resumed::NothingLeft) => "is told that nothing is left".to_owned(),
            Ok(Resumed::Reset(seq, ..)) => format!("is reset at {seq}"),
            Err(error) => format!("is refused with {}", error.status),
        };
        Err(format!("the table says {self:?}, the reader {got}"))
    }
}
