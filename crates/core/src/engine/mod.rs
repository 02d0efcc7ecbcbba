//! The engine: what adapters and the API talk to.
//!
//! Cheap to clone, one per worker over one [`Registry`]. It starts generations on the worker that
//! asks, finds them again from any worker, and says what a reader that comes back at a position
//! gets.

mod end_notifier;
mod follower;
mod observer;
mod registry;
mod replay;
mod reuse;

pub use end_notifier::{EndNotifier, OnEnd};
pub use observer::{GenerationEnd, GenerationStart, Observer};
pub use registry::{Registry, Retention};
pub use reuse::{Freshness, Reuse, ReuseOptions, Reused};

use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use tokio_util::task::TaskTracker;

use crate::generation::{
    Conversation, Generation, ReaderGuard, Work, Writer, drain, drive, unix_now,
};
use crate::log::{LogLimits, MemoryLog, TokenLog};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, EventKind};
use crate::model::id::{GenerationId, Owner, Seq};
use crate::model::snapshot::{Api, Meta, Snapshot, Status};
use crate::request::{ChatRequest, RequestFields, ResponsesRequest, StreamRequest};
use crate::upstream::translate::RecordWriter;
use crate::upstream::{Target, Timeouts, Upstream, UpstreamRequest};
use end_notifier::{OnEndGuard, promised};
use follower::Follower;
use observer::Observation;
use registry::Claim;
use reuse::{Leader, Role};

/// Makes the logs of new generations.
pub trait LogStore: Send + Sync + fmt::Debug {
    /// An empty log for this generation.
    fn create(&self, id: &GenerationId) -> Arc<dyn TokenLog>;
}

/// Logs in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    /// What each log may hold.
    pub limits: LogLimits,
    /// Where their bytes are counted.
    pub account: crate::log::MemoryAccount,
}

impl LogStore for MemoryStore {
    fn create(&self, _id: &GenerationId) -> Arc<dyn TokenLog> {
        Arc::new(MemoryLog::new(self.limits, self.account.clone()))
    }
}

/// A request to start a generation.
#[derive(Debug)]
pub struct StartRequest {
    /// What is asked.
    pub body: StreamRequest,
    /// Who asks.
    pub owner: Owner,
    /// Makes the request idempotent; with the owner and the route.
    pub idempotency_key: Option<String>,
    /// The route that it came by, such as `/v1/responses`.
    pub route: &'static str,
    /// The body as it came, to tell a repetition from another request under the same key.
    pub fingerprint: Vec<u8>,
    /// Request headers that go to the upstream.
    pub headers: Vec<(String, String)>,
    /// The client's own key, for upstreams that are configured to take it.
    pub client_key: Option<SecretString>,
    /// Whether an answer that somebody else asked for will do; where the engine shares answers at
    /// all.
    pub freshness: Freshness,
}

/// A generation that was started, or that an earlier request with the same key started.
#[derive(Debug)]
pub struct Started {
    /// The caller's presence; a generation without one is on its grace.
    pub guard: ReaderGuard,
    /// Whether this request started it.
    pub fresh: bool,
    /// Whether it shares another's answer; `None` where answers are not shared, or where it was
    /// started earlier.
    pub reused: Option<Reused>,
}

/// What a reader gets who comes back at a position.
#[derive(Debug)]
pub enum Resumption {
    /// Events from this number on.
    Read {
        /// The reader's presence.
        guard: ReaderGuard,
        /// The first event.
        from: Seq,
    },
    /// The end was seen: nothing is left.
    NothingLeft,
    /// The log is gone, the response object is not.
    LogGone,
    /// The position lies past the head.
    PastHead {
        /// The number of the last event there is.
        head: Seq,
    },
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Engine {
    registry: Arc<Registry>,
    store: Arc<dyn LogStore>,
    upstream: Arc<dyn Upstream>,
    tasks: TaskTracker,
    grace: Duration,
    announcer: Option<Arc<dyn EndNotifier>>,
    reuse: Option<Arc<Reuse>>,
    observer: Option<Arc<dyn Observer>>,
}

impl Engine {
    /// An engine of this worker. `grace` is how long a generation runs on that nobody reads.
    #[must_use]
    pub fn new(
        registry: Arc<Registry>,
        store: Arc<dyn LogStore>,
        upstream: Arc<dyn Upstream>,
        tasks: TaskTracker,
        grace: Duration,
    ) -> Self {
        Self {
            registry,
            store,
            upstream,
            tasks,
            grace,
            announcer: None,
            reuse: None,
            observer: None,
        }
    }

