//! What observers and meters are told of an end.

use std::time::Duration;

use crate::generation::TokenIntervals;
use crate::model::snapshot::{Api, Meta, Status};
use crate::model::trace::TraceContext;
use crate::model::usage::TokenUsage;

/// What is known at an end.
#[derive(Clone, Copy, Debug)]
pub struct GenerationEnd<'a> {
    /// The generation.
    pub meta: &'a Meta,
    /// The API of its request.
    pub asked_in: Api,
    /// Which of the upstream's servers was asked ([`Target::endpoint`](crate::upstream::Target));
    /// `None` if the answer was another generation's.
    pub endpoint: Option<usize>,
    /// How it ended. A generation that was deleted while it ran counts as cancelled.
    pub status: Status,
    /// The code of its failure: one of [`ErrorCode`](crate::model::error::ErrorCode)'s, or the
    /// upstream's own.
    pub code: Option<&'a str>,
    /// Why it is incomplete: `max_output_tokens` or `content_filter`.
    pub reason: Option<&'a str>,
    /// Events in its log.
    pub events: u64,
    /// Deltas of text, reasoning, refusal or arguments among them.
    pub tokens: u64,
    /// Whether an upstream may have worked on the request. Known for metered generations only.
    pub asked: bool,
    /// The usage as raw JSON in the Responses shape, if the upstream reported it.
    pub usage: Option<&'a str>,
    /// The tokens in it.
    pub token_usage: Option<TokenUsage>,
    /// Time from the request to the upstream to its first token, if there was one.
    pub first_token: Option<Duration>,
    /// Times between its tokens, if there were several.
    pub token_intervals: Option<&'a TokenIntervals>,
    /// Time from its start to its end.
    pub duration: Duration,
    /// Its span, where it belongs to a trace.
    pub trace: Option<&'a TraceContext>,
}
