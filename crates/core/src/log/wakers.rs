//! The readers that wait at the tail of one log.

use std::task::{Context, Waker};

use smallvec::SmallVec;

/// The index of a reader in a log's list of wakers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderSlot(pub usize);

#[derive(Debug)]
enum Reader {
    Vacant,
    Reading,
    Waiting(Waker),
}

/// Most logs have one reader; its waker needs no allocation.
pub(super) type Wakers = SmallVec<[Waker; 2]>;

/// The readers of one log, by slot. Most logs have one, which lies beside the log's end.
#[derive(Debug, Default)]
pub(super) struct Readers(SmallVec<[Reader; 1]>);

impl Readers {
    pub(super) fn enroll(&mut self) -> ReaderSlot {
        let slot = self
            .0
            .iter()
            .position(|reader| matches!(reader, Reader::Vacant))
            .unwrap_or_else(|| {
                self.0.push(Reader::Vacant);
                self.0.len() - 1
            });
        self.0[slot] = Reader::Reading;
        ReaderSlot(slot)
    }

    pub(super) fn leave(&mut self, slot: ReaderSlot) {
        if let Some(reader) = self.0.get_mut(slot.0) {
            *reader = Reader::Vacant;
        }
        while matches!(self.0.last(), Some(Reader::Vacant)) {
            self.0.pop();
        }
        if self.0.is_empty() {
            self.0 = SmallVec::new();
        }
    }

    pub(super) fn wait(&mut self, slot: ReaderSlot, cx: &Context<'_>) {
        if let Some(reader) = self.0.get_mut(slot.0) {
            match reader {
                Reader::Waiting(waker) => waker.clone_from(cx.waker()),
                _ => *reader = Reader::Waiting(cx.waker().clone()),
            }
        }
    }

    /// Whether there are readers, and none of them waits.
    pub(super) fn are_behind(&self) -> bool {
        !self.0.is_empty()
            && !self
                .0
                .iter()
                .any(|reader| matches!(reader, Reader::Waiting(_)))
    }

    /// Takes the wakers of all waiting readers, to be woken once the log is unlocked.
    pub(super) fn take(&mut self) -> Wakers {
        let mut wakers = Wakers::new();
        for reader in &mut self.0 {
            if matches!(reader, Reader::Waiting(_))
                && let Reader::Waiting(waker) = std::mem::replace(reader, Reader::Reading)
            {
                wakers.push(waker);
            }
        }
        wakers
    }
}
