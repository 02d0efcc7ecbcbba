//! What a seed decides for a whole simulation.

use std::time::Duration;

use tokenwire_core::engine::Replicated;
use tokenwire_testkit::simulation::Dice;

/// Settings of the nodes, and the faults that they meet.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) clients: usize,
    pub(crate) replicated: Replicated,
    pub(crate) grace: Duration,
    /// How much slower than its script the upstream is.
    pub(crate) slowness: u64,
    /// The chance of a fault of a request to Redis, in percent.
    pub(crate) faults: u64,
    /// What happens, by time.
    pub(crate) events: Vec<(u64, Event)>,
}

/// Something that happens to the world. Times are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The process of a node is killed. Another one starts after this time.
    Crash { node: usize, restarts_after: u64 },
    /// The process of a node does not run for this time, as after SIGSTOP.
    Pause { node: usize, time: u64 },
    /// A node does not reach Redis for this time.
    CutRedis { node: usize, time: u64 },
    /// Redis does not answer for this time.
    Outage { time: u64 },
    /// Two nodes do not reach each other for this time.
    CutPeers { nodes: (usize, usize), time: u64 },
    /// `FLUSHALL`.
    Flush,
}

/// Nothing happens before the nodes know each other.
const FIRST: u64 = 8_000;
/// Nothing happens after this time.
pub(crate) const LAST: u64 = 26_000;

/// How long clients act where nothing happens.
const QUIET: u64 = 15_000;

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "cluster");
        let nodes = dice.range(2..=3);
        let events = *dice.pick(&[0, 1, 1, 1, 2, 2, 3]);
        let mut events: Vec<_> = (0..events).map(|_| event(&mut dice, nodes)).collect();
        events.sort_by_key(|(at, _)| *at);
        Self {
            nodes: nodes as usize,
            clients: dice.range(2..=5) as usize,
            replicated: *dice.pick(&[Replicated::Background, Replicated::All, Replicated::All]),
            grace: Duration::from_millis(dice.millis(2_000..=20_000)),
            slowness: dice.range(1..=12),
            faults: *dice.pick(&[0, 0, 0, 2, 8]),
            events,
        }
    }

    /// Returns when all of it is over.
    pub(crate) fn over(&self) -> u64 {
        let ends = self.events.iter().map(|(at, event)| {
            at + match event {
                Event::Crash { .. } => 12_000,
                Event::Pause { time, .. }
                | Event::CutRedis { time, .. }
                | Event::Outage { time }
                | Event::CutPeers { time, .. } => time + 4_000,
                Event::Flush => 4_000,
            }
        });
        ends.max().unwrap_or(QUIET)
    }
}

fn event(dice: &mut Dice, nodes: u64) -> (u64, Event) {
    let at = dice.millis(FIRST..=LAST);
    let node = dice.range(0..=nodes - 1) as usize;
    let other = (node + dice.range(1..=nodes - 1) as usize) % nodes as usize;
    let event = match dice.range(0..=99) {
        0..=34 => Event::Crash {
            node,
            restarts_after: dice.millis(500..=15_000),
        },
        35..=64 => Event::Pause {
            node,
            time: *dice.pick(&[400, 2_000, 3_500, 6_000, 10_000]),
        },
        65..=76 => Event::CutRedis {
            node,
            time: dice.millis(1_000..=12_000),
        },
        77..=84 => Event::Outage {
            time: dice.millis(500..=10_000),
        },
        85..=94 => Event::CutPeers {
            nodes: (node, other),
            time: dice.millis(500..=8_000),
        },
        _ => Event::Flush,
    };
    (at, event)
}
