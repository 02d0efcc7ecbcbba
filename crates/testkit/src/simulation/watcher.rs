//! Looks at the world while everything waits.
//!
//! Everything else happens at even milliseconds, so at an odd one no task can run. A reader that
//! then waits although there is something to read was not woken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokenwire_core::generation::Generation;
use tokenwire_core::model::id::Seq;
use tokio::time::{Instant, sleep_until};

use super::dice::Dice;
use super::world::World;

/// A reader that waits for the next frame.
pub(super) struct Waiting {
    pub(super) generation: Arc<Generation>,
    /// The number of the next event.
    pub(super) position: Seq,
    /// Whether it is shown every event.
    pub(super) is_full: bool,
}

/// The readers that wait.
#[derive(Default)]
pub(super) struct Watched {
    readers: Mutex<(u64, BTreeMap<u64, Waiting>)>,
}

/// Removes a reader when it is dropped.
pub(super) struct WaitGuard<'a>(&'a Watched, u64);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        let removed = self.0.readers.lock().1.remove(&self.1);
        drop(removed);
    }
}

impl Watched {
    pub(super) fn enter(&self, waiting: Waiting) -> WaitGuard<'_> {
        let mut readers = self.readers.lock();
        readers.0 += 1;
        let number = readers.0;
        readers.1.insert(number, waiting);
        WaitGuard(self, number)
    }

    /// Returns what is wrong with a reader that waits now.
    fn overlooked(&self) -> Option<String> {
        let readers = self.readers.lock();
        readers.1.values().find_map(|waiting| {
            let tail = waiting.generation.tail().ok()?;
            let is_behind = waiting.is_full && tail.next > waiting.position;
            (is_behind || tail.sealed).then(|| {
                let id = &waiting.generation.meta().id;
                let (position, end) = (waiting.position, tail.next);
                format!("a reader of {id} waits at {position}, the log ends at {end}")
            })
        })
    }
}

/// Looks at the readers from time to time.
pub(super) async fn watch(world: Arc<World>) {
    let began = Instant::now();
    let mut dice = Dice::new(world.seed, "watcher");
    let mut at = 1;
    loop {
        at += dice.millis(10..=160);
        sleep_until(began + Duration::from_millis(at)).await;
        if let Some(wrong) = world.watched.overlooked() {
            world.fail(wrong);
        }
    }
}
