//! The one who appends to a generation's log, and who never leaves it without an end.

use std::sync::Arc;

use super::Generation;
use crate::dialect::known_template;
use crate::log::{AppendError, Epoch};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, EventKind, Failure, Outcome};
use crate::model::record::FullRecord;
use crate::model::record::RecordBatch;
use crate::model::snapshot::Snapshot;
use crate::model::time::unix_now;
use crate::upstream::OpenError;
use crate::upstream::translate::RecordWriter;

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
    pub(crate) fn append(&mut self, records: &mut RecordWriter) -> Result<(), AppendError> {
        if records.batch().is_empty() {
            return Ok(());
        }
        self.publish_templates(records);
        let result = self.generation.log().append(self.epoch, records.batch());
        if result.is_ok() {
            records.clear();
        }
        result
    }

    /// Appends what the scribe has collected, with the terminal event in it, and seals.
    pub(crate) fn seal(&mut self, records: &mut RecordWriter) {
        self.publish_templates(records);
        if self
            .generation
            .log()
            .seal(self.epoch, records.batch())
            .is_ok()
        {
            self.announce();
        }
        records.clear();
    }

    /// Readers must know a template before they see a record that uses it.
    fn publish_templates(&self, records: &mut RecordWriter) {
        for (head, template) in records.take_templates() {
            self.generation.add_template(known_template(
                &self.generation.meta().id,
                head.as_ref(),
                template,
            ));
        }
    }

    fn announce(&mut self) {
        self.done = true;
        self.generation.response_head().set(Err(gone()));
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
        batch.push_full(&FullRecord { events, raw: None });
        self.generation
            .response_head()
            .set(Err(OpenError::Failed(error.clone())));
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
            self.generation.response_head().set(Err(gone()));
            self.generation.announce_end();
        }
    }
}
