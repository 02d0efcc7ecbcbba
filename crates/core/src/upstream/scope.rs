//! What a client may use of the endpoints.

use std::fmt;

use super::route::Route;
use crate::model::error::{ApiError, ErrorCode};

/// Whether a name is in a client's scope.
type Test = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The models and the endpoints that a client may use. Retries, failover and hedging stay within it.
pub struct Scope {
    models: Test,
    endpoints: Test,
}

impl Scope {
    /// A scope of the models and the endpoints whose names pass these tests. Models are tested by the
    /// name that clients use.
    pub fn new(
        models: impl Fn(&str) -> bool + Send + Sync + 'static,
        endpoints: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            models: Box::new(models),
            endpoints: Box::new(endpoints),
        }
    }

    pub(super) fn has_model(&self, name: &str) -> bool {
        (self.models)(name)
    }

    pub(super) fn has_endpoint(&self, route: &Route) -> bool {
        (self.endpoints)(route.endpoint.name())
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

/// Refuses a model that is served, but not to this client.
pub(super) fn not_allowed(model: &str) -> ApiError {
    let shown: String = model.chars().take(200).collect();
    let message = format!("This credential does not have access to the model '{shown}'.");
    ApiError::new(ErrorCode::ModelNotAllowed, message).param("model")
}
