//! A Responses request with all that its ids name.

use serde_json::value::RawValue;

use super::history::{History, no_response};
use super::{Engine, StartRequest};
use crate::model::account::{AccountKind, Charge};
use crate::model::error::ApiError;
use crate::model::id::GenerationId;
use crate::request::{ResponsesRequest, StreamRequest};
use crate::upstream::BodyWriter;

/// The earlier turns of a request, and what the request becomes by them.
pub(super) struct Conversation {
    /// The response that the request continues.
    pub(super) predecessor: Option<GenerationId>,
    pub(super) history: History,
    /// The request with its references resolved and its sealed content opened, if it has any.
    changed: Option<ResponsesRequest>,
}

// === impl Conversation ===

impl Conversation {
    /// Returns the request as it is translated.
    pub(super) fn request<'a>(&'a self, received: &'a ResponsesRequest) -> &'a ResponsesRequest {
        self.changed.as_ref().unwrap_or(received)
    }

    /// Replaces the request, if there is a replacement.
    pub(super) fn change(&mut self, changed: Option<ResponsesRequest>) {
        if changed.is_some() {
            self.changed = changed;
        }
    }

    /// Returns a writer for chat servers with other settings. It keeps the request and its history
    /// and writes nothing before it is asked.
    pub(super) fn into_writer(self, received: StreamRequest, charge: Charge) -> BodyWriter {
        let Self {
            history, changed, ..
        } = self;
        let request = match (changed, received) {
            (Some(changed), _) => Some(changed),
            (None, StreamRequest::Responses(received)) => Some(received),
            (None, _) => None,
        };
        BodyWriter::new(move |model, settings| {
            let body = request
                .as_ref()?
                .to_chat(&history.items(), model, settings)
                .ok()?
                .body;
            let account = charge.account();
            Some(account.hold(AccountKind::Requests, body))
        })
    }
}

// === impl Engine ===

impl Engine {
    /// Returns the earlier turns of a request and resolves its references. `inputs` grows by what
    /// that takes.
    pub(super) async fn conversation(
        &self,
        received: &ResponsesRequest,
        request: &StartRequest,
        inputs: &mut Charge,
    ) -> Result<Conversation, ApiError> {
        let session = request.session.as_ref();
        let predecessor: Option<GenerationId> = match received.previous_response_id() {
            Some(id) => Some(id.parse().map_err(|_| no_response(&id))?),
            None => None,
        };
        let history = match &predecessor {
            Some(id) => self.chain(id, &request.owner, session).await?,
            None => History::default(),
        };
        self.renew(&history);
        let items = history.items();
        let changed = self.resolve(received, &items, request).await?;
        if !items.is_empty() || changed.is_some() {
            let whole = changed.as_ref().unwrap_or(received);
            inputs.try_start(whole.memory_size() + bytes(&items))?;
        }
        Ok(Conversation {
            predecessor,
            history,
            changed,
        })
    }
}

/// Bytes of all items.
pub(super) fn bytes(items: &[&RawValue]) -> usize {
    items.iter().map(|item| item.get().len()).sum()
}
