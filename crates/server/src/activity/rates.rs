//! Counts of one second.

use serde_json::json;

/// What has happened in a scope since the last rates.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) started: u64,
    pub(super) ended: u64,
    pub(super) failed: u64,
    /// Pieces of text, reasoning, refusal or arguments.
    pub(super) tokens: u64,
    /// Streams that are open now.
    pub(super) open: usize,
}

// === impl Counts ===

impl Counts {
    /// Returns the event, without its last brace.
    pub(super) fn open_json(&self, millis: u64) -> String {
        let Self {
            started,
            ended,
            failed,
            tokens,
            open,
        } = self;
        super::event::open(&json!({
            "type": "tokenwire:rates",
            "interval_ms": millis,
            "open": open,
            "started": started,
            "ended": ended,
            "failed": failed,
            "tokens": tokens,
        }))
    }
}
