//! An engine over a scripted upstream.

use std::sync::Arc;
use std::time::Duration;

use tokenwire_core::engine::{
    Engine, Freshness, MemoryStore, Observer, Registry, Retention, Reuse, ReuseOptions,
    StartRequest, Started,
};
use tokenwire_core::log::{LogLimits, MemoryAccount};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::Owner;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::request::StreamRequest;
use tokenwire_core::upstream::{Target, Timeouts, Upstream};
use tokio_util::task::TaskTracker;

use crate::upstream::ScriptedUpstream;

/// Timeouts that never run out.
#[must_use]
pub fn no_clocks() -> Timeouts {
    Timeouts {
        connect: Duration::ZERO,
        first_token: Duration::ZERO,
        between_tokens: Duration::ZERO,
        total: Duration::ZERO,
    }
}

/// Lets every task run until all of them wait for something. Needs tokio's paused clock, which only
/// moves on (here by a millisecond) once nothing else can run.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// What a [`TestEngine`] is made with.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// The language that the upstream speaks.
    pub api: Api,
    /// The generations' clocks.
    pub timeouts: Timeouts,
    /// How long and how much is kept.
    pub retention: Retention,
    /// What one log may hold.
    pub limits: LogLimits,
    /// How long a generation runs on without a reader.
    pub grace: Duration,
    /// What requests share.
    pub reuse: ReuseOptions,
}

impl Default for EngineOptions {
    /// A chat upstream, no clocks, and bounds that no ordinary test comes near.
    fn default() -> Self {
        Self {
            api: Api::Chat,
            timeouts: no_clocks(),
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

/// An engine, its upstream, and what its logs hold.
#[derive(Debug)]
pub struct TestEngine {
    /// The engine.
    pub engine: Engine,
    /// What it asks.
    pub upstream: ScriptedUpstream,
    /// Bytes that all logs hold.
    pub account: MemoryAccount,
    /// The generations' tasks.
    pub tasks: TaskTracker,
    /// What requests share, if anything.
    pub reuse: Option<Arc<Reuse>>,
}

impl TestEngine {
    /// A fresh engine with a registry of its own.
    #[must_use]
    pub fn new(options: EngineOptions) -> Self {
        let target = Target {
            model: "scripted".to_owned(),
            upstream_model: None,
            api: options.api,
            timeouts: options.timeouts,
            endpoint: 0,
            queued: false,
            reservation: Default::default(),
        };
        let upstream = ScriptedUpstream::new(target);
        Self::over(options, Arc::new(upstream.clone()), upstream)
    }

    /// A fresh engine that asks `asked`, which may stand before `upstream`.
    #[must_use]
    pub fn over(
        options: EngineOptions,
        asked: Arc<dyn Upstream>,
        upstream: ScriptedUpstream,
    ) -> Self {
        let account = MemoryAccount::default();
        let registry = Registry::new(options.retention, account.clone());
        let store = Arc::new(MemoryStore {
            limits: options.limits,
            account: account.clone(),
        });
        let tasks = TaskTracker::new();
        let reuse = Reuse::new(options.reuse);
        let engine = Engine::new(registry, store, asked, tasks.clone(), options.grace)
            .sharing(reuse.clone());
        Self {
            engine,
            upstream,
            account,
            tasks,
            reuse,
        }
    }

    /// The same engine, with somebody who is told of starts and ends.
    #[must_use]
    pub fn observed_by(self, observer: Arc<dyn Observer>) -> Self {
        Self {
            engine: self.engine.observed_by(observer),
            ..self
        }
    }

    /// A request with this body from nobody in particular.
    ///
    /// # Panics
    /// If the body is not a valid request.
    #[must_use]
    pub fn request(body: &str) -> StartRequest {
        StartRequest {
            body: StreamRequest::parse(body.as_bytes())
                .unwrap_or_else(|error| panic!("not a request ({error}): {body}")),
            owner: Owner::Anonymous,
            idempotency_key: None,
            route: "/v1/streams",
            fingerprint: body.as_bytes().to_vec(),
            headers: Vec::new(),
            client_key: None,
            freshness: Freshness::Any,
        }
    }

    /// Starts a generation.
    ///
    /// # Errors
    /// The engine's.
    pub fn try_start(&self, body: &str) -> Result<Started, ApiError> {
        self.engine.start(Self::request(body))
    }

    /// Starts a generation that has to start.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start(&self, body: &str) -> Started {
        self.try_start(body)
            .unwrap_or_else(|error| panic!("{body} started nothing: {error:?}"))
    }
}
