//! Sends a request until it is answered: attempt after attempt, at the same endpoint or another.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::attempt::{self, AttemptStream};
use super::continuation::{self, Continuation};
use super::endpoint_stats::Reservation;
use super::failure::{RetryDecision, classify};
use super::hedge::{self, Hedge};
use super::reasoning::{self, Refused};
use super::route::Route;
use super::router::{Choice, Router};
use super::{OpenError, UpstreamRequest};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::Failure;
use crate::model::json::Members;
use crate::model::snapshot::Api;

/// A request and the attempts that were made for it.
#[derive(Debug)]
pub(super) struct Failover {
    router: Router,
    request: UpstreamRequest,
    /// Attempts after the first, at any endpoint.
    repetitions: u32,
    /// Total wait between attempts so far.
    waited: Duration,
    /// Whether records of the answer were kept. From then on the request is only continued, never
    /// sent again.
    kept: bool,
    /// The first body, once `request.body` is one that continues an answer.
    original: Option<Bytes>,
    /// Whether it was repeated without the reasoning that was refused.
    repeated: bool,
    /// Endpoints that have failed since all of them were last eligible.
    tried: SmallVec<[usize; 4]>,
}

impl Failover {
    /// A request without attempts so far. `request.endpoint` is the first endpoint to ask.
    pub(super) fn new(router: Router, request: UpstreamRequest) -> Self {
        Self {
            router,
            request,
            repetitions: 0,
            waited: Duration::ZERO,
            kept: false,
            original: None,
            repeated: false,
            tried: SmallVec::new(),
        }
    }

    /// Adds this request's share to the retry budget. Called once per request.
    pub(super) fn credit_budget(&self) {
        self.router.options().budget.credit();
    }

    /// Records that something of the answer was kept. Returns whether an endpoint may still be able
    /// to continue it.
    pub(super) fn keep(&mut self) -> bool {
        self.kept = true;
        self.router.can_continue()
    }

    /// Whether records of the answer were kept.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Waits, then makes attempts until one is answered or no further one is allowed.
    pub(super) async fn run(
        mut self: Box<Self>,
        mut wait: Duration,
    ) -> (Box<Self>, Result<AttemptStream, OpenError>) {
        loop {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let error = match self.attempt().await {
                Ok(stream) => return (self, Ok(stream)),
                Err(error) => error,
            };
            if let OpenError::Refused(refusal) = &error
                && let Some(refused) = reasoning::refused(refusal)
                && self.drop_refused(refused)
            {
                wait = Duration::ZERO;
                continue;
            }
            match self.plan(classify(&error).0) {
                Some(pause) => wait = pause,
                None => return (self, Err(error)),
            }
        }
    }

    /// Asks the current endpoint, and a second one if it is slow and hedging is on.
    async fn attempt(&mut self) -> Result<AttemptStream, OpenError> {
        // From now on the request counts as outstanding by its slot or its place in the queue.
        self.request.reservation = Reservation::default();
        if let Some(request) = self.moved(&self.request) {
            self.request = request;
        }
        // The request as it was moved while it waited in a queue.
        let moved = Mutex::new(None);
        let answer = self.ask_or_hedge(&moved).await;
        if let Some(request) = moved.into_inner() {
            self.request = request;
        }
        let stream = answer?;
        if stream.endpoint != self.request.endpoint {
            if let Some(route) = self.router.routes().get(stream.endpoint) {
                route.stats.counters.hedges_won.add();
            }
            self.request.endpoint = stream.endpoint;
        }
        self.note_answer();
        Ok(stream)
    }

    async fn ask_or_hedge(
        &self,
        moved: &Mutex<Option<UpstreamRequest>>,
    ) -> Result<AttemptStream, OpenError> {
        let first = self.ask(moved);
        let Some(delay) = self.hedge_delay() else {
            return first.await;
        };
        let second = || {
            let first = moved.lock().as_ref().map(|request| request.endpoint);
            let choice = self.another(&[first.unwrap_or(self.request.endpoint)])?;
            let request = self.request_for(&choice);
            let route = self
                .router
                .routes()
                .get(choice.endpoint)
                // As in `hedge_delay`.
                .filter(|route| !route.holds(&request))
                .filter(|_| self.router.options().budget.try_acquire())?;
            route.stats.counters.hedges.add();
            Some(hedge(route, request))
        };
        // Boxed: it is several times as large as one attempt.
        Box::pin(hedge::run(self.request.api, first, delay, second)).await
    }

