//! Getting an answer: attempt after attempt, at one server after the other, until something of it
//! is there to be kept.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use smallvec::SmallVec;

use super::continuation::{self, Continuation};
use super::hedge::{self, Hedge};
use super::retry::{FailureKind, RetryDecision, classify};
use super::router::{Choice, Router};
use super::stats::Attempt;
use super::{OpenError, Opened, StreamStep, TokenStream, UpstreamHead, UpstreamRequest};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::Failure;
use crate::model::json::Members;
use crate::model::snapshot::Api;
use crate::upstream::decode::{Flow, SseEvent};

/// A request on its way, and what was tried for it.
#[derive(Debug)]
pub(super) struct Failover {
    router: Router,
    request: UpstreamRequest,
    /// Repetitions so far, wherever.
    repetitions: u32,
    /// What it has waited between attempts so far.
    waited: Duration,
    /// Whether something of an answer was kept: then there is no other attempt, only somebody who
    /// goes on.
    kept: bool,
    /// The body as it was asked first, once another stands in its place that goes on from a text.
    original: Option<Bytes>,
    /// Servers that have failed it since all of them were to be tried.
    tried: SmallVec<[usize; 4]>,
}

/// A stream that one server has begun.
pub(super) struct Live {
    pub(super) head: UpstreamHead,
    pub(super) stream: Box<dyn TokenStream>,
    pub(super) attempt: Attempt,
    pub(super) server: usize,
}

/// A stream whose attempt may still be replaced by another.
struct FailoverStream {
    failover: Option<Box<Failover>>,
    state: State,
}

enum State {
    Live {
        stream: Box<dyn TokenStream>,
        attempt: Attempt,
        /// Its first token is not the answer's first, so that nobody else tells of it.
        continues: bool,
    },
    Reopening(BoxFuture<'static, (Box<Failover>, Result<Live, OpenError>)>),
    Over,
}

// === impl Failover ===

impl Failover {
    pub(super) fn new(router: Router, request: UpstreamRequest) -> Self {
        Self {
            router,
            request,
            repetitions: 0,
            waited: Duration::ZERO,
            kept: false,
            original: None,
            tried: SmallVec::new(),
        }
    }

    /// Waits for the first head that is one.
    pub(super) async fn open(self) -> Result<Opened, OpenError> {
        self.router.options().budget.credit();
        let (failover, live) = Box::new(self).run(Duration::ZERO).await;
        let Live {
            head,
            stream,
            attempt,
            server: _,
        } = live?;
        let state = State::Live {
            stream,
            attempt,
            continues: false,
        };
        Ok(Opened {
            head,
            stream: Box::new(FailoverStream {
                failover: Some(failover),
                state,
            }),
        })
    }

    async fn run(mut self: Box<Self>, mut wait: Duration) -> (Box<Self>, Result<Live, OpenError>) {
        loop {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let error = match self.attempt().await {
                Ok(live) => return (self, Ok(live)),
                Err(error) => error,
            };
            match self.plan(classify(&error).0) {
                Some(pause) => wait = pause,
                None => return (self, Err(error)),
            }
        }
    }

    /// Asks the server at hand, and another beside it if it is slow and that is wanted.
    async fn attempt(&mut self) -> Result<Live, OpenError> {
        let first = ask(&self.router, self.request.clone());
        let Some(patience) = self.patience() else {
            return first.await;
        };
        let other = || {
            let choice = self.another(&[self.request.server])?;
            let request = self.request_for(&choice);
            let route = self
                .router
                .routes()
                .get(choice.server)
                .filter(|_| self.router.options().budget.try_acquire())?;
            route.stats.counters.hedges.add();
            Some(ask(&self.router, request))
        };
        let live = hedge::run(self.request.api, first, patience, other).await?;
        if live.server != self.request.server {
            if let Some(route) = self.router.routes().get(live.server) {
                route.stats.counters.hedges_won.add();
            }
            self.request.server = live.server;
        }
        Ok(live)
    }

