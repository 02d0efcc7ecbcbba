//! The log in memory: bounded, synchronous, the only thing on a token's way.

use std::fmt;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::lock_api::{Mutex, RawMutex};

use super::segment::{LargeRecords, Segments, Spot};
use super::wakers::Readers;
use super::{
    AppendError, BlockRange, Epoch, LogLimits, Position, ReadError, ReadPosition, ReaderSlot,
    TailEnd,
};
use crate::model::account::{Account, AccountKind, Charge};
use crate::model::id::Seq;
use crate::model::record::RecordBatch;

/// One generation's records. See the [module documentation](super) for a drawing.
///
/// No call copies more than about 64 KiB under the lock. The lock is a type parameter, so that a
/// model checker can explore the interleavings.
pub struct LogTail<R: RawMutex = parking_lot::RawMutex> {
    limits: LogLimits,
    state: Mutex<R, State>,
}

impl<R: RawMutex> fmt::Debug for LogTail<R> {
    /// Omits the records, which hold message content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogTail")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

struct State {
    segments: Segments,
    /// The end of the last record.
    next: Seq,
    epoch: Epoch,
    /// Where the epochs before the current one ended.
    epoch_ends: Vec<Seq>,
    sealed: bool,
    expired: bool,
    /// The end of what a store has.
    committed: Spot,
    committed_bytes: usize,
    /// Counts its bytes.
    charge: Charge,
    readers: Readers,
}

/// What a read returned beside the records that it copied.
pub(crate) struct Copied {
    /// The end of the log.
    pub(crate) end: TailEnd,
    /// A large record with its head, which is not copied under the log's lock.
    pub(crate) large: Option<Bytes>,
}

impl LogTail {
    /// Creates an empty log. Limits are capped at [`LogLimits::MAX_EVENTS`].
    #[must_use]
    pub fn new(limits: LogLimits, account: Account) -> Self {
        Self::with_lock(limits, account)
    }
}

impl<R: RawMutex> LogTail<R> {
    /// As [`LogTail::new`], with another type of lock.
    #[must_use]
    pub fn with_lock(limits: LogLimits, account: Account) -> Self {
        let limits = LogLimits {
            events: limits.events.min(LogLimits::MAX_EVENTS),
            ..limits
        };
        Self {
            limits,
            state: Mutex::new(State {
                segments: Segments::default(),
                next: Seq::default(),
                epoch: Epoch::default(),
                epoch_ends: Vec::new(),
                sealed: false,
                expired: false,
                committed: Spot::default(),
                committed_bytes: 0,
                charge: account.charge(AccountKind::Logs, 0),
                readers: Readers::default(),
            }),
        }
    }

    /// Creates the log of a store, with these ends of its earlier epochs. Its records are
    /// [loaded](LogTail::load) before it is shared. Without limits it takes whatever is appended.
    pub(crate) fn restored(
        epoch_ends: Vec<Seq>,
        limits: Option<LogLimits>,
        account: Account,
    ) -> Self {
        let limits = limits.unwrap_or(LogLimits {
            bytes: usize::MAX,
            events: u64::MAX,
        });
        let log = Self::with_lock(limits, account);
        {
            let mut state = log.state.lock();
            state.epoch = Epoch(epoch_ends.len() as u64 + 1);
            state.epoch_ends = epoch_ends;
        }
        log
    }

    /// Appends records that a store or another process has, of any epoch, and wakes waiting readers.
    /// They must follow the last ones. Once the records are gone nothing is appended.
    pub(crate) fn load(&self, batch: &RecordBatch) {
        let large = LargeRecords::of(batch);
        let mut state = self.state.lock();
        if state.expired {
            return;
        }
        state.segments.append(batch, large);
        state.next = batch.end_seq();
        state.account();
        let wakers = state.readers.take();
        drop(state);
        self.commit(batch.end_seq());
        wakers.into_iter().for_each(Waker::wake);
    }

    // --- writing ---

    /// Begins the next epoch, the first of which is 1, and fences the writers of all earlier ones.
    pub fn begin_epoch(&self) -> Epoch {
        let mut state = self.state.lock();
        if state.epoch >= Epoch::FIRST {
            let end = state.next;
            state.epoch_ends.push(end);
        }
        state.epoch.0 += 1;
        state.epoch
    }

