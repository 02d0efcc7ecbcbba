//! Translates the payloads of both upstream APIs to records of one set of events.
//!
//! A translator takes each payload and appends its events to a [`RecordWriter`]. It keeps the state
//! of the stream: open items, finished choices, the last usage. It does no I/O and never fails: a
//! faulty stream has an [`Ending`] like any other.

mod arguments;
mod catch_up;
mod chat;
mod chunk;
mod chunking;
mod custom_input;
mod finish_reason;
mod logprobs;
mod opened_items;
mod plain_usage;
mod record_writer;
mod responses;
mod tool_calls;
mod translator;
mod usage;
mod usage_chunk;

pub(crate) use catch_up::CatchUp;
pub use chat::ChatTranslator;
pub(crate) use chunking::Chunking;
pub(crate) use logprobs::complete_logprobs;
pub(crate) use record_writer::History;
pub use record_writer::RecordWriter;
pub use responses::ResponsesTranslator;
pub(crate) use translator::Translator;
pub(crate) use usage::to_chat as chat_usage;

use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, Failure};
use crate::model::json::Members;

/// State of a stream after a payload.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// More payloads are expected.
    Open,
    /// Every choice has its finish reason. Usage and `[DONE]` may follow, and silence is an end
    /// too.
    Finished,
    /// The response failed without a reason. An error event with the reason may follow shortly.
    Failing,
    /// The upstream has ended the stream; the terminal event can be written.
    Over(Ending),
}

/// The result of one payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated {
    /// The state of the stream.
    pub progress: Progress,
    /// Whether the payload had content, reasoning, a refusal or a call, which the token timeouts
    /// wait for.
    pub tokens: bool,
}

/// How a body ended without a terminal payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// The transfer was complete.
    Clean,
    /// The connection broke.
    Broken,
    /// No data arrived for some time after every choice had finished.
    Silence,
}

/// Returns true if a raw chunk is a completion in one piece, false for a chunk of a stream, and
/// `None` if it has no choices.
pub(crate) fn is_completion(raw: &[u8]) -> Option<bool> {
    let chunk: chunk::Chunk<'_> = serde_json::from_slice(raw).ok()?;
    let choices = chunk.choices();
    (!choices.is_empty()).then(|| choices.iter().all(chunk::Choice::is_complete))
}

/// Returns true if a raw chunk reports the usage and nothing else.
pub(crate) fn is_usage_chunk(raw: &[u8]) -> bool {
    usage_chunk::is_plain(raw) || is_parsed_usage_chunk(raw)
}

fn is_parsed_usage_chunk(raw: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(raw) else {
        return false;
    };
    serde_json::from_str::<chunk::Chunk<'_>>(text).is_ok_and(|chunk| {
        let choices = chunk.choices();
        choices.is_empty() && chunk.fault().is_none() && chunk.usage(text, &choices).is_some()
    })
}

/// Returns true if the SDKs raise on this payload: it has an `error`.
pub(crate) fn is_error_object(raw: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(raw)
        .ok()
        .and_then(|raw| serde_json::from_str::<Members<'_>>(raw.get()).ok())
        .is_some_and(|members| members.get("error").is_some())
}

/// Returns the code and the message of an error body, as far as it has them.
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

/// Error codes that are not retryable.
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
        let message = fault
            .message
            .unwrap_or_else(|| "The upstream reported an error within its stream.".to_owned());
        let mut failure = Failure::from(&ApiError::new(ErrorCode::UpstreamError, message));
        if let Some(code) = fault.code {
            failure.retryable = !FINAL_CODES.contains(&code.as_str());
            failure.code = code;
        }
        failure
    }
}
