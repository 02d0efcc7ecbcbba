//! Looks at the world while everything waits.
//!
//! Everything else happens at even milliseconds, so at an odd one no task can run. A reader that
//! then waits although there is something to read was not woken.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::dice::Dice;
use super::process::Process;
use super::world::World;

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
            // Some clients came and left in between.
            let clients = known.connections.len() + known.silent;
            match (alone, self.0.get(&number)) {
                (None, _) => drop(self.0.remove(&number)),
                (Some(_), Some((before, since))) if *before == clients => {
                    if now.duration_since(*since) > world.plan.grace {
                        return Some(number);
                    }
                }
                (Some(_), _) => drop(self.0.insert(number, (clients, now))),
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
