//! Upstreams as all workers share them.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokenwire_core::upstream::{EndpointStats, OpenAiOptions, UpstreamTls};

use crate::config::schema;
use crate::config::secret::Secret;
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
    /// What TLS to it is set up with.
    pub tls: UpstreamTls,
}

// === impl SharedUpstream ===

impl SharedUpstream {
    /// Returns how its server is reached. `connect_timeout` and `max_event` are as in
    /// [`OpenAiOptions`].
    pub(crate) fn options(&self, connect_timeout: Duration, max_event: usize) -> OpenAiOptions {
        let config = &self.config;
        let secret = |secret: &Secret| SecretString::from(secret.expose());
        let headers = config.headers.iter();
        OpenAiOptions {
            name: config.name.clone(),
            base_url: config.base_url.clone(),
            api_key: config.api_key.as_ref().map(secret),
            connect_timeout,
            max_event,
            accept_client_key: config.accept_client_key,
            key_header: config.key_header.to_ascii_lowercase(),
            headers: headers
                .map(|(name, value)| (name.to_ascii_lowercase(), secret(value)))
                .collect(),
            tls: self.tls.clone(),
        }
    }

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
            tls: self.tls,
            stats: earlier.stats.clone(),
            models,
        }
    }
}