    /// The same engine, telling somebody how generations end.
    #[must_use]
    pub fn with_announcer(mut self, announcer: Arc<dyn EndNotifier>) -> Self {
        self.announcer = Some(announcer);
        self
    }

    /// The same engine, which lets identical requests share answers. Engines that share a registry
    /// should share this as well.
    #[must_use]
    pub fn sharing(self, reuse: Option<Arc<Reuse>>) -> Self {
        Self { reuse, ..self }
    }

    /// The same engine, with somebody who is told of starts and ends.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self {
            observer: Some(observer),
            ..self
        }
    }

    /// The registry that all engines share.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Starts a generation, or attaches to the one that the same key started. The upstream is asked
    /// by a task of its own on this runtime; `response.created` is in the log when this returns.
    ///
    /// # Errors
    /// What is wrong with the request, or why nothing can be started now.
    pub fn start(&self, request: StartRequest) -> Result<Started, ApiError> {
        let announcement = promised(self.announcer.as_ref(), &request)?;
        let claim = match &request.idempotency_key {
            None => None,
            Some(key) => {
                let credential = request.client_key.as_ref().map(ExposeSecret::expose_secret);
                let hash = self.registry.hasher().hash_one((
                    &request.route,
                    &request.fingerprint,
                    credential,
                ));
                match self.registry.claim(&request.owner, key, hash)? {
                    Claim::Taken(generation) => {
                        return Ok(Started {
                            guard: generation.attach(),
                            fresh: false,
                            reused: None,
                        });
                    }
                    Claim::Free(claim) => Some(claim),
                }
            }
        };
        let permit = self.registry.admit()?;
        let freshness = request.freshness;
        let asked_in = match &request.body {
            StreamRequest::Chat(_) => Api::Chat,
            StreamRequest::Responses(_) => Api::Responses,
        };
        let plan = self.plan(request)?;
        let log = self.store.create(&plan.meta.id);
        let generation = Generation::new(plan.meta, log, plan.conversation, self.grace);
        // Attached before the task runs: a generation must not be without a reader before its first
        // one has come.
        let guard = generation.attach();
        let mut writer = Writer::new(generation.clone());
        let mut records = RecordWriter::new();
        records.event(EventKind::Created);
        if generation.meta().background || plan.queued {
            records.event(EventKind::Queued);
        }
        records.record(None);
        writer.append(&mut records).map_err(|error| {
            tracing::error!(%error, "a new log took no record");
            ApiError::new(ErrorCode::InternalError, "The stream could not be begun.")
        })?;
        let promise = OnEndGuard::new(generation.clone(), announcement);
        let running = self.registry.insert(generation.clone(), permit, claim);
        let Source {
            upstream,
            lead,
            reused,
            asked,
        } = self.source(&generation, &plan.work.request, freshness);
        let observation = self.observer.clone().map(|observer| {
            Observation::begin(
                observer,
                generation,
                asked_in,
                reused,
                plan.work.request.endpoint,
                asked,
            )
        });
        self.tasks.spawn(async move {
            let finished = drive(writer, records, upstream, plan.work).await;
            // Dropped here, or with the task however it ends: that is how the registry and the
            // others learn of the end.
            drop((lead, observation, running));
            // After the registry: whoever is told must find the object as it is at its end.
            drop(promise);
            if let Some(body) = finished {
                drain(body).await;
            }
        });
        Ok(Started {
            guard,
            fresh: true,
            reused,
        })
    }

    /// Where the answer comes from.
    fn source(
        &self,
        generation: &Arc<Generation>,
        request: &UpstreamRequest,
        freshness: Freshness,
    ) -> Source {
        let upstream = self.upstream.clone();
        let Some(reuse) = &self.reuse else {
            return Source {
                upstream,
                lead: None,
                reused: None,
                asked: Arc::new(AtomicBool::new(true)),
            };
        };
        let (place, reused, ticket) = reuse.join(request, generation, freshness);
        let asked = Arc::new(AtomicBool::new(true));
        match (place, ticket) {
            (Role::Follows(follower_guard, source), Some(ticket)) => {
                asked.store(false, std::sync::atomic::Ordering::Release);
                let follower = Follower::new(
                    upstream,
                    generation.clone(),
                    ticket,
                    follower_guard,
                    source,
                    asked.clone(),
                );
                Source {
                    upstream: Arc::new(follower),
                    lead: None,
                    reused: Some(reused),
                    asked,
                }
            }
            (Role::Leads(lead), _) => Source {
                upstream,
                lead: Some(lead),
                reused: Some(reused),
                asked,
            },
            (Role::Apart | Role::Follows(..), _) => Source {
                upstream,
                lead: None,
                reused: Some(reused),
                asked,
            },
        }
    }

    /// The generation of this id, if it is this owner's.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`].
    pub fn find(&self, id: &GenerationId, owner: &Owner) -> Result<Arc<Generation>, ApiError> {
        self.registry.find(id, owner).ok_or_else(|| {
            ApiError::new(
                ErrorCode::NotFound,
                format!("Response with id '{id}' not found."),
            )
        })
    }

    /// What a reader gets who has seen events up to `after`, or none.
    #[must_use]
    pub fn resume(&self, generation: &Arc<Generation>, after: Option<u64>) -> Resumption {
        let Ok(tail) = generation.tail() else {
            let seen_the_end = after
                .is_some_and(|after| Some(after) == self.registry.last_seq(&generation.meta().id));
            return if seen_the_end {
                Resumption::NothingLeft
            } else {
                Resumption::LogGone
            };
        };
        let from = after.map_or(0, |after| after.saturating_add(1));
        if from > tail.next.0 {
            return Resumption::PastHead {
                head: Seq(tail.next.0.saturating_sub(1)),
            };
        }
        if tail.sealed && from == tail.next.0 {
            return Resumption::NothingLeft;
        }
        Resumption::Read {
            guard: generation.attach(),
            from: Seq(from),
        }
    }

    /// Stops a generation and forgets it: its log and its response object are gone when this
    /// returns.
    pub fn delete(&self, generation: &Arc<Generation>) {
        generation.cancel();
        self.registry.remove(&generation.meta().id);
        generation.log().expire();
    }

    fn plan(&self, request: StartRequest) -> Result<Plan, ApiError> {
        match &request.body {
            StreamRequest::Chat(chat) => self.plan_chat(chat, &request),
            StreamRequest::Responses(responses) => self.plan_responses(responses, &request),
        }
    }

    fn plan_chat(&self, chat: &ChatRequest, request: &StartRequest) -> Result<Plan, ApiError> {
        let target = self
            .upstream
            .route(chat.model(), request.client_key.as_ref())?;
        let body = match target.api {
            Api::Chat => chat.upstream_body(target.upstream_model.as_deref()),
            Api::Responses => {
                chat.to_responses(target.upstream_model.as_deref().unwrap_or(&target.model))?
            }
        };
        let echo = RequestFields::from_chat(chat);
        let mut work = work(&target, body, chat.n(), None, request);
        if !chat.stream() && target.api == Api::Chat {
            // The whole answer comes in one piece, so its first token is its last.
            work.request.streamed = false;
            work.request.first_token_timeout = target.timeouts.total;
            work.timeouts = Timeouts {
                first_token: Duration::ZERO,
                between_tokens: Duration::ZERO,
                ..work.timeouts
            };
        }
        let meta = Meta {
            include_usage: chat.include_usage(),
            ..meta(&target, echo, &request.owner, false, true)
        };
        Ok(Plan {
            meta,
            conversation: Conversation::default(),
            work,
            queued: target.queued,
        })
    }

    fn plan_responses(
        &self,
        responses: &ResponsesRequest,
        request: &StartRequest,
    ) -> Result<Plan, ApiError> {
        let previous = responses.previous_response_id();
        let history = match &previous {
            Some(id) => self.history(id, &request.owner)?,
            None => Vec::new(),
        };
        let target = self
            .upstream
            .route(responses.model().as_deref(), request.client_key.as_ref())?;
        let model = target.upstream_model.as_deref().unwrap_or(&target.model);
        let body = match target.api {
            Api::Chat => responses.to_chat(&history, model)?,
            Api::Responses => responses.to_responses(&history, model),
        };
        let choices = responses
            .get("n")
            .and_then(|raw| raw.get().parse().ok())
            .unwrap_or(1);
        let work = work(&target, body, choices, previous, request);
        let meta = meta(
            &target,
            responses.echo(),
            &request.owner,
            responses.background(),
            responses.store(),
        );
        let conversation = Conversation {
            history,
            input: responses.input_items(),
        };
        Ok(Plan {
            meta,
            conversation,
            work,
            queued: target.queued,
        })
    }

    /// The items of the turns up to and with this one.
    fn history(&self, previous: &str, owner: &Owner) -> Result<Vec<Box<RawValue>>, ApiError> {
        let missing = || {
            ApiError::new(
                ErrorCode::PreviousResponseNotFound,
                format!("Previous response with id '{previous}' not found."),
            )
            .param("previous_response_id")
        };
        let id: GenerationId = previous.parse().map_err(|_| missing())?;
        let generation = self
            .registry
            .find(&id, owner)
            .filter(|generation| generation.meta().store)
            .ok_or_else(missing)?;
        let unusable = |why: &str| {
            ApiError::new(
                ErrorCode::PreviousResponseUnusable,
                format!("Previous response '{previous}' {why}."),
            )
            .param("previous_response_id")
        };
        match generation.status() {
            Status::Completed | Status::Incomplete => {}
            Status::Queued | Status::InProgress => return Err(unusable("has not ended yet")),
            Status::Failed => return Err(unusable("failed and holds no answer to build on")),
            Status::Cancelled => {
                return Err(unusable(
                    "was cancelled and holds no whole answer to build on",
                ));
            }
        }
        let output: Vec<Box<RawValue>> =
            serde_json::from_slice(&generation.output_json()).unwrap_or_default();
        let conversation = generation.conversation();
        Ok(conversation
            .history
            .iter()
            .chain(&conversation.input)
            .cloned()
            .chain(output)
            .collect())
    }
}

