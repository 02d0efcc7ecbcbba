//! A stream of a lost node of which nothing is stored: its one event.

use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, EventKind, Failure, Outcome};
use crate::model::id::{GenerationId, Owner, Seq};
use crate::model::include::Form;
use crate::model::snapshot::{Api, Meta, Snapshot};
use crate::model::time::unix_now;
use crate::request::ResponsesRequest;

/// The number of the event that ends a lost stream. It is above every number that a client of such
/// a stream has applied.
pub const LOST_SEQ: Seq = Seq(2_147_483_647);

/// The only event that is left of a stream of a lost node.
#[derive(Debug)]
pub struct LostStream {
    /// The generation.
    pub id: GenerationId,
    /// `response.failed` with the whole object, numbered [`LOST_SEQ`].
    pub event: Vec<u8>,
    /// The same as an error.
    pub error: ApiError,
}

// === impl LostStream ===

impl LostStream {
    /// Returns what is left of this generation.
    #[must_use]
    pub fn new(id: &GenerationId) -> Self {
        let error = producer_lost(id);
        let mut event =
            format!(r#"{{"type":"response.failed","sequence_number":{LOST_SEQ},"response":"#)
                .into_bytes();
        // Only the id is known.
        let meta = Meta {
            id: id.clone(),
            owner: Owner::Anonymous,
            created_at: unix_now(),
            model: String::new(),
            request_fields: ResponsesRequest::from_input("", None)
                .request_fields()
                .into_json(),
            api: Api::Responses,
            background: false,
            store: false,
            include_usage: false,
        };
        let mut snapshot = Snapshot::default();
        snapshot.apply(Seq(0), EventKind::Created);
        let ending = EventKind::End(Outcome {
            ending: Ending::Failed(Failure::from(&error)),
            at: meta.created_at,
            usage: None,
            relayed: None,
        });
        snapshot.apply(LOST_SEQ, ending);
        snapshot.write_response(&meta, Form::default(), &mut event);
        event.push(b'}');
        Self {
            id: id.clone(),
            event,
            error,
        }
    }
}

/// The failure of an answer whose writer is lost: what it stored is kept.
pub(super) fn writer_lost(id: &GenerationId) -> ApiError {
    ApiError::new(
        ErrorCode::ProducerLost,
        format!("The process that wrote '{id}' is lost. What it had stored of the answer is kept."),
    )
}

pub(super) fn producer_lost(id: &GenerationId) -> ApiError {
    ApiError::new(
        ErrorCode::ProducerLost,
        format!("The node that wrote '{id}' is lost, and nothing of the answer is kept."),
    )
}
