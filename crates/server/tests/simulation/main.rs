//! Simulations of several nodes that share a Redis, of many seeds. `SIMULATION_SEEDS` says how many,
//! `SIMULATION_SEED` repeats one.
//!
//! ```text
//!   clients ─▶ node 0 ──┐              upstream (script)
//!      │       node 1 ──┼─▶ Redis        ▲
//!      └─────▶ node 2 ──┘    ▲           │
//!               └── peers ───┴── faults, pauses, crashes, all from the seed
//! ```
//!
//! Each process of a node has the gateway's own engine, cluster, store in Redis, internal protocol
//! and webhooks, on a Tokio runtime of its own with a paused clock. All runtimes are on one thread
//! and take turns of some milliseconds of virtual time, in an order of the seed. A process that is
//! paused misses its turns, and one that crashes loses its runtime. Replaced are Redis, the sockets,
//! the upstream, the receivers of webhooks, the clock and the random numbers.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod audit;
mod called_by;
mod client;
mod connection;
mod expected;
mod health;
mod known;
mod model;
mod network;
mod plan;
mod post;
mod process;
mod redis_link;
mod run;
mod slot;
mod starting;
mod turn;
mod world;

use run::run;
use tokenwire_testkit::simulation::Seeds;
use world::Sabotage;

const SEEDS: Seeds = Seeds {
    package: "tokenwire",
    count: 100,
    regressions: &[95, 114, 203, 384, 939, 5637],
    run: |seed| run(seed, Sabotage::None),
};

#[test]
fn readers_at_any_node_get_each_event_once_whatever_fails() {
    SEEDS.simulate_all();
}

#[test]
fn same_seed_gives_the_same_bytes() {
    for seed in [1, 2, 3, 5, 8, 13] {
        let (first, second) = (SEEDS.simulate(seed), SEEDS.simulate(seed));
        let lines = |trace: &[u8]| -> Vec<String> {
            String::from_utf8_lossy(trace)
                .lines()
                .map(str::to_owned)
                .collect()
        };
        for (first, second) in lines(&first).iter().zip(lines(&second)) {
            assert_eq!(*first, second, "seed {seed}");
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
        assert!(first != SEEDS.simulate(seed + 1000));
    }
}

#[test]
fn store_without_a_fence_and_lost_frames_are_noticed() {
    for sabotage in [Sabotage::IgnoreFence, Sabotage::LoseFrame(100)] {
        let noticed = (0..60).any(|seed| run(seed, sabotage).is_err());
        assert!(noticed, "{sabotage:?}");
    }
}
