//! The turns before a request that names a previous response.
//!
//! A turn holds its own input and the id of its predecessor. The conversation is put together by
//! walking that chain when it is needed: for the request to the upstream, and for a list of the
//! input items.

use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::time::Instant;

use super::directory::Part;
use super::{Engine, Located, SessionResponses};
use crate::generation::Generation;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::id::{GenerationId, Owner};
use crate::model::snapshot::Status;

/// How long a conversation may be that a turn builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Most earlier turns.
    pub turns: usize,
    /// Most bytes of all their items.
    pub bytes: usize,
}

/// The turns that a turn builds on, oldest first.
#[derive(Default)]
pub struct History {
    turns: Vec<Turn>,
}

struct Turn {
    generation: Arc<Generation>,
    output: Vec<Box<RawValue>>,
}

// === impl HistoryLimits ===

impl Default for HistoryLimits {
    /// 1,000 turns, 64 MiB.
    fn default() -> Self {
        Self {
            turns: 1000,
            bytes: 64 * 1024 * 1024,
        }
    }
}

// === impl History ===

impl History {
    /// Returns the items of all turns, inputs and outputs in order.
    #[must_use]
    pub fn items(&self) -> Vec<&RawValue> {
        self.turns
            .iter()
            .flat_map(|turn| {
                let input = &turn.generation.header().input;
                input.iter().chain(&turn.output)
            })
            .map(|item| &**item)
            .collect()
    }
}

impl History {
    /// Whether all turns are stored, so that any later request can find them.
    pub(super) fn is_stored(&self) -> bool {
        self.turns.iter().all(|turn| turn.generation.meta().store)
    }
}

impl Turn {
    fn new(generation: Arc<Generation>) -> Self {
        let output = serde_json::from_slice(&generation.output_json()).unwrap_or_default();
        Self { generation, output }
    }

    /// Bytes of its items.
    fn len(&self) -> usize {
        let input = &self.generation.header().input;
        let items = input.iter().chain(&self.output);
        items.map(|item| item.get().len()).sum()
    }
}

// === impl Engine ===

impl Engine {
    /// Returns the turns that a generation builds on.
    ///
    /// # Errors
    /// As for a request that names its predecessor: [`ErrorCode::PreviousResponseNotFound`] if one
    /// of the turns is not kept any more.
    pub async fn history(&self, generation: &Generation) -> Result<History, ApiError> {
        match &generation.header().predecessor {
            Some(id) => self.chain(id, &generation.meta().owner, None).await,
            None => Ok(History::default()),
        }
    }

    /// Returns all turns up to and including the previous response of a request.
    ///
    /// # Errors
    /// [`ErrorCode::PreviousResponseNotFound`] and [`ErrorCode::PreviousResponseUnusable`].
    pub(super) async fn chain(
        &self,
        previous: &GenerationId,
        owner: &Owner,
        session: Option<&SessionResponses>,
    ) -> Result<History, ApiError> {
        let limits = self.history_limits;
        let mut turns = Vec::new();
        let mut bytes = 0;
        let mut next = Some(previous.clone());
        while let Some(id) = next {
            let Some(generation) = self.turn(&id, owner, session).await? else {
                return Err(not_found(previous, &id));
            };
            check_status(&generation)?;
            next = generation.header().predecessor.clone();
            let turn = Turn::new(generation);
            bytes += turn.len();
            turns.push(turn);
            if turns.len() > limits.turns || bytes > limits.bytes {
                let HistoryLimits { turns, bytes } = limits;
                let why = format!(
                    "ends a conversation of more than {turns} turns or {bytes} bytes, which is the limit"
                );
                return Err(unusable(previous, &why));
            }
        }
        turns.reverse();
        Ok(History { turns })
    }

    /// Keeps the turns that a new one builds on from now on. Called at once: before the new turn
    /// starts they could be the oldest, and go.
    pub(super) fn renew(&self, history: &History) {
        let turns = history.turns.iter().map(|turn| turn.generation.meta());
        let now = Instant::now();
        for meta in turns.clone() {
            self.registry.directory.renew(&meta.id, now);
        }
        let stored = turns.filter(|meta| meta.store);
        let stored: Vec<_> = stored.map(|meta| meta.id.clone()).collect();
        if let Some(replica) = &self.replica {
            replica.renew(stored.clone());
        }
        if let Some(persistence) = &self.persistence {
            persistence.renew(stored);
        }
    }

    /// Returns a stored response of this owner, or one of this socket.
    async fn turn(
        &self,
        id: &GenerationId,
        owner: &Owner,
        session: Option<&SessionResponses>,
    ) -> Result<Option<Arc<Generation>>, ApiError> {
        let directory = &self.registry.directory;
        let found = match directory.lookup(id, owner, Part::Object).await? {
            // The store has no input of responses that are not stored.
            Located::Stored(stored) if !stored.header.meta.store => None,
            located => self.bring(id, owner, located).await?.here(),
        };
        Ok(found.filter(|generation| {
            let meta = generation.meta();
            meta.store || session.is_some_and(|session| session.contains(&meta.id))
        }))
    }
}

/// The error of a previous response that is not there.
pub(super) fn no_response(previous: &str) -> ApiError {
    ApiError::new(
        ErrorCode::PreviousResponseNotFound,
        format!("Previous response with id '{previous}' not found."),
    )
    .param("previous_response_id")
}

/// The error of a turn that is not there: the previous response, or one before it.
fn not_found(previous: &GenerationId, missing: &GenerationId) -> ApiError {
    let mut error = no_response(previous.as_str());
    if missing != previous {
        error.message += &format!(" It builds on '{missing}', which is not kept any more.");
    }
    error
}

fn unusable(id: &GenerationId, why: &str) -> ApiError {
    let message = format!("Previous response '{id}' {why}.");
    ApiError::new(ErrorCode::PreviousResponseUnusable, message).param("previous_response_id")
}

fn check_status(generation: &Generation) -> Result<(), ApiError> {
    let why = match generation.status() {
        Status::Completed | Status::Incomplete => return Ok(()),
        Status::Queued | Status::InProgress => "has not ended yet",
        Status::Failed => "failed and holds no answer to build on",
        Status::Cancelled => "was cancelled and holds no complete answer to build on",
    };
    Err(unusable(&generation.meta().id, why))
}
