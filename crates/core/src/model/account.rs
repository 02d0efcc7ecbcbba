//! The account of memory: counts the bytes that requests hold, and says what still fits.
//!
//! Each part that holds a request's bytes has a [`Charge`] for them: the body while it is read, the
//! create that waits on its lane, the input, the upstream's request, the log, the response object,
//! the frames of a reader. A charge is resized when a buffer's capacity changes, never per token,
//! and is released when it is dropped.
//!
//! ```
//! use tokenwire_core::model::account::{Account, AccountKind};
//!
//! let account = Account::new(1 << 20);
//! let body = account.try_charge(AccountKind::Bodies, 100_000)?;
//! assert_eq!(account.used(), 100_000);
//! assert!(account.try_charge(AccountKind::Bodies, 1 << 20).is_err());
//! drop(body);
//! assert_eq!(account.used(), 0);
//! # Ok::<(), tokenwire_core::model::account::Full>(())
//! ```
//!
//! What starts something new asks first ([`Account::try_charge`]). What a running answer grows by
//! is counted in any case ([`Account::charge`], [`Charge::resize`]), since an answer is never lost
//! to the request that waits for it. So that this growth finds room, each running generation
//! reserves what answers usually take ([`Account::typical`]). While more than seven eighths of the
//! limit are held, a running answer that has grown waits before it is read on ([`Growth`]).
//!
//! Each worker counts in a [handle](Account::handle) of its own: a request changes its charges some
//! twenty times, and a counter that all workers write would have to move between their processors
//! each time.

mod counts;
mod room;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::error::{ApiError, ErrorCode};
use counts::Counts;
use room::Room;
pub use room::{Growth, Turn};

/// What bytes are held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum AccountKind {
    /// Bodies of HTTP requests that are being read.
    Bodies,
    /// WebSocket messages that are being read.
    Messages,
    /// Creates that wait on their lanes.
    Queued,
    /// Requests that are being started, and the input items that later turns build on.
    Inputs,
    /// Requests to upstreams, which are kept for retries.
    Requests,
    /// Records of logs.
    Logs,
    /// Response objects, with what else a generation holds beside its log.
    Objects,
    /// Frames that are on their way to readers.
    Frames,
    /// What running generations are expected to grow by. Not held yet.
    Reserved,
}

impl AccountKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Bodies,
        Self::Messages,
        Self::Queued,
        Self::Inputs,
        Self::Requests,
        Self::Logs,
        Self::Objects,
        Self::Frames,
        Self::Reserved,
    ];

    /// Returns the name, as metrics show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bodies => "bodies",
            Self::Messages => "messages",
            Self::Queued => "queued",
            Self::Inputs => "inputs",
            Self::Requests => "requests",
            Self::Logs => "logs",
            Self::Objects => "objects",
            Self::Frames => "frames",
            Self::Reserved => "reserved",
        }
    }

    /// The part of the limit that bytes of this kind may take, as a divisor. What clients only send
    /// leaves room for what is running.
    fn share(self) -> usize {
        match self {
            Self::Bodies | Self::Messages | Self::Queued => 4,
            _ => 1,
        }
    }
}

/// The bytes do not fit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory for requests is used up")]
pub struct Full;

impl From<Full> for ApiError {
    fn from(Full: Full) -> Self {
        Self::new(
            ErrorCode::Overloaded,
            "The memory for requests and streams (streams.max_memory) is used up by those that are running.",
        )
        .retry_after(Duration::from_secs(1))
    }
}

/// Gives memory back when bytes do not fit.
pub trait Relief: Send + Sync + fmt::Debug {
    /// Drops what is kept and not in use, until `bytes` are released or nothing is left.
    fn relieve(&self, bytes: usize);
}

/// Counts the bytes of all requests of a process. Cheap to clone.
#[derive(Clone)]
pub struct Account(Arc<Handle>);

/// The part of an account that one worker writes.
struct Handle {
    shared: Arc<Shared>,
    /// The index of its counters.
    shard: usize,
}

/// What all workers share.
struct Shared {
    limit: usize,
    counts: Counts,
    relief: OnceLock<Weak<dyn Relief>>,
    /// Running answers that wait until they may grow.
    room: Room,
    /// Held by the thread that repeats a charge that did not fit beside others.
    retrying: Mutex<()>,
    /// Number of handles that were made.
    handles: AtomicUsize,
    /// Notified when a piece is released that is large beside the limit.
    huge_released: Notify,
    typical: Typical,
}

