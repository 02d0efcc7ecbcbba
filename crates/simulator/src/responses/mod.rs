//! The Responses dialect: events as api.openai.com sends them, and the response object.

mod events;
pub(crate) mod other;
mod outline;
pub(crate) mod strict;

pub(crate) use events::Events;
pub(crate) use outline::Outline;
