//! Reads how long an upstream asks to wait: `Retry-After` (RFC 9110, section 10.2.3) and
//! `retry-after-ms`.

use std::time::{Duration, SystemTime};

/// Returns the wait that the headers ask for. `retry-after-ms` goes before `retry-after`.
///
/// The result is not bounded: add it to nothing without [`Duration::saturating_add`] or a cap. A
/// negative or malformed value counts as absent, a date in the past as zero.
pub(super) fn retry_after(headers: &[(String, String)], now: SystemTime) -> Option<Duration> {
    let value = |wanted: &str| {
        headers
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| value.trim())
    };
    let millis = value("retry-after-ms")
        .and_then(seconds)
        .map(|millis| millis / 1000);
    millis.or_else(|| parse_retry_after(value("retry-after")?, now))
}

/// Returns the wait that the value of a `Retry-After` header asks for: seconds, or a date. The
/// result is not bounded. `None` for a negative or malformed value, zero for a date in the past.
#[must_use]
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    seconds(value).or_else(|| date(value, now))
}

/// Reads a decimal number of seconds. One that is too large becomes the largest duration.
fn seconds(value: &str) -> Option<Duration> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let whole = Duration::from_secs(whole.parse().unwrap_or(u64::MAX));
    let fraction = format!("0.{fraction}").parse().unwrap_or_default();
    Some(whole.saturating_add(Duration::try_from_secs_f64(fraction).unwrap_or_default()))
}

/// Reads the time from `now` to an HTTP date.
fn date(value: &str, now: SystemTime) -> Option<Duration> {
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_milliseconds_and_dates_are_read() {
        let now = httpdate::parse_http_date("Thu, 26 Nov 2026 10:00:00 GMT").unwrap();
        let largest = Duration::from_secs(u64::MAX);
        for (headers, expected) in [
            (&[("retry-after", " 3 ")][..], Some(Duration::from_secs(3))),
            (&[("retry-after", "0")], Some(Duration::ZERO)),
            (&[("retry-after", "1.5")], Some(Duration::from_millis(1500))),
            (
                &[("retry-after", "86400")],
                Some(Duration::from_secs(86_400)),
            ),
            (
                &[("retry-after", "3"), ("retry-after-ms", "2500")],
                Some(Duration::from_millis(2500)),
            ),
            (
                &[("retry-after", "3"), ("retry-after-ms", "soon")],
                Some(Duration::from_secs(3)),
            ),
            (
                &[("retry-after", "Thu, 26 Nov 2026 10:00:07 GMT")],
                Some(Duration::from_secs(7)),
            ),
            (
                &[("retry-after", "Thursday, 26-Nov-26 10:01:00 GMT")],
                Some(Duration::from_secs(60)),
            ),
            (
                &[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")],
                Some(Duration::ZERO),
            ),
            (
                &[("retry-after", "18446744073709551614")],
                Some(Duration::from_secs(u64::MAX - 1)),
            ),
            (&[("retry-after", "99999999999999999999999")], Some(largest)),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "+1")], None),
            (&[("retry-after", "1e9")], None),
            (&[("retry-after", "inf")], None),
            (&[("retry-after", "")], None),
            (&[("retry-after", "soon")], None),
            (&[], None),
        ] {
            let owned: Vec<_> = headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(retry_after(&owned, now), expected, "{headers:?}");
        }
    }
}
