//! The model list of an upstream.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokenwire_core::upstream::{Endpoint, OpenError};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a list is used before it is fetched again, and how long a failure is remembered.
const FRESH: Duration = Duration::from_secs(10);
/// Time limit of fetching a list.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The model list of one upstream, fetched at most every ten seconds. Shared by all workers.
#[derive(Debug, Default)]
pub struct ModelList(Mutex<Option<(Instant, Fetched)>>);

/// The result of fetching a list: the upstream's own model objects, or why there are none.
pub(crate) type Fetched = Result<Arc<[Value]>, OpenError>;

impl ModelList {
    /// Returns the list. Concurrent calls wait for one request to the upstream.
    pub(crate) async fn get(&self, endpoint: &dyn Endpoint) -> Fetched {
        let mut kept = self.0.lock().await;
        if let Some((_, fetched)) = kept.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return fetched.clone();
        }
        let fetched = endpoint.models(TIMEOUT).await.map(|body| parse(&body));
        *kept = Some((Instant::now(), fetched.clone()));
        fetched
    }
}

/// Returns the objects of `data`; none if the body is not a list.
fn parse(body: &[u8]) -> Arc<[Value]> {
    let data = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|mut list| list.get_mut("data").map(Value::take));
    match data {
        Some(Value::Array(models)) => models.into(),
        _ => Arc::default(),
    }
}
