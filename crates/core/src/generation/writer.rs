//! The writer of a generation's log and snapshot. It seals the log when it is dropped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::Generation;
use super::output_meter::{OutputBound, OutputMeter};
use super::pending_end::PendingEnd;
use super::response_head::ended_before_head;
use super::tail_source::{Role, TailSource};
use super::watch::{Watch, Watcher};
use super::write_lease::WriteLease;
use crate::dialect::known_template;
use crate::log::{AppendError, Epoch, FlushHandle, Flusher};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, EventKind, Failure, Outcome};
use crate::model::id::Seq;
use crate::model::include::Form;
use crate::model::record::{CLOSING_NUMBERS, Content, FullRecord, KnownTemplate, RecordBatch};
use crate::model::snapshot::{Change, LiveSnapshot};
use crate::model::time::unix_now;
use crate::upstream::OpenError;
use crate::upstream::translate::RecordWriter;

/// The right to append to a log. Dropping it seals the log.
#[derive(Debug)]
pub(crate) struct Writer {
    generation: Arc<Generation>,
    epoch: Epoch,
    /// The generation's templates.
    templates: Vec<Arc<KnownTemplate>>,
    /// Told of every batch, if a store has the log as well.
    flush: Option<FlushHandle>,
    /// The same for a store that other nodes read.
    replica: Option<ReplicaHandle>,
    done: bool,
    /// Bytes appended so far.
    appended: usize,
    /// The bytes at which the account is told of the growth next.
    count_at: usize,
    /// Bounds the output, if that is metered.
    bound: Option<Box<OutputBound>>,
    /// Whether the output has reached its bound.
    used_up: bool,
    /// Bytes of an incomplete event that the account was told of.
    buffered: usize,
    /// Looks for watch rules, where there are some.
    watcher: Option<Box<Watcher>>,
    /// Whether a rule has stopped the answer.
    filtered: bool,
}

/// A generation's entry in the flusher of a store that other nodes read.
#[derive(Debug)]
struct ReplicaHandle {
    handle: FlushHandle,
    /// Whether each append is told, or only the first one and the end.
    follows: bool,
    begun: bool,
    lease: Option<Arc<dyn WriteLease>>,
}

/// How long the end of a replicated generation waits for the store. Then it is shown without.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);

/// Steps in which the account is told of a generation's growth: it doubles up to the largest.
const COUNT_FROM: usize = 8 * 1024;
const COUNT_STEP: usize = 64 * 1024;

impl Writer {
    /// Begins the log's next epoch.
    pub(crate) fn new(generation: Arc<Generation>) -> Self {
        let epoch = generation.log().begin_epoch();
        Self::in_epoch(generation, epoch)
    }

    /// Goes on in an epoch that has begun and has no other writer.
    pub(crate) fn in_epoch(generation: Arc<Generation>, epoch: Epoch) -> Self {
        Self {
            templates: generation.templates(),
            generation,
            epoch,
            flush: None,
            replica: None,
            done: false,
            appended: 0,
            count_at: COUNT_FROM,
            buffered: 0,
            bound: None,
            used_up: false,
            watcher: None,
            filtered: false,
        }
    }

    /// Looks for these rules in what is appended from now on. Texts that the log has already are gone
    /// through, so that a match may begin there; they are not reported again. An answer that a rule stops
    /// because of them has been [stopped](Self::is_filtered), without an end.
    pub(crate) fn watch_for(&mut self, watch: Watch) {
        let (watcher, stops) = self
            .generation
            .with_snapshot(|snapshot| Watcher::new(watch, snapshot));
        self.watcher = Some(Box::new(watcher));
        self.filtered |= stops;
    }

    /// Whether rules are looked for.
    pub(super) fn is_watched(&self) -> bool {
        self.watcher.is_some()
    }

    /// Whether a rule has stopped the answer, so that it has to [end](Self::end_filtered).
    pub(super) fn is_filtered(&self) -> bool {
        self.filtered
    }

    /// Bounds the output by what this meter reserves.
    pub(crate) fn meter_output(&mut self, meter: Arc<dyn OutputMeter>) {
        self.bound = Some(Box::new(OutputBound::new(meter)));
    }

    /// Whether the output has reached its bound, so that the answer has to end.
    pub(super) fn is_used_up(&self) -> bool {
        self.used_up
    }

