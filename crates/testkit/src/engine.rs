//! An engine over a scripted upstream.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokenwire_core::engine::{
    Caller, Engine, Observer, Retention, Reuse, ReuseOptions, StartRequest, Started,
};
use tokenwire_core::generation::Generation;
use tokenwire_core::log::LogLimits;
use tokenwire_core::model::account::Account;
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::{GenerationId, Owner};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::request::StreamRequest;
use tokenwire_core::upstream::{Target, Timeouts, Upstream};
use tokio_util::task::TaskTracker;

use crate::upstream::ScriptedUpstream;

/// Returns disabled timeouts.
#[must_use]
pub fn no_timeouts() -> Timeouts {
    Timeouts {
        connect: Duration::ZERO,
        first_token: Duration::ZERO,
        between_tokens: Duration::ZERO,
        total: Duration::ZERO,
    }
}

/// Returns the target of a [`ScriptedUpstream`]: one endpoint of this API, without timeouts.
#[must_use]
pub fn scripted_target(api: Api) -> Target {
    Target {
        model: "scripted".to_owned(),
        upstream_model: None,
        api,
        timeouts: no_timeouts(),
        endpoint: 0,
        queued: false,
        reservation: Default::default(),
    }
}

/// Runs every task until all of them wait. Needs tokio's paused clock, which moves (here by a
/// millisecond) only when no task can run.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The options of a [`TestEngine`].
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// The API of the upstream.
    pub api: Api,
    /// The upstream timeouts.
    pub timeouts: Timeouts,
    /// How long and how much is kept.
    pub retention: Retention,
    /// The limits of one log.
    pub limits: LogLimits,
    /// How long a generation runs without a reader.
    pub grace: Duration,
    /// Sharing of answers between requests.
    pub reuse: ReuseOptions,
}

impl Default for EngineOptions {
    /// A chat upstream, no timeouts, and limits that no ordinary test reaches.
    fn default() -> Self {
        Self {
            api: Api::Chat,
            timeouts: no_timeouts(),
            retention: Retention {
                events: Duration::from_secs(600),
                responses: Duration::from_secs(86_400),
                max_memory: 1 << 30,
                max_open: 1 << 16,
            },
            limits: LogLimits {
                bytes: 1 << 26,
                events: 1 << 24,
            },
            grace: Duration::from_secs(30),
            reuse: ReuseOptions {
                coalesce: false,
                cache: false,
                ttl: Duration::from_secs(600),
                entries: 1000,
                pace: 0,
                across_owners: false,
            },
        }
    }
}

/// An engine and its scripted upstream.
#[derive(Debug)]
pub struct TestEngine {
    /// The engine.
    pub engine: Engine,
    /// The upstream that it asks.
    pub upstream: ScriptedUpstream,
    /// Bytes that requests and answers hold.
    pub account: Account,
    /// The generations' tasks.
    pub tasks: TaskTracker,
    /// Sharing of answers, if it is on.
    pub reuse: Option<Arc<Reuse>>,
}

impl TestEngine {
    /// Creates an engine with a new registry.
    #[must_use]
    pub fn new(options: EngineOptions) -> Self {
        let target = Target {
            timeouts: options.timeouts,
            ..scripted_target(options.api)
        };
        let upstream = ScriptedUpstream::new(target);
        Self::over(options, Arc::new(upstream.clone()), upstream)
    }

    /// Creates an engine that asks `asked`, which may wrap `upstream`.
    #[must_use]
    pub fn over(
        options: EngineOptions,
        asked: Arc<dyn Upstream>,
        upstream: ScriptedUpstream,
    ) -> Self {
        let shared = Engine::builder()
            .retention(options.retention)
            .log_limits(options.limits)
            .disconnect_grace(options.grace)
            .reuse(options.reuse)
            .sweep_interval(None)
            .build();
        Self {
            engine: shared.engine(asked),
            upstream,
            account: shared.account().clone(),
            tasks: shared.tasks().clone(),
            reuse: shared.shared_answers().cloned(),
        }
    }

    /// Adds an observer of starts and ends.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self {
            engine: self.engine.observed_by(observer),
            ..self
        }
    }

    /// Makes a request with this body and an anonymous owner.
    ///
    /// # Panics
    /// If the body is not a valid request.
    #[must_use]
    pub fn request(body: &str) -> StartRequest {
        let body = StreamRequest::parse(body.as_bytes())
            .unwrap_or_else(|error| panic!("not a request ({error}): {body}"));
        StartRequest::new(body, Caller::default(), "/v1/streams")
    }

    /// Starts a generation.
    ///
    /// # Errors
    /// As [`Engine::start`].
    ///
    /// # Panics
    /// If the engine waits, which it does only for what is not in this process.
    pub fn start_request(&self, request: StartRequest) -> Result<Started, ApiError> {
        now(self.engine.start(request))
    }

    /// Returns the generation of this id, if it is this owner's.
    ///
    /// # Errors
    /// As [`Engine::find`].
    ///
    /// # Panics
    /// As [`TestEngine::start_request`].
    pub fn find(&self, id: &GenerationId, owner: &Owner) -> Result<Arc<Generation>, ApiError> {
        now(self.engine.find(id, owner))
    }

    /// Starts a generation.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn try_start(&self, body: &str) -> Result<Started, ApiError> {
        self.start_request(Self::request(body))
    }

    /// Starts a generation.
    ///
    /// # Panics
    /// If the engine refuses it.
    #[must_use]
    pub fn start(&self, body: &str) -> Started {
        self.try_start(body)
            .unwrap_or_else(|error| panic!("{body} started nothing: {error:?}"))
    }
}

/// Returns the result of an operation that does not wait.
fn now<T>(operation: impl Future<Output = T>) -> T {
    operation
        .now_or_never()
        .expect("nothing outside of this process is asked for")
}
