//! Events about all streams, on a socket that asks for them.

use std::fmt;
use std::task::{Context, Poll};

use tokenwire_core::model::error::ApiError;

/// Gives the events that a client of a socket may see.
pub trait ActivityFeed: fmt::Debug {
    /// Begins to watch, after the event with this id if there is one.
    ///
    /// # Errors
    /// Why the client may not watch now.
    fn watch(&self, after: Option<&str>) -> Result<Box<dyn ActivityEvents>, ApiError>;
}

/// The events for one socket. Dropping it ends the watch. It holds a position and no queue: a client that
/// reads slowly is told by an event what it has lost.
pub trait ActivityEvents: fmt::Debug {
    /// Returns the next event, a JSON object. Wakes the task when there is one.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<String>;

    /// Returns the id that a watch in place of this one goes on after; `None` where that has to begin
    /// anew.
    fn last_id(&self) -> Option<String>;
}
