//! What is known of a generation at its start.

use std::sync::Arc;

use crate::model::id::{GenerationId, Owner};

/// The API that a generation's upstream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Api {
    /// Chat completions.
    #[default]
    Chat,
    /// Responses.
    Responses,
}

/// Facts about a generation that are known at its start.
#[derive(Clone)]
pub struct Meta {
    /// The generation's id.
    pub id: GenerationId,
    /// The owner.
    pub owner: Owner,
    /// Unix time of its start, in seconds.
    pub created_at: u64,
    /// The model as the client named it.
    pub model: String,
    /// The request's fields that the response object repeats: `"name":value` pairs, separated by
    /// commas, without braces.
    pub request_fields: Arc<str>,
    /// The upstream's API. Chat clients get the raw chunks of chat upstreams only.
    pub api: Api,
    /// Whether the generation runs to its end without a reader.
    pub background: bool,
    /// Whether the response object outlives the log.
    pub store: bool,
    /// Whether chat chunks that are made from events end with a usage chunk. Chunks of a chat
    /// upstream are relayed as they are.
    pub include_usage: bool,
}

impl std::fmt::Debug for Meta {
    /// Omits the request fields, which may hold instructions.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meta")
            .field("id", &self.id)
            .field("model", &self.model)
            .field("api", &self.api)
            .finish_non_exhaustive()
    }
}
