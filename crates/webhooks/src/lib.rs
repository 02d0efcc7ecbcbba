//! Signed webhooks for background responses of Tokenwire.
//!
//! A webhook tells an endpoint over HTTP that a response has ended. The format is Standard
//! Webhooks, as OpenAI uses it: a signed event with the id of the response and its status. It holds
//! no content, but for a match of a watch rule that asks for it. The receiver fetches the response with its own key.
//!
//! ```text
//!   worker: request ──on_end──▶ generation … ends ──▶ queue ◀──list, retry── API
//!                                                     ▲  │ due, within limits
//!                                              result │  ▼
//!                                              dispatcher ──attempt──▶ sender ──POST──▶ endpoint
//! ```
//!
//! * **No delivery is lost unnoticed.** A guard of the generation's task reports the end
//!   ([`tokenwire_core::engine::EndNotifier`]). From then on the delivery is in the queue until it
//!   succeeds or becomes a dead letter, which can be listed and retried. The queue is in memory. A
//!   shutdown logs the deliveries that it loses. With [`DeliveryRecords`] the next process goes on
//!   with them, also after a crash: a response starts once its record is kept, or 2 s later at
//!   most.
//! * **At least once.** The event id is the same at every attempt, so a receiver can recognise a
//!   repetition. Timestamp and signature are new.
//! * **No access to internal networks.** Addresses are checked when they are connected to.
//!   Redirects are not followed, proxies of the environment are not used, and response bodies are
//!   discarded.
//! * **Hosts are isolated.** Limits apply to all attempts and to those of each host, and hosts take
//!   turns.
//!
//! A request can bring its own secret. Where several parties share one gateway, each should: a
//! receiver that trusts the common secret also accepts events that another party sent to its URL.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//!
//! use secrecy::SecretString;
//! use tokenwire_core::engine::EndNotifier;
//! use tokenwire_webhooks::{WebhookOptions, Webhooks};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), String> {
//! let webhooks = Webhooks::new(WebhookOptions {
//!     url: Some("https://example.com/hook".to_owned()),
//!     secret: Some(SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
//!     ..WebhookOptions::default()
//! })?;
//! // Delivers until the task is dropped.
//! let dispatcher = tokio::spawn(webhooks.clone().run());
//! // The engine calls it at the end of every generation.
//! let notifier: Arc<dyn EndNotifier> = Arc::new(webhooks);
//! # dispatcher.abort();
//! # drop(notifier);
//! # Ok(())
//! # }
//! ```

mod address;
mod backoff;
mod counters;
mod delivery;
mod delivery_queue;
mod disabled;
mod endpoint;
mod event;
mod host_queues;
mod post;
mod records;
mod resolver;
mod sender;
mod signing_key;
mod webhook_state;

pub use counters::WebhookCounters;
pub use delivery::Status;
pub use delivery_queue::{NoRetry, Page};
pub use endpoint::{UrlProblem, parse_url};
pub use post::Post;
pub use records::DeliveryRecords;
pub use signing_key::{SecretProblem, SigningKey};

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use tokenwire_core::engine::{EndNotifier, OnEnd, StartRequest};
use tokenwire_core::generation::Generation;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::{GenerationId, Owner};
use tokenwire_core::request::{ResponsesRequest, StreamRequest};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use delivery_queue::{Bounds, DeliveryQueue};
use endpoint::Endpoint;
use event::Event;
use post::PostSender;
use records::{Owed, Record};
use sender::{HttpSender, Sender};
use webhook_state::WebhookState;

/// The longest time that a delivery is retried, 100 years. Deadlines must fit the clock.
const LONGEST_RETRY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// How long a start waits until its webhooks outlive the process.
const KEPT: Duration = Duration::from_secs(2);

