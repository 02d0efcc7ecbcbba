//! The virtual time of a simulation, which goes on from one process to the next.

use std::cell::Cell;
use std::time::Duration;

use tokenwire_core::model::time::replace_clock;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::dice::Dice;

/// The Unix time at which every simulation begins.
const BEGIN: u64 = 1_800_000_000;

thread_local! {
    /// When the running process began: on its runtime's clock, and since the begin of the
    /// simulation.
    static PROCESS: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// The clock of one simulation. It replaces the thread's wall clock until it is dropped.
#[derive(Debug)]
pub(super) struct Clock(());

impl Clock {
    pub(super) fn install() -> Self {
        PROCESS.set(None);
        replace_clock(Some(|| BEGIN + elapsed().as_secs()));
        Self(())
    }

    /// Returns the runtime of a process: one thread, and a clock that moves when all tasks wait.
    pub(super) fn runtime(&self, dice: &mut Dice) -> Runtime {
        Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            // The process can end between any two steps of its tasks if this is one.
            .event_interval(*dice.pick(&[1, 1, 2, 7, 61]))
            .build()
            .expect("a runtime without I/O can be built")
    }

    /// Notes that a process begins on the current runtime.
    pub(super) fn begin_process(&self) {
        let since = PROCESS.get().map_or(Duration::ZERO, |(_, since)| since);
        PROCESS.set(Some((Instant::now(), since)));
    }

    /// Notes that the process of the current runtime ends.
    pub(super) fn end_process(&self) {
        PROCESS.set(Some((Instant::now(), elapsed())));
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        replace_clock(None);
        PROCESS.set(None);
    }
}

/// Returns the virtual time since the begin of the simulation.
pub(super) fn elapsed() -> Duration {
    PROCESS
        .get()
        .map_or(Duration::ZERO, |(began, since)| since + began.elapsed())
}
