//! What a chat reader is shown of a record of a chat upstream: the upstream's chunk. Reading it
//! copies nothing: the copies of the events, which such a reader is not shown, took as long as the
//! rest.

use serde::Deserialize;

use crate::model::event::{DeltaTarget, PartKind};
use crate::model::record::CorruptRecord;

/// A record of a chat upstream.
#[derive(Debug, PartialEq)]
pub(super) struct ChatRecord<'a> {
    /// The upstream's chunk.
    pub(super) raw: Option<&'a [u8]>,
    /// Whether the chunk is all, as [`EventKind::Chunk`](crate::model::event::EventKind::Chunk)
    /// says.
    pub(super) is_alone: bool,
    /// Whether the answer ends here.
    pub(super) is_end: bool,
}

/// An [`EventKind`](crate::model::event::EventKind) in its stored form, which borrows its texts.
/// Variants and fields are in the same order.
#[derive(Deserialize)]
#[expect(dead_code, reason = "the fields are only skipped")]
enum StoredEvent<'a> {
    Created,
    Queued,
    InProgress,
    ItemAdded {
        item: u32,
        #[serde(borrow)]
        head: StoredHead<'a>,
    },
    PartAdded {
        item: u32,
        part: u32,
        kind: PartKind,
    },
    Delta {
        target: DeltaTarget,
        text: &'a str,
        logprobs: Option<&'a str>,
    },
    Annotation {
        item: u32,
        part: u32,
        index: u32,
        json: &'a str,
    },
    TextDone {
        item: u32,
        part: u32,
    },
    ArgumentsDone {
        item: u32,
    },
    PartDone {
        item: u32,
        part: u32,
    },
    ItemDone {
        item: u32,
        complete: bool,
        private: Option<&'a str>,
    },
    Chunk,
    Relayed {
        name: &'a str,
        json: &'a str,
    },
    Continued {
        upstream: &'a str,
    },
    End {
        ending: StoredEnding<'a>,
        at: u64,
        usage: Option<&'a str>,
        relayed: Option<&'a str>,
    },
}

/// An [`ItemHead`](crate::model::event::ItemHead) in its stored form.
#[derive(Deserialize)]
#[expect(dead_code, reason = "the fields are only skipped")]
enum StoredHead<'a> {
    Message {
        choice: u32,
    },
    Reasoning {
        choice: u32,
    },
    FunctionCall {
        choice: u32,
        call_id: &'a str,
        name: &'a str,
        extra: Option<&'a str>,
        namespace: Option<&'a str>,
    },
    CustomToolCall {
        choice: u32,
        call_id: &'a str,
        name: &'a str,
        namespace: Option<&'a str>,
    },
    Image {
        choice: u32,
        result: Option<&'a str>,
    },
}

/// An [`Ending`](crate::model::event::Ending) in its stored form.
#[derive(Deserialize)]
#[expect(dead_code, reason = "the fields are only skipped")]
enum StoredEnding<'a> {
    Completed,
    Incomplete {
        reason: &'a str,
    },
    Failed {
        code: &'a str,
        kind: &'a str,
        message: &'a str,
        retryable: bool,
    },
    Cancelled,
}

