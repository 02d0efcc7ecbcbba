//! Connections that have not proven the secret: few, short, and said rarely.

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::frame::FrameError;

/// Connections at once. A further one takes the place of the oldest: a node needs a millisecond to
/// prove the secret, a stranger that waits has had its time.
const MOST: usize = 512;
/// The time between two log lines about connections that were refused.
const QUIET: Duration = Duration::from_secs(10);

/// The connections of a listener that have not proven the secret.
#[derive(Default)]
pub struct Strangers(Mutex<State>);

#[derive(Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, oneshot::Sender<()>>,
    refused: u64,
    said: Option<Instant>,
    /// Since the last log line.
    unsaid: u64,
}

/// One of them. Dropping it counts it out.
pub(crate) struct Stranger {
    strangers: Arc<Strangers>,
    number: u64,
    evicted: oneshot::Receiver<()>,
}

impl fmt::Debug for Strangers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strangers").finish_non_exhaustive()
    }
}

// === impl Strangers ===

impl Strangers {
    /// Number of connections that were closed before they proved the secret.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.lock().refused
    }

    /// Number of connections that have not proven the secret yet, at most 512.
    #[must_use]
    pub fn open(&self) -> usize {
        self.0.lock().open.len()
    }

    /// Counts a new connection in. Evicts the oldest if there are too many.
    pub(crate) fn enter(self: &Arc<Self>) -> Stranger {
        let (evict, evicted) = oneshot::channel();
        let mut state = self.0.lock();
        let number = state.next;
        state.next += 1;
        if state.open.len() >= MOST {
            state.open.pop_first();
        }
        state.open.insert(number, evict);
        Stranger {
            strangers: self.clone(),
            number,
            evicted,
        }
    }

    /// Counts a connection that was closed. One with a wrong secret is worth a log line, but not
    /// more than one in ten seconds.
    pub(crate) fn refuse(&self, from: SocketAddr, error: &FrameError) {
        let mut state = self.0.lock();
        state.refused += 1;
        if !matches!(error, FrameError::Refused(_)) {
            drop(state);
            tracing::debug!(%error, %from, "a connection did not prove cluster.secret");
            return;
        }
        state.unsaid += 1;
        let now = Instant::now();
        if state.said.is_some_and(|said| now - said < QUIET) {
            return;
        }
        state.said = Some(now);
        let count = std::mem::take(&mut state.unsaid);
        drop(state);
        tracing::warn!(
            %error, %from, count,
            "refused a connection to cluster.listen: if it is of a node, cluster.secret must be the same on both"
        );
    }
}

// === impl Stranger ===

impl Stranger {
    /// Waits until its place is taken.
    pub(crate) async fn evicted(&mut self) {
        if (&mut self.evicted).await.is_ok() {
            pending::<()>().await;
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.0.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn further_connection_takes_the_place_of_the_oldest() {
        let strangers = Arc::new(Strangers::default());
        let mut first = strangers.enter();
        let rest: Vec<_> = (1..MOST).map(|_| strangers.enter()).collect();
        assert_eq!(strangers.open(), MOST);
        let last = strangers.enter();
        first.evicted().await;
        assert_eq!(strangers.open(), MOST);
        drop((first, last, rest));
        assert_eq!(strangers.open(), 0);
    }
}