    /// Another upstream continues the answer of one that has not reported its usage.
    pub(super) fn continued_without_usage(&self) {
        if let Some(bound) = &self.bound {
            let output = self.generation.estimated_tokens();
            bound.meter().continued_without_usage(output);
        }
    }

    /// Has what is written stored as well. `stored` is how far the store has it; `None` if it has no
    /// such log yet. The writer holds the flusher's entry, so that a generation never refers to
    /// itself.
    pub(crate) fn store_with(&mut self, flusher: &Flusher, stored: Option<Seq>) {
        let source = TailSource::new(self.generation.clone(), self.epoch, Role::Primary);
        self.flush = Some(flusher.track(Arc::new(source), stored));
    }

    /// Has what is written stored where other nodes read it, beside the process' own store.
    pub(crate) fn replicate_with(
        &mut self,
        flusher: &Flusher,
        stored: Option<Seq>,
        role: Role,
        lease: Option<Arc<dyn WriteLease>>,
    ) {
        let source = TailSource::new(self.generation.clone(), self.epoch, role);
        self.replica = Some(ReplicaHandle {
            handle: flusher.track(Arc::new(source), stored),
            follows: matches!(role, Role::Replica { .. }),
            begun: false,
            lease,
        });
    }

    fn mark(&mut self) {
        if let Some(flush) = &self.flush {
            flush.mark();
        }
        if let Some(replica) = &mut self.replica
            && (replica.follows || !replica.begun || self.done)
        {
            replica.begun = true;
            replica.handle.mark();
        }
    }

    fn lease(&self) -> Option<&Arc<dyn WriteLease>> {
        let replica = self.replica.as_ref()?;
        replica
            .lease
            .as_ref()
            .filter(|_| self.generation.is_replicated())
    }

    /// Whether records may be appended. A process that slept may have lost the log.
    pub(crate) fn may_append(&self) -> bool {
        self.lease().is_none_or(|lease| lease.is_held())
    }

    /// Waits until records may be appended.
    pub(crate) async fn until_may_append(&self) {
        if let Some(lease) = self.lease() {
            lease.held().await;
        }
    }

    /// Waits until the end is shown: that of a replicated generation once it is stored, or after 5 s
    /// in which the process did not sleep.
    pub(crate) async fn end_shown(&mut self) {
        let lease = self.replica.as_ref();
        let lease = lease.and_then(|replica| replica.lease.clone());
        let losses = || lease.as_ref().map_or(0, |lease| lease.losses());
        let mut before = losses();
        while self.generation.has_pending_end() {
            let shown = tokio::time::timeout(SHOWN_WITHIN, self.generation.ended());
            if shown.await.is_ok() {
                return;
            }
            if let Some(lease) = &lease {
                lease.held().await;
            }
            // Once awake the store says whether the log is still this writer's.
            let now = losses();
            if now == before {
                self.show_end();
            }
            before = now;
        }
    }

    fn show_end(&mut self) {
        self.generation.show_end();
        // The flusher may have seen the log as it was before.
        self.mark();
    }

    pub(crate) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// Appends the collected records. Returns whether the account was told of more bytes, so that it
    /// may be exceeded. Where a watch rule stops the answer, what follows is dropped. Records that
    /// could not be appended stay with the events that belong to them.
    pub(crate) fn append(&mut self, records: &mut RecordWriter) -> Result<bool, AppendError> {
        if records.batch().is_empty() {
            return Ok(false);
        }
        self.publish(records);
        let mut changes = records.take_changes();
        if let Some(watcher) = &mut self.watcher
            && let Some(cut) = watcher.observe(records.batch(), &changes, &self.templates)
        {
            records.cut(cut.at);
            changes.truncate(cut.changes);
        }
        let batch = records.batch();
        {
            // Readers that the append wakes find the events in the snapshot.
            let mut snapshot = self.generation.writers_snapshot().lock();
            if let Err(error) = self.generation.log().append(self.epoch, batch) {
                drop(snapshot);
                records.give_back(changes);
                return Err(error);
            }
            self.apply(&mut snapshot, batch, changes);
        }
        self.mark();
        if let Some(watcher) = &mut self.watcher {
            self.filtered |= watcher.report(&self.generation);
        }
        self.appended += records.batch().byte_len();
        records.clear();
        records.give_back_memory();
        let counts = self.appended >= self.count_at;
        if counts {
            self.count_at = self.appended + self.appended.min(COUNT_STEP);
        }
        if counts || self.buffered > 0 {
            self.buffered = 0;
            self.generation.count_growth(0);
        }
        if let Some(bound) = &mut self.bound
            && self.appended >= bound.check_at
        {
            let output = self.generation.estimated_tokens();
            self.used_up |= !bound.check(self.appended, output);
        }
        Ok(counts)
    }