impl<'a> ChatRecord<'a> {
    /// Reads a record [in its stored form](crate::model::record::Content::full).
    pub(super) fn read(stored: &'a [u8]) -> Result<Self, CorruptRecord> {
        let corrupt = |_| CorruptRecord;
        let (count, mut rest) = postcard::take_from_bytes::<usize>(stored).map_err(corrupt)?;
        let mut record = Self {
            raw: None,
            is_alone: false,
            is_end: false,
        };
        for _ in 0..count {
            let event;
            (event, rest) = postcard::take_from_bytes::<StoredEvent<'_>>(rest).map_err(corrupt)?;
            record.is_alone = count == 1 && matches!(event, StoredEvent::Chunk);
            record.is_end |= matches!(event, StoredEvent::End { .. });
        }
        let raw = postcard::from_bytes::<Option<&serde_bytes::Bytes>>(rest).map_err(corrupt)?;
        record.raw = raw.map(|raw| &raw[..]);
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{DeltaKind, Ending, EventKind, Failure, ItemHead, Outcome, Relayed};
    use crate::model::folded_json::FoldedJson;
    use crate::model::record::{Content, FullRecord, RecordBatch};

    fn check(events: Vec<EventKind>, raw: Option<&[u8]>, is_alone: bool, is_end: bool) {
        let mut batch = RecordBatch::default();
        let shown = format!("{events:?}");
        batch.push_full(&FullRecord {
            events,
            raw: raw.map(serde_bytes::Bytes::new),
        });
        let payload = batch.iter().next().unwrap().payload;
        let stored = Content::full(payload).unwrap();
        let expected = ChatRecord {
            raw,
            is_alone,
            is_end,
        };
        assert_eq!(ChatRecord::read(stored), Ok(expected), "{shown}");
        for length in 0..stored.len() {
            assert!(
                ChatRecord::read(&stored[..length]).is_err(),
                "{shown}, cut to {length}"
            );
        }
    }

    fn heads() -> Vec<ItemHead> {
        let text = || "some text".to_owned();
        vec![
            ItemHead::Message { choice: 300 },
            ItemHead::Reasoning { choice: 1 },
            ItemHead::FunctionCall {
                choice: 2,
                call_id: text(),
                name: text(),
                extra: Some(text().into()),
                namespace: None,
            },
            ItemHead::CustomToolCall {
                choice: 3,
                call_id: text(),
                name: text(),
                namespace: Some(text().into()),
            },
            ItemHead::Image {
                choice: 4,
                result: Some(text()),
            },
        ]
    }

    fn ended(ending: Ending) -> EventKind {
        EventKind::End(Outcome {
            ending,
            at: 1_700_000_000,
            usage: Some("{}".to_owned()),
            relayed: Some(FoldedJson::plain("{}".to_owned())),
        })
    }

    #[test]
    fn every_event_is_read_in_its_stored_form() {
        let (item, part) = (300, 2);
        let text = || "t".to_owned();
        let target = DeltaTarget {
            item,
            part,
            kind: DeltaKind::Input,
        };
        let added = heads()
            .into_iter()
            .map(|head| EventKind::ItemAdded { item, head });
        let others = [
            EventKind::Created,
            EventKind::Queued,
            EventKind::InProgress,
            EventKind::PartAdded {
                item,
                part,
                kind: PartKind::Reasoning,
            },
            EventKind::Delta {
                target,
                text: text(),
                logprobs: Some(text()),
            },
            EventKind::Annotation {
                item,
                part,
                index: 7,
                json: text(),
            },
            EventKind::TextDone { item, part },
            EventKind::ArgumentsDone { item },
            EventKind::PartDone { item, part },
            EventKind::ItemDone {
                item,
                complete: true,
                private: Some(text().into()),
            },
            EventKind::Relayed(Relayed {
                name: text(),
                json: text(),
            }),
            EventKind::Continued { upstream: text() },
        ];
        for event in added.chain(others) {
            check(vec![event.clone()], Some(b"{}"), false, false);
            check(vec![event, EventKind::Chunk], None, false, false);
        }
    }

    #[test]
    fn lone_chunk_and_end_are_recognised() {
        let failure = Failure {
            code: "c".to_owned(),
            kind: "k".to_owned(),
            message: "m".to_owned(),
            retryable: true,
        };
        let incomplete = Ending::Incomplete {
            reason: "r".to_owned(),
        };
        check(vec![EventKind::Chunk], Some(b"{\"a\":1}"), true, false);
        for ending in [
            Ending::Completed,
            incomplete,
            Ending::Failed(failure),
            Ending::Cancelled,
        ] {
            check(
                vec![EventKind::InProgress, ended(ending)],
                None,
                false,
                true,
            );
        }
    }
}
