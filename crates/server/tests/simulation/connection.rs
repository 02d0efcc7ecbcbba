//! One connection of a client, in the process that it is connected to.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;

use parking_lot::Mutex;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{Cursor, Resumption};
use tokenwire_core::generation::{ReaderGuard, Subscription, SubscriptionError};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_testkit::Line;
use tokenwire_testkit::simulation::{Dice, End, View, output_text};

use crate::client::{Action, Memory};
use crate::known::Deletion;
use crate::process::Process;
use crate::turn::now;
use crate::world::World;

/// See the documentation of the module.
pub(crate) struct Session {
    pub(crate) world: Arc<World>,
    pub(crate) process: Arc<Process>,
    pub(crate) memory: Arc<Mutex<Memory>>,
}

/// A connection that reads: the generation, its view, and the number of the connection.
#[derive(Clone, Copy)]
struct Connected {
    generation: usize,
    view: View,
    connection: usize,
}

impl Session {
    pub(crate) async fn run(self, action: Action) {
        match action {
            Action::Start => self.start().await,
            Action::Resume => self.resume().await,
            Action::Poll(number) => self.poll(number).await,
            Action::Cancel(number) => self.cancel(number).await,
            Action::Delete(number) => self.delete(number).await,
        }
    }

    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let (number, process) = (self.memory.lock().number, self.process.number);
        let who = format_args!("client {number} at {process}: {what}").to_string();
        self.world.note(format_args!("{who}"));
    }

    pub(crate) fn fail(&self, what: fmt::Arguments<'_>) {
        let (number, process) = (self.memory.lock().number, self.process.number);
        self.world
            .fail(format!("client {number} at process {process}: {what}"));
    }

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Dice) -> T) -> T {
        draw(&mut self.memory.lock().dice)
    }

    fn id(&self, number: usize) -> GenerationId {
        self.world.model.lock().generations[number].id.clone()
    }

    /// Comes back to what it reads: at its last number, or behind it.
    async fn resume(&self) {
        let Some(reading) = self.memory.lock().reading.clone() else {
            return;
        };
        let number = reading.generation;
        let view = self.draw(View::draw).with_dialect(reading.dialect);
        let applied = reading.applied.filter(|_| view.is_numbered());
        let after = self.draw(|dice| match (applied, dice.range(0..=99)) {
            (Some(applied), 0..=9) => applied.checked_sub(dice.range(1..=8)),
            (applied, _) => applied,
        });
        let cursor = Cursor {
            id: self.id(number),
            after,
        };
        self.note(format_args!("resumes {number} as {view} after {after:?}"));
        let began = self.deletion(number);
        let owner = &Owner::Anonymous;
        let resumed = self
            .process
            .engine
            .resume(&cursor, owner, view.kind())
            .await;
        self.check_found(number, began, resumed.as_ref().map(drop));
        match resumed {
            Ok(Resumption::Read { guard, from }) => self.read(view, after, (guard, from)).await,
            Ok(Resumption::NothingLeft { .. }) => {
                self.note(format_args!("nothing is left"));
                self.memory.lock().reading = None;
            }
            Ok(Resumption::Reset { generation }) => {
                let (seq, event) = generation.reset_event();
                self.note(format_args!("is reset at {seq}"));
                let mut memory = self.memory.lock();
                let reset = memory
                    .reading
                    .as_mut()
                    .map(|reading| reading.reset(seq.0, &event));
                drop(memory);
                if let Some(Err(wrong)) = reset {
                    self.fail(format_args!("is reset at {seq}: {wrong}"));
                }
            }
            Ok(Resumption::Lost(_)) => self.lost(number),
            Err(error) if error.status == 503 => self.note(format_args!("comes later")),
            Err(error) => {
                self.note(format_args!("is refused: {:?}", error.code));
                if error.code.as_deref() == Some("producer_lost") {
                    self.lost(number);
                }
                self.memory.lock().reading = None;
            }
        }
    }

    /// Reads until the end, or until the client leaves and this is dropped.
    pub(crate) async fn read(&self, view: View, after: Option<u64>, from: (ReaderGuard, Seq)) {
        let (guard, from) = from;
        let Some(generation) = self.memory.lock().reading.as_mut().map(|reading| {
            reading.connect(after);
            reading.generation
        }) else {
            return;
        };
        let connection = {
            let mut model = self.world.model.lock();
            model.generations[generation].connect(view, after)
        };
        let connected = Connected {
            generation,
            view,
            connection,
        };
        let framing = self.world.framing(view);
        let mut subscription = Subscription::new(guard, from, view.dialect(), framing);
        loop {
            match poll_fn(|cx| subscription.poll_next(cx)).await {
                Some(Ok(bytes)) => {
                    for line in Line::all(&bytes) {
                        self.take(connected, &line);
                    }
                }
                Some(Err(error)) => return self.ended(connected, Err(error)),
                None => return self.ended(connected, Ok(())),
            }
        }
    }

    /// Takes one frame.
    fn take(&self, connected: Connected, line: &Line) {
        let Connected {
            generation,
            view,
            connection,
        } = connected;
        let (seq, data) = (line.seq, &line.data);
        self.note(format_args!("reads {generation} as {view} {seq} {data}"));
        let is_reset = data.starts_with(r#"{"type":"tokenwire:reset""#);
        let observed = {
            let mut model = self.world.model.lock();
            let known = &mut model.generations[generation];
            if is_reset {
                known.observe_reset(connection, seq)
            } else {
                known.observe(connection, line)
            }
        };
        let applied = match &mut self.memory.lock().reading {
            Some(reading) if is_reset => reading.reset(seq, data.as_bytes()),
            Some(reading) => reading.apply(line),
            None => Ok(()),
        };
        let applied = observed.and(applied).and(self.check_ends(generation));
        if let Err(wrong) = applied {
            self.fail(format_args!("reads {generation} as {view}: {wrong}"));
        }
    }

    /// Notes the end of a subscription, and checks what was read.
    fn ended(&self, connected: Connected, end: Result<(), SubscriptionError>) {
        let Connected {
            generation,
            view,
            connection,
        } = connected;
        self.note(format_args!("has read {generation} as {view}: {end:?}"));
        let may_end_twice = self.world.may_end_twice(generation);
        let mut memory = self.memory.lock();
        let Some(reading) = &mut memory.reading else {
            return;
        };
        let mut model = self.world.model.lock();
        let verdict = match end {
            Ok(()) | Err(SubscriptionError::BrokenOff) => {
                let known = &mut model.generations[generation];
                known.connections[connection].is_complete = true;
                let was_cut = known.adopted.is_some();
                if view.dialect() == Dialect::Text {
                    reading.ended = Some(if end.is_ok() {
                        End::Answered
                    } else {
                        End::Failed
                    });
                }
                if reading.ended.is_none() {
                    Err("the stream ends without a terminal event".to_owned())
                } else if was_cut && view.dialect() == Dialect::Text {
                    Ok(())
                } else {
                    let checked = reading.check(&model.text(generation), was_cut);
                    // Which of the ends it has read is not known.
                    checked.or_else(|wrong| if may_end_twice { Ok(()) } else { Err(wrong) })
                }
            }
            // It comes back, and finds out.
            Err(
                SubscriptionError::Expired
                | SubscriptionError::ProducerLost
                | SubscriptionError::Lost,
            ) => Ok(()),
            Err(SubscriptionError::Corrupt) => Err("a record is damaged".to_owned()),
        };
        drop((memory, model));
        if let Err(wrong) = verdict {
            self.fail(format_args!("has read {generation} as {view}: {wrong}"));
        }
    }

    async fn poll(&self, number: usize) {
        let (id, began) = (self.id(number), self.deletion(number));
        let found = self.process.engine.find(&id, &Owner::Anonymous).await;
        self.check_found(number, began, found.as_ref().map(drop));
        let Ok(generation) = found else {
            return;
        };
        let object = serde_json::from_slice(&generation.response_json());
        let text = output_text(&object.expect("a poll is JSON"));
        self.note(format_args!("polls {number}: {text:?}"));
        let delivered = self.world.model.lock().text(number);
        if !delivered.starts_with(&text) {
            self.fail(format_args!(
                "polls {text:?}, the upstream sent {delivered:?}"
            ));
        }
    }

    async fn cancel(&self, number: usize) {
        let (id, began) = (self.id(number), self.deletion(number));
        let found = self.process.engine.find(&id, &Owner::Anonymous).await;
        self.check_found(number, began, found.as_ref().map(drop));
        if let Ok(generation) = found {
            self.note(format_args!("cancels {number}"));
            generation.cancel();
        }
    }

    async fn delete(&self, number: usize) {
        let id = self.id(number);
        self.note(format_args!("deletes {number}"));
        let set = |deletion| self.world.model.lock().generations[number].deletion = deletion;
        let before = self.deletion(number);
        if before == Deletion::None {
            set(Deletion::Asked);
        }
        let deleted = self
            .process
            .engine
            .delete_by_id(&id, &Owner::Anonymous)
            .await;
        self.check_found(number, before, deleted.as_ref().map(drop));
        match deleted {
            Ok(()) => {
                set(Deletion::Answered);
                self.world.model.lock().generations[number].deleted = now();
            }
            Err(error) if error.status == 404 => {}
            Err(error) => self.note(format_args!("may have deleted {number}: {:?}", error.code)),
        }
    }
}
