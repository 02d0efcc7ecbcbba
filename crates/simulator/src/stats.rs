//! Counters, and a record of the last requests.
//!
//! `/stats`, `/requests`, `/healthz` and `/health` are neither counted nor recorded.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Notify;

/// A snapshot of the counters. `requests` is always `completed + aborted + faulted` plus those in
/// progress.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests received.
    pub requests: u64,
    /// Of these, `POST /v1/chat/completions`.
    pub chat_completions: u64,
    /// Of these, `POST /v1/responses`.
    pub responses: u64,
    /// Of these, `GET /v1/models` and `GET /v1/models/{id}`.
    pub models: u64,
    /// Of these, those without a route.
    pub other: u64,
    /// Requests answered completely with any status: the kernel has the last byte.
    pub completed: u64,
    /// Requests whose peer closed the connection before the end.
    pub aborted: u64,
    /// Requests that were answered with a fault up to its end.
    pub faulted: u64,
    /// Answers with a status of 400 or above, faults excluded.
    pub rejected: u64,
    /// Streamed answers in progress.
    pub open_streams: u64,
    /// The most streamed answers in progress at once so far.
    pub max_open_streams: u64,
    /// Tokens written to the transport.
    pub tokens_sent: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections open.
    pub open_connections: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// In progress.
    Open,
    /// Answered completely.
    Completed,
    /// The peer closed the connection before the end.
    Aborted,
    /// Answered with the fault of this name, up to its end.
    Fault(&'static str),
}

/// A recorded request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordedRequest {
    /// 1 for the first request since the start.
    pub number: u64,
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The headers in order, without credentials.
    pub headers: Vec<(String, String)>,
    /// Whether there was an `Authorization` header.
    pub authorized: bool,
    /// The body's size in bytes.
    pub body_bytes: usize,
    /// The body, if it was JSON and is still kept.
    pub body: Option<Value>,
    /// The fault that was applied, even if the peer closed before its end.
    pub fault: Option<&'static str>,
    /// The status of the answer, once it is known.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
}

/// The record, shared between the server's thread and its readers.
#[derive(Debug)]
pub(crate) struct Recorder {
    /// The most bytes of bodies kept; older ones are dropped.
    recorded_bytes: usize,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    stats: Stats,
    ring: VecDeque<Entry>,
    ring_bytes: usize,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    method: http::Method,
    path: String,
    headers: HeaderMap,
    body: Option<Bytes>,
    body_bytes: usize,
    fault: Option<&'static str>,
    status: Option<u16>,
    outcome: Outcome,
}

/// The counter of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    ChatCompletions,
    Responses,
    Models,
    Other,
}

/// The requests kept.
pub(crate) const RING: usize = 256;

// === impl Recorder ===

impl Recorder {
    pub(crate) fn new(recorded_bytes: usize) -> Self {
        Self {
            recorded_bytes,
            inner: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.inner.lock().stats.clone()
    }

    /// Returns a future that completes at the next change after it was enabled.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        // JSON is parsed outside of the lock.
        let entries: Vec<(RecordedRequest, Option<Bytes>)> = self
            .inner
            .lock()
            .ring
            .iter()
            .map(|entry| (entry.record(), entry.body.clone()))
            .collect();
        entries
            .into_iter()
            .map(|(record, body)| RecordedRequest {
                body: body.and_then(|body| serde_json::from_slice(&body).ok()),
                ..record
            })
            .collect()
    }

    /// Records the arrival of a request, before its body.
    pub(crate) fn arrived(
        self: &Arc<Self>,
        route: Route,
        method: http::Method,
        path: String,
        headers: HeaderMap,
    ) -> Guard {
        let mut inner = self.inner.lock();
        let stats = &mut inner.stats;
        stats.requests += 1;
        match route {
            Route::ChatCompletions => stats.chat_completions += 1,
            Route::Responses => stats.responses += 1,
            Route::Models => stats.models += 1,
            Route::Other => stats.other += 1,
        }
        let number = stats.requests;
        if inner.ring.len() == RING
            && let Some(oldest) = inner.ring.pop_front()
        {
            inner.ring_bytes -= oldest.body.map_or(0, |body| body.len());
        }
        inner.ring.push_back(Entry {
            number,
            method,
            path,
            headers,
            body: None,
            body_bytes: 0,
            fault: None,
            status: None,
            outcome: Outcome::Open,
        });
        drop(inner);
        self.changed.notify_waiters();
        Guard {
            recorder: Arc::clone(self),
            number,
            streams: false,
            fault: None,
            ended: false,
        }
    }

    pub(crate) fn connected(&self) {
        self.change(|inner| {
            inner.stats.connections += 1;
            inner.stats.open_connections += 1;
        });
    }

    pub(crate) fn disconnected(&self) {
        self.change(|inner| inner.stats.open_connections -= 1);
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock());
        self.changed.notify_waiters();
    }
}

// === impl Inner ===

impl Inner {
    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let first = self.ring.front()?.number;
        self.ring
            .get_mut(usize::try_from(number.checked_sub(first)?).ok()?)
    }
}

// === impl Entry ===

impl Entry {
    fn record(&self) -> RecordedRequest {
        const CREDENTIALS: [&str; 5] = [
            "authorization",
            "proxy-authorization",
            "cookie",
            "api-key",
            "x-api-key",
        ];
        let shown = |name: &str, value: &http::HeaderValue| {
            if CREDENTIALS.contains(&name) {
                "[redacted]".to_owned()
            } else {
                String::from_utf8_lossy(value.as_bytes()).into_owned()
            }
        };
        RecordedRequest {
            number: self.number,
            method: self.method.to_string(),
            path: self.path.clone(),
            headers: self
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), shown(name.as_str(), value)))
                .collect(),
            authorized: self.headers.contains_key(http::header::AUTHORIZATION),
            body_bytes: self.body_bytes,
            body: None,
            fault: self.fault,
            status: self.status,
            outcome: self.outcome,
        }
    }
}

