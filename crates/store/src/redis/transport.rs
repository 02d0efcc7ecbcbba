//! Replaces the socket to Redis.

use std::fmt;

use ::redis::{RedisResult, Value};
use futures::future::BoxFuture;

/// A command: its name and its arguments.
pub type Command = Vec<Vec<u8>>;

/// Takes requests to a Redis, in place of the connection of a [`RedisClient`](super::RedisClient): a
/// simulation of one.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Makes a connection. Requests that wait on the one before are lost.
    ///
    /// # Errors
    /// Those of a connection.
    fn connect(&self) -> BoxFuture<'_, RedisResult<()>>;

    /// Sends commands in one piece and returns a value for each, which may be an error of its own.
    ///
    /// # Errors
    /// Those of a connection.
    fn exchange(&self, commands: Vec<Command>) -> BoxFuture<'static, RedisResult<Vec<Value>>>;
}
