//! Another generation's log as an upstream.
//!
//! A record keeps what the upstream sent, so a log can be read back as the upstream's stream: every
//! chunk unchanged, then usage and the end. A translator that reads it writes the same answer again,
//! under its own ids.
//!
//! ```text
//!   upstream ──▶ leader ──▶ log ──▶ Replay ──▶ follower ──▶ its own log ──▶ its own readers
//! ```
//!
//! A leader that still runs gives one upstream stream to several requests. A completed one is a
//! cache entry. The two differ in the pace only.

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

/// The phase of a leader when it is first followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaderPhase {
    /// It is being written.
    Running,
    /// It has completed, and its answer is replayed.
    Kept {
        /// Tokens a second; 0 is as fast as it is read.
        pace: u32,
    },
}

/// The result of following a leader.
pub(crate) enum FollowResult {
    /// Its answer is shared.
    Shared(UpstreamResponse),
    /// Its upstream gave nothing but an error that another attempt would give again.
    Refused(OpenError),
    /// Its upstream gave nothing but an error that another attempt may not give.
    Retryable(OpenError),
    /// It gave nothing that can be shared, and its upstream is not the cause.
    NotShareable,
}

/// Waits until the leader's upstream has sent something, or the leader has ended.
pub(crate) async fn follow(follower_guard: FollowerGuard, phase: LeaderPhase) -> FollowResult {
    let leader = follower_guard.leader();
    if !begun(leader).await {
        return FollowResult::NotShareable;
    }
    if leader.is_over() {
        let Some(outcome) = leader.outcome() else {
            return FollowResult::NotShareable;
        };
        let Outcome {
            ending, relayed, ..
        } = &*outcome;
        match ending {
            Ending::Completed => {}
            _ if matches!(phase, LeaderPhase::Kept { .. }) => return FollowResult::NotShareable,
            Ending::Incomplete { .. } => {}
            // A cancelled answer is shared if its upstream cancelled it, not if its owner did.
            Ending::Cancelled if relayed.is_none() => return FollowResult::NotShareable,
            Ending::Cancelled => {}
            Ending::Failed(failure) if !leader.has_begun() => match leader.response_head().now() {
                Some(Err(error)) if !failure.retryable => return FollowResult::Refused(error),
                Some(Err(error)) => return FollowResult::Retryable(error),
                _ if failure.retryable => {
                    return FollowResult::Retryable(OpenError::Failed(ApiError::from(failure)));
                }
                _ => {}
            },
            Ending::Failed(_) => {}
        }
    }
    // The upstream's headers are out of date once the answer is kept.
    let head = match (phase, leader.response_head().now()) {
        (LeaderPhase::Running, Some(Ok(head))) => head,
        _ => UpstreamHead::default(),
    };
    FollowResult::Shared(UpstreamResponse {
        head,
        stream: Box::new(Replay::new(follower_guard, phase)),
    })
}

/// Waits for the first record that the upstream caused. False if the log expired before it.
async fn begun(leader: &Generation) -> bool {
    let mut reader = LogReader::new(leader.log().clone(), Seq(0));
    let mut batch = RecordBatch::default();
    loop {
        let read = std::future::poll_fn(|cx| reader.poll_read(cx, READ_BYTES, &mut batch)).await;
        if read.is_err() || batch.is_empty() {
            return false;
        }
        let from_upstream = |payload: &[u8]| match Content::decode(payload) {
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
        if batch.iter().any(|record| from_upstream(record.payload)) {
            return true;
        }
    }
}
