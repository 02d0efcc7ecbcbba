//! Not asking twice: which requests may share an answer, and which generation has it.
//!
//! Sharing an answer that is being written and giving out one that is kept are one thing here: a
//! **slot** names the generation that asked the upstream for a certain answer, and whoever wants
//! the same follows it ([`replay`](crate::upstream)). A slot is there as long as its generation
//! runs, and after that, if the answer is one that may be kept, as long as the cache wants it and
//! its log lasts. It holds no answer itself.
//!
//! A follower has no slot, so nobody follows a follower: an answer is at most one step away from
//! the one who asked.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::replay::Source;
use crate::generation::{FollowerGuard, Generation};
use crate::model::id::Owner;
use crate::model::json::Members;
use crate::model::snapshot::{Api, Status};
use crate::upstream::UpstreamRequest;

/// Headers that say who asked, or along which way, and nothing of what is asked.
const BESIDE_THE_POINT: &[&str] = &["baggage", "traceparent", "tracestate", "x-request-id"];

/// What is shared, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReuseOptions {
    /// Whether identical requests in flight share one upstream stream.
    pub coalesce: bool,
    /// Whether identical deterministic requests get the answer that an earlier one got.
    pub cache: bool,
    /// How long after its end an answer may be given again. No longer than its log lasts.
    pub ttl: Duration,
    /// How many answers are remembered; the oldest go first.
    pub entries: usize,
    /// Tokens a second at which a kept answer is given; 0 is as fast as it is read.
    pub pace: u32,
    /// Whether one owner's answer may be another's.
    pub across_owners: bool,
}

/// What a request wants of answers to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// An answer that somebody has asked for already will do.
    #[default]
    Any,
    /// The model is to be asked; others may have the answer.
    New,
    /// The model is to be asked, and nobody else gets the answer.
    Private,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reused {
    /// A kept answer is given again.
    Hit,
    /// The model is asked.
    Miss,
    /// An answer that is being written is shared.
    Coalesced,
    /// The model is asked, since the request does not share: it is not deterministic, or it said
    /// so.
    Bypass,
}

/// What makes two requests the same. A digest: bodies are too large to be kept, and it is not worth
/// anybody's while to forge one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

/// See the [module](self). One for all workers.
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
    /// When it ended; only answers that may be kept have one.
    ended: Option<Instant>,
}

/// What a request may do about others.
pub(crate) enum Role {
    /// It is on its own.
    Apart,
    /// Others may follow it.
    Leads(Leader),
    /// It follows.
    Follows(FollowerGuard, Source),
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
    /// All, in the order of the documentation.
    pub const ALL: &'static [Self] = &[Self::Hit, Self::Miss, Self::Coalesced, Self::Bypass];

    /// As the header `Tokenwire-Cache` spells it.
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
    /// Which of several servers of a model was chosen makes no difference: the configuration says
    /// that they are as good as one another. Only a server's own name for the model does, since it
    /// stands in the body.
    fn new(request: &UpstreamRequest, owner: Option<&Owner>) -> Self {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        match owner {
            None => part(b"anybody"),
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
            .filter(|(name, _)| !BESIDE_THE_POINT.contains(&name.as_str()))
            .collect();
        headers.sort_unstable();
        part(&(headers.len() as u64).to_be_bytes());
        for (name, value) in headers {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        // What one client's own key paid for is not another's.
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

/// Whether the model says the same again: it is told to draw nothing, or what to draw from.
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
    /// Nothing shared yet; `None` where the options switch everything off.
    #[must_use]
    pub fn new(options: ReuseOptions) -> Option<Arc<Self>> {
        (options.coalesce || options.cache).then(|| {
            Arc::new(Self {
                options,
                state: Mutex::default(),
            })
        })
    }

    /// How many answers are remembered, and how many generations may be followed now.
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

    /// Finds the request's place. `generation` is the request's own.
    pub(crate) fn join(
        self: &Arc<Self>,
        request: &UpstreamRequest,
        generation: &Arc<Generation>,
        freshness: Freshness,
    ) -> (Role, Reused, Option<Ticket>) {
        let apart = (Role::Apart, Reused::Bypass, None);
        if freshness == Freshness::Private {
            return apart;
        }
        let deterministic = self.options.cache && is_deterministic(&request.body);
        if !(self.options.coalesce || deterministic) {
            return apart;
        }
        let owner = (!self.options.across_owners).then_some(&generation.meta().owner);
        let ticket = Ticket {
            reuse: self.clone(),
            key: Key::new(request, owner),
            deterministic,
        };
        let place = ticket.place(generation, freshness);
        let reused = match (&place, freshness) {
            (Role::Follows(_, Source::Live), _) => Reused::Coalesced,
            (Role::Follows(_, Source::Kept { .. }), _) => Reused::Hit,
            (_, Freshness::Any) => Reused::Miss,
            (_, Freshness::New | Freshness::Private) => Reused::Bypass,
        };
        (place, reused, Some(ticket))
    }

    /// Lets go of the answers that were kept long enough, and of the oldest of too many.
    fn prune(&self, state: &mut State, now: Instant) {
        while let Some((ended, key)) = state.ended.front().copied()
            && (state.ended.len() > self.options.entries
                || now.duration_since(ended) >= self.options.ttl)
        {
            state.ended.pop_front();
            // The slot may be another generation's by now.
            if let Entry::Occupied(slot) = state.slots.entry(key)
                && slot.get().ended == Some(ended)
            {
                slot.remove();
            }
        }
    }
}

/// The right to look for a place, and to look again if the first came to nothing.
pub(crate) struct Ticket {
    reuse: Arc<Reuse>,
    key: Key,
    deterministic: bool,
}

impl Ticket {
    /// The place of this generation now.
    pub(crate) fn place(&self, generation: &Arc<Generation>, freshness: Freshness) -> Role {
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
            if !leader.is_over() {
                if reuse.options.coalesce {
                    return Role::Follows(FollowerGuard::new(leader), Source::Live);
                }
                // It keeps its slot: the first to ask is the first to end.
                return Role::Apart;
            }
            // One that has just ended has not been noted yet.
            let is_kept = slot.ended.is_some() || leader.status() == Status::Completed;
            if self.deterministic && is_kept && leader.tail().is_ok() {
                return Role::Follows(
                    FollowerGuard::new(leader),
                    Source::Kept {
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
        Role::Leads(Leader {
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
