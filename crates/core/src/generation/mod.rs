//! A generation: one answer being written, its log, and its readers.
//!
//! ```text
//!   start ──▶ Queued ──▶ Running ──▶ Completed | Incomplete | Failed | Cancelled
//!               │            │                      ▲
//!               └────────────┴──── cancel, timeouts, panic, end of the worker
//! ```
//!
//! The driver task writes; [`Subscription`]s read. They share this object and nothing else. The log
//! always ends with exactly one terminal event: the writer seals the log when it is dropped.
//!
//! ```text
//!   driver ──▶ Writer ──▶ LogTail ──▶ Subscription ──▶ frames
//!                 │
//!                 └─────▶ Snapshot ──▶ copies: polls, resets, `….done` events, the next turn
//! ```
//!
//! The writer appends a batch and applies it to the snapshot under one short lock. A reader copies
//! the snapshot, which shares its texts, and renders the copy. Nothing decodes the log for it.

mod control;
mod driver;
#[cfg(test)]
mod fixture;
mod holdings;
mod large_record;
mod log_version;
mod output_meter;
mod pending_end;
mod reader_buffers;
mod reattach;
mod remote_writer;
mod render_cache;
mod response_head;
mod restore;
mod shared_pieces;
mod subscription;
mod tail_source;
mod token_intervals;
pub mod watch;
mod write_lease;
mod writer;

pub(crate) use control::FollowerGuard;
pub use control::{ReaderGuard, Stop};
pub use driver::Work;
pub(crate) use driver::{Adopted, Source, drive};
pub use holdings::Holdings;
pub use output_meter::OutputMeter;
pub(crate) use reattach::cancel_held;
pub(crate) use remote_writer::{RemoteWriter, Wanted};
pub use response_head::ResponseHead;
pub use shared_pieces::SharedPieces;
pub use subscription::{EndOfStream, Subscription, SubscriptionError};
pub(crate) use tail_source::Role;
pub use token_intervals::TokenIntervals;
pub use write_lease::WriteLease;
pub(crate) use writer::Writer;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::dialect::{self, ItemIndex, View, known_template};
use crate::log::{LogHeader, LogTail, Position, ReadError, ReadPosition, TailEnd};
use crate::model::account::{Account, Turn};
use crate::model::event::{DeltaTarget, EventKind, Outcome};
use crate::model::id::Seq;
use crate::model::include::{Form, Include};
use crate::model::json::Members;
use crate::model::pieces::Pieces;
use crate::model::record::{Content, KnownTemplate, RecordBatch, RecordRef};
use crate::model::relayed_items::RelayedItems;
use crate::model::shared_list::one_more;
use crate::model::snapshot::{Api, LiveSnapshot, Meta, Snapshot, Status};
use crate::model::text_place::TextPlace;
use crate::upstream::Attachment;
use crate::upstream::translate::{History, is_completion};
use control::Control;
use pending_end::PendingEnd;
use render_cache::RenderCache;

/// One answer, shared by its writer and its readers.
pub struct Generation {
    header: Arc<LogHeader>,
    log: Arc<LogTail>,
    /// None after the end of a short stream that has no reader; the log has them.
    templates: RwLock<Option<Vec<Arc<KnownTemplate>>>>,
    snapshot: Mutex<LiveSnapshot>,
    control: Control,
    response_head: ResponseHead,
    ended: Notify,
    render_cache: RenderCache,
    /// Made by the first reader that needs it.
    item_index: Mutex<Option<Box<ItemIndex>>>,
    /// The number of a record that is known to be a usage chunk, and one: zero is none.
    usage_chunk: AtomicU64,
    /// The time to the first token in nanoseconds, and one: zero is none.
    first_token: AtomicU64,
    /// Until the end is observed.
    token_intervals: Mutex<Option<Box<TokenIntervals>>>,
    /// Number of flushers that have records of it, or its end, that are not stored yet.
    unstored: AtomicU8,
    /// Whether another process takes it over if this one is lost: its end is shown once it is stored.
    replicated: AtomicBool,
    /// Whether the node that wrote it is lost, with what was not stored.
    lost: AtomicBool,
    /// Whether another process has taken the log over.
    fenced: AtomicBool,
    /// Whether it was deleted, or is being deleted: other processes get nothing of it.
    deleted: AtomicBool,
    pending_end: Mutex<Option<Box<PendingEnd>>>,
    /// The runtime of its driver.
    runtime: OnceLock<Handle>,
    account: Account,
    holdings: Mutex<Holdings>,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("meta", self.meta())
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}

