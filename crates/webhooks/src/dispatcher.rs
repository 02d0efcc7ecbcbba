//! The one task that moves the ledger: starts what is due, waits for what comes of it, and writes
//! that down.
//!
//! It lives on the runtime that the process began on, beside the workers. Workers put ends into the
//! ledger themselves, under its lock, and ring the bell; so there is no queue between them that
//! could be full.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::delivery::{Attempted, DeliveryError, Number, Reason};
use super::queue::{DeliveryQueue, Notice, What};
use super::sender::Sender;

/// What the workers, the dispatcher and the API share.
#[derive(Debug)]
pub(crate) struct WebhookState {
    pub(crate) queue: Mutex<DeliveryQueue>,
    /// There may be something to start.
    pub(crate) wakeup: Notify,
    /// Nothing may be left.
    pub(crate) settled: Notify,
}

/// Runs until it is dropped; attempts that are under way are dropped with it.
pub(crate) async fn run(state: Arc<WebhookState>, sender: Arc<dyn Sender>, timeout: Duration) {
    let mut attempts: JoinSet<(Number, Attempted)> = JoinSet::new();
    loop {
        let ((jobs, given_up), due) = {
            let mut queue = state.queue.lock();
            (queue.start(Instant::now()), queue.next_due())
        };
        if !given_up.is_empty() {
            given_up.iter().for_each(report);
            state.settled.notify_waiters();
        }
        for job in jobs {
            let sender = sender.clone();
            attempts.spawn(async move {
                let number = job.number;
                let carried =
                    AssertUnwindSafe(async move { sender.send(job).await }).catch_unwind();
                let attempted = match tokio::time::timeout(timeout, carried).await {
                    Ok(Ok(attempted)) => attempted,
                    // The panic itself was reported by the panic hook.
                    Ok(Err(_)) => Err((DeliveryError::Internal, None)),
                    Err(_) => Err((DeliveryError::TimedOut, None)),
                };
                (number, attempted)
            });
        }
        tokio::select! {
            () = state.wakeup.notified() => {}
            () = sleep_until(due) => {}
            Some(Ok((number, attempted))) = attempts.join_next() => {
                let notice = state.queue.lock().settle(number, attempted, Instant::now(), &mut rand::rng());
                if let Some(notice) = notice {
                    report(&notice);
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

/// Writes a line into the log: the delivery and the host, and nothing that a URL may hold.
pub(crate) fn report(Notice { id, host, what }: &Notice) {
    match what {
        What::Delivered { attempts } => {
            tracing::debug!(delivery = %id, %host, attempts, "webhook delivered")
        }
        What::Retrying { setback, wait } => {
            tracing::info!(delivery = %id, %host, error = %setback, ?wait, "webhook not delivered, to be tried again")
        }
        What::Dead {
            reason: Reason::Stopped,
            ..
        } => tracing::warn!(delivery = %id, %host, "webhook lost: the gateway stops"),
        What::Dead {
            reason,
            setback: Some(setback),
        } => {
            tracing::warn!(delivery = %id, %host, reason = reason.as_str(), error = %setback, "webhook given up");
        }
        What::Dead {
            reason,
            setback: None,
        } => tracing::warn!(delivery = %id, %host, reason = reason.as_str(), "webhook given up"),
    }
}
