//! The one who appends to a generation's log, and who never leaves it without an end.

use std::sync::Arc;

use super::{Generation, unix_now};
use crate::dialect::KnownTemplate;
use crate::error::{ApiError, ErrorCode};
use crate::event::{Ending, EventKind, Failure, Outcome};
use crate::log::{AppendError, Epoch};
use crate::record::RecordBatch;
use crate::record::WholeRecord;
use crate::snapshot::Snapshot;
use crate::translate::Scribe;
use crate::upstream::OpenError;

fn gone() -> OpenError {
    OpenError::Failed(ApiError::new(
        ErrorCode::InternalError,
        "The generation ended before its upstream answered.",
    ))
}

/// The right to append. Dropping it seals the log.
#[derive(Debug)]
pub(crate) struct Writer {
    generation: Arc<Generation>,
    epoch: Epoch,
    done: bool,
}

impl Writer {
    pub(crate) fn new(generation: Arc<Generation>) -> Self {
        let epoch = generation.log().take_over();
        Self {
            generation,
            epoch,
            done: false,
        }
    }

    pub(crate) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Appends what the scribe has collected.
    pub(crate) fn append(&mut self, scribe: &mut Scribe) -> Result<(), AppendError> {
        if scribe.batch().is_empty() {
            return Ok(());
        }
        self.publish_templates(scribe);
        let result = self.generation.log().append(self.epoch, scribe.batch());
        if result.is_ok() {
            scribe.clear();
        }
        result
    }

    /// Appends what the scribe has collected, with the terminal event in it, and seals.
    pub(crate) fn seal(&mut self, scribe: &mut Scribe) {
        self.publish_templates(scribe);
        if self
            .generation
            .log()
            .seal(self.epoch, scribe.batch())
            .is_ok()
        {
            self.announce();
        }
        scribe.clear();
    }

    /// Readers must know a template before they see a record that uses it.
    fn publish_templates(&self, scribe: &mut Scribe) {
        for (head, template) in scribe.take_templates() {
            self.generation.add_template(KnownTemplate::new(
                &self.generation.meta().id,
                head.as_ref(),
                template,
            ));
        }
    }

    fn announce(&mut self) {
        self.done = true;
        self.generation.opening().settle(Err(gone()));
        // The response object must be whole before the log can expire.
        self.generation.with_snapshot(|_| ());
        self.generation.announce_end();
    }

    /// Closes what the log left open and ends it, whatever state the scribe was left in.
    pub(crate) fn seal_abruptly(&mut self, error: &ApiError) {
        let Ok(tail) = self.generation.log().tail() else {
            return;
        };
        let outcome = Outcome {
            ending: Ending::Failed(Failure::from(error)),
            at: unix_now(),
            usage: None,
            relayed: None,
        };
        let mut batch = RecordBatch::default();
        batch.restart(tail.next);
        let mut events = self.generation.with_snapshot(Snapshot::closing_events);
        events.push(EventKind::End(outcome));
        batch.push_whole(&WholeRecord { events, raw: None });
        self.generation
            .opening()
            .settle(Err(OpenError::Failed(error.clone())));
        if self.generation.log().seal(self.epoch, &batch).is_ok() {
            self.announce();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.done {
            // Its task was dropped: the worker stops, or a panic came from where it was not caught.
            self.seal_abruptly(&ApiError::new(
                ErrorCode::ShuttingDown,
                "The gateway stopped before the answer was whole.",
            ));
        }
        if !self.done {
            // The log was deleted, or is another's now: whoever waits for this writer is told all
            // the same.
            self.generation.opening().settle(Err(gone()));
            self.generation.announce_end();
        }
    }
}
