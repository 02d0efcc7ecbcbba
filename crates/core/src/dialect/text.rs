//! The text dialect: the bare answer.

use bytes::BytesMut;

use super::{Frame, Rendered, Renderer, View};
use crate::model::event::{ChatHint, Ending, EventKind};
use crate::model::id::Seq;
use crate::model::record::FullRecord;

impl Renderer {
    pub(super) fn text(
        &mut self,
        view: &impl View,
        full: &FullRecord<'_>,
        first: Seq,
        from: Seq,
        out: &mut BytesMut,
    ) -> Rendered {
        let mut rendered = Rendered::Open;
        for (seq, event) in (first.0..).map(Seq).zip(&full.events) {
            if seq < from {
                continue;
            }
            self.scratch.clear();
            match event {
                EventKind::Delta { target, text, .. } if target.plain => {
                    self.unescaper.push(text, &mut self.scratch)
                }
                EventKind::Relayed(relayed) => {
                    if let ChatHint::Text {
                        text, plain: true, ..
                    }
                    | ChatHint::Refusal { text, plain: true } = &relayed.chat
                    {
                        self.unescaper.push(text, &mut self.scratch);
                    }
                }
                EventKind::End(outcome) => {
                    self.unescaper.finish(&mut self.scratch);
                    // Bare text has no place for an error: the transfer is aborted instead.
                    let answered = matches!(
                        outcome.ending,
                        Ending::Completed { .. } | Ending::Incomplete { .. }
                    );
                    rendered = if answered {
                        Rendered::Ended
                    } else {
                        Rendered::BrokenOff
                    };
                }
                _ => {}
            }
            if !self.scratch.is_empty() {
                let frame = Frame {
                    seq,
                    name: None,
                    relayed_name: None,
                    data: &self.scratch,
                };
                self.framing.frame(&view.meta().id, &frame, out);
            }
        }
        rendered
    }
}
