//! Translates chat completion chunks to events.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::value::RawValue;

use super::chunk::{Choice, Chunk, ToolCall, UpstreamFault};
use super::record_writer::OpenItem;
use super::usage::ChatUsage;
use super::{BodyEnd, Progress, RecordWriter, Translated, failed};
use crate::model::error::ErrorCode;
use crate::model::event::{DeltaKind, DeltaTarget, Ending, EventKind, ItemHead, Outcome, PartKind};
use crate::model::id::random_alphanumeric;
use crate::model::json;
use crate::model::record::Template;

/// Maximum templates per generation. Each choice and kind of delta takes one. Further chunks are
/// stored in full.
const MAX_TEMPLATES: usize = 32;
/// Maximum consecutive templates that no later chunk matched. The chunks of such a stream differ in
/// more than their text.
const MAX_MISSES: u32 = 4;

/// The state of one chat stream.
#[derive(Debug)]
pub struct ChatTranslator {
    /// Number of requested choices. With one, the index is ignored: some servers count tokens in it.
    n: u32,
    started: bool,
    choices: BTreeMap<u32, OpenChoice>,
    templates: Vec<Known>,
    /// The template that matched last.
    recent: usize,
    misses: u32,
    usage: Option<ChatUsage>,
    /// Number of usage chunks without choices: several mean one per choice.
    usage_chunks: u32,
    /// A chunk that waits for the next one. At the end it is stored with the terminal event.
    held: Option<HeldChunk>,
    /// The first finish reason that is not simply a stop.
    finish: Option<Finish>,
    tool_calls: bool,
    fault: Option<Ending>,
    call_ids: Vec<String>,
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
    matched: bool,
    /// Its item is closed. Text after a finish reason opens another item.
    closed: bool,
}

#[derive(Debug, Default)]
struct OpenChoice {
    reasoning: Option<OpenItem>,
    message: Option<OpenItem>,
    calls: Vec<OpenCall>,
    finished: bool,
}

#[derive(Debug)]
struct OpenCall {
    item: u32,
    index: Option<u32>,
    upstream_id: Option<String>,
    empty: bool,
}

impl HeldChunk {
    fn into_chunk(self) -> Vec<u8> {
        match self {
            Self::Usage(chunk) | Self::Error(chunk) => chunk,
        }
    }
}

/// The meaning of a finish reason.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finish {
    Stop,
    Length,
    Filter,
    Error(String),
}

