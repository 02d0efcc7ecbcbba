//! Simulated clients: they start, read, leave, come back, poll, cancel and delete.

use std::sync::Arc;
use std::time::Duration;

use tokenwire_core::engine::{Cursor, Resumption};
use tokenwire_core::generation::{Generation, ReaderGuard};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::{GenerationId, Seq};
use tokio::time::{sleep, timeout};

use super::model::{Connected, Deletion};
use super::reader::read;
use super::reading::{Reading, output_text};
use super::session::{Client, Session};
use super::view::View;

/// A cancelled generation ends within this time.
const CANCEL: Duration = Duration::from_millis(10);

enum Action {
    Resume(Reading),
    Start,
    Attach,
    Poll,
    Cancel,
    Delete,
    Done,
}

/// Draws what a client does next.
fn action(client: &mut Client, has_audience: bool) -> Action {
    // A client that has seen the end does not come back.
    client.reading.take_if(|reading| reading.ended.is_some());
    if let Some(reading) = &client.reading {
        return Action::Resume(reading.clone());
    }
    if client.left == 0 {
        return Action::Done;
    }
    client.left -= 1;
    let rolled = client.dice.range(0..=99);
    if has_audience && rolled >= 20 {
        return Action::Attach;
    }
    match rolled {
        0..=54 => Action::Start,
        55..=79 => Action::Attach,
        80..=89 => Action::Poll,
        90..=95 => Action::Cancel,
        _ => Action::Delete,
    }
}

// === impl Session ===

impl Session {
    /// Runs until the client has done everything.
    pub(super) async fn run(self) {
        loop {
            let (pause, action) = {
                let mut client = self.client.lock();
                (
                    client.dice.millis(0..=400),
                    action(&mut client, self.world.plan.has_audience),
                )
            };
            sleep(Duration::from_millis(pause)).await;
            match action {
                Action::Resume(reading) => self.resume(reading).await,
                Action::Start => self.start().await,
                Action::Attach => self.attach().await,
                Action::Poll => self.poll().await,
                Action::Cancel => self.cancel().await,
                Action::Delete => self.delete().await,
                Action::Done => return,
            }
        }
    }

    /// Draws a generation that some client has started.
    fn any(&self) -> Option<(usize, GenerationId)> {
        let model = self.world.model.lock();
        let count = model.generations.len() as u64;
        (count > 0).then(|| {
            let latest = self.world.plan.has_audience;
            let first = if latest { count - 1 } else { 0 };
            let number = self.draw(|dice| dice.range(first..=count - 1)) as usize;
            (number, model.generations[number].id.clone())
        })
    }

    /// Returns a generation, or checks that it may be gone.
    async fn find(&self, number: usize, id: &GenerationId) -> Option<Arc<Generation>> {
        let found = self.process.find(id).await;
        self.check_found(number, found.as_ref().map(drop));
        found.ok()
    }

    /// Checks the result of asking for a generation.
    fn check_found(&self, number: usize, found: Result<(), &ApiError>) {
        let (deletion, is_lost) = {
            let model = self.world.model.lock();
            let known = &model.generations[number];
            (known.deletion, known.is_lost)
        };
        match found {
            Ok(()) if deletion == Deletion::Answered && !self.world.plan.lies => {
                self.fail(format_args!(
                    "generation {number} is there after it was deleted"
                ));
            }
            Err(error)
                if error.status == 404
                    && deletion == Deletion::None
                    && !is_lost
                    && !self.world.plan.forgets =>
            {
                self.fail(format_args!("generation {number} is gone"));
            }
            _ => {}
        }
    }

    async fn attach(&self) {
        let Some((number, _)) = self.any() else {
            return;
        };
        let shared = self.world.plan.has_audience && self.draw(|dice| dice.chance(70));
        let view = if shared {
            View::FULL
        } else {
            self.draw(View::draw)
        };
        self.client.lock().reading = Some(Reading::new(number, view));
        self.resume_as(number, view).await;
    }

    async fn resume(&self, reading: Reading) {
        let view = self.draw(View::draw).with_dialect(reading.dialect);
        self.resume_as(reading.generation, view).await;
    }

