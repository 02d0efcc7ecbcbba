//! The snapshot of a generation that is being written.

use std::fmt;

use super::{Change, Snapshot};
use crate::model::event::{DeltaKind, DeltaTarget};
use crate::model::id::Seq;

/// The most text that is held apart. With it [`LatestDeltas`] fills an allocation.
const MAX_BYTES: usize = 230;

/// A snapshot to which the writer applies each token.
///
/// The latest deltas of one text are held apart, and folded when there are many of them or the
/// snapshot is read. From a snapshot to the end of a text is seven steps through memory, none of
/// which is in the processor's cache when many streams get a token in turn.
#[derive(Default)]
pub(crate) struct LiveSnapshot {
    /// Boxed, and dropped at the end: ended generations are kept for long.
    latest: Option<Box<LatestDeltas>>,
    folded: Snapshot,
}

struct LatestDeltas {
    /// Where the text belongs.
    target: DeltaTarget,
    /// The number of the last delta.
    last: Seq,
    /// Number of deltas. If there is none, the other fields say nothing.
    count: u32,
    length: u16,
    text: [u8; MAX_BYTES],
}

const _: () = assert!(size_of::<LatestDeltas>() == 256);

impl fmt::Debug for LiveSnapshot {
    /// Omits the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveSnapshot")
            .field("latest", &self.latest.as_ref().map(|latest| latest.count))
            .field("folded", &self.folded)
            .finish()
    }
}

impl From<Snapshot> for LiveSnapshot {
    fn from(folded: Snapshot) -> Self {
        Self {
            latest: None,
            folded,
        }
    }
}

impl LiveSnapshot {
    /// Applies the event with this number. Events must be applied in order, each once.
    pub(crate) fn apply(&mut self, seq: Seq, change: impl Into<Change>) {
        self.folded().apply(seq, change);
        if self.folded.outcome().is_some() {
            self.latest = None;
        }
    }

    /// Applies a delta that is stored by its template.
    #[inline]
    pub(crate) fn apply_delta(&mut self, seq: Seq, target: DeltaTarget, text: &str) {
        let appended = self.latest.as_mut().is_some_and(|latest| {
            latest.count > 0 && latest.target == target && latest.push(seq, text)
        });
        if !appended {
            self.begin(seq, target, text);
        }
    }

    /// Folds the deltas so far, and holds this one apart if it is short.
    #[inline(never)]
    fn begin(&mut self, seq: Seq, target: DeltaTarget, text: &str) {
        self.folded();
        let latest = self.latest.get_or_insert_with(LatestDeltas::empty);
        latest.target = target;
        if !latest.push(seq, text) {
            self.folded.apply_deltas(seq, 1, target, text);
        }
    }

    /// Returns the snapshot of all events so far.
    pub(crate) fn folded(&mut self) -> &mut Snapshot {
        if let Some(latest) = &mut self.latest
            && latest.count > 0
        {
            let text = latest.text();
            self.folded
                .apply_deltas(latest.last, latest.count, latest.target, text);
            latest.count = 0;
            latest.length = 0;
        }
        &mut self.folded
    }

    /// Returns a snapshot that may lack the latest deltas, for what these do not change.
    pub(crate) fn without_latest(&self) -> &Snapshot {
        &self.folded
    }

    /// Returns the number of events, and of those with a piece of text, reasoning, refusal or
    /// arguments.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let (events, deltas) = (self.folded.events(), self.folded.deltas());
        let apart = self.latest.as_ref().map_or(0, |latest| latest.count.into());
        (events + apart, deltas + apart)
    }

    /// Returns the approximate memory size, in bytes.
    pub(crate) fn memory_size(&self) -> usize {
        let latest = self
            .latest
            .as_ref()
            .map_or(0, |_| size_of::<LatestDeltas>());
        self.folded.memory_size() + latest
    }

    pub(crate) fn into_folded(mut self) -> Snapshot {
        self.folded();
        self.folded
    }
}

impl LatestDeltas {
    fn empty() -> Box<Self> {
        Box::new(Self {
            target: DeltaTarget {
                item: 0,
                part: 0,
                kind: DeltaKind::Text,
            },
            last: Seq(0),
            count: 0,
            length: 0,
            text: [0; MAX_BYTES],
        })
    }

    /// Appends a delta. Returns false if there is no room for it.
    #[inline]
    fn push(&mut self, seq: Seq, text: &str) -> bool {
        let start = usize::from(self.length);
        let Some(room) = self.text.get_mut(start..start + text.len()) else {
            return false;
        };
        room.copy_from_slice(text.as_bytes());
        self.length += text.len() as u16;
        self.last = seq;
        self.count += 1;
        true
    }

    fn text(&self) -> &str {
        let text = self.text.get(..usize::from(self.length));
        // It is made of whole texts.
        std::str::from_utf8(text.unwrap_or_default()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{Ending, EventKind, ItemHead, Outcome, PartKind};

    fn target(item: u32) -> DeltaTarget {
        DeltaTarget {
            item,
            part: 0,
            kind: DeltaKind::Text,
        }
    }

    fn begun() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (seq, event) in (0..).zip((0..2).flat_map(|item| {
            let head = ItemHead::Message { choice: item };
            [
                EventKind::ItemAdded { item, head },
                EventKind::PartAdded {
                    item,
                    part: 0,
                    kind: PartKind::Text,
                },
            ]
        })) {
            snapshot.apply(Seq(seq), event);
        }
        snapshot
    }

    #[test]
    fn deltas_that_are_held_apart_are_those_that_were_applied() {
        let long = "y".repeat(2000);
        let texts = ["a", "", "bc", &long, "d"];
        // One text, two in turn, and two in runs.
        let orders: [fn(u64) -> u32; 3] = [
            |_| 0,
            |at| u32::try_from(at % 2).unwrap(),
            |at| u32::from(at % 200 < 100),
        ];
        for order in orders {
            for read_every in [1, 7, 400] {
                let mut expected = begun();
                let mut live = LiveSnapshot::from(begun());
                for at in 0..400 {
                    let text = texts[usize::try_from(at * 7 % 5).unwrap()];
                    let text = if at % 90 == 0 { text } else { "xyz" };
                    let (seq, target) = (Seq(4 + at), target(order(at)));
                    expected.apply_deltas(seq, 1, target, text);
                    live.apply_delta(seq, target, text);
                    assert_eq!(live.progress(), (expected.events(), expected.deltas()));
                    if at % read_every == 0 {
                        assert_eq!(live.folded().next(), expected.next());
                    }
                }
                let folded = live.into_folded();
                for item in 0..2 {
                    let text = folded.text_of(target(item)).to_string();
                    assert_eq!(text, expected.text_of(target(item)).to_string());
                }
                assert_eq!(folded.next(), expected.next());
                assert_eq!(folded.deltas(), expected.deltas());
            }
        }
    }

    #[test]
    fn text_that_is_held_apart_is_bounded() {
        let mut live = LiveSnapshot::from(begun());
        for seq in 0..10_000 {
            live.apply_delta(Seq(4 + seq), target(0), "12345");
            let without = live.without_latest().text_of(target(0)).len();
            assert!(5 * (seq + 1) - without as u64 <= MAX_BYTES as u64);
        }
        let outcome = Outcome {
            ending: Ending::Completed,
            at: 0,
            usage: None,
            relayed: None,
        };
        live.apply(Seq(10_004), EventKind::End(outcome));
        assert!(live.latest.is_none(), "what is kept is larger");
        assert_eq!(live.folded().text_of(target(0)).len(), 50_000);
    }
}