/// Guard of a request in progress. If it is dropped before its end, as when the peer closes the
/// connection, an abort is counted.
#[derive(Debug)]
pub(crate) struct Guard {
    recorder: Arc<Recorder>,
    number: u64,
    streams: bool,
    fault: Option<&'static str>,
    ended: bool,
}

// === impl Guard ===

impl Guard {
    /// Returns a number unique to this request.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn body(&self, body: &Bytes) {
        self.recorder.change(|inner| {
            if let Some(entry) = inner.entry(self.number) {
                entry.body_bytes = body.len();
                entry.body = Some(body.clone());
                inner.ring_bytes += body.len();
            }
            let mut index = 0;
            while inner.ring_bytes > self.recorder.recorded_bytes && index < inner.ring.len() {
                inner.ring_bytes -= inner.ring[index].body.take().map_or(0, |body| body.len());
                index += 1;
            }
        });
    }

    pub(crate) fn streaming(&mut self) {
        self.streams = true;
        self.recorder.change(|inner| {
            inner.stats.open_streams += 1;
            inner.stats.max_open_streams =
                inner.stats.max_open_streams.max(inner.stats.open_streams);
        });
    }

    /// Records that a fault shapes the answer.
    pub(crate) fn fault(&mut self, name: &'static str) {
        self.fault = Some(name);
        self.recorder.change(|inner| {
            if let Some(entry) = inner.entry(self.number) {
                entry.fault = Some(name);
            }
        });
    }

    /// Records the status of the answer.
    pub(crate) fn status(&self, status: u16) {
        self.recorder.change(|inner| {
            if let Some(entry) = inner.entry(self.number) {
                entry.status = Some(status);
            }
            if status >= 400 && self.fault.is_none() {
                inner.stats.rejected += 1;
            }
        });
    }

    pub(crate) fn tokens(&self, count: u64) {
        if count > 0 {
            self.recorder
                .change(|inner| inner.stats.tokens_sent += count);
        }
    }

    /// Records the end of the answer, or of its fault.
    pub(crate) fn end(mut self) {
        let outcome = self.fault.map_or(Outcome::Completed, Outcome::Fault);
        self.close(outcome);
    }

    fn close(&mut self, outcome: Outcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.recorder.change(|inner| {
            match outcome {
                Outcome::Completed => inner.stats.completed += 1,
                Outcome::Aborted => inner.stats.aborted += 1,
                Outcome::Fault(_) => inner.stats.faulted += 1,
                Outcome::Open => {}
            }
            if self.streams {
                inner.stats.open_streams -= 1;
            }
            if let Some(entry) = inner.entry(self.number) {
                entry.outcome = outcome;
            }
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.close(Outcome::Aborted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING_BYTES: usize = 64 * 1024 * 1024;

    fn arrive(recorder: &Arc<Recorder>) -> Guard {
        recorder.arrived(
            Route::Other,
            http::Method::GET,
            "/".into(),
            HeaderMap::new(),
        )
    }

    #[test]
    fn dropped_guard_counts_an_abort() {
        let recorder = Arc::new(Recorder::new(RING_BYTES));
        let mut left = arrive(&recorder);
        left.streaming();
        let done = arrive(&recorder);
        drop(left);
        done.end();
        let stats = recorder.stats();
        assert_eq!(
            (
                stats.requests,
                stats.aborted,
                stats.completed,
                stats.open_streams,
                stats.max_open_streams
            ),
            (2, 1, 1, 0, 1)
        );
        let outcomes: Vec<Outcome> = recorder
            .requests()
            .iter()
            .map(|request| request.outcome)
            .collect();
        assert_eq!(outcomes, [Outcome::Aborted, Outcome::Completed]);
    }

    #[test]
    fn record_is_bounded_in_count_and_bytes() {
        let recorder = Arc::new(Recorder::new(RING_BYTES));
        let body = Bytes::from(vec![b' '; 1024 * 1024]);
        for _ in 0..RING + 10 {
            let guard = arrive(&recorder);
            guard.body(&body);
            guard.end();
        }
        assert_eq!(recorder.requests().len(), RING);
        let inner = recorder.inner.lock();
        let held: usize = inner
            .ring
            .iter()
            .filter_map(|entry| entry.body.as_ref())
            .map(Bytes::len)
            .sum();
        assert_eq!(held, inner.ring_bytes);
        assert!(held <= RING_BYTES);
        assert!(held > RING_BYTES / 2);
    }

    #[test]
    fn credentials_are_not_recorded() {
        let recorder = Arc::new(Recorder::new(RING_BYTES));
        let headers = HeaderMap::from_iter([
            (
                http::header::AUTHORIZATION,
                http::HeaderValue::from_static("Bearer sk-secret"),
            ),
            (
                http::header::COOKIE,
                http::HeaderValue::from_static("session=secret"),
            ),
            (http::header::ACCEPT, http::HeaderValue::from_static("*/*")),
        ]);
        recorder
            .arrived(Route::Other, http::Method::GET, "/".into(), headers)
            .end();
        let request = recorder.requests().remove(0);
        assert!(request.authorized);
        assert!(!serde_json::to_string(&request).unwrap().contains("secret"));
        assert!(request.headers.contains(&("accept".into(), "*/*".into())));
    }
}
