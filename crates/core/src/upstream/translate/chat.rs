//! Translates chat completion chunks to events.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use serde_json::value::RawValue;

use super::chunk::{Choice, Chunk, Delta, Image, Text, Texts, ToolCall, UpstreamFault};
use super::chunking::Chunking;
use super::finish_reason::FinishReason;
use super::record_writer::OpenItem;
use super::tool_calls::{Context, ToolCalls};
use super::usage::Usage;
use super::{BodyEnd, Progress, RecordWriter, Translated, failed};
use crate::model::error::ErrorCode;
use crate::model::event::{DeltaKind, DeltaTarget, Ending, EventKind, ItemHead, Outcome, PartKind};
use crate::model::json;
use crate::model::record::Template;

/// Maximum templates per generation. Each choice and kind of delta takes one. Further chunks are
/// stored in full.
const MAX_TEMPLATES: usize = 32;
/// Maximum consecutive templates that no later chunk matched. The chunks of such a stream differ in
/// more than their text.
const MAX_MISSES: u32 = 4;

/// The payload after the last chunk. Some servers write it in lower case.
const DONE: &[u8] = b"[DONE]";

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
    usage: Option<Usage>,
    /// Usage of upstreams whose answers were continued by others.
    spent: Option<Usage>,
    /// Number of usage chunks without choices: several mean one per choice.
    usage_chunks: u32,
    /// A chunk that waits for the next one. At the end it is stored with the terminal event.
    held: Option<HeldChunk>,
    /// Chunks with an error beside choices, or with an error-like finish. They wait unread for the
    /// end: nothing of it is stored if another upstream continues the answer.
    failing: Vec<Vec<u8>>,
    /// Whether this stream continues the answer of another upstream.
    continues: bool,
    /// The first finish reason that is not simply a stop.
    finish: Option<FinishReason>,
    tool_calls: bool,
    fault: Option<Ending>,
    call_ids: HashSet<String>,
    /// Set if a completion that arrives in one piece becomes chunks.
    chunking: Option<Box<Chunking>>,
}

/// A chunk that waits for the next one.
#[derive(Debug)]
enum HeldChunk {
    Usage(Vec<u8>),
    /// The upstream's own error object, which replaces the gateway's in the chat dialect.
    Error(Vec<u8>),
}

#[derive(Debug)]
struct Known {
    template: Template,
    choice: u32,
    /// The call that its arguments belong to.
    call: usize,
    /// Bytes of JSON-escaped text that it matched.
    length: usize,
    matched: bool,
    /// Its item is closed. Text after a finish reason opens another item.
    closed: bool,
}

#[derive(Debug, Default)]
struct ChoiceState {
    reasoning: Option<OpenItem>,
    message: Option<OpenItem>,
    calls: Option<Box<ToolCalls>>,
    images: u32,
    finished: bool,
    /// The last chunk was a completion without a finish reason. The end of the body finishes it.
    complete: bool,
    /// Messages repeat the deltas that they come with.
    mirrored: bool,
    /// Places that text was streamed to, in order, with the bytes of JSON-escaped text that no
    /// template matched.
    places: Vec<(DeltaTarget, usize)>,
    /// Whether all text came in messages instead of deltas.
    by_message: bool,
}

/// The states of the choices, sorted by index. Most streams have one choice.
#[derive(Debug, Default)]
struct Choices(Vec<(u32, ChoiceState)>);

impl Choices {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn values(&self) -> impl Iterator<Item = &ChoiceState> {
        self.0.iter().map(|(_, choice)| choice)
    }

    /// Returns the state of a choice, a fresh one if there is none.
    fn entry(&mut self, index: u32) -> &mut ChoiceState {
        let at = match self.0.binary_search_by_key(&index, |(index, _)| *index) {
            Ok(at) => at,
            Err(at) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, (index, ChoiceState::default()));
                at
            }
        };
        &mut self.0[at].1
    }
}

impl HeldChunk {
    fn into_chunk(self) -> Vec<u8> {
        match self {
            Self::Usage(chunk) | Self::Error(chunk) => chunk,
        }
    }
}

