//! What is known while something watches.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use tokenwire_core::engine::{GenerationEnd, GenerationStart};
use tokenwire_core::generation::Generation;
use tokenwire_core::generation::watch::RuleMatch;
use tokenwire_core::model::id::{GenerationId, Owner};
use tokenwire_core::model::snapshot::Status;
use tokenwire_core::upstream::HealthStatus;
use tokio::task::AbortHandle;

use super::rates::Counts;
use super::ring::{Bounds, Event, Ring};
use super::{Action, LINGER, Scope, TICKS_PER_RATE, event};
use crate::shared_upstream::SharedUpstream;

/// The most open streams that a watcher is told of when it comes.
const MAX_SHOWN: usize = 1000;
/// Ticks after which a stream that has ended without a report is forgotten.
const FORGET_AFTER: u32 = 20;

/// The number of a watcher.
pub(super) type WatcherKey = u64;

#[derive(Debug)]
pub(super) struct State {
    pub(super) ring: Ring,
    running: HashMap<GenerationId, Running>,
    watchers: HashMap<WatcherKey, Watching>,
    next_watcher: WatcherKey,
    all: ScopeRates,
    /// Of owners that watch.
    owners: HashMap<Owner, ScopeRates>,
    upstreams: HashMap<String, (HealthStatus, Event)>,
    ticks: u64,
    last_watched: u64,
    last_rates: Instant,
    /// Runs the timer.
    pub(super) timer: Option<AbortHandle>,
}

#[derive(Debug)]
struct Watching {
    scope: Scope,
    waker: Option<Waker>,
}

/// The rates of a scope.
#[derive(Debug, Default)]
struct ScopeRates {
    /// Since the last ones.
    counts: Counts,
    /// The number of the last rates, and those.
    last: Option<(u64, Arc<str>)>,
    watchers: usize,
}

#[derive(Debug)]
struct Running {
    generation: Arc<Generation>,
    started: Event,
    /// Those that were counted.
    tokens: u64,
    /// Whether the first token was reported.
    has_token: bool,
    /// Ticks since it was seen to have ended.
    over: u32,
}

// === impl State ===