    /// Appends the batch's records, all or none, and wakes waiting readers. The batch must start
    /// where the log ends. The first record of a later epoch skips to [`Epoch::first_seq`].
    ///
    /// # Errors
    /// [`AppendError`]; the log is unchanged.
    pub fn append(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError> {
        self.write(epoch, batch, false)
    }

    /// As [`LogTail::append`], and ends the log. The limits do not apply to this last batch.
    ///
    /// # Errors
    /// As [`LogTail::append`], but never `Full`.
    pub fn seal(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError> {
        self.write(epoch, batch, true)
    }

    fn write(&self, epoch: Epoch, batch: &RecordBatch, last: bool) -> Result<(), AppendError> {
        let large = LargeRecords::of(batch);
        let mut state = self.state.lock();
        state.check(epoch, batch)?;
        if !last && state.exceeds(&self.limits, batch) {
            return Err(AppendError::Full {
                limits: self.limits,
            });
        }
        if !batch.is_empty() {
            state.segments.append(batch, large);
            state.next = batch.end_seq();
        }
        if last {
            state.sealed = true;
            state.segments.shrink();
        }
        state.account();
        let wakers = state.readers.take();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Removes the records. Appends and reads fail from then on. Wakes waiting readers.
    pub fn expire(&self) {
        let mut state = self.state.lock();
        state.expired = true;
        let segments = std::mem::take(&mut state.segments);
        state.committed = Spot::default();
        state.committed_bytes = 0;
        state.account();
        let wakers = state.readers.take();
        drop(state);
        drop(segments);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes waiting readers although there is nothing new to read.
    pub fn wake(&self) {
        let wakers = self.state.lock().readers.take();
        wakers.into_iter().for_each(Waker::wake);
    }

    // --- where it ends ---

    /// Returns the end of the log.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    pub fn end(&self) -> Result<TailEnd, ReadError> {
        self.state.lock().end()
    }

    /// Returns the current epoch. [`Epoch::default`] before the first writer.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.state.lock().epoch
    }

    /// Returns where each epoch before the current one ended: the number after its last event.
    #[must_use]
    pub fn epoch_ends(&self) -> Vec<Seq> {
        self.state.lock().epoch_ends.clone()
    }

    /// Returns the position of a reader that has seen events up to `after`.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    pub fn place(&self, after: Seq) -> Result<Position, ReadError> {
        let state = self.state.lock();
        let end = state.end()?;
        let lost = (2..)
            .zip(&state.epoch_ends)
            .any(|(next_epoch, end)| *end <= after && after < Epoch(next_epoch).first_seq());
        let from = after.0.saturating_add(1);
        Ok(if lost {
            Position::Lost
        } else if from < end.next.0 {
            Position::InLog
        } else if from == end.next.0 {
            Position::AtTail
        } else {
            Position::PastHead
        })
    }

    /// Bytes that the log holds in memory.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        self.state.lock().memory_size()
    }

    /// Whether it has readers, of which none waits at its end.
    pub(crate) fn is_behind(&self) -> bool {
        self.state.lock().readers.are_behind()
    }

    // --- reading ---

    /// Registers a reader, to be woken by appends.
    pub fn enroll(&self) -> ReaderSlot {
        self.state.lock().readers.enroll()
    }

    /// Removes a reader.
    pub fn leave(&self, slot: ReaderSlot) {
        self.state.lock().readers.leave(slot);
    }

    /// Copies records into `out`, starting with the one that holds the cursor's event, or with the
    /// first one after it, and moves the cursor past them. Copies at least one record and stops at
    /// about `max_bytes`. `out` is restarted at the end of the record before.
    ///
    /// `Ready` with an empty batch is the end of a sealed log. After `Pending` the next append, seal
    /// or expiry wakes the slot's waker.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    pub fn poll_read(
        &self,
        slot: ReaderSlot,
        cx: &mut Context<'_>,
        cursor: &mut ReadPosition,
        max_bytes: usize,
        out: &mut RecordBatch,
    ) -> Poll<Result<TailEnd, ReadError>> {
        let poll = self.poll_copy(slot, cx, cursor, max_bytes, out);
        poll.map_ok(|copied| copied.finish(out))
    }

    /// As [`LogTail::poll_read`], but a large record is shared instead of copied: `out` then holds
    /// no record, and ends after it.
    pub(crate) fn poll_copy(
        &self,
        slot: ReaderSlot,
        cx: &mut Context<'_>,
        cursor: &mut ReadPosition,
        max_bytes: usize,
        out: &mut RecordBatch,
    ) -> Poll<Result<Copied, ReadError>> {
        let mut state = self.state.lock();
        let end = match state.end() {
            Ok(end) => end,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if cursor.next >= end.next && !end.sealed {
            state.readers.wait(slot, cx);
            return Poll::Pending;
        }
        let copied = state.copy(end, cursor, max_bytes, out);
        drop(state);
        Poll::Ready(Ok(copied))
    }

    /// As [`LogTail::poll_read`], without waiting: `out` is empty if no record follows.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    pub fn read(
        &self,
        cursor: &mut ReadPosition,
        max_bytes: usize,
        out: &mut RecordBatch,
    ) -> Result<TailEnd, ReadError> {
        let state = self.state.lock();
        let end = state.end()?;
        let copied = state.copy(end, cursor, max_bytes, out);
        drop(state);
        Ok(copied.finish(out))
    }