/// The parts of an answer besides calls that a delta or message has.
struct Piece<'a> {
    texts: Texts<'a>,
    refusal: Option<&'a str>,
    logprobs: Option<&'a RawValue>,
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
            usage: None,
            spent: None,
            usage_chunks: 0,
            held: None,
            failing: Vec::new(),
            continues: false,
            finish: None,
            tool_calls: false,
            fault: None,
            call_ids: HashSet::new(),
            chunking: None,
        }
    }

    /// Makes chunks of a completion that arrives in one piece.
    pub(crate) fn chunked(mut self, chunking: Option<Box<Chunking>>) -> Self {
        self.chunking = chunking;
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
        if self.held.is_none()
            && self.failing.is_empty()
            && let Some(translated) = self.match_template(data, records)
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

    /// Closes open items and writes the terminal event, with the held chunk.
    pub fn end(&mut self, ending: Ending, at: u64, records: &mut RecordWriter) {
        let complete = matches!(ending, Ending::Completed { .. });
        self.release_failing(records);
        if matches!(ending, Ending::Failed(_) | Ending::Cancelled)
            && matches!(self.held, Some(HeldChunk::Usage(_)))
        {
            // The following error needs its own number, so that a chat reader that disconnects
            // between the two gets it.
            self.release_held(records);
        }
        let mut choices = std::mem::take(&mut self.choices);
        for (index, choice) in &mut choices.0 {
            self.close(*index, choice, complete, records);
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

    /// Fast path of nearly every chunk: it equals an earlier one except for its text.
    fn match_template(&mut self, data: &[u8], records: &mut RecordWriter) -> Option<Translated> {
        let count = self.templates.len();
        for step in 0..count {
            let index = (self.recent + step) % count;
            let known = &mut self.templates[index];
            if !known.closed
                && let Some(holes) = known.template.match_chunk(data)
            {
                let is_call = matches!(
                    known.template.target.kind,
                    DeltaKind::Arguments | DeltaKind::Input
                );
                if is_call
                    && let Some(calls) = &self.choices.entry(known.choice).calls
                    && !calls.takes(known.call)
                {
                    // Another call has begun under its index.
                    known.closed = true;
                    continue;
                }
                records.delta(index, &holes);
                known.matched = true;
                self.recent = index;
                self.misses = 0;
                let text = known.template.text(&holes);
                known.length += text.len();
                if is_call && let Some(calls) = &mut self.choices.entry(known.choice).calls {
                    calls.grow(known.call, text);
                }
                return Some(self.translated(true));
            }
        }
        None
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
        let tokens = self.append(chunk, &choices, usage, data, records);
        self.translated(tokens)
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

    /// Makes a template of a chunk that is a single delta, and closes the record with it.
    fn add_template(
        &mut self,
        chunk: &Chunk<'_>,
        choice: &Choice<'_>,
        data: &[u8],
        records: &mut RecordWriter,
    ) -> Option<()> {
        let target = records.only_delta()?;
        if self.templates.len() >= MAX_TEMPLATES
            || self.misses >= MAX_MISSES
            || choice.has_logprobs()
            || choice.own_usage().is_some()
        {
            return None;
        }
        let delta = choice.delta();
        let text = match target.kind {
            DeltaKind::Text => delta.content,
            DeltaKind::Refusal => delta.refusal,
            DeltaKind::Reasoning => delta.reasoning_raw(),
            DeltaKind::Arguments | DeltaKind::Input => {
                delta.tool_calls().first().and_then(ToolCall::arguments_raw)
            }
        };
        let text = inside_of(text?, data)?;
        let padding = [chunk.obfuscation, chunk.p]
            .into_iter()
            .flatten()
            .filter_map(|raw| inside_of(raw, data));
        let mut holes: Vec<Range<usize>> = std::iter::once(text.clone()).chain(padding).collect();
        holes.sort_unstable_by_key(|hole| hole.start);
        let text_hole = holes.iter().position(|hole| *hole == text)?;
        let template = Template::cut(data, &holes, text_hole, target)?;
        // The chunk is restored from its holes, so it must match the template.
        let holes = template.match_chunk(data)?;
        if self.templates.last().is_some_and(|known| !known.matched) {
            self.misses += 1;
        }
        let index = self.index(choice);
        let call = self
            .choices
            .entry(index)
            .calls
            .as_ref()
            .map_or(0, |calls| calls.recent());
        self.recent = self.templates.len();
        records.first_delta(self.recent, &template, &holes);
        self.templates.push(Known {
            template,
            choice: index,
            call,
            length: 0,
            matched: false,
            closed: false,
        });
        Some(())
    }

    fn index(&self, choice: &Choice<'_>) -> u32 {
        if self.n == 1 {
            0
        } else {
            choice.index().min(self.n - 1)
        }
    }

    /// Translates a choice. Returns true if it had content, reasoning, a refusal, a call or an
    /// image.
    fn choice(
        &mut self,
        choice: &Choice<'_>,
        completion: bool,
        records: &mut RecordWriter,
    ) -> bool {
        let index = self.index(choice);
        self.chunking = None;
        let mut state = std::mem::take(self.choices.entry(index));
        let delta = choice.delta();
        let message = choice.message();
        let finish = choice.finish_reason();
        state.complete = completion && choice.is_complete();
        let mut tokens = self.delta(index, &mut state, &delta, choice.logprobs(), records);
        // Some servers repeat the text so far in every chunk. Their deltas are all that counts.
        state.mirrored |= message.is_some() && tokens && finish.is_none();
        if let Some(message) = message
            && !state.mirrored
            && (finish.is_some() || !tokens)
        {
            let closing = finish.is_some() || completion;
            tokens |= self.message(index, &mut state, &message, choice, closing, records);
        }
        if tokens {
            state.finished = false;
        }
        if let Some(finish) = finish {
            if finish != FinishReason::Stop {
                self.finish.get_or_insert(finish.clone());
            }
            state.finished = true;
            self.close(index, &mut state, finish == FinishReason::Stop, records);
            self.templates
                .iter_mut()
                .filter(|known| known.choice == index)
                .for_each(|known| known.closed = true);
        }
        *self.choices.entry(index) = state;
        tokens
    }

    /// Appends a delta.
    fn delta(
        &mut self,
        index: u32,
        state: &mut ChoiceState,
        delta: &Delta<'_>,
        logprobs: Option<&RawValue>,
        records: &mut RecordWriter,
    ) -> bool {
        let piece = Piece {
            texts: delta.texts(),
            refusal: delta.refusal_text(),
            logprobs,
        };
        state.by_message &= piece.is_silent();
        let mut tokens = state.append(index, &piece, records);
        if delta.has_audio() {
            records.event(EventKind::Chunk);
            tokens = true;
        }
        let calls = delta.tool_calls();
        for call in calls.iter().chain(delta.legacy_call().iter()) {
            tokens |= self.calls(index, state, records, |calls, context| {
                calls.piece(call, context)
            });
        }
        state.annotate(delta, records);
        tokens
    }

    /// Appends what a complete message has beyond what was streamed.
    fn message(
        &mut self,
        index: u32,
        state: &mut ChoiceState,
        message: &Delta<'_>,
        choice: &Choice<'_>,
        closing: bool,
        records: &mut RecordWriter,
    ) -> bool {
        let first = state.places.is_empty();
        let texts = message.texts();
        let annotated = texts.content.is_some();
        let templates = &self.templates;
        let lookup = |number: usize| templates.get(number).map(|known| &known.template);
        let rest = |state: &ChoiceState, kind, text: Option<Text<'_>>| {
            let matched = templates
                .iter()
                .filter(|known| known.choice == index && known.template.target.kind == kind)
                .map(|known| known.length)
                .sum();
            state.rest(kind, text?, matched, closing, records, &lookup)
        };
        let reasoning = rest(state, DeltaKind::Reasoning, texts.reasoning);
        let content = rest(state, DeltaKind::Text, texts.content);
        let refusal = message.refusal_text().map(Cow::Borrowed);
        let refusal = rest(state, DeltaKind::Refusal, refusal);
        let images = texts
            .images
            .get(state.images as usize..)
            .unwrap_or_default();
        let piece = Piece {
            texts: Texts {
                content: content.map(Cow::Owned),
                reasoning: reasoning.map(Cow::Owned),
                images: images.to_vec(),
            },
            refusal: refusal.as_deref(),
            logprobs: choice.logprobs().filter(|_| first),
        };
        state.by_message |= first && !piece.is_silent();
        let mut tokens = state.append(index, &piece, records);
        if first && message.has_audio() {
            records.event(EventKind::Chunk);
            tokens = true;
        }
        let mut calls = message.tool_calls();
        calls.extend(message.legacy_call());
        for (position, call) in calls.iter().enumerate() {
            tokens |= self.calls(index, state, records, |calls, context| {
                calls.complete(position, call, context)
            });
        }
        if first || (annotated && tokens) {
            state.annotate(message, records);
        }
        tokens
    }

    /// Calls `f` with the calls of a choice.
    fn calls(
        &mut self,
        index: u32,
        state: &mut ChoiceState,
        records: &mut RecordWriter,
        f: impl FnOnce(&mut ToolCalls, &mut Context<'_>) -> bool,
    ) -> bool {
        let templates = &self.templates;
        let lookup = |number: usize| templates.get(number).map(|known| &known.template);
        let mut context = Context {
            choice: index,
            used_ids: &mut self.call_ids,
            records,
            templates: &lookup,
        };
        let added = f(state.calls.get_or_insert_default(), &mut context);
        self.tool_calls |= added;
        added
    }

    /// Closes the items of a choice, in the order in which they were opened.
    fn close(
        &mut self,
        index: u32,
        state: &mut ChoiceState,
        complete: bool,
        records: &mut RecordWriter,
    ) {
        let open = state
            .reasoning
            .take()
            .into_iter()
            .chain(state.message.take());
        let mut closing: Vec<(u32, Vec<EventKind>)> =
            open.map(|item| item.close(complete)).collect();
        if state.calls.is_some() {
            self.calls(index, state, records, |calls, context| {
                calls.close(complete, &mut closing, context);
                false
            });
        }
        closing.sort_by_key(|(item, _)| *item);
        for event in closing.into_iter().flat_map(|(_, events)| events) {
            records.event(event);
        }
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
        if let Some(held) = self.held.take() {
            records.record(Some(&held.into_chunk()));
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
            None | Some(FinishReason::Stop) => Ending::Completed {
                tool_calls: self.tool_calls,
            },
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

impl Piece<'_> {
    fn is_silent(&self) -> bool {
        let Texts {
            content,
            reasoning,
            images,
        } = &self.texts;
        content.is_none() && reasoning.is_none() && images.is_empty() && self.refusal.is_none()
    }
}

impl ChoiceState {
    /// Appends texts and images. Returns true if there were any.
    fn append(&mut self, choice: u32, piece: &Piece<'_>, records: &mut RecordWriter) -> bool {
        if let Some(reasoning) = &piece.texts.reasoning {
            let item = self
                .reasoning
                .get_or_insert_with(|| OpenItem::open(records, ItemHead::Reasoning { choice }));
            let target = item.target(records, PartKind::Reasoning);
            self.text(target, reasoning, None, records);
        }
        let logprobs = piece.logprobs.map(responses_logprobs);
        if let Some(content) = &piece.texts.content {
            let target = self.place(choice, PartKind::Text, records);
            self.text(target, content, logprobs, records);
        }
        if let Some(refusal) = piece.refusal {
            let target = self.place(choice, PartKind::Refusal, records);
            self.text(target, refusal, None, records);
        }
        for image in &piece.texts.images {
            self.images += 1;
            let result = match image {
                Image::Data(data) => Some((*data).to_owned()),
                Image::Remote => None,
            };
            let remote = result.is_none();
            let item = records.open_item(ItemHead::Image { choice, result });
            records.event(EventKind::ItemDone {
                item,
                complete: true,
            });
            if remote {
                // The URL is in the chunk only.
                records.event(EventKind::Chunk);
            }
        }
        !piece.is_silent()
    }

    fn place(&mut self, choice: u32, kind: PartKind, records: &mut RecordWriter) -> DeltaTarget {
        self.message
            .get_or_insert_with(|| OpenItem::open(records, ItemHead::Message { choice }))
            .target(records, kind)
    }

    fn text(
        &mut self,
        target: DeltaTarget,
        text: &str,
        logprobs: Option<String>,
        records: &mut RecordWriter,
    ) {
        // A choice writes to three places at a time at most.
        let mut recent = self.places.iter_mut().rev().take(3);
        match recent.find(|(place, _)| *place == target) {
            Some((_, length)) => *length += text.len(),
            None => {
                if self.places.is_empty() {
                    self.places.reserve_exact(1);
                }
                self.places.push((target, text.len()));
            }
        }
        records.text(target, text, logprobs);
    }

    fn annotate(&mut self, delta: &Delta<'_>, records: &mut RecordWriter) {
        if let Some(item) = &mut self.message {
            for json in delta.annotations() {
                item.annotation(records, json);
            }
        }
    }

    /// Returns what follows the streamed text in a complete text. `matched` is the number of bytes
    /// that templates matched.
    fn rest<'a>(
        &self,
        kind: DeltaKind,
        text: Text<'_>,
        matched: usize,
        closing: bool,
        records: &RecordWriter,
        templates: &dyn Fn(usize) -> Option<&'a Template>,
    ) -> Option<String> {
        let places = || self.places.iter().filter(|(place, _)| place.kind == kind);
        if places().next().is_none() {
            return Some(text.into_owned());
        }
        // An escape takes up to six times the bytes of its character. A shorter text cannot begin
        // with the streamed one. The check keeps the work proportional to the input.
        let length: usize = places().map(|(_, length)| length).sum();
        if text.len().saturating_mul(6) < length + matched {
            return (self.by_message && !closing).then(|| text.into_owned());
        }
        let streamed: String = places()
            .map(|(place, _)| records.streamed(*place, templates))
            .collect();
        let (streamed, text) = (json::unescape(&streamed), json::unescape(&text));
        match text.strip_prefix(streamed.as_str()) {
            Some("") if self.by_message && !closing => Some(json::escape(&text)),
            Some("") => None,
            Some(rest) => Some(json::escape(rest)),
            // Pieces that come as messages.
            None if self.by_message => Some(json::escape(&text)),
            None => None,
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

/// Returns the range of the string's content within the chunk that it was borrowed from.
fn inside_of(raw: &RawValue, data: &[u8]) -> Option<Range<usize>> {
    let inside = json::string_inside(raw)?;
    let start = (inside.as_ptr() as usize).checked_sub(data.as_ptr() as usize)?;
    let range = start..start + inside.len();
    (range.end <= data.len()).then_some(range)
}

/// Returns log probabilities in the Responses shape, which always has bytes and alternatives.
pub(crate) fn responses_logprobs(raw: &RawValue) -> String {
    let mut tokens: Vec<serde_json::Value> = serde_json::from_str(raw.get()).unwrap_or_default();
    let complete = |token: &mut serde_json::Value| {
        let bytes = token
            .get("token")
            .and_then(|text| text.as_str())
            .unwrap_or_default()
            .as_bytes()
            .to_vec();
        if let Some(object) = token.as_object_mut()
            && !object.get("bytes").is_some_and(serde_json::Value::is_array)
        {
            object.insert("bytes".to_owned(), bytes.into());
        }
    };
    for token in &mut tokens {
        complete(token);
        if let Some(object) = token.as_object_mut() {
            let alternatives = object
                .entry("top_logprobs")
                .or_insert_with(|| serde_json::json!([]));
            match alternatives.as_array_mut() {
                Some(list) => list.iter_mut().for_each(complete),
                None => *alternatives = serde_json::json!([]),
            }
        }
    }
    serde_json::to_string(&tokens).unwrap_or_else(|_| "[]".to_owned())
}