    /// Notes that this much of an event is received that is not complete. Returns as
    /// [`Writer::append`].
    pub(crate) fn note_buffered(&mut self, bytes: usize) -> bool {
        let counts = bytes >= self.buffered + COUNT_STEP;
        if counts {
            self.buffered = bytes;
            self.generation.count_growth(bytes);
        }
        counts
    }

    /// Appends the collected records, which end with the terminal event, and seals the log.
    pub(crate) fn seal(&mut self, records: &mut RecordWriter) {
        self.publish(records);
        let changes = records.take_changes();
        if let Some(watcher) = &mut self.watcher {
            // What a rule would stop has ended.
            let _ = watcher.observe(records.batch(), &changes, &self.templates);
        }
        self.end_with(records.batch(), changes);
        if let Some(watcher) = &mut self.watcher {
            watcher.report(&self.generation);
        }
        records.clear();
    }

    /// Ends the log where a watch rule stopped the answer: closes what is open, and leaves room for the
    /// finish and usage chunks of chat readers. `usage` is what the upstream has reported by now.
    pub(super) fn end_filtered(&mut self, usage: Option<String>) {
        let Ok(end) = self.generation.log().end() else {
            return;
        };
        let mut batch = RecordBatch::default();
        batch.restart(end.next);
        // The first record of a later epoch, if an earlier writer has found the match.
        batch.skip(self.epoch.first_seq().0.saturating_sub(end.next.0));
        let mut changes = Vec::new();
        let mut push = |batch: &mut RecordBatch, events: Vec<EventKind>| {
            if events.is_empty() {
                return;
            }
            let record = FullRecord { events, raw: None };
            batch.push_full(&record);
            changes.extend(record.events.into_iter().map(Change::from));
        };
        push(&mut batch, self.generation.snapshot().closing_events());
        batch.skip(CLOSING_NUMBERS);
        let outcome = Outcome {
            ending: Ending::Incomplete {
                reason: "content_filter".to_owned(),
            },
            at: unix_now(),
            usage,
            relayed: None,
        };
        push(&mut batch, vec![EventKind::End(outcome)]);
        self.end_with(&batch, changes);
    }

    /// Ends the log with these records. A replicated one ends once they are stored.
    fn end_with(&mut self, batch: &RecordBatch, changes: Vec<Change>) {
        if !self.generation.is_replicated() {
            if self.seal_with(batch, changes) {
                self.sealed();
            }
            return;
        }
        if self.generation.is_over() || self.done {
            return;
        }
        let Ok(copy) = RecordBatch::parse(batch.first_seq(), batch.as_block().to_vec()) else {
            return;
        };
        let mut snapshot = LiveSnapshot::from(self.generation.snapshot());
        let apply = || self.apply(&mut snapshot, batch, changes);
        if catch_unwind(AssertUnwindSafe(apply)).is_err() {
            tracing::error!(generation = %self.generation.meta().id, "folding the events panicked");
        }
        let snapshot = snapshot.into_folded();
        let meta = self.generation.meta();
        let object = meta.store.then(|| {
            let mut object = Vec::new();
            snapshot.write_response(meta, Form::Kept, &mut object);
            object.into()
        });
        self.generation.set_pending_end(PendingEnd {
            epoch: self.epoch,
            batch: copy,
            snapshot,
            object,
        });
        self.done = true;
        self.mark();
        if !self.generation.is_replicated() {
            // Its flusher has just let go of it.
            self.show_end();
        }
    }

    fn seal_with(&self, batch: &RecordBatch, changes: Vec<Change>) -> bool {
        let mut snapshot = self.generation.writers_snapshot().lock();
        let sealed = self.generation.log().seal(self.epoch, batch).is_ok();
        let apply = || self.apply(&mut snapshot, batch, changes);
        // The waiters are told of the end in any case.
        if sealed && catch_unwind(AssertUnwindSafe(apply)).is_err() {
            tracing::error!(generation = %self.generation.meta().id, "folding the events panicked");
        }
        sealed
    }