    /// Sends the request once its endpoint has a free slot. If that endpoint becomes unavailable
    /// during the wait, moves the request to another one, and leaves it in `moved`.
    async fn ask(
        &self,
        moved: &Mutex<Option<UpstreamRequest>>,
    ) -> Result<AttemptStream, OpenError> {
        let mut request = self.request.clone();
        loop {
            let Some(route) = self.router.routes().get(request.endpoint) else {
                let message = "The model is not served any more.";
                return Err(OpenError::Failed(ApiError::new(
                    ErrorCode::NotFound,
                    message,
                )));
            };
            let (permit, waited) = attempt::acquire(route).await?;
            match waited.then(|| self.moved(&request)).flatten() {
                None => return attempt::start(route, permit, request).await,
                Some(other) => {
                    *moved.lock() = Some(other.clone());
                    request = other;
                }
            }
        }
    }

    /// Records whose credential the answer's reasoning belongs to.
    fn note_answer(&self) {
        if let Some(reasoning) = &self.request.reasoning {
            let key = self.request.client_key.as_ref();
            let credential = self.router.credential(self.request.endpoint, key);
            reasoning.answer.set(credential);
            let route = self.router.routes().get(self.request.endpoint);
            if let Some(route) = route.filter(|route| route.holds(&self.request)) {
                let public = key.is_none() || !route.endpoint.accepts_client_key();
                reasoning.answer.hold(route.endpoint.name(), public);
            }
        }
    }

    /// Removes what the endpoint refuses from the request. Returns whether the request may be sent
    /// once more. That is no retry: the endpoint is healthy, and it was asked for something else.
    pub(super) fn drop_refused(&mut self, refused: Refused) -> bool {
        let Some(carried) = &mut self.request.reasoning else {
            return false;
        };
        if self.kept || std::mem::replace(&mut self.repeated, true) {
            return false;
        }
        let body = match refused {
            Refused::Reasoning => {
                carried.credential = None;
                reasoning::without_reasoning(&self.request.body)
            }
            Refused::Include if carried.asked => {
                if let Some(route) = self.router.routes().get(self.request.endpoint) {
                    route.stats.plain_models.note(&self.request.model);
                }
                reasoning::without_include(&self.request.body)
            }
            Refused::Include => None,
        };
        match body {
            Some(body) => {
                self.request.body = body.into();
                true
            }
            None => false,
        }
    }

    /// Returns the request for another endpoint if its own has become unavailable since that was
    /// chosen: of many requests that are routed to a half-open endpoint at once, one is the trial.
    fn moved(&self, request: &UpstreamRequest) -> Option<UpstreamRequest> {
        let route = self.router.routes().get(request.endpoint);
        let key = request.client_key.as_ref();
        if self.kept || route.is_none_or(|route| route.is_available(key)) {
            return None;
        }
        let excluded: SmallVec<[usize; 8]> = self
            .tried
            .iter()
            .copied()
            .chain([request.endpoint])
            .collect();
        Some(self.request_for(&self.another(&excluded)?))
    }

    /// How long the first endpoint has before a second is asked; `None` if no second is asked.
    fn hedge_delay(&self) -> Option<Duration> {
        let hedge = self.router.options().hedge;
        // A hedge would start the answer again instead of continuing it.
        // The slower one of two answers that both go on without a connection could not be cancelled
        // before its id is known.
        let route = self.router.routes().get(self.request.endpoint)?;
        let held = route.holds(&self.request);
        if hedge == Hedge::Never || !self.request.streamed || self.kept || held {
            return None;
        }
        self.another(&[self.request.endpoint])?;
        hedge.delay(&route.stats.latency)
    }

    fn another(&self, tried: &[usize]) -> Option<Choice> {
        self.router
            .choose(
                &self.request.model,
                Some(self.request.api),
                self.request.client_key.as_ref(),
                tried,
            )
            .filter(|choice| !choice.last_resort)
    }

