//! When a request is sent again, and when not.
//!
//! Only before anything of the answer was kept: a token that somebody may have seen is never asked
//! for twice. Waits grow and are drawn at random, so that those who failed together do not come
//! back together, and a budget keeps retries a small part of all requests, so that an outage is not
//! made worse by those who suffer it.
//!
//! | what failed | again at the same server | at another |
//! | --- | --- | --- |
//! | connecting, or the connection broke before the head | yes | yes |
//! | status 408, 409, 429, 5xx but 501 and 505 | yes, after `Retry-After` where it is short | yes |
//! | the gateway's own key was refused (401, 403) | no | yes |
//! | any other status | no | no |
//! | `x-should-retry: false` (or `true`), whatever the status | no (yes) | no (yes) |
//! | a stream that ended, broke or reported an error before its first chunk | where the error says so | where it says so |
//! | the queue before the server is full | no | yes |
//! | a clock ran out, or somebody cancelled | no | no |

use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;
use tokio::time::Instant;

use super::OpenError;
use crate::model::error::ErrorCode;

/// How often and how patiently.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// How often a request is sent again at most, at other servers included.
    pub attempts: u32,
    /// The wait before the first repetition at the same server is drawn between zero and this; it
    /// doubles with each.
    pub backoff: Duration,
    /// The waits of one request together are no longer than this. A server that asks for a longer
    /// one is not waited for.
    pub max_wait: Duration,
    /// Retries for every hundred requests; ten a second are always allowed.
    pub budget_percent: u32,
}

impl Default for RetryPolicy {
    /// Never again.
    fn default() -> Self {
        Self {
            attempts: 0,
            backoff: Duration::ZERO,
            max_wait: Duration::ZERO,
            budget_percent: 0,
        }
    }
}

/// What a failure says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// That it is well.
    None,
    /// That it wants to be left alone for a while.
    Rest(Duration),
    /// That it cannot be reached.
    Unreachable,
    /// That it is in trouble.
    Refused,
    /// That it breaks off.
    Broken,
}

/// Where a request that failed may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryDecision {
    /// Nowhere.
    No,
    /// At another server only.
    Elsewhere,
    /// At another server, or at the same after this long if it said so.
    Anywhere(Option<Duration>),
}

/// How long a server rests that says "too many requests" without saying for how long.
const REST: Duration = Duration::from_secs(1);

/// The table of the [module](self).
pub(super) fn classify(error: &OpenError) -> (RetryDecision, FailureKind) {
    match error {
        OpenError::Refused(refusal) => {
            let header = |wanted: &str| {
                refusal
                    .headers
                    .iter()
                    .find(|(name, _)| name == wanted)
                    .map(|(_, value)| value.trim())
            };
            let millis = header("retry-after-ms")
                .and_then(|value| value.parse().ok())
                .map(Duration::from_millis);
            let after = millis.or_else(|| {
                header("retry-after")
                    .and_then(|value| value.parse().ok())
                    .map(Duration::from_secs)
            });
            let kind = match refusal.status {
                429 => FailureKind::Rest(after.unwrap_or(REST)),
                408 | 409 | 500..=599 => FailureKind::Refused,
                _ => FailureKind::None,
            };
            let again = match (refusal.should_retry, refusal.status) {
                (Some(true), _) => RetryDecision::Anywhere(after),
                (Some(false), _) => RetryDecision::No,
                (None, 408 | 409 | 429) => RetryDecision::Anywhere(after),
                (None, 500..=599) if !matches!(refusal.status, 501 | 505) => {
                    RetryDecision::Anywhere(after)
                }
                (None, _) => RetryDecision::No,
            };
            (again, kind)
        }
        OpenError::Failed(error) => {
            let is = |codes: &[ErrorCode]| codes.iter().any(|code| error.is(*code));
            if is(&[ErrorCode::ConnectTimeout, ErrorCode::UpstreamUnreachable]) {
                (RetryDecision::Anywhere(None), FailureKind::Unreachable)
            } else if is(&[ErrorCode::UpstreamAuth]) {
                (RetryDecision::Elsewhere, FailureKind::Refused)
            } else if is(&[ErrorCode::UpstreamBusy]) {
                (RetryDecision::Elsewhere, FailureKind::None)
            } else if is(&[
                ErrorCode::FirstTokenTimeout,
                ErrorCode::BetweenTokensTimeout,
                ErrorCode::TotalTimeout,
                ErrorCode::Cancelled,
            ]) {
                (RetryDecision::No, FailureKind::None)
            } else if error.retryable {
                (
                    RetryDecision::Anywhere(error.retry_after),
                    FailureKind::Broken,
                )
            } else {
                (RetryDecision::No, FailureKind::None)
            }
        }
    }
}

