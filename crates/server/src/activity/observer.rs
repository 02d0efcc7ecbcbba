//! Tells the activity of starts and ends, beside the metrics.

use std::sync::Arc;

use tokenwire_core::engine::{GenerationEnd, GenerationStart, Observer, Resumption};
use tokenwire_core::model::error::ApiError;

use super::Activity;

/// Observes for the metrics and for the activity.
#[derive(Debug)]
pub(crate) struct ActivityObserver {
    metrics: Arc<dyn Observer>,
    activity: Activity,
    /// The names of the upstreams, in the order of the endpoints.
    upstreams: Vec<String>,
}

impl ActivityObserver {
    pub(crate) fn new(
        metrics: Arc<dyn Observer>,
        activity: Activity,
        upstreams: Vec<String>,
    ) -> Self {
        Self {
            metrics,
            activity,
            upstreams,
        }
    }
}

impl Observer for ActivityObserver {
    fn started(&self, start: &GenerationStart<'_>) {
        self.metrics.started(start);
        self.activity.started(start);
    }

    fn ended(&self, end: &GenerationEnd<'_>) {
        self.metrics.ended(end);
        let upstream = end
            .endpoint
            .and_then(|endpoint| self.upstreams.get(endpoint));
        self.activity.ended(end, upstream.map(String::as_str));
    }

    fn resumed(&self, after: Option<u64>, result: &Result<Resumption, ApiError>) {
        self.metrics.resumed(after, result);
    }
}
