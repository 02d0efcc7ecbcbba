//! Brings the records of a worker's generations to the store.
//!
//! ```text
//!   append ──mark──▶ dirty list ──tick──▶ one buffer with a block of each ──▶ store
//!                        ▲                                                      │
//!                        └──── not stored, or more to store ◀──── results ──────┘
//! ```
//!
//! The tail is the queue: a generation that waits is an entry in the list, and its records stay
//! where its readers read them. While the store has the buffer no other is filled. A store that
//! hangs, fails or is full therefore costs no memory and stops no stream.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::block::{BlockRange, Blocks};
use super::header::LogHeader;
use super::store::LogStore;
use super::store_error::StoreError;
use super::{Epoch, ReadError, TailEnd};
use crate::model::id::Seq;
use crate::model::record::RecordBatch;

/// Entries from which on the list is searched for logs that are gone.
const PRUNE_FROM: usize = 1024;

/// Most headers and seals that are with the store at a time.
const CONCURRENT: usize = 16;

/// How a [`Flusher`] works.
#[derive(Clone, Copy, Debug)]
pub struct FlushOptions {
    /// The time between two buffers. A backlog is stored without a pause.
    pub tick: Duration,
    /// Most bytes of one generation in a buffer. A larger record goes alone.
    pub block_bytes: usize,
    /// Most bytes of a buffer, beside the part of its last block that exceeds it.
    pub buffer_bytes: usize,
    /// The pause after a failure. It doubles with each further one of the same generation.
    pub retry_min: Duration,
    /// The longest pause.
    pub retry_max: Duration,
}

impl Default for FlushOptions {
    fn default() -> Self {
        Self {
            tick: Duration::from_millis(50),
            block_bytes: 64 * 1024,
            buffer_bytes: 1024 * 1024,
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(5),
        }
    }
}

/// A generation, as the flusher sees it.
pub trait FlushSource: Send + Sync + fmt::Debug {
    /// The header of its log.
    fn header(&self) -> &Arc<LogHeader>;

    /// The epoch of its writer.
    fn epoch(&self) -> Epoch;

    /// The end of its tail.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone. The flusher then lets go of it.
    fn end(&self) -> Result<TailEnd, ReadError>;

    /// Appends framed records to `out`, in the form of the header's version, starting with the record
    /// after `from`, which is the end of a record. Copies at least one record, if there is one, and stops at about `max_bytes`.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    fn read_block(
        &self,
        from: Seq,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<BlockRange, ReadError>;

    /// Returns all records in the form of logs of this version, if the header has a newer one.
    fn older_form(&self, version: u8) -> Option<RecordBatch> {
        let _ = version;
        None
    }

    /// Notes that everything before `upto` is stored. A store that loses it later gets it again, which
    /// this does not show.
    fn commit(&self, upto: Seq);

    /// The response object to be stored with the seal. Called once the tail is sealed.
    fn object(&self) -> Option<Bytes>;

    /// The flusher has let go of it.
    fn released(&self, why: Released);
}

/// Why a flusher let go of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Released {
    /// The seal is stored.
    Sealed,
    /// Another writer took the stored log over. This one is not the owner any longer.
    Fenced {
        /// The epoch of the other writer.
        current: Epoch,
    },
    /// The tail's records are gone: the log was deleted here.
    Expired,
    /// The store will never take the rest.
    Refused(StoreError),
}

/// Stores the records of a worker's generations. Cheap to clone.
#[derive(Clone)]
pub struct Flusher {
    shared: Arc<Shared>,
}

/// A generation's entry in a [`Flusher`].
#[derive(Clone)]
pub struct FlushHandle {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
}

struct Shared {
    store: Arc<dyn LogStore>,
    options: FlushOptions,
    /// Generations with something to store, also those that wait after a failure.
    dirty: Mutex<VecDeque<Arc<Entry>>>,
    wakeup: Notify,
    /// The length of the list at which it is searched next.
    prune_at: AtomicUsize,
    /// Entries that are in the list or with the store.
    unfinished: AtomicUsize,
    finished: Notify,
    buffered: AtomicUsize,
    start: Instant,
    /// Milliseconds from the start to when the store last took something, or began to be needed.
    progressed: AtomicU64,
}

