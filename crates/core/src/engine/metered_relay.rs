//! What a request uses that an upstream answers without a generation.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::meter::Metered;
use crate::upstream::OpenError;

/// A request on its way. Dropped before its answer, since the client has gone, it counts as worked
/// on.
pub(super) struct MeteredRelay(Option<Arc<dyn Metered>>);

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

// === impl MeteredRelay ===

impl MeteredRelay {
    pub(super) fn new(metered: Arc<dyn Metered>) -> Self {
        Self(Some(metered))
    }

    /// Settles an answer. One that failed uses nothing.
    pub(super) fn answered(mut self, answer: &Result<Bytes, OpenError>) {
        let metered = self.0.take();
        let (Some(metered), Ok(body)) = (metered, answer) else {
            return;
        };
        let answer: Option<Answer<'_>> = serde_json::from_slice(body).ok();
        let usage = answer.and_then(|answer| answer.usage);
        metered.relayed(usage.map(RawValue::get));
    }
}

impl Drop for MeteredRelay {
    fn drop(&mut self) {
        if let Some(metered) = self.0.take() {
            metered.relayed(None);
        }
    }
}
