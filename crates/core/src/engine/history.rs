//! The turns before a request that names a previous response.

use serde_json::value::RawValue;

use super::Engine;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::id::{GenerationId, Owner};
use crate::model::snapshot::Status;

impl Engine {
    /// Returns the items of all turns up to and including the previous response.
    ///
    /// # Errors
    /// [`ErrorCode::PreviousResponseNotFound`] and [`ErrorCode::PreviousResponseUnusable`].
    pub(super) fn history(
        &self,
        previous: &str,
        owner: &Owner,
    ) -> Result<Vec<Box<RawValue>>, ApiError> {
        let missing = || {
            ApiError::new(
                ErrorCode::PreviousResponseNotFound,
                format!("Previous response with id '{previous}' not found."),
            )
            .param("previous_response_id")
        };
        let id: GenerationId = previous.parse().map_err(|_| missing())?;
        let generation = self
            .registry
            .directory
            .find(&id, owner)
            .filter(|generation| generation.meta().store)
            .ok_or_else(missing)?;
        let unusable = |why: &str| {
            ApiError::new(
                ErrorCode::PreviousResponseUnusable,
                format!("Previous response '{previous}' {why}."),
            )
            .param("previous_response_id")
        };
        match generation.status() {
            Status::Completed | Status::Incomplete => {}
            Status::Queued | Status::InProgress => return Err(unusable("has not ended yet")),
            Status::Failed => return Err(unusable("failed and holds no answer to build on")),
            Status::Cancelled => {
                return Err(unusable(
                    "was cancelled and holds no complete answer to build on",
                ));
            }
        }
        let output: Vec<Box<RawValue>> =
            serde_json::from_slice(&generation.output_json()).unwrap_or_default();
        let conversation = generation.conversation();
        Ok(conversation
            .history
            .iter()
            .chain(&conversation.input)
            .cloned()
            .chain(output)
            .collect())
    }
}
