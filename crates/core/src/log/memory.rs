//! The log in memory: records in one growing buffer, under a lock that is held for one copy.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::lock_api::{Mutex, RawMutex};
use smallvec::SmallVec;

use super::{AppendError, Epoch, LogLimits, ReadError, ReadPosition, ReaderSlot, Tail, TokenLog};
use crate::model::id::Seq;
use crate::model::record::RecordBatch;

/// The largest limits. Positions have 32 bits, and the rest is for the last batch, which no limit
/// applies to.
const MAX_BYTES: usize = u32::MAX as usize / 16 * 15;
const MAX_EVENTS: u64 = u32::MAX as u64 / 16 * 15;

/// Counts the bytes that all logs of a process hold. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MemoryAccount(Arc<AtomicUsize>);

impl MemoryAccount {
    /// Bytes held now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn resize(&self, from: usize, to: usize) {
        // Two's complement: adding the wrapped difference also subtracts.
        self.0.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
    }
}

/// A log in memory. It holds the records' bytes, 8 bytes per record, and the spare capacity of
/// `Vec`.
///
/// The lock is a type parameter, so that a model checker can explore the interleavings.
pub struct MemoryLog<R: RawMutex = parking_lot::RawMutex> {
    limits: LogLimits,
    account: MemoryAccount,
    state: Mutex<R, State>,
}

impl<R: RawMutex> fmt::Debug for MemoryLog<R> {
    /// Without the records, which are contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    records: Vec<RecordEnd>,
    epoch: Epoch,
    sealed: bool,
    expired: bool,
    /// The size that the account has for this log.
    accounted: usize,
    readers: Vec<Reader>,
}

#[derive(Clone, Copy, Debug)]
struct RecordEnd {
    next_seq: u32,
    byte: u32,
}

#[derive(Debug)]
enum Reader {
    Vacant,
    Reading,
    Waiting(Waker),
}

/// Most logs have one reader; its waker needs no allocation.
type Wakers = SmallVec<[Waker; 2]>;

impl MemoryLog {
    /// Creates an empty log. Limits are capped at 3.75 GiB and 15/16 of 2³² events.
    #[must_use]
    pub fn new(limits: LogLimits, account: MemoryAccount) -> Self {
        Self::with_lock(limits, account)
    }
}

impl<R: RawMutex> MemoryLog<R> {
    /// As [`MemoryLog::new`], with another type of lock.
    #[must_use]
    pub fn with_lock(limits: LogLimits, account: MemoryAccount) -> Self {
        let limits = LogLimits {
            bytes: limits.bytes.min(MAX_BYTES),
            events: limits.events.min(MAX_EVENTS),
        };
        Self {
            limits,
            account,
            state: Mutex::default(),
        }
    }

    fn write(&self, epoch: Epoch, batch: &RecordBatch, last: bool) -> Result<(), AppendError> {
        let mut state = self.state.lock();
        if epoch != state.epoch {
            return Err(AppendError::Fenced {
                held: epoch,
                current: state.epoch,
            });
        }
        if state.expired {
            return Err(AppendError::Expired);
        }
        if state.sealed {
            return Err(AppendError::Sealed);
        }
        let expected = state.next_seq();
        if !batch.is_empty() && batch.first_seq() != expected {
            return Err(AppendError::Gap {
                expected,
                found: batch.first_seq(),
            });
        }
        let bytes = state.bytes.len() + batch.byte_len();
        let limits = if last {
            LogLimits {
                bytes: u32::MAX as usize,
                events: u64::from(u32::MAX),
            }
        } else {
            self.limits
        };
        if bytes > limits.bytes || batch.end_seq().0 > limits.events {
            return Err(AppendError::Full {
                limits: self.limits,
            });
        }
        let start = state.bytes.len();
        state.bytes.extend_from_slice(batch.as_block());
        let mut records = batch.iter();
        while records.next().is_some() {
            // Both fit: the limits were checked above.
            let end = RecordEnd {
                next_seq: records.end_seq().0 as u32,
                byte: (start + batch.byte_len() - records.rest().len()) as u32,
            };
            state.records.push(end);
        }
        if last {
            state.sealed = true;
            state.bytes.shrink_to_fit();
            state.records.shrink_to_fit();
        }
        state.account(&self.account);
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(())
    }
}

impl State {
    fn next_seq(&self) -> Seq {
        Seq(self.records.last().map_or(0, |end| u64::from(end.next_seq)))
    }

    fn memory_size(&self) -> usize {
        self.bytes.capacity() + self.records.capacity() * size_of::<RecordEnd>()
    }