impl RetryPolicy {
    /// The wait before the repetition with this number, from 0: exponential, capped, with full
    /// jitter.
    pub(super) fn wait(&self, repetition: u32) -> Duration {
        let most = self
            .backoff
            .saturating_mul(1 << repetition.min(16))
            .min(self.max_wait);
        if most.is_zero() {
            most
        } else {
            most.mul_f64(rand::rng().random_range(0.0..=1.0))
        }
    }
}

/// What is left of the retries that may be made. Shared by all workers and servers.
#[derive(Debug)]
pub struct RetryBudget {
    /// What one request adds, as a part of one retry.
    deposit: f64,
    inner: Mutex<TokenBucket>,
}

#[derive(Debug)]
struct TokenBucket {
    balance: f64,
    at: Instant,
}

/// Retries that are always allowed, a second: a gateway with little to do must be able to retry as
/// well.
const FLOOR: f64 = 10.0;
/// The most that can be saved up.
const SAVED: f64 = 100.0;

impl RetryBudget {
    /// A full purse.
    #[must_use]
    pub fn new(percent: u32) -> Self {
        Self {
            deposit: f64::from(percent) / 100.0,
            inner: Mutex::new(TokenBucket {
                balance: SAVED,
                at: Instant::now(),
            }),
        }
    }

    /// A request is made.
    pub(super) fn credit(&self) {
        let mut purse = self.inner.lock();
        purse.balance = (purse.balance + self.deposit).min(SAVED);
    }

