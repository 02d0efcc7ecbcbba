//! Translates chat completion chunks to events.

mod choice;
mod choice_state;
mod envelope;
mod reasoning_origin;
mod templates;

use std::collections::HashSet;

use serde_json::value::RawValue;

use self::choice_state::Choices;
use self::envelope::Envelope;
use self::templates::Known;
use super::chunk::{Choice, Chunk, UpstreamFault};
use super::chunking::Chunking;
use super::finish_reason::FinishReason;
use super::usage::Usage;
use super::{BodyEnd, Progress, RecordWriter, Translated, failed, is_error_object, usage_chunk};
use crate::model::error::ErrorCode;
use crate::model::event::{Ending, EventKind, Outcome};
use crate::model::secret::Seal;
use crate::request::ToolNames;

/// The payload after the last chunk. Some servers write it in lower case.
const DONE: &[u8] = b"[DONE]";

/// Maximum chunks of a stream from which an envelope is taken.
const MAX_ENVELOPES: u32 = 4;

/// Maximum chunks that fail a stream and wait for its end.
const MAX_FAILING: usize = 8;

/// The state of one chat stream.
#[derive(Debug)]
pub struct ChatTranslator {
    /// Number of requested choices. With one, the index is ignored: some servers count tokens in
    /// it.
    n: u32,
    started: bool,
    choices: Choices,
    templates: Vec<Known>,
    /// The template that matched last.
    recent: usize,
    misses: u32,
    /// What is around the delta of the chunks.
    envelope: Option<Envelope>,
    /// Number of chunks from which one was to be taken.
    envelopes: u32,
    usage: Option<Usage>,
    /// Usage of upstreams whose answers were continued by others.
    spent: Option<Usage>,
    /// Number of usage chunks without choices: several mean one per choice.
    usage_chunks: u32,
    /// A chunk that waits for the next one or the end.
    held: Option<HeldChunk>,
    /// Chunks with an error beside choices, or with an error-like finish. They wait unread for the
    /// end: nothing of it is stored if another upstream continues the answer.
    failing: Vec<Vec<u8>>,
    /// Whether this stream continues the answer of another upstream.
    continues: bool,
    /// The first finish reason that is not simply a stop.
    finish: Option<FinishReason>,
    fault: Option<Ending>,
    call_ids: HashSet<String>,
    /// The tools that the client knows under another name or as another kind.
    tools: ToolNames,
    /// Set if a completion that arrives in one piece becomes chunks.
    chunking: Option<Box<Chunking>>,
    /// Set if the client is given its reasoning sealed.
    seal: Option<Seal>,
    /// Whether the gateway ends the answer, so that it has no finish chunk of the upstream.
    ends_early: bool,
}

/// A chunk that waits for the next one.
#[derive(Debug)]
enum HeldChunk {
    /// It reports the usage and nothing else.
    Usage(Vec<u8>),
    /// The upstream's own error object, which replaces the gateway's in the chat dialect.
    Error(Vec<u8>),
}

impl HeldChunk {
    fn into_chunk(self) -> Vec<u8> {
        match self {
            Self::Usage(chunk) | Self::Error(chunk) => chunk,
        }
    }
}

impl ChatTranslator {
    /// Creates a translator for a request of `n` choices.
    #[must_use]
    pub fn new(n: u32) -> Self {
        Self {
            n: n.max(1),
            started: false,
            choices: Choices::default(),
            templates: Vec::new(),
            recent: 0,
            misses: 0,
            envelope: None,
            envelopes: 0,
            usage: None,
            spent: None,
            usage_chunks: 0,
            held: None,
            failing: Vec::new(),
            continues: false,
            finish: None,
            fault: None,
            call_ids: HashSet::new(),
            tools: ToolNames::default(),
            chunking: None,
            seal: None,
            ends_early: false,
        }
    }

    /// Whether the stream so far has reported usage.
    pub(crate) fn has_usage(&self) -> bool {
        self.usage.is_some()
    }

    /// Returns the usage so far as raw JSON in the Responses shape.
    pub(crate) fn usage_json(&self) -> Option<String> {
        self.total_usage().map(Usage::to_responses)
    }

