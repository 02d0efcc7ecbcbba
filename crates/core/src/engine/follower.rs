//! The upstream of a request that may share another's answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::SecretString;

use super::replay::{FollowResult, LeaderPhase, follow};
use super::reuse::{Freshness, Leader, Role, SlotLookup};
use crate::generation::{FollowerGuard, Generation};
use crate::model::error::ApiError;
use crate::model::event::Failure;
use crate::request::ChatSettings;
use crate::upstream::decode::{Flow, SseEvent};
use crate::upstream::{
    AttachRequest, OpenError, Reservation, StreamStep, Target, TokenStream, Upstream,
    UpstreamRequest, UpstreamResponse,
};

/// Follows another generation instead of asking the inner upstream.
///
/// If the leader gives nothing, the follower looks up its slot once more. The first of several
/// followers to do so becomes the leader, asks the upstream, and the others follow it. If that fails
/// as well, all of them fail: a failing upstream is not asked by each follower.
pub(super) struct Follower {
    inner: Arc<dyn Upstream>,
    generation: Arc<Generation>,
    lookup: Arc<SlotLookup>,
    first: Mutex<Option<(FollowerGuard, LeaderPhase)>>,
    /// Set once the upstream is asked after all.
    asked: Arc<AtomicBool>,
}

impl Follower {
    pub(super) fn new(
        inner: Arc<dyn Upstream>,
        generation: Arc<Generation>,
        lookup: SlotLookup,
        follower_guard: FollowerGuard,
        phase: LeaderPhase,
        asked: Arc<AtomicBool>,
    ) -> Self {
        // The leader's timeouts apply.
        generation.control().pause_timeouts();
        Self {
            inner,
            generation,
            lookup: Arc::new(lookup),
            first: Mutex::new(Some((follower_guard, phase))),
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

    fn route_to(
        &self,
        model: Option<&str>,
        client_key: Option<&SecretString>,
        credential: &str,
    ) -> Result<Target, ApiError> {
        self.inner.route_to(model, client_key, credential)
    }

    fn credential(&self, endpoint: usize, client_key: Option<&SecretString>) -> Option<String> {
        self.inner.credential(endpoint, client_key)
    }

    fn may_encrypt(&self, endpoint: usize, model: &str) -> bool {
        self.inner.may_encrypt(endpoint, model)
    }

    fn relay(
        &self,
        request: UpstreamRequest,
        path: &'static str,
    ) -> BoxFuture<'static, Result<Bytes, OpenError>> {
        self.inner.relay(request, path)
    }

    fn endpoint_name(&self, endpoint: usize) -> Option<&str> {
        self.inner.endpoint_name(endpoint)
    }

    fn chat_settings(&self, endpoint: usize) -> ChatSettings {
        self.inner.chat_settings(endpoint)
    }

    fn chat_settings_vary(&self) -> bool {
        self.inner.chat_settings_vary()
    }

    fn reattach_window(&self, endpoint: &str) -> Option<Duration> {
        self.inner.reattach_window(endpoint)
    }

    fn endpoint_index(&self, name: &str) -> Option<usize> {
        self.inner.endpoint_index(name)
    }

    fn attach(
        &self,
        request: AttachRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        self.inner.attach(request)
    }

    fn cancel(&self, request: AttachRequest) -> BoxFuture<'static, Result<(), OpenError>> {
        self.inner.cancel(request)
    }

    fn open(
        &self,
        mut request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        let (inner, generation, lookup, asked) = (
            self.inner.clone(),
            self.generation.clone(),
            self.lookup.clone(),
            self.asked.clone(),
        );
        let first = self.first.lock().take();
        if first.is_some() {
            // Not sent for now: the upstream is not asked while another answer is followed.
            request.reservation = Reservation::default();
        }
        async move {
            let mut leader = None;
            if let Some((follower_guard, phase)) = first {
                let mut result = follow(follower_guard, phase).await;
                if matches!(
                    result,
                    FollowResult::NotShareable | FollowResult::Retryable(_)
                ) {
                    match lookup.role(&generation, Freshness::Any) {
                        Role::Follower(follower_guard, phase) => {
                            result = follow(follower_guard, phase).await
                        }
                        Role::Leader(own) => {
                            (leader, result) = (Some(own), FollowResult::NotShareable)
                        }
                        Role::Independent => result = FollowResult::NotShareable,
                    }
                }
                match result {
                    FollowResult::Shared(opened) => {
                        if let Some(reasoning) = &request.reasoning {
                            reasoning.answer.set_replay();
                        }
                        return Ok(opened);
                    }
                    FollowResult::Refused(error) | FollowResult::Retryable(error) => {
                        return Err(error);
                    }
                    FollowResult::NotShareable => {}
                }
            }
            asked.store(true, Ordering::Release);
            generation.control().resume_timeouts();
            let opened = inner.open(request).await?;
            Ok(match leader {
                Some(leader) => UpstreamResponse {
                    stream: Box::new(LeadingStream {
                        stream: opened.stream,
                        _leader: leader,
                    }),
                    ..opened
                },
                None => opened,
            })
        }
        .boxed()
    }
}

/// The upstream's stream, with the slot that lets others follow it.
struct LeadingStream {
    stream: Box<dyn TokenStream>,
    _leader: Leader,
}

impl TokenStream for LeadingStream {
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        self.stream.poll_events(cx, sink)
    }

    fn buffered(&self) -> usize {
        self.stream.buffered()
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
