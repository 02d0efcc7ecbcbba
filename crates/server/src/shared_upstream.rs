//! Upstreams as all workers share them.

use std::sync::Arc;

use tokenwire_core::upstream::EndpointStats;

use crate::config::schema;
use crate::model_list::ModelList;

/// The state of an upstream that all workers share.
#[derive(Clone, Debug)]
pub struct SharedUpstream {
    /// Its configuration.
    pub config: schema::Upstream,
    /// Its health and counters.
    pub stats: Arc<EndpointStats>,
    /// Its model list.
    pub models: Arc<ModelList>,
}