    /// Leaves room for a finish chunk and a usage chunk, which the upstream does not send any more.
    pub(crate) fn end_early(&mut self) {
        self.ends_early = true;
    }

    /// Shows calls of these tools under the names and as the kinds that the client declared.
    #[must_use]
    pub fn with_tools(mut self, tools: ToolNames) -> Self {
        self.tools = tools;
        self
    }

    /// Makes chunks of a completion that arrives in one piece.
    pub(crate) fn chunked(mut self, chunking: Option<Box<Chunking>>) -> Self {
        self.chunking = chunking;
        self
    }

    /// Seals the reasoning of each choice, for clients that give it back.
    pub(crate) fn sealed(mut self, seal: Option<Seal>) -> Self {
        self.seal = seal;
        self
    }

    /// Prepares for the stream of another upstream that continues the answer in the items that are
    /// open. Forgets how the stream so far failed.
    pub(crate) fn continue_elsewhere(&mut self) {
        self.held = None;
        self.failing.clear();
        self.fault = None;
        self.finish = None;
        self.spent = self.total_usage();
        self.usage = None;
        self.usage_chunks = 0;
        self.misses = 0;
        self.envelope = None;
        self.continues = true;
        for (_, choice) in &mut self.choices.0 {
            choice.finished = false;
            choice.complete = false;
        }
    }

    /// Returns true once the upstream has sent anything.
    #[must_use]
    pub fn started(&self) -> bool {
        self.started
    }

    /// Translates one payload. `name` is the SSE event's name; `terminated` is false for an
    /// unterminated event at the end of the body.
    pub fn payload(
        &mut self,
        name: Option<&[u8]>,
        data: &[u8],
        terminated: bool,
        records: &mut RecordWriter,
    ) -> Translated {
        if !self.is_waiting()
            && let Some(translated) = self.match_template(data, records)
        {
            return translated;
        }
        self.other_payload(name, data, terminated, records)
    }

    /// As [`Self::payload`], of a chunk that matches no template. Apart, so that the way of those that
    /// do is short.
    #[inline(never)]
    fn other_payload(
        &mut self,
        name: Option<&[u8]>,
        data: &[u8],
        terminated: bool,
        records: &mut RecordWriter,
    ) -> Translated {
        if !self.is_waiting()
            && let Some(translated) = self
                .match_envelope(name, data, records)
                .or_else(|| self.match_usage(name, data))
        {
            return translated;
        }
        let data = data.trim_ascii();
        if data.is_empty() {
            return self.translated(false);
        }
        if data.eq_ignore_ascii_case(DONE) {
            return Translated {
                progress: Progress::Over(self.ending_at_done()),
                tokens: false,
            };
        }
        let Ok(text) = std::str::from_utf8(data) else {
            return Self::over(failed(
                ErrorCode::UpstreamInvalidUtf8,
                "The upstream sent an event that is not valid UTF-8.",
            ));
        };
        if self.continues
            && let Some(rest) = without_roles(text)
        {
            return match rest {
                Some(rest) => self.payload(name, rest.as_bytes(), terminated, records),
                None => self.translated(false),
            };
        }
        // Nearly always the payload is one object; then this saves a pass over it.
        if let Ok(chunk) = serde_json::from_str(text) {
            return self.chunk(name, text, &chunk, records);
        }
        let mut tokens = false;
        // Some servers put two objects on one line.
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
        let mut read = 0;
        while let Some(value) = values.next() {
            let translated = match value {
                Ok(raw) => self.value(name, raw, records),
                // A body without blank lines is one event.
                Err(_) if is_done(text, read) => Self::over(self.ending_at_done()),
                Err(_) if !terminated => Self::over(truncated()),
                Err(error) => Self::over(failed(
                    ErrorCode::UpstreamMalformed,
                    format!(
                        "The upstream sent an event that is not JSON (column {} of {} bytes).",
                        error.column(),
                        text.len()
                    ),
                )),
            };
            read = values.byte_offset();
            tokens |= translated.tokens;
            if matches!(translated.progress, Progress::Over(_)) {
                return Translated {
                    tokens,
                    ..translated
                };
            }
        }
        self.translated(tokens)
    }