struct Entry {
    source: Arc<dyn FlushSource>,
    /// Whether it is in the list.
    listed: AtomicBool,
    progress: Mutex<Progress>,
}

/// Changed by the flusher's task only.
struct Progress {
    /// Whether the store has the log.
    created: bool,
    /// Everything before it is stored.
    stored: Seq,
    failures: u32,
    not_before: Option<Instant>,
    released: bool,
}

/// A block that is with the store.
struct Sent {
    entry: Arc<Entry>,
    range: BlockRange,
    /// Whether the tail had more.
    cut: bool,
}

/// A last block and its object.
struct Seal {
    entry: Arc<Entry>,
    block: RecordBatch,
    object: Option<Bytes>,
    /// The version of the block, if it is older than that of the stored records.
    version: Option<u8>,
}

impl fmt::Debug for Flusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flusher")
            .field("store", &self.shared.store)
            .field("options", &self.shared.options)
            .field("unfinished", &self.unfinished())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FlushHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushHandle")
            .field("source", &self.entry.source)
            .finish_non_exhaustive()
    }
}

// === impl FlushHandle ===

impl FlushHandle {
    /// Notes that there is something to store: records, or the seal.
    pub fn mark(&self) {
        self.shared.list(&self.entry);
    }
}

// === impl Flusher ===

