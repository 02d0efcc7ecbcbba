//! What the nodes of a cluster use together.

use std::time::Duration;

/// Why all nodes together have no room for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoRoom {
    /// Index of the party that has none.
    pub(super) party: usize,
    /// `streams`, `requests`, `tokens` or the name of a budget.
    pub(super) why: String,
    pub(super) wait: Duration,
}

/// What all nodes use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SharedUse {
    pub(super) requests: Duration,
    pub(super) tokens: Duration,
    pub(super) spent_today: u64,
    pub(super) spent_this_month: u64,
    pub(super) held_elsewhere: u64,
}
