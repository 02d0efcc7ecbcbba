//! What is known of one server, by all workers together: whether it is up, how fast it is, how much
//! it has to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Breaker, BreakerPolicy, BreakerState};
use super::latency::Latency;
use super::limit::{ConcurrencyLimit, ConcurrencyPolicy, Permit};
use super::retry::FailureKind;

/// One server as all workers see it.
#[derive(Debug)]
pub struct EndpointStats {
    /// Whether requests go to it.
    pub breaker: Breaker,
    /// How soon it answers.
    pub latency: Latency,
    /// How many requests it has.
    pub limit: Arc<ConcurrencyLimit>,
    /// What happened so far.
    pub counters: Counters,
    /// What the active check found last; true without one.
    healthy: AtomicBool,
}

/// Events since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests sent, repeated ones included.
    pub requests: Counter,
    /// Requests sent to it because an attempt before had failed.
    pub retries: Counter,
    /// Those of them whose earlier attempt was another server's.
    pub failovers: Counter,
    /// Requests sent to it because another server was slow.
    pub hedges: Counter,
    /// Those of them that were first.
    pub hedges_won: Counter,
    /// Failures to connect, timeouts included.
    pub connect_failures: Counter,
    /// Answers with a status that says that the server is in trouble (5xx, 408, 409).
    pub refusals: Counter,
    /// Answers with status 429.
    pub rate_limits: Counter,
    /// Connections and streams that broke before the first token.
    pub broken: Counter,
    /// Requests that had no first token when their clock ran out.
    pub silences: Counter,
    /// How often its breaker opened.
    pub opened: Counter,
    /// Requests refused because the queue before it was full, or the wait in it too long.
    pub refused_busy: Counter,
    /// Retries that were not made because the budget was spent.
    pub budget_spent: Counter,
    /// Answers that it continued where another server had broken off.
    pub continued: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// How a server stands, for those who operate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// Requests go to it.
    Up,
    /// One request is on its way to see.
    Trying,
    /// None does while there is another server.
    Down,
}

/// A request at a server. However it ends, the server's vitals learn of it.
#[derive(Debug)]
pub(super) struct Attempt {
    stats: Arc<EndpointStats>,
    started: Instant,
    /// How long the first token may take before the server is to blame; zero: for ever.
    patience: Duration,
    /// Whether the time to the first token says something about other requests.
    timed: bool,
    settled: bool,
    _permit: Permit,
}

// === impl EndpointStats ===

impl EndpointStats {
    /// A server of which nothing is known yet.
    #[must_use]
    pub fn new(breaker: BreakerPolicy, limit: ConcurrencyPolicy) -> Arc<Self> {
        Arc::new(Self {
            breaker: Breaker::new(breaker),
            latency: Latency::new(),
            limit: ConcurrencyLimit::new(limit),
            counters: Counters::default(),
            healthy: AtomicBool::new(true),
        })
    }

    /// What the active check found.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    /// How it stands.
    #[must_use]
    pub fn health(&self) -> HealthStatus {
        match self.breaker.state() {
            _ if !self.healthy.load(Ordering::Relaxed) => HealthStatus::Down,
            BreakerState::Closed => HealthStatus::Up,
            BreakerState::Open => HealthStatus::Down,
            BreakerState::Trying => HealthStatus::Trying,
        }
    }

    /// Whether requests should go to it while there is a choice.
    pub(super) fn is_available(&self) -> bool {
        self.healthy.load(Ordering::Relaxed) && self.breaker.admits()
    }

    pub(super) fn begin(
        self: &Arc<Self>,
        permit: Permit,
        patience: Duration,
        timed: bool,
    ) -> Attempt {
        self.breaker.begin();
        self.counters.requests.add();
        Attempt {
            stats: self.clone(),
            started: Instant::now(),
            patience,
            timed,
            settled: false,
            _permit: permit,
        }
    }
}

// === impl Attempt ===

impl Attempt {
    /// The first token came.
    pub(super) fn first_token(&mut self) {
        if !std::mem::replace(&mut self.settled, true) {
            self.stats.breaker.success();
            if self.timed {
                self.stats.latency.record(self.started.elapsed());
            }
        }
    }

    /// It failed before that.
    pub(super) fn failed(&mut self, kind: FailureKind) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let counters = &self.stats.counters;
        match kind {
            // A server that says what is wrong with a request is well.
            FailureKind::None => self.stats.breaker.success(),
            FailureKind::Rest(time) => {
                counters.rate_limits.add();
                self.stats.breaker.rest(time);
            }
            FailureKind::Unreachable => counters.connect_failures.add(),
            FailureKind::Refused => counters.refusals.add(),
            FailureKind::Broken => counters.broken.add(),
        }
        if matches!(
            kind,
            FailureKind::Unreachable | FailureKind::Refused | FailureKind::Broken
        ) && self.stats.breaker.failure()
        {
            counters.opened.add();
        }
    }
}

/// A server of which nothing else is known has been seen to be slow after this long without a
/// token.
const SLOW: Duration = Duration::from_millis(500);

/// The clock that takes an attempt back has begun up to this long before it: what runs first on a
/// busy machine is not said.
const BEFORE: Duration = Duration::from_millis(5);

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        // However it was given up, the first token takes at least as long as it was waited for.
        let elapsed = self.started.elapsed();
        if self.timed && elapsed > self.stats.latency.average().unwrap_or(SLOW) {
            self.stats.latency.record(elapsed);
        }
        // Taken back by the first-token clock: the server is to blame. Taken back earlier, by the
        // client: it is not.
        if !self.patience.is_zero() && elapsed + BEFORE >= self.patience {
            self.stats.counters.silences.add();
            if self.stats.breaker.failure() {
                self.stats.counters.opened.add();
            }
        }
    }
}

// === impl Counter ===

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
