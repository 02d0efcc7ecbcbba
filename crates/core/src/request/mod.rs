//! Chat and responses requests: parsed, checked, and translated for the upstream.
//!
//! A request is never turned into typed structs and back, which would drop every member that the
//! structs do not know. It stays raw JSON, each member with the bytes it was received with. Only
//! what the gateway needs is read from it.
//!
//! * A body for an upstream of its own language goes up as it was received.
//!   [`ChatRequest::upstream_body`] changes only the model's name.
//! * For an upstream of another language it is read into [canonical form](canonical) and written
//!   from there. No language knows another one: [`chat`] and [`responses`] each read and write the
//!   canonical form. A language that this crate does not know does the same from outside:
//!   [`StreamRequest::Canonical`].
//! * What the written language has no counterpart for is refused with `unsupported_parameter` and
//!   the name that the client used. Chat servers get members that are unknown here, unchanged.
//!
//! Everything here is pure: bytes in, bytes or an [`ApiError`](crate::model::error::ApiError) out.
//! The work is linear in the size of the body, nesting is bounded by [`MAX_DEPTH`], and no `Debug`
//! shows message contents.

pub mod canonical;
pub mod chat;
mod fields;
mod idempotency_key;
mod item;
pub mod responses;
mod stream;
mod tool_names;
mod translation;

pub use crate::model::json::{MAX_DEPTH, RawObject};
pub use chat::{ChatRequest, ChatSettings};
pub use fields::RequestFields;
pub use idempotency_key::check_idempotency_key;
pub use responses::ResponsesRequest;
pub use stream::{ForeignRequest, StreamRequest};
pub use tool_names::{ToolName, ToolNames};
