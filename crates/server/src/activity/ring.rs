//! The last events, for watchers that come back or fall behind.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use tokenwire_core::model::id::{Owner, random_id};

use super::Scope;

/// The most owners whose numbers are remembered, beside those that have events in the ring.
const MAX_OWNERS: usize = 4096;
/// What an event counts as, beside its text.
const OVERHEAD: usize = 128;

/// What the ring keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            events: 4096,
            bytes: 2 << 20,
        }
    }
}

/// An event as it is kept: a JSON object without its last brace.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) open_json: Arc<str>,
    /// Further members, which only operators see.
    pub(super) for_operators: Option<Arc<str>>,
}

#[derive(Debug)]
struct Entry {
    event: Event,
    /// The owner, with the number in its scope. `None` for what only operators see.
    owner: Option<(Owner, u64)>,
}

/// The last events. Numbers begin at 1 per scope; for an owner at a number that grows with time, so that
/// one whose numbers were forgotten gets no number twice.
#[derive(Debug)]
pub(super) struct Ring {
    /// Changes whenever events were not numbered.
    pub(super) boot: Box<str>,
    bounds: Bounds,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Events, and their bytes, since watchers were told.
    untold: usize,
    untold_bytes: usize,
    /// The number of the entry before the first one, for operators.
    before: u64,
    /// The last number of each owner.
    owners: HashMap<Owner, u64>,
    began: Instant,
}

/// The next event of a scope.
#[derive(Debug)]
pub(super) enum Next {
    /// An event with its number, and where to look for the one after it.
    Event { event: Event, number: u64, at: u64 },
    /// So many events came, and the first of them is not kept any more.
    Lost { count: u64 },
    /// All events were seen. Nothing before this place is to be looked at again.
    Nothing { at: u64 },
}

// === impl Ring ===

impl Ring {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            boot: random_id("").into(),
            bounds,
            entries: VecDeque::new(),
            bytes: 0,
            untold: 0,
            untold_bytes: 0,
            before: 0,
            owners: HashMap::new(),
            began: Instant::now(),
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Appends an event of a stream.
    pub(super) fn push(&mut self, owner: &Owner, event: Event) {
        let number = self.last_of(owner) + 1;
        self.owners.insert(owner.clone(), number);
        self.append(Some((owner.clone(), number)), event);
    }

    /// Appends an event that only operators see.
    pub(super) fn push_for_operators(&mut self, event: Event) {
        self.append(None, event);
    }

    fn append(&mut self, owner: Option<(Owner, u64)>, event: Event) {
        let size_of_this = size(&event);
        self.bytes += size_of_this;
        self.untold += 1;
        self.untold_bytes += size_of_this;
        self.entries.push_back(Entry { event, owner });
        while self.entries.len() > self.bounds.events || self.bytes > self.bounds.bytes {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= size(&oldest.event);
            self.before += 1;
        }
    }

    /// Whether so much came since watchers were told that they should not wait for the timer: otherwise
    /// the first of it may be dropped before the fastest of them looks.
    pub(super) fn is_filling(&self) -> bool {
        self.untold >= self.bounds.events / 4 || self.untold_bytes >= self.bounds.bytes / 4
    }

    /// Watchers are told of what is there. Returns whether there is something new.
    pub(super) fn tell(&mut self) -> bool {
        self.untold_bytes = 0;
        std::mem::take(&mut self.untold) > 0
    }

    /// Forgets the numbers of owners that have no events in the ring and do not watch, if there are many.
    pub(super) fn forget_owners(&mut self, watches: impl Fn(&Owner) -> bool) {
        if self.owners.len() <= MAX_OWNERS + self.entries.len() {
            return;
        }
        let entries = self.entries.iter();
        let mut kept: HashMap<Owner, u64> =
            entries.filter_map(|entry| entry.owner.clone()).collect();
        let owners = std::mem::take(&mut self.owners);
        kept.extend(owners.into_iter().filter(|(owner, _)| watches(owner)));
        self.owners = kept;
    }

    /// Returns the last number of a scope.
    pub(super) fn last(&mut self, scope: &Scope) -> u64 {
        match scope {
            Scope::All => self.end(),
            Scope::Owner(owner) => self.last_of(owner),
        }
    }

    fn last_of(&mut self, owner: &Owner) -> u64 {
        if let Some(last) = self.owners.get(owner) {
            return *last;
        }
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        // Fewer than 1,024 events in a millisecond, and exact in JavaScript for decades.
        let last = millis << 10;
        self.owners.insert(owner.clone(), last);
        last
    }

    /// The place after the last entry.
    pub(super) fn end(&self) -> u64 {
        self.before + self.entries.len() as u64
    }

