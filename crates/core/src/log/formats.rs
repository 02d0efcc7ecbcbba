//! The versions of stored logs that a process reads and writes.

use super::header::{HEADER_VERSION, UNFOLDED_VERSION};

/// The versions of [log headers](super::LogHeader) that a process reads and writes. Processes that
/// read each other's logs announce them, and write what all of them read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// The highest version that is read. Those below are read as well.
    pub read: u8,
    /// The lowest version that is written.
    pub write: u8,
}

impl Formats {
    /// Those of this program.
    pub const CURRENT: Self = Self {
        read: HEADER_VERSION,
        write: UNFOLDED_VERSION,
    };

    /// Those of a program that announces none.
    pub const FIRST: Self = Self {
        read: UNFOLDED_VERSION,
        write: UNFOLDED_VERSION,
    };

    /// Returns the version to write for processes of which one reads no higher one than `others`.
    #[must_use]
    pub fn shared_with(self, others: u8) -> u8 {
        others.min(self.read).max(self.write)
    }
}

impl Default for Formats {
    fn default() -> Self {
        Self::CURRENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_version_that_all_read_is_written() {
        let current = Formats::CURRENT;
        assert_eq!(current.shared_with(Formats::FIRST.read), 1);
        assert_eq!(current.shared_with(current.read), HEADER_VERSION);
        assert_eq!(current.shared_with(u8::MAX), HEADER_VERSION);
        // One that does not write it any more writes the lowest that it can.
        let later = Formats { read: 9, write: 8 };
        assert_eq!(later.shared_with(1), 8);
    }
}
