//! The wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the Unix time in seconds; 0 if the clock is set before 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
