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

impl Syncer {
    /// Has a file synced with the next round.
    pub(crate) fn mark(&self, file: &Arc<StoreFile>) {
        if !file.dirty.swap(true, Ordering::AcqRel) {
            self.state.lock().dirty.push(file.clone());
        }
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
            let (waiting, round, closed) = {
                let mut state = self.state.lock();
                let mut timed_out = false;
                while state.waiting.is_empty() && !state.closed && !timed_out {
                    timed_out = self.ready.wait_until(&mut state, due).timed_out();
                }
                let closed = state.closed;
                let round = (timed_out || closed).then(|| {
                    let dirty = std::mem::take(&mut state.dirty);
                    (dirty, std::mem::take(&mut state.doomed), state.lost == 0)
                });
                (std::mem::take(&mut state.waiting), round, closed)
            };
            let sync = |file: &Arc<StoreFile>| {
                file.dirty.store(false, Ordering::Release);
                let synced = health.busy(Thread::Syncer, || file.sync()).map_err(failed);
                if let Err(error) = &synced {
                    tracing::error!(%error, path = %file.path.display(), "a file of the store cannot be synced");
                    health.note(&Err(error.clone()), false);
                    // Nothing that it holds is durable if it is not by now: the system forgets what
                    // it could not write.
                    if !file.failed.swap(true, Ordering::AcqRel) {
                        self.state.lock().lost += 1;
                        on_failure(file.clone());
                    }
                }
                synced
            };
            for Waiting { file, reply } in waiting {
                let _ = reply.send(sync(&file));
            }
            if let Some((mut dirty, doomed, was_safe)) = round {
                due = after(interval);
                // A journal may go only after what was written of it elsewhere is durable.
                dirty.sort_by_key(|file| file.kind == FileKind::Journal);
                for file in &dirty {
                    let _ = sync(file);
                }
                // What was in lost files is in dirty ones of this round if it was written before.
                if was_safe && self.state.lock().lost == 0 {
                    for file in doomed {
                        remove(&file, health);
                    }
                } else {
                    self.state.lock().doomed.extend(doomed);
                }
            }
            if closed {
                return;
            }
        }
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
