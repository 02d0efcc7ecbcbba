//! The spans that wait for their export, bounded in count and bytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Most spans that wait.
const MAX_SPANS: usize = 8192;

/// Most bytes of spans that wait.
const MAX_BYTES: usize = 8 << 20;

/// Spans of one export.
pub(super) const BATCH: usize = 512;

/// Spans that wait, each encoded. Shared by all workers and the exporter.
#[derive(Debug, Default)]
pub(super) struct SpanQueue {
    waiting: Mutex<Waiting>,
    /// Told when a batch is full.
    full: Notify,
    counts: ExportCounts,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// What became of spans and exports since the start.
#[derive(Debug, Default)]
pub struct ExportCounts {
    /// Spans that a collector has taken.
    pub spans_sent: AtomicU64,
    /// Spans that were dropped since too many waited.
    pub spans_dropped: AtomicU64,
    /// Spans that no collector has taken: their export failed for good.
    pub spans_failed: AtomicU64,
    /// Spans that a collector has rejected.
    pub spans_rejected: AtomicU64,
    /// Exports of metrics that a collector has taken.
    pub metrics_sent: AtomicU64,
    /// Exports of metrics that failed.
    pub metrics_failed: AtomicU64,
}

// === impl SpanQueue ===

impl SpanQueue {
    /// Adds a span, or drops it if too many wait.
    pub(super) fn push(&self, span: Vec<u8>) {
        let mut waiting = self.waiting.lock();
        let bytes = waiting.bytes + span.len();
        if waiting.spans.len() >= MAX_SPANS || bytes > MAX_BYTES {
            drop(waiting);
            self.counts.spans_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes = bytes;
        waiting.spans.push_back(span);
        let is_full = waiting.spans.len().is_multiple_of(BATCH);
        drop(waiting);
        if is_full {
            self.full.notify_one();
        }
    }

    /// Takes the spans of one export.
    pub(super) fn take(&self) -> Vec<Vec<u8>> {
        let mut waiting = self.waiting.lock();
        let count = waiting.spans.len().min(BATCH);
        let batch: Vec<_> = waiting.spans.drain(..count).collect();
        waiting.bytes -= batch.iter().map(Vec::len).sum::<usize>();
        // Frees what a burst has taken.
        if waiting.spans.is_empty() {
            waiting.spans = VecDeque::new();
        }
        batch
    }

    /// Waits until a batch is full.
    pub(super) async fn is_full(&self) {
        self.full.notified().await;
    }

    pub(super) fn counts(&self) -> &ExportCounts {
        &self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(queue: &SpanQueue) -> u64 {
        queue.counts.spans_dropped.load(Ordering::Relaxed)
    }

    #[test]
    fn queue_is_bounded_in_count() {
        let queue = SpanQueue::default();
        for _ in 0..MAX_SPANS + 3 {
            queue.push(vec![0; 8]);
        }
        assert_eq!(dropped(&queue), 3);
        assert_eq!(queue.take().len(), BATCH);
        queue.push(vec![0; 8]);
        assert_eq!(dropped(&queue), 3);
        let mut left = 0;
        while let count @ 1.. = queue.take().len() {
            left += count;
        }
        assert_eq!(left, MAX_SPANS - BATCH + 1);
        assert_eq!(queue.waiting.lock().bytes, 0);
    }

    #[test]
    fn queue_is_bounded_in_bytes() {
        let queue = SpanQueue::default();
        for _ in 0..5 {
            queue.push(vec![0; MAX_BYTES / 4]);
        }
        assert_eq!(dropped(&queue), 1);
        assert_eq!(queue.take().len(), 4);
    }
}
