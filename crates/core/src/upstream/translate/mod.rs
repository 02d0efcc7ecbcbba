//! From upstream payloads to records: two languages in, one vocabulary of events out.
//!
//! A translator is told each payload and appends what it means to a [`RecordWriter`]. It keeps the state
//! that a single chunk does not show: which items are open, which choice has finished, what usage
//! was last told. It never does I/O and never fails: what is wrong with a stream is an [`Ending`]
//! like any other.

mod chat;
mod chunk;
mod hints;
mod record_writer;
mod responses;
mod translator;
mod usage;

pub use chat::ChatTranslator;
pub(crate) use chat::responses_logprobs as complete_logprobs;
pub(crate) use hints::chat_annotation;
pub use record_writer::RecordWriter;
pub use responses::ResponsesTranslator;
pub(crate) use translator::Translator;
pub(crate) use usage::to_chat as chat_usage;

use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, Failure};

/// Where a stream stands after a payload.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// More is expected.
    Open,
    /// Every choice has its finish reason: what may still come is usage and `[DONE]`, and silence
    /// is an end, too.
    Finished,
    /// The upstream has said its last word; the terminal event can be written.
    Over(Ending),
}

/// What a payload brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated {
    /// Where the stream stands.
    pub progress: Progress,
    /// Whether there was content, reasoning, a refusal or a call in it: what the token clocks wait
    /// for.
    pub tokens: bool,
}

/// How a body ended when it ended without the upstream saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// In order: the transfer was complete.
    Clean,
    /// The connection broke.
    Broken,
    /// Nothing more came after everything had finished.
    Silence,
}

/// The code and the message of an error body, where they can be made out.
pub(crate) fn fault_in_body(body: &[u8]) -> (Option<String>, Option<String>) {
    match serde_json::from_slice::<&serde_json::value::RawValue>(body) {
        Ok(raw) => {
            let fault = chunk::UpstreamFault::read(raw);
            (fault.code, fault.message)
        }
        Err(_) => (None, None),
    }
}

fn failed(code: ErrorCode, message: impl Into<String>) -> Ending {
    Ending::Failed(Failure::from(&ApiError::new(code, message)))
}

/// Codes under which the same request fails again.
const FINAL_CODES: &[&str] = &[
    "400",
    "401",
    "403",
    "404",
    "422",
    "invalid_request_error",
    "invalid_prompt",
    "insufficient_quota",
    "context_length_exceeded",
    "content_filter",
];

impl From<chunk::UpstreamFault> for Failure {
    fn from(fault: chunk::UpstreamFault) -> Self {
        let message = fault.message.unwrap_or_else(|| {
            "The upstream reported an error in the middle of its stream.".to_owned()
        });
        let mut failure = Failure::from(&ApiError::new(ErrorCode::UpstreamError, message));
        if let Some(code) = fault.code {
            failure.retryable = !FINAL_CODES.contains(&code.as_str());
            failure.code = code;
        }
        failure
    }
}
