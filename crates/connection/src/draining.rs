//! How a connection learns that the server drains.

use futures::future::LocalBoxFuture;

/// Says whether the server drains.
pub trait Draining: Send + Sync {
    /// Returns whether the server drains. Connections then close after the response that they carry.
    fn is_draining(&self) -> bool;

    /// Waits until the server drains. HTTP/2 connections then send GOAWAY.
    fn begins(&self) -> LocalBoxFuture<'static, ()>;
}
