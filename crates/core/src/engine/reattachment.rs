//! Going on with the answers of lost writers whose upstreams go on with them.
//!
//! ```text
//!   adopted log ──▶ Adopted ──▶ a worker's engine ──▶ writer of the next epoch ──▶ upstream
//! ```
//!
//! An adoption may happen on any thread. The upstream's connections belong to workers, so each worker
//! takes such logs from a channel of its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::Engine;
use super::observer::{Observation, Observers};
use crate::generation::{self, Generation, Source, Writer, cancel_held, drive};
use crate::log::{Epoch, LogStore};
use crate::model::snapshot::Api;
use crate::upstream::translate::RecordWriter;
use crate::upstream::{Asked, Attachment};

/// Logs that wait for one worker.
const QUEUED: usize = 1024;

/// A log that was taken over in this epoch, and whose upstream goes on with the answer.
pub(super) struct Adopted {
    pub(super) generation: Arc<Generation>,
    pub(super) epoch: Epoch,
    pub(super) attachment: Attachment,
    pub(super) store: Arc<dyn LogStore>,
    /// Told once the generation runs. Dropped if it does not.
    pub(super) runs: oneshot::Sender<()>,
}

/// The workers that take adopted logs.
#[derive(Default)]
pub(super) struct Workers {
    senders: Mutex<Vec<mpsc::Sender<Adopted>>>,
    next: AtomicUsize,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

// === impl Workers ===

impl Workers {
    /// Whether there is any.
    pub(super) fn is_any(&self) -> bool {
        let mut senders = self.senders.lock();
        senders.retain(|sender| !sender.is_closed());
        !senders.is_empty()
    }

    fn join(&self) -> mpsc::Receiver<Adopted> {
        let (sender, receiver) = mpsc::channel(QUEUED);
        self.senders.lock().push(sender);
        receiver
    }

    /// Gives a log to a worker. Drops it if none takes it.
    pub(super) fn give(&self, adopted: Adopted) {
        let senders = self.senders.lock().clone();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut rest = Some(adopted);
        for at in 0..senders.len() {
            let Some(adopted) = rest.take() else { return };
            rest = match senders[(first + at) % senders.len()].try_send(adopted) {
                Ok(()) => None,
                Err(error) => Some(error.into_inner()),
            };
        }
    }
}

impl Engine {
    /// Goes on with answers whose writers are lost and whose upstreams go on with them. To be run on
    /// this engine's worker. Never returns while the engine is in use.
    pub async fn reattach(self) {
        let mut adopted = self.registry.workers.join();
        while let Some(adopted) = adopted.recv().await {
            self.go_on(adopted);
        }
    }

    fn go_on(&self, adopted: Adopted) {
        if let Some(adopted) = self.run_adopted(adopted) {
            let id = adopted.generation.meta().id.clone();
            let cancel = cancel_held(self.upstream.clone(), adopted.attachment, id);
            self.tasks.spawn(Box::pin(cancel));
        }
    }

    /// Has a task write what follows. Returns the log if there is none and its end is made, so that its
    /// upstream works in vain.
    fn run_adopted(&self, adopted: Adopted) -> Option<Adopted> {
        let tail = adopted.generation.tail();
        let Some(end) = tail.ok().filter(|tail| !tail.sealed).map(|tail| tail.next) else {
            return Some(adopted);
        };
        if adopted.runs.is_closed() {
            // The adoption was given up. The next one goes on with the log, or ends it.
            return None;
        }
        let meta = adopted.generation.meta();
        let Ok(target) = self.upstream.route(Some(&meta.model), None) else {
            return Some(adopted);
        };
        let window = self.upstream.reattach_window(&adopted.attachment.upstream);
        let own = self.persistence.as_ref();
        let own = own.filter(|own| Arc::ptr_eq(own.store(), &adopted.store));
        if window.is_none() || (own.is_none() && self.replica.is_none()) {
            return Some(adopted);
        }
        let Ok(permit) = self.registry.admit() else {
            return Some(adopted);
        };
        let Adopted {
            generation,
            epoch,
            attachment,
            store: _,
            runs,
        } = adopted;
        let meta = generation.meta();
        let mut writer = Writer::in_epoch(generation.clone(), epoch);
        match (own, &self.replica) {
            (Some(own), _) => own.go_on(&mut writer, end),
            (None, Some(replica)) => replica.go_on(&mut writer, end),
            (None, None) => {}
        }
        if let Some(watch) = &self.watch {
            writer.watch_for(watch.clone());
        }
        let mut records = RecordWriter::in_epoch(end, epoch);
        let running = self.registry.insert_adopted(generation.clone(), permit);
        let endpoint = self.upstream.endpoint_index(&attachment.upstream);
        let observers = Observers {
            observer: self.observer.clone(),
            metered: None,
            asked: Asked::default(),
            // The request ended with the process that received it.
            trace: None,
        };
        let observation = observers.is_any().then(|| {
            Observation::begin(
                observers,
                generation.clone(),
                Api::Responses,
                None,
                endpoint.unwrap_or(target.endpoint),
                Arc::new(AtomicBool::new(true)),
            )
        });
        tracing::info!(generation = %meta.id, ?epoch, upstream = %attachment.upstream, "going on with the answer of a lost writer");
        let predecessor = generation.header().predecessor.as_ref();
        let adopted = generation::Adopted {
            attachment,
            timeouts: target.timeouts,
            previous_response_id: predecessor.map(ToString::to_string),
        };
        let stores = self.held_stores();
        let upstream = self.upstream.clone();
        generation.runs_here();
        self.tasks.spawn(Box::pin(async move {
            let source = Box::new(Source::Adopted(adopted));
            let rest = drive(&mut writer, &mut records, upstream, source).await;
            drop((writer, records));
            drop((observation, running, stores));
            if let Some(rest) = rest {
                rest.await;
            }
        }));
        let _ = runs.send(());
        None
    }
}
