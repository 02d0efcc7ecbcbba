//! Sharing of answers: which requests may share one, and which generation has it.
//!
//! A **slot** names the generation that asked the upstream for a certain answer, the **leader**. An
//! identical request follows it: its own generation reads the leader's log instead of an upstream
//! ([`replay`](super::replay)). That holds for an answer that is being written and for one that is
//! kept. A slot lasts as long as its generation runs. After that it lasts, if the answer may be
//! cached, until the cache drops it or the log expires. It holds no answer itself.
//!
//! A follower has no slot, so no generation follows a follower.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::replay::LeaderPhase;
use crate::generation::{FollowerGuard, Generation};
use crate::model::id::Owner;
use crate::model::json::Members;
use crate::model::snapshot::{Api, Status};
use crate::upstream::UpstreamRequest;

/// Headers that identify the client or trace the request, and do not change the answer.
const IGNORED_HEADERS: &[&str] = &["baggage", "traceparent", "tracestate", "x-request-id"];

/// What is shared, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReuseOptions {
    /// Whether identical requests in flight share one upstream stream.
    pub coalesce: bool,
    /// Whether an identical deterministic request gets the answer of an earlier one.
    pub cache: bool,
    /// How long after its end an answer may be reused. It also ends with the log.
    pub ttl: Duration,
    /// How many answers are kept; the oldest are dropped first.
    pub entries: usize,
    /// Tokens a second at which a kept answer is replayed; 0 is as fast as it is read.
    pub pace: u32,
    /// Whether owners share answers with one another.
    pub across_owners: bool,
}

/// Which answers a request accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Another request's answer will do.
    #[default]
    Any,
    /// The model must be asked; others may share the answer.
    New,
    /// The model must be asked, and no other request shares the answer.
    Private,
}

/// How a request was answered, where answers are shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reused {
    /// A kept answer is replayed.
    Hit,
    /// The model is asked.
    Miss,
    /// An answer that is being written is shared.
    Coalesced,
    /// The model is asked, since the request does not share: it is not deterministic, or its
    /// [`Freshness`] forbids it.
    Bypass,
}

/// Digest of what makes two requests identical. SHA-256, so that no client can forge a collision.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

/// The slots of all workers.
pub struct Reuse {
    options: ReuseOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: HashMap<Key, Slot>,
    /// The slots of ended generations, oldest end first.
    ended: VecDeque<(Instant, Key)>,
}

struct Slot {
    leader: Weak<Generation>,
    /// When it ended; set only for answers that may be kept.
    ended: Option<Instant>,
}

/// The role of a request among identical ones.
pub(crate) enum Role {
    /// It shares nothing.
    Independent,
    /// It asks the upstream, and others may follow it.
    Leader(Leader),
    /// It follows a leader.
    Follower(FollowerGuard, LeaderPhase),
}

/// A leader's slot. Dropping it, however its generation ended, frees the slot or leaves it to the
/// cache.
pub(crate) struct Leader {
    reuse: Arc<Reuse>,
    key: Key,
    generation: Arc<Generation>,
    deterministic: bool,
}

// === impl Reused ===

impl Reused {
    /// All values, in the order of the documentation.
    pub const ALL: &'static [Self] = &[Self::Hit, Self::Miss, Self::Coalesced, Self::Bypass];

    /// The value of the header `Tokenwire-Cache`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Coalesced => "coalesced",
            Self::Bypass => "bypass",
        }
    }
}

// === impl Key ===

impl Key {
    /// Digests the request. Which of several servers of a model was chosen makes no difference: the
    /// configuration declares them equal. A server's own name for the model does, since it is in
    /// the body.
    fn new(request: &UpstreamRequest, owner: Option<&Owner>) -> Self {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        match owner {
            None => part(b"any"),
            Some(Owner::Anonymous) => part(b"anonymous"),
            Some(Owner::Named(name)) => {
                part(b"named");
                part(name.as_bytes());
            }
        }
        part(match request.api {
            Api::Chat => b"chat",
            Api::Responses => b"responses",
        });
        part(request.model.as_bytes());
        let mut headers: Vec<_> = request
            .headers
            .iter()
            .filter(|(name, _)| !IGNORED_HEADERS.contains(&name.as_str()))
            .collect();
        headers.sort_unstable();
        part(&(headers.len() as u64).to_be_bytes());
        for (name, value) in headers {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        // An answer that one client's own key paid for is not shared with another client.
        part(
            request
                .client_key
                .as_ref()
                .map_or(&[][..], |key| key.expose_secret().as_bytes()),
        );
        part(&request.body);
        Self(digest.finalize().into())
    }
}

/// Whether the model gives the same answer again: temperature 0, or a seed.
fn is_deterministic(body: &[u8]) -> bool {
    let Ok(members) = serde_json::from_slice::<Members<'_>>(body) else {
        return false;
    };
    let number = |name: &str| {
        members
            .get(name)
            .and_then(|raw| raw.get().parse::<f64>().ok())
    };
    number("temperature") == Some(0.0) || number("seed").is_some()
}

