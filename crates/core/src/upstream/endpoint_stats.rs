//! What all workers know of one endpoint: its health, latency and load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::attempt_trace::AttemptTrace;
use super::breaker::{Breaker, BreakerPolicy, BreakerState, Trial};
use super::concurrency_limit::{ConcurrencyLimit, ConcurrencyPolicy, Permit};
use super::failure::FailureKind;
use super::latency::Latency;
use super::pauses::{KeyId, Pauses};
use super::reasoning::PlainModels;

/// Health, latency, load and counters of one endpoint. Shared by all workers.
#[derive(Debug)]
pub struct EndpointStats {
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// Its times to first token.
    pub latency: Latency,
    /// Its concurrent requests and their queue.
    pub limit: Arc<ConcurrencyLimit>,
    /// Requests that were routed to it and have not reached `limit` yet.
    reserved: Reserving,
    /// Pauses that it asked for.
    pauses: Pauses,
    /// Models that it does not make encrypted reasoning for.
    pub(super) plain_models: PlainModels,
    /// Counters of events.
    pub counters: Counters,
    /// Result of the last health check; true without one.
    healthy: AtomicBool,
}

/// Counters of events since the start of the process.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Requests sent, repeated ones included.
    pub requests: Counter,
    /// Requests sent because an earlier attempt failed.
    pub retries: Counter,
    /// Those of the retries whose earlier attempt was at another endpoint.
    pub failovers: Counter,
    /// Requests sent because another endpoint was slow.
    pub hedges: Counter,
    /// Those of the hedges that gave the first token.
    pub hedges_won: Counter,
    /// Failures to connect, timeouts included.
    pub connect_failures: Counter,
    /// Answers with a status that reports a fault of the endpoint (5xx, 408, 409).
    pub refusals: Counter,
    /// Answers with status 429.
    pub rate_limits: Counter,
    /// Connections and streams that broke before the first token.
    pub broken: Counter,
    /// Requests that ran into the first-token timeout.
    pub silences: Counter,
    /// How often the breaker opened.
    pub opened: Counter,
    /// Requests refused because the queue was full or the wait in it timed out.
    pub refused_busy: Counter,
    /// Retries that were not made because the retry budget was spent.
    pub budget_spent: Counter,
    /// Answers of other endpoints that it was asked to continue.
    pub continued: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// The health of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthStatus {
    /// It gets requests.
    Up,
    /// The cooldown of the breaker is over: the next request tests whether it is up.
    HalfOpen,
    /// It gets no requests while another endpoint is up.
    Down,
}

/// Counts a request as outstanding at its endpoint from its routing to its sending, so that requests
/// that are routed at the same time spread over the endpoints. Released when the last clone is
/// dropped.
#[derive(Clone, Debug, Default)]
pub struct Reservation {
    _reserved: Option<Arc<Reserved>>,
}

/// Number of reservations. Written by each request, so apart from what is only read.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Reserving(AtomicUsize);

#[derive(Debug)]
struct Reserved(Arc<EndpointStats>);

/// A request at an endpoint. Its outcome is recorded in the endpoint's statistics, at the latest
/// when it is dropped.
#[derive(Debug)]
pub(super) struct Attempt {
    stats: Arc<EndpointStats>,
    started: Instant,
    /// Time after which a missing first token counts as a failure; zero: never.
    first_token_timeout: Duration,
    /// Whether the time to first token is recorded.
    timed: bool,
    recorded: bool,
    /// The key that it was sent with.
    key: KeyId,
    /// Set if it tests whether the endpoint is back.
    trial: Option<Trial>,
    /// Its span, where it is recorded.
    pub(super) trace: Option<Box<AttemptTrace>>,
    _permit: Permit,
}

// === impl EndpointStats ===

impl EndpointStats {
    /// An endpoint of which nothing is known yet.
    #[must_use]
    pub fn new(breaker: BreakerPolicy, limit: ConcurrencyPolicy) -> Arc<Self> {
        Arc::new(Self {
            breaker: Breaker::new(breaker),
            latency: Latency::new(),
            limit: ConcurrencyLimit::new(limit),
            reserved: Reserving::default(),
            pauses: Pauses::new(breaker.max_rest),
            plain_models: PlainModels::default(),
            counters: Counters::default(),
            healthy: AtomicBool::new(true),
        })
    }

