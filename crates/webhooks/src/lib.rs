//! Webhooks: whoever asks for it is told by HTTP that a background response has ended.
//!
//! ```text
//!   worker: request ──promise──▶ generation … ends ──announcement──▶ ledger ◀──list, retry── API
//!                                                                     ▲  │ due, within bounds
//!                                                             settled │  ▼
//!                                                                  dispatcher ──attempt──▶ courier ──POST──▶ endpoint
//! ```
//!
//! What is sent is Standard Webhooks, as OpenAI sends it: a signed event that names the response
//! and how it ended. It holds no content, so that whoever overhears it, or is sent it by mistake,
//! learns an id; the response is fetched with the key of whoever may.
//!
//! * **Nothing is lost in silence.** The announcement is a guard of the generation's task
//!   ([`tokenwire_core::engine::EndNotifier`]). From then on a delivery is in the ledger
//!   (`ledger.rs`) until it is delivered or a dead letter, which can be looked at and retried. The
//!   ledger is in memory, as responses are: what a shutdown leaves is logged as lost.
//! * **At least once.** The id is the same at every attempt, so that a receiver can tell a
//!   repetition; time and signature are fresh.
//! * **No way in.** Addresses are judged where they are connected to (`resolver.rs`, `address.rs`),
//!   redirects are not followed, proxies of the environment not used, answers neither kept nor
//!   shown.
//! * **One machine's silence is its own.** HostQueues (`lanes.rs`) bound what is on its way in all and
//!   to each machine, which take turns.
//!
//! A request may bring a secret of its own. Where several parties use one gateway each should: a
//! receiver that trusts the gateway's common secret would take an event that another party had sent
//! to its URL.

mod address;
mod backoff;
mod counters;
mod delivery;
mod disabled;
mod dispatcher;
mod endpoint;
mod event;
mod host_queues;
mod queue;
mod resolver;
mod sender;
mod signature;

pub use counters::WebhookCounters;
pub use delivery::Status;
pub use endpoint::{UrlProblem, parse_url};
pub use queue::{NoRetry, Page};
pub use signature::SigningKey;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokenwire_core::engine::{EndNotifier, OnEnd, StartRequest};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::Owner;
use tokenwire_core::request::{ResponsesRequest, StreamRequest};
use tokio::sync::Notify;
use tokio::time::Instant;

use dispatcher::{WebhookState, report};
use endpoint::Endpoint;
use event::Event;
use queue::{Bounds, DeliveryQueue};
use sender::{HttpSender, Sender};

/// Where ends are reported to, and how hard delivery is tried.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// Receives an event for every background response; needs `secret`.
    pub url: Option<String>,
    /// Signs where a request brings no secret of its own: `whsec_` and padded base64.
    pub secret: Option<SecretString>,
    /// Whether URLs may lead to private and loopback addresses.
    pub allow_private: bool,
    /// Limit of one attempt.
    pub timeout: Duration,
    /// How long a delivery is retried.
    pub retry_for: Duration,
    /// Most deliveries that are pending.
    pub max_pending: usize,
    /// Most deliveries kept for listing: of those that succeeded, and again of those given up.
    pub max_kept: usize,
    /// Most attempts at the same time.
    pub concurrency: usize,
    /// Most attempts at the same time to one host.
    pub concurrency_per_host: usize,
}

impl Default for WebhookOptions {
    /// No endpoint, no secret, and bounds for one gateway.
    fn default() -> Self {
        Self {
            url: None,
            secret: None,
            allow_private: false,
            timeout: Duration::from_secs(15),
            retry_for: Duration::from_secs(24 * 3600),
            max_pending: 10_000,
            max_kept: 1_000,
            concurrency: 32,
            concurrency_per_host: 4,
        }
    }
}

/// What everybody has who has to do with webhooks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Webhooks {
    state: Arc<WebhookState>,
    counters: Arc<WebhookCounters>,
    sender: Arc<dyn Sender>,
    timeout: Duration,
    allow_private: bool,
    /// Told of every background response.
    configured: Option<Endpoint>,
    /// What is signed with where a request brings no secret of its own.
    key: Option<SigningKey>,
}

// === impl Webhooks ===

impl Webhooks {
    /// Webhooks as configured.
    ///
    /// # Errors
    /// TLS cannot be set up, or the configuration was not checked.
    pub fn new(config: WebhookOptions) -> Result<Self, String> {
        let sender = HttpSender::new(config.allow_private, config.timeout)
            .map_err(|error| format!("webhooks: {error}"))?;
        Self::with_sender(&config, Arc::new(sender))
    }

