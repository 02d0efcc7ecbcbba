//! Simulations of the gateway over the disk store: processes are killed, and power is lost, at moments
//! that the seed says. `SIMULATION_SEEDS` says how many there are, `SIMULATION_SEED` repeats one.
//!
//! The store works on files of a temporary folder, without threads. It knows itself what it has
//! synced: a loss of power cuts its files anywhere after that.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and reports how far it got"
)]

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tokenwire_core::log::LogStore;
use tokenwire_store::{DiskOptions, DiskStore};
use tokenwire_testkit::simulation::{Sabotage, SimulatedDisk, run_on};

/// Seeds of a run that asks for no other number.
const SEEDS: u64 = 1_000;
/// No new seed begins after this time.
const TIME: Duration = Duration::from_secs(60);

/// A folder, and the store of the process that runs.
#[derive(Debug)]
struct Disk {
    folder: tempfile::TempDir,
    running: Mutex<Option<Arc<DiskStore>>>,
}

/// Returns a folder in memory, if there is such a file system: the disk's own syncs prove nothing here.
fn folder() -> tempfile::TempDir {
    tempfile::TempDir::new_in("/dev/shm")
        .or_else(|_| tempfile::TempDir::new())
        .unwrap()
}

impl Disk {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            folder: folder(),
            running: Mutex::default(),
        })
    }
}

impl SimulatedDisk for Disk {
    fn open(&self) -> Arc<dyn LogStore> {
        // Small files, so that they are rotated and logs are written again.
        let options = DiskOptions {
            file_bytes: 8 * 1024,
            journal_files: 3,
            ..DiskOptions::new(self.folder.path())
        };
        let store = Arc::new(DiskStore::open_inline(&options).unwrap());
        *self.running.lock().unwrap() = Some(store.clone());
        store
    }

    fn sync(&self) {
        if let Some(store) = &*self.running.lock().unwrap() {
            store.turn();
        }
    }

    fn crash(&self, draw: &mut dyn FnMut(u64) -> u64) -> bool {
        let store = self.running.lock().unwrap().take().unwrap();
        let store = Arc::into_inner(store).expect("nothing uses the store any more");
        let loses = draw(2) > 0;
        if loses {
            store.lose_power(draw).unwrap();
        }
        // The names of folders ascend by the millisecond.
        std::thread::sleep(Duration::from_millis(2));
        loses
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Runs a seed. A violation is reported with the end of the trace and the command that repeats it.
fn simulate(seed: u64) -> Vec<u8> {
    run_on(seed, Sabotage::None, Disk::new()).unwrap_or_else(|violation| {
        let path = std::env::temp_dir().join(format!("disk-simulation-{seed}.trace"));
        let written = std::fs::write(&path, &violation.trace);
        let repeat = "cargo test -p tokenwire-store --test simulation";
        panic!(
            "seed {seed}: {}\nrepeat it: SIMULATION_SEED={seed} {repeat}\ntrace: {} ({written:?})",
            violation.what,
            path.display()
        );
    })
}

#[test]
fn readers_get_each_event_once_whatever_a_crash_takes() {
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
fn disk_that_loses_what_was_synced_is_noticed() {
    /// Syncs nothing, and says that it did.
    #[derive(Debug)]
    struct Liar(Arc<Disk>);

    impl SimulatedDisk for Liar {
        fn open(&self) -> Arc<dyn LogStore> {
            self.0.open()
        }

        fn crash(&self, draw: &mut dyn FnMut(u64) -> u64) -> bool {
            self.0.crash(draw)
        }
    }

    let noticed = (0..40).any(|seed| {
        let disk = Arc::new(Liar(Disk::new()));
        run_on(seed, Sabotage::None, disk).is_err()
    });
    assert!(noticed);
}
