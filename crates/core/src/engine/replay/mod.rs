//! Another generation's log as an upstream.
//!
//! A record keeps what the upstream sent, so a log can be read back as the stream that it was made
//! of: every chunk as it came, usage and the end behind them. A translator that is given that
//! writes the same answer again, under its own ids.
//!
//! ```text
//!   upstream ──▶ leader ──▶ log ──▶ Replay ──▶ follower ──▶ its own log ──▶ its own readers
//! ```
//!
//! For a leader that still writes, this is one upstream stream for several requests; for one that
//! has ended well, a cache. The two differ in the pace only.

mod pace;
mod stream;

use crate::generation::{FollowerGuard, Generation, READ_BYTES};
use crate::log::LogReader;
use crate::model::error::ApiError;
use crate::model::event::{Ending, EventKind, Outcome};
use crate::model::id::Seq;
use crate::model::record::{Content, CorruptRecord, RecordBatch};
use crate::upstream::{OpenError, UpstreamHead, UpstreamResponse};
use stream::Replay;

/// Where a leader stands when it is first followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// It is being written.
    Live,
    /// It has ended well. It is given out at so many tokens a second; 0 is as fast as it is read.
    Kept {
        /// Tokens a second.
        pace: u32,
    },
}

/// What came of a leader.
pub(crate) enum Verdict {
    /// Its answer is this one's.
    Shared(UpstreamResponse),
    /// Its upstream gave nothing but an error, and would give it again.
    Refused(OpenError),
    /// The same, but another try may find the upstream in a better state.
    Retryable(OpenError),
    /// It came to nothing that can be shared, by no fault of its upstream's.
    NotShareable,
}

/// Waits until the leader's upstream has sent something, or the leader has ended without.
pub(crate) async fn follow(follower_guard: FollowerGuard, source: Source) -> Verdict {
    let leader = follower_guard.leader();
    if !begun(leader).await {
        return Verdict::NotShareable;
    }
    if leader.is_over() {
        let Some(Outcome {
            ending, relayed, ..
        }) = leader.outcome()
        else {
            return Verdict::NotShareable;
        };
        match ending {
            Ending::Completed { .. } => {}
            _ if matches!(source, Source::Kept { .. }) => return Verdict::NotShareable,
            Ending::Incomplete { .. } => {}
            // The upstream's own word is an answer; an owner's is his alone.
            Ending::Cancelled if relayed.is_none() => return Verdict::NotShareable,
            Ending::Cancelled => {}
            Ending::Failed(failure)
                if !leader.with_snapshot(crate::model::snapshot::Snapshot::has_begun) =>
            {
                match leader.response_head().now() {
                    Some(Err(error)) if !failure.retryable => return Verdict::Refused(error),
                    Some(Err(error)) => return Verdict::Retryable(error),
                    _ if failure.retryable => {
                        return Verdict::Retryable(OpenError::Failed(ApiError::from(&failure)));
                    }
                    _ => {}
                }
            }
            Ending::Failed(_) => {}
        }
    }
    // What the upstream said of itself at the time is no news any more once the answer is kept.
    let head = match (source, leader.response_head().now()) {
        (Source::Live, Some(Ok(head))) => head,
        _ => UpstreamHead::default(),
    };
    Verdict::Shared(UpstreamResponse {
        head,
        stream: Box::new(Replay::new(follower_guard, source)),
    })
}

/// Waits for the first record that says more than that the request was accepted; false if the log
/// went before it came.
async fn begun(leader: &Generation) -> bool {
    let mut reader = LogReader::new(leader.log().clone(), Seq(0));
    let mut batch = RecordBatch::default();
    loop {
        let read = std::future::poll_fn(|cx| reader.poll_read(cx, READ_BYTES, &mut batch)).await;
        if read.is_err() || batch.is_empty() {
            return false;
        }
        let says_something = |payload: &[u8]| match Content::decode(payload) {
            Ok(Content::Full(whole)) => {
                whole.raw.is_some()
                    || whole
                        .events
                        .iter()
                        .any(|event| !matches!(event, EventKind::Created | EventKind::Queued))
            }
            Ok(Content::Delta { .. }) => true,
            Err(CorruptRecord) => false,
        };
        if batch.iter().any(|record| says_something(record.payload)) {
            return true;
        }
    }
}