    /// Returns the ending of a non-standard line `error: …`, sent by some llama.cpp-based servers.
    pub fn error_field(&mut self, value: &[u8]) -> Ending {
        let text = String::from_utf8_lossy(value);
        let fault = serde_json::from_str::<&RawValue>(&text)
            .map(UpstreamFault::read)
            .unwrap_or_else(|_| UpstreamFault {
                code: None,
                message: Some(text.clone().into_owned()),
            });
        Ending::Failed(fault.into())
    }

    /// Returns the ending of a body without `[DONE]`.
    #[must_use]
    pub fn body_ended(&self, end: BodyEnd) -> Ending {
        let complete = self.choices.values().all(|c| c.finished || c.complete);
        let complete = complete && end != BodyEnd::Broken && !self.choices.is_empty();
        if self.fault.is_some() || self.all_finished() || complete {
            return self.ending_at_done();
        }
        match end {
            BodyEnd::Clean | BodyEnd::Silence => truncated(),
            BodyEnd::Broken => failed(
                ErrorCode::UpstreamTruncated,
                "The connection to the upstream broke in the middle of the answer.",
            ),
        }
    }

    /// Closes open items and writes the terminal event, with the upstream's error object if it
    /// sent one.
    pub fn end(&mut self, ending: Ending, at: u64, records: &mut RecordWriter) {
        let complete = matches!(ending, Ending::Completed);
        self.release_failing(records);
        let ends_chat = match &self.held {
            Some(HeldChunk::Error(chunk)) => {
                matches!(ending, Ending::Failed(_)) && is_error_object(chunk)
            }
            _ => false,
        };
        if !ends_chat {
            // What follows has another number, so that a chat reader that disconnects between the
            // two gets it.
            self.release_held(records);
        }
        let mut choices = std::mem::take(&mut self.choices);
        for (index, choice) in &mut choices.0 {
            self.close(*index, choice, complete, records);
        }
        if self.ends_early {
            // The numbers are those right before the terminal event.
            if records.pending() > 0 {
                records.record(None);
            }
            records.leave_closing_numbers();
        }
        let usage = self.total_usage().map(Usage::to_responses);
        records.event(EventKind::End(Outcome {
            ending,
            at,
            usage,
            relayed: None,
        }));
        let held = self.held.take().map(HeldChunk::into_chunk);
        records.record(held.as_deref());
    }

    fn value(
        &mut self,
        name: Option<&[u8]>,
        raw: &RawValue,
        records: &mut RecordWriter,
    ) -> Translated {
        // Some servers put an error into a list.
        if let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(raw.get())
            && elements.iter().any(|raw| raw.get().starts_with('{'))
        {
            let mut tokens = false;
            for element in elements {
                let translated = self.value(name, element, records);
                tokens |= translated.tokens;
                if matches!(translated.progress, Progress::Over(_)) {
                    return Translated {
                        tokens,
                        ..translated
                    };
                }
            }
            return self.translated(tokens);
        }
        let Ok(chunk) = serde_json::from_str(raw.get()) else {
            // A bare string or number has no meaning in a stream of chunks.
            self.release_held(records);
            records.record(Some(raw.get().as_bytes()));
            return self.translated(false);
        };
        self.chunk(name, raw.get(), &chunk, records)
    }