    /// Returns the first event of a scope from this place on, after the one with the number `seen`.
    pub(super) fn next(&mut self, scope: &Scope, at: u64, seen: u64) -> Next {
        let skipped = usize::try_from(at.saturating_sub(self.before)).unwrap_or(usize::MAX);
        let places = self.before.max(at) + 1..;
        for (place, entry) in places.zip(self.entries.iter().skip(skipped)) {
            let number = match (scope, &entry.owner) {
                (Scope::All, _) => place,
                (Scope::Owner(own), Some((owner, number))) if owner == own => *number,
                (Scope::Owner(_), _) => continue,
            };
            if number <= seen {
                continue;
            }
            if number > seen + 1 {
                break;
            }
            return Next::Event {
                event: entry.event.clone(),
                number,
                at: place,
            };
        }
        let last = self.last(scope);
        match last.saturating_sub(seen) {
            0 => Next::Nothing { at: self.end() },
            count => Next::Lost { count },
        }
    }
}

fn size(event: &Event) -> usize {
    let members = event.for_operators.as_ref().map_or(0, |text| text.len());
    event.open_json.len() + members + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event {
        Event {
            open_json: text.into(),
            for_operators: None,
        }
    }

    fn named(name: &str) -> Owner {
        Owner::Named(name.into())
    }

    fn read(ring: &mut Ring, scope: &Scope, mut at: u64, mut seen: u64) -> (Vec<String>, u64) {
        let mut texts = Vec::new();
        loop {
            match ring.next(scope, at, seen) {
                Next::Event {
                    event,
                    number,
                    at: next,
                } => {
                    texts.push(event.open_json.to_string());
                    (at, seen) = (next, number);
                }
                Next::Lost { count } => return (texts, count),
                Next::Nothing { .. } => return (texts, 0),
            }
        }
    }

    #[test]
    fn owners_see_their_own_events_without_gaps() {
        let mut ring = Ring::new(Bounds::default());
        let (a, b) = (Scope::Owner(named("a")), Scope::Owner(named("b")));
        let (seen_a, seen_b) = (ring.last(&a), ring.last(&b));
        for text in ["a1", "b1", "b2", "a2"] {
            ring.push(&named(&text[..1]), event(text));
        }
        ring.push_for_operators(event("up"));
        assert_eq!(read(&mut ring, &a, 0, seen_a).0, ["a1", "a2"]);
        assert_eq!(read(&mut ring, &b, 0, seen_b).0, ["b1", "b2"]);
        assert_eq!(read(&mut ring, &b, 0, seen_b + 1).0, ["b2"]);
        let all = read(&mut ring, &Scope::All, 0, 0).0;
        assert_eq!(all, ["a1", "b1", "b2", "a2", "up"]);
        assert_eq!(ring.last(&a), seen_a + 2);
    }

    #[test]
    fn what_is_dropped_is_counted_per_scope() {
        let bounds = Bounds {
            events: 3,
            bytes: 1 << 20,
        };
        let mut ring = Ring::new(bounds);
        let (a, b) = (Scope::Owner(named("a")), Scope::Owner(named("b")));
        let (seen_a, seen_b) = (ring.last(&a), ring.last(&b));
        ring.push(&named("a"), event("a1"));
        ring.push(&named("a"), event("a2"));
        for number in 0..3 {
            ring.push(&named("b"), event(&format!("b{number}")));
        }
        assert_eq!(read(&mut ring, &a, 0, seen_a), (Vec::new(), 2));
        assert_eq!(read(&mut ring, &a, 0, seen_a + 2), (Vec::new(), 0));
        assert_eq!(read(&mut ring, &b, 0, seen_b).0.len(), 3);
        assert_eq!(read(&mut ring, &Scope::All, 0, 0), (Vec::new(), 5));
        assert_eq!(read(&mut ring, &Scope::All, 2, 2).0.len(), 3);
    }

    #[test]
    fn ring_is_bounded_in_bytes_and_forgets_owners() {
        let bounds = Bounds {
            events: 1 << 20,
            bytes: 10_000,
        };
        let mut ring = Ring::new(bounds);
        for number in 0..20_000 {
            ring.push(&named(&number.to_string()), event("x"));
        }
        assert!(ring.entries.len() < 100);
        let watching = Scope::Owner(named("7"));
        let seen = ring.last(&watching);
        ring.forget_owners(|owner| *owner == named("7"));
        assert!(ring.owners.len() <= ring.entries.len() + 1);
        assert_eq!(ring.last(&watching), seen, "the number of a watcher stays");
    }
}
