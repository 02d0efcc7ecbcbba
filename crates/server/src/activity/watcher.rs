//! One watcher: a position in the ring.

use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Poll};

use super::ring::{Event, Next};
use super::state::{State, WatcherKey};
use super::{Activity, Scope, event};

/// Reads events. Dropping it ends the watch.
pub(crate) struct Watcher {
    activity: Activity,
    key: WatcherKey,
    scope: Scope,
    /// Where to look in the ring.
    at: u64,
    /// The number of the last event.
    seen: u64,
    /// The number of the last rates.
    rates: u64,
    /// What comes first: the state of upstreams and streams.
    shown: VecDeque<Event>,
    /// A reset that comes before that: why, and how many events were lost.
    reset: Option<(&'static str, Option<u64>)>,
    /// What ids of this scope begin with. Numbers of one scope say nothing in another.
    boot: Box<str>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("scope", &self.scope)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.activity.shared.state.lock().leave(self.key);
    }
}

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(
        activity: Activity,
        state: &mut State,
        key: WatcherKey,
        scope: Scope,
        after: Option<&str>,
    ) -> Self {
        let boot = match &scope {
            Scope::All => format!("{}-all", state.ring.boot).into(),
            Scope::Owner(_) => state.ring.boot.clone(),
        };
        let mut watcher = Self {
            activity,
            key,
            at: 0,
            seen: state.ring.last(&scope),
            rates: 0,
            shown: VecDeque::new(),
            reset: None,
            boot,
            scope,
        };
        let number = after.map(|after| {
            let (boot, number) = after.rsplit_once('.')?;
            let number: u64 = number.parse().ok()?;
            (*boot == *watcher.boot && number <= watcher.seen).then_some(number)
        });
        match number {
            Some(Some(number)) => watcher.seen = number,
            Some(None) => watcher.begin(state, Some(("unknown_id", None))),
            None => watcher.begin(state, None),
        }
        watcher
    }

    /// Goes on from here: with what is there now, and what comes.
    fn begin(&mut self, state: &mut State, reset: Option<(&'static str, Option<u64>)>) {
        self.reset = reset;
        self.shown = state.shown(&self.scope).into();
        self.seen = state.ring.last(&self.scope);
        self.at = state.ring.end();
    }

    /// The id of the last event. `None` as long as something is left of what comes first: who goes on
    /// after an id has seen all of that.
    pub(crate) fn id(&self) -> Option<String> {
        let is_whole = self.reset.is_none() && self.shown.is_empty();
        is_whole.then(|| format!("{}.{}", self.boot, self.seen))
    }

    /// Returns the next event, a JSON object. It has [`Self::id`] as the last member, if there is one.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        if let Some((reason, lost)) = self.reset.take() {
            return Poll::Ready(self.closed(event::reset(reason, lost)));
        }
        if let Some(event) = self.shown.pop_front() {
            return Poll::Ready(self.json(&event));
        }
        let shared = self.activity.shared.clone();
        let mut state = shared.state.lock();
        match state.ring.next(&self.scope, self.at, self.seen) {
            Next::Event { event, number, at } => {
                (self.at, self.seen) = (at, number);
                return Poll::Ready(self.json(&event));
            }
            Next::Lost { count } => {
                self.begin(&mut state, None);
                let reset = event::reset("lost", Some(count));
                return Poll::Ready(self.closed(reset));
            }
            Next::Nothing { at } => self.at = at,
        }
        if let Some((number, rates)) = state.rates(&self.scope, self.rates) {
            self.rates = number;
            return Poll::Ready(self.closed((*rates).to_owned()));
        }
        state.wait(self.key, cx.waker());
        Poll::Pending
    }

    fn json(&self, event: &Event) -> String {
        let mut json = (*event.open_json).to_owned();
        if let (Scope::All, Some(members)) = (&self.scope, &event.for_operators) {
            json.push_str(members);
        }
        self.closed(json)
    }

    fn closed(&self, mut json: String) -> String {
        if let Some(id) = self.id() {
            json.push_str(",\"event_id\":\"");
            json.push_str(&id);
            json.push('"');
        }
        json.push('}');
        json
    }
}