    /// A request wants to be made again. False if that is too much.
    pub(super) fn try_acquire(&self) -> bool {
        let mut purse = self.inner.lock();
        let now = Instant::now();
        let floor = now.duration_since(purse.at).as_secs_f64() * FLOOR;
        purse.at = now;
        purse.balance = (purse.balance + floor).min(SAVED);
        if purse.balance < 1.0 {
            return false;
        }
        purse.balance -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::ApiError;
    use crate::upstream::Refusal;

    fn refused(status: u16, headers: &[(&str, &str)], should_retry: Option<bool>) -> OpenError {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        OpenError::Refused(Refusal {
            status,
            content_type: None,
            body: bytes::Bytes::new(),
            headers,
            should_retry,
        })
    }

    fn failed(code: ErrorCode) -> OpenError {
        OpenError::Failed(ApiError::new(code, "x"))
    }

    const fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn the_table_of_what_is_sent_again() {
        let anywhere = RetryDecision::Anywhere(None);
        for (error, expected) in [
            (
                failed(ErrorCode::ConnectTimeout),
                (anywhere, FailureKind::Unreachable),
            ),
            (
                failed(ErrorCode::UpstreamUnreachable),
                (anywhere, FailureKind::Unreachable),
            ),
            (
                failed(ErrorCode::UpstreamDisconnected),
                (anywhere, FailureKind::Broken),
            ),
            (
                failed(ErrorCode::UpstreamTruncated),
                (anywhere, FailureKind::Broken),
            ),
            (
                failed(ErrorCode::UpstreamInvalidUtf8),
                (anywhere, FailureKind::Broken),
            ),
            (
                failed(ErrorCode::UpstreamMalformed),
                (anywhere, FailureKind::Broken),
            ),
            (
                failed(ErrorCode::UpstreamError),
                (anywhere, FailureKind::Broken),
            ),
            (
                failed(ErrorCode::UpstreamEventTooLarge),
                (RetryDecision::No, FailureKind::None),
            ),
            (
                failed(ErrorCode::UpstreamAuth),
                (RetryDecision::Elsewhere, FailureKind::Refused),
            ),
            (
                failed(ErrorCode::UpstreamBusy),
                (RetryDecision::Elsewhere, FailureKind::None),
            ),
            (
                failed(ErrorCode::FirstTokenTimeout),
                (RetryDecision::No, FailureKind::None),
            ),
            (
                failed(ErrorCode::BetweenTokensTimeout),
                (RetryDecision::No, FailureKind::None),
            ),
            (
                failed(ErrorCode::TotalTimeout),
                (RetryDecision::No, FailureKind::None),
            ),
            (
                failed(ErrorCode::Cancelled),
                (RetryDecision::No, FailureKind::None),
            ),
            (
                refused(400, &[], None),
                (RetryDecision::No, FailureKind::None),
            ),
            (
                refused(404, &[], None),
                (RetryDecision::No, FailureKind::None),
            ),
            (refused(408, &[], None), (anywhere, FailureKind::Refused)),
            (refused(409, &[], None), (anywhere, FailureKind::Refused)),
            (
                refused(413, &[], None),
                (RetryDecision::No, FailureKind::None),
            ),
            (
                refused(422, &[], None),
                (RetryDecision::No, FailureKind::None),
            ),
            (refused(429, &[], None), (anywhere, FailureKind::Rest(REST))),
            (
                refused(429, &[("retry-after", "3")], None),
                (
                    RetryDecision::Anywhere(seconds(3)),
                    FailureKind::Rest(Duration::from_secs(3)),
                ),
            ),
            (
                refused(
                    429,
                    &[("retry-after", "3"), ("retry-after-ms", "2500")],
                    None,
                ),
                (
                    RetryDecision::Anywhere(Some(Duration::from_millis(2500))),
                    FailureKind::Rest(Duration::from_millis(2500)),
                ),
            ),
            (refused(500, &[], None), (anywhere, FailureKind::Refused)),
            (
                refused(501, &[], None),
                (RetryDecision::No, FailureKind::Refused),
            ),
            (refused(502, &[], None), (anywhere, FailureKind::Refused)),
            (
                refused(503, &[("retry-after", " 2 ")], None),
                (RetryDecision::Anywhere(seconds(2)), FailureKind::Refused),
            ),
            (
                refused(
                    503,
                    &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")],
                    None,
                ),
                (anywhere, FailureKind::Refused),
            ),
            (refused(504, &[], None), (anywhere, FailureKind::Refused)),
            (
                refused(505, &[], None),
                (RetryDecision::No, FailureKind::Refused),
            ),
            (refused(529, &[], None), (anywhere, FailureKind::Refused)),
            (
                refused(503, &[], Some(false)),
                (RetryDecision::No, FailureKind::Refused),
            ),
            (refused(400, &[], Some(true)), (anywhere, FailureKind::None)),
        ] {
            assert_eq!(classify(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn waits_grow_within_their_bounds_and_differ() {
        let policy = RetryPolicy {
            attempts: 9,
            backoff: Duration::from_millis(100),
            max_wait: Duration::from_millis(500),
            budget_percent: 20,
        };
        for (repetition, most) in [(0, 100), (1, 200), (2, 400), (3, 500), (30, 500)] {
            let waits: Vec<Duration> = (0..200).map(|_| policy.wait(repetition)).collect();
            assert!(
                waits
                    .iter()
                    .all(|wait| *wait <= Duration::from_millis(most)),
                "{repetition}"
            );
            // Full jitter: of 200 draws some are in each quarter.
            let quarter = Duration::from_millis(most) / 4;
            assert!(
                waits.iter().any(|wait| *wait < quarter)
                    && waits.iter().any(|wait| *wait > quarter * 3),
                "{repetition}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retries_stay_a_part_of_the_requests() {
        let budget = RetryBudget::new(20);
        assert_eq!((0..1000).filter(|_| budget.try_acquire()).count(), 100);
        (0..100).for_each(|_| budget.credit());
        // A fifth of a hundred, but for what rounding loses.
        let retries = (0..1000).filter(|_| budget.try_acquire()).count();
        assert!((19..=20).contains(&retries), "{retries}");
        tokio::time::advance(Duration::from_secs(1)).await;
        let retries = (0..1000).filter(|_| budget.try_acquire()).count();
        assert!((10..=11).contains(&retries), "{retries}");
    }
}
