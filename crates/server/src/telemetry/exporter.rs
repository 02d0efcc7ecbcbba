//! Sends spans and metrics to a collector over OTLP: HTTP with binary protobuf.
//!
//! One task sends one export at a time. A collector that is away, slow or hangs costs spans, which
//! are dropped and counted beyond the bounds of the queue, and nothing else.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use tokenwire_core::model::id::random_id;
use tokenwire_core::model::random::random_part;
use tokenwire_core::upstream::parse_retry_after;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::encode::{export, nanoseconds, resource};
use super::open_metrics;
use super::protobuf::{Message, nested_varint};
use super::tracer::Telemetry;
use crate::config::schema::{Config, Otlp};

/// Longest time that a span waits for others.
const DELAY: Duration = Duration::from_secs(1);

/// Attempts of one export.
const ATTEMPTS: u32 = 5;

/// The wait before the second, and the bounds of all.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;

/// Time for the last export.
const LAST: Duration = Duration::from_secs(2);

/// Returns the metrics in the format OpenMetrics.
type Exposition = dyn Fn() -> String + Send + Sync;

/// Sends what a gateway records.
pub(crate) struct Exporter {
    telemetry: Arc<Telemetry>,
    client: reqwest::Client,
    headers: HeaderMap,
    endpoint: String,
    otlp: Otlp,
    resource: Message,
    started: SystemTime,
    exposition: Box<Exposition>,
    /// Whether the last export failed, so that a change is logged once.
    failing: AtomicBool,
}

/// Why an export was not taken.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    /// The collector may take it later.
    #[error("{reason}")]
    Later {
        reason: String,
        after: Option<Duration>,
    },
    /// It never will.
    #[error("the collector answered with status {0}")]
    Refused(u16),
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

// === impl Exporter ===

impl Exporter {
    /// Creates the exporter, if anything is sent.
    ///
    /// # Errors
    /// TLS that cannot be set up, or a header that cannot be sent.
    pub(crate) fn new(
        telemetry: Arc<Telemetry>,
        config: &Config,
        exposition: Box<Exposition>,
    ) -> Result<Option<Self>, String> {
        let otlp = config.telemetry.otlp.clone();
        let Some(endpoint) = &otlp.endpoint else {
            return Ok(None);
        };
        // Fails if another part of the process has installed a provider, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .connect_timeout(otlp.timeout)
            .timeout(otlp.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("tokenwire/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("the HTTP client cannot be set up: {error}"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &otlp.headers {
            let name = HeaderName::try_from(name).map_err(|error| error.to_string())?;
            let mut value =
                HeaderValue::try_from(value.expose()).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        headers.insert(CONTENT_TYPE, protobuf);
        Ok(Some(Self {
            client,
            headers,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            resource: resource(&otlp.service, &random_id("")),
            started: SystemTime::now(),
            exposition,
            failing: AtomicBool::new(false),
            otlp,
            telemetry,
        }))
    }

    /// Sends until `stop`, and then once more what is left, within [`LAST`].
    pub(crate) async fn run(self, stop: CancellationToken) {
        let sending = async {
            tokio::join!(self.send_spans(&stop), self.send_metrics(&stop));
        };
        tokio::select! {
            () = sending => {}
            () = async { stop.cancelled().await; tokio::time::sleep(LAST).await } => {}
        }
    }

    async fn send_spans(&self, stop: &CancellationToken) {
        if !self.otlp.has_traces() {
            return;
        }
        loop {
            tokio::select! {
                () = self.telemetry.spans.is_full() => {}
                () = tokio::time::sleep(DELAY) => {}
                () = stop.cancelled() => {}
            }
            let stops = stop.is_cancelled();
            loop {
                let spans = self.telemetry.spans.take();
                if spans.is_empty() {
                    break;
                }
                self.send_batch(spans, stop).await;
            }
            if stops {
                return;
            }
        }
    }

    async fn send_batch(&self, spans: Vec<Vec<u8>>, stop: &CancellationToken) {
        let count = spans.len() as u64;
        let body = export(&self.resource, spans.iter().map(Vec::as_slice));
        drop(spans);
        let counts = self.telemetry.counts();
        match self.send("/v1/traces", body, stop).await {
            Some(answer) => {
                // `partial_success.rejected_spans`
                let rejected = nested_varint(&answer, 1, 1).min(count);
                counts.spans_rejected.fetch_add(rejected, Ordering::Relaxed);
                let sent = count - rejected;
                counts.spans_sent.fetch_add(sent, Ordering::Relaxed);
            }
            None => {
                counts.spans_failed.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    async fn send_metrics(&self, stop: &CancellationToken) {
        if !self.otlp.has_metrics() {
            return;
        }
        let mut tick = tokio::time::interval(self.otlp.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => {}
            }
            let stops = stop.is_cancelled();
            let (start, now) = (nanoseconds(self.started), nanoseconds(SystemTime::now()));
            let mut families = open_metrics::parse(&(self.exposition)());
            if let Some(gen_ai) = &self.telemetry.gen_ai {
                families.extend(gen_ai.families());
            }
            let families: Vec<_> = families.iter().map(|f| f.encode(start, now)).collect();
            let body = export(&self.resource, families.iter().map(Vec::as_slice));
            let counts = self.telemetry.counts();
            match self.send("/v1/metrics", body, stop).await {
                Some(_) => counts.metrics_sent.fetch_add(1, Ordering::Relaxed),
                None => counts.metrics_failed.fetch_add(1, Ordering::Relaxed),
            };
            if stops {
                return;
            }
        }
    }

    /// Sends an export until it is taken or given up. Returns the answer.
    async fn send(&self, path: &str, body: Vec<u8>, stop: &CancellationToken) -> Option<Vec<u8>> {
        let url = format!("{}{path}", self.endpoint);
        let body = bytes::Bytes::from(body);
        let mut wait = FIRST_WAIT;
        for attempt in 1..=ATTEMPTS {
            let error = match self.post(&url, body.clone()).await {
                Ok(answer) => {
                    if self.failing.swap(false, Ordering::Relaxed) {
                        tracing::info!(%url, "the collector takes exports again");
                    }
                    return Some(answer);
                }
                Err(error) => error,
            };
            if !self.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(%url, %error, "an export is not taken; later failures are counted only");
            }
            let ExportError::Later { after, .. } = error else {
                return None;
            };
            if attempt == ATTEMPTS || stop.is_cancelled() {
                return None;
            }
            let pause = after
                .unwrap_or_else(|| random_part(wait))
                .clamp(SHORTEST_WAIT, LONGEST_WAIT);
            wait *= 2;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        None
    }

    async fn post(&self, url: &str, body: bytes::Bytes) -> Result<Vec<u8>, ExportError> {
        let later = |error: reqwest::Error| ExportError::Later {
            reason: error.without_url().to_string(),
            after: None,
        };
        let request = self.client.post(url).headers(self.headers.clone());
        let mut response = request.body(body).send().await.map_err(later)?;
        let status = response.status().as_u16();
        match status {
            200..300 => {}
            429 | 502 | 503 | 504 => {
                let after = response.headers().get(RETRY_AFTER);
                let after = after.and_then(|value| value.to_str().ok());
                return Err(ExportError::Later {
                    reason: format!("the collector answered with status {status}"),
                    after: after.and_then(|text| parse_retry_after(text, SystemTime::now())),
                });
            }
            _ => return Err(ExportError::Refused(status)),
        }
        let mut answer = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(later)? {
            if answer.len() + piece.len() > MAX_ANSWER {
                break;
            }
            answer.extend_from_slice(&piece);
        }
        Ok(answer)
    }
}
