//! Simulations of many seeds. `SIMULATION_SEEDS` says how many, `SIMULATION_SEED` repeats one.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and reports how far it got"
)]

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tokenwire_testkit::simulation::{Sabotage, run};

/// Seeds of a run that asks for no other number.
const SEEDS: u64 = 200;
/// No new seed begins after this time.
const TIME: Duration = Duration::from_secs(60);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
    )
}

/// Runs a seed. A violation is reported with the end of the trace and the command that repeats it.
fn simulate(seed: u64) -> Vec<u8> {
    run(seed, Sabotage::None).unwrap_or_else(|violation| {
        let path = std::env::temp_dir().join(format!("simulation-{seed}.trace"));
        let written = std::fs::write(&path, &violation.trace);
        let repeat = "cargo test -p tokenwire-core --test simulation";
        panic!(
            "seed {seed}: {}\nrepeat it: SIMULATION_SEED={seed} {repeat}\ntrace: {} ({written:?})",
            violation.what,
            path.display()
        );
    })
}

#[test]
fn readers_get_each_event_once_whatever_fails() {
    if let Some(seed) = number("SIMULATION_SEED") {
        simulate(seed);
        return;
    }
    let began = Instant::now();
    let seeds = number("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let run = || {
        while began.elapsed() < TIME {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            simulate(seed);
        }
    };
    // Each simulation is on one thread.
    let threads = available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(run))));
    let done = next.into_inner().min(seeds);
    eprintln!("{done} of {seeds} seeds in {:?}", began.elapsed());
}

#[test]
fn same_seed_gives_the_same_bytes() {
    for seed in [1, 2, 3, 5, 8, 13, 21, 34] {
        let (first, second) = (simulate(seed), simulate(seed));
        assert!(first == second, "the two runs of seed {seed} differ");
        assert!(first != simulate(seed + 1000));
    }
}

#[test]
fn lost_and_repeated_frames_are_noticed() {
    for sabotage in [Sabotage::LoseFrame(100), Sabotage::RepeatFrame(100)] {
        let noticed = (0..5).any(|seed| run(seed, sabotage).is_err());
        assert!(noticed, "{sabotage:?}");
    }
}
