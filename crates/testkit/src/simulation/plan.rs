//! What a seed decides for the whole simulation.

use std::time::Duration;

use tokenwire_core::engine::Retention;
use tokenwire_core::upstream::Timeouts;

use super::dice::Dice;
use crate::faulty_store::{Fault, FaultyStore};

/// Settings of the gateway, and the faults that it meets.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) clients: usize,
    pub(super) timeouts: Timeouts,
    pub(super) retention: Retention,
    pub(super) grace: Duration,
    /// Whether logs are kept so briefly that clients may come too late.
    pub(super) forgets: bool,
    /// Whether most clients read the latest generation, in the same view.
    pub(super) has_audience: bool,
    /// When each process but the last one crashes.
    pub(super) crashes: Vec<Crash>,
    /// Whether the store acknowledges what it loses.
    pub(super) lies: bool,
    /// The chance of a fault of the store in percent, and what it may be.
    faults: (u32, Vec<Fault>),
}

/// When a process crashes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    /// Milliseconds from its begin.
    pub(super) after: u64,
    /// Turns of other tasks at that time.
    pub(super) turns: u64,
}

impl Plan {
    pub(super) fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "plan");
        let forgets = dice.chance(20);
        let kept = if forgets {
            dice.millis(0..=1_500)
        } else {
            60_000
        };
        let crashes = *dice.pick(&[0, 0, 1, 1, 1, 2, 3]);
        let crash = |dice: &mut Dice| Crash {
            after: dice.millis(100..=4_000),
            turns: dice.range(0..=60),
        };
        let faults: Vec<Fault> = [
            Fault::Slow(Duration::from_millis(dice.millis(2..=600))),
            Fault::Hang,
            Fault::Fail,
            Fault::LoseAnswer,
            Fault::Repeat,
            Fault::Lie,
        ]
        .into_iter()
        .filter(|fault| dice.chance(if *fault == Fault::Lie { 15 } else { 50 }))
        .collect();
        Self {
            clients: dice.range(2..=6) as usize,
            timeouts: Timeouts {
                connect: Duration::ZERO,
                first_token: Duration::from_millis(dice.millis(600..=3_000)),
                between_tokens: Duration::from_millis(dice.millis(400..=2_000)),
                total: Duration::from_millis(dice.millis(5_000..=20_000)),
            },
            retention: Retention {
                events: Duration::from_millis(kept),
                responses: Duration::from_millis(2 * kept),
                max_memory: 1 << 26,
                max_open: 1 << 10,
            },
            grace: Duration::from_millis(dice.millis(0..=4_000)),
            forgets,
            has_audience: dice.chance(25),
            crashes: (0..crashes).map(|_| crash(&mut dice)).collect(),
            lies: faults.contains(&Fault::Lie),
            faults: (*dice.pick(&[0, 5, 20, 50]), faults),
        }
    }

    /// Lets the store have its faults.
    pub(super) fn arm(&self, store: &FaultyStore) {
        store.randomly(self.faults.0, &self.faults.1);
    }
}
