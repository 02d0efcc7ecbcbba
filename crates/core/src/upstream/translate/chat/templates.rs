//! The templates of a chat stream: chunks that equal an earlier one except for their text.

use std::ops::Range;

use serde_json::value::RawValue;

use super::ChatTranslator;
use crate::model::event::DeltaKind;
use crate::model::json;
use crate::model::record::Template;
use crate::upstream::translate::chunk::{Choice, Chunk, ToolCall};
use crate::upstream::translate::{RecordWriter, Translated};

/// Maximum templates per generation. Each choice and kind of delta takes one. Further chunks are
/// stored in full.
const MAX_TEMPLATES: usize = 32;
/// Maximum consecutive templates that no later chunk matched. The chunks of such a stream differ in
/// more than their text.
const MAX_MISSES: u32 = 4;

#[derive(Debug)]
pub(super) struct Known {
    pub(super) template: Template,
    pub(super) choice: u32,
    /// The call that its arguments belong to.
    pub(super) call: usize,
    /// Bytes of JSON-escaped text that it matched.
    pub(super) length: usize,
    pub(super) matched: bool,
    /// Its item is closed. Text after a finish reason opens another item.
    pub(super) closed: bool,
}

impl ChatTranslator {
    /// Fast path of nearly every chunk: it equals an earlier one except for its text.
    pub(super) fn match_template(
        &mut self,
        data: &[u8],
        records: &mut RecordWriter,
    ) -> Option<Translated> {
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

    /// Makes a template of a chunk that is a single delta, and closes the record with it.
    pub(super) fn add_template(
        &mut self,
        chunk: &Chunk<'_>,
        choice: &Choice<'_>,
        data: &[u8],
        records: &mut RecordWriter,
    ) -> Option<()> {
        let target = records.only_delta()?;
        let index = self.index(choice);
        let is_call = matches!(target.kind, DeltaKind::Arguments | DeltaKind::Input);
        if is_call
            && let Some(calls) = &self.choices.entry(index).calls
            && calls.is_translated(calls.recent())
        {
            return None;
        }
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
}

/// Returns the range of the string's content within the chunk that it was borrowed from.
fn inside_of(raw: &RawValue, data: &[u8]) -> Option<Range<usize>> {
    let inside = json::string_inside(raw)?;
    let start = (inside.as_ptr() as usize).checked_sub(data.as_ptr() as usize)?;
    let range = start..start + inside.len();
    (range.end <= data.len()).then_some(range)
}