    /// How long the first server has before another is asked; `None` where none ever is.
    fn patience(&self) -> Option<Duration> {
        let hedge = self.router.options().hedge;
        // Another server would begin the answer anew that this one is to go on with.
        if hedge == Hedge::Never || !self.request.streamed || self.kept {
            return None;
        }
        self.another(&[self.request.server])?;
        hedge.patience(&self.router.routes().get(self.request.server)?.stats.latency)
    }

    fn another(&self, tried: &[usize]) -> Option<Choice> {
        self.router
            .choose(&self.request.model, Some(self.request.api), tried)
            .filter(|choice| !choice.last_resort)
    }

    /// The request as the chosen server wants it: the first body, under its own name for the model.
    fn request_for(&self, choice: &Choice) -> UpstreamRequest {
        let mut request = self.request.clone();
        request.server = choice.server;
        let body = self.original.as_ref().unwrap_or(&self.request.body);
        let rewritten = serde_json::from_slice::<Members<'_>>(body).map(|members| {
            members.write_with(&[("model", &crate::model::json::quoted(&choice.binding.name))])
        });
        if let Ok(body) = rewritten {
            request.body = body.into();
        }
        request
    }

    /// Prepares going on from the text at another server, and gives its name.
    fn plan_continuation(&mut self, failure: &Failure, text: &str) -> Option<String> {
        let options = self.router.options();
        if !failure.retryable
            || self.request.api != Api::Chat
            || !self.request.streamed
            || self.repetitions >= options.retry.attempts
        {
            return None;
        }
        self.tried.push(self.request.server);
        let unable = self
            .router
            .routes()
            .iter()
            .enumerate()
            .filter(|(_, route)| route.continuation == Continuation::None);
        let passed_by: SmallVec<[usize; 8]> = self
            .tried
            .iter()
            .copied()
            .chain(unable.map(|(server, _)| server))
            .collect();
        let choice = self.another(&passed_by)?;
        let route = self.router.routes().get(choice.server)?;
        let request = self.request_for(&choice);
        let body = continuation::body(&request.body, route.continuation, text)?;
        if !options.budget.try_acquire() {
            route.stats.counters.budget_spent.add();
            return None;
        }
        route.stats.counters.continued.add();
        self.original
            .get_or_insert_with(|| self.request.body.clone());
        let name = route.server.name().to_owned();
        self.repetitions += 1;
        self.request = UpstreamRequest {
            body: body.into(),
            ..request
        };
        Some(name)
    }

    /// Prepares the next attempt and says how long to wait for it, or that there is none.
    fn plan(&mut self, again: RetryDecision) -> Option<Duration> {
        let policy = self.router.options().retry;
        // A request to go on is made of one server's words for it, and is not sent to another.
        if self.kept || again == RetryDecision::No || self.repetitions >= policy.attempts {
            return None;
        }
        let failed = self.request.server;
        self.tried.push(failed);
        let other = self.another(&self.tried);
        let wait = match (&other, again) {
            (Some(_), _) => Duration::ZERO,
            // No earlier than it asked for, and not all at once after that.
            (None, RetryDecision::Anywhere(Some(asked))) => asked + policy.wait(0),
            (None, RetryDecision::Anywhere(None)) => policy.wait(self.repetitions),
            (None, RetryDecision::Elsewhere | RetryDecision::No) => return None,
        };
        // Who waits for the answer would rather know than wait for long.
        if self.waited + wait > policy.max_wait {
            return None;
        }
        let counters = |server: usize| {
            self.router
                .routes()
                .get(server)
                .map(|route| &route.stats.counters)
        };
        if !self.router.options().budget.try_acquire() {
            counters(failed)?.budget_spent.add();
            return None;
        }
        if let Some(choice) = &other {
            counters(choice.server)?.failovers.add();
            self.request = self.request_for(choice);
        } else {
            // All were tried, or there is only this one: from now on all of them may be tried
            // again.
            self.tried.clear();
        }
        counters(self.request.server)?.retries.add();
        self.repetitions += 1;
        self.waited += wait;
        Some(wait)
    }
}

