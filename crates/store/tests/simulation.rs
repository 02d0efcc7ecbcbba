//! Simulations of the gateway over the disk store: processes are killed, and power is lost, at moments
//! that the seed says. `SIMULATION_SEEDS` says how many there are, `SIMULATION_SEED` repeats one.
//!
//! The store works on files of a temporary folder, without threads. It knows itself what it has
//! synced: a loss of power cuts its files anywhere after that.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokenwire_core::log::LogStore;
use tokenwire_store::{DiskOptions, DiskStore};
use tokenwire_testkit::simulation::{Sabotage, Seeds, SimulatedDisk, run_on};

const SEEDS: Seeds = Seeds {
    package: "tokenwire-store",
    count: 1_000,
    regressions: &[],
    run: |seed| run_on(seed, Sabotage::None, Disk::new()),
};

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

#[test]
fn readers_get_each_event_once_whatever_a_crash_takes() {
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
