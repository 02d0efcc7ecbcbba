//! A client, and its time within one process.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::dice::Dice;
use super::process::Process;
use super::reading::Reading;
use super::world::World;

/// What a client remembers, also when the gateway crashes.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) number: usize,
    pub(super) dice: Dice,
    /// Things that it still does.
    pub(super) left: u64,
    /// What it reads until it has seen the end.
    pub(super) reading: Option<Reading>,
}

/// One client within one process.
pub(super) struct Session {
    pub(super) world: Arc<World>,
    pub(super) process: Arc<Process>,
    pub(super) client: Arc<Mutex<Client>>,
}

impl Client {
    pub(super) fn new(seed: u64, number: usize) -> Self {
        let mut dice = Dice::new(seed, &format!("client {number}"));
        let left = dice.range(2..=6);
        Self {
            number,
            dice,
            left,
            reading: None,
        }
    }
}

// === impl Session ===

impl Session {
    /// Notes what the client does.
    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        let number = self.client.lock().number;
        self.world
            .trace
            .note(format_args!("client {number}: {what}"));
    }

    /// Notes that the client got what it must not get.
    pub(super) fn fail(&self, what: fmt::Arguments<'_>) {
        let number = self.client.lock().number;
        self.world.fail(format!("client {number}: {what}"));
    }

    /// Makes a decision of the client.
    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut Dice) -> T) -> T {
        draw(&mut self.client.lock().dice)
    }
}
