//! Where a read continues.

use super::segment::Spot;
use crate::model::id::Seq;

/// A position in a log: the number of the next event, and a hint at its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPosition {
    pub(super) next: Seq,
    /// The place before its record, if the last read left it here.
    pub(super) spot: Option<Spot>,
}

impl ReadPosition {
    /// A cursor before the event with this number.
    #[must_use]
    pub fn at(next: Seq) -> Self {
        Self { next, spot: None }
    }

    /// The number of the next event to read.
    #[must_use]
    pub fn next(&self) -> Seq {
        self.next
    }
}