impl Generation {
    /// Creates a generation without a writer. `grace` is how long it runs without a reader, unless
    /// it is a background one. `holdings` counts what it holds beside its log.
    #[must_use]
    pub fn new(
        header: Arc<LogHeader>,
        log: Arc<LogTail>,
        grace: Duration,
        mut holdings: Holdings,
    ) -> Arc<Self> {
        holdings.set_inputs(header.input_size());
        let control = Control::new((!header.meta.background).then_some(grace));
        let generation = Arc::new(Self {
            header,
            log,
            templates: RwLock::new(Some(Vec::new())),
            snapshot: Mutex::default(),
            control,
            response_head: ResponseHead::default(),
            ended: Notify::new(),
            render_cache: RenderCache::default(),
            item_index: Mutex::default(),
            usage_chunk: AtomicU64::new(0),
            first_token: AtomicU64::new(0),
            token_intervals: Mutex::default(),
            unstored: AtomicU8::new(0),
            replicated: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            pending_end: Mutex::new(None),
            runtime: OnceLock::new(),
            account: holdings.account().clone(),
            holdings: Mutex::new(holdings),
        });
        generation.count_growth(0);
        generation
    }

    /// What is known at its start.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.header.meta
    }

    /// The first part of its log, as a store has it: beside the [`Meta`] the turn's input, its
    /// predecessor and the idempotency key.
    #[must_use]
    pub fn header(&self) -> &Arc<LogHeader> {
        &self.header
    }

    /// The log of its records.
    #[must_use]
    pub fn log(&self) -> &Arc<LogTail> {
        &self.log
    }

    /// The runtime that writes it, if this process does.
    pub(crate) fn runtime(&self) -> Option<&Handle> {
        self.runtime.get()
    }

    /// Notes that the current runtime writes it.
    pub(crate) fn runs_here(&self) {
        let _ = self.runtime.set(Handle::current());
    }

    /// The upstream's response before the first token.
    #[must_use]
    pub fn response_head(&self) -> &ResponseHead {
        &self.response_head
    }

    /// Counts a reader until the guard is dropped.
    #[must_use]
    pub fn attach(self: &Arc<Self>) -> ReaderGuard {
        ReaderGuard::new(self.clone())
    }

    /// The number of readers now.
    #[must_use]
    pub fn readers(&self) -> u32 {
        self.control.readers()
    }

    /// Whether it has a reader or a follower at the moment.
    pub(crate) fn is_held(&self) -> bool {
        self.control.readers() > 0 || self.control.is_followed()
    }

    /// Whether its end is still to be stored.
    pub(crate) fn is_unstored(&self) -> bool {
        self.unstored.load(Ordering::Acquire) > 0
    }

    fn note_unstored(&self) {
        self.unstored.fetch_add(1, Ordering::AcqRel);
    }

    fn note_stored(&self) {
        self.unstored.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_replicated(&self) -> bool {
        self.replicated.load(Ordering::Acquire)
    }

    fn set_replicated(&self, replicated: bool) {
        self.replicated.store(replicated, Ordering::Release);
    }

    /// Whether another process has taken the log over, and ends it.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    fn set_fenced(&self) {
        self.fenced.store(true, Ordering::Release);
    }

    /// Whether it ended here because the node that wrote it is lost, with what was not stored.
    #[must_use]
    pub fn is_lost_with_its_node(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Notes that the node that wrote it is lost. Readers learn it once the log expires.
    pub(crate) fn set_lost_with_its_node(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Gives its log up, which is to expire, unless it has a reader or a follower. Returns whether it
    /// is given up.
    pub(crate) fn give_up_log(&self) -> bool {
        self.control.give_up_log()
    }

    /// Notes that the record with this number is a chunk that reports the usage and nothing else.
    fn note_usage_chunk(&self, number: Seq) {
        self.usage_chunk.store(number.0 + 1, Ordering::Release);
    }

    /// The time from asking the upstream to the first token, if there was one.
    #[must_use]
    pub fn first_token(&self) -> Option<Duration> {
        let noted = self.first_token.load(Ordering::Acquire);
        noted.checked_sub(1).map(Duration::from_nanos)
    }

    pub(crate) fn note_first_token(&self, after: Duration) {
        let nanoseconds = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        let noted = nanoseconds.saturating_add(1);
        // The first one counts.
        let _ = self
            .first_token
            .compare_exchange(0, noted, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Keeps the times between its tokens, for what observes its end.
    pub(crate) fn keep_token_intervals(&self, intervals: TokenIntervals) {
        *self.token_intervals.lock() = Some(Box::new(intervals));
    }

    pub(crate) fn take_token_intervals(&self) -> Option<Box<TokenIntervals>> {
        self.token_intervals.lock().take()
    }

    /// Cancels it in any phase. Returns at once; the terminal event follows.
    pub fn cancel(&self) {
        self.control.cancel();
    }

    /// Ends it because it is deleted. Its log is gone, and other processes get nothing of the rest.
    pub(crate) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        self.log.expire();
        self.control.cancel();
    }

    /// Whether it was deleted, or is being deleted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Ends it here because the log is another process's now, or was deleted by one. Its readers get a
    /// reset or an end, and the upstream is cancelled. Nothing more is appended.
    pub(crate) fn disown(&self) {
        // Readers that the expiry wakes must see whose log it is. The driver is woken last, since it
        // would write a terminal event.
        self.control.disown();
        self.log.expire();
        self.control.cancel();
    }

    /// Whether it was told to stop: it ends at its driver's next turn, if it has not ended.
    pub(crate) fn is_stopping(&self) -> bool {
        self.control.stopped().is_some()
    }

    /// Whether its log is another process's now.
    pub(crate) fn is_disowned(&self) -> bool {
        self.control.is_disowned()
    }

    /// Whether another process writes it.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.control.is_remote()
    }

    /// Ends it with the failure `shutting_down`. Returns at once; the terminal event follows.
    pub(crate) fn shut_down(&self) {
        self.control.shut_down();
    }

    /// The end of the log.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    pub fn tail(&self) -> Result<TailEnd, ReadError> {
        self.log.end()
    }

    /// Its current status.
    #[must_use]
    pub fn status(&self) -> Status {
        self.snapshot.lock().without_latest().status()
    }

    /// How it ended, if it has ended.
    #[must_use]
    pub fn outcome(&self) -> Option<Arc<Outcome>> {
        self.snapshot.lock().without_latest().outcome().cloned()
    }

    /// Estimates the tokens of its answer so far from the log. An upstream's usage is exact.
    #[must_use]
    pub fn estimated_tokens(&self) -> u64 {
        self.with_snapshot(Snapshot::estimated_tokens)
    }

    /// Returns the number of events so far, and of those with a piece of text, reasoning, refusal or
    /// arguments. Takes the writer's lock for a moment.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        self.snapshot.lock().progress()
    }

    /// Returns the chat choice of a text.
    fn choice_of(&self, place: TextPlace) -> u32 {
        let item = u32::try_from(place.item).unwrap_or(u32::MAX);
        match place.relayed {
            true => 0,
            false => self.with_snapshot(|snapshot| {
                let head = snapshot.head(item);
                head.map_or(0, |head| head.choice())
            }),
        }
    }

    /// Whether the upstream has sent anything.
    pub(crate) fn has_begun(&self) -> bool {
        self.snapshot.lock().without_latest().has_begun()
    }

    /// Waits for the terminal event.
    pub async fn ended(&self) {
        loop {
            let notified = self.ended.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.is_over() {
                return;
            }
            notified.await;
        }
    }

    /// Whether the terminal event is written or the log has expired.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.log.end().map_or(true, |end| end.sealed)
    }

    /// Returns the response object as it is now, for a reader that asks for nothing beside the
    /// default.
    #[must_use]
    pub fn response_json(&self) -> Vec<u8> {
        self.response_in(Form::default())
    }

    /// Returns the response object as it is now, in this form.
    #[must_use]
    pub fn response_in(&self, form: Form) -> Vec<u8> {
        let mut out = Vec::new();
        self.with_snapshot(|snapshot| snapshot.write_response(self.meta(), form, &mut out));
        out
    }

    /// Returns its output items as a JSON array, in the form in which they are kept.
    #[must_use]
    pub fn output_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.with_snapshot(|snapshot| {
            snapshot.write_output(&self.meta().id, Form::Kept, &mut out);
        });
        out
    }

    /// Returns the number of the last event so far, and a `tokenwire:reset` with the response
    /// object as it is now.
    #[must_use]
    pub fn reset_event(&self) -> (Seq, Vec<u8>) {
        let mut out = Vec::new();
        let seq = self.with_snapshot(|snapshot| {
            dialect::write_reset(self.meta(), snapshot, Include::default(), &mut out)
        });
        (seq, out)
    }

    /// As [`Generation::reset_event`], in pieces which share the texts, for a reader that asks to be
    /// shown this.
    fn reset_pieces(&self, include: Include) -> (Seq, Pieces) {
        let mut out = Pieces::default();
        let seq = self.with_snapshot(|snapshot| {
            dialect::write_reset(self.meta(), snapshot, include, &mut out)
        });
        (seq, out)
    }

    /// Returns the `chat.completion` of a generation that has ended with an answer: as the upstream
    /// sent it, or made of the response object if the upstream streamed or speaks Responses.
    #[must_use]
    pub fn chat_completion(&self) -> Option<Vec<u8>> {
        if self.meta().api == Api::Chat
            && let Some(raw) = self.raw_completion()
        {
            return Some(raw);
        }
        self.with_snapshot(|snapshot| dialect::chat_completion(self.meta(), snapshot))
    }

    /// Returns the body of a chat upstream that did not stream.
    fn raw_completion(&self) -> Option<Vec<u8>> {
        let mut first = None;
        let found = self.scan(Seq(0), |content| {
            let Content::Full(full) = content else {
                return Some(None);
            };
            let raw = full.raw?;
            match is_completion(raw) {
                Some(true) => Some(Some(raw.to_vec())),
                Some(false) => Some(None),
                None => {
                    first.get_or_insert_with(|| raw.to_vec());
                    None
                }
            }
        });
        match found {
            Ok(Some(body)) => body,
            // No record has choices: the body is relayed as it is.
            Ok(None) => first,
            Err(_) => None,
        }
    }

    /// Returns the first raw chunk: the body of a chat completion that was not streamed.
    #[must_use]
    pub fn first_raw(&self) -> Option<Vec<u8>> {
        let found = self.scan(Seq(0), |content: Content<'_>| match content {
            Content::Full(full) => full.raw.map(|raw| raw.to_vec()),
            Content::Delta { .. } => None,
        });
        found.ok().flatten()
    }

    /// Returns what the upstream goes on with, if the log says so and it has not ended.
    pub(crate) fn attachment(&self) -> Option<Attachment> {
        let found = self.scan(Seq(0), |content| {
            let Content::Full(full) = content else {
                return Some(None);
            };
            full.events.iter().find_map(|event| match event {
                EventKind::Relayed(relayed) if relayed.name == "response.in_progress" => {
                    let members: Members<'_> = serde_json::from_str(&relayed.json).ok()?;
                    Some(Attachment::of(&members.object("response")?))
                }
                EventKind::Created | EventKind::Queued => None,
                _ => Some(None),
            })
        });
        found.ok().flatten().flatten()
    }

    /// Returns whether a reader that has seen events up to `after` finds no text that it lacks: all
    /// that follows closes the answer.
    pub(crate) fn only_ending_follows(&self, after: Seq) -> bool {
        let more = self.scan(after.next(), |content| match content {
            Content::Full(full)
                if full.raw.is_none() && full.events.iter().all(EventKind::is_closing) =>
            {
                None
            }
            _ => Some(()),
        });
        matches!(more, Ok(None)) && self.is_over()
    }

    /// Calls `f` with the records from `from` on that are there now, until it returns a value. A
    /// damaged record ends the scan.
    fn scan<T>(
        &self,
        from: Seq,
        mut f: impl FnMut(Content<'_>) -> Option<T>,
    ) -> Result<Option<T>, ReadError> {
        let found = self.scan_records(from, |record| match Content::decode(record.payload) {
            Ok(content) => f(content).map(Some),
            Err(_) => Some(None),
        });
        found.map(Option::flatten)
    }

    /// As [`Generation::scan`], with records that are not decoded.
    fn scan_records<T>(
        &self,
        from: Seq,
        mut f: impl FnMut(RecordRef<'_>) -> Option<T>,
    ) -> Result<Option<T>, ReadError> {
        let mut position = ReadPosition::at(from);
        let mut batch = RecordBatch::default();
        loop {
            self.log.read(&mut position, READ_BYTES, &mut batch)?;
            if batch.is_empty() {
                return Ok(None);
            }
            for record in &batch {
                if let Some(value) = f(record) {
                    return Ok(Some(value));
                }
            }
        }
    }

    /// Counts what it holds now, and `buffered` bytes of an event that is not complete. Called each
    /// time that it has grown by some KiB.
    pub(crate) fn count_growth(&self, buffered: usize) {
        let (object, log) = (self.object_size() + buffered, self.log.memory_size());
        self.holdings.lock().grow(object, log);
    }

    /// Counts what it holds beside its log now.
    fn count_object(&self) {
        let object = self.object_size();
        self.holdings.lock().set_object(object);
    }

    /// Counts what it holds after its end.
    pub(crate) fn count_end(&self) {
        let (object, log) = (self.object_size(), self.log.memory_size());
        self.holdings.lock().settle(object, log);
        self.release_templates();
    }

    /// Holds the turn to exceed the limit of memory until the generation is dropped.
    fn hold_turn(&self, turn: Turn) {
        self.holdings.lock().hold_turn(turn);
    }

    /// The account that counts it.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Bytes beside its log that the account counts now.
    pub(crate) fn counted_size(&self) -> usize {
        self.holdings.lock().bytes()
    }

    /// Bytes that it holds beside its log's records, including its registry entry. An estimate that
    /// memory limits rely on.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        self.object_size() + self.header.input_size()
    }

    /// As [`Generation::memory_size`], without the items of the conversation.
    fn object_size(&self) -> usize {
        let templates: usize = self
            .templates
            .read()
            .iter()
            .flatten()
            .map(|known| known.template.memory_size() + known.event_middle.capacity() + 160)
            .sum();
        let head = self.response_head.memory_size();
        size_of::<Self>() + size_of::<LogHeader>() + OVERHEAD + self.header.memory_size()
            - self.header.input_size()
            + head
            + self.snapshot.lock().memory_size()
            + self
                .item_index
                .lock()
                .as_ref()
                .map_or(0, |index| size_of::<ItemIndex>() + index.memory_size())
            + templates
    }

    /// Calls `f` with a copy of the snapshot of all events so far. The writer is not kept waiting.
    pub(crate) fn with_snapshot<T>(&self, f: impl FnOnce(&Snapshot) -> T) -> T {
        f(&self.snapshot())
    }

    /// Returns a copy of the snapshot of all events so far, which shares its texts.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().folded().clone()
    }

    /// The snapshot, for the writer. The lock is held for one batch.
    fn writers_snapshot(&self) -> &Mutex<LiveSnapshot> {
        &self.snapshot
    }

    /// Returns whether a reader that has seen events up to `after` has seen some that a writer lost.
    #[must_use]
    pub fn is_lost(&self, after: Seq) -> bool {
        matches!(self.log.place(after), Ok(Position::Lost))
    }

    /// The templates published so far.
    pub(crate) fn templates(&self) -> Vec<Arc<KnownTemplate>> {
        let held = self.templates.read().clone();
        held.unwrap_or_else(|| self.stored_templates())
    }

    pub(crate) fn add_template(&self, known: Arc<KnownTemplate>) {
        let mut templates = self.templates.write();
        let templates = templates.get_or_insert_default();
        one_more(templates);
        templates.push(known);
    }

    /// Reads the templates from the log; none once the log has expired.
    fn stored_templates(&self) -> Vec<Arc<KnownTemplate>> {
        let snapshot = self.snapshot();
        let mut templates = Vec::new();
        // What an expired log does not have cannot be asked for.
        let _ = self.scan_records(Seq(0), |record| -> Option<()> {
            if let Ok(Some((number, template))) = Content::template(record.payload)
                && number == templates.len()
            {
                let head = snapshot.head(template.target.item);
                let known = known_template(&self.meta().id, head, template);
                templates.push(Arc::new(known));
            }
            None
        });
        templates
    }

    /// Gives up the templates of a short stream that has ended, once it has no reader.
    fn release_templates(&self) {
        let is_short = || self.log.memory_size() <= READ_BYTES;
        if !self.is_held() && self.is_over() && is_short() {
            *self.templates.write() = None;
            // Also if there were none: another thread may have counted them at the end meanwhile.
            self.count_object();
        }
    }

    /// Reads templates that were given up, before the first reader does: the log may be deleted
    /// while it still has records to render.
    fn restore_templates(&self) {
        if self.templates.read().is_none() {
            let templates = self.stored_templates();
            *self.templates.write() = Some(templates);
            self.count_object();
        }
    }

    pub(crate) fn render_cache(&self) -> &RenderCache {
        &self.render_cache
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Wakes the waiters of [`Generation::ended`] after the log was sealed.
    pub(crate) fn notify_ended(&self) {
        self.ended.notify_waiters();
    }
}

