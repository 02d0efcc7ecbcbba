//! Dialects: the JSON that a reader gets. Framings: how it is wrapped.
//!
//! A `Renderer` turns records into frames of one dialect and passes each to a [`Framing`] of the
//! transport adapter. `[DONE]` and error payloads belong to the dialect, not to the framing.

mod chat;
mod chat_completion;
mod chat_delta;
mod chat_record;
mod frame_output;
mod item_index;
mod large_frame;
mod responses;
mod text;

pub(crate) use chat_completion::chat_completion;
pub(crate) use item_index::ItemIndex;
pub use large_frame::{FrameHead, Wrapping};
pub(crate) use large_frame::{FrameReader, LargeFrames};

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use self::frame_output::{FrameOutput, FrameTarget};

use crate::model::event::{ItemHead, item_id};
use crate::model::id::{GenerationId, Seq};
use crate::model::include::{Form, Include};
use crate::model::json::{self, Unescaper};
use crate::model::output::Output;
use crate::model::pieces::Pieces;
use crate::model::record::{
    Content, CorruptRecord, FullRecord, KnownTemplate, RecordRef, StoredHoles, Template,
};
use crate::model::snapshot::{Api, Meta, Snapshot};

/// The JSON that a reader gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Open Responses' streaming events.
    #[default]
    Responses,
    /// Chat completion chunks, unchanged where the upstream sent them.
    Chat,
    /// The bare text of the first choice. It has no numbers: a reader can enter at a position, but
    /// cannot resume.
    Text,
}

/// One event for one reader, before framing.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The event's number; in the chat dialect the number of the record's last event.
    pub seq: Seq,
    /// The event's type, if the dialect has types.
    pub name: Option<&'static str>,
    /// The type of a Responses upstream's event. Takes precedence over `name`.
    pub relayed_name: Option<&'a str>,
    /// The payload: JSON, `[DONE]`, or bare text.
    pub data: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Returns a frame whose event has no type.
    #[must_use]
    pub fn unnamed(seq: Seq, data: &'a [u8]) -> Self {
        Self {
            seq,
            name: None,
            relayed_name: None,
            data,
        }
    }
}

/// Wraps frames for a transport.
///
/// Implementations are stateless: a frame has the same bytes for every reader, so it is encoded
/// once.
pub trait Framing: Send + Sync + fmt::Debug {
    /// Appends the wrapped frame.
    fn frame(&self, stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut);

    /// Returns what is around a large payload, which is then sent in pieces. The bytes must be those
    /// of [`Framing::frame`]. `None` if it takes payloads only as a whole.
    fn wrap(&self, _stream: &GenerationId, _frame: &FrameHead<'_>) -> Option<Wrapping> {
        None
    }

    /// Returns true if readers get `tokenwire:` events. Some SDKs raise on unknown types.
    fn shows_extensions(&self) -> bool;

    /// Returns true if a stream of this dialect ends with `[DONE]`.
    fn sends_done(&self, dialect: Dialect) -> bool;

    /// Returns a key that is equal for framings with the same output; `None` if the output is not
    /// worth sharing. After a change of it readers must be
    /// [told](crate::generation::Subscription::framing_changed).
    fn share_key(&self) -> Option<&'static str>;
}

/// Appends `tokenwire:reset` with the response object, for a reader whose position cannot be served.
/// Returns its number, which is that of the last event in the object.
pub(crate) fn write_reset(
    meta: &Meta,
    snapshot: &Snapshot,
    include: Include,
    out: &mut impl Output,
) -> Seq {
    let seq = Seq(snapshot.next().0.saturating_sub(1));
    out.extend_from_slice(b"{\"type\":\"tokenwire:reset\",\"sequence_number\":");
    json::push_number(out, seq.0);
    out.extend_from_slice(b",\"response\":");
    snapshot.write_response(meta, Form::Shown(include), out);
    out.push(b'}');
    seq
}

/// The state of a stream that a renderer reads beside the records.
pub(crate) trait View {
    /// Returns the facts that are known at the stream's start.
    fn meta(&self) -> &Meta;

    /// Returns the templates so far, by number.
    fn templates(&self) -> Vec<Arc<KnownTemplate>>;

    /// Calls `f` with the snapshot of all events so far.
    fn with_snapshot<T>(&self, f: impl FnOnce(&Snapshot) -> T) -> T;

    /// Calls `f` with the index of a Responses upstream's items, which all readers share.
    fn item_index<T>(&self, f: impl FnOnce(&mut ItemIndex) -> T) -> T;

