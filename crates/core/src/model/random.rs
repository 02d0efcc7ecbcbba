//! Random numbers that are no secret: of ids, and of the pauses that keep processes apart.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, RngCore, SeedableRng as _};

thread_local! {
    static REPLACED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Replaces the random numbers of this thread by those of a seed, for a simulation; `None` restores
/// them. Secrets, which have another source, stay random.
pub fn replace_random(seed: Option<u64>) {
    REPLACED.set(seed.map(StdRng::seed_from_u64));
}

fn with_random<T>(draw: impl FnOnce(&mut dyn RngCore) -> T) -> T {
    REPLACED.with_borrow_mut(|replaced| match replaced {
        Some(seeded) => draw(seeded),
        None => draw(&mut rand::rng()),
    })
}

/// Returns 64 random bits.
#[must_use]
pub fn random_bits() -> u64 {
    with_random(|random| random.next_u64())
}

/// Returns a random time of this range in milliseconds, which is not empty.
#[must_use]
pub fn random_millis(range: Range<u64>) -> Duration {
    Duration::from_millis(with_random(|random| random.random_range(range)))
}

/// Returns a random part of a time, at least half of it.
#[must_use]
pub fn random_part(of: Duration) -> Duration {
    of.mul_f64(with_random(|random| random.random_range(0.5..1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_gives_the_same_numbers_until_it_is_taken_away() {
        let draw = || {
            let pause = random_millis(200..600);
            (random_bits(), pause, random_part(Duration::from_secs(1)))
        };
        replace_random(Some(7));
        let first = draw();
        replace_random(Some(7));
        assert_eq!(draw(), first);
        assert_ne!(draw(), first);
        replace_random(None);
        assert_ne!(draw(), first);
        assert!((200..600).contains(&first.1.as_millis()));
        assert!((500..1000).contains(&first.2.as_millis()));
    }
}
