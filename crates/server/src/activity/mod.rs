//! What happens in the gateway, live: `GET /v1/activity`.
//!
//! ```text
//!   starts, ends, matches ──▶ ring ◀── cursor of each watcher ──▶ SSE | WebSocket
//!   timer: first tokens, rates, health of upstreams ──▶ ring, wakes watchers
//! ```
//!
//! * **Where nothing watches, it costs one atomic load per start and end.** The first watcher switches it
//!   on, and a minute after the last one it is off again.
//! * **Nothing per token.** A timer samples the counts that generations keep anyway, ten times a second the
//!   times to first tokens, and once a second the tokens.
//! * **Bounded.** The ring keeps the last events, by count and bytes. A watcher holds a position in it, and
//!   nothing waits for a watcher: one that falls behind gets `tokenwire:reset` with the number of events
//!   that it lost.
//! * **Per owner.** A watcher sees its owner's streams, an operator those of all; texts never. Events are
//!   numbered per scope, so that an owner learns nothing of others from gaps.

mod event;
mod listener;
mod observer;
mod rates;
mod ring;
mod state;
mod watcher;

pub(crate) use listener::{Action, MatchListener, RuleAction};
pub(crate) use observer::ActivityObserver;
pub(crate) use watcher::Watcher;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokenwire_core::engine::{GenerationEnd, GenerationStart, Registry};
use tokenwire_core::generation::Generation;
use tokenwire_core::generation::watch::RuleMatch;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::Owner;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use crate::shared_upstream::SharedUpstream;
use ring::Bounds;
use state::State;

/// How often the timer runs, and so how late an event may be shown: earlier if there are many.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two rates.
const TICKS_PER_RATE: u64 = 10;
/// Ticks without a watcher after which nothing is kept any more. A watcher that comes back within this
/// time resumes.
const LINGER: u64 = 600;
/// The most watchers at the same time.
const MAX_WATCHERS: usize = 256;
/// The most of them with the scope of one owner.
const MAX_OWN_WATCHERS: usize = 32;
/// Places that only operators get.
const OPERATOR_PLACES: usize = 32;

/// What a watcher sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The streams of one owner.
    Owner(Owner),
    /// The streams of all, and the upstreams.
    All,
}

/// The activity of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Activity {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Whether something watches, or did a moment ago.
    active: AtomicBool,
    registry: Arc<Registry>,
    upstreams: watch::Receiver<Arc<[SharedUpstream]>>,
    state: Mutex<State>,
}

// === impl Activity ===

impl Activity {
    /// Creates the activity of the generations of this registry, and of these upstreams.
    #[must_use]
    pub fn new(registry: Arc<Registry>, upstreams: watch::Receiver<Arc<[SharedUpstream]>>) -> Self {
        Self::with_bounds(registry, upstreams, Bounds::default())
    }

    fn with_bounds(
        registry: Arc<Registry>,
        upstreams: watch::Receiver<Arc<[SharedUpstream]>>,
        bounds: Bounds,
    ) -> Self {
        let shared = Shared {
            active: AtomicBool::new(false),
            registry,
            upstreams,
            state: Mutex::new(State::new(bounds)),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Watches from now on, or from after the event with this id. Call it on a runtime.
    ///
    /// # Errors
    /// `overloaded` if as many watch as may: 256, of which 224 with the scope of an owner, and 32 with
    /// that of one owner.
    pub(crate) fn watch(&self, scope: Scope, after: Option<&str>) -> Result<Watcher, ApiError> {
        let mut state = self.shared.state.lock();
        let refused = |watching: usize, whose: &str| {
            let message =
                format!("{watching} clients {whose}watch the activity, which is the limit.");
            let error = ApiError::new(ErrorCode::Overloaded, message);
            Err(error.retry_after(Duration::from_secs(5)))
        };
        let (watching, own) = state.watching(&scope);
        let places = match &scope {
            Scope::All => MAX_WATCHERS,
            Scope::Owner(_) if own >= MAX_OWN_WATCHERS => return refused(own, "of this owner "),
            Scope::Owner(_) => MAX_WATCHERS - OPERATOR_PLACES,
        };
        if watching >= places {
            return refused(watching, "");
        }
        if !self.shared.active.swap(true, Ordering::AcqRel) {
            // What starts from here on is reported by the observer.
            state.begin();
            for generation in self.shared.registry.running() {
                // The end of one that is over may have been reported before.
                if !generation.is_over() {
                    state.run(&generation);
                }
            }
            state.look_at_upstreams(&self.shared.upstreams.borrow(), false);
        }
        // It ends with the worker that has started it.
        if state.timer.as_ref().is_none_or(AbortHandle::is_finished) {
            let timer = tokio::spawn(sample(Arc::downgrade(&self.shared)));
            state.timer = Some(timer.abort_handle());
        }
        let key = state.enter(&scope);
        Ok(Watcher::new(self.clone(), &mut state, key, scope, after))
    }

    /// Returns the state if something watches.
    fn active(&self) -> Option<MutexGuard<'_, State>> {
        let is_active = || self.shared.active.load(Ordering::Acquire);
        if !is_active() {
            return None;
        }
        // It may have been cleared while the lock was waited for.
        let state = self.shared.state.lock();
        is_active().then_some(state)
    }

    /// Changes the state if something watches.
    fn report(&self, report: impl FnOnce(&mut State)) {
        let Some(mut state) = self.active() else {
            return;
        };
        report(&mut state);
        let wakers = state.hurry();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn started(&self, start: &GenerationStart<'_>) {
        self.report(|state| state.started(start));
    }

    fn ended(&self, end: &GenerationEnd<'_>, upstream: Option<&str>) {
        self.report(|state| state.ended(end, upstream));
    }

    fn matched(&self, generation: &Generation, found: &RuleMatch, action: Action) {
        self.report(|state| state.matched(generation, found, action));
    }
}

// === impl Shared ===

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(timer) = &self.state.get_mut().timer {
            timer.abort();
        }
    }
}

/// Runs the timer while something watches.
async fn sample(shared: Weak<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let mut state = shared.state.lock();
        if state.is_abandoned() {
            shared.active.store(false, Ordering::Release);
            state.clear();
            state.timer = None;
            return;
        }
        let wakers = state.tick(&shared.upstreams.borrow());
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}