/// Written at the end of most requests, so apart from what is only read.
#[repr(align(128))]
struct Typical(AtomicUsize);

/// A release of this many bytes is worth noting.
const LARGE: usize = 16 * 1024;
/// A release of this many bytes is worth giving memory back at once, if it is also a certain part of
/// the limit.
const HUGE: usize = 1024 * 1024;
/// That part, as a divisor.
const HUGE_PART: usize = 64;
/// The part of the limit that is left for answers that go on to their end, as a divisor.
const ROOM_FREE: usize = 8;
/// The size that an answer is expected to have before there was one, log and object together.
const FIRST_TYPICAL: usize = 64 * 1024;
/// A request of n bytes takes up to four times as much while it is started: the bytes as they were
/// received, the request as it was read, the body for the upstream, and the input items.
const COPIES: usize = 4;

/// Bytes that are held. They are released when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Charge {
    account: Account,
    kind: AccountKind,
    bytes: usize,
}

// === impl Account ===

impl Default for Account {
    /// An account without a limit.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("limit", &self.limit())
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

impl Account {
    /// Creates an account of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let shared = Shared {
            limit,
            counts: Counts::new(limit),
            relief: OnceLock::new(),
            room: Room::default(),
            retrying: Mutex::new(()),
            handles: AtomicUsize::new(1),
            huge_released: Notify::new(),
            typical: Typical(AtomicUsize::new(FIRST_TYPICAL.min(limit / 1024))),
        };
        Self(Arc::new(Handle {
            shared: Arc::new(shared),
            shard: 0,
        }))
    }

    /// Returns a handle of the same account for another worker. Its charges are counted apart, and
    /// sums include them.
    #[must_use]
    pub fn handle(&self) -> Self {
        let shared = self.0.shared.clone();
        let shard = shared.handles.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Handle { shared, shard }))
    }

    /// Sets what gives memory back when bytes do not fit. The first call counts.
    pub fn set_relief(&self, relief: Weak<dyn Relief>) {
        let _ = self.0.shared.relief.set(relief);
    }

    /// The most bytes, without what running answers need beyond it.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.shared.limit
    }

    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.committed()
            .saturating_sub(self.held(AccountKind::Reserved))
    }

    /// Bytes held now, and those that are reserved.
    #[must_use]
    pub fn committed(&self) -> usize {
        let counts = &self.0.shared.counts;
        let held = AccountKind::ALL.map(|kind| counts.held(kind));
        held.into_iter().fold(0, usize::saturating_add)
    }

    /// Returns the bytes by which what is held and reserved exceeds `most`.
    #[must_use]
    pub fn excess(&self, most: usize) -> usize {
        if self.0.shared.counts.are_within(most) {
            return 0;
        }
        self.committed().saturating_sub(most)
    }

    /// Bytes of this kind that are held now.
    #[must_use]
    pub fn held(&self, kind: AccountKind) -> usize {
        self.0.shared.counts.held(kind)
    }

    /// Bytes released so far in large pieces. Wraps around. Its growth says that it is worth to
    /// give memory back to the system.
    #[must_use]
    pub fn released(&self) -> usize {
        self.0.shared.counts.released()
    }

    /// Waits until a piece was released that is large beside the limit: 1 MiB and a 64th of it. An
    /// allocator that keeps a few of them exceeds what the account allows.
    pub async fn huge_released(&self) {
        self.0.shared.huge_released.notified().await;
    }

    /// The largest request that can ever be started.
    #[must_use]
    pub fn largest_request(&self) -> usize {
        self.limit() / COPIES
    }

    /// Reserves what a request of `size` bytes takes while it is started, beside the bytes that were
    /// charged when it was read.
    ///
    /// # Errors
    /// `body_too_large` if it can never fit, `overloaded` if it does not fit now.
    pub fn try_start(&self, size: usize) -> Result<Charge, ApiError> {
        let mut charge = self.charge(AccountKind::Inputs, 0);
        charge.try_start(size)?;
        Ok(charge)
    }

    /// Checks that a request of `size` bytes can be started at all.
    ///
    /// # Errors
    /// `body_too_large`.
    pub fn check_size(&self, size: usize) -> Result<(), ApiError> {
        let most = self.largest_request();
        if size <= most {
            return Ok(());
        }
        let message = format!(
            "The request is larger than the {most} bytes that streams.max_memory has room for."
        );
        Err(ApiError::new(ErrorCode::BodyTooLarge, message))
    }

    /// Counts bytes that are held in any case.
    pub fn charge(&self, kind: AccountKind, bytes: usize) -> Charge {
        self.add(kind, bytes);
        Charge {
            account: self.clone(),
            kind,
            bytes,
        }
    }

    /// Counts bytes if they fit.
    ///
    /// # Errors
    /// [`Full`].
    pub fn try_charge(&self, kind: AccountKind, bytes: usize) -> Result<Charge, Full> {
        let mut charge = self.charge(kind, 0);
        charge.try_resize(bytes)?;
        Ok(charge)
    }

    /// The bytes that most answers do not exceed, log and object together. It follows the answers
    /// that end, and those that outgrow it.
    #[must_use]
    pub fn typical(&self) -> usize {
        self.0.shared.typical.0.load(Ordering::Relaxed)
    }

    /// Notes the size of an answer that has ended, or that has outgrown what it reserved.
    ///
    /// Each larger one raises the typical size by half, each smaller one lowers it by a sixteenth,
    /// so about one in seven is larger. A single large answer changes little, and one that is hardly
    /// smaller changes nothing.
    pub(crate) fn observe(&self, size: usize) {
        let typical = self.typical();
        let next = if size > typical {
            (typical + typical / 2 + 1).min(size)
        } else {
            (typical - typical / 16).max(size)
        };
        let next = next.min(self.limit() / 16);
        if next > typical || next < typical - typical / 32 {
            self.0.shared.typical.0.store(next, Ordering::Relaxed);
        }
    }

    /// Returns by how much the limit is exceeded with `more` bytes; `None` if the share of the kind
    /// is. It is `Some(0)` if they fit.
    fn missing(&self, kind: AccountKind, more: usize) -> Option<usize> {
        let counts = &self.0.shared.counts;
        if kind.share() > 1 {
            let most = (self.limit() / kind.share()).checked_sub(more)?;
            if !counts.is_within(kind, most) && self.held(kind) > most {
                return None;
            }
        }
        let room = self.limit().saturating_sub(more);
        let beyond = more.saturating_sub(self.limit());
        Some(self.excess(room).saturating_add(beyond))
    }

    /// Returns whether `more` bytes fit. Gives memory back if they do not.
    fn has_room(&self, kind: AccountKind, more: usize) -> bool {
        let Some(missing) = self.missing(kind, more) else {
            return false;
        };
        self.relieve(missing);
        missing == 0 || self.missing(kind, more) == Some(0)
    }

    /// Creates the growth of an answer that started at this time.
    #[must_use]
    pub fn growth(&self, started: Instant) -> Growth {
        Growth::new(self.clone(), started)
    }

    /// The most bytes that are held while running answers grow freely.
    fn room(&self) -> usize {
        self.limit() - self.limit() / ROOM_FREE
    }

    /// Whether running answers have no room.
    fn is_exceeded(&self) -> bool {
        !self.0.shared.counts.are_within(self.room()) && self.used() > self.room()
    }

    /// Gives memory back if running answers have no room.
    fn relieve_excess(&self) {
        self.relieve(self.used().saturating_sub(self.room()));
    }

    fn relieve(&self, bytes: usize) {
        if bytes > 0
            && let Some(relief) = self.0.shared.relief.get().and_then(Weak::upgrade)
        {
            relief.relieve(bytes);
        }
    }

    fn add(&self, kind: AccountKind, bytes: usize) {
        if bytes > 0 {
            self.0.shared.counts.add(self.0.shard, kind, bytes);
        }
    }

    fn subtract(&self, kind: AccountKind, bytes: usize) {
        if bytes > 0 {
            let counts = &self.0.shared.counts;
            counts.add(self.0.shard, kind, bytes.wrapping_neg());
            if bytes >= LARGE && kind != AccountKind::Reserved {
                counts.release(self.0.shard, bytes);
                if bytes >= HUGE && bytes >= self.limit() / HUGE_PART {
                    self.0.shared.huge_released.notify_waiters();
                }
                if self.0.shared.room.is_waited_for() {
                    self.0.shared.room.wake_best();
                }
            }
        }
    }
}

