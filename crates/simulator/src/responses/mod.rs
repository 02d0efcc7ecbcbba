//! The Responses dialect: events as api.openai.com sends them, and the response object.

mod events;
mod object;
pub(crate) mod other;
pub(crate) mod strict;

pub(crate) use events::Events;
pub(crate) use object::Outline;
