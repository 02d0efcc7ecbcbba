//! Classifies failures: whether the request may be sent again, and whether the endpoint is at
//! fault.
//!
//! | failure | again at the same endpoint | at another |
//! | --- | --- | --- |
//! | no connection, or the connection broke before the head | yes | yes |
//! | status 408, 409, 429, 5xx except 501 and 505 | yes, after `Retry-After` where it is short | yes |
//! | the gateway's own key was refused (401, 403) | no | yes |
//! | any other status | no | no |
//! | `x-should-retry: false` (or `true`), for any status | no (yes) | no (yes) |
//! | a stream that ended, broke or reported an error before its first chunk | if the error is retryable | if the error is retryable |
//! | the endpoint's queue is full | no | yes |
//! | a timeout of the gateway, a cancellation, or no file descriptor is left | no | no |

use std::time::{Duration, SystemTime};

use super::OpenError;
use super::retry_after::retry_after;
use crate::model::error::ErrorCode;

/// What a failure says about the health of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The endpoint is healthy; the request was at fault.
    None,
    /// The endpoint is healthy but asks for a pause of this length, for the key of the request.
    Pause(Duration),
    /// No connection.
    Unreachable,
    /// A status that reports a fault of the endpoint.
    Refused,
    /// The connection or the stream broke before the first token.
    Broken,
    /// The gateway itself failed, which tells nothing of the endpoint.
    Gateway,
}

/// Where a failed request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryDecision {
    /// Nowhere.
    No,
    /// At another endpoint only.
    Elsewhere,
    /// At another endpoint, or at the same one, not before the time that it asked for.
    Anywhere(Option<Duration>),
}

impl FailureKind {
    /// The kind of a failure within a stream, before its first token.
    pub(super) fn of_stream(retryable: bool) -> Self {
        if retryable { Self::Broken } else { Self::None }
    }
}

/// Pause after a 429 without `Retry-After`.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);

/// Classifies an error by the table of the [module](self).
pub(super) fn classify(error: &OpenError) -> (RetryDecision, FailureKind) {
    match error {
        OpenError::Refused(refusal) => {
            let after = retry_after(&refusal.headers, SystemTime::now());
            let kind = match refusal.status {
                429 => FailureKind::Pause(after.unwrap_or(DEFAULT_PAUSE)),
                408 | 409 | 500..=599 => FailureKind::Refused,
                _ => FailureKind::None,
            };
            let decision = match (refusal.should_retry, refusal.status) {
                (Some(true), _) => RetryDecision::Anywhere(after),
                (Some(false), _) => RetryDecision::No,
                (None, 408 | 409 | 429) => RetryDecision::Anywhere(after),
                (None, 500..=599) if !matches!(refusal.status, 501 | 505) => {
                    RetryDecision::Anywhere(after)
                }
                (None, _) => RetryDecision::No,
            };
            (decision, kind)
        }
        OpenError::Failed(error) => {
            let is = |codes: &[ErrorCode]| codes.iter().any(|code| error.is(*code));
            if is(&[ErrorCode::ConnectTimeout, ErrorCode::UpstreamUnreachable]) {
                (RetryDecision::Anywhere(None), FailureKind::Unreachable)
            } else if is(&[ErrorCode::UpstreamAuth]) {
                (RetryDecision::Elsewhere, FailureKind::Refused)
            } else if is(&[ErrorCode::UpstreamBusy]) {
                (RetryDecision::Elsewhere, FailureKind::None)
            } else if is(&[ErrorCode::OutOfDescriptors]) {
                (RetryDecision::No, FailureKind::Gateway)
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
    fn errors_are_classified_by_the_table() {
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
                failed(ErrorCode::OutOfDescriptors),
                (RetryDecision::No, FailureKind::Gateway),
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
            (
                refused(429, &[], None),
                (anywhere, FailureKind::Pause(DEFAULT_PAUSE)),
            ),
            (
                refused(429, &[("retry-after", "3")], None),
                (
                    RetryDecision::Anywhere(seconds(3)),
                    FailureKind::Pause(Duration::from_secs(3)),
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
                    FailureKind::Pause(Duration::from_millis(2500)),
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
                (RetryDecision::Anywhere(seconds(0)), FailureKind::Refused),
            ),
            (
                refused(429, &[("retry-after", "-3")], None),
                (anywhere, FailureKind::Pause(DEFAULT_PAUSE)),
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
}
