//! A client: it starts, reads, leaves, comes back at any node, polls, cancels and deletes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokenwire_testkit::simulation::{Dice, Reading, View};
use tokio::time::{sleep, timeout};

use crate::connection::Session;
use crate::known::Deletion;
use crate::process::Process;
use crate::turn::now;
use crate::world::World;

/// A client, which is connected to one node at a time.
pub(crate) struct Client {
    world: Arc<World>,
    memory: Arc<Mutex<Memory>>,
}

/// What a client remembers whatever happens to its connections.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) number: usize,
    pub(crate) dice: Dice,
    /// What it reads until it has seen the end.
    pub(crate) reading: Option<Reading>,
}

/// Something that a client asks a node for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Start,
    /// Comes back to what it reads.
    Resume,
    Poll(usize),
    Cancel(usize),
    Delete(usize),
}

/// A node that runs answers within this time, or refuses.
const PATIENCE: Duration = Duration::from_secs(40);

// === impl Client ===

impl Client {
    pub(crate) fn new(world: &Arc<World>, number: usize) -> Self {
        let memory = Memory {
            number,
            dice: Dice::new(world.seed(), &format!("client {number}")),
            reading: None,
        };
        Self {
            world: world.clone(),
            memory: Arc::new(Mutex::new(memory)),
        }
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut Dice) -> T) -> T {
        draw(&mut self.memory.lock().dice)
    }

    /// Runs until everything has happened, and the client has read to the end what it reads.
    pub(crate) async fn run(self) {
        loop {
            sleep(Duration::from_millis(self.draw(|dice| dice.range(0..=900)))).await;
            let action = match self.action() {
                Some(action) => action,
                None if self.world.is_healed() => return,
                None => continue,
            };
            if let Some(process) = self.node() {
                self.ask(&process, action).await;
            }
        }
    }

    /// Draws a node that serves. It may be paused.
    fn node(&self) -> Option<Arc<Process>> {
        let processes = self.world.processes.lock();
        let serving = processes
            .iter()
            .flatten()
            .filter(|process| process.serves());
        let serving: Vec<_> = serving.collect();
        (!serving.is_empty()).then(|| self.draw(|dice| (*dice.pick(&serving)).clone()))
    }

    /// Draws what the client does next.
    fn action(&self) -> Option<Action> {
        // A client that has seen the end does not come back.
        let memory = &mut *self.memory.lock();
        memory.reading.take_if(|reading| reading.ended.is_some());
        if memory.reading.is_some() {
            return Some(Action::Resume);
        }
        if self.world.is_healed() {
            return None;
        }
        let known = self.world.model.lock().generations.len() as u64;
        let dice = &mut memory.dice;
        let rolled = dice.range(0..=99);
        if known == 0 || rolled < 35 && known < 14 {
            return Some(Action::Start);
        }
        // The last ones are those that run.
        let number = dice.range(known.saturating_sub(5)..=known - 1) as usize;
        match rolled {
            0..=79 => {
                let view = View::draw(dice);
                memory.reading = Some(Reading::new(number, view));
                Some(Action::Resume)
            }
            80..=89 => Some(Action::Poll(number)),
            90..=95 => Some(Action::Cancel(number)),
            _ => Some(Action::Delete(number)),
        }
    }

    /// Connects to a node and asks it for something. The client may leave before it has all.
    async fn ask(&self, process: &Arc<Process>, action: Action) {
        let number = process.number;
        let session = Session {
            world: self.world.clone(),
            process: process.clone(),
            memory: self.memory.clone(),
        };
        let began = now();
        let mut task = process.handle.spawn(session.run(action));
        let reads = matches!(action, Action::Start | Action::Resume);
        let patience = if reads && self.draw(|dice| dice.chance(75)) {
            Duration::from_millis(self.draw(|dice| dice.range(200..=9_000)))
        } else {
            PATIENCE
        };
        match timeout(patience, &mut task).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) if error.is_panic() => {
                self.world
                    .fail(format!("a request to process {number} panicked"));
            }
            Ok(Err(_)) => self.note(format_args!("is cut off by process {number}")),
            Err(_) => {
                task.abort();
                self.note(format_args!("leaves process {number}"));
            }
        }
        if patience == PATIENCE && self.world.is_healed() && now() - began >= 39_000 && !reads {
            self.world
                .fail(format!("{action:?} at process {number} is never answered"));
        }
        if let Action::Delete(number) = action {
            let mut model = self.world.model.lock();
            let deletion = &mut model.generations[number].deletion;
            if *deletion == Deletion::None {
                *deletion = Deletion::Asked;
            }
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        let number = self.memory.lock().number;
        self.world.note(format_args!("client {number}: {what}"));
    }
}