// === impl Charge ===

impl Charge {
    /// The bytes that it counts.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The account that it is part of.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Counts this many bytes from now on, whether or not they fit.
    pub fn resize(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.account.add(self.kind, bytes - self.bytes);
        } else {
            self.account.subtract(self.kind, self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// As [`Account::try_start`], for a request that turns out to be larger.
    ///
    /// # Errors
    /// As [`Account::try_start`].
    pub fn try_start(&mut self, size: usize) -> Result<(), ApiError> {
        self.account.check_size(size)?;
        Ok(self.try_resize(size.saturating_mul(COPIES - 1))?)
    }

    /// Counts this many bytes from now on if they fit. Fewer always fit.
    ///
    /// # Errors
    /// [`Full`]. The charge is then as before.
    pub fn try_resize(&mut self, bytes: usize) -> Result<(), Full> {
        let before = self.bytes;
        if bytes <= before {
            self.resize(bytes);
            return Ok(());
        }
        if self.try_grow(bytes) {
            return Ok(());
        }
        // It may have met others that were counted for a moment only. One thread at a time repeats,
        // and counts nothing that does not fit.
        let account = self.account.clone();
        let _turn = account.0.shared.retrying.lock();
        while account.has_room(self.kind, bytes - before) {
            if self.try_grow(bytes) {
                return Ok(());
            }
        }
        Err(Full)
    }

    /// Counts this many bytes if they fit together with what other threads count now.
    fn try_grow(&mut self, bytes: usize) -> bool {
        let before = self.bytes;
        if self.account.missing(self.kind, bytes - before) != Some(0) {
            return false;
        }
        self.resize(bytes);
        let fits = self.account.missing(self.kind, 0) == Some(0);
        if !fits {
            self.resize(before);
        }
        fits
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.subtract(self.kind, self.bytes);
    }
}

/// Bytes that release their charge with the last reference to them.
#[derive(Debug)]
struct Charged {
    bytes: Vec<u8>,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Account {
    /// Counts bytes for as long as a reference to them exists.
    #[must_use]
    pub fn hold(&self, kind: AccountKind, bytes: Vec<u8>) -> bytes::Bytes {
        let charge = self.charge(kind, bytes.capacity());
        bytes::Bytes::from_owner(Charged {
            bytes,
            _charge: charge,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;

    use super::*;

    /// Releases a charge under pressure.
    #[derive(Debug, Default)]
    struct Kept(parking_lot::Mutex<Vec<Charge>>);

    impl Relief for Kept {
        fn relieve(&self, bytes: usize) {
            let mut released = 0;
            let mut kept = self.0.lock();
            while released < bytes
                && let Some(charge) = kept.pop()
            {
                released += charge.bytes();
            }
        }
    }

    #[test]
    fn charges_are_released_on_drop_and_counted_by_kind() {
        let account = Account::new(1000);
        let log = account.charge(AccountKind::Logs, 300);
        let mut body = account.try_charge(AccountKind::Bodies, 100).unwrap();
        body.try_resize(200).unwrap();
        assert_eq!(account.used(), 500);
        assert_eq!(account.held(AccountKind::Bodies), 200);
        drop(body);
        drop(log);
        assert_eq!(account.committed(), 0);
    }

    #[test]
    fn growth_beyond_the_limit_is_refused_and_changes_nothing() {
        let account = Account::new(1000);
        let mut input = account.try_charge(AccountKind::Inputs, 900).unwrap();
        assert_eq!(input.try_resize(1001), Err(Full));
        assert_eq!((input.bytes(), account.used()), (900, 900));
        // A running answer is counted in any case.
        let log = account.charge(AccountKind::Logs, 500);
        assert_eq!(account.used(), 1400);
        assert!(account.try_charge(AccountKind::Inputs, 1).is_err());
        drop(log);
        assert!(account.try_charge(AccountKind::Inputs, 100).is_ok());
    }

    #[test]
    fn reserved_bytes_refuse_others_and_are_not_used() {
        let account = Account::new(1000);
        let reserved = account.try_charge(AccountKind::Reserved, 800).unwrap();
        assert_eq!((account.used(), account.committed()), (0, 800));
        assert!(account.try_charge(AccountKind::Inputs, 300).is_err());
        drop(reserved);
        assert!(account.try_charge(AccountKind::Inputs, 300).is_ok());
    }

    #[test]
    fn bodies_and_queued_creates_leave_room_for_the_rest() {
        let account = Account::new(1000);
        let mut held = Vec::new();
        for kind in [
            AccountKind::Bodies,
            AccountKind::Messages,
            AccountKind::Queued,
        ] {
            assert!(account.try_charge(kind, 251).is_err());
            held.push(account.try_charge(kind, 250).unwrap());
        }
        assert!(account.try_charge(AccountKind::Inputs, 250).is_ok());
    }

    #[test]
    fn handles_count_together() {
        let account = Account::new(10_000);
        let other = account.handle();
        let first = account.try_charge(AccountKind::Inputs, 6_000).unwrap();
        assert!(other.try_charge(AccountKind::Inputs, 5_000).is_err());
        let second = other.try_charge(AccountKind::Logs, 4_000).unwrap();
        assert_eq!((account.used(), other.used()), (10_000, 10_000));
        assert_eq!(account.excess(9_000), 1_000);
        drop(first);
        assert_eq!((account.excess(9_000), other.used()), (0, 4_000));
        drop(second);
        assert_eq!(account.committed(), 0);
    }

    #[test]
    fn kept_memory_gives_way() {
        let account = Account::new(1000);
        let kept = Arc::new(Kept::default());
        for _ in 0..3 {
            kept.0.lock().push(account.charge(AccountKind::Logs, 300));
        }
        let relief: Arc<dyn Relief> = kept.clone();
        account.set_relief(Arc::downgrade(&relief));
        let _input = account.try_charge(AccountKind::Inputs, 200).unwrap();
        assert_eq!(kept.0.lock().len(), 2);
        assert!(account.try_charge(AccountKind::Inputs, 900).is_err());
        assert_eq!(account.used(), 200);
    }

    #[test]
    fn concurrent_charges_never_exceed_the_limit_together() {
        let account = Account::new(10_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let account = account.handle();
                scope.spawn(move || {
                    for _ in 0..1000 {
                        let charges: Vec<_> = (0..40)
                            .map_while(|_| account.try_charge(AccountKind::Inputs, 100).ok())
                            .collect();
                        let held: usize = charges.iter().map(Charge::bytes).sum();
                        assert!(held <= 10_000);
                    }
                });
            }
        });
        assert_eq!(account.committed(), 0);
    }

    #[test]
    fn large_charge_that_is_refused_takes_no_room_from_a_small_one() {
        let account = Account::new(1 << 20);
        let _running = account.charge(AccountKind::Logs, (1 << 20) - 1000);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let account = account.handle();
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        assert!(account.try_charge(AccountKind::Inputs, 2000).is_err());
                    }
                });
            }
            let account = account.handle();
            scope.spawn(move || {
                for _ in 0..20_000 {
                    drop(account.try_charge(AccountKind::Inputs, 1000).unwrap());
                }
            });
        });
    }

    #[test]
    fn charges_that_fit_together_are_never_refused() {
        let account = Account::new(4000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let account = account.handle();
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        drop(account.try_charge(AccountKind::Inputs, 1000).unwrap());
                    }
                });
            }
        });
    }

    #[test]
    fn typical_size_follows_the_answers_and_ignores_a_single_large_one() {
        let account = Account::new(1 << 30);
        for _ in 0..100 {
            account.observe(4096);
        }
        assert!((4096..=4096 + 4096 / 16).contains(&account.typical()));
        account.observe(64 << 20);
        assert!(account.typical() < 8192);
        for _ in 0..20 {
            account.observe(1 << 20);
        }
        assert_eq!(account.typical(), 1 << 20);
        account.observe(usize::MAX);
        assert!(account.typical() <= account.limit() / 16);
    }

    #[test]
    fn request_that_can_never_fit_is_told_from_one_that_does_not_fit_now() {
        let account = Account::new(4000);
        let code = |size| account.try_start(size).unwrap_err().code;
        assert_eq!(code(1001).as_deref(), Some("body_too_large"));
        let log = account.charge(AccountKind::Logs, 2000);
        assert_eq!(code(1000).as_deref(), Some("overloaded"));
        drop(log);
        assert_eq!(account.try_start(1000).unwrap().bytes(), 3000);
    }

    #[test]
    fn release_of_a_piece_that_is_large_beside_the_limit_is_told() {
        let account = Account::new(128 * HUGE);
        let told = |bytes| {
            let mut told = pin!(account.huge_released());
            assert!(told.as_mut().now_or_never().is_none());
            drop(account.charge(AccountKind::Requests, bytes));
            told.as_mut().now_or_never().is_some()
        };
        assert!(!told(HUGE));
        assert!(told(2 * HUGE));
    }

    #[test]
    fn held_bytes_are_released_with_the_last_reference() {
        let account = Account::default();
        let bytes = account.hold(AccountKind::Requests, vec![7; 100]);
        let clone = bytes.clone();
        drop(bytes);
        assert_eq!((account.used(), clone.len()), (100, 100));
        drop(clone);
        assert_eq!(account.used(), 0);
    }
}