impl State {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            ring: Ring::new(bounds),
            running: HashMap::new(),
            watchers: HashMap::new(),
            next_watcher: 0,
            all: ScopeRates::default(),
            owners: HashMap::new(),
            upstreams: HashMap::new(),
            ticks: 0,
            last_watched: 0,
            last_rates: Instant::now(),
            timer: None,
        }
    }

    /// Forgets everything. What happens until the next watcher comes has no numbers, so that ids from
    /// before are unknown.
    pub(super) fn clear(&mut self) {
        let next_watcher = self.next_watcher;
        *self = Self {
            next_watcher,
            ..Self::new(self.ring.bounds())
        };
    }

    /// Something watches from now on.
    pub(super) fn begin(&mut self) {
        self.last_rates = Instant::now();
    }

    /// Returns how many watch: among those that this scope shares its places with, and with the very
    /// same scope. Owners leave places to operators, which take any.
    pub(super) fn watching(&self, scope: &Scope) -> (usize, usize) {
        let count = |counts: &dyn Fn(&Scope) -> bool| {
            let watchers = self.watchers.values();
            watchers.filter(|known| counts(&known.scope)).count()
        };
        let among = match scope {
            Scope::All => self.watchers.len(),
            Scope::Owner(_) => count(&|known| matches!(known, Scope::Owner(_))),
        };
        (among, count(&|known| known == scope))
    }

    /// Whether nothing has watched for a while.
    pub(super) fn is_abandoned(&self) -> bool {
        self.watchers.is_empty() && self.ticks.saturating_sub(self.last_watched) > LINGER
    }

    pub(super) fn enter(&mut self, scope: &Scope) -> WatcherKey {
        self.next_watcher += 1;
        let watching = Watching {
            scope: scope.clone(),
            waker: None,
        };
        self.watchers.insert(self.next_watcher, watching);
        let open = self.open_in(scope);
        let rates = match scope {
            Scope::All => &mut self.all,
            Scope::Owner(owner) => self.owners.entry(owner.clone()).or_default(),
        };
        rates.watchers += 1;
        rates.counts.open = open;
        self.next_watcher
    }

    pub(super) fn leave(&mut self, key: WatcherKey) {
        let Some(watching) = self.watchers.remove(&key) else {
            return;
        };
        self.last_watched = self.ticks;
        if let Scope::Owner(owner) = &watching.scope
            && let Some(rates) = self.owners.get_mut(owner)
        {
            rates.watchers -= 1;
            if rates.watchers == 0 {
                self.owners.remove(owner);
            }
        }
    }

    /// Wakes this watcher when there is something new.
    pub(super) fn wait(&mut self, key: WatcherKey, waker: &Waker) {
        if let Some(watching) = self.watchers.get_mut(&key) {
            match &mut watching.waker {
                Some(known) => known.clone_from(waker),
                None => watching.waker = Some(waker.clone()),
            }
        }
    }

    /// Returns the rates of a scope if there are newer ones than those with this number.
    pub(super) fn rates(&self, scope: &Scope, seen: u64) -> Option<(u64, Arc<str>)> {
        let rates = match scope {
            Scope::All => Some(&self.all),
            Scope::Owner(owner) => self.owners.get(owner),
        };
        let (number, text) = rates?.last.as_ref()?;
        (*number > seen).then(|| (*number, text.clone()))
    }

    /// Returns the state of the upstreams and the open streams that a scope has: the newest, in the order
    /// of their starts.
    pub(super) fn shown(&self, scope: &Scope) -> Vec<Event> {
        let upstreams = self.upstreams.values().map(|(_, event)| event.clone());
        let mut shown: Vec<Event> = match scope {
            Scope::All => upstreams.collect(),
            Scope::Owner(_) => Vec::new(),
        };
        let running = self.running.values();
        let mut running: Vec<&Running> = running.filter(|running| running.is_in(scope)).collect();
        running.sort_by_key(|running| running.generation.meta().created_at);
        let first = running.len().saturating_sub(MAX_SHOWN);
        for running in running.iter().skip(first) {
            shown.push(running.started.clone());
            let first_token = running.generation.first_token();
            if let Some(after) = first_token.filter(|_| running.has_token) {
                shown.push(event::first_token(running.generation.meta(), after));
            }
        }
        shown
    }

    fn open_in(&self, scope: &Scope) -> usize {
        match scope {
            Scope::All => self.running.len(),
            Scope::Owner(_) => {
                let running = self.running.values();
                running.filter(|running| running.is_in(scope)).count()
            }
        }
    }

    /// Notes a generation that runs.
    pub(super) fn run(&mut self, generation: &Arc<Generation>) {
        let running = Running {
            started: event::started(generation.meta()),
            tokens: generation.progress().1,
            has_token: generation.first_token().is_some(),
            generation: generation.clone(),
            over: 0,
        };
        self.running.insert(generation.meta().id.clone(), running);
    }

    pub(super) fn started(&mut self, start: &GenerationStart<'_>) {
        let known = self.running.get(&start.meta.id);
        if known.is_some_and(|known| Arc::ptr_eq(&known.generation, start.generation)) {
            // It was there in the moment when something began to watch, and is shown as running.
            return;
        }
        self.run(start.generation);
        let owner = &start.meta.owner;
        self.count(owner, |counts| counts.started += 1);
        let event = event::started(start.meta);
        self.ring.push(owner, event);
    }

    pub(super) fn ended(&mut self, end: &GenerationEnd<'_>, upstream: Option<&str>) {
        let owner = &end.meta.owner;
        let failed = u64::from(end.status == Status::Failed);
        let counted = match self.running.remove(&end.meta.id) {
            Some(running) => {
                let after = end.first_token.filter(|_| !running.has_token);
                if let Some(after) = after {
                    let event = event::first_token(end.meta, after);
                    self.ring.push(owner, event);
                }
                running.tokens
            }
            // It began before anything watched, in the moment when that was looked at.
            None => end.tokens,
        };
        self.count(owner, |counts| {
            counts.ended += 1;
            counts.failed += failed;
            counts.tokens += end.tokens.saturating_sub(counted);
        });
        self.ring.push(owner, event::ended(end, upstream));
    }

    pub(super) fn matched(&mut self, generation: &Generation, found: &RuleMatch, action: Action) {
        let event = event::matched(generation, found, action);
        self.ring.push(&generation.meta().owner, event);
    }

    fn count(&mut self, owner: &Owner, count: impl Fn(&mut Counts)) {
        count(&mut self.all.counts);
        if let Some(rates) = self.owners.get_mut(owner) {
            count(&mut rates.counts);
        }
    }

    /// Looks at the counts of what runs. Returns the wakers of watchers for which there may be something
    /// new.
    pub(super) fn tick(&mut self, upstreams: &[SharedUpstream]) -> Vec<Waker> {
        self.ticks += 1;
        self.look_at_first_tokens();
        let makes_rates = self.ticks.is_multiple_of(TICKS_PER_RATE);
        if makes_rates {
            self.look_at_upstreams(upstreams, true);
            self.make_rates();
            let Self { ring, owners, .. } = self;
            ring.forget_owners(|owner| owners.contains_key(owner));
        }
        if !self.watchers.is_empty() {
            self.last_watched = self.ticks;
        }
        let has_new = self.ring.tell();
        if makes_rates || has_new {
            self.wakers()
        } else {
            Vec::new()
        }
    }

    /// Returns the wakers of watchers if there is too much new to wait for the timer.
    pub(super) fn hurry(&mut self) -> Vec<Waker> {
        if !self.ring.is_filling() {
            return Vec::new();
        }
        self.ring.tell();
        self.wakers()
    }

    fn wakers(&mut self) -> Vec<Waker> {
        let watching = self.watchers.values_mut();
        watching
            .filter_map(|watching| watching.waker.take())
            .collect()
    }

    fn look_at_first_tokens(&mut self) {
        let Self { running, ring, .. } = self;
        for running in running.values_mut().filter(|running| !running.has_token) {
            if let Some(after) = running.generation.first_token() {
                running.has_token = true;
                let meta = running.generation.meta();
                ring.push(&meta.owner, event::first_token(meta, after));
            }
        }
    }

    fn make_rates(&mut self) {
        let Self {
            running,
            all,
            owners,
            ..
        } = self;
        all.counts.open = 0;
        for rates in owners.values_mut() {
            rates.counts.open = 0;
        }
        running.retain(|_, running| {
            if running.generation.is_over() {
                running.over += 1;
                if running.over > FORGET_AFTER {
                    return false;
                }
            }
            let tokens = running.generation.progress().1;
            let more = tokens.saturating_sub(running.tokens);
            running.tokens = tokens;
            let own = owners.get_mut(&running.generation.meta().owner);
            for rates in std::iter::once(&mut *all).chain(own) {
                rates.counts.tokens += more;
                rates.counts.open += 1;
            }
            true
        });
        let now = Instant::now();
        let millis = now.duration_since(self.last_rates).as_millis();
        self.last_rates = now;
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        let number = self.ticks;
        for rates in std::iter::once(&mut self.all).chain(self.owners.values_mut()) {
            let counts = std::mem::take(&mut rates.counts);
            rates.last = Some((number, counts.open_json(millis).into()));
        }
    }

    /// Looks at the health of the upstreams, and reports what has changed.
    pub(super) fn look_at_upstreams(&mut self, upstreams: &[SharedUpstream], reports: bool) {
        for upstream in upstreams {
            let health = upstream.stats.health();
            let name = &upstream.config.name;
            let known = self.upstreams.get(name).map(|(known, _)| *known);
            if known == Some(health) {
                continue;
            }
            let event = event::upstream(upstream);
            self.upstreams.insert(name.clone(), (health, event.clone()));
            if reports {
                self.ring.push_for_operators(event);
            }
        }
        if self.upstreams.len() > upstreams.len() {
            let has = |name: &String| upstreams.iter().any(|known| known.config.name == *name);
            self.upstreams.retain(|name, _| has(name));
        }
    }
}

