//! What clients ask, read and checked, and what is made of it for the upstream.
//!
//! A request is never turned into typed structs and back: that would drop every member that the
//! structs do not know. It stays raw JSON, each member with the bytes it came with, and only what
//! the gateway itself has to know is read out of it. From that follow the rules of this module:
//!
//! * A body that goes to an upstream of its own dialect goes up as it came;
//!   [`ChatRequest::upstream_body`] changes nothing but the model's name.
//! * A responses request that has to go to a chat upstream ([`ResponsesRequest::to_chat`]) is
//!   translated member by member. Members that are not known go up unchanged; what is known but
//!   cannot be said in a chat request is refused with `unsupported_parameter`. What is accepted
//!   without being sent is listed at [`ResponsesRequest::to_chat`].
//! * A chat request that has to go to an upstream that speaks Responses
//!   ([`ChatRequest::to_responses`]) is translated the other way; there members that are not known
//!   are refused, too.
//!
//! Everything here is pure: bytes in, bytes or an [`ApiError`](crate::model::error::ApiError) out. The
//! work is linear in the size of the body, nesting is bounded by [`MAX_DEPTH`], and no `Debug`
//! shows what a message says.

mod chat;
mod fields;
mod item;
mod json;
mod messages;
mod node;
mod object;
mod responses;
mod stream;
mod translation;

pub use chat::ChatRequest;
pub use fields::RequestFields;
pub use object::{MAX_DEPTH, RawObject};
pub use responses::ResponsesRequest;
pub use stream::StreamRequest;
