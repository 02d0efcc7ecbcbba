//! The parts of a response head that the gateway uses.

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

/// The parts of a response head that are kept.
pub(super) struct ResponseMeta {
    pub(super) content_type: Option<String>,
    /// Headers for the client: `retry-after`, rate limits, the upstream's request id.
    pub(super) headers: Vec<(String, String)>,
    /// Value of `x-should-retry`.
    pub(super) should_retry: Option<bool>,
}

impl ResponseMeta {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let is_kept = |name: &str| {
            name == "retry-after"
                || name == "retry-after-ms"
                || name == "openai-processing-ms"
                || name.starts_with("x-ratelimit-")
        };
        let mut kept: Vec<(String, String)> = headers
            .iter()
            .filter(|(name, _)| is_kept(name.as_str()))
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?)))
            .collect();
        if let Some(id) = headers.get("x-request-id").and_then(text) {
            kept.push(("x-upstream-request-id".to_owned(), id));
        }
        let should_retry = headers
            .get("x-should-retry")
            .and_then(text)
            .and_then(|value| value.trim().parse().ok());
        Self {
            content_type: headers.get(CONTENT_TYPE).and_then(text),
            headers: kept,
            should_retry,
        }
    }
}
