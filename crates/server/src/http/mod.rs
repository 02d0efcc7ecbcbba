//! The HTTP API: one file per group of routes, and the parts that they share.

mod access;
mod activity;
mod body_deadline;
mod chat;
mod documentation;
mod guarded_body;
mod health;
mod inbound;
mod metrics;
mod middleware;
mod models;
mod object_body;
mod outbound;
mod page;
mod presented;
mod reload;
mod resource;
mod responses;
mod revocable_body;
mod routes;
mod sockets;
mod streams;
mod tickets;
mod timing;
mod unknown_path;
mod usage;
mod webhooks;

pub use access::Operations;
pub use middleware::request_middleware;
pub use routes::{configure, configure_operations};