    /// Applies a batch to the snapshot. `changes` are the events of its full records.
    fn apply(&self, snapshot: &mut LiveSnapshot, batch: &RecordBatch, changes: Vec<Change>) {
        let mut changes = changes.into_iter();
        for record in batch {
            match Content::delta(record.payload) {
                Ok(Some((template, holes))) => {
                    if let Some(known) = self.templates.get(template) {
                        let text = holes.text(&known.template).unwrap_or_default();
                        let text = std::str::from_utf8(text).unwrap_or_default();
                        snapshot.apply_delta(record.first_seq, known.template.target, text);
                    }
                }
                Ok(None) => {
                    let (first, next) = (record.first_seq, record.next_seq());
                    for (seq, change) in (first.0..next.0).zip(&mut changes) {
                        snapshot.apply(Seq(seq), change);
                    }
                }
                // Records are written and read by the same program. A damaged one loses only its own
                // text.
                Err(error) => {
                    tracing::error!(generation = %self.generation.meta().id, %error, "record skipped");
                }
            }
        }
    }

    /// Publishes what readers of the next records need: new templates, and which of them is known to be
    /// a usage chunk. Must precede the records.
    fn publish(&mut self, records: &mut RecordWriter) {
        for (head, template) in records.take_templates() {
            let known = Arc::new(known_template(
                &self.generation.meta().id,
                head.as_ref(),
                template,
            ));
            self.templates.push(known.clone());
            self.generation.add_template(known);
        }
        if let Some(number) = records.take_usage_chunk() {
            self.generation.note_usage_chunk(number);
        }
    }

    fn sealed(&mut self) {
        self.done = true;
        self.mark();
        self.generation
            .response_head()
            .set(Err(ended_before_head()));
        self.generation.count_end();
        self.generation.notify_ended();
    }

    /// Ends the log since it has reached its limit, without the records that are not appended.
    pub(super) fn seal_full(&mut self) {
        let id = &self.generation.meta().id;
        tracing::warn!(generation = %id, "the answer exceeds the limit on one stream");
        self.seal_abruptly(&ApiError::new(
            ErrorCode::StreamTooLarge,
            "The answer is larger than the gateway keeps for one stream.",
        ));
    }

