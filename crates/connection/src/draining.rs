//! How a connection learns that the server drains.

use std::sync::Arc;

/// Says whether the server drains.
pub type Draining = Arc<dyn Fn() -> bool + Send + Sync>;
