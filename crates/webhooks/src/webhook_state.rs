//! The task that drives the queue: it starts due attempts and records their results.
//!
//! It runs on the runtime of the process, beside the workers. Workers add deliveries to the queue
//! under its lock and notify `wakeup`, so there is no channel between them that could be full.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokenwire_core::model::id::{GenerationId, Owner};
use tokenwire_core::model::random::random_bits;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::delivery::{Attempted, DeliveryError, Number, Reason};
use crate::delivery_queue::{DeliveryQueue, Notice, NoticeKind};
use crate::records::{DeliveryRecords, Record, with_enabled, with_end};
use crate::sender::Sender;

/// State shared by the workers, the dispatcher and the API.
#[derive(Debug)]
pub(crate) struct WebhookState {
    pub(crate) queue: Mutex<DeliveryQueue>,
    /// Notified when an attempt may be due.
    pub(crate) wakeup: Notify,
    /// Notified when a delivery has ended.
    pub(crate) settled: Notify,
    /// Keeps what is owed beyond the process.
    pub(crate) records: OnceLock<Arc<dyn DeliveryRecords>>,
    /// What is owed for responses whose end is not known yet: those of an earlier or a lost process, and
    /// those that another process has taken over. By response; each key is there once.
    pub(crate) unfinished: Mutex<HashMap<GenerationId, Vec<Record>>>,
    /// Those of them that another process has taken over since these were asked for last, with the keys of
    /// the records.
    pub(crate) taken_over: Mutex<Vec<(String, GenerationId)>>,
}

impl WebhookState {
    /// Adds what is owed for a response whose end is not known yet, unless it is known.
    pub(crate) fn add_unfinished(&self, record: Record) {
        let mut unfinished = self.unfinished.lock();
        let of_response = unfinished.entry(record.response.clone()).or_default();
        if !of_response
            .iter()
            .any(|known| known.owed.event == record.owed.event)
        {
            of_response.push(record);
        }
    }

    /// Notes that another process has taken this response over, if something is owed for it.
    pub(crate) fn note_taken_over(&self, response: &GenerationId) {
        let unfinished = self.unfinished.lock();
        let of_response = unfinished.get(response).into_iter().flatten();
        let keys = of_response.map(|record| (record.owed.event.clone(), response.clone()));
        self.taken_over.lock().extend(keys);
    }

    /// Logs a notice, and notes it beyond the process: what is delivered is owed no longer, and what
    /// is given up is a dead letter for later processes as well.
    pub(crate) fn note(&self, notice: &Notice) {
        let records = self.records.get();
        match (notice.kind, records) {
            (
                NoticeKind::Dead {
                    reason: Reason::Stopped,
                    ..
                },
                Some(_),
            ) => {
                // The next process delivers it.
                tracing::info!(delivery = %notice.id, "webhook kept for the next start");
                return;
            }
            (NoticeKind::Dead { reason, .. }, Some(_)) => self.note_end(&notice.id, Some(reason)),
            (NoticeKind::Delivered { .. }, Some(records)) => records.set(&notice.id, None),
            _ => {}
        }
        report(notice);
    }

    /// Notes that a delivery is a dead letter, or is none any more.
    pub(crate) fn note_end(&self, id: &str, dead: Option<Reason>) {
        let Some(records) = self.records.get() else {
            return;
        };
        let attempts = self.queue.lock().attempts(id);
        let dead = dead.map(|reason| (reason, attempts));
        if let Some(record) = records.get(id) {
            records.set(id, with_end(&record, dead));
        }
        for dropped in self.queue.lock().take_dropped() {
            records.set(&dropped, None);
        }
    }

    /// Notes that the endpoint of a delivery is enabled again, for later processes as well.
    pub(crate) fn note_enabled(&self, owner: &Owner, id: &str) {
        let Some(records) = self.records.get() else {
            return;
        };
        let disabling = self.queue.lock().disabling(owner, id);
        for id in disabling {
            if let Some(record) = records.get(&id) {
                records.set(&id, with_enabled(&record));
            }
        }
    }
}

/// Runs until it is dropped, together with its running attempts.
pub(crate) async fn run(state: Arc<WebhookState>, sender: Arc<dyn Sender>, timeout: Duration) {
    let mut attempts: JoinSet<(Number, Attempted)> = JoinSet::new();
    loop {
        let ((jobs, notices), due) = {
            let mut queue = state.queue.lock();
            (queue.start(Instant::now()), queue.next_due())
        };
        if !notices.is_empty() {
            notices.iter().for_each(|notice| state.note(notice));
            state.settled.notify_waiters();
        }
        for job in jobs {
            let sender = sender.clone();
            attempts.spawn(async move {
                let number = job.number;
                let sent = AssertUnwindSafe(async move { sender.send(job).await }).catch_unwind();
                let attempted = match tokio::time::timeout(timeout, sent).await {
                    Ok(Ok(attempted)) => attempted,
                    // The panic hook has reported the panic.
                    Ok(Err(_)) => Err((DeliveryError::Internal, None)),
                    Err(_) => Err((DeliveryError::TimedOut, None)),
                };
                (number, attempted)
            });
        }
        tokio::select! {
            biased;
            () = state.wakeup.notified() => {}
            () = sleep_until(due) => {}
            Some(Ok((number, attempted))) = attempts.join_next() => {
                let mut rng = StdRng::seed_from_u64(random_bits());
                let notice = state.queue.lock().settle(number, attempted, Instant::now(), &mut rng);
                if let Some(notice) = notice {
                    state.note(&notice);
                }
                state.settled.notify_waiters();
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Logs a notice: the delivery and the host. Paths and queries may hold secrets.
fn report(Notice { id, host, kind }: &Notice) {
    match kind {
        NoticeKind::Delivered { attempts } => {
            tracing::debug!(delivery = %id, %host, attempts, "webhook delivered")
        }
        NoticeKind::Retrying { error, wait } => {
            tracing::info!(delivery = %id, %host, %error, ?wait, "webhook attempt failed; it will be retried")
        }
        NoticeKind::Dead {
            reason: Reason::Stopped,
            ..
        } => tracing::warn!(delivery = %id, %host, "webhook lost: the gateway is stopping"),
        NoticeKind::Dead {
            reason,
            error: Some(error),
        } => {
            tracing::warn!(delivery = %id, %host, reason = reason.as_str(), %error, "webhook given up");
        }
        NoticeKind::Dead {
            reason,
            error: None,
        } => tracing::warn!(delivery = %id, %host, reason = reason.as_str(), "webhook given up"),
    }
}
