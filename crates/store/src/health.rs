//! Whether the disk takes what is written, and how much was.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokenwire_core::log::StoreError;

/// An operation that takes longer hangs.
const HANGING: Duration = Duration::from_secs(2);

/// Whether a store persists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// The last write succeeded.
    Ready,
    /// The disk, or `max_bytes`, has no room. Streams run on and are stored once there is.
    Full,
    /// The last write or sync failed.
    Failing,
    /// The disk has not answered for 2 seconds.
    Hanging,
}

/// What a store has, and how it fares.
#[derive(Clone, Copy, Debug)]
pub struct StoreStatus {
    /// Whether it persists.
    pub state: StoreState,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes written since the start.
    pub written: u64,
    /// Writes and syncs that failed since the start.
    pub errors: u64,
    /// Logs that have not ended.
    pub running: usize,
    /// Logs and response objects that are kept.
    pub kept: usize,
}

#[derive(Debug)]
pub(crate) struct Health {
    state: AtomicU8,
    pub(crate) bytes: AtomicU64,
    pub(crate) written: AtomicU64,
    pub(crate) errors: AtomicU64,
    start: Instant,
    /// Milliseconds from the start to the begin of the write and of the sync that run; 0 if none.
    busy: [AtomicU64; 2],
}

/// The two threads that wait for the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Thread {
    Writer,
    Syncer,
}

impl StoreState {
    /// Returns the state in one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Full => "full",
            Self::Failing => "failing",
            Self::Hanging => "hanging",
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(0),
            bytes: AtomicU64::new(0),
            written: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            start: Instant::now(),
            busy: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }
}

impl Health {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).map_or(u64::MAX, |now| now.max(1))
    }

    /// Notes how long a thread waits for the disk while `f` runs.
    pub(crate) fn busy<T>(&self, thread: Thread, f: impl FnOnce() -> T) -> T {
        let busy = &self.busy[thread as usize];
        busy.store(self.now(), Ordering::Relaxed);
        let result = f();
        busy.store(0, Ordering::Relaxed);
        result
    }

    /// Notes the result of a write.
    pub(crate) fn note(&self, result: &Result<u64, StoreError>, full: bool) {
        let (state, length) = match result {
            Ok(length) => (0, *length),
            Err(_) => (1 + u8::from(!full), 0),
        };
        self.written.fetch_add(length, Ordering::Relaxed);
        self.bytes.fetch_add(length, Ordering::Relaxed);
        if state > 0 {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let before = self.state.swap(state, Ordering::Relaxed);
        match result {
            Err(error) if before != state => {
                tracing::error!(%error, "the store cannot be written; streams run on unstored");
            }
            Ok(_) if before != 0 => tracing::info!("the store can be written again"),
            _ => {}
        }
    }

    /// Notes that a file was removed.
    pub(crate) fn removed(&self, length: u64) {
        let less = |bytes: u64| Some(bytes.saturating_sub(length));
        let _ = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    pub(crate) fn state(&self) -> StoreState {
        let now = self.now();
        let hanging = self.busy.iter().any(|busy| {
            let since = busy.load(Ordering::Relaxed);
            since > 0 && now.saturating_sub(since) > HANGING.as_millis() as u64
        });
        match self.state.load(Ordering::Relaxed) {
            _ if hanging => StoreState::Hanging,
            0 => StoreState::Ready,
            1 => StoreState::Full,
            _ => StoreState::Failing,
        }
    }
}