    /// The request for the chosen endpoint: written for it, or the first body with that endpoint's
    /// name for the model.
    fn request_for(&self, choice: &Choice) -> UpstreamRequest {
        let mut request = self.request.clone();
        request.endpoint = choice.endpoint;
        let written = self
            .router
            .routes()
            .get(choice.endpoint)
            .zip(self.request.writer.as_ref())
            .and_then(|(route, writer)| writer.write(&choice.binding.name, &route.chat));
        if let Some(body) = written {
            request.body = body;
            return request;
        }
        let body = self.original.as_ref().unwrap_or(&self.request.body);
        let rewritten = serde_json::from_slice::<Members<'_>>(body).map(|members| {
            members.write_with(&[("model", &crate::model::json::quoted(&choice.binding.name))])
        });
        if let Ok(body) = rewritten {
            request.body = body.into();
        }
        if let Some(carried) = &mut request.reasoning
            && carried.credential.is_some()
            && carried.credential
                != self
                    .router
                    .credential(choice.endpoint, request.client_key.as_ref())
        {
            // Another account cannot read it.
            carried.credential = None;
            if let Some(body) = reasoning::without_reasoning(&request.body) {
                request.body = body.into();
            }
        }
        request
    }

    /// Prepares a request to another endpoint that continues `text` (JSON-escaped). Returns the
    /// endpoint's name; `None` if no endpoint can continue it.
    pub(super) fn plan_continuation(&mut self, failure: &Failure, text: &str) -> Option<String> {
        let options = self.router.options();
        // A refusal of a request to continue tells nothing of the next upstream.
        let is_refused = self.original.is_some();
        if !(failure.retryable || is_refused)
            || self.request.api != Api::Chat
            || !self.request.streamed
            || self.repetitions >= options.retry.attempts
        {
            return None;
        }
        self.tried.push(self.request.endpoint);
        let unable = self
            .router
            .routes()
            .iter()
            .enumerate()
            .filter(|(_, route)| route.continuation == Continuation::None);
        let excluded: SmallVec<[usize; 8]> = self
            .tried
            .iter()
            .copied()
            .chain(unable.map(|(endpoint, _)| endpoint))
            .collect();
        let choice = self.another(&excluded)?;
        let route = self.router.routes().get(choice.endpoint)?;
        let request = self.request_for(&choice);
        let body = continuation::body(&request.body, route.continuation, text)?;
        if !options.budget.try_acquire() {
            route.stats.counters.budget_spent.add();
            return None;
        }
        route.stats.counters.continued.add();
        self.original
            .get_or_insert_with(|| self.request.body.clone());
        let name = route.endpoint.name().to_owned();
        self.repetitions += 1;
        self.request = UpstreamRequest {
            body: body.into(),
            ..request
        };
        Some(name)
    }

    /// Prepares the next attempt. Returns how long to wait before it; `None` if there is none.
    pub(super) fn plan(&mut self, decision: RetryDecision) -> Option<Duration> {
        let policy = self.router.options().retry;
        // A body that continues an answer is written for one endpoint and is not sent to another.
        if self.kept || decision == RetryDecision::No || self.repetitions >= policy.attempts {
            return None;
        }
        let failed = self.request.endpoint;
        self.tried.push(failed);
        let other = self.another(&self.tried);
        let wait = match (&other, decision) {
            (Some(_), _) => Duration::ZERO,
            // No earlier than the endpoint asked for, with jitter added.
            (None, RetryDecision::Anywhere(Some(asked))) => asked.saturating_add(policy.wait(0)),
            (None, RetryDecision::Anywhere(None)) => policy.wait(self.repetitions),
            (None, RetryDecision::Elsewhere | RetryDecision::No) => return None,
        };
        // A client is better served by an early error than by a long wait.
        let waited = self.waited.saturating_add(wait);
        if waited > policy.max_wait {
            return None;
        }
        let counters = |endpoint: usize| {
            self.router
                .routes()
                .get(endpoint)
                .map(|route| &route.stats.counters)
        };
        if !self.router.options().budget.try_acquire() {
            counters(failed)?.budget_spent.add();
            return None;
        }
        if let Some(choice) = &other {
            counters(choice.endpoint)?.failovers.add();
            self.request = self.request_for(choice);
        } else {
            // No untried endpoint is left: all of them are eligible again.
            self.tried.clear();
        }
        counters(self.request.endpoint)?.retries.add();
        self.repetitions += 1;
        self.waited = waited;
        Some(wait)
    }
}

/// Sends a hedge once its endpoint has a free slot.
///
/// # Errors
/// Those of the attempt, and [`ErrorCode::UpstreamBusy`] if the endpoint becomes unavailable during
/// the wait for a slot.
async fn hedge(route: &Route, request: UpstreamRequest) -> Result<AttemptStream, OpenError> {
    let (permit, waited) = attempt::acquire(route).await?;
    if waited && !route.is_available(request.client_key.as_ref()) {
        return Err(OpenError::Failed(route.stats.limit.busy()));
    }
    attempt::start(route, permit, request).await
}
