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

// === impl SharedUpstream ===

impl SharedUpstream {
    /// Returns this upstream with what is known of it from before a reload, as far as it is still the
    /// same: health and counters go with its URL and limits, the model list also with its key.
    pub(crate) fn after(self, earlier: &Self) -> Self {
        let (later, known) = (&self.config, &earlier.config);
        if later.base_url != known.base_url || later.limits != known.limits {
            return self;
        }
        let models = if later.api_key == known.api_key {
            earlier.models.clone()
        } else {
            self.models
        };
        Self {
            config: self.config,
            stats: earlier.stats.clone(),
            models,
        }
    }
}
