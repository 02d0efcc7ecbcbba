//! Begins traces and records their spans.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix_web::http::Method;
use actix_web::http::header::HeaderMap;
use tokenwire_core::engine::{GenerationEnd, GenerationStart, Observer, Resumption};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::snapshot::Status;
use tokenwire_core::model::trace::{
    SpanId, TRACEPARENT, TRACESTATE, TraceContext, TraceId, TraceParent, trace_state,
};
use tokenwire_core::upstream::{AttemptObserver, AttemptOutcome, EndedAttempt, RequestTrace};

use super::encode::{Kind, SpanMessage};
use super::gen_ai::{GenAiMetrics, OPERATION, Server, error_type};
use super::span_queue::{ExportCounts, SpanQueue};
use crate::config::schema::{Config, OptIn};

/// What all workers share: which traces are recorded, and what waits for its export.
#[derive(Debug)]
pub struct Telemetry {
    /// Traces whose random number is below it are recorded. `None`: no trace is.
    threshold: Option<u64>,
    pub(super) spans: SpanQueue,
    pub(super) gen_ai: Option<GenAiMetrics>,
}

/// Begins traces and records spans, with the names of one configuration.
#[derive(Debug)]
pub(crate) struct Tracer {
    telemetry: Arc<Telemetry>,
    /// The upstreams in the order of the router.
    servers: Vec<Arc<Server>>,
    /// Whether upstreams get `traceparent` and `tracestate`.
    forwards: (bool, bool),
}

/// The span of a request of a client. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct RequestSpan {
    tracer: Arc<Tracer>,
    context: Arc<TraceContext>,
    started: (SystemTime, Instant),
    method: Method,
    route: Option<String>,
    path: Option<String>,
    status: Option<u16>,
}

/// Counts generations and records their spans.
#[derive(Debug)]
struct Observers {
    counts: Arc<dyn Observer>,
    tracer: Arc<Tracer>,
}

/// Random numbers of traces are below it.
const RANDOMNESS: f64 = (1_u64 << 56) as f64;

// === impl Telemetry ===

impl Telemetry {
    /// Creates the state of a gateway with this configuration.
    #[must_use]
    pub fn new(config: &Config) -> Arc<Self> {
        let otlp = &config.telemetry.otlp;
        let latest = otlp.opt_in.contains(&OptIn::GenAiLatestExperimental);
        Arc::new(Self {
            threshold: otlp
                .has_traces()
                .then_some((otlp.traces.0 * RANDOMNESS) as u64),
            spans: SpanQueue::default(),
            gen_ai: otlp.has_metrics().then(|| GenAiMetrics::new(latest)),
        })
    }

    /// Returns what became of spans and exports.
    pub(crate) fn counts(&self) -> &ExportCounts {
        self.spans.counts()
    }
}

// === impl Tracer ===

impl Tracer {
    pub(crate) fn new(
        telemetry: Arc<Telemetry>,
        config: &Config,
        servers: Vec<Server>,
    ) -> Arc<Self> {
        let forwards = |wanted: &str| {
            let mut names = config.forward_headers.0.iter();
            names.any(|name| name.eq_ignore_ascii_case(wanted))
        };
        Arc::new(Self {
            telemetry,
            servers: servers.into_iter().map(Arc::new).collect(),
            forwards: (forwards(TRACEPARENT), forwards(TRACESTATE)),
        })
    }

    /// Begins the trace of a request, or goes on with that of its `traceparent`. Without traces the
    /// client's `traceparent` goes to the upstream as it is.
    pub(crate) fn begin(self: &Arc<Self>, headers: &HeaderMap, request: Arc<str>) -> RequestTrace {
        let mut values = headers.get_all(TRACEPARENT);
        let parent = match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().and_then(TraceParent::parse),
            _ => None,
        };
        let trace = parent.map_or_else(TraceId::random, |parent| parent.trace);
        let records = self.telemetry.threshold;
        let sampled = match (records, parent) {
            (None, parent) => parent.is_some_and(|parent| parent.sampled),
            (Some(_), Some(parent)) => parent.sampled,
            (Some(threshold), None) => trace.randomness() < threshold,
        };
        let is_recorded = sampled && records.is_some();
        let (span, parent_span) = match parent {
            Some(parent) if !is_recorded => (parent.span, None),
            parent => (SpanId::random(), parent.map(|parent| parent.span)),
        };
        let state = match parent {
            Some(_) if self.forwards.1 => {
                let values = headers.get_all(TRACESTATE);
                trace_state(values.filter_map(|value| value.to_str().ok()))
            }
            _ => None,
        };
        let context = TraceContext {
            request,
            trace,
            span,
            parent: parent_span,
            sampled,
            state: state.map(Into::into),
            forwarded: self.forwards.0 && (parent.is_some() || records.is_some()),
            generation: None,
        };
        RequestTrace {
            context: Arc::new(context),
            observer: is_recorded.then(|| self.clone() as Arc<dyn AttemptObserver>),
        }
    }

    /// Begins the span of a request, if its trace is recorded.
    pub(crate) fn request(
        self: &Arc<Self>,
        trace: &RequestTrace,
        method: &Method,
    ) -> Option<RequestSpan> {
        trace.observer.as_ref()?;
        Some(RequestSpan {
            tracer: self.clone(),
            context: trace.context.clone(),
            started: (SystemTime::now(), Instant::now()),
            method: method.clone(),
            route: None,
            path: None,
            status: None,
        })
    }

    /// Returns an observer that counts with `counts` and records spans, if anything is recorded.
    pub(crate) fn observing(self: &Arc<Self>, counts: Arc<dyn Observer>) -> Arc<dyn Observer> {
        if self.telemetry.threshold.is_none() && self.telemetry.gen_ai.is_none() {
            return counts;
        }
        Arc::new(Observers {
            counts,
            tracer: self.clone(),
        })
    }

    fn generation(&self, context: &TraceContext, end: &GenerationEnd<'_>) {
        let model = &end.meta.model;
        let name = format!("{OPERATION} {model}");
        let started = SystemTime::now() - end.duration;
        let mut span = SpanMessage::new(context, Kind::Client, &name, started, end.duration);
        span.text("gen_ai.operation.name", OPERATION);
        span.text("gen_ai.request.model", model);
        span.text("gen_ai.response.id", end.meta.id.as_str());
        if let Some(server) = end.endpoint.and_then(|index| self.servers.get(index)) {
            server.add_to(&mut span);
        }
        if let Some(usage) = end.token_usage {
            span.number("gen_ai.usage.input_tokens", usage.input);
            span.number("gen_ai.usage.output_tokens", usage.output);
        }
        span.text("tokenwire.status", end.status.as_str());
        span.number("tokenwire.tokens", end.tokens);
        if end.status == Status::Failed {
            span.error(error_type(end.code.unwrap_or_default()));
        }
        self.telemetry.spans.push(span.into_bytes());
    }
}

