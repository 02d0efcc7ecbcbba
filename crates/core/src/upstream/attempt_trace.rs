//! The spans of attempts, for applications that trace.
//!
//! An attempt is told of once, at its end. A token costs nothing.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{OpenError, UpstreamRequest};
use crate::model::id::GenerationId;
use crate::model::trace::{TRACEPARENT, TRACESTATE, TraceContext};

/// The trace of a request to a model, and who is told of its attempts.
#[derive(Clone, Debug)]
pub struct RequestTrace {
    /// The span that the attempts are part of.
    pub context: Arc<TraceContext>,
    /// Is told of each attempt. `None` where the trace is not recorded.
    pub observer: Option<Arc<dyn AttemptObserver>>,
}

/// Is told of attempts. Called on the generation's worker; it must not block.
pub trait AttemptObserver: Send + Sync + fmt::Debug {
    /// An attempt has ended. Called exactly once for each.
    fn ended(&self, attempt: &EndedAttempt<'_>);
}

/// An attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedAttempt<'a> {
    /// Its span.
    pub context: &'a TraceContext,
    /// The name of the endpoint.
    pub endpoint: &'a str,
    /// Index of the endpoint in the router.
    pub index: usize,
    /// The client's name for the model.
    pub model: &'a str,
    /// When the request was sent.
    pub started: SystemTime,
    /// Time from then to its end.
    pub duration: Duration,
    /// Time from its start to the first token, if there was one.
    pub first_token: Option<Duration>,
    /// How it went.
    pub outcome: &'a AttemptOutcome,
}

/// How an attempt went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The answer was read as far as it was wanted.
    #[default]
    Answered,
    /// It was given up before its first token: cancelled, timed out, or another one was faster.
    Abandoned,
    /// The endpoint refused the request with this status.
    Refused(u16),
    /// It failed with this code, which may be the upstream's own.
    Failed(String),
}

/// An attempt whose span is not ended yet. Reports its end when it is dropped.
#[derive(Debug)]
pub(super) struct AttemptTrace {
    context: TraceContext,
    observer: Arc<dyn AttemptObserver>,
    endpoint: String,
    index: usize,
    model: String,
    started: (SystemTime, Instant),
    first_token: Option<Duration>,
    outcome: AttemptOutcome,
}

// === impl RequestTrace ===

impl RequestTrace {
    /// Returns a new span that is part of the trace's own. Spans that are not recorded are not told
    /// apart, so that each recorded one has a parent that is recorded, too.
    fn span(&self) -> TraceContext {
        match &self.observer {
            Some(_) => self.context.child(),
            None => self.context.as_ref().clone(),
        }
    }

    /// Returns the trace of a generation that the request starts: a span that is part of its own.
    pub(crate) fn of_generation(self, id: &GenerationId) -> Self {
        let mut context = self.span();
        context.generation = Some(id.clone());
        Self {
            context: Arc::new(context),
            observer: self.observer,
        }
    }

    /// Gives the request the headers of a span of its own, where upstreams get them, and returns the
    /// span if it is recorded.
    pub(super) fn begin(
        request: &mut UpstreamRequest,
        endpoint: &str,
    ) -> Option<Box<AttemptTrace>> {
        let trace = request.trace.as_ref()?;
        let context = trace.span();
        let observer = trace.observer.clone();
        if context.forwarded {
            let headers = &mut request.headers;
            headers.retain(|(name, _)| name != TRACEPARENT && name != TRACESTATE);
            headers.push((TRACEPARENT.to_owned(), context.header().to_string()));
            if let Some(state) = &context.state {
                headers.push((TRACESTATE.to_owned(), state.as_ref().to_owned()));
            }
        }
        Some(Box::new(AttemptTrace {
            context,
            observer: observer?,
            endpoint: endpoint.to_owned(),
            index: request.endpoint,
            model: request.model.clone(),
            started: (SystemTime::now(), Instant::now()),
            first_token: None,
            outcome: AttemptOutcome::Abandoned,
        }))
    }
}

// === impl AttemptTrace ===

impl AttemptTrace {
    pub(super) fn first_token(&mut self) {
        if self.first_token.is_none() {
            self.first_token = Some(self.started.1.elapsed());
            self.outcome = AttemptOutcome::Answered;
        }
    }

    /// The answer has ended as it should.
    pub(super) fn answered(&mut self) {
        if self.outcome == AttemptOutcome::Abandoned {
            self.outcome = AttemptOutcome::Answered;
        }
    }

    pub(super) fn failed(&mut self, code: &str) {
        self.outcome = AttemptOutcome::Failed(code.to_owned());
    }

    pub(super) fn not_opened(&mut self, error: &OpenError) {
        self.outcome = match error {
            OpenError::Refused(refusal) => AttemptOutcome::Refused(refusal.status),
            OpenError::Failed(error) => {
                AttemptOutcome::Failed(error.code.as_deref().unwrap_or_default().to_owned())
            }
        };
    }
}

impl Drop for AttemptTrace {
    fn drop(&mut self) {
        let (started, clock) = self.started;
        self.observer.ended(&EndedAttempt {
            context: &self.context,
            endpoint: &self.endpoint,
            index: self.index,
            model: &self.model,
            started,
            duration: clock.elapsed(),
            first_token: self.first_token,
            outcome: &self.outcome,
        });
    }
}
