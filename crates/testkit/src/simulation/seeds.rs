//! Simulations of many seeds, as tests run them.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::Violation;

/// No new seed begins after this time.
const TIME: Duration = Duration::from_secs(60);

/// Simulations of one kind, each of a seed. `SIMULATION_SEEDS` says how many there are,
/// `SIMULATION_SEED` repeats one.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The package with the test `simulation` that runs them.
    pub package: &'static str,
    /// How many there are if nothing else is asked for: the seeds from 0 on.
    pub count: u64,
    /// Seeds that have found faults. They run before the others.
    pub regressions: &'static [u64],
    /// Runs the simulation of a seed and returns its trace.
    pub run: fn(u64) -> Result<Vec<u8>, Violation>,
}

// === impl Seeds ===

impl Seeds {
    /// Runs the simulation of a seed and returns its trace.
    ///
    /// # Panics
    /// If something is not as it must be. The trace is written to a file, and the command that repeats
    /// the simulation is said.
    #[must_use]
    pub fn simulate(&self, seed: u64) -> Vec<u8> {
        let package = self.package;
        (self.run)(seed).unwrap_or_else(|violation| {
            let path = std::env::temp_dir().join(format!("simulation-{package}-{seed}.trace"));
            let written = std::fs::write(&path, &violation.trace);
            let repeat = format!("cargo test -p {package} --test simulation");
            panic!(
                "seed {seed}: {}\nrepeat it: SIMULATION_SEED={seed} {repeat}\ntrace: {} ({written:?})",
                violation.what,
                path.display()
            );
        })
    }

    /// Runs all, as many at a time as there are cores and for no longer than a minute, or the one that
    /// is asked for.
    ///
    /// # Panics
    /// As [`simulate`](Self::simulate).
    #[allow(
        clippy::print_stderr,
        reason = "a run that ends early says how far it got"
    )]
    pub fn simulate_all(&self) {
        if let Some(seed) = number("SIMULATION_SEED") {
            let _ = self.simulate(seed);
            return;
        }
        let began = Instant::now();
        let count = number("SIMULATION_SEEDS").unwrap_or(self.count);
        let seeds: Vec<u64> = self.regressions.iter().copied().chain(0..count).collect();
        let next = AtomicUsize::new(0);
        let run = || {
            while began.elapsed() < TIME {
                let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                let _ = self.simulate(*seed);
            }
        };
        // Each simulation is on one thread.
        let threads = available_parallelism().map_or(1, NonZero::get);
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(run))));
        let (done, all) = (next.into_inner().min(seeds.len()), seeds.len());
        eprintln!("{done} of {all} seeds in {:?}", began.elapsed());
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}
