//! The readers that wait for the next frame.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokenwire_core::generation::Generation;
use tokenwire_core::model::id::Seq;

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
    pub(super) fn overlooked(&self) -> Option<String> {
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