    fn chunk(
        &mut self,
        name: Option<&[u8]>,
        text: &str,
        chunk: &Chunk<'_>,
        records: &mut RecordWriter,
    ) -> Translated {
        let data = text.as_bytes();
        let choices = chunk.choices();
        let fault = match chunk.fault() {
            Some(fault) => Some(fault),
            None if name == Some(b"error") || chunk.is_error() => {
                serde_json::from_str(text).ok().map(UpstreamFault::read)
            }
            None => None,
        };
        let usage = chunk.usage(text, &choices).and_then(Usage::parse);
        if let Some(chunking) = &self.chunking
            && fault.is_none()
            && self.choices.is_empty()
            && choices.iter().any(|choice| {
                choice.is_complete() && (chunk.is_completion() || choice.finish_reason().is_some())
            })
            && let Some(payloads) = chunking.split(text)
        {
            let mut tokens = false;
            for payload in payloads {
                tokens |= self.payload(None, &payload, true, records).tokens;
            }
            return self.translated(tokens);
        }
        self.release_held(records);
        let is_fault = fault.is_some();
        if let Some(fault) = fault {
            let ending = Ending::Failed(fault.into());
            if choices.is_empty() {
                self.take_usage(usage, true);
                self.held = Some(HeldChunk::Error(data.to_vec()));
                return Self::over(ending);
            }
            // An error beside choices: usage may still follow.
            self.fault.get_or_insert(ending);
        }
        let error_finish = choices
            .iter()
            .find_map(|choice| match choice.finish_reason() {
                Some(FinishReason::Error(reason)) => Some(reason),
                _ => None,
            });
        let is_failing = is_fault || error_finish.is_some();
        if self.n == 1 && is_failing && self.failing.len() < MAX_FAILING {
            if let Some(reason) = error_finish {
                self.fault.get_or_insert_with(|| error_like(&reason));
            }
            self.take_usage(usage, false);
            self.failing.push(data.to_vec());
            return self.translated(false);
        }
        if !choices.is_empty() {
            // The answer goes on in spite of the failure.
            self.release_failing(records);
        }
        self.take_usage(usage, choices.is_empty());
        if choices.is_empty() && usage.is_some() && chunk.is_recognised() {
            self.start(records);
            self.held = Some(HeldChunk::Usage(data.to_vec()));
            // `response.in_progress` may have been caused by this chunk.
            records.record(None);
            return self.translated(false);
        }
        if let [choice] = choices.as_slice()
            && usage.is_none()
            && self.has_plain_chunks()
            && self.envelopes < MAX_ENVELOPES
        {
            self.envelopes += 1;
            if let Some(envelope) = Envelope::of(chunk, choice, data) {
                self.envelope = Some(envelope);
            }
        }
        let tokens = self.append(chunk, &choices, usage, data, records);
        self.translated(tokens)
    }

    /// Whether a chunk waits for the next one or the end.
    fn is_waiting(&self) -> bool {
        self.held.is_some() || !self.failing.is_empty()
    }

    /// Whether nothing but the chunk itself decides how it is read.
    fn has_plain_chunks(&self) -> bool {
        self.n == 1 && self.fault.is_none() && !self.continues
    }

    /// Fast path of chunks whose envelope is that of an earlier one: the first of a template, the
    /// finish chunk, and pieces of calls.
    fn match_envelope(
        &mut self,
        name: Option<&[u8]>,
        data: &[u8],
        records: &mut RecordWriter,
    ) -> Option<Translated> {
        if name == Some(b"error") || !self.has_plain_chunks() {
            return None;
        }
        let inside = self.envelope.as_ref()?.open(data)?;
        let (chunk, choice) = inside.chunk();
        if choice.own_usage().is_some()
            || matches!(choice.finish_reason(), Some(FinishReason::Error(_)))
        {
            return None;
        }
        let tokens = self.append(&chunk, &[choice], None, data, records);
        Some(self.translated(tokens))
    }

    /// Appends the events and the record of a chunk.
    fn append(
        &mut self,
        chunk: &Chunk<'_>,
        choices: &[Choice<'_>],
        usage: Option<Usage>,
        data: &[u8],
        records: &mut RecordWriter,
    ) -> bool {
        self.start(records);
        let mut tokens = false;
        for choice in choices {
            tokens |= self.choice(choice, chunk.is_completion(), records);
        }
        let templated = match (choices, usage, &self.fault) {
            ([choice], None, None) => self.add_template(chunk, choice, data, records).is_some(),
            _ => false,
        };
        if !templated {
            records.record(Some(data));
        }
        tokens
    }

    fn start(&mut self, records: &mut RecordWriter) {
        if !self.started {
            self.started = true;
            records.event(EventKind::InProgress);
        }
    }

    /// Appends the chunks that failed the stream, when no other upstream continues it.
    fn release_failing(&mut self, records: &mut RecordWriter) {
        for data in std::mem::take(&mut self.failing) {
            if let Ok(chunk) = serde_json::from_slice::<Chunk<'_>>(&data) {
                let choices = chunk.choices();
                self.append(&chunk, &choices, None, &data, records);
            }
        }
    }

