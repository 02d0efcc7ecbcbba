//! Counts of the sessions' results.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;

/// Counters by name. Shared by all clients.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<String, u64>>);

// === impl Tally ===

impl Tally {
    pub(crate) fn add(&self, what: impl Into<String>) {
        *self.0.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    pub(crate) fn of(&self, what: &str) -> u64 {
        self.0
            .lock()
            .unwrap()
            .get(what)
            .copied()
            .unwrap_or_default()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.0.lock().unwrap();
        let mut words: Vec<_> = counts.iter().collect();
        words.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (index, (what, count)) in words.into_iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{what} {count}")?;
        }
        Ok(())
    }
}