/// Where a generation's answer comes from.
struct Source {
    upstream: Arc<dyn Upstream>,
    /// Its slot, if others may follow it.
    lead: Option<Leader>,
    reused: Option<Reused>,
    /// Whether the model is asked.
    asked: Arc<AtomicBool>,
}

/// What a request came to.
struct Plan {
    meta: Meta,
    conversation: Conversation,
    work: Work,
    /// Whether it begins with a wait for its turn at the upstream.
    queued: bool,
}

fn work(
    target: &Target,
    body: Vec<u8>,
    choices: u32,
    previous_response_id: Option<String>,
    request: &StartRequest,
) -> Work {
    let upstream = UpstreamRequest {
        api: target.api,
        model: target.model.clone(),
        body: body.into(),
        headers: request.headers.clone(),
        endpoint: target.endpoint,
        reservation: target.reservation.clone(),
        streamed: true,
        first_token_timeout: target.timeouts.first_token,
        client_key: request.client_key.clone(),
    };
    Work {
        request: upstream,
        timeouts: target.timeouts,
        choices,
        previous_response_id,
    }
}

fn meta(
    target: &Target,
    echo: RequestFields,
    owner: &Owner,
    background: bool,
    store: bool,
) -> Meta {
    Meta {
        id: GenerationId::random(),
        owner: owner.clone(),
        created_at: unix_now(),
        model: target.model.clone(),
        echo: echo.into_json(),
        api: target.api,
        background,
        store,
        include_usage: false,
    }
}

/// Whether a generation ended before its upstream had sent anything: then its idempotency key is
/// free again.
fn failed_early(generation: &Generation) -> bool {
    generation
        .outcome()
        .is_some_and(|outcome| matches!(outcome.ending, Ending::Failed(_)))
        && !generation.with_snapshot(Snapshot::has_begun)
}