/// One request to one server, when it has room for it.
async fn ask(router: &Router, request: UpstreamRequest) -> Result<Live, OpenError> {
    let server = request.server;
    let Some(route) = router.routes().get(server) else {
        return Err(OpenError::Failed(ApiError::new(
            ErrorCode::NotFound,
            "The model is not binding any more.",
        )));
    };
    let permit = route.stats.limit.enter().await.map_err(|error| {
        route.stats.counters.refused_busy.add();
        OpenError::Failed(error)
    })?;
    let mut attempt = route
        .stats
        .begin(permit, request.patience, request.streamed);
    match route.server.open(request).await {
        Ok(Opened { head, stream }) => Ok(Live {
            head,
            stream,
            attempt,
            server,
        }),
        Err(error) => {
            attempt.failed(classify(&error).1);
            Err(error)
        }
    }
}

// === impl FailoverStream ===

impl TokenStream for FailoverStream {
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        loop {
            match &mut self.state {
                State::Live {
                    stream,
                    continues: false,
                    ..
                } => return stream.poll_events(cx, sink),
                State::Live {
                    stream,
                    attempt,
                    continues,
                } => {
                    let step = stream.poll_events(cx, sink);
                    if matches!(step, Poll::Ready(StreamStep::Read)) {
                        attempt.first_token();
                        *continues = false;
                    }
                    return step;
                }
                State::Reopening(reopening) => {
                    let Poll::Ready((failover, live)) = reopening.as_mut().poll_unpin(cx) else {
                        return Poll::Pending;
                    };
                    let continues = failover.kept;
                    self.failover = Some(failover);
                    match live {
                        Ok(Live {
                            stream, attempt, ..
                        }) => {
                            self.state = State::Live {
                                stream,
                                attempt,
                                continues,
                            }
                        }
                        Err(error) => {
                            self.failover = None;
                            self.state = State::Over;
                            return Poll::Ready(StreamStep::Failed(error.to_api_error()));
                        }
                    }
                }
                State::Over => return Poll::Pending,
            }
        }
    }

    fn first_token(&mut self) {
        // From here on the answer is kept. What it takes to ask again is let go of unless somebody
        // could go on with it.
        match &mut self.failover {
            Some(failover) if failover.router.can_continue() => failover.kept = true,
            failover => *failover = None,
        }
        if let State::Live {
            stream, attempt, ..
        } = &mut self.state
        {
            attempt.first_token();
            stream.first_token();
        }
    }

    fn failed(&mut self, failure: &Failure) {
        if let State::Live { attempt, .. } = &mut self.state {
            attempt.failed(if failure.retryable {
                FailureKind::Broken
            } else {
                FailureKind::None
            });
        }
    }

    fn retry(&mut self, failure: &Failure) -> bool {
        self.failed(failure);
        let State::Live { .. } = &self.state else {
            return false;
        };
        let Some(mut failover) = self.failover.take() else {
            return false;
        };
        let again = if failure.retryable {
            RetryDecision::Anywhere(None)
        } else {
            RetryDecision::No
        };
        match failover.plan(again) {
            Some(wait) => {
                // The old connection is closed, and its place given back, before the new request
                // leaves.
                self.state = State::Reopening(failover.run(wait).boxed());
                true
            }
            None => false,
        }
    }

    fn continue_from(&mut self, failure: &Failure, text: &str) -> Option<String> {
        let State::Live { .. } = &self.state else {
            return None;
        };
        let mut failover = self.failover.take()?;
        let name = failover.plan_continuation(failure, text)?;
        self.state = State::Reopening(failover.run(Duration::ZERO).boxed());
        Some(name)
    }
}
