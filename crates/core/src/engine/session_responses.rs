//! The responses of one socket that are not stored.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::model::id::GenerationId;

/// Most responses that one socket remembers; the oldest are forgotten first.
const MAX_RESPONSES: usize = 1024;

/// The `store: false` responses that were started on one socket. Later requests on that socket, and
/// no others, may name them as long as their logs are kept. Clones share the list.
#[derive(Clone, Default)]
pub struct SessionResponses(Arc<Mutex<VecDeque<GenerationId>>>);

impl SessionResponses {
    /// Adds a response.
    pub(super) fn note(&self, id: &GenerationId) {
        let mut responses = self.0.lock();
        if responses.len() >= MAX_RESPONSES {
            responses.pop_front();
        }
        responses.push_back(id.clone());
    }

    /// Removes a response: a turn that builds on it has failed. As at OpenAI, a later request that
    /// names it gets [`ErrorCode::PreviousResponseNotFound`].
    ///
    /// [`ErrorCode::PreviousResponseNotFound`]: crate::model::error::ErrorCode
    pub fn forget(&self, id: &str) {
        self.0.lock().retain(|known| known.as_str() != id);
    }

    /// Whether the response was started on this socket.
    pub(super) fn contains(&self, id: &GenerationId) -> bool {
        self.0.lock().iter().rev().any(|known| known == id)
    }
}

impl fmt::Debug for SessionResponses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionResponses")
            .field(&self.0.lock().len())
            .finish()
    }
}
