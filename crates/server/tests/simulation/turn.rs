//! The virtual time of a simulation, and runtimes that follow it turn by turn.

use std::cell::Cell;
use std::time::Duration;

use tokenwire_core::model::random::replace_random;
use tokenwire_core::model::time::replace_clock;
use tokenwire_testkit::simulation::Dice;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{Instant, advance, sleep_until};

/// The Unix time at which every simulation begins, in seconds.
const BEGIN: u64 = 1_800_000_000;
/// The time of a turn in milliseconds. What one process sends another one sees in its next turn.
pub(crate) const TURN: u64 = 10;

thread_local! {
    /// Milliseconds since the begin of the simulation.
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// Returns the milliseconds since the begin of the simulation.
pub(crate) fn now() -> u64 {
    NOW.get()
}

/// Returns the time as Redis has it: Unix milliseconds.
pub(crate) fn unix_millis() -> u64 {
    BEGIN * 1000 + now()
}

/// The clock and the random numbers of one simulation, which replace those of the thread until it is
/// dropped.
pub(crate) struct Clock(());

impl Clock {
    pub(crate) fn install(seed: u64) -> Self {
        NOW.set(0);
        replace_clock(Some(|| BEGIN + now() / 1000));
        replace_random(Some(seed));
        Self(())
    }

    /// Begins the next turn.
    pub(crate) fn next(&self) {
        NOW.set(now() + TURN);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        replace_clock(None);
        replace_random(None);
    }
}

/// A runtime that runs when it has its turn.
pub(crate) struct Turns {
    runtime: Runtime,
    /// When it was made: on its own clock, and in the simulation.
    began: (Instant, u64),
    /// The time up to which it has run.
    reached: u64,
}

impl Turns {
    pub(crate) fn new(dice: &mut Dice) -> Self {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .event_interval(*dice.pick(&[1, 7, 61]))
            .build()
            .expect("a runtime without I/O can be built");
        let began = runtime.block_on(async { Instant::now() });
        Self {
            runtime,
            began: (began, now()),
            reached: now(),
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Runs all tasks for one turn. After a pause they find that time has passed at once.
    pub(crate) fn turn(&mut self) {
        let missed = now() - self.reached;
        self.reached = now() + TURN;
        let until = self.began.0 + Duration::from_millis(self.reached - self.began.1);
        self.runtime.block_on(async {
            if missed > 0 {
                advance(Duration::from_millis(missed)).await;
            }
            sleep_until(until).await;
        });
    }

    /// Enters the runtime, to make what it runs.
    pub(crate) fn enter<T>(&self, make: impl Future<Output = T>) -> T {
        self.runtime.block_on(make)
    }
}