impl AttemptObserver for Tracer {
    fn ended(&self, attempt: &EndedAttempt<'_>) {
        let EndedAttempt {
            context, duration, ..
        } = *attempt;
        let mut span = SpanMessage::new(context, Kind::Client, "POST", attempt.started, duration);
        span.text("http.request.method", "POST");
        span.text("gen_ai.request.model", attempt.model);
        if let Some(server) = self.servers.get(attempt.index) {
            server.add_to(&mut span);
        }
        span.text("tokenwire.upstream", attempt.endpoint);
        match attempt.outcome {
            AttemptOutcome::Answered => span.number("http.response.status_code", 200),
            AttemptOutcome::Abandoned => span.text("error.type", "abandoned"),
            AttemptOutcome::Refused(status) => {
                span.number("http.response.status_code", u64::from(*status));
                span.error(&status.to_string());
            }
            AttemptOutcome::Failed(code) => span.error(error_type(code)),
        }
        if let Some(first) = attempt.first_token {
            span.event("tokenwire.first_token", first);
        }
        span.event("tokenwire.end", duration);
        self.telemetry.spans.push(span.into_bytes());
    }
}

impl Server {
    fn add_to(&self, span: &mut SpanMessage) {
        span.text("gen_ai.provider.name", self.provider);
        span.text("server.address", &self.address);
        span.number("server.port", u64::from(self.port));
    }
}

// === impl Observers ===

impl Observer for Observers {
    fn started(&self, start: &GenerationStart<'_>) {
        self.counts.started(start);
    }

    fn ended(&self, end: &GenerationEnd<'_>) {
        self.counts.ended(end);
        let tracer = &self.tracer;
        if let (Some(metrics), Some(server)) = (
            &tracer.telemetry.gen_ai,
            end.endpoint.and_then(|index| tracer.servers.get(index)),
        ) {
            metrics.add(server, end);
        }
        let records = tracer.telemetry.threshold.is_some();
        if let Some(context) = end.trace.filter(|span| records && span.sampled) {
            tracer.generation(context, end);
        }
    }

    fn resumed(&self, after: Option<u64>, result: &Result<Resumption, ApiError>) {
        self.counts.resumed(after, result);
    }
}

// === impl RequestSpan ===

impl RequestSpan {
    /// Notes the status of the answer, and the route with the path that it was found by. Without a
    /// route the path is left out: it is any text.
    pub(crate) fn answered(&mut self, status: u16, route: Option<(String, &str)>) {
        self.status = Some(status);
        if let Some((route, path)) = route {
            self.route = Some(route);
            self.path = Some(path.to_owned());
        }
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        let (started, clock) = self.started;
        let duration: Duration = clock.elapsed();
        let method = self.method.as_str();
        let name = match &self.route {
            Some(route) => format!("{method} {route}"),
            None => method.to_owned(),
        };
        let mut span = SpanMessage::new(&self.context, Kind::Server, &name, started, duration);
        span.text("http.request.method", method);
        if let (Some(route), Some(path)) = (&self.route, &self.path) {
            span.text("http.route", route);
            span.text("url.path", path);
        }
        span.text("tokenwire.request_id", &self.context.request);
        match self.status {
            Some(status) => {
                span.number("http.response.status_code", u64::from(status));
                if status >= 500 {
                    span.error(&status.to_string());
                }
            }
            None => span.text("error.type", "abandoned"),
        }
        self.tracer.telemetry.spans.push(span.into_bytes());
    }
}