    // --- storing ---

    /// Appends a block of the records from `from` on to `out`, for a store. Copies at least one
    /// record, if there is one, and stops at about `max_bytes`. Returns what the block holds; it is
    /// empty at the tail.
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone, [`ReadError::PastHead`] if `from` is after
    /// the end.
    pub fn read_block(
        &self,
        from: Seq,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<BlockRange, ReadError> {
        let state = self.state.lock();
        let end = state.end()?;
        if from > end.next {
            return Err(ReadError::PastHead);
        }
        let mut spot = if state.committed.end == from {
            state.committed
        } else {
            state.segments.locate(from)
        };
        let first = spot.end;
        let large = state.segments.copy(&mut spot, max_bytes, end.next, out);
        drop(state);
        if let Some(large) = large {
            out.extend_from_slice(&large);
        }
        Ok(BlockRange {
            first,
            next: spot.end,
        })
    }

    /// Notes that a store has all events before `upto`. Acknowledging twice changes nothing.
    pub fn commit(&self, upto: Seq) {
        let mut state = self.state.lock();
        let mut spot = state.committed;
        let passed = state.segments.advance(&mut spot, upto, state.next);
        state.committed = spot;
        state.committed_bytes += passed;
    }

    /// Returns how far a store has acknowledged: it has all events before this number.
    #[must_use]
    pub fn committed(&self) -> Seq {
        self.state.lock().committed.end
    }

    /// Returns the bytes that no store has acknowledged yet.
    #[must_use]
    pub fn uncommitted(&self) -> usize {
        let state = self.state.lock();
        state.segments.used() - state.committed_bytes
    }
}

impl State {
    fn end(&self) -> Result<TailEnd, ReadError> {
        if self.expired {
            return Err(ReadError::Expired);
        }
        Ok(TailEnd {
            next: self.next,
            sealed: self.sealed,
        })
    }

    /// Checks that this writer may append this batch here.
    fn check(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError> {
        if epoch != self.epoch || epoch < Epoch::FIRST {
            return Err(AppendError::Fenced {
                held: epoch,
                current: self.epoch,
            });
        }
        if self.expired {
            return Err(AppendError::Expired);
        }
        if self.sealed {
            return Err(AppendError::Sealed);
        }
        if batch.is_empty() {
            return Ok(());
        }
        if batch.first_seq() != self.next {
            return Err(AppendError::Gap {
                expected: self.next,
                found: batch.first_seq(),
            });
        }
        let start = epoch.first_seq();
        let is_first = self.next < start || (self.next == start && self.segments.used() == 0);
        if is_first
            && let Some(record) = batch.iter().next()
            && record.first_seq != start
        {
            return Err(AppendError::Gap {
                expected: start,
                found: record.first_seq,
            });
        }
        Ok(())
    }

    fn exceeds(&self, limits: &LogLimits, batch: &RecordBatch) -> bool {
        let events = batch.end_seq().0.saturating_sub(self.epoch.first_seq().0);
        self.segments.used() + batch.byte_len() > limits.bytes
            || (events > limits.events && !batch.is_empty())
    }

    fn memory_size(&self) -> usize {
        self.segments.memory_size() + self.epoch_ends.capacity() * size_of::<Seq>()
    }

    fn account(&mut self) {
        let size = self.memory_size();
        if size != self.charge.bytes() {
            self.charge.resize(size);
        }
    }

    fn copy(
        &self,
        end: TailEnd,
        cursor: &mut ReadPosition,
        max_bytes: usize,
        out: &mut RecordBatch,
    ) -> Copied {
        let mut spot = cursor
            .spot
            .unwrap_or_else(|| self.segments.locate(cursor.next));
        out.restart(spot.end);
        let before = spot;
        let large = out.fill(|bytes| {
            let large = self.segments.copy(&mut spot, max_bytes, end.next, bytes);
            (spot.end, large)
        });
        if spot != before && spot.end > cursor.next {
            *cursor = ReadPosition {
                next: spot.end,
                spot: Some(spot),
            };
        }
        Copied { end, large }
    }
}

impl Copied {
    /// Copies what was left to copy, without the log's lock.
    fn finish(self, out: &mut RecordBatch) -> TailEnd {
        if let Some(large) = self.large {
            out.extend_framed(&large, out.end_seq());
        }
        self.end
    }
}
