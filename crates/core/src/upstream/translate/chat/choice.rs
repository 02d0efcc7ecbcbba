//! Translates one choice of a chunk.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::ChatTranslator;
use super::choice_state::{ChoiceState, Piece};
use crate::model::event::{DeltaKind, DeltaTarget, EventKind};
use crate::upstream::translate::RecordWriter;
use crate::upstream::translate::chunk::{Choice, Delta, Text, Texts};
use crate::upstream::translate::finish_reason::FinishReason;
use crate::upstream::translate::record_writer::OpenItem;
use crate::upstream::translate::tool_calls::{Context, ToolCalls};

impl ChatTranslator {
    pub(super) fn index(&self, choice: &Choice<'_>) -> u32 {
        if self.n == 1 {
            0
        } else {
            choice.index().min(self.n - 1)
        }
    }

    /// Translates a choice. Returns true if it had content, reasoning, a refusal, a call or an
    /// image.
    pub(super) fn choice(
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
    pub(super) fn delta(
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
        if piece.texts.reasoning.is_some() || delta.has_reasoning_list() {
            let origin = state.origin.get_or_insert_default();
            origin.note(delta);
            // Objects without text, such as encrypted ones, go back with the item as well.
            if origin.has_objects() {
                state.open_reasoning(index, records);
            }
        }
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
    pub(super) fn message(
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
        let has_reasoning = piece.texts.reasoning.is_some() || message.has_reasoning_list();
        if state.origin.is_none() && has_reasoning {
            let origin = state.origin.get_or_insert_default();
            origin.note(message);
            if origin.has_objects() {
                state.open_reasoning(index, records);
            }
        }
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
    pub(super) fn calls(
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
            tools: &self.tools,
        };
        f(state.calls.get_or_insert_default(), &mut context)
    }

    /// Returns what is kept beside the reasoning of a choice.
    fn private(
        &self,
        state: &mut ChoiceState,
        item: &OpenItem,
        records: &RecordWriter,
    ) -> Option<Box<str>> {
        let origin = state.origin.take().map(|origin| origin.to_json());
        let Some(seal) = &self.seal else {
            return origin.map(Into::into);
        };
        let target = DeltaTarget {
            item: item.item,
            part: 0,
            kind: DeltaKind::Reasoning,
        };
        let templates = &self.templates;
        let lookup = |number: usize| templates.get(number).map(|known| &known.template);
        let text = records.streamed(target, &lookup);
        let origin = origin.unwrap_or_else(|| "{}".to_owned());
        let sealed = seal.seal(&text, &origin)?;
        let inside = origin.strip_suffix('}').unwrap_or("{");
        let comma = if inside == "{" { "" } else { "," };
        Some(format!(r#"{inside}{comma}"sealed":"{sealed}"}}"#).into())
    }

    /// Closes the items of a choice, in the order in which they were opened.
    pub(super) fn close(
        &mut self,
        index: u32,
        state: &mut ChoiceState,
        complete: bool,
        records: &mut RecordWriter,
    ) {
        let mut closing: Vec<(u32, Vec<EventKind>)> = Vec::new();
        if let Some(item) = state.reasoning.take() {
            let private = self.private(state, &item, records);
            closing.push(item.close(complete, private));
        }
        let message = state.message.take();
        closing.extend(message.map(|item| item.close(complete, None)));
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
}
