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
use super::process::Process;
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

/// Finds generations that run on without readers.
#[derive(Default)]
struct Abandoned(BTreeMap<usize, (usize, Instant)>);

impl Abandoned {
    /// Returns a generation that nothing has read for longer than its grace.
    fn look(&mut self, world: &World, process: &Process) -> Option<usize> {
        let now = Instant::now();
        let model = world.model.lock();
        for (number, known) in model.generations.iter().enumerate() {
            let found = process.find_local(&known.id);
            let alone = found.filter(|generation| {
                !generation.is_over() && generation.readers() == 0 && !generation.meta().background
            });
            // A reader that came and left in between has made a connection.
            let connections = known.connections.len();
            match (alone, self.0.get(&number)) {
                (None, _) => drop(self.0.remove(&number)),
                (Some(_), Some((before, since))) if *before == connections => {
                    if now.duration_since(*since) > world.plan.grace {
                        return Some(number);
                    }
                }
                (Some(_), _) => drop(self.0.insert(number, (connections, now))),
            }
        }
        None
    }
}

/// Looks at readers and generations from time to time.
pub(super) async fn watch(world: Arc<World>, process: Arc<Process>) {
    let mut abandoned = Abandoned::default();
    let began = Instant::now();
    let mut dice = Dice::new(world.seed, "watcher");
    let mut at = 1;
    loop {
        at += dice.millis(10..=160);
        sleep_until(began + Duration::from_millis(at)).await;
        if let Some(wrong) = world.watched.overlooked() {
            world.fail(wrong);
        }
        if let Some(number) = abandoned.look(&world, &process) {
            world.fail(format!("generation {number} runs on without a reader"));
        }
    }
}