// === impl Running ===

impl Running {
    fn is_in(&self, scope: &Scope) -> bool {
        match scope {
            Scope::All => true,
            Scope::Owner(owner) => self.generation.meta().owner == *owner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            events: 8,
            bytes: 8000,
        }
    }

    fn push(state: &mut State, bytes: usize) {
        state.ring.push_for_operators(Event {
            open_json: "x".repeat(bytes).into(),
            for_operators: None,
        });
    }

    /// Otherwise a watcher that reads at once would lose events that came between two ticks.
    #[test]
    fn many_events_do_not_wait_for_the_timer() {
        let mut state = State::new(bounds());
        let key = state.enter(&Scope::All);
        for bytes in [[1, 1], [1, 2000]] {
            state.wait(key, Waker::noop());
            push(&mut state, bytes[0]);
            assert!(state.hurry().is_empty());
            push(&mut state, bytes[1]);
            assert_eq!(state.hurry().len(), 1, "{bytes:?}");
        }
        state.wait(key, Waker::noop());
        push(&mut state, 1);
        assert!(state.hurry().is_empty(), "it counts from the last time on");
        assert_eq!(state.tick(&[]).len(), 1);
        state.wait(key, Waker::noop());
        assert!(state.tick(&[]).is_empty());
    }
}