    /// Returns true if the record with this number is known to be a chunk that reports the usage and
    /// nothing else. False says nothing.
    fn is_usage_chunk(&self, seq: Seq) -> bool;
}

/// Adds the constant bytes of the responses dialect to a template. `head` is the head of the
/// template's item.
pub(crate) fn known_template(
    generation: &GenerationId,
    head: Option<&ItemHead>,
    template: Template,
) -> KnownTemplate {
    // What a part of a message takes; it is kept with the generation.
    let mut event_middle = Vec::with_capacity(96);
    let id = head
        .map(|head| item_id(generation, head, template.target.item))
        .unwrap_or_default();
    responses::write_delta_middle(&id, template.target, &mut event_middle);
    KnownTemplate {
        is_answer: text::is_answer(head, template.target),
        template,
        event_middle,
    }
}

/// A dialect, the key of a framing that writes the same bytes for every reader, and what the reader
/// asks to be shown.
pub(crate) type RenderKey = (Dialect, &'static str, Include);

/// State of a stream after a record was rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rendered {
    /// More may follow.
    Open,
    /// The stream has ended.
    Ended,
    /// The stream has ended in a way that this dialect shows by an aborted transfer.
    BrokenOff,
    /// Nothing was rendered: the record is to be rendered in pieces.
    Large,
}

/// A record that repeats more text than this is rendered in pieces.
const LARGE_BYTES: usize = 64 * 1024;

/// Turns records into wrapped frames for one reader.
#[derive(Debug)]
pub(crate) struct Renderer {
    dialect: Dialect,
    framing: Arc<dyn Framing>,
    /// That of the framing, which would be read for each token.
    share_key: Option<&'static str>,
    include: Include,
    templates: Vec<Arc<KnownTemplate>>,
    scratch: Vec<u8>,
    unescaper: Unescaper,
}

impl Renderer {
    pub(crate) fn new(dialect: Dialect, framing: Arc<dyn Framing>) -> Self {
        Self {
            dialect,
            share_key: framing.share_key(),
            framing,
            include: Include::default(),
            templates: Vec::new(),
            scratch: Vec::new(),
            unescaper: Unescaper::default(),
        }
    }

    /// Sets what the reader asks to be shown.
    pub(crate) fn set_include(&mut self, include: Include) {
        self.include = include;
    }

    pub(crate) fn include(&self) -> Include {
        self.include
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn share_key(&self) -> Option<&'static str> {
        self.share_key
    }

    /// Reads the share key of the framing again.
    pub(crate) fn framing_changed(&mut self) {
        self.share_key = self.framing.share_key();
    }

    pub(crate) fn shows_extensions(&self) -> bool {
        self.framing.shows_extensions()
    }

    /// Returns the frame of a `tokenwire:reset`.
    pub(crate) fn reset(&self, id: &GenerationId, seq: Seq, event: Pieces) -> LargeFrames {
        LargeFrames::one(&*self.framing, id, seq, event)
    }

    /// Exchanges the buffer of payloads, whose content is of no use to a later frame.
    pub(crate) fn swap_scratch(&mut self, buffer: &mut Vec<u8>) {
        std::mem::swap(&mut self.scratch, buffer);
    }

    /// Frees the memory that a large frame took.
    pub(crate) fn release(&mut self) {
        self.scratch.shrink_to(1024);
    }

    /// Returns the event to read from, for a reader that is shown the events from `from` on.
    ///
    /// Chat chunks and bare text of a Responses upstream depend on earlier events. The first such
    /// reader of a generation in a process reads the log from its start.
    pub(crate) fn start(&self, view: &impl View, from: Seq) -> Seq {
        if self.needs_index(view.meta()) {
            from.min(view.item_index(|index| index.next()))
        } else {
            from
        }
    }

    fn needs_index(&self, meta: &Meta) -> bool {
        meta.api == Api::Responses && self.dialect != Dialect::Responses
    }