    /// Closes open items and ends the log with a failure, without the records that are not
    /// appended.
    pub(crate) fn seal_abruptly(&mut self, error: &ApiError) {
        let Ok(end) = self.generation.log().end() else {
            return;
        };
        let outcome = Outcome {
            ending: Ending::Failed(Failure::from(error)),
            at: unix_now(),
            usage: None,
            relayed: None,
        };
        let mut batch = RecordBatch::default();
        batch.restart(end.next);
        // The first record of a later epoch.
        batch.skip(self.epoch.first_seq().0.saturating_sub(end.next.0));
        // This may run while unwinding. The terminal event is written in any case.
        let closing = || self.generation.snapshot().closing_events();
        let mut events = catch_unwind(AssertUnwindSafe(closing)).unwrap_or_default();
        if end.next == Seq(0) {
            // The first event is always `response.created`.
            events.insert(0, EventKind::Created);
        }
        events.push(EventKind::End(outcome));
        let record = FullRecord { events, raw: None };
        batch.push_full(&record);
        self.generation
            .response_head()
            .set(Err(OpenError::Failed(error.clone())));
        let changes = record.events.into_iter().map(Change::from).collect();
        self.end_with(&batch, changes);
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
        if self.generation.has_pending_end() {
            // The task does not wait for the store any longer.
            if self.lease().is_none_or(|lease| lease.is_held()) {
                self.show_end();
            } else {
                self.generation.set_fenced();
                self.generation.disown();
                self.generation.drop_pending_end();
            }
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
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;
    use crate::generation::fixture::{generation, meta};
    use crate::model::event::{DeltaKind, DeltaTarget, ItemHead, PartKind};
    use crate::model::snapshot::{Snapshot, Status};

    fn writer() -> Writer {
        Writer::new(generation(meta(), Duration::ZERO))
    }

    /// A writer that has appended the start of an answer, and its records.
    fn answering() -> (Writer, RecordWriter) {
        let mut writer = writer();
        let mut records = RecordWriter::new();
        records.event(EventKind::Created);
        records.event(EventKind::InProgress);
        records.open_item(ItemHead::Message { choice: 0 });
        records.event(EventKind::PartAdded {
            item: 0,
            part: 0,
            kind: PartKind::Text,
        });
        records.record(None);
        writer.append(&mut records).expect("the log is open");
        (writer, records)
    }

    fn say(writer: &mut Writer, records: &mut RecordWriter, text: &str) {
        let target = DeltaTarget {
            item: 0,
            part: 0,
            kind: DeltaKind::Text,
        };
        records.text(target, text, None);
        records.record(None);
        writer.append(records).expect("the log is open");
    }

    fn shown(generation: &Generation) -> String {
        String::from_utf8(generation.response_json()).expect("JSON is UTF-8")
    }

    #[test]
    fn dropped_writer_seals_the_log() {
        let (mut writer, mut records) = answering();
        say(&mut writer, &mut records, "Hello");
        let generation = writer.generation().clone();
        assert_eq!(generation.status(), Status::InProgress);
        drop(writer);
        assert!(generation.is_over());
        assert!(generation.ended().now_or_never().is_some());
        assert_eq!(generation.status(), Status::Failed);
        assert!(shown(&generation).contains(r#""text":"Hello""#));
    }

    #[test]
    fn writer_dropped_while_unwinding_seals_the_log() {
        let (writer, _) = answering();
        let generation = writer.generation().clone();
        let unwound = catch_unwind(AssertUnwindSafe(move || {
            let _writer = writer;
            panic!("the task panics");
        }));
        assert!(unwound.is_err());
        assert!(generation.is_over());
    }

    #[test]
    fn snapshot_is_read_without_the_log() {
        let (mut writer, mut records) = answering();
        say(&mut writer, &mut records, "Hello");
        let generation = writer.generation().clone();
        // Nothing can be decoded any more.
        generation.log().expire();
        assert!(shown(&generation).contains(r#""text":"Hello""#));
        assert_eq!(generation.status(), Status::InProgress);
        assert!(generation.has_begun());
        drop(writer);
        assert!(generation.ended().now_or_never().is_some());
    }

    #[test]
    fn poll_of_a_long_answer_copies_less_than_one_piece_under_the_lock() {
        let (mut writer, mut records) = answering();
        let generation = writer.generation().clone();
        let piece = "0123456789abcdef".repeat(64);
        let mut expected = String::new();
        let mut copies = Vec::new();
        for round in 0..20_000 {
            say(&mut writer, &mut records, &piece);
            if round % 1000 == 0 {
                let copy = generation.snapshot();
                let held = generation.snapshot().unshared_bytes(&copy);
                assert!(held < 16 * 1024, "a copy of {held} bytes");
                copies.push((copy, expected.len() + piece.len()));
            }
            expected.push_str(&piece);
        }
        let text = |snapshot: &Snapshot| snapshot.plain_text();
        assert!(generation.snapshot().unshared_bytes(&copies[0].0) < 16 * 1024);
        assert_eq!(text(&generation.snapshot()), expected);
        for (copy, length) in &copies {
            assert!(text(copy) == expected[..*length], "an earlier copy changed");
        }
    }

    #[test]
    fn second_writer_goes_on_in_the_next_epoch() {
        let (mut first, mut records) = answering();
        say(&mut first, &mut records, "Hello");
        let generation = first.generation().clone();
        let end = records.next_seq();
        let second = Writer::new(generation.clone());
        records.event(EventKind::Chunk);
        records.record(None);
        assert!(matches!(
            first.append(&mut records),
            Err(AppendError::Fenced { .. })
        ));
        drop(first);
        assert!(!generation.is_over(), "a fenced writer does not seal");
        drop(second);
        assert!(generation.is_over());
        let (last, event) = generation.reset_event();
        // Text, part and item are closed, then the failure.
        assert_eq!(last, Seq((1 << 24) + 3));
        assert!(String::from_utf8_lossy(&event).contains(r#""text":"Hello""#));
        assert!(generation.is_lost(end));
        assert!(!generation.is_lost(Seq(end.0 - 1)));
        assert!(generation.only_ending_follows(end));
        assert!(!generation.only_ending_follows(Seq(2)));
    }
}
