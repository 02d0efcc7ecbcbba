//! A Redis in memory: the commands and scripts of Tokenwire, with the time that the caller gives.
//!
//! ```text
//!   commands ──▶ SimulatedRedis ──▶ keys in memory
//!                  │       ▲
//!                  ▼       │ redis.call
//!                Lua 5.1 ──┘   the scripts as they are
//! ```
//!
//! Each command is one step, and so is each script: nothing else runs in between, as in Redis. Time
//! goes on when the caller says so. Replies are compared with those of a real server in
//! `crates/store/tests/simulated_redis.rs`, and the store in Redis passes its conformance suite on it.

mod command;
mod data;
mod reply;
mod script;
mod stream;

pub use reply::Reply;
pub use stream::EntryId;

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use command::run;
use data::Data;
use script::Scripts;

/// See the documentation of the module.
pub struct SimulatedRedis {
    data: Arc<Mutex<Data>>,
    scripts: Mutex<Scripts>,
}

/// An entry that was added to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// The stream's key.
    pub key: String,
    /// The entry's id.
    pub id: EntryId,
    /// The names and values of its fields.
    pub fields: Vec<Vec<u8>>,
}

impl fmt::Debug for SimulatedRedis {
    /// Omits the data, which are contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedRedis").finish_non_exhaustive()
    }
}

impl Default for SimulatedRedis {
    fn default() -> Self {
        Self::new()
    }
}

// === impl SimulatedRedis ===

impl SimulatedRedis {
    /// Creates an empty server.
    ///
    /// # Panics
    /// If there is no memory for Lua.
    #[must_use]
    pub fn new() -> Self {
        let data = Arc::<Mutex<Data>>::default();
        let scripts = Scripts::new(data.clone()).expect("Lua can be started");
        Self {
            data,
            scripts: Mutex::new(scripts),
        }
    }

    /// Carries out a command: its name and its arguments. `now` is the time in Unix milliseconds,
    /// and not before that of an earlier command.
    pub fn execute(&self, now: u64, command: &[Vec<u8>]) -> Reply {
        // Held for the whole command: no other one may run between two calls of a script.
        let mut scripts = self.scripts.lock();
        self.data.lock().now = now;
        let name = command.first().map(|name| name.to_ascii_uppercase());
        match name.as_deref() {
            Some(b"EVALSHA") => scripts.call(&command[1..]),
            Some(b"SCRIPT") => scripts.load(&command[1..]),
            _ => run(&mut self.data.lock(), command),
        }
    }

    /// Removes all keys, as `FLUSHALL` does.
    pub fn flush(&self) {
        self.data.lock().keys.clear();
    }

    /// Makes it take entries whose id is not above all others of their stream: no writer is fenced.
    pub fn ignore_order(&self) {
        self.data.lock().ignores_order = true;
    }

    /// Returns the entries that were added since the last call.
    pub fn take_added(&self) -> Vec<Added> {
        std::mem::take(&mut self.data.lock().added)
    }
}