    /// Fast path of the usage chunk that follows chunks with a template.
    fn match_usage(&mut self, name: Option<&[u8]>, data: &[u8]) -> Option<Translated> {
        let known = self.templates.last().filter(|_| name != Some(b"error"))?;
        let usage = usage_chunk::read(data, known.template.beginning())?;
        self.take_usage(Some(usage), true);
        self.held = Some(HeldChunk::Usage(data.to_vec()));
        Some(self.translated(false))
    }

    fn take_usage(&mut self, usage: Option<Usage>, alone: bool) {
        let Some(usage) = usage else { return };
        let further = alone && self.n > 1 && self.usage_chunks > 0;
        self.usage_chunks += u32::from(alone);
        match &mut self.usage {
            Some(sum) if further => sum.add_choice(&usage),
            Some(known) => known.update(usage),
            none => *none = Some(usage),
        }
    }

    /// Returns the usage of all attempts.
    fn total_usage(&self) -> Option<Usage> {
        match (self.spent, self.usage) {
            (Some(spent), Some(usage)) => Some(spent.add_attempt(usage)),
            (spent, usage) => spent.or(usage),
        }
    }

    fn release_held(&mut self, records: &mut RecordWriter) {
        match self.held.take() {
            Some(HeldChunk::Usage(chunk)) => records.usage_chunk(&chunk),
            Some(HeldChunk::Error(chunk)) => records.record(Some(&chunk)),
            None => {}
        }
    }

    fn all_finished(&self) -> bool {
        !self.choices.is_empty() && self.choices.values().all(|choice| choice.finished)
    }

    fn translated(&self, tokens: bool) -> Translated {
        let finished = self.fault.is_some() || self.all_finished();
        Translated {
            progress: if finished {
                Progress::Finished
            } else {
                Progress::Open
            },
            tokens,
        }
    }

    fn over(ending: Ending) -> Translated {
        Translated {
            progress: Progress::Over(ending),
            tokens: false,
        }
    }

    fn ending_at_done(&self) -> Ending {
        if let Some(fault) = &self.fault {
            return fault.clone();
        }
        match &self.finish {
            None | Some(FinishReason::Stop) => Ending::Completed,
            Some(FinishReason::Length) => Ending::Incomplete {
                reason: "max_output_tokens".to_owned(),
            },
            Some(FinishReason::Filter) => Ending::Incomplete {
                reason: "content_filter".to_owned(),
            },
            Some(FinishReason::Error(reason)) => error_like(reason),
        }
    }
}

/// Returns true if only the end mark is left of a payload.
fn is_done(text: &str, from: usize) -> bool {
    text.as_bytes()
        .get(from..)
        .is_some_and(|rest| rest.trim_ascii().eq_ignore_ascii_case(DONE))
}

fn error_like(reason: &str) -> Ending {
    failed(
        ErrorCode::UpstreamError,
        format!("The upstream ended the answer with the finish reason '{reason}'."),
    )
}

/// Returns a chunk without the roles of its deltas, or `Some(None)` if nothing else is left of it.
/// `None` if it has no roles. The reader of a continued answer has got the role before: SDKs that
/// join the strings of deltas would double it.
fn without_roles(text: &str) -> Option<Option<String>> {
    memchr::memmem::find(text.as_bytes(), b"\"role\"")?;
    let mut chunk: serde_json::Value = serde_json::from_str(text).ok()?;
    let (mut had_role, mut is_blank) = (false, true);
    for choice in chunk.get_mut("choices")?.as_array_mut()? {
        let finished = choice
            .get("finish_reason")
            .is_some_and(|value| !value.is_null());
        let Some(delta) = choice
            .get_mut("delta")
            .and_then(|delta| delta.as_object_mut())
        else {
            is_blank = false;
            continue;
        };
        had_role |= delta.remove("role").is_some();
        is_blank &= !finished && delta.values().all(|value| value.is_null() || value == "");
    }
    let is_blank = is_blank
        && ["usage", "error"]
            .iter()
            .all(|name| chunk.get(name).is_none_or(serde_json::Value::is_null));
    had_role.then(|| (!is_blank).then(|| chunk.to_string()))
}

fn truncated() -> Ending {
    failed(
        ErrorCode::UpstreamTruncated,
        "The upstream's stream ended before the answer did: there was no finish reason and no [DONE].",
    )
}
