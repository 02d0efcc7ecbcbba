//! The text dialect: the bare answer.

use super::frame_output::FrameOutput;
use super::item_index::inside;
use super::{Frame, Rendered, Renderer, View};
use crate::model::event::{DeltaKind, DeltaTarget, Ending, EventKind, ItemHead, Relayed};
use crate::model::id::Seq;
use crate::model::json::Members;
use crate::model::record::FullRecord;

impl Renderer {
    pub(super) fn text(
        &mut self,
        view: &impl View,
        full: &FullRecord<'_>,
        first: Seq,
        from: Seq,
        out: &mut impl FrameOutput,
    ) -> Rendered {
        let mut rendered = Rendered::Open;
        for (seq, event) in (first.0..).map(Seq).zip(&full.events) {
            if seq < from {
                continue;
            }
            self.scratch.clear();
            match event {
                EventKind::Delta { target, text, .. } => {
                    let shown = view
                        .with_snapshot(|snapshot| is_answer(snapshot.head(target.item), *target));
                    if shown {
                        self.unescaper.push(text, &mut self.scratch);
                    }
                }
                EventKind::Relayed(relayed) => {
                    let members = text_delta(relayed).filter(|members| {
                        members.number("output_index").is_some_and(|at| {
                            view.item_index(|index| index.is_first_message(at, seq))
                        })
                    });
                    if let Some(members) = members {
                        self.unescaper
                            .push(inside(&members, "delta"), &mut self.scratch);
                    }
                }
                EventKind::End(outcome) => {
                    self.unescaper.finish(&mut self.scratch);
                    // Bare text has no place for an error: the transfer is aborted instead.
                    let answered = matches!(
                        outcome.ending,
                        Ending::Completed | Ending::Incomplete { .. }
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
                let frame = Frame::unnamed(seq, &self.scratch);
                out.put_frame(&*self.framing, &view.meta().id, &frame);
            }
        }
        rendered
    }
}

/// Returns true for a text or refusal of the first choice. `head` is that of the target's item.
pub(super) fn is_answer(head: Option<&ItemHead>, target: DeltaTarget) -> bool {
    matches!(target.kind, DeltaKind::Text | DeltaKind::Refusal)
        && head.is_some_and(ItemHead::is_first_message)
}

/// Returns the members of an event with a piece of text or of a refusal.
fn text_delta(relayed: &Relayed) -> Option<Members<'_>> {
    matches!(
        relayed.name.as_str(),
        "response.output_text.delta" | "response.refusal.delta"
    )
    .then(|| serde_json::from_str(&relayed.json).ok())?
}
