//! Readers of a log that another writer went on with: the hole between two epochs.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;

use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{Place, ReaderKind, Resumption};
use tokenwire_core::generation::{Generation, SubscriptionError};
use tokenwire_core::model::error::ErrorCode;
use tokenwire_core::model::event::{DeltaKind, DeltaTarget, Ending, EventKind, Failure, Outcome};
use tokenwire_core::model::id::{Epoch, Owner, Seq};
use tokenwire_core::upstream::translate::RecordWriter;
use tokenwire_testkit::{EngineOptions, JsonLines, Reader, TestEngine, settle};

const CHAT: &str = r#"{"stream":true,"messages":[{"role":"user","content":"hi"}]}"#;
/// The first number of epoch 2.
const SECOND: u64 = 1 << 24;

/// A generation whose second writer has begun, and the number after the last event of the first.
struct TakenOver {
    test: TestEngine,
    generation: Arc<Generation>,
    epoch: Epoch,
    end: u64,
}

async fn taken_over() -> TakenOver {
    let test = TestEngine::new(EngineOptions::default());
    let started = test.start(CHAT);
    let call = test.upstream.call().await;
    call.token("Hel").token("lo");
    settle().await;
    let generation = started.guard.generation().clone();
    let epoch = generation.log().begin_epoch();
    let end = generation.tail().unwrap().next.0;
    TakenOver {
        test,
        generation,
        epoch,
        end,
    }
}

impl TakenOver {
    fn events(&self, events: impl IntoIterator<Item = EventKind>) -> RecordWriter {
        let end = self.generation.tail().unwrap().next;
        let mut records = RecordWriter::in_epoch(end, self.epoch);
        events.into_iter().for_each(|event| records.event(event));
        records.record(None);
        records
    }

    fn append(&self, text: &str) {
        let target = DeltaTarget {
            item: 0,
            part: 0,
            kind: DeltaKind::Text,
        };
        let records = self.events([EventKind::Delta {
            target,
            text: text.to_owned(),
            logprobs: None,
        }]);
        let log = self.generation.log();
        log.append(self.epoch, records.batch()).unwrap();
    }

    /// Ends it as a process that takes over does: what is open is closed, then the failure.
    fn seal(&self) {
        let failure = Failure {
            code: "producer_lost".to_owned(),
            kind: "server_error".to_owned(),
            message: "The process that wrote this answer was lost.".to_owned(),
            retryable: true,
        };
        let outcome = Outcome {
            ending: Ending::Failed(failure),
            at: 0,
            usage: None,
            relayed: None,
        };
        let records = self.events([
            EventKind::TextDone { item: 0, part: 0 },
            EventKind::PartDone { item: 0, part: 0 },
            EventKind::ItemDone {
                item: 0,
                complete: false,
                private: None,
            },
            EventKind::End(outcome),
        ]);
        let log = self.generation.log();
        log.seal(self.epoch, records.batch()).unwrap();
    }