    /// Records the result of a health check. A good one closes the breaker.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
        if healthy {
            self.breaker.recovered();
        }
    }

    /// Returns its health.
    #[must_use]
    pub fn health(&self) -> HealthStatus {
        match self.breaker.state() {
            _ if !self.healthy.load(Ordering::Relaxed) => HealthStatus::Down,
            BreakerState::Closed => HealthStatus::Up,
            BreakerState::Open => HealthStatus::Down,
            BreakerState::HalfOpen => HealthStatus::HalfOpen,
        }
    }

    /// Returns whether it should get requests with this key while there is a choice.
    pub(super) fn is_available(&self, key: KeyId) -> bool {
        self.healthy.load(Ordering::Relaxed) && self.breaker.admits() && !self.pauses.is_paused(key)
    }

    /// Returns the number of requests that are routed to it, in its queue, or not finished.
    pub(super) fn outstanding(&self) -> usize {
        self.reserved.0.load(Ordering::Relaxed) + self.limit.waiting() + self.limit.running()
    }

    /// Counts a request that is about to be sent.
    pub(super) fn reserve(self: &Arc<Self>) -> Reservation {
        self.reserved.0.fetch_add(1, Ordering::Relaxed);
        Reservation {
            _reserved: Some(Arc::new(Reserved(self.clone()))),
        }
    }

    /// Records that a request is sent.
    pub(super) fn begin(
        self: &Arc<Self>,
        permit: Permit,
        first_token_timeout: Duration,
        timed: bool,
        key: KeyId,
    ) -> Attempt {
        let trial = self.breaker.begin();
        self.counters.requests.add();
        if timed {
            self.latency.begin();
        }
        Attempt {
            stats: self.clone(),
            started: Instant::now(),
            first_token_timeout,
            timed,
            recorded: false,
            key,
            trial,
            trace: None,
            _permit: permit,
        }
    }
}

// === impl Reservation ===

impl PartialEq for Reservation {
    /// All reservations are equal: one is no part of a target's identity.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Reservation {}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.reserved.0.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Attempt ===

impl Attempt {
    /// Records the first token.
    pub(super) fn first_token(&mut self) {
        if !std::mem::replace(&mut self.recorded, true) {
            if let Some(trace) = &mut self.trace {
                trace.first_token();
            }
            self.answered();
            if self.timed {
                self.stats.latency.end(Some(self.started.elapsed()));
            }
        }
    }

    fn answered(&self) {
        self.stats.breaker.success();
        self.stats.pauses.answered(self.key, self.started);
    }

    /// Lets another request be the trial, if this one was.
    fn release(&self) {
        if let Some(trial) = self.trial {
            self.stats.breaker.release(trial);
        }
    }

    /// Records a failure before the first token.
    pub(super) fn fail(&mut self, kind: FailureKind) {
        if std::mem::replace(&mut self.recorded, true) {
            return;
        }
        if self.timed {
            self.stats.latency.end(None);
        }
        let counters = &self.stats.counters;
        match kind {
            // An endpoint that refuses a bad request is healthy.
            FailureKind::None => self.answered(),
            FailureKind::Pause(time) => {
                counters.rate_limits.add();
                self.stats.breaker.success();
                self.stats.pauses.pause(self.key, time);
            }
            FailureKind::Unreachable => counters.connect_failures.add(),
            FailureKind::Refused => counters.refusals.add(),
            FailureKind::Broken => counters.broken.add(),
            FailureKind::Gateway => self.release(),
        }
        if matches!(
            kind,
            FailureKind::Unreachable | FailureKind::Refused | FailureKind::Broken
        ) && self.stats.breaker.failure(self.trial)
        {
            counters.opened.add();
        }
    }
}

/// While no latency is known, an attempt dropped after this time without a token counts as an
/// observation.
const UNKNOWN_LATENCY: Duration = Duration::from_millis(500);

/// The generation's first-token timeout starts before the attempt, usually by less than 5 ms. A busy
/// machine takes longer: an attempt that was silent for all but this part of it counts as silent.
const TIMEOUT_TOLERANCE: u32 = 8;

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.recorded {
            return;
        }
        // The time to first token is at least the time waited.
        let elapsed = self.started.elapsed();
        if self.timed {
            let is_slow = elapsed > self.stats.latency.average().unwrap_or(UNKNOWN_LATENCY);
            self.stats.latency.end(is_slow.then_some(elapsed));
        }
        // Dropped by the first-token timeout: a failure of the endpoint. Dropped much earlier, by the
        // client: none.
        if !self.first_token_timeout.is_zero()
            && elapsed >= self.first_token_timeout - self.first_token_timeout / TIMEOUT_TOLERANCE
        {
            self.stats.counters.silences.add();
            if self.stats.breaker.failure(self.trial) {
                self.stats.counters.opened.add();
            }
        } else {
            self.release();
        }
    }
}

// === impl Counter ===

impl Counter {
    /// Adds one.
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
