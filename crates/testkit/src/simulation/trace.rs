//! What happened, as bytes that are equal for two runs of one seed.

use std::fmt;

use parking_lot::Mutex;

use super::clock::elapsed;

/// Lines, each with the virtual time in milliseconds.
#[derive(Default)]
pub(super) struct Trace(Mutex<Vec<u8>>);

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").finish_non_exhaustive()
    }
}

impl Trace {
    /// Appends a line.
    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>7} {what}\n", elapsed().as_millis());
        self.0.lock().extend_from_slice(line.as_bytes());
    }

    /// Returns all lines.
    pub(super) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock())
    }
}