    fn resume(&self, after: u64, kind: ReaderKind) -> Result<u64, ErrorCode> {
        let guard = self.generation.attach();
        match self.test.engine.read(guard, Some(after), kind) {
            Ok(Resumption::Read { from, .. }) => Ok(from.0),
            Ok(other) => panic!("{other:?}"),
            Err(error) if error.is(ErrorCode::PositionGone) => Err(ErrorCode::PositionGone),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn reader(&self, from: u64, extensions: bool) -> Reader {
        let framing = Arc::new(JsonLines {
            extensions,
            ..JsonLines::default()
        });
        Reader::framed(self.generation.attach(), from, Dialect::Responses, framing)
    }
}

fn numbers(reader: &Reader) -> Vec<u64> {
    reader.lines().iter().map(|line| line.seq).collect()
}

fn is_reset(reader: &Reader, at: usize) -> bool {
    let lines = reader.lines();
    let json: serde_json::Value = serde_json::from_str(&lines[at].data).unwrap();
    assert_eq!(json["sequence_number"], lines[at].seq);
    json["type"] == "tokenwire:reset"
}

#[tokio::test(start_paused = true)]
async fn reader_that_saw_the_whole_first_epoch_goes_on_without_a_reset() {
    let log = taken_over().await;
    let mut reader = log.reader(log.end, true);
    reader.read_now();
    assert!(numbers(&reader).is_empty());
    log.append(" there");
    log.seal();
    reader.read_now();
    assert_eq!(numbers(&reader), (SECOND..SECOND + 5).collect::<Vec<_>>());
    assert_eq!(reader.end(), Some(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn reader_from_the_start_sees_both_epochs_in_order() {
    let log = taken_over().await;
    log.append(" there");
    log.seal();
    let mut reader = log.reader(0, true);
    reader.read_now();
    let expected: Vec<u64> = (0..log.end).chain(SECOND..SECOND + 5).collect();
    assert_eq!(numbers(&reader), expected);
}

#[tokio::test(start_paused = true)]
async fn lost_position_gets_a_reset_and_then_what_follows() {
    let log = taken_over().await;
    for after in [log.end, log.end + 40, SECOND - 1] {
        assert_eq!(log.resume(after, ReaderKind::EventSource), Ok(after + 1));
        assert_eq!(log.resume(after, ReaderKind::WebSocket), Ok(after + 1));
    }
    let mut early = log.reader(log.end + 1, true);
    early.read_now();
    assert_eq!(numbers(&early), [log.end - 1], "the reset does not wait");
    assert!(is_reset(&early, 0));
    assert!(early.lines()[0].data.contains(r#""text":"Hello""#));

    log.append(" there");
    let mut late = log.reader(log.end + 1, true);
    log.seal();
    for reader in [&mut early, &mut late] {
        reader.read_now();
        let mut expected = vec![log.end - 1];
        expected.extend(SECOND..SECOND + 5);
        assert_eq!(numbers(reader), expected);
        assert!(is_reset(reader, 0));
        assert_eq!(reader.end(), Some(Ok(())));
    }
}

#[tokio::test(start_paused = true)]
async fn reader_past_the_head_gets_a_reset_once_its_position_is_lost() {
    let test = TestEngine::new(EngineOptions::default());
    let started = test.start(CHAT);
    let call = test.upstream.call().await;
    call.token("Hello");
    settle().await;
    let generation = started.guard.generation().clone();
    let end = generation.tail().unwrap().next.0;
    // It saw ten events more, of which this log knows nothing yet.
    let mut reader = Reader::new(generation.attach(), end + 10, Dialect::Responses);
    reader.read_now();
    assert!(numbers(&reader).is_empty(), "it waits for its next event");
    let log = TakenOver {
        epoch: generation.log().begin_epoch(),
        test,
        generation,
        end,
    };
    log.append(" there");
    reader.read_now();
    assert_eq!(numbers(&reader), [end - 1, SECOND]);
    assert!(is_reset(&reader, 0));
}

#[tokio::test(start_paused = true)]
async fn sdk_reader_of_a_lost_position_is_refused_while_text_may_follow() {
    let log = taken_over().await;
    let gone = Err(ErrorCode::PositionGone);
    assert_eq!(
        log.resume(log.end, ReaderKind::Sdk),
        gone,
        "nothing follows yet"
    );
    log.append(" there");
    log.seal();
    assert_eq!(log.resume(log.end, ReaderKind::Sdk), gone, "text follows");
    assert_eq!(log.resume(log.end - 1, ReaderKind::Sdk), Ok(log.end));
    assert_eq!(log.resume(SECOND, ReaderKind::Sdk), Ok(SECOND + 1));
    // One that waited past the head cannot be answered with a status any more.
    let mut reader = log.reader(log.end + 1, false);
    reader.read_now();
    assert!(numbers(&reader).is_empty());
    assert_eq!(reader.end(), Some(Err(SubscriptionError::Lost)));
}

#[tokio::test(start_paused = true)]
async fn sdk_reader_of_a_lost_position_gets_the_ending() {
    let log = taken_over().await;
    log.seal();
    let from = log.resume(log.end + 3, ReaderKind::Sdk).unwrap();
    let mut reader = log.reader(from, false);
    reader.read_now();
    assert_eq!(numbers(&reader), (SECOND..SECOND + 4).collect::<Vec<_>>());
    assert_eq!(reader.end(), Some(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn number_past_the_head_of_a_later_epoch_is_not_lost() {
    let log = taken_over().await;
    log.append(" there");
    assert_eq!(log.resume(SECOND + 9, ReaderKind::Sdk), Ok(SECOND + 10));
    let owner = Owner::Anonymous;
    let cursor = tokenwire_core::engine::Cursor {
        id: log.generation.meta().id.clone(),
        after: Some(log.end),
    };
    let peek = async |kind| log.test.engine.peek(&cursor, &owner, kind).await.ok();
    assert_eq!(
        peek(ReaderKind::EventSource).await,
        Some(Place::Read(Seq(log.end + 1)))
    );
    assert_eq!(peek(ReaderKind::Sdk).await, None);
}
