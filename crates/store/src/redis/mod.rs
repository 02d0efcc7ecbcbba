//! Redis as the place that several nodes share.
//!
//! [`RedisStore`] keeps logs and response objects. [`RedisClient`] sends requests over one connection,
//! with a bound on the time and on what waits: to a server, to the master that Sentinels watch, or to a
//! Redis Cluster.

mod address;
mod client;
mod connection;
mod error;
mod layout;
mod link;
mod scripts;
mod server_info;
mod store;
mod transport;
mod verified;

pub use client::{RedisClient, RedisOptions};
pub use error::RedisError;
pub use server_info::ServerInfo;
pub use store::{RedisRetention, RedisStore};
pub use transport::{Command, Transport};