/// Endpoint, secret and limits of webhooks.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// Endpoint that receives an event for every background response. Requires `secret`.
    pub url: Option<String>,
    /// Secret for requests without their own: `whsec_` and padded base64.
    pub secret: Option<SecretString>,
    /// Whether private and loopback addresses are allowed.
    pub allow_private: bool,
    /// Maximum time of one attempt.
    pub timeout: Duration,
    /// Maximum time for which a delivery is retried.
    pub retry_for: Duration,
    /// Maximum number of pending deliveries. Further ones become dead letters.
    pub max_pending: usize,
    /// Maximum number of ended deliveries kept for listing: of delivered ones, and again of dead
    /// letters.
    pub max_kept: usize,
    /// Maximum number of concurrent attempts.
    pub concurrency: usize,
    /// Maximum number of concurrent attempts to one host.
    pub concurrency_per_host: usize,
}

impl Default for WebhookOptions {
    /// No endpoint, no secret, and limits for one gateway.
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

/// The webhooks of one gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Webhooks {
    state: Arc<WebhookState>,
    counters: Arc<WebhookCounters>,
    sender: Arc<dyn Sender>,
    timeout: Duration,
    allow_private: bool,
    /// Receives an event for every background response.
    configured: Option<Endpoint>,
    /// Signs for requests without their own secret.
    key: Option<SigningKey>,
}

/// The records of a response that is about to start. They are removed if it does not.
struct Unstarted {
    records: Arc<dyn DeliveryRecords>,
    events: Vec<String>,
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        for event in &self.events {
            self.records.set(event, None);
        }
    }
}

/// The records of another process, among those that are kept.
#[derive(Debug)]
struct TakenOver {
    records: Arc<dyn DeliveryRecords>,
    owed: Vec<(String, Vec<u8>)>,
}

impl DeliveryRecords for TakenOver {
    fn set(&self, key: &str, value: Option<Vec<u8>>) {
        self.records.set(key, value);
    }

    fn kept<'a>(&'a self, key: &'a str) -> BoxFuture<'a, ()> {
        self.records.kept(key)
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.records.get(key)
    }

    fn list(&self) -> Vec<(String, Vec<u8>)> {
        self.owed.clone()
    }
}

// === impl Webhooks ===

impl Webhooks {
    /// Creates webhooks. [`run`](Self::run) delivers them.
    ///
    /// # Errors
    /// TLS cannot be set up, or an option is invalid.
    pub fn new(config: WebhookOptions) -> Result<Self, String> {
        let sender = HttpSender::new(config.allow_private, config.timeout)
            .map_err(|error| format!("webhooks: {error}"))?;
        Self::with_sender(&config, Arc::new(sender))
    }