impl Finish {
    /// Classifies a finish reason. Values outside the enum are common; unknown ones are a stop.
    fn read(reason: &str) -> Self {
        let lower = reason.to_ascii_lowercase();
        match lower.as_str() {
            "length" | "max_tokens" | "max_output_tokens" | "model_length" => Self::Length,
            "error" | "abort" | "aborted" | "cancelled" | "canceled" => Self::Error(lower),
            _ if lower.contains("filter")
                || lower.contains("safety")
                || lower.contains("prohibited") =>
            {
                Self::Filter
            }
            _ => Self::Stop,
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
            choices: BTreeMap::new(),
            templates: Vec::new(),
            recent: 0,
            misses: 0,
            usage: None,
            usage_chunks: 0,
            held: None,
            finish: None,
            tool_calls: false,
            fault: None,
            call_ids: Vec::new(),
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
            && let Some(translated) = self.match_template(data, records)
        {
            return translated;
        }
        let data = data.trim_ascii();
        if data.is_empty() {
            return self.translated(false);
        }
        if data == b"[DONE]" {
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
        // Nearly always the payload is one object; then this saves a pass over it.
        if let Ok(chunk) = serde_json::from_str(text) {
            return self.chunk(name, text, &chunk, records);
        }
        let mut tokens = false;
        // Some servers put two objects on one line.
        let values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
        for value in values {
            let translated = match value {
                Ok(raw) => self.value(name, raw, records),
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
        if self.fault.is_some() || self.all_finished() {
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
        if matches!(ending, Ending::Failed(_) | Ending::Cancelled)
            && matches!(self.held, Some(HeldChunk::Usage(_)))
        {
            // The following error needs its own number, so that a chat reader that disconnects
            // between the two gets it.
            self.release_held(records);
        }
        for choice in std::mem::take(&mut self.choices).into_values() {
            choice.close(records, complete);
        }
        let usage = self.usage.map(ChatUsage::to_responses);
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
                records.delta(index, &holes);
                known.matched = true;
                self.recent = index;
                self.misses = 0;
                if known.template.target.kind == DeltaKind::Arguments {
                    self.mark_arguments(known_item(&self.templates[index]));
                }
                return Some(self.translated(true));
            }
        }
        None
    }

    fn mark_arguments(&mut self, item: u32) {
        for choice in self.choices.values_mut() {
            if let Some(call) = choice.calls.iter_mut().find(|call| call.item == item) {
                call.empty = false;
            }
        }
    }

    fn value(
        &mut self,
        name: Option<&[u8]>,
        raw: &RawValue,
        records: &mut RecordWriter,
    ) -> Translated {
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
            None if name == Some(b"error") => {
                serde_json::from_str(text).ok().map(UpstreamFault::read)
            }
            None => None,
        };
        let usage = chunk.usage(&choices).and_then(ChatUsage::parse);
        self.release_held(records);
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
        if !self.started {
            self.started = true;
            records.event(EventKind::InProgress);
        }
        self.take_usage(usage, choices.is_empty());
        if choices.is_empty() && usage.is_some() && chunk.is_recognised() {
            self.held = Some(HeldChunk::Usage(data.to_vec()));
            // `response.in_progress` may have been caused by this chunk.
            records.record(None);
            return self.translated(false);
        }
        let mut tokens = false;
        for choice in &choices {
            tokens |= self.choice(choice, records);
        }
        let templated = match (choices.as_slice(), usage, &self.fault) {
            ([choice], None, None) => self.add_template(chunk, choice, data, records).is_some(),
            _ => false,
        };
        if !templated {
            records.record(Some(data));
        }
        self.translated(tokens)
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
            || choice.has_usage()
        {
            return None;
        }
        let delta = choice.delta();
        let text = match target.kind {
            DeltaKind::Text => delta.content,
            DeltaKind::Refusal => delta.refusal,
            DeltaKind::Reasoning => delta.reasoning_raw(),
            DeltaKind::Arguments => delta.tool_calls().first().and_then(ToolCall::arguments_raw),
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
        let index = if self.n == 1 {
            0
        } else {
            choice.index().min(self.n - 1)
        };
        self.recent = self.templates.len();
        records.first_delta(self.recent, &template, &holes);
        self.templates.push(Known {
            template,
            choice: index,
            matched: false,
            closed: false,
        });
        Some(())
    }

    fn choice(&mut self, choice: &Choice<'_>, records: &mut RecordWriter) -> bool {
        let index = if self.n == 1 {
            0
        } else {
            choice.index().min(self.n - 1)
        };
        let delta = choice.delta();
        let before = records.pending();
        let open = self.choices.entry(index).or_default();
        let texts = delta.texts();
        if let Some(reasoning) = texts.reasoning {
            open.finished = false;
            let item = open
                .reasoning
                .get_or_insert_with(|| OpenItem::open(records, ItemHead::Reasoning));
            let target = item.target(records, PartKind::Reasoning);
            records.text(target, &reasoning, None);
        }
        let mut message = |open: &mut OpenChoice, kind, text: &str, logprobs| {
            open.finished = false;
            let item = open.message.get_or_insert_with(|| {
                OpenItem::open(records, ItemHead::Message { choice: index })
            });
            let target = item.target(records, kind);
            records.text(target, text, logprobs);
        };
        if let Some(content) = texts.content {
            message(
                open,
                PartKind::Text,
                &content,
                choice.logprobs().map(responses_logprobs),
            );
        }
        if let Some(refusal) = delta.refusal_text() {
            message(open, PartKind::Refusal, refusal, None);
        }
        for call in delta.tool_calls().iter().chain(delta.legacy_call().iter()) {
            self.tool_calls = true;
            open.finished = false;
            open.call(call, &mut self.call_ids, records);
        }
        let tokens = records.pending() > before;
        if let Some(item) = &mut open.message {
            for json in delta.annotations() {
                item.annotation(records, json);
            }
        }
        if let Some(reason) = choice.finish_reason() {
            let finish = Finish::read(&reason);
            if finish != Finish::Stop {
                self.finish.get_or_insert(finish.clone());
            }
            let done = std::mem::replace(
                open,
                OpenChoice {
                    finished: true,
                    ..OpenChoice::default()
                },
            );
            done.close(records, finish == Finish::Stop);
            self.templates
                .iter_mut()
                .filter(|known| known.choice == index)
                .for_each(|known| known.closed = true);
        }
        tokens
    }

    fn take_usage(&mut self, usage: Option<ChatUsage>, alone: bool) {
        let Some(usage) = usage else { return };
        let further = alone && self.n > 1 && self.usage_chunks > 0;
        self.usage_chunks += u32::from(alone);
        match &mut self.usage {
            Some(sum) if further => sum.add_choice(&usage),
            last => *last = Some(usage),
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
            None | Some(Finish::Stop) => Ending::Completed {
                tool_calls: self.tool_calls,
            },
            Some(Finish::Length) => Ending::Incomplete {
                reason: "max_output_tokens".to_owned(),
            },
            Some(Finish::Filter) => Ending::Incomplete {
                reason: "content_filter".to_owned(),
            },
            Some(Finish::Error(reason)) => failed(
                ErrorCode::UpstreamError,
                format!("The upstream ended the answer with the finish reason '{reason}'."),
            ),
        }
    }
}

impl OpenChoice {
    /// Adds a piece of a tool call to the call of its id or index, else to the last, else to a new
    /// one.
    fn call(
        &mut self,
        call: &ToolCall<'_>,
        used_ids: &mut Vec<String>,
        records: &mut RecordWriter,
    ) {
        let (index, id, name) = (call.index(), call.id(), call.name());
        let same_index =
            index.and_then(|_| self.calls.iter().rposition(|open| open.index == index));
        let same_id = id.and_then(|id| {
            self.calls
                .iter()
                .rposition(|open| open.upstream_id.as_deref() == Some(id))
        });
        // A known index with another id and a name is another call: some servers number all calls
        // 0. A known id with a new index and a name is another call too: some servers repeat ids.
        let differs = |at: &usize| {
            id.is_some() && name.is_some() && self.calls[*at].upstream_id.as_deref() != id
        };
        let found = match index {
            Some(_) => same_index
                .filter(|at| !differs(at))
                .or(same_id.filter(|_| same_index.map_or(name.is_none(), |at| differs(&at)))),
            None => same_id.or_else(|| {
                if id.is_none() && name.is_none() {
                    self.calls.len().checked_sub(1)
                } else {
                    None
                }
            }),
        };
        let at = found.unwrap_or_else(|| {
            let call_id = match id {
                Some(id) if !used_ids.iter().any(|used| used == id) => id.to_owned(),
                _ => format!("call_{}", random_alphanumeric(24)),
            };
            used_ids.push(call_id.clone());
            let item = records.open_item(ItemHead::FunctionCall {
                call_id,
                name: name.unwrap_or_default().to_owned(),
            });
            self.calls.push(OpenCall {
                item,
                index,
                upstream_id: id.map(str::to_owned),
                empty: true,
            });
            self.calls.len() - 1
        });
        if let Some(arguments) = call.arguments() {
            self.calls[at].empty = false;
            arguments_delta(self.calls[at].item, &arguments, records);
        }
    }

    /// Closes the items in the order in which they were opened.
    fn close(self, records: &mut RecordWriter, complete: bool) {
        let mut items: Vec<OpenItem> = self.reasoning.into_iter().chain(self.message).collect();
        items.sort_unstable_by_key(|open| open.item);
        let mut calls = self.calls.into_iter().peekable();
        for open in items {
            while let Some(call) = calls.next_if(|call| call.item < open.item) {
                call.close(records, complete);
            }
            open.close(records, complete);
        }
        for call in calls {
            call.close(records, complete);
        }
    }
}

impl OpenCall {
    fn close(self, records: &mut RecordWriter, complete: bool) {
        let item = self.item;
        if self.empty && complete {
            // Without arguments it is a function without parameters.
            arguments_delta(item, "{}", records);
        }
        records.event(EventKind::ArgumentsDone { item });
        records.event(EventKind::ItemDone { item, complete });
    }
}

fn known_item(known: &Known) -> u32 {
    known.template.target.item
}

fn arguments_delta(item: u32, text: &str, records: &mut RecordWriter) {
    records.text(
        DeltaTarget {
            item,
            part: 0,
            kind: DeltaKind::Arguments,
            plain: false,
        },
        text,
        None,
    );
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
