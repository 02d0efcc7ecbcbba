//! The HTTP API: a file a group of routes, and what they share.

mod chat;
mod cross_origin;
mod documentation;
mod health;
mod inbound;
mod metrics;
mod middleware;
mod models;
mod outbound;
mod page;
mod resource;
mod responses;
mod routes;
mod sockets;
mod streams;
mod webhooks;

pub use cross_origin::OriginPolicy;
pub use middleware::envelope;
pub use routes::configure;