    /// As [`new`](Self::new), with deliveries that `post` takes.
    ///
    /// # Errors
    /// An option is invalid.
    pub fn over(config: &WebhookOptions, post: Arc<dyn Post>) -> Result<Self, String> {
        Self::with_sender(config, Arc::new(PostSender(post)))
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
            retry_for: config.retry_for.min(LONGEST_RETRY),
        };
        let counters = Arc::new(WebhookCounters::default());
        let queue = Mutex::new(DeliveryQueue::new(bounds, counters.clone()));
        let state = Arc::new(WebhookState {
            queue,
            wakeup: Notify::new(),
            settled: Notify::new(),
            records: OnceLock::new(),
            unfinished: Mutex::default(),
            taken_over: Mutex::default(),
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

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<WebhookCounters> {
        &self.counters
    }

    /// Delivers until it is dropped. Run it once, on one runtime.
    pub async fn run(self) {
        webhook_state::run(self.state, self.sender, self.timeout).await;
    }

    /// Makes one last attempt for every pending delivery at once, and waits for the results up to
    /// `timeout`.
    pub async fn finish(&self, timeout: Duration) {
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
        let _ = tokio::time::timeout(timeout, settled).await;
    }

    /// Turns every pending delivery into a dead letter and logs it as lost. Call it after
    /// [`run`](Self::run) was dropped.
    pub fn abandon(&self) {
        let lost = self.state.queue.lock().abandon();
        lost.iter().for_each(|notice| self.state.note(notice));
    }

    /// Returns a page of at most `limit` deliveries of this owner, newest first, that follow the
    /// delivery `after`. `None` if there is no such delivery.
    #[must_use]
    pub fn list(
        &self,
        owner: &Owner,
        status: Option<Status>,
        after: Option<&str>,
        limit: usize,
    ) -> Option<Page> {
        self.state
            .queue
            .lock()
            .list(owner, status, after, limit, Instant::now())
    }

    /// Retries a delivery now, in any state, and returns it as a JSON object.
    ///
    /// # Errors
    /// [`NoRetry`].
    pub fn retry(&self, owner: &Owner, id: &str) -> Result<serde_json::Value, NoRetry> {
        let retried = self.state.queue.lock().retry(owner, id, Instant::now());
        if retried.is_ok() {
            self.state.note_end(id, None);
            self.state.note_enabled(owner, id);
        }
        self.state.wakeup.notify_one();
        retried
    }

    /// Keeps what is owed in these records from now on, and goes on with what they hold: deliveries of
    /// ended responses are made. Returns the responses whose end is not known: call
    /// [`ended`](Self::ended) or [`forget`](Self::forget) for each. Call it once, before anything is
    /// started.
    #[must_use]
    pub fn keep_in(&self, records: Arc<dyn DeliveryRecords>) -> Vec<GenerationId> {
        let mut responses = Vec::new();
        let mut dead_letters = Vec::new();
        for (key, value) in records.list() {
            match Record::decode(&key, &value, self.key.as_ref(), self.allow_private) {
                Some(Record {
                    owed,
                    event: Some(event),
                    dead: Some(dead),
                    disables,
                    ..
                }) => dead_letters.push((event, owed, dead, disables)),
                Some(Record {
                    owed,
                    event: Some(event),
                    ..
                }) => self.accept(event, &owed),
                Some(unfinished) => {
                    responses.push(unfinished.response.clone());
                    self.state.add_unfinished(unfinished);
                }
                None => {
                    tracing::warn!(delivery = %key, "webhook given up: its record cannot be used");
                    records.set(&key, None);
                }
            }
        }
        // The oldest first, as they ended.
        dead_letters.sort_by_key(|(event, ..)| event.created_at);
        let _ = self.state.records.set(records.clone());
        let mut queue = self.state.queue.lock();
        for (event, owed, dead, disables) in dead_letters {
            if disables {
                queue.disable(&owed.owner, &owed.endpoint);
            }
            queue.accept_dead(event, owed.owner, owed.endpoint, dead, Instant::now());
        }
        for dropped in queue.take_dropped() {
            records.set(&dropped, None);
        }
        responses
    }

    /// Goes on with what another process owed, whose records have been added to those of
    /// [`keep_in`](Self::keep_in). Returns the same.
    #[must_use]
    pub fn take_over(&self, owed: Vec<(String, Vec<u8>)>) -> Vec<GenerationId> {
        match self.state.records.get().cloned() {
            Some(records) => self.keep_in(Arc::new(TakenOver { records, owed })),
            None => Vec::new(),
        }
    }

    /// Takes the responses of this process that others have taken over since the last call, with the
    /// keys of their records. Unless another process has taken a record as well, find out how the response
    /// ends, and call [`ended`](Self::ended) or [`forget`](Self::forget).
    #[must_use]
    pub fn take_taken_over(&self) -> Vec<(String, GenerationId)> {
        std::mem::take(&mut self.state.taken_over.lock())
    }

    /// Delivers what is owed for this generation, which an earlier process or another one has ended. One
    /// that another process has taken over is among [`take_taken_over`](Self::take_taken_over) instead:
    /// its end is not in this generation.
    pub fn ended(&self, generation: &Generation) {
        if generation.is_fenced() {
            self.state.note_taken_over(&generation.meta().id);
            return;
        }
        for Record { owed, .. } in self.take_unfinished(&generation.meta().id) {
            self.accept_end(&owed, generation);
        }
    }

    /// Whether there is an endpoint for events that no request asked for.
    #[must_use]
    pub fn has_endpoint(&self) -> bool {
        self.configured.is_some()
    }

    /// Delivers that a watch rule has matched in a response of this owner, to the configured endpoint.
    /// `data` has the members beside the response's id. Does nothing without an endpoint.
    pub fn matched(&self, owner: &Owner, response: &GenerationId, data: serde_json::Value) {
        let (Some(endpoint), serde_json::Value::Object(data)) = (&self.configured, data) else {
            return;
        };
        let mut owed = Owed::new(owner.clone(), endpoint.clone(), None);
        let event = Event::of_match(response.clone(), data);
        owed.event.clone_from(&event.id);
        if let Some(records) = self.state.records.get() {
            let record = owed.encode(&event.response, Some(&event));
            records.set(&owed.event, Some(record));
        }
        self.accept(event, &owed);
    }

    /// Gives up what is owed for a response that is gone, or that another process delivers.
    pub fn forget(&self, response: &GenerationId) {
        for Record { owed, .. } in self.take_unfinished(response) {
            if let Some(records) = self.state.records.get() {
                records.set(&owed.event, None);
            }
        }
    }

    fn take_unfinished(&self, response: &GenerationId) -> Vec<Record> {
        let taken = self.state.unfinished.lock().remove(response);
        taken.unwrap_or_default()
    }

    fn accept_end(&self, owed: &Owed, generation: &Generation) {
        let event = owed.event_of(generation);
        if let Some(records) = self.state.records.get() {
            let record = owed.encode(&event.response, Some(&event));
            records.set(&owed.event, Some(record));
        }
        self.accept(event, owed);
    }

    fn accept(&self, event: Event, owed: &Owed) {
        let (owner, endpoint) = (owed.owner.clone(), owed.endpoint.clone());
        let notice = self
            .state
            .queue
            .lock()
            .accept(event, owner, endpoint, Instant::now());
        self.state.wakeup.notify_one();
        if let Some(notice) = notice {
            self.state.note(&notice);
        }
    }

    /// Returns the endpoint that a request names.
    fn requested_endpoint(&self, request: &ResponsesRequest) -> Result<Option<Endpoint>, ApiError> {
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
        let requested = self.requested_endpoint(responses)?;
        // One delivery is enough if both endpoints are the same and use the common secret.
        let uses_common_secret = responses.webhook_secret().is_none();
        let is_same = |configured: &Endpoint| {
            requested
                .as_ref()
                .is_some_and(|requested| uses_common_secret && requested.url() == configured.url())
        };
        let configured = self
            .configured
            .clone()
            .filter(|configured| !is_same(configured));
        if requested.is_none() && configured.is_none() {
            return Ok(None);
        }
        let own_key = responses
            .webhook_secret()
            .and_then(|secret| SigningKey::parse(secret.expose_secret()).ok());
        let owner = &request.owner;
        let requested = requested.map(|endpoint| Owed::new(owner.clone(), endpoint, own_key));
        let configured = configured.map(|endpoint| Owed::new(owner.clone(), endpoint, None));
        let owed: Vec<Owed> = requested.into_iter().chain(configured).collect();
        let webhooks = self.clone();
        let (begun, taken) = (owed.clone(), owed.clone());
        let on_end = OnEnd::new(move |generation| {
            owed.iter()
                .for_each(|owed| webhooks.accept_end(owed, generation));
        });
        let Some(records) = self.state.records.get().cloned() else {
            return Ok(Some(on_end));
        };
        let on_end = on_end.with_start(move |id| {
            let id = id.clone();
            for owed in &begun {
                records.set(&owed.event, Some(owed.encode(&id, None)));
            }
            let events = begun.into_iter().map(|owed| owed.event).collect();
            let mut unstarted = Unstarted { records, events };
            // A client that has an answer gets its webhook also if this process is lost then.
            async move {
                let kept = async {
                    for event in &unstarted.events {
                        unstarted.records.kept(event).await;
                    }
                };
                if timeout(KEPT, kept).await.is_err() {
                    tracing::warn!(generation = %id, "its webhooks are not stored yet");
                }
                unstarted.events.clear();
            }
            .boxed()
        });
        let state = self.state.clone();
        let on_end = on_end.with_taken_over(move |generation| {
            let response = &generation.meta().id;
            for owed in taken {
                state.add_unfinished(Record::unfinished(owed, response.clone()));
            }
            state.note_taken_over(response);
        });
        Ok(Some(on_end))
    }
}

#[cfg(test)]
mod tests;

/// The examples of the README are compiled as doctests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
