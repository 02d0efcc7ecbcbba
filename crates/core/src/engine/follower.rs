//! The upstream of a request that may share another's answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::SecretString;

use super::replay::{Source, Verdict, follow};
use super::reuse::{Freshness, Leader, Role, Ticket};
use crate::generation::{FollowerGuard, Generation};
use crate::model::error::ApiError;
use crate::model::event::Failure;
use crate::upstream::decode::{Flow, SseEvent};
use crate::upstream::{
    OpenError, Reservation, StreamStep, Target, TokenStream, Upstream, UpstreamRequest,
    UpstreamResponse,
};

/// A decorator that follows another generation instead of asking.
///
/// If that comes to nothing before it has given anything, it looks once more: the first of several
/// followers to do so asks the upstream, and the others follow him. If that fails as well all of
/// them are told: a failing upstream is not asked by each.
pub(super) struct Follower {
    inner: Arc<dyn Upstream>,
    generation: Arc<Generation>,
    ticket: Arc<Ticket>,
    first: Mutex<Option<(FollowerGuard, Source)>>,
    /// Whether the upstream was asked after all.
    asked: Arc<AtomicBool>,
}

impl Follower {
    pub(super) fn new(
        inner: Arc<dyn Upstream>,
        generation: Arc<Generation>,
        ticket: Ticket,
        follower_guard: FollowerGuard,
        source: Source,
        asked: Arc<AtomicBool>,
    ) -> Self {
        // The leader's clocks run, or ran.
        generation.control().pause_timeouts();
        Self {
            inner,
            generation,
            ticket: Arc::new(ticket),
            first: Mutex::new(Some((follower_guard, source))),
            asked,
        }
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl Upstream for Follower {
    fn route(
        &self,
        model: Option<&str>,
        client_key: Option<&SecretString>,
    ) -> Result<Target, ApiError> {
        self.inner.route(model, client_key)
    }

    fn open(
        &self,
        mut request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        let (inner, generation, ticket, asked) = (
            self.inner.clone(),
            self.generation.clone(),
            self.ticket.clone(),
            self.asked.clone(),
        );
        let first = self.first.lock().take();
        if first.is_some() {
            // Not sent for now: the upstream is not asked while another answer is followed.
            request.reservation = Reservation::default();
        }
        async move {
            let mut lead = None;
            if let Some((follower_guard, source)) = first {
                let mut verdict = follow(follower_guard, source).await;
                if matches!(verdict, Verdict::NotShareable | Verdict::Retryable(_)) {
                    match ticket.place(&generation, Freshness::Any) {
                        Role::Follows(follower_guard, source) => {
                            verdict = follow(follower_guard, source).await
                        }
                        Role::Leads(leads) => {
                            (lead, verdict) = (Some(leads), Verdict::NotShareable)
                        }
                        Role::Apart => verdict = Verdict::NotShareable,
                    }
                }
                match verdict {
                    Verdict::Shared(opened) => return Ok(opened),
                    Verdict::Refused(error) | Verdict::Retryable(error) => return Err(error),
                    Verdict::NotShareable => {}
                }
            }
            asked.store(true, Ordering::Release);
            generation.control().resume_timeouts();
            let opened = inner.open(request).await?;
            Ok(match lead {
                Some(lead) => UpstreamResponse {
                    stream: Box::new(Led {
                        stream: opened.stream,
                        _lead: lead,
                    }),
                    ..opened
                },
                None => opened,
            })
        }
        .boxed()
    }
}

/// The stream of one who asks for others as well.
struct Led {
    stream: Box<dyn TokenStream>,
    _lead: Leader,
}

impl TokenStream for Led {
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        self.stream.poll_events(cx, sink)
    }

    fn first_token(&mut self) {
        self.stream.first_token();
    }

    fn failed(&mut self, failure: &Failure) {
        self.stream.failed(failure);
    }

    fn retry(&mut self, failure: &Failure) -> bool {
        self.stream.retry(failure)
    }

    fn continue_from(&mut self, failure: &Failure, text: &str) -> Option<String> {
        self.stream.continue_from(failure, text)
    }
}
