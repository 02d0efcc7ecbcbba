//! Observers of generations, such as an application's metrics.
//!
//! An observer is called twice for each generation, at its start and at its end, once for each reader
//! that comes back, and never for a token. The counts of an end come from the fold of the events, which the terminal event needs
//! anyway.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::generation_end::GenerationEnd;
use super::meter::Metered;
use super::resume::Resumption;
use super::reuse::Reused;
use crate::generation::Generation;
use crate::model::error::ApiError;
use crate::model::event::Ending;
use crate::model::snapshot::{Api, Meta, Status};
use crate::model::trace::TraceContext;
use crate::model::usage::TokenUsage;
use crate::upstream::Asked;

/// Receives starts and ends. Called on the generation's worker; it must not block.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A generation was started.
    fn started(&self, start: &GenerationStart<'_>);

    /// A generation has ended. Called exactly once for each that was started.
    fn ended(&self, end: &GenerationEnd<'_>);

    /// A reader has come for a generation that was started before: after the event with the number
    /// `after`, or for all of its events. By default this does nothing.
    fn resumed(&self, after: Option<u64>, result: &Result<Resumption, ApiError>) {
        let _ = (after, result);
    }
}

/// What is known at a start.
#[derive(Clone, Copy, Debug)]
pub struct GenerationStart<'a> {
    /// The generation.
    pub generation: &'a Arc<Generation>,
    /// What is known of it.
    pub meta: &'a Meta,
    /// The API of its request, which may differ from its upstream's.
    pub asked_in: Api,
    /// Whether it shares another's answer; `None` where answers are not shared.
    pub reused: Option<Reused>,
}

/// What is told of one generation's end.
pub(super) struct Observers {
    pub(super) observer: Option<Arc<Arc<dyn Observer>>>,
    pub(super) metered: Option<Arc<dyn Metered>>,
    /// Counts the attempts, for what is metered.
    pub(super) asked: Asked,
    /// The span of the generation.
    pub(super) trace: Option<Arc<TraceContext>>,
}

impl Observers {
    pub(super) fn is_any(&self) -> bool {
        self.observer.is_some() || self.metered.is_some()
    }
}

/// Reports the end when it is dropped.
pub(super) struct Observation {
    observers: Observers,
    generation: Arc<Generation>,
    asked_in: Api,
    endpoint: usize,
    asked: Arc<AtomicBool>,
    started: Instant,
}

impl Observation {
    /// Reports the start. `asked` says whether the endpoint is asked; it may become true later.
    pub(super) fn begin(
        observers: Observers,
        generation: Arc<Generation>,
        asked_in: Api,
        reused: Option<Reused>,
        endpoint: usize,
        asked: Arc<AtomicBool>,
    ) -> Self {
        if let Some(observer) = &observers.observer {
            observer.started(&GenerationStart {
                generation: &generation,
                meta: generation.meta(),
                asked_in,
                reused,
            });
        }
        Self {
            observers,
            generation,
            asked_in,
            endpoint,
            asked,
            started: Instant::now(),
        }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let outcome = self.generation.outcome();
        let (status, code, reason) = match outcome.as_ref().map(|outcome| &outcome.ending) {
            Some(Ending::Completed) => (Status::Completed, None, None),
            Some(Ending::Incomplete { reason }) => (Status::Incomplete, None, Some(&**reason)),
            Some(Ending::Failed(failure)) => (Status::Failed, Some(&*failure.code), None),
            Some(Ending::Cancelled) | None => (Status::Cancelled, None, None),
        };
        let (events, tokens) = self.generation.progress();
        let usage = outcome.as_ref().and_then(|known| known.usage.as_deref());
        let token_intervals = self.generation.take_token_intervals();
        let end = GenerationEnd {
            meta: self.generation.meta(),
            asked_in: self.asked_in,
            endpoint: self.asked.load(Ordering::Acquire).then_some(self.endpoint),
            status,
            code,
            reason,
            events,
            tokens,
            asked: self.observers.asked.is_asked(),
            usage,
            token_usage: usage.and_then(TokenUsage::parse),
            first_token: self.generation.first_token(),
            token_intervals: token_intervals.as_deref(),
            duration: self.started.elapsed(),
            trace: self.observers.trace.as_deref(),
        };
        if let Some(observer) = &self.observers.observer {
            observer.ended(&end);
        }
        if let Some(metered) = &self.observers.metered {
            metered.ended(&end);
        }
    }
}