impl Flusher {
    /// Creates a flusher, which does nothing until [`Flusher::run`].
    #[must_use]
    pub fn new(store: Arc<dyn LogStore>, options: FlushOptions) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                options,
                dirty: Mutex::default(),
                wakeup: Notify::new(),
                prune_at: AtomicUsize::new(PRUNE_FROM),
                unfinished: AtomicUsize::new(0),
                finished: Notify::new(),
                buffered: AtomicUsize::new(0),
                start: Instant::now(),
                progressed: AtomicU64::new(0),
            }),
        }
    }

    /// Adds a generation. `stored` is how far the store has it; `None` if it has no such log, which
    /// is then created first.
    #[must_use]
    pub fn track(&self, source: Arc<dyn FlushSource>, stored: Option<Seq>) -> FlushHandle {
        let entry = Arc::new(Entry {
            source,
            listed: AtomicBool::new(false),
            progress: Mutex::new(Progress {
                created: stored.is_some(),
                stored: stored.unwrap_or_default(),
                failures: 0,
                not_before: None,
                released: false,
            }),
        });
        FlushHandle {
            shared: self.shared.clone(),
            entry,
        }
    }

    /// Number of generations whose records are not all stored.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.shared.unfinished.load(Ordering::Acquire)
    }

    /// Returns how long records have waited since the store last took any; zero if none wait.
    #[must_use]
    pub fn lag(&self) -> Duration {
        if self.unfinished() == 0 {
            return Duration::ZERO;
        }
        let progressed = self.shared.progressed.load(Ordering::Relaxed);
        let at = Duration::from_millis(progressed);
        self.shared.start.elapsed().saturating_sub(at)
    }

    /// Bytes of blocks and objects that are on their way to the store.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.shared.buffered.load(Ordering::Relaxed)
    }

    /// Waits until everything that was marked is stored.
    pub async fn flushed(&self) {
        loop {
            let finished = self.shared.finished.notified();
            tokio::pin!(finished);
            finished.as_mut().enable();
            if self.unfinished() == 0 {
                return;
            }
            finished.await;
        }
    }

    /// Stores what is marked, each tick, until the future is dropped.
    pub async fn run(self) {
        let mut blocks = Blocks::default();
        loop {
            self.shared.wait_for_work().await;
            let full = self.shared.round(&mut blocks).await;
            if full {
                // A store that answers at once must not keep the worker from its other tasks.
                tokio::task::yield_now().await;
            } else {
                sleep(self.shared.options.tick).await;
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    fn list(&self, entry: &Arc<Entry>) {
        if !entry.listed.swap(true, Ordering::AcqRel) {
            if self.unfinished.fetch_add(1, Ordering::AcqRel) == 0 {
                self.progress();
            }
            let length = {
                let mut dirty = self.dirty.lock();
                dirty.push_back(entry.clone());
                dirty.len()
            };
            self.wakeup.notify_one();
            if length >= self.prune_at.load(Ordering::Relaxed) {
                self.prune();
            }
        }
    }

    /// Lets go of the entries whose records are gone. While a store hangs nothing else does, and
    /// each keeps its generation in memory. Takes constant time per entry that is added.
    fn prune(&self) {
        let gone: Vec<_> = {
            let mut dirty = self.dirty.lock();
            let (kept, gone): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut *dirty)
                .into_iter()
                .partition(|entry: &Arc<Entry>| entry.source.end().is_ok());
            *dirty = kept;
            let next = PRUNE_FROM.max(dirty.len() * 2);
            self.prune_at.store(next, Ordering::Relaxed);
            gone.into()
        };
        for entry in gone {
            entry.release(Released::Expired);
            self.finish();
        }
    }

    /// Notes that the store takes records, or that the first one waits for it.
    fn progress(&self) {
        let after = self.start.elapsed().as_millis();
        let after = u64::try_from(after).unwrap_or(u64::MAX);
        self.progressed.store(after, Ordering::Relaxed);
    }

    /// Ends an entry's stay in the list or with the store.
    fn finish(&self) {
        if self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finished.notify_waiters();
        }
    }

    /// Lists an entry again that has more to store.
    fn relist(&self, entry: &Arc<Entry>) {
        self.list(entry);
        self.finish();
    }

    async fn wait_for_work(&self) {
        loop {
            let due = {
                let dirty = self.dirty.lock();
                let mut first: Option<Instant> = None;
                for entry in &*dirty {
                    match entry.progress.lock().not_before {
                        // Most are due at once.
                        None => return,
                        Some(due) => first = Some(first.map_or(due, |first| first.min(due))),
                    }
                }
                first
            };
            match due {
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::select! {
                    biased;
                    () = sleep_until(due) => {}
                    () = self.wakeup.notified() => {}
                },
                None => self.wakeup.notified().await,
            }
        }
    }

    /// Takes the entries that are due off the list, in order.
    fn take_due(&self) -> VecDeque<Arc<Entry>> {
        let now = Instant::now();
        let mut dirty = self.dirty.lock();
        let (due, waiting) = std::mem::take(&mut *dirty).into_iter().partition(|entry| {
            let progress = entry.progress.lock();
            progress.not_before.is_none_or(|due| due <= now)
        });
        *dirty = waiting;
        due
    }

    /// Stores one buffer. Returns true if something is left that could be stored at once.
    async fn round(&self, blocks: &mut Blocks) -> bool {
        let mut due = self.take_due();
        self.create(&due).await;
        let mut sent = Vec::new();
        let mut seals = Vec::new();
        let mut size = 0;
        while let Some(entry) = due.pop_front() {
            if size >= self.options.buffer_bytes {
                due.push_front(entry);
                break;
            }
            // From here on an append lists it again.
            entry.listed.swap(false, Ordering::AcqRel);
            size += self.copy(entry, blocks, &mut sent, &mut seals, size);
        }
        let mut full = !due.is_empty();
        {
            let mut dirty = self.dirty.lock();
            due.into_iter()
                .rev()
                .for_each(|entry| dirty.push_front(entry));
        }
        self.buffered.store(size, Ordering::Relaxed);
        if !blocks.is_empty() {
            let (returned, results) = self.store.append(std::mem::take(blocks)).await;
            *blocks = returned;
            blocks.clear(self.options.buffer_bytes);
            let mut results = results.into_iter();
            for sent in sent {
                let unanswered = || Err(StoreError::Unavailable("the store gave no result".into()));
                let result = results.next().unwrap_or_else(unanswered);
                full |= self.appended(&sent, result);
            }
        }
        self.seal(seals).await;
        self.buffered.store(0, Ordering::Relaxed);
        full
    }

    /// Creates the logs that the store does not have.
    async fn create(&self, due: &VecDeque<Arc<Entry>>) {
        let missing = due.iter().filter(|entry| {
            // A log that was deleted here must not be created again.
            !entry.progress.lock().created && entry.source.end().is_ok()
        });
        let create = |entry: Arc<Entry>| async move {
            let result = self.store.create(entry.source.header().clone()).await;
            let mut progress = entry.progress.lock();
            match result {
                Ok(_) => progress.created = true,
                Err(error) if error.is_retryable() => progress.fail(&self.options, &error),
                Err(error) => {
                    drop(progress);
                    entry.release(Released::Refused(error));
                }
            }
        };
        for_each_concurrent(missing.cloned().map(create)).await;
    }

    /// Copies the next block of an entry. Returns the bytes that it takes up.
    fn copy(
        &self,
        entry: Arc<Entry>,
        blocks: &mut Blocks,
        sent: &mut Vec<Sent>,
        seals: &mut Vec<Seal>,
        size: usize,
    ) -> usize {
        let source = &entry.source;
        let (created, from, released) = {
            let progress = entry.progress.lock();
            (progress.created, progress.stored, progress.released)
        };
        if released {
            self.finish();
            return 0;
        }
        let max_bytes = self.options.block_bytes;
        let max_bytes = max_bytes.min(self.options.buffer_bytes.saturating_sub(size));
        let before = blocks.byte_len();
        let copied = source.end().and_then(|end| {
            if !created {
                return Ok(None);
            }
            let read = |out: &mut Vec<u8>| source.read_block(from, max_bytes, out);
            let range = blocks.push_with(&source.header().meta.id, source.epoch(), read)?;
            Ok(Some((end, range)))
        });
        let (end, range) = match copied {
            Ok(Some(copied)) => copied,
            Ok(None) => {
                self.relist(&entry);
                return 0;
            }
            Err(ReadError::Expired) => {
                entry.release(Released::Expired);
                self.finish();
                return 0;
            }
            // The store has records that this tail never had.
            Err(ReadError::PastHead) => {
                let gap = StoreError::Gap {
                    expected: from,
                    found: source.end().map_or(from, |end| end.next),
                };
                entry.release(Released::Refused(gap));
                self.finish();
                return 0;
            }
        };
        let is_empty = range.next == range.first;
        if end.sealed && range.next == end.next {
            let rest = if is_empty { None } else { blocks.pop() };
            let version = self.store.version();
            let older = source.older_form(version);
            let version = older.as_ref().map(|_| version);
            let whole = match older {
                None if from > Seq(0) => self.whole(&**source, end.next, size),
                older => older,
            };
            let block = whole.or(rest).unwrap_or_else(|| {
                let mut batch = RecordBatch::default();
                batch.restart(end.next);
                batch
            });
            let object = source.object();
            let length = block.byte_len() + object.as_ref().map_or(0, Bytes::len);
            seals.push(Seal {
                entry,
                block,
                object,
                version,
            });
            return length;
        }
        if is_empty {
            self.finish();
            return 0;
        }
        let cut = range.next < end.next;
        sent.push(Sent { entry, range, cut });
        blocks.byte_len() - before
    }

    /// Returns all records of a log that ends at `end`, if the store seals with them and the buffer,
    /// which has this many bytes, has room for them.
    fn whole(&self, source: &dyn FlushSource, end: Seq, size: usize) -> Option<RecordBatch> {
        if !self.store.seals_whole() {
            return None;
        }
        let room = self.options.buffer_bytes.saturating_sub(size);
        let (mut bytes, mut next) = (Vec::new(), Seq(0));
        while next < end {
            // Some at a time, as the tail is locked meanwhile.
            let read = source.read_block(next, self.options.block_bytes, &mut bytes);
            let range = read.ok().filter(|range| !range.is_empty())?;
            if range.first != next || bytes.len() > room {
                return None;
            }
            next = range.next;
        }
        let mut whole = RecordBatch::default();
        whole.extend_framed(&bytes, next);
        Some(whole)
    }

    /// Notes the result of a block. Returns true if the tail had more than the block.
    fn appended(&self, sent: &Sent, result: Result<Seq, StoreError>) -> bool {
        let entry = &sent.entry;
        let end = match result {
            Ok(end) => end,
            Err(error) => {
                self.failed(entry, sent.range.first, error);
                return false;
            }
        };
        // What a store claims to have beyond the tail is not believed.
        let stored = entry
            .source
            .end()
            .map_or(sent.range.next, |tail| tail.next.min(end));
        {
            let mut progress = entry.progress.lock();
            progress.stored = stored;
            progress.failures = 0;
            progress.not_before = None;
        }
        entry.source.commit(stored);
        self.progress();
        if sent.cut {
            self.relist(entry);
        } else {
            // What was appended since has listed it again.
            self.finish();
        }
        sent.cut
    }

    /// Stores seals, a few at a time.
    async fn seal(&self, seals: Vec<Seal>) {
        let seal = |seal: Seal| async move {
            let Seal {
                entry,
                block,
                object,
                version,
            } = seal;
            let (first, end) = (block.first_seq(), block.end_seq());
            let source = &entry.source;
            let id = &source.header().meta.id;
            let epoch = source.epoch();
            let sealed = match version {
                Some(version) => self.store.seal_in(version, id, epoch, block, object),
                None => self.store.seal(id, epoch, block, object),
            };
            match sealed.await {
                Ok(()) => {
                    source.commit(end);
                    self.progress();
                    entry.release(Released::Sealed);
                    self.finish();
                }
                Err(error) => self.failed(&entry, first, error),
            }
        };
        for_each_concurrent(seals.into_iter().map(seal)).await;
    }

    /// Decides what follows a failure of a block that starts at `first`.
    fn failed(&self, entry: &Arc<Entry>, first: Seq, error: StoreError) {
        let released = {
            let mut progress = entry.progress.lock();
            match error {
                StoreError::Gap { expected, .. } if expected < first => {
                    // The store has lost what it acknowledged. The tail has it.
                    progress.stored = expected;
                    progress.fail(&self.options, &error);
                    None
                }
                // A store that has lost the log takes it again from the start.
                StoreError::NotFound if entry.source.epoch() == Epoch(1) => {
                    progress.created = false;
                    progress.stored = Seq(0);
                    progress.fail(&self.options, &error);
                    None
                }
                StoreError::Unavailable(_) => {
                    progress.fail(&self.options, &error);
                    None
                }
                StoreError::Fenced { current, .. } => Some(Released::Fenced { current }),
                error => Some(Released::Refused(error)),
            }
        };
        match released {
            None => self.relist(entry),
            Some(why) => {
                entry.release(why);
                self.finish();
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    fn release(&self, why: Released) {
        if let Released::Refused(error) = &why {
            let generation = &self.source.header().meta.id;
            tracing::error!(%generation, %error, "the store refused a log");
        }
        self.progress.lock().released = true;
        self.source.released(why);
    }
}

// === impl Progress ===

impl Progress {
    fn fail(&mut self, options: &FlushOptions, error: &StoreError) {
        tracing::debug!(%error, "the store did not take a block");
        let doublings = self.failures.min(16);
        let pause = options.retry_min.saturating_mul(1 << doublings);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + pause.min(options.retry_max));
    }
}

/// Drives the futures to their end, at most [`CONCURRENT`] at a time.
async fn for_each_concurrent<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut running = FuturesUnordered::new();
    for future in futures {
        if running.len() >= CONCURRENT {
            running.next().await;
        }
        running.push(future);
    }
    while running.next().await.is_some() {}
}
