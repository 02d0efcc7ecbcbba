//! What a node of a cluster is made of.

use std::sync::Arc;

use tokenwire_core::engine::Replicated;
use tokenwire_core::model::id::Tag;
use tokenwire_peer::{Network, Secret};
use tokenwire_store::redis::{RedisClient, RedisRetention};

/// A node, and the ways to what it shares with others.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The name of the process. Its streams' ids begin with it.
    pub tag: Tag,
    /// The name of the node, for people.
    pub name: String,
    /// The secret of all nodes.
    pub secret: Secret,
    /// The client of the Redis that all nodes share.
    pub redis: RedisClient,
    /// The way to other nodes.
    pub network: Arc<dyn Network>,
    /// How long Redis keeps what is stored.
    pub retention: RedisRetention,
    /// Which generations other nodes take over while they run.
    pub replicated: Replicated,
}
