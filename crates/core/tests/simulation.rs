//! Simulations of many seeds. `SIMULATION_SEEDS` says how many, `SIMULATION_SEED` repeats one.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use tokenwire_testkit::simulation::{Sabotage, Seeds, run};

const SEEDS: Seeds = Seeds {
    package: "tokenwire-core",
    count: 200,
    regressions: &[],
    run: |seed| run(seed, Sabotage::None),
};

#[test]
fn readers_get_each_event_once_whatever_fails() {
    SEEDS.simulate_all();
}

#[test]
fn same_seed_gives_the_same_bytes() {
    for seed in [1, 2, 3, 5, 8, 13, 21, 34] {
        let (first, second) = (SEEDS.simulate(seed), SEEDS.simulate(seed));
        assert!(first == second, "the two runs of seed {seed} differ");
        assert!(first != SEEDS.simulate(seed + 1000));
    }
}

#[test]
fn lost_and_repeated_frames_are_noticed() {
    for sabotage in [Sabotage::LoseFrame(100), Sabotage::RepeatFrame(100)] {
        let noticed = (0..5).any(|seed| run(seed, sabotage).is_err());
        assert!(noticed, "{sabotage:?}");
    }
}
