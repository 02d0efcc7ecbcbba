//! The application's answers: kept once for all workers, asked for by an engine of each worker's
//! own.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokenwire_core::engine::{Engine, MemoryStore, Registry, Retention};
use tokenwire_core::log::{LogLimits, MemoryAccount};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::{OpenAi, OpenAiOptions, Route, Router, RouterOptions, Timeouts};
use tokio_util::task::TaskTracker;

/// How long an answer runs on that nobody reads.
const GRACE: Duration = Duration::from_secs(30);
const RETENTION: Retention = Retention {
    events: Duration::from_secs(10 * 60),
    responses: Duration::from_secs(60 * 60),
    max_memory: 256 * 1024 * 1024,
    max_open: 1000,
};
const CLOCKS: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    first_token: Duration::from_secs(120),
    between_tokens: Duration::from_secs(60),
    total: Duration::from_secs(600),
};

/// What all workers share.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    registry: Arc<Registry>,
    store: Arc<MemoryStore>,
    tasks: TaskTracker,
    base_url: String,
    api_key: Option<SecretString>,
    model: String,
}

impl Answers {
    /// `OPENAI_BASE_URL`, `OPENAI_API_KEY` and `MODEL` say who answers.
    pub(crate) fn from_environment() -> Self {
        let read = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let account = MemoryAccount::default();
        Self {
            registry: Registry::new(RETENTION, account.clone()),
            store: Arc::new(MemoryStore {
                limits: LogLimits {
                    bytes: 8 * 1024 * 1024,
                    events: 100_000,
                },
                account,
            }),
            tasks: TaskTracker::new(),
            base_url: read("OPENAI_BASE_URL")
                .unwrap_or_else(|| "https://api.openai.com/v1".to_owned()),
            api_key: read("OPENAI_API_KEY").map(SecretString::from),
            model: read("MODEL").unwrap_or_else(|| "gpt-4o-mini".to_owned()),
        }
    }

    /// An engine for one worker, with an HTTP client of its own: a client belongs to the runtime
    /// that it is used on.
    pub(crate) fn engine(&self) -> Result<Engine, String> {
        let upstream = OpenAi::new(OpenAiOptions {
            name: "model".to_owned(),
            base_url: self.base_url.clone(),
            api_key: self.api_key.clone(),
            connect_timeout: CLOCKS.connect,
            accept_client_key: false,
            max_event: 1024 * 1024,
        })?;
        let options = RouterOptions {
            default_model: Some(self.model.clone()),
            ..RouterOptions::default()
        };
        let router = Router::new(vec![Route::to(upstream, Api::Chat, CLOCKS)], options);
        Ok(Engine::new(
            self.registry.clone(),
            self.store.clone(),
            Arc::new(router),
            self.tasks.clone(),
            GRACE,
        ))
    }

    /// Forgets, for ever, what was kept long enough.
    pub(crate) async fn sweep(&self) {
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        loop {
            clock.tick().await;
            self.registry.sweep(tokio::time::Instant::now());
        }
    }
}
