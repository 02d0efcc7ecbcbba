//! Redis as the place that several nodes share.
//!
//! [`RedisClient`] sends requests over one connection, with a bound on the time and on what waits.

mod client;
mod connection;
mod error;
mod server_info;

pub use client::{RedisClient, RedisOptions};
pub use error::RedisError;
pub use server_info::ServerInfo;
