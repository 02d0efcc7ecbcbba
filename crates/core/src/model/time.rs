//! The wall clock.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

thread_local! {
    static REPLACED: Cell<Option<fn() -> u64>> = const { Cell::new(None) };
}

/// Replaces the wall clock of this thread, for a simulation; `None` restores it. `clock` returns
/// the Unix time in seconds.
pub fn replace_clock(clock: Option<fn() -> u64>) {
    REPLACED.set(clock);
}

/// Returns the Unix time in seconds; 0 if the clock is set before 1970.
#[must_use]
pub fn unix_now() -> u64 {
    if let Some(clock) = REPLACED.get() {
        return clock();
    }
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