    /// Appends the frames for the record's events from `from` on.
    #[inline]
    pub(crate) fn render(
        &mut self,
        view: &impl View,
        record: RecordRef<'_>,
        from: Seq,
        out: &mut BytesMut,
    ) -> Result<Rendered, CorruptRecord> {
        let Some((template, holes)) = Content::delta(record.payload)? else {
            return self.render_full(view, record, from, out);
        };
        if self.templates.len() <= template {
            self.templates = view.templates();
        }
        let known = self.templates.get(template).ok_or(CorruptRecord)?;
        let text = holes.text(&known.template).ok_or(CorruptRecord)?;
        let seq = record.first_seq;
        self.scratch.clear();
        let name = match self.dialect {
            Dialect::Responses => Some(responses::write_delta(seq, known, text, &mut self.scratch)),
            Dialect::Chat => {
                holes
                    .chunk(&known.template, &mut self.scratch)
                    .ok_or(CorruptRecord)?;
                None
            }
            Dialect::Text => {
                if known.is_answer {
                    let text = std::str::from_utf8(text).map_err(|_| CorruptRecord)?;
                    self.unescaper.push(text, &mut self.scratch);
                }
                None
            }
        };
        if !self.scratch.is_empty() {
            let frame = Frame {
                seq,
                name,
                relayed_name: None,
                data: &self.scratch,
            };
            self.framing.frame(&view.meta().id, &frame, out);
        }
        Ok(Rendered::Open)
    }

    /// As [`Renderer::render`], of a full record. Apart, so that the way of a delta is short.
    #[inline(never)]
    fn render_full(
        &mut self,
        view: &impl View,
        record: RecordRef<'_>,
        from: Seq,
        out: &mut BytesMut,
    ) -> Result<Rendered, CorruptRecord> {
        if self.dialect == Dialect::Chat
            && view.meta().api == Api::Chat
            && let Some(stored) = Content::full(record.payload)
            && let Some(rendered) = self.chat_record(view, stored, record, from, out)?
        {
            return Ok(rendered);
        }
        let Content::Full(full) = Content::decode(record.payload)? else {
            return Err(CorruptRecord);
        };
        let is_shown = record.next_seq() > from;
        if is_shown
            && self.dialect == Dialect::Responses
            && responses::is_large(view, &full, LARGE_BYTES)
        {
            return Ok(Rendered::Large);
        }
        Ok(self.full(view, &full, record, from, out))
    }

    /// Returns the frames for the events of one record from `from` on, in pieces. They share what
    /// `source`, the record's bytes, has as well.
    pub(crate) fn render_large(
        &mut self,
        view: &impl View,
        record: RecordRef<'_>,
        source: Option<Bytes>,
        from: Seq,
    ) -> Result<(LargeFrames, Rendered), CorruptRecord> {
        let mut frames = LargeFrames::of(source);
        let rendered = match Content::decode(record.payload)? {
            Content::Full(full) => self.full(view, &full, record, from, &mut frames),
            Content::Delta { template, holes } => {
                self.large_delta(view, record.first_seq, template, holes, &mut frames)?;
                Rendered::Open
            }
        };
        Ok((frames, rendered))
    }

    fn large_delta(
        &mut self,
        view: &impl View,
        seq: Seq,
        template: usize,
        holes: StoredHoles<'_>,
        out: &mut LargeFrames,
    ) -> Result<(), CorruptRecord> {
        if self.templates.len() <= template {
            self.templates = view.templates();
        }
        let known = self.templates.get(template).ok_or(CorruptRecord)?;
        let text = holes.text(&known.template).ok_or(CorruptRecord)?;
        let (framing, id) = (&*self.framing, &view.meta().id);
        let dialect = self.dialect;
        self.scratch.clear();
        if dialect != Dialect::Text {
            let to = FrameTarget {
                framing,
                id,
                seq,
                relayed_name: None,
            };
            out.write_frame(&to, &mut self.scratch, |data| {
                if dialect == Dialect::Responses {
                    return Some(responses::write_delta(seq, known, text, data));
                }
                holes.chunk(&known.template, data);
                None
            });
        } else if known.is_answer {
            let text = std::str::from_utf8(text).map_err(|_| CorruptRecord)?;
            self.unescaper.push(text, &mut self.scratch);
            let frame = Frame::unnamed(seq, &self.scratch);
            out.put_frame(framing, id, &frame);
        }
        Ok(())
    }

    fn full(
        &mut self,
        view: &impl View,
        full: &FullRecord<'_>,
        record: RecordRef<'_>,
        from: Seq,
        out: &mut impl FrameOutput,
    ) -> Rendered {
        let first = record.first_seq;
        if self.needs_index(view.meta()) {
            view.item_index(|index| index.note(first, &full.events));
        }
        if record.next_seq() <= from {
            return Rendered::Open;
        }
        match self.dialect {
            Dialect::Responses => self.responses(view, full, first, from, out),
            Dialect::Chat => self.chat(view, full, record, from, out),
            Dialect::Text => self.text(view, full, first, from, out),
        }
    }
}