/// An ended generation is kept for long; with the counts of its `Arc` it fills an allocation of this
/// size, and the next larger one has 640 bytes.
const _: () = assert!(size_of::<Generation>() + 2 * size_of::<usize>() <= 512);

impl History for Generation {
    fn text(&self, target: DeltaTarget) -> String {
        self.with_snapshot(|snapshot| snapshot.text_of(target).to_string())
    }

    fn relayed(&self) -> RelayedItems {
        self.snapshot
            .lock()
            .without_latest()
            .relayed_items()
            .clone()
    }
}

impl View for Generation {
    fn meta(&self) -> &Meta {
        &self.header.meta
    }

    fn templates(&self) -> Vec<Arc<KnownTemplate>> {
        Self::templates(self)
    }

    fn with_snapshot<T>(&self, f: impl FnOnce(&Snapshot) -> T) -> T {
        Self::with_snapshot(self, f)
    }

    fn item_index<T>(&self, f: impl FnOnce(&mut ItemIndex) -> T) -> T {
        f(self.item_index.lock().get_or_insert_default())
    }

    fn is_usage_chunk(&self, seq: Seq) -> bool {
        self.usage_chunk.load(Ordering::Acquire) == seq.0 + 1
    }
}

/// Bytes of a generation outside of itself: the log without its records, entries in a map and two
/// lists, its id.
const OVERHEAD: usize = 640;

/// Bytes of records that one read takes from a log.
pub(crate) const READ_BYTES: usize = 16 * 1024;
