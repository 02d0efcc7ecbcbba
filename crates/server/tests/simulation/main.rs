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
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and reports how far it got"
)]

mod audit;
mod broken_framing;
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

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use run::run;
use world::Sabotage;

/// Seeds of a run that asks for no other number.
const SEEDS: u64 = 100;
/// Seeds that have found faults. They run before the others.
const REGRESSIONS: [u64; 6] = [95, 114, 203, 384, 939, 5637];
/// No new seed begins after this time.
const TIME: Duration = Duration::from_secs(60);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

/// Runs a seed. A violation is reported with the trace and the command that repeats it.
fn simulate(seed: u64) -> Vec<u8> {
    run(seed, Sabotage::None).unwrap_or_else(|violation| {
        let path = std::env::temp_dir().join(format!("simulation-nodes-{seed}.trace"));
        let written = std::fs::write(&path, &violation.trace);
        let repeat = "cargo test -p tokenwire --test simulation";
        panic!(
            "seed {seed}: {}\nrepeat it: SIMULATION_SEED={seed} {repeat}\ntrace: {} ({written:?})",
            violation.what,
            path.display()
        );
    })
}

#[test]
fn readers_at_any_node_get_each_event_once_whatever_fails() {
    if let Some(seed) = number("SIMULATION_SEED") {
        simulate(seed);
        return;
    }
    let began = Instant::now();
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let all = || REGRESSIONS.into_iter().chain(0..seeds);
    let next = AtomicUsize::new(0);
    let run = || {
        while began.elapsed() < TIME {
            let Some(seed) = all().nth(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            simulate(seed);
        }
    };
    // Each simulation is on one thread.
    let threads = available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(run))));
    let count = all().count();
    let done = next.into_inner().min(count);
    eprintln!("{done} of {count} seeds in {:?}", began.elapsed());
}

#[test]
fn same_seed_gives_the_same_bytes() {
    for seed in [1, 2, 3, 5, 8, 13] {
        let (first, second) = (simulate(seed), simulate(seed));
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
        assert!(first != simulate(seed + 1000));
    }
}

#[test]
fn store_without_a_fence_and_lost_frames_are_noticed() {
    for sabotage in [Sabotage::IgnoreFence, Sabotage::LoseFrame(100)] {
        let noticed = (0..60).any(|seed| run(seed, sabotage).is_err());
        assert!(noticed, "{sabotage:?}");
    }
}
