//! Dialects: which JSON a reader sees. Framings: how it is wrapped.
//!
//! A [`Renderer`] turns records into frames of one dialect and hands each to a [`Framing`], which
//! the transport adapters bring. `[DONE]` and error payloads are the dialect's business, since they
//! belong to the language and not to the wrapping.

mod chat;
mod completion;
mod responses;
mod text;

pub(crate) use completion::chat_completion;

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;

use crate::model::event::{ItemHead, item_id};
use crate::model::id::{GenerationId, Seq};
use crate::model::json::Unescaper;
use crate::model::record::{Content, CorruptRecord, KnownTemplate, RecordRef, Template};
use crate::model::snapshot::{Meta, Snapshot};

/// Which JSON a reader sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Open Responses' streaming events.
    #[default]
    Responses,
    /// The upstream's own chat completion chunks.
    Chat,
    /// The bare text of the first choice. It carries no numbers: it can be entered at a position,
    /// not resumed.
    Text,
}

/// One event for one reader, before it is wrapped.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its number; in the chat dialect that of its record's last event.
    pub seq: Seq,
    /// The event's type, where the dialect has types.
    pub name: Option<&'static str>,
    /// A type that is not known at compile time (from an upstream that speaks Responses); wins over
    /// `name`.
    pub relayed_name: Option<&'a str>,
    /// The payload: JSON, `[DONE]`, or bare text.
    pub data: &'a [u8],
}

/// How frames are wrapped for a transport.
///
/// Implementations are stateless: the same frame gives the same bytes for every reader, so that it
/// is encoded once.
pub trait Framing: Send + Sync + fmt::Debug {
    /// Appends the wrapped frame.
    fn frame(&self, stream: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut);

    /// Whether readers see `tokenwire:` events. Some SDKs raise on types that they do not know.
    fn shows_extensions(&self) -> bool;

    /// Whether a stream of this dialect ends with `[DONE]`.
    fn sends_done(&self, dialect: Dialect) -> bool;

    /// Framings with the same key wrap alike; `None` for one that is not worth sharing.
    fn share_key(&self) -> Option<&'static str>;
}

/// `tokenwire:reset`: the whole response object, for a reader whose position cannot be served, and
/// its number, which is that of the last event in the object.
#[must_use]
pub(crate) fn reset_event(meta: &Meta, snapshot: &Snapshot) -> (Seq, Vec<u8>) {
    let seq = Seq(snapshot.next().0.saturating_sub(1));
    let mut out =
        format!(r#"{{"type":"tokenwire:reset","sequence_number":{seq},"response":"#).into_bytes();
    snapshot.write_response(meta, &mut out);
    out.push(b'}');
    (seq, out)
}

/// What a renderer reads beside the records: the state of the stream that it renders.
pub(crate) trait View {
    /// What is known of the stream from its start.
    fn meta(&self) -> &Meta;

    /// The templates so far, by number.
    fn templates(&self) -> Vec<Arc<KnownTemplate>>;

    /// Calls `f` with the snapshot of all events so far.
    fn with_snapshot<T>(&self, f: impl FnOnce(&Snapshot) -> T) -> T;
}

/// Adds to a template what the responses dialect needs to write its deltas. `head` is the head of
/// the template's item.
pub(crate) fn known_template(
    generation: &GenerationId,
    head: Option<&ItemHead>,
    template: Template,
) -> KnownTemplate {
    let mut event_middle = Vec::new();
    let id = head
        .map(|head| item_id(generation, head, template.target.item))
        .unwrap_or_default();
    responses::write_delta_middle(&id, template.target, &mut event_middle);
    KnownTemplate {
        template,
        event_middle,
    }
}

/// Whether anything follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rendered {
    /// More may follow.
    Open,
    /// That was the end.
    Ended,
    /// The end is one that this dialect can only show by breaking off.
    BrokenOff,
}

/// Turns records into wrapped frames for one reader.
#[derive(Debug)]
pub(crate) struct Renderer {
    dialect: Dialect,
    framing: Arc<dyn Framing>,
    templates: Vec<Arc<KnownTemplate>>,
    scratch: Vec<u8>,
    unescaper: Unescaper,
}

impl Renderer {
    pub(crate) fn new(dialect: Dialect, framing: Arc<dyn Framing>) -> Self {
        Self {
            dialect,
            framing,
            templates: Vec::new(),
            scratch: Vec::new(),
            unescaper: Unescaper::default(),
        }
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn share_key(&self) -> Option<&'static str> {
        self.framing.share_key()
    }

    /// Gives back memory that a large frame took.
    pub(crate) fn release(&mut self) {
        self.scratch.shrink_to(1024);
    }

    /// Appends what this reader sees of the record's events from `from` on.
    pub(crate) fn render(
        &mut self,
        view: &impl View,
        record: RecordRef<'_>,
        from: Seq,
        out: &mut BytesMut,
    ) -> Result<Rendered, CorruptRecord> {
        match Content::decode(record.payload)? {
            Content::Delta { template, holes } => {
                if self.templates.len() <= template {
                    self.templates = view.templates();
                }
                let known = self.templates.get(template).ok_or(CorruptRecord)?;
                let text = holes.text(&known.template).ok_or(CorruptRecord)?;
                let seq = record.first_seq;
                self.scratch.clear();
                let name = match self.dialect {
                    Dialect::Responses => {
                        Some(responses::write_delta(seq, known, text, &mut self.scratch))
                    }
                    Dialect::Chat => {
                        holes
                            .chunk(&known.template, &mut self.scratch)
                            .ok_or(CorruptRecord)?;
                        None
                    }
                    Dialect::Text => {
                        if known.template.target.plain {
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
            Content::Whole(whole) => Ok(match self.dialect {
                Dialect::Responses => self.responses(view, &whole, record.first_seq, from, out),
                Dialect::Chat => self.chat(view, &whole, record, out),
                Dialect::Text => self.text(view, &whole, record.first_seq, from, out),
            }),
        }
    }
}
