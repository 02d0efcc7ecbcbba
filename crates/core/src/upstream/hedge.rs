//! Hedging: if the first endpoint is slower than usual, a second is asked as well, and the first of
//! the two to give a token wins.
//!
//! Events of both are held back until one has a token, so that a reader never sees two beginnings.
//! The loser is dropped, which closes its connection.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};

use super::OpenError;
use super::attempt::AttemptStream;
use super::latency::Latency;
use super::prefetch::until_first_token;
use crate::model::snapshot::Api;

/// Delay before a hedge while the endpoint's 95th percentile is not known.
const DEFAULT_DELAY: Duration = Duration::from_secs(2);
/// Shortest delay before a hedge.
const MIN_DELAY: Duration = Duration::from_millis(10);

/// When a second endpoint is asked because the first has given no token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hedge {
    /// Never.
    #[default]
    Never,
    /// After the 95th percentile of the endpoint's time to first token.
    P95,
    /// After this time.
    After(Duration),
}

impl Hedge {
    /// Returns how long an endpoint with this latency has before a second one is asked.
    pub(super) fn delay(self, latency: &Latency) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::P95 => Some(latency.p95().unwrap_or(DEFAULT_DELAY).max(MIN_DELAY)),
            Self::After(time) => Some(time),
        }
    }
}

/// Runs the first attempt. If it has no token after `delay`, runs the one that `second` gives
/// beside it.
pub(super) async fn run<A, B>(
    api: Api,
    first: A,
    delay: Duration,
    second: impl FnOnce() -> Option<B>,
) -> Result<AttemptStream, OpenError>
where
    A: Future<Output = Result<AttemptStream, OpenError>>,
    B: Future<Output = Result<AttemptStream, OpenError>>,
{
    let mut first = pin!(until_first_token(api, first));
    // An early failure of the first is left to the retries.
    if let Ok(answer) = tokio::time::timeout(delay, first.as_mut()).await {
        return answer;
    }
    let Some(second) = second() else {
        return first.await;
    };
    let second = pin!(until_first_token(api, second));
    match select(first, second).await {
        Either::Left((Ok(stream), _)) | Either::Right((Ok(stream), _)) => Ok(stream),
        Either::Left((Err(_), second)) => second.await,
        Either::Right((Err(_), first)) => first.await,
    }
}
