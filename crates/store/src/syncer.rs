//! The thread that waits for the disk: what is written becomes durable there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokenwire_core::log::StoreError;
use tokio::sync::oneshot;

use crate::health::{Health, Thread};
use crate::queue::after;
use crate::store_file::{FileKind, StoreFile, failed};

/// What the thread has to do.
#[derive(Debug, Default)]
pub(crate) struct Syncer {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct State {
    dirty: Vec<Arc<StoreFile>>,
    /// Synced at once.
    waiting: Vec<Waiting>,
    /// Files of earlier processes that may not have been synced.
    earlier: Vec<Arc<StoreFile>>,
    /// Told once everything that this process has written before is synced, or could not be.
    everything: Vec<oneshot::Sender<Result<(), StoreError>>>,
    /// Journal files that are removed once the kept files are synced.
    doomed: Vec<Arc<StoreFile>>,
    /// Files that could not be synced, and whose contents are not written elsewhere yet.
    lost: usize,
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    file: Arc<StoreFile>,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

impl State {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.everything.is_empty() && self.earlier.is_empty()
    }
}

impl Syncer {
    /// Has a file synced with the next round.
    pub(crate) fn mark(&self, file: &Arc<StoreFile>) {
        if !file.dirty.swap(true, Ordering::AcqRel) {
            self.state.lock().dirty.push(file.clone());
        }
    }

    /// Has files of earlier processes synced, one after another. Until then no journal is removed.
    pub(crate) fn mark_earlier(&self, files: Vec<Arc<StoreFile>>) {
        self.state.lock().earlier.extend(files);
        self.ready.notify_one();
    }

    /// Has a file synced now, and the reply sent then.
    pub(crate) fn sync_now(
        &self,
        file: Arc<StoreFile>,
        reply: oneshot::Sender<Result<(), StoreError>>,
    ) {
        self.state.lock().waiting.push(Waiting { file, reply });
        self.ready.notify_one();
    }

    /// Has everything synced now that this process has written so far, and the reply sent then.
    pub(crate) fn sync_all(&self, reply: oneshot::Sender<Result<(), StoreError>>) {
        let mut state = self.state.lock();
        // The thread makes its last round once it is closed.
        if !state.closed {
            state.everything.push(reply);
            self.ready.notify_one();
        }
    }

    /// Has a journal file removed once what replaces it is durable.
    pub(crate) fn doom(&self, file: Arc<StoreFile>) {
        self.state.lock().doomed.push(file);
    }

    /// Notes that what was in a file that could not be synced is written elsewhere.
    pub(crate) fn rewritten(&self) {
        self.state.lock().lost -= 1;
    }

    /// Ends the thread after a last round.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.ready.notify_one();
    }

    /// Syncs each `interval` until it is closed. `on_failure` gets the files that could not be
    /// synced; [`rewritten`](Self::rewritten) is to be called for each.
    pub(crate) fn run(
        &self,
        interval: Duration,
        health: &Health,
        on_failure: impl Fn(Arc<StoreFile>),
    ) {
        let mut due = after(interval);
        loop {
            let (is_due, closed) = {
                let mut state = self.state.lock();
                let mut timed_out = false;
                while state.is_idle() && !state.closed && !timed_out {
                    timed_out = self.ready.wait_until(&mut state, due).timed_out();
                }
                (timed_out || state.closed, state.closed)
            };
            self.answer(health, &on_failure);
            if is_due {
                due = after(interval);
                let _ = self.round(health, &on_failure);
            }
            // One at a time: there may be much of them, and others wait meanwhile.
            self.sync_earlier(health, &on_failure);
            if closed {
                return;
            }
        }
    }

    /// Syncs the files that are waited for.
    pub(crate) fn answer(&self, health: &Health, on_failure: impl Fn(Arc<StoreFile>)) {
        let (waiting, everything) = {
            let mut state = self.state.lock();
            let waiting = std::mem::take(&mut state.waiting);
            (waiting, std::mem::take(&mut state.everything))
        };
        for Waiting { file, reply } in waiting {
            let _ = reply.send(self.sync(&file, health, &on_failure));
        }
        if !everything.is_empty() {
            let synced = self.round(health, &on_failure);
            for reply in everything {
                let _ = reply.send(synced.clone());
            }
        }
    }

    /// Syncs a file of an earlier process. Returns false if there is none.
    pub(crate) fn sync_earlier(
        &self,
        health: &Health,
        on_failure: &impl Fn(Arc<StoreFile>),
    ) -> bool {
        let Some(file) = self.state.lock().earlier.last().cloned() else {
            return false;
        };
        let _ = self.sync(&file, health, on_failure);
        self.state
            .lock()
            .earlier
            .retain(|other| other.id != file.id);
        true
    }

    /// Syncs all files that were written, and removes the journal files that are not needed any more.
    /// Returns the last failure of a sync.
    pub(crate) fn round(
        &self,
        health: &Health,
        on_failure: impl Fn(Arc<StoreFile>),
    ) -> Result<(), StoreError> {
        let mut synced = Ok(());
        let (mut dirty, doomed, was_safe) = {
            let mut state = self.state.lock();
            let dirty = std::mem::take(&mut state.dirty);
            let is_safe = state.lost == 0 && state.earlier.is_empty();
            (dirty, std::mem::take(&mut state.doomed), is_safe)
        };
        // A journal may go only after what was written of it elsewhere is durable.
        dirty.sort_by_key(|file| file.kind == FileKind::Journal);
        for file in &dirty {
            synced = self.sync(file, health, &on_failure).and(synced);
        }
        // What was in lost files is in dirty ones of this round if it was written before.
        if was_safe && self.state.lock().lost == 0 {
            for file in doomed {
                remove(&file, health);
            }
        } else {
            self.state.lock().doomed.extend(doomed);
        }
        synced
    }

    fn sync(
        &self,
        file: &Arc<StoreFile>,
        health: &Health,
        on_failure: &impl Fn(Arc<StoreFile>),
    ) -> Result<(), StoreError> {
        file.dirty.store(false, Ordering::Release);
        let synced = health.busy(Thread::Syncer, || file.sync()).map_err(failed);
        if let Err(error) = &synced {
            tracing::error!(%error, path = %file.path.display(), "a file of the store cannot be synced");
            health.note(&Err(error.clone()), false);
            // Nothing that it holds is durable if it is not by now: the system forgets what it could
            // not write.
            if !file.failed.swap(true, Ordering::AcqRel) {
                self.state.lock().lost += 1;
                on_failure(file.clone());
            }
        }
        synced
    }
}

/// Removes a file. It can be read on by those that have it open.
pub(crate) fn remove(file: &StoreFile, health: &Health) {
    match std::fs::remove_file(&file.path) {
        Ok(()) => health.removed(file.len()),
        Err(error) => {
            tracing::warn!(%error, path = %file.path.display(), "a file of the store cannot be removed");
        }
    }
}
