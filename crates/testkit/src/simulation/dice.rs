//! Decisions from the seed.

use std::ops::RangeInclusive;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Characters of a generation's id.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A source of decisions. Each part of a simulation has dice of its own, so that a part which rolls
/// once more does not change the decisions of the others.
#[derive(Debug)]
pub struct Dice(StdRng);

impl Dice {
    /// Returns the dice of the part with this name.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a, whose result does not depend on the process.
        let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
        for byte in name.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Self(StdRng::seed_from_u64(hash))
    }

    /// Returns a number of this range.
    pub fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// Returns an even number of milliseconds. Everything but the watcher acts at even times.
    pub fn millis(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.range(range) & !1
    }

    /// Returns true in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.range(0..=99) < percent
    }

    /// Returns one of the elements.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.0.random_range(0..of.len())]
    }

    /// Returns the random part of an id.
    pub(super) fn suffix(&mut self) -> String {
        let character = |_| char::from(*self.pick(ALPHABET));
        (0..24).map(character).collect()
    }
}
