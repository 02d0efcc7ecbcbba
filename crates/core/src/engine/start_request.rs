//! What an adapter hands to [`Engine::start`](super::Engine::start).

use std::borrow::Cow;
use std::sync::Arc;

use secrecy::SecretString;

use super::{Freshness, Meter, SessionResponses};
use crate::model::id::Owner;
use crate::request::StreamRequest;
use crate::upstream::RequestTrace;

/// The client behind a request, or behind all requests of one connection.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Owner of the generations that it starts.
    pub owner: Owner,
    /// Request headers that go to the upstream.
    pub headers: Vec<(String, String)>,
    /// The client's own key, for upstreams that are configured to take it.
    pub client_key: Option<SecretString>,
    /// Admits what the client starts, and is told of its end.
    pub meter: Option<Arc<dyn Meter>>,
    /// Replaces the idempotency keys of its requests, so that it starts one generation only.
    pub only_key: Option<Arc<str>>,
    /// Whether a request for a webhook is refused.
    pub refuses_webhooks: bool,
    /// The trace that its requests belong to, where there is one.
    pub trace: Option<RequestTrace>,
}

/// A request to start a generation.
#[derive(Debug)]
pub struct StartRequest {
    /// The body.
    pub body: StreamRequest,
    /// Owner of the new generation.
    pub owner: Owner,
    /// Makes the request idempotent, together with the owner and the route.
    pub idempotency_key: Option<String>,
    /// Whether the caller's key replaces those of its requests.
    pub has_only_key: bool,
    /// Whether a request for a webhook is refused.
    pub refuses_webhooks: bool,
    /// The route of the request, such as `/v1/responses`.
    pub route: &'static str,
    /// Tells a repetition from another request under the same key. Empty: the body does.
    pub fingerprint: Vec<u8>,
    /// Request headers that go to the upstream.
    pub headers: Vec<(String, String)>,
    /// The client's own key, for upstreams that are configured to take it.
    pub client_key: Option<SecretString>,
    /// Admits the generation, and is told of its end.
    pub meter: Option<Arc<dyn Meter>>,
    /// Whether another request's answer will do, where the engine shares answers.
    pub freshness: Freshness,
    /// The responses of the socket that it came on, if it came on one.
    pub session: Option<SessionResponses>,
    /// The trace that it belongs to, where there is one.
    pub trace: Option<RequestTrace>,
}

impl StartRequest {
    /// A request of this caller. The idempotency key is the body's, if it has one.
    #[must_use]
    pub fn new(body: StreamRequest, caller: Caller, route: &'static str) -> Self {
        let idempotency_key = match &body {
            StreamRequest::Chat(_) | StreamRequest::Canonical(_) => None,
            StreamRequest::Responses(responses) => responses.idempotency_key(),
        };
        let only_key = caller.only_key.as_deref().map(str::to_owned);
        Self {
            body,
            owner: caller.owner,
            has_only_key: only_key.is_some(),
            idempotency_key: only_key.or(idempotency_key),
            refuses_webhooks: caller.refuses_webhooks,
            route,
            fingerprint: Vec::new(),
            headers: caller.headers,
            client_key: caller.client_key,
            meter: caller.meter,
            freshness: Freshness::Any,
            session: None,
            trace: caller.trace,
        }
    }

    /// Returns the bytes that a repetition has in common with it.
    pub(super) fn fingerprint(&self) -> Cow<'_, [u8]> {
        if self.fingerprint.is_empty() {
            self.body.fingerprint()
        } else {
            Cow::Borrowed(&self.fingerprint)
        }
    }

    /// The same request under this key, which takes precedence over the body's, though not over the
    /// caller's only one.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: Option<String>) -> Self {
        if !self.has_only_key {
            self.idempotency_key = key.or(self.idempotency_key);
        }
        self
    }

    /// The same request, on the socket of these responses.
    #[must_use]
    pub fn in_session(self, session: SessionResponses) -> Self {
        Self {
            session: Some(session),
            ..self
        }
    }

    /// The same request with this freshness.
    #[must_use]
    pub fn with_freshness(self, freshness: Freshness) -> Self {
        Self { freshness, ..self }
    }
}
