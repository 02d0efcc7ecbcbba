//! The writer of a generation's log. It seals the log when it is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
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

pub(super) fn ended_before_head() -> OpenError {
    OpenError::Failed(ApiError::new(
        ErrorCode::InternalError,
        "The generation ended before its upstream answered.",
    ))
}

/// The right to append to a log. Dropping it seals the log.
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

    /// Appends the collected records.
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

    /// Appends the collected records, which end with the terminal event, and seals the log.
    pub(crate) fn seal(&mut self, records: &mut RecordWriter) {
        self.publish_templates(records);
        if self
            .generation
            .log()
            .seal(self.epoch, records.batch())
            .is_ok()
        {
            self.sealed();
        }
        records.clear();
    }

    /// Publishes new templates. Must precede the records that use them.
    fn publish_templates(&self, records: &mut RecordWriter) {
        for (head, template) in records.take_templates() {
            self.generation.add_template(known_template(
                &self.generation.meta().id,
                head.as_ref(),
                template,
            ));
        }
    }

    fn sealed(&mut self) {
        self.done = true;
        self.generation
            .response_head()
            .set(Err(ended_before_head()));
        // The snapshot must be complete before the log can expire. A panic in it must not keep the
        // waiters from the end.
        if catch_unwind(AssertUnwindSafe(|| self.generation.with_snapshot(|_| ()))).is_err() {
            tracing::error!(generation = %self.generation.meta().id, "folding the events panicked");
        }
        self.generation.notify_ended();
    }

    /// Closes open items and ends the log with a failure, without the records that are not
    /// appended.
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
        // This may run because folding the events panicked, and may run while unwinding. The terminal
        // event is written in any case.
        let closing = || self.generation.with_snapshot(Snapshot::closing_events);
        let mut events = catch_unwind(AssertUnwindSafe(closing)).unwrap_or_default();
        events.push(EventKind::End(outcome));
        batch.push_full(&FullRecord { events, raw: None });
        self.generation
            .response_head()
            .set(Err(OpenError::Failed(error.clone())));
        if self.generation.log().seal(self.epoch, &batch).is_ok() {
            self.sealed();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.done {
            // The task was dropped: the worker stops, or a panic was not caught.
            self.seal_abruptly(&ApiError::new(
                ErrorCode::ShuttingDown,
                "The gateway stopped before the answer was complete.",
            ));
        }
        if !self.done {
            // The log was deleted, or another writer took over. Waiters are woken in any case.
            self.generation
                .response_head()
                .set(Err(ended_before_head()));
            self.generation.notify_ended();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;
    use crate::generation::Conversation;
    use crate::log::{
        LogLimits, MemoryAccount, MemoryLog, ReadError, ReadPosition, ReaderSlot, Tail, TokenLog,
    };
    use crate::model::id::{GenerationId, Owner};
    use crate::model::snapshot::{Api, Meta};

    /// A log whose records cannot be read, so that folding them panics.
    #[derive(Debug)]
    struct UnreadableLog(MemoryLog);

    impl TokenLog for UnreadableLog {
        fn append(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError> {
            self.0.append(epoch, batch)
        }

        fn seal(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError> {
            self.0.seal(epoch, batch)
        }

        fn take_over(&self) -> Epoch {
            self.0.take_over()
        }

        fn tail(&self) -> Result<Tail, ReadError> {
            self.0.tail()
        }

        fn memory_size(&self) -> usize {
            self.0.memory_size()
        }

        fn expire(&self) {
            self.0.expire();
        }

        fn enroll(&self) -> ReaderSlot {
            self.0.enroll()
        }

        fn leave(&self, slot: ReaderSlot) {
            self.0.leave(slot);
        }

        fn poll_read(
            &self,
            _slot: ReaderSlot,
            _cx: &mut Context<'_>,
            _cursor: &mut ReadPosition,
            _max_bytes: usize,
            _out: &mut RecordBatch,
        ) -> Poll<Result<Tail, ReadError>> {
            panic!("the test makes reading panic")
        }
    }

    fn unreadable() -> Writer {
        let limits = LogLimits {
            bytes: 1 << 20,
            events: 1 << 10,
        };
        let log = Arc::new(UnreadableLog(MemoryLog::new(
            limits,
            MemoryAccount::default(),
        )));
        let meta = Meta {
            id: GenerationId::random(),
            owner: Owner::Anonymous,
            created_at: 0,
            model: "model".to_owned(),
            request_fields: "".into(),
            api: Api::Chat,
            background: false,
            store: false,
            include_usage: false,
        };
        let conversation = Conversation::default();
        let mut writer = Writer::new(Generation::new(meta, log, conversation, Duration::ZERO));
        let mut records = RecordWriter::new();
        records.event(EventKind::InProgress);
        records.record(None);
        writer.append(&mut records).expect("the log is open");
        writer
    }

    #[test]
    fn panic_while_folding_still_seals_the_log() {
        let mut writer = unreadable();
        let generation = writer.generation().clone();
        writer.seal_abruptly(&ApiError::new(ErrorCode::InternalError, "test"));
        assert!(generation.is_over());

        let writer = unreadable();
        let generation = writer.generation().clone();
        drop(writer);
        assert!(generation.is_over());
        assert!(generation.ended().now_or_never().is_some());
    }

    #[test]
    fn panic_while_unwinding_still_seals_the_log() {
        let writer = unreadable();
        let generation = writer.generation().clone();
        let unwound = catch_unwind(AssertUnwindSafe(move || {
            let _writer = writer;
            panic!("the task panics");
        }));
        assert!(unwound.is_err());
        assert!(generation.is_over());
    }
}
