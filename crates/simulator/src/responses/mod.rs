//! The Responses dialect: the events that api.openai.com sends, and the response object.

mod events;
mod object;

pub(crate) use events::Events;
pub(crate) use object::Outline;