    /// Comes back to what it reads: at its last number, or behind or ahead of it.
    async fn resume_as(&self, number: usize, view: View) {
        let Some(reading) = self.client.lock().reading.take() else {
            return;
        };
        let id = self.world.model.lock().generations[number].id.clone();
        let applied = reading.applied.filter(|_| view.is_numbered());
        let after = self.draw(|dice| match (applied, dice.range(0..=99)) {
            (Some(applied), 0..=9) => Some(applied.saturating_sub(dice.range(1..=8))),
            (Some(_), 10..=12) => None,
            (Some(applied), 13..=14) => Some(applied + dice.range(1..=60)),
            (applied, _) => applied,
        });
        let resumed = self.ask(number, id, view, after).await;
        match resumed {
            Ok(Resumption::Read { guard, from }) => {
                self.read(reading, view, after, (guard, from)).await;
            }
            Ok(Resumption::NothingLeft { .. }) => self.note(format_args!("nothing is left")),
            Ok(Resumption::Reset { generation }) => {
                let mut reading = reading;
                let (seq, event) = generation.reset_event();
                let text = String::from_utf8_lossy(&event);
                self.note(format_args!("is reset at {seq}: {text}"));
                if let Err(wrong) = reading.reset(seq.0, &event) {
                    self.fail(format_args!("is reset at {seq}: {wrong}"));
                }
            }
            Ok(Resumption::Lost(_)) => self.fail(format_args!("is told of a lost node")),
            Err(error) if error.status == 503 => {
                self.note(format_args!("comes later"));
                self.client.lock().reading = Some(reading);
            }
            Err(error) => self.note(format_args!("is refused: {:?}", error.code)),
        }
    }

    /// Reads until the end, or until the client leaves.
    pub(super) async fn read(
        &self,
        reading: Reading,
        view: View,
        after: Option<u64>,
        from: (ReaderGuard, Seq),
    ) {
        let (guard, from) = from;
        let connected = Connected {
            generation: reading.generation,
            view,
            after,
        };
        self.client.lock().reading = Some(reading);
        read(self, connected, guard, from).await;
        // A browser comes back after the end, too.
        let (id, end) = {
            let known = &self.world.model.lock().generations[connected.generation];
            let end = known.last_of(view).filter(|_| view.is_numbered());
            (known.id.clone(), end)
        };
        if let Some(end) = end.filter(|_| self.draw(|dice| dice.chance(20))) {
            let _ = self.ask(connected.generation, id, view, Some(end)).await;
        }
    }

    /// Applies the resume table and checks the result.
    async fn ask(
        &self,
        number: usize,
        id: GenerationId,
        view: View,
        after: Option<u64>,
    ) -> Result<Resumption, ApiError> {
        let cursor = Cursor { id, after };
        let resumed = self.process.resume(&cursor, view.kind()).await;
        self.check_found(number, resumed.as_ref().map(drop));
        self.note(format_args!("resumes {number} as {view} after {after:?}"));
        let local = self.process.find_local(&cursor.id);
        if let Some(expected) = local.and_then(|local| self.expect(number, &local, after)) {
            let checked = expected.check(view.kind(), &resumed);
            checked.unwrap_or_else(|wrong| {
                self.fail(format_args!(
                    "resumes {number} as {view} after {after:?}: {wrong}"
                ));
            });
        }
        resumed
    }

    async fn poll(&self) {
        let Some((number, id)) = self.any() else {
            return;
        };
        let Some(generation) = self.find(number, &id).await else {
            return;
        };
        let bytes = generation.response_json();
        self.note(format_args!(
            "polls {number}: {}",
            String::from_utf8_lossy(&bytes)
        ));
        match serde_json::from_slice(&bytes) {
            Ok(object) => {
                let (text, delivered) =
                    (output_text(&object), self.world.model.lock().text(number));
                if !delivered.starts_with(&text) {
                    self.fail(format_args!(
                        "polls {text:?}, the upstream sent {delivered:?}"
                    ));
                }
            }
            Err(error) => self.fail(format_args!("polls what is not JSON: {error}")),
        }
    }

    async fn cancel(&self) {
        let Some((number, id)) = self.any() else {
            return;
        };
        let Some(generation) = self.find(number, &id).await else {
            return;
        };
        self.note(format_args!("cancels {number}"));
        generation.cancel();
        if timeout(CANCEL, generation.ended()).await.is_err() {
            self.fail(format_args!(
                "generation {number} runs on after it was cancelled"
            ));
        }
    }

    async fn delete(&self) {
        let Some((number, id)) = self.any() else {
            return;
        };
        let Some(generation) = self.find(number, &id).await else {
            return;
        };
        self.note(format_args!("deletes {number}"));
        let set = |deletion| self.world.model.lock().generations[number].deletion = deletion;
        set(Deletion::Asked);
        self.process.delete(&generation).await;
        set(Deletion::Answered);
        self.note(format_args!("has deleted {number}"));
    }
}
