//! The responses of one socket that are not stored.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::generation::Generation;
use crate::model::id::GenerationId;
use crate::model::snapshot::Status;

/// Most responses that one socket remembers; the oldest are forgotten first.
const MAX_RESPONSES: usize = 1024;

/// The `store: false` responses that were started on one socket. Later requests on that socket, and
/// no others, may name them as long as their logs are kept. One that a failed response continued is
/// forgotten, as OpenAI's WebSocket mode does. Clones share the list.
#[derive(Clone, Default)]
pub struct SessionResponses(Arc<Mutex<VecDeque<Entry>>>);

struct Entry {
    id: GenerationId,
    /// The latest response that continues it.
    continued_by: Weak<Generation>,
}

impl SessionResponses {
    /// Adds a response.
    pub(super) fn note(&self, id: &GenerationId) {
        let mut responses = self.0.lock();
        if responses.len() >= MAX_RESPONSES {
            responses.pop_front();
        }
        responses.push_back(Entry {
            id: id.clone(),
            continued_by: Weak::new(),
        });
    }

    /// Notes that a response continues another one. If it fails, the other one is forgotten.
    pub(super) fn note_continuation(&self, previous: &str, by: &Arc<Generation>) {
        let mut responses = self.0.lock();
        let known = responses
            .iter_mut()
            .find(|entry| entry.id.as_str() == previous);
        if let Some(entry) = known {
            entry.continued_by = Arc::downgrade(by);
        }
    }

    /// Forgets a response.
    pub(super) fn forget(&self, id: &str) {
        self.0.lock().retain(|entry| entry.id.as_str() != id);
    }

    /// Whether the response was started on this socket and can be named.
    pub(super) fn contains(&self, id: &GenerationId) -> bool {
        let responses = self.0.lock();
        let known = responses.iter().rev().find(|entry| entry.id == *id);
        known.is_some_and(|entry| {
            let continuation = entry.continued_by.upgrade();
            continuation.is_none_or(|generation| generation.status() != Status::Failed)
        })
    }
}

impl fmt::Debug for SessionResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionResponses")
            .field(&self.0.lock().len())
            .finish()
    }
}