// === impl Reuse ===

impl fmt::Debug for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reuse")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Reuse {
    /// Returns an empty set of slots, or `None` if the options switch sharing off.
    #[must_use]
    pub fn new(options: ReuseOptions) -> Option<Arc<Self>> {
        (options.coalesce || options.cache).then(|| {
            Arc::new(Self {
                options,
                state: Mutex::default(),
            })
        })
    }

    /// Returns how many answers are kept, and how many running generations may be followed.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state.lock();
        let ended = state
            .slots
            .values()
            .filter(|slot| slot.ended.is_some())
            .count();
        (ended, state.slots.len() - ended)
    }

    /// Finds the role of a request. `generation` is the request's own.
    pub(crate) fn join(
        self: &Arc<Self>,
        request: &UpstreamRequest,
        generation: &Arc<Generation>,
        freshness: Freshness,
    ) -> (Role, Reused, Option<SlotLookup>) {
        let independent = (Role::Independent, Reused::Bypass, None);
        if freshness == Freshness::Private {
            return independent;
        }
        let deterministic = self.options.cache && is_deterministic(&request.body);
        if !(self.options.coalesce || deterministic) {
            return independent;
        }
        let owner = (!self.options.across_owners).then_some(&generation.meta().owner);
        let lookup = SlotLookup {
            reuse: self.clone(),
            key: Key::new(request, owner),
            deterministic,
        };
        let role = lookup.role(generation, freshness);
        let reused = match (&role, freshness) {
            (Role::Follower(_, LeaderPhase::Running), _) => Reused::Coalesced,
            (Role::Follower(_, LeaderPhase::Kept { .. }), _) => Reused::Hit,
            (_, Freshness::Any) => Reused::Miss,
            (_, Freshness::New | Freshness::Private) => Reused::Bypass,
        };
        (role, reused, Some(lookup))
    }

    /// Drops expired answers, and the oldest ones beyond the limit.
    fn prune(&self, state: &mut State, now: Instant) {
        while let Some((ended, key)) = state.ended.front().copied()
            && (state.ended.len() > self.options.entries
                || now.duration_since(ended) >= self.options.ttl)
        {
            state.ended.pop_front();
            // The slot may belong to another generation by now.
            if let Entry::Occupied(slot) = state.slots.entry(key)
                && slot.get().ended == Some(ended)
            {
                slot.remove();
            }
        }
    }
}

/// Looks up the slot of one request. A follower looks again if its leader gives nothing.
pub(crate) struct SlotLookup {
    reuse: Arc<Reuse>,
    key: Key,
    deterministic: bool,
}

impl SlotLookup {
    /// Returns the role of this generation now. A leader takes the slot.
    pub(crate) fn role(&self, generation: &Arc<Generation>, freshness: Freshness) -> Role {
        let reuse = &self.reuse;
        let now = Instant::now();
        let mut state = reuse.state.lock();
        reuse.prune(&mut state, now);
        let slot = state.slots.get(&self.key);
        if let (Some(slot), Freshness::Any) = (slot, freshness)
            && let Some(leader) = slot
                .leader
                .upgrade()
                .filter(|leader| !Arc::ptr_eq(leader, generation))
        {
            // A leader that is being stopped ends at its driver's next turn, without an answer.
            let is_over = leader.is_over();
            if !is_over && !leader.is_stopping() {
                if reuse.options.coalesce {
                    return Role::Follower(FollowerGuard::new(leader), LeaderPhase::Running);
                }
                // The leader keeps its slot: the first to ask is usually the first to end.
                return Role::Independent;
            }
            // A leader that has just ended may not have marked its slot yet.
            let is_kept = slot.ended.is_some() || leader.status() == Status::Completed;
            if is_over && self.deterministic && is_kept && leader.tail().is_ok() {
                return Role::Follower(
                    FollowerGuard::new(leader),
                    LeaderPhase::Kept {
                        pace: reuse.options.pace,
                    },
                );
            }
        }
        state.slots.insert(
            self.key,
            Slot {
                leader: Arc::downgrade(generation),
                ended: None,
            },
        );
        drop(state);
        Role::Leader(Leader {
            reuse: reuse.clone(),
            key: self.key,
            generation: generation.clone(),
            deterministic: self.deterministic,
        })
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        let keep = self.deterministic
            && self.reuse.options.entries > 0
            && self.generation.status() == Status::Completed;
        let now = Instant::now();
        let mut state = self.reuse.state.lock();
        let own = Arc::downgrade(&self.generation);
        if let Entry::Occupied(mut slot) = state.slots.entry(self.key)
            && slot.get().leader.ptr_eq(&own)
        {
            if keep {
                slot.get_mut().ended = Some(now);
                state.ended.push_back((now, self.key));
            } else {
                slot.remove();
            }
        }
        self.reuse.prune(&mut state, now);
    }
}
