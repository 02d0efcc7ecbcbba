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
use crate::error::ErrorCode;

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
pub(super) enum Harm {
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
pub(super) enum Again {
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
pub(super) fn judge(error: &OpenError) -> (Again, Harm) {
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
            let harm = match refusal.status {
                429 => Harm::Rest(after.unwrap_or(REST)),
                408 | 409 | 500..=599 => Harm::Refused,
                _ => Harm::None,
            };
            let again = match (refusal.should_retry, refusal.status) {
                (Some(true), _) => Again::Anywhere(after),
                (Some(false), _) => Again::No,
                (None, 408 | 409 | 429) => Again::Anywhere(after),
                (None, 500..=599) if !matches!(refusal.status, 501 | 505) => Again::Anywhere(after),
                (None, _) => Again::No,
            };
            (again, harm)
        }
        OpenError::Failed(error) => {
            let is = |codes: &[ErrorCode]| codes.iter().any(|code| error.is(*code));
            if is(&[ErrorCode::ConnectTimeout, ErrorCode::UpstreamUnreachable]) {
                (Again::Anywhere(None), Harm::Unreachable)
            } else if is(&[ErrorCode::UpstreamAuth]) {
                (Again::Elsewhere, Harm::Refused)
            } else if is(&[ErrorCode::UpstreamBusy]) {
                (Again::Elsewhere, Harm::None)
            } else if is(&[
                ErrorCode::FirstTokenTimeout,
                ErrorCode::BetweenTokensTimeout,
                ErrorCode::TotalTimeout,
                ErrorCode::Cancelled,
            ]) {
                (Again::No, Harm::None)
            } else if error.retryable {
                (Again::Anywhere(error.retry_after), Harm::Broken)
            } else {
                (Again::No, Harm::None)
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
    inner: Mutex<Purse>,
}

#[derive(Debug)]
struct Purse {
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
            inner: Mutex::new(Purse {
                balance: SAVED,
                at: Instant::now(),
            }),
        }
    }

    /// A request is made.
    pub(super) fn deposit(&self) {
        let mut purse = self.inner.lock();
        purse.balance = (purse.balance + self.deposit).min(SAVED);
    }

    /// A request wants to be made again. False if that is too much.
    pub(super) fn withdraw(&self) -> bool {
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
    use crate::error::ApiError;
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
        let anywhere = Again::Anywhere(None);
        for (error, expected) in [
            (
                failed(ErrorCode::ConnectTimeout),
                (anywhere, Harm::Unreachable),
            ),
            (
                failed(ErrorCode::UpstreamUnreachable),
                (anywhere, Harm::Unreachable),
            ),
            (
                failed(ErrorCode::UpstreamDisconnected),
                (anywhere, Harm::Broken),
            ),
            (
                failed(ErrorCode::UpstreamTruncated),
                (anywhere, Harm::Broken),
            ),
            (
                failed(ErrorCode::UpstreamInvalidUtf8),
                (anywhere, Harm::Broken),
            ),
            (
                failed(ErrorCode::UpstreamMalformed),
                (anywhere, Harm::Broken),
            ),
            (failed(ErrorCode::UpstreamError), (anywhere, Harm::Broken)),
            (
                failed(ErrorCode::UpstreamEventTooLarge),
                (Again::No, Harm::None),
            ),
            (
                failed(ErrorCode::UpstreamAuth),
                (Again::Elsewhere, Harm::Refused),
            ),
            (
                failed(ErrorCode::UpstreamBusy),
                (Again::Elsewhere, Harm::None),
            ),
            (
                failed(ErrorCode::FirstTokenTimeout),
                (Again::No, Harm::None),
            ),
            (
                failed(ErrorCode::BetweenTokensTimeout),
                (Again::No, Harm::None),
            ),
            (failed(ErrorCode::TotalTimeout), (Again::No, Harm::None)),
            (failed(ErrorCode::Cancelled), (Again::No, Harm::None)),
            (refused(400, &[], None), (Again::No, Harm::None)),
            (refused(404, &[], None), (Again::No, Harm::None)),
            (refused(408, &[], None), (anywhere, Harm::Refused)),
            (refused(409, &[], None), (anywhere, Harm::Refused)),
            (refused(413, &[], None), (Again::No, Harm::None)),
            (refused(422, &[], None), (Again::No, Harm::None)),
            (refused(429, &[], None), (anywhere, Harm::Rest(REST))),
            (
                refused(429, &[("retry-after", "3")], None),
                (
                    Again::Anywhere(seconds(3)),
                    Harm::Rest(Duration::from_secs(3)),
                ),
            ),
            (
                refused(
                    429,
                    &[("retry-after", "3"), ("retry-after-ms", "2500")],
                    None,
                ),
                (
                    Again::Anywhere(Some(Duration::from_millis(2500))),
                    Harm::Rest(Duration::from_millis(2500)),
                ),
            ),
            (refused(500, &[], None), (anywhere, Harm::Refused)),
            (refused(501, &[], None), (Again::No, Harm::Refused)),
            (refused(502, &[], None), (anywhere, Harm::Refused)),
            (
                refused(503, &[("retry-after", " 2 ")], None),
                (Again::Anywhere(seconds(2)), Harm::Refused),
            ),
            (
                refused(
                    503,
                    &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")],
                    None,
                ),
                (anywhere, Harm::Refused),
            ),
            (refused(504, &[], None), (anywhere, Harm::Refused)),
            (refused(505, &[], None), (Again::No, Harm::Refused)),
            (refused(529, &[], None), (anywhere, Harm::Refused)),
            (refused(503, &[], Some(false)), (Again::No, Harm::Refused)),
            (refused(400, &[], Some(true)), (anywhere, Harm::None)),
        ] {
            assert_eq!(judge(&error), expected, "{error:?}");
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
        assert_eq!((0..1000).filter(|_| budget.withdraw()).count(), 100);
        (0..100).for_each(|_| budget.deposit());
        // A fifth of a hundred, but for what rounding loses.
        let retries = (0..1000).filter(|_| budget.withdraw()).count();
        assert!((19..=20).contains(&retries), "{retries}");
        tokio::time::advance(Duration::from_secs(1)).await;
        let retries = (0..1000).filter(|_| budget.withdraw()).count();
        assert!((10..=11).contains(&retries), "{retries}");
    }
}