    fn with_sender(config: &WebhookOptions, sender: Arc<dyn Sender>) -> Result<Self, String> {
        let key = config
            .secret
            .as_ref()
            .map(|secret| SigningKey::parse(secret.expose_secret()))
            .transpose();
        let key = key.map_err(|problem| format!("webhooks.secret {problem}"))?;
        let configured = match (&config.url, &key) {
            (None, _) => None,
            (Some(_), None) => return Err("webhooks.url is set without webhooks.secret".to_owned()),
            (Some(url), Some(key)) => {
                let url = parse_url(url, config.allow_private)
                    .map_err(|problem| format!("webhooks.url {problem}"))?;
                Some(Endpoint::new(url, key.clone()))
            }
        };
        let bounds = Bounds {
            max_pending: config.max_pending,
            max_kept: config.max_kept,
            concurrency: config.concurrency,
            concurrency_per_host: config.concurrency_per_host,
            retry_for: config.retry_for,
        };
        let counters = Arc::new(WebhookCounters::default());
        let queue = Mutex::new(DeliveryQueue::new(bounds, counters.clone()));
        let state = Arc::new(WebhookState {
            queue,
            wakeup: Notify::new(),
            settled: Notify::new(),
        });
        Ok(Self {
            state,
            counters,
            sender,
            timeout: config.timeout,
            allow_private: config.allow_private,
            configured,
            key,
        })
    }

    /// What was counted so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<WebhookCounters> {
        &self.counters
    }

    /// Delivers until it is dropped. To be run once, on one runtime.
    pub async fn run(self) {
        dispatcher::run(self.state, self.sender, self.timeout).await;
    }

    /// Gives every delivery that is pending one last chance, at once, and waits until each had it;
    /// no longer than `patience`.
    pub async fn finish(&self, patience: Duration) {
        self.state.queue.lock().last_call();
        self.state.wakeup.notify_one();
        let settled = async {
            loop {
                let notified = self.state.settled.notified();
                tokio::pin!(notified);
                notified.as_mut().enable();
                if self.state.queue.lock().pending() == 0 {
                    return;
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(patience, settled).await;
    }

    /// Says of every delivery that is still pending that it is lost. To be called when nothing runs
    /// any more.
    pub fn abandon(&self) {
        let lost = self.state.queue.lock().abandon();
        lost.iter().for_each(report);
    }

    pub fn list(
        &self,
        owner: &Owner,
        status: Option<delivery::Status>,
        after: Option<&str>,
        limit: usize,
    ) -> Option<Page> {
        self.state
            .queue
            .lock()
            .list(owner, status, after, limit, Instant::now())
    }

    pub fn retry(&self, owner: &Owner, id: &str) -> Result<serde_json::Value, NoRetry> {
        let retried = self.state.queue.lock().retry(owner, id, Instant::now());
        self.state.wakeup.notify_one();
        retried
    }

    fn accept(&self, event: Event, owner: Owner, endpoint: Endpoint) {
        let notice = self
            .state
            .queue
            .lock()
            .accept(event, owner, endpoint, Instant::now());
        self.state.wakeup.notify_one();
        if let Some(notice) = notice {
            report(&notice);
        }
    }

    /// The endpoint that a request names, if it names one.
    fn asked_for(&self, request: &ResponsesRequest) -> Result<Option<Endpoint>, ApiError> {
        let Some(url) = request.webhook_url() else {
            return Ok(None);
        };
        let url = parse_url(&url, self.allow_private).map_err(|problem| {
            ApiError::new(
                ErrorCode::InvalidValue,
                format!("Invalid value for 'webhook.url': the URL {problem}."),
            )
            .param("webhook.url")
        })?;
        let key = match (request.webhook_secret(), &self.key) {
            (Some(secret), _) => SigningKey::parse(secret.expose_secret()).map_err(|problem| {
                let message = format!(
                    "Invalid value for 'webhook.secret': expected {}, but it {problem}.",
                    SigningKey::EXPECTED
                );
                ApiError::new(ErrorCode::InvalidValue, message).param("webhook.secret")
            })?,
            (None, Some(key)) => key.clone(),
            (None, None) => {
                let message = "Missing required parameter: 'webhook.secret'. A webhook is always signed, and no webhooks.secret is configured.";
                return Err(
                    ApiError::new(ErrorCode::MissingParameter, message).param("webhook.secret")
                );
            }
        };
        Ok(Some(Endpoint::new(url, key)))
    }
}

impl EndNotifier for Webhooks {
    fn on_end(&self, request: &StartRequest) -> Result<Option<OnEnd>, ApiError> {
        let StreamRequest::Responses(responses) = &request.body else {
            return Ok(None);
        };
        if !responses.background() {
            return Ok(None);
        }
        let asked_for = self.asked_for(responses)?;
        // Told once is enough, if it is told under the common secret: one of the request's own
        // would be no news to the operator's receiver.
        let signs_alike = responses.webhook_secret().is_none();
        let is_same = |configured: &Endpoint| {
            asked_for
                .as_ref()
                .is_some_and(|asked_for| signs_alike && asked_for.url() == configured.url())
        };
        let configured = self
            .configured
            .clone()
            .filter(|configured| !is_same(configured));
        if asked_for.is_none() && configured.is_none() {
            return Ok(None);
        }
        let (webhooks, owner) = (self.clone(), request.owner.clone());
        Ok(Some(Box::new(move |generation| {
            for endpoint in [asked_for, configured].into_iter().flatten() {
                webhooks.accept(Event::of(generation), owner.clone(), endpoint);
            }
        })))
    }
}

#[cfg(test)]
mod tests;

/// The examples of the README are compiled as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
