//! The two languages of this crate, one written as the other.

use serde_json::value::RawValue;

use super::chat::{self, ChatBody, ChatRequest, ChatSettings};
use super::responses::{self, ResponsesRequest};
use crate::model::error::ApiError;

impl ChatRequest {
    /// Translates to the body of a streaming responses request.
    ///
    /// # Errors
    /// As [`ChatRequest::canonical`] and [`responses::write`].
    pub fn to_responses(&self, model: &str) -> Result<Vec<u8>, ApiError> {
        responses::write(&self.canonical()?, model)
    }
}

impl ResponsesRequest {
    /// Translates to a streaming chat completion for a server with these settings. `history` are the
    /// items of the earlier turns in their order.
    ///
    /// # Errors
    /// As [`ResponsesRequest::canonical`] and [`chat::write`].
    pub fn to_chat(
        &self,
        history: &[&RawValue],
        model: &str,
        settings: &ChatSettings,
    ) -> Result<ChatBody, ApiError> {
        chat::write(&self.canonical(history)?, model, settings).map_err(|error| {
            // The client named the turns, not their items.
            let of_history = error
                .param
                .as_deref()
                .is_some_and(|path| path.starts_with("previous_response_id."));
            if of_history {
                error.param("previous_response_id")
            } else {
                error
            }
        })
    }
}
