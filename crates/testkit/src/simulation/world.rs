//! What outlives a process of the simulation: the store, the clients' memory, the model.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokenwire_core::dialect::Framing;
use tokenwire_core::log::LogStore;
use tokenwire_core::model::id::{GenerationId, IdSource};
use tokenwire_core::upstream::Timeouts;
use tokio::sync::Notify;

use super::broken_framing::BrokenFraming;
use super::dice::Dice;
use super::disk::SimulatedDisk;
use super::model::Model;
use super::plan::Plan;
use super::trace::Trace;
use super::upstream::UpstreamWorld;
use super::view::View;
use super::waiting::Watched;

/// Something that is broken on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing.
    #[default]
    None,
    /// Every frame of this many is not written.
    LoseFrame(usize),
    /// Every frame of this many is written twice.
    RepeatFrame(usize),
}

/// See the documentation of the module.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) trace: Trace,
    pub(super) model: Mutex<Model>,
    pub(super) watched: Watched,
    pub(super) disk: Arc<dyn SimulatedDisk>,
    /// What the store has, without its faults. `None` between two processes.
    stored: Mutex<Option<Arc<dyn LogStore>>>,
    pub(super) failed: Notify,
    sabotage: Sabotage,
    frames: Arc<AtomicUsize>,
    ids: Mutex<Dice>,
    requests: AtomicU64,
    violation: Mutex<Option<String>>,
}

impl World {
    pub(super) fn new(seed: u64, sabotage: Sabotage, disk: Arc<dyn SimulatedDisk>) -> Arc<Self> {
        let stored = Mutex::new(Some(disk.open()));
        Arc::new(Self {
            seed,
            plan: Plan::draw(seed),
            trace: Trace::default(),
            model: Mutex::default(),
            watched: Watched::default(),
            disk,
            stored,
            failed: Notify::new(),
            sabotage,
            frames: Arc::default(),
            ids: Mutex::new(Dice::new(seed, "ids")),
            requests: AtomicU64::new(0),
            violation: Mutex::default(),
        })
    }

    /// Returns what the store has, without its faults.
    pub(super) fn stored(&self) -> Arc<dyn LogStore> {
        let stored = self.stored.lock().clone();
        stored.expect("the store of a process that runs")
    }

    /// Ends the process's use of the disk and opens it for the next one. Returns whether what was not
    /// synced may be lost.
    pub(super) fn reopen(&self, draw: &mut dyn FnMut(u64) -> u64) -> bool {
        *self.stored.lock() = None;
        let loses = self.disk.crash(draw);
        *self.stored.lock() = Some(self.disk.open());
        loses
    }

    /// Notes that something is not as it must be. The first such note ends the simulation.
    pub(super) fn fail(&self, what: String) {
        self.trace.note(format_args!("VIOLATION: {what}"));
        self.violation.lock().get_or_insert(what);
        self.failed.notify_one();
    }

    /// Returns what went wrong.
    pub(super) fn violation(&self) -> Option<String> {
        self.violation.lock().clone()
    }

    /// Returns a number for a request without a key.
    pub(super) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the framing of a client's readers.
    pub(super) fn framing(&self, view: View) -> Arc<dyn Framing> {
        let framing = view.framing();
        let (every, times) = match self.sabotage {
            Sabotage::None => return framing,
            Sabotage::LoseFrame(every) => (every, 0),
            Sabotage::RepeatFrame(every) => (every, 2),
        };
        Arc::new(BrokenFraming {
            inner: framing,
            every,
            times,
            frames: self.frames.clone(),
        })
    }
}

impl UpstreamWorld for World {
    fn seed(&self) -> u64 {
        self.seed
    }

    fn timeouts(&self) -> Timeouts {
        self.plan.timeouts
    }

    fn called(&self, marker: String) -> usize {
        self.model.lock().called(marker)
    }

    fn delivered(&self, call: usize, text: &str) {
        self.model.lock().delivered(call, text);
    }

    fn note(&self, what: fmt::Arguments<'_>) {
        self.trace.note(what);
    }
}

/// Makes ids of the seed.
pub(super) struct SeededIds(pub(super) Arc<World>);

impl fmt::Debug for SeededIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeededIds").finish_non_exhaustive()
    }
}

impl IdSource for SeededIds {
    fn generation_id(&self) -> GenerationId {
        let id = format!("resp_{}", self.0.ids.lock().suffix());
        id.parse().expect("letters and digits are an id")
    }
}
