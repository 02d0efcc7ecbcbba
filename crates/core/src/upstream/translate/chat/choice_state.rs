//! The state of one choice of a chat stream: its open items, and where its text was streamed to.

use serde_json::value::RawValue;

use super::reasoning_origin::ReasoningOrigin;
use crate::model::event::{DeltaKind, DeltaTarget, EventKind, ItemHead, PartKind};
use crate::model::json;
use crate::model::record::Template;
use crate::upstream::translate::chunk::{Delta, Image, Text, Texts};
use crate::upstream::translate::record_writer::OpenItem;
use crate::upstream::translate::tool_calls::ToolCalls;
use crate::upstream::translate::{RecordWriter, complete_logprobs};

#[derive(Debug, Default)]
pub(super) struct ChoiceState {
    pub(super) reasoning: Option<OpenItem>,
    /// The members that the reasoning came in.
    pub(super) origin: Option<Box<ReasoningOrigin>>,
    pub(super) message: Option<OpenItem>,
    pub(super) calls: Option<Box<ToolCalls>>,
    pub(super) images: u32,
    pub(super) finished: bool,
    /// The last chunk was a completion without a finish reason. The end of the body finishes it.
    pub(super) complete: bool,
    /// Messages repeat the deltas that they come with.
    pub(super) mirrored: bool,
    /// Places that text was streamed to, in order, with the bytes of JSON-escaped text that no
    /// template matched.
    pub(super) places: Vec<(DeltaTarget, usize)>,
    /// Whether all text came in messages instead of deltas.
    pub(super) by_message: bool,
}

/// The states of the choices, sorted by index. Most streams have one choice.
#[derive(Debug, Default)]
pub(super) struct Choices(pub(super) Vec<(u32, ChoiceState)>);

/// The parts of an answer besides calls that a delta or message has.
pub(super) struct Piece<'a> {
    pub(super) texts: Texts<'a>,
    pub(super) refusal: Option<&'a str>,
    pub(super) logprobs: Option<&'a RawValue>,
}

impl Choices {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &ChoiceState> {
        self.0.iter().map(|(_, choice)| choice)
    }

    /// Returns the state of a choice, a fresh one if there is none.
    pub(super) fn entry(&mut self, index: u32) -> &mut ChoiceState {
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

impl Piece<'_> {
    pub(super) fn is_silent(&self) -> bool {
        let Texts {
            content,
            reasoning,
            images,
        } = &self.texts;
        content.is_none() && reasoning.is_none() && images.is_empty() && self.refusal.is_none()
    }
}

impl ChoiceState {
    /// Returns the item of the reasoning. Opens it if there is none.
    pub(super) fn open_reasoning(
        &mut self,
        choice: u32,
        records: &mut RecordWriter,
    ) -> &mut OpenItem {
        self.reasoning
            .get_or_insert_with(|| OpenItem::open(records, ItemHead::Reasoning { choice }))
    }

    /// Appends texts and images. Returns true if there were any.
    pub(super) fn append(
        &mut self,
        choice: u32,
        piece: &Piece<'_>,
        records: &mut RecordWriter,
    ) -> bool {
        if let Some(reasoning) = &piece.texts.reasoning {
            let item = self.open_reasoning(choice, records);
            let target = item.target(records, PartKind::Reasoning);
            self.text(target, reasoning, None, records);
        }
        let logprobs = piece.logprobs.map(complete_logprobs);
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
                private: None,
            });
            if remote {
                // The URL is in the chunk only.
                records.event(EventKind::Chunk);
            }
        }
        !piece.is_silent()
    }

    pub(super) fn place(
        &mut self,
        choice: u32,
        kind: PartKind,
        records: &mut RecordWriter,
    ) -> DeltaTarget {
        self.message
            .get_or_insert_with(|| OpenItem::open(records, ItemHead::Message { choice }))
            .target(records, kind)
    }

    pub(super) fn text(
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

    pub(super) fn annotate(&mut self, delta: &Delta<'_>, records: &mut RecordWriter) {
        if let Some(item) = &mut self.message {
            for json in delta.annotations() {
                item.annotation(records, json);
            }
        }
    }

    /// Returns what follows the streamed text in a complete text. `matched` is the number of bytes
    /// that templates matched.
    pub(super) fn rest<'a>(
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