    fn account(&mut self, account: &MemoryAccount) {
        let size = self.memory_size();
        if size != self.accounted {
            account.resize(self.accounted, size);
            self.accounted = size;
        }
    }

    fn take_wakers(&mut self) -> Wakers {
        let mut wakers = Wakers::new();
        for reader in &mut self.readers {
            if matches!(reader, Reader::Waiting(_))
                && let Reader::Waiting(waker) = std::mem::replace(reader, Reader::Reading)
            {
                wakers.push(waker);
            }
        }
        wakers
    }

    fn copy(&self, cursor: &mut ReadPosition, max_bytes: usize, out: &mut RecordBatch) {
        let start = match cursor.hint {
            Some(index) => index,
            None => self
                .records
                .partition_point(|end| u64::from(end.next_seq) <= cursor.next.0),
        };
        let before = start
            .checked_sub(1)
            .and_then(|index| self.records.get(index))
            .copied();
        let (seq, byte) = before.map_or((0, 0), |end| (end.next_seq, end.byte));
        let (mut last, mut index) = ((seq, byte), start);
        while let Some(end) = self.records.get(index) {
            last = (end.next_seq, end.byte);
            index += 1;
            if (last.1 - byte) as usize >= max_bytes {
                break;
            }
        }
        out.restart(Seq(u64::from(seq)));
        out.extend_framed(
            &self.bytes[byte as usize..last.1 as usize],
            Seq(u64::from(last.0)),
        );
        if index > start {
            *cursor = ReadPosition {
                next: Seq(u64::from(last.0)),
                hint: Some(index),
            };
        }
    }
}

impl<R: RawMutex + Send + Sync> TokenLog for MemoryLog<R> {
    fn append(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError> {
        self.write(epoch, batch, false)
    }

    fn seal(&self, epoch: Epoch, batch: &RecordBatch) -> Result<(), AppendError> {
        self.write(epoch, batch, true)
    }

    fn take_over(&self) -> Epoch {
        let mut state = self.state.lock();
        state.epoch.0 += 1;
        state.epoch
    }

    fn tail(&self) -> Result<Tail, ReadError> {
        let state = self.state.lock();
        if state.expired {
            Err(ReadError::Expired)
        } else {
            Ok(Tail {
                next: state.next_seq(),
                sealed: state.sealed,
            })
        }
    }

    fn memory_size(&self) -> usize {
        self.state.lock().memory_size()
    }

    fn expire(&self) {
        let mut state = self.state.lock();
        state.expired = true;
        state.bytes = Vec::new();
        state.records = Vec::new();
        state.account(&self.account);
        let wakers = state.take_wakers();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn enroll(&self) -> ReaderSlot {
        let readers = &mut self.state.lock().readers;
        let slot = readers
            .iter()
            .position(|reader| matches!(reader, Reader::Vacant))
            .unwrap_or_else(|| {
                // Most logs have one reader. By default a `Vec` starts with room for four.
                if readers.is_empty() {
                    readers.reserve_exact(1);
                }
                readers.push(Reader::Vacant);
                readers.len() - 1
            });
        readers[slot] = Reader::Reading;
        ReaderSlot(slot)
    }

    fn leave(&self, slot: ReaderSlot) {
        let readers = &mut self.state.lock().readers;
        if let Some(reader) = readers.get_mut(slot.0) {
            *reader = Reader::Vacant;
        }
        while matches!(readers.last(), Some(Reader::Vacant)) {
            readers.pop();
        }
        if readers.is_empty() {
            *readers = Vec::new();
        }
    }

    fn poll_read(
        &self,
        slot: ReaderSlot,
        cx: &mut Context<'_>,
        cursor: &mut ReadPosition,
        max_bytes: usize,
        out: &mut RecordBatch,
    ) -> Poll<Result<Tail, ReadError>> {
        let mut state = self.state.lock();
        if state.expired {
            return Poll::Ready(Err(ReadError::Expired));
        }
        let tail = Tail {
            next: state.next_seq(),
            sealed: state.sealed,
        };
        if cursor.next < tail.next || tail.sealed {
            state.copy(cursor, max_bytes, out);
            return Poll::Ready(Ok(tail));
        }
        if let Some(reader) = state.readers.get_mut(slot.0) {
            match reader {
                Reader::Waiting(waker) => waker.clone_from(cx.waker()),
                _ => *reader = Reader::Waiting(cx.waker().clone()),
            }
        }
        Poll::Pending
    }
}

impl<R: RawMutex> Drop for MemoryLog<R> {
    fn drop(&mut self) {
        self.account.resize(self.state.get_mut().accounted, 0);
    }
}
