//! The `x-ratelimit-*` headers, as OpenAI names and writes them.

use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::subject::Left;

const PREFIX: &str = "x-ratelimit-";
/// Bytes of the six values of nearly all responses.
const VALUES: usize = 96;

const NAMES: [[HeaderName; 3]; 2] = [
    [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ],
    [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ],
];

/// Replaces an upstream's headers by what is left of requests and tokens: of each the limit that
/// leaves the least.
pub(super) fn write_headers(
    left: impl Iterator<Item = [Option<Left>; 2]>,
    headers: &mut HeaderMap,
) {
    let theirs: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(PREFIX))
        .cloned()
        .collect();
    for name in theirs {
        headers.remove(name);
    }
    let mut least: [Option<Left>; 2] = [None, None];
    for limits in left {
        for (least, left) in least.iter_mut().zip(limits) {
            let is_less = |known: &Left| left.is_some_and(|left| left.remaining < known.remaining);
            if least.as_ref().is_none_or(is_less) {
                *least = left.or(*least);
            }
        }
    }
    // One allocation for all values.
    let mut text = String::with_capacity(VALUES);
    let mut ends = [[0; 3]; 2];
    for (ends, left) in ends.iter_mut().zip(least) {
        let Some(left) = left else { continue };
        let [limit, remaining, reset] = ends;
        write_number(left.limit, &mut text);
        *limit = text.len();
        write_number(left.remaining, &mut text);
        *remaining = text.len();
        write_time(left.reset, &mut text);
        *reset = text.len();
    }
    let text = Bytes::from(text);
    headers.reserve(NAMES.len() * NAMES[0].len());
    let mut start = 0;
    for (names, ends) in NAMES.into_iter().zip(ends) {
        for (name, end) in names.into_iter().zip(ends) {
            // There is no such limit where they are equal.
            if end > start {
                if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(start..end)) {
                    headers.insert(name, value);
                }
                start = end;
            }
        }
    }
}

fn write_number(figure: u64, out: &mut String) {
    out.push_str(itoa::Buffer::new().format(figure));
}

/// Writes a time as OpenAI does: `12ms`, `7.66s`, `6m0s`.
fn write_time(time: Duration, out: &mut String) {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if millis < 1000 {
        write_number(millis, out);
        out.push_str("ms");
        return;
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let (seconds, rest) = (rest / 1000, rest % 1000);
    if minutes > 0 {
        write_number(minutes, out);
        out.push('m');
    }
    write_number(seconds, out);
    if rest > 0 {
        out.push('.');
    }
    // Without zeros at the end.
    let mut decimals = rest;
    for unit in [100, 10, 1] {
        if decimals > 0 {
            write_number(decimals / unit, out);
            decimals %= unit;
        }
    }
    out.push('s');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_openai_writes_them() {
        for (millis, text) in [
            (0, "0ms"),
            (12, "12ms"),
            (1000, "1s"),
            (7660, "7.66s"),
            (59_001, "59.001s"),
            (360_000, "6m0s"),
            (90_951, "1m30.951s"),
        ] {
            let mut written = String::new();
            write_time(Duration::from_millis(millis), &mut written);
            assert_eq!(written, text);
        }
    }

    #[test]
    fn tightest_limit_is_shown_instead_of_the_upstreams() {
        let mut headers = HeaderMap::new();
        for name in ["x-ratelimit-limit-images", "x-ratelimit-limit-requests"] {
            headers.insert(HeaderName::from_static(name), 7_u64.into());
        }
        let left = |limit, remaining| {
            Some(Left {
                limit,
                remaining,
                reset: Duration::from_millis(1500),
            })
        };
        let parties = [[left(60, 9), None], [left(100, 4), left(5000, 4000)]];
        write_headers(parties.into_iter(), &mut headers);
        let mut found: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        found.sort();
        assert_eq!(
            found,
            [
                "x-ratelimit-limit-requests: 100",
                "x-ratelimit-limit-tokens: 5000",
                "x-ratelimit-remaining-requests: 4",
                "x-ratelimit-remaining-tokens: 4000",
                "x-ratelimit-reset-requests: 1.5s",
                "x-ratelimit-reset-tokens: 1.5s",
            ]
        );
    }
}
