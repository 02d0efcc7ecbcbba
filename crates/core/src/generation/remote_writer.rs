//! A generation that another process writes: its records come from there.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::restore::{Folder, response_head};
use super::{Generation, Holdings, Stop, log_version};
use crate::log::{LogHeader, LogTail, StoreError, StoredLog};
use crate::model::account::{Account, AccountKind};
use crate::model::id::Seq;
use crate::model::record::RecordBatch;

/// What the readers of a remote generation want of the process that writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// There is a reader.
    pub(crate) held: bool,
    /// Why it is stopped here.
    pub(crate) stop: Option<Stop>,
}

/// Writes what arrives into the log and the snapshot of a local generation.
pub(crate) struct RemoteWriter {
    generation: Arc<Generation>,
    folder: Folder,
    sealed: bool,
}

impl RemoteWriter {
    /// Creates the generation of this log, without records.
    pub(crate) fn new(stored: &StoredLog, account: &Account) -> Self {
        let log = LogTail::restored(stored.epoch_ends.clone(), None, account.clone());
        let holdings = Holdings::new(
            account.charge(AccountKind::Inputs, 0),
            account.charge(AccountKind::Reserved, 0),
        );
        let header = stored.header.clone();
        let generation = Generation::new(header, Arc::new(log), Duration::ZERO, holdings);
        generation.control.set_remote(true);
        Self {
            generation,
            folder: Folder::new(stored),
            sealed: false,
        }
    }

    pub(crate) fn generation(&self) -> &Arc<Generation> {
        &self.generation
    }

    /// The number after the last event.
    pub(crate) fn end(&self) -> Seq {
        self.folder.end
    }

    /// Whether the log has ended.
    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Goes on in the epochs of this log, if it has what this one has.
    ///
    /// # Errors
    /// [`StoreError::Gap`] if an epoch ended before an event that readers may have seen.
    pub(crate) fn follow(&mut self, stored: &StoredLog) -> Result<(), StoreError> {
        let known = self.folder.epoch_ends.len();
        let (earlier, later) = stored
            .epoch_ends
            .split_at(known.min(stored.epoch_ends.len()));
        let agrees = earlier == self.folder.epoch_ends;
        // Of later epochs the first may end here. Records between them are read after that.
        match later.first() {
            None if agrees => return Ok(()),
            Some(end) if agrees && *end >= self.folder.end => {}
            _ => {
                return Err(StoreError::Gap {
                    expected: self.folder.end,
                    found: stored.end,
                });
            }
        }
        self.folder.epoch_ends.extend(later);
        Ok(())
    }

    /// Appends records of a log with this header, which wakes readers.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if a record cannot be decoded or numbers are missing.
    pub(crate) fn append(
        &mut self,
        header: &LogHeader,
        batch: &RecordBatch,
    ) -> Result<(), StoreError> {
        let kept = log_version::kept(header, batch)?;
        let batch = kept.as_ref().unwrap_or(batch);
        if batch.is_empty() {
            return Ok(());
        }
        if batch.first_seq() != self.folder.end {
            return Err(StoreError::Corrupt);
        }
        let log = self.generation.log.clone();
        // The epochs that end where these records begin.
        while let Some(end) = self.folder.epoch_ends.get(log.epoch_ends().len())
            && *end == batch.first_seq()
        {
            log.begin_epoch();
        }
        let known = self.folder.templates.len();
        {
            // Readers that the append wakes find the events in the snapshot.
            let mut snapshot = self.generation.snapshot.lock();
            let snapshot = snapshot.folded();
            for record in batch {
                self.folder.fold(snapshot, record)?;
            }
            let new = self.folder.templates.get(known..).unwrap_or_default();
            for known in new {
                self.generation.add_template(known.clone());
            }
            log.load(batch);
            if let Some(head) = response_head(snapshot) {
                self.generation.response_head.set(head);
            }
        }
        Ok(())
    }

    /// Ends the log, which has its terminal event.
    pub(crate) fn seal(&mut self) {
        let log = &self.generation.log;
        let mut nothing = RecordBatch::default();
        nothing.restart(self.folder.end);
        self.generation.control.set_remote(false);
        let _ = log.seal(log.epoch(), &nothing);
        self.ended();
    }

    fn ended(&mut self) {
        self.sealed = true;
        let head = response_head(self.generation.snapshot.lock().folded());
        if let Some(head) = head {
            self.generation.response_head.set(head);
        }
        self.generation.count_end();
        self.generation.notify_ended();
    }

    /// Waits until its readers want something else than before.
    pub(crate) async fn wanted(&self, before: Wanted) -> Wanted {
        let control = &self.generation.control;
        poll_fn(|cx| {
            control.watch(cx);
            let now = Wanted {
                held: self.generation.is_held(),
                stop: control.stopped(),
            };
            if now == before {
                Poll::Pending
            } else {
                Poll::Ready(now)
            }
        })
        .await
    }
}

impl Drop for RemoteWriter {
    fn drop(&mut self) {
        if !self.sealed {
            // Nothing follows here. Readers come back, and find it where it is.
            self.generation.control.set_remote(false);
            self.generation.disown();
            self.generation.notify_ended();
        }
    }
}
