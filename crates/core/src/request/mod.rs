//! Chat and responses requests: parsed, checked, and translated for the upstream.
//!
//! A request is never turned into typed structs and back, which would drop every member that the
//! structs do not know. It stays raw JSON, each member with the bytes it was received with. Only
//! what the gateway needs is read from it.
//!
//! * A body for an upstream of its own dialect goes up as it was received.
//!   [`ChatRequest::upstream_body`] changes only the model's name.
//! * A responses request for a chat upstream ([`ResponsesRequest::to_chat`]) is translated member
//!   by member. Unknown members go up unchanged. Known members without a counterpart are refused
//!   with `unsupported_parameter`. [`ResponsesRequest::to_chat`] lists what is accepted and not
//!   sent.
//! * A chat request for a Responses upstream ([`ChatRequest::to_responses`]) is translated the
//!   other way. Unknown members are refused, too.
//!
//! Everything here is pure: bytes in, bytes or an [`ApiError`](crate::model::error::ApiError) out.
//! The work is linear in the size of the body, nesting is bounded by [`MAX_DEPTH`], and no `Debug`
//! shows message contents.

mod chat;
mod fields;
mod idempotency_key;
mod item;
mod responses;
mod stream;

pub use crate::model::json::{MAX_DEPTH, RawObject};
pub use chat::ChatRequest;
pub use fields::RequestFields;
pub use idempotency_key::check_idempotency_key;
pub use responses::ResponsesRequest;
pub use stream::StreamRequest;
