//! What Redis says of other processes, asked once for all requests and readers that want to know.
//!
//! When a node is lost, the readers of all its streams look for it at the same time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokenwire_core::model::id::Tag;
use tokenwire_store::redis::RedisError;
use tokio::time::Instant;

use super::NodeRecord;

/// How old an answer of Redis may be.
const FRESH: Duration = Duration::from_millis(100);
/// Processes that are remembered.
const KNOWN: usize = 1024;

/// What Redis says of a process.
#[derive(Clone, Debug)]
pub(super) struct OwnerAnswer {
    /// Where it listens. `None` if Redis does not know it.
    pub(super) record: Option<NodeRecord>,
    /// Whether its lease holds.
    pub(super) is_alive: bool,
    /// Whether Redis knows of the lease of the process that asks.
    pub(super) knows_own: bool,
}

/// The last answer about a process, and when it was asked for.
type Last = Option<(Instant, Result<OwnerAnswer, RedisError>)>;

/// The last answers, by process.
#[derive(Debug, Default)]
pub(super) struct Owners(Mutex<HashMap<Tag, Arc<tokio::sync::Mutex<Last>>>>);

// === impl Owners ===

impl Owners {
    /// Returns the last answer about a process, or asks. One request asks at a time, and the others
    /// wait for its answer, which may be an error.
    pub(super) async fn get<F>(
        &self,
        tag: &Tag,
        ask: impl FnOnce() -> F,
    ) -> Result<OwnerAnswer, RedisError>
    where
        F: Future<Output = Result<OwnerAnswer, RedisError>>,
    {
        let last = {
            let mut owners = self.0.lock();
            if owners.len() >= KNOWN && !owners.contains_key(tag) {
                owners.clear();
            }
            owners.entry(tag.clone()).or_default().clone()
        };
        let mut last = last.lock().await;
        if let Some((asked, answer)) = &*last
            && asked.elapsed() < FRESH
        {
            return answer.clone();
        }
        let asked = Instant::now();
        let answer = ask().await;
        // An error took as long as it took: what waited for it is not to wait once more.
        let asked = if answer.is_ok() {
            asked
        } else {
            Instant::now()
        };
        *last = Some((asked, answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_at_the_same_time_share_an_answer_and_later_ones_ask_again() {
        let (owners, tag) = (Owners::default(), Tag::random());
        let asked = AtomicUsize::new(0);
        for round in 1..=3 {
            let each = (0..50).map(|_| {
                owners.get(&tag, || async {
                    asked.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    Err(RedisError::Closed)
                })
            });
            let answers = join_all(each).await;
            assert!(answers.iter().all(Result::is_err));
            assert_eq!(asked.load(Ordering::SeqCst), round);
            tokio::time::advance(FRESH).await;
        }
    }
}
