//! A node: its processes, one after another.

use std::sync::Arc;

use tokenwire_testkit::simulation::Dice;

use crate::process::Process;
use crate::turn::{Turns, now};
use crate::world::World;

/// A node. Its process runs, is paused, or is to be started.
pub(crate) struct Slot {
    world: Arc<World>,
    node: usize,
    dice: Dice,
    running: Option<(usize, Turns)>,
    starts_at: u64,
    paused_until: u64,
}

// === impl Slot ===

impl Slot {
    pub(crate) fn new(world: &Arc<World>, node: usize) -> Self {
        let mut dice = Dice::new(world.seed(), &format!("node {node}"));
        Self {
            world: world.clone(),
            node,
            starts_at: dice.range(0..=1_000),
            dice,
            running: None,
            paused_until: 0,
        }
    }

    pub(crate) fn node(&self) -> usize {
        self.node
    }

    pub(crate) fn crash(&mut self, restarts_after: u64) {
        let Some((number, turns)) = self.running.take() else {
            return;
        };
        self.world.note(format_args!("process {number} crashes"));
        self.world.health.lock()[number].ended = Some(now());
        let process = self.world.processes.lock()[self.node].take();
        drop(turns);
        drop(process);
        self.starts_at = now() + restarts_after;
        self.paused_until = 0;
    }

    pub(crate) fn pause(&mut self, time: u64) {
        if let Some((number, _)) = &self.running {
            self.world.note(format_args!("process {number} is paused"));
            self.world.health.lock()[*number].pause(now());
            self.paused_until = self.paused_until.max(now() + time);
        }
    }

    /// Runs its process for one turn, or starts one if it is time for that.
    pub(crate) fn turn(&mut self) {
        if self.running.is_none() {
            if now() < self.starts_at && !self.world.is_healed() {
                return;
            }
            let turns = Turns::new(&mut self.dice);
            let process = turns.enter(async { Process::start(&self.world, self.node) });
            let number = process.number;
            self.world.processes.lock()[self.node] = Some(process);
            self.running = Some((number, turns));
        }
        let Some((number, turns)) = &mut self.running else {
            return;
        };
        if self.paused_until > 0 {
            if now() < self.paused_until {
                return;
            }
            self.paused_until = 0;
            self.world.health.lock()[*number].wake(now());
            self.world.note(format_args!("process {number} goes on"));
        }
        turns.turn();
    }
}
