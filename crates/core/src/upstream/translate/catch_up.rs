//! A stream that is read once more from its beginning, of which the log has the first part.
//!
//! ```text
//!   upstream ──▶ fresh translator ──▶ scratch records ──▶ compared with the log ──▶ what it lacks
//! ```
//!
//! The events must be those of the log, in its order. Their texts may be cut into other pieces. An
//! answer that differs ends the stream: what readers have seen cannot be taken back.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{BodyEnd, History, Progress, RecordWriter, ResponsesTranslator, Translated};
use crate::log::{LogTail, ReadPosition};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{DeltaTarget, Ending, EventKind, Failure, Relayed};
use crate::model::id::Seq;
use crate::model::json::{Members, quoted};
use crate::model::record::{Content, RecordBatch};
use crate::model::relayed_items::RelayedItems;
use crate::model::snapshot::Snapshot;

/// Bytes of records that one read takes from the log.
const READ_BYTES: usize = 16 * 1024;

/// Translates a stream from its beginning, and drops what the log has.
pub(crate) struct CatchUp {
    translator: Box<ResponsesTranslator>,
    known: KnownEvents,
    scratch: RecordWriter,
    /// What was read so far, as the translator needs it.
    fold: Arc<Fold>,
    /// Whether the stream has given all events of the log that are compared.
    is_known: bool,
    /// Whether nothing more is dropped.
    caught_up: bool,
}

#[derive(Default)]
struct Fold(Mutex<Snapshot>);

/// The events of a log from its beginning up to where it ended when this was made.
struct KnownEvents {
    log: Arc<LogTail>,
    position: ReadPosition,
    end: Seq,
    events: VecDeque<Known>,
    /// Events of the upstream that are not compared, which come at other places in a repetition: those
    /// that were read from the log, and those of the stream. The stream may repeat as many.
    chunks: u64,
    repeated: u64,
    /// Whether the stream has given an event that the log does not have.
    passed: bool,
}

/// An event as it is compared.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// A piece of the text at this place.
    Text { place: Place, text: String },
    /// Any other event of a response, by its name.
    Named(String),
}

/// The name of a delta, and the indexes of its item and part.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    name: String,
    item: Option<u64>,
    part: Option<u64>,
}

/// The stream is not that of the log.
struct Differs;

impl std::fmt::Debug for CatchUp {
    /// Omits the events, which hold message content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CatchUp")
            .field("caught_up", &self.caught_up)
            .finish_non_exhaustive()
    }
}

// === impl CatchUp ===

impl CatchUp {
    /// Creates a translator of a stream whose log has this much. `translator` is a fresh one.
    pub(crate) fn new(translator: Box<ResponsesTranslator>, log: Arc<LogTail>) -> Self {
        let fold = Arc::new(Fold::default());
        let mut scratch = RecordWriter::new();
        scratch.set_history(fold.clone());
        Self {
            translator,
            known: KnownEvents::new(log),
            scratch,
            fold,
            is_known: false,
            caught_up: false,
        }
    }

    /// As [`ResponsesTranslator::payload`]; the log's part of the events is dropped.
    pub(crate) fn payload(
        &mut self,
        name: Option<&[u8]>,
        data: &[u8],
        terminated: bool,
        records: &mut RecordWriter,
    ) -> Translated {
        if self.caught_up {
            return self.translator.payload(name, data, terminated, records);
        }
        let translated = self
            .translator
            .payload(name, data, terminated, &mut self.scratch);
        if self.take_over(records).is_err() {
            return differs();
        }
        match self.known.is_exhausted() {
            Err(Differs) => return differs(),
            Ok(exhausted) => self.is_known = exhausted,
        }
        self.caught_up = self.is_known && self.known.is_passed();
        match &translated.progress {
            // It has ended before what readers have seen.
            Progress::Over(Ending::Completed | Ending::Incomplete { .. }) if !self.is_known => {
                differs()
            }
            _ => translated,
        }
    }

    /// As [`ResponsesTranslator::usage_json`].
    pub(crate) fn usage_json(&self) -> Option<String> {
        self.translator.usage_json()
    }

    pub(crate) fn body_ended(&self, end: BodyEnd) -> Ending {
        self.translator.body_ended(end)
    }

    /// Writes the terminal event. One of the upstream that came before the stream had given what readers
    /// have seen is not shown.
    pub(crate) fn end(&mut self, ending: Ending, at: u64, records: &mut RecordWriter) {
        if !self.is_known {
            self.translator.forget_terminal();
        }
        self.translator.end(ending, at, records);
    }

    /// Moves the events to `records` that the log does not have.
    fn take_over(&mut self, records: &mut RecordWriter) -> Result<(), Differs> {
        for record in self.scratch.batch() {
            let Ok(Content::Full(full)) = Content::decode(record.payload) else {
                return Err(Differs);
            };
            for event in full.events {
                if let Some(event) = self.known.drop_from(event)? {
                    records.event(renumbered(event, records.next_seq()));
                }
            }
            if records.pending() > 0 {
                records.record(full.raw.map(|raw| &raw[..]));
            }
        }
        let mut changes = self.scratch.take_changes().into_iter();
        let mut snapshot = self.fold.0.lock();
        for record in self.scratch.batch() {
            let (first, next) = (record.first_seq, record.next_seq());
            for (seq, change) in (first.0..next.0).zip(&mut changes) {
                snapshot.apply(Seq(seq), change);
            }
        }
        drop(snapshot);
        self.scratch.clear();
        Ok(())
    }
}

fn differs() -> Translated {
    Translated {
        progress: Progress::Over(Ending::Failed(Failure::from(&ApiError::new(
            ErrorCode::ProducerLost,
            "The upstream's answer is another one than before the connection was lost.",
        )))),
        tokens: false,
    }
}

/// Returns an event of the upstream with its number in the log.
fn renumbered(event: EventKind, number: Seq) -> EventKind {
    let EventKind::Relayed(Relayed { name, json }) = event else {
        return event;
    };
    let json = match serde_json::from_str::<Members<'_>>(&json) {
        Ok(members) => members.write_with(&[("sequence_number", &number.to_string())]),
        Err(_) => json,
    };
    EventKind::Relayed(Relayed { name, json })
}

// === impl Fold ===

impl History for Fold {
    fn text(&self, target: DeltaTarget) -> String {
        self.0.lock().text_of(target).to_string()
    }

    fn relayed(&self) -> RelayedItems {
        self.0.lock().relayed_items().clone()
    }
}

// === impl KnownEvents ===

impl KnownEvents {
    fn new(log: Arc<LogTail>) -> Self {
        let end = log.end().map_or(Seq(0), |end| end.next);
        Self {
            log,
            position: ReadPosition::at(Seq(0)),
            end,
            events: VecDeque::new(),
            chunks: 0,
            repeated: 0,
            passed: false,
        }
    }

    /// Whether the log has nothing of what the stream gives next, once it is exhausted.
    fn is_passed(&self) -> bool {
        self.passed || self.repeated >= self.chunks
    }

    /// Reads on until there is an event to compare. Returns whether there is none.
    fn is_exhausted(&mut self) -> Result<bool, Differs> {
        let mut batch = RecordBatch::default();
        while self.events.is_empty() && self.position.next() < self.end {
            let read = self.log.read(&mut self.position, READ_BYTES, &mut batch);
            read.map_err(|_| Differs)?;
            if batch.is_empty() {
                break;
            }
            for record in &batch {
                let Ok(Content::Full(full)) = Content::decode(record.payload) else {
                    return Err(Differs);
                };
                let chunks = full.events.iter().filter(|event| is_chunk(event));
                self.chunks += chunks.count() as u64;
                self.events.extend(full.events.iter().filter_map(Known::of));
            }
        }
        Ok(self.events.is_empty())
    }

    /// Takes the log's next event off, if this is it. Returns what the log does not have of the event.
    fn drop_from(&mut self, event: EventKind) -> Result<Option<EventKind>, Differs> {
        let is_exhausted = self.is_exhausted()?;
        if is_chunk(&event) {
            self.repeated += 1;
            let is_new = is_exhausted && (self.passed || self.repeated > self.chunks);
            return Ok(is_new.then_some(event));
        }
        if is_exhausted {
            let is_new = self.passed || Known::of(&event).is_some();
            self.passed = is_new;
            return Ok(is_new.then_some(event));
        }
        match Known::of(&event) {
            None => Ok(None),
            Some(Known::Named(name)) => match self.events.pop_front() {
                Some(Known::Named(known)) if known == name => Ok(None),
                _ => Err(Differs),
            },
            Some(Known::Text { place, text }) => self.drop_text(event, &place, &text),
        }
    }

    fn drop_text(
        &mut self,
        event: EventKind,
        at: &Place,
        text: &str,
    ) -> Result<Option<EventKind>, Differs> {
        let mut rest = text;
        while !rest.is_empty() && !self.is_exhausted()? {
            let Some(Known::Text { place, text: known }) = self.events.front_mut() else {
                return Err(Differs);
            };
            if place != at {
                return Err(Differs);
            }
            if let Some(more) = rest.strip_prefix(known.as_str()) {
                rest = more;
                self.events.pop_front();
            } else if let Some(more) = known.strip_prefix(rest) {
                *known = more.to_owned();
                return Ok(None);
            } else {
                return Err(Differs);
            }
        }
        if rest.is_empty() {
            return Ok(None);
        }
        if rest.len() == text.len() {
            self.passed = true;
            return Ok(Some(event));
        }
        let EventKind::Relayed(Relayed { name, json }) = event else {
            return Err(Differs);
        };
        let members = serde_json::from_str::<Members<'_>>(&json).map_err(|_| Differs)?;
        let json = members.write_with(&[("delta", &quoted(rest))]);
        self.passed = true;
        Ok(Some(EventKind::Relayed(Relayed { name, json })))
    }
}

/// Whether it is an event of the upstream that the gateway does not know, such as a comment.
fn is_chunk(event: &EventKind) -> bool {
    matches!(event, EventKind::Chunk)
}

// === impl Known ===

impl Known {
    /// Returns `None` for an event that is not compared.
    fn of(event: &EventKind) -> Option<Self> {
        Some(match event {
            EventKind::Created | EventKind::Queued | EventKind::Chunk => return None,
            EventKind::InProgress => Self::Named("response.in_progress".to_owned()),
            EventKind::Relayed(relayed) => match Self::text(relayed) {
                Some(Self::Text { text, .. }) if text.is_empty() => return None,
                Some(text) => text,
                None => Self::Named(relayed.name.clone()),
            },
            // Events of a chat upstream.
            _ => Self::Named(String::new()),
        })
    }

    fn text(relayed: &Relayed) -> Option<Self> {
        if !relayed.is_delta() {
            return None;
        }
        let members: Members<'_> = serde_json::from_str(&relayed.json).ok()?;
        let part = members.number("content_index");
        Some(Self::Text {
            text: members.text("delta")?.into_owned(),
            place: Place {
                name: relayed.name.clone(),
                item: members.number("output_index"),
                part: part.or_else(|| members.number("summary_index")),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Epoch, LogLimits};
    use crate::model::account::Account;
    use crate::model::id::GenerationId;

    /// The upstream's events of an answer with these pieces of text.
    fn answer(pieces: &[&str]) -> Vec<String> {
        let mut events = vec![
            r#"{"type":"response.created","response":{"id":"up_1","status":"in_progress"}}"#.to_owned(),
            r#"{"type":"response.output_item.added","output_index":0,"item":{"id":"m","type":"message","role":"assistant","content":[]}}"#.to_owned(),
            r#"{"type":"response.content_part.added","item_id":"m","output_index":0,"content_index":0,"part":{"type":"output_text","text":""}}"#.to_owned(),
        ];
        events.extend(pieces.iter().map(|piece| {
            let piece = quoted(piece);
            format!(r#"{{"type":"response.output_text.delta","item_id":"m","output_index":0,"content_index":0,"delta":{piece}}}"#)
        }));
        let text = quoted(&pieces.concat());
        events.push(format!(r#"{{"type":"response.output_text.done","item_id":"m","output_index":0,"content_index":0,"text":{text}}}"#));
        let item = format!(
            r#"{{"id":"m","type":"message","role":"assistant","status":"completed","content":[{{"type":"output_text","text":{text},"annotations":[]}}]}}"#
        );
        events.push(format!(
            r#"{{"type":"response.output_item.done","output_index":0,"item":{item}}}"#
        ));
        events.push(format!(
            r#"{{"type":"response.completed","response":{{"id":"up_1","status":"completed","output":[{item}]}}}}"#
        ));
        events
    }

    struct Log {
        tail: Arc<LogTail>,
        records: RecordWriter,
        fold: Arc<Fold>,
    }

    impl Log {
        fn new() -> Self {
            let limits = LogLimits {
                bytes: 1 << 20,
                events: 1 << 10,
            };
            let tail = Arc::new(LogTail::new(limits, Account::default()));
            tail.begin_epoch();
            let fold = Arc::new(Fold::default());
            let mut records = RecordWriter::new();
            records.set_history(fold.clone());
            records.event(EventKind::Created);
            records.record(None);
            let mut log = Self {
                tail,
                records,
                fold,
            };
            log.append();
            log
        }

        fn append(&mut self) {
            let changes = self.records.take_changes();
            let first = self.records.batch().first_seq();
            let mut snapshot = self.fold.0.lock();
            for (seq, change) in (first.0..).zip(changes) {
                snapshot.apply(Seq(seq), change);
            }
            drop(snapshot);
            let appended = self.tail.append(Epoch(1), self.records.batch());
            appended.unwrap();
            self.records.clear();
        }

        /// The names of the log's events, and its text.
        fn contents(&self) -> (Vec<String>, String) {
            let mut known = KnownEvents::new(self.tail.clone());
            let (mut names, mut text) = (Vec::new(), String::new());
            while matches!(known.is_exhausted(), Ok(false)) {
                match known.events.pop_front() {
                    Some(Known::Named(name)) => names.push(name),
                    Some(Known::Text { text: piece, .. }) => text.push_str(&piece),
                    None => {}
                }
            }
            (names, text)
        }
    }

    fn fresh() -> Box<ResponsesTranslator> {
        let id: GenerationId = "resp_own".parse().unwrap();
        Box::new(ResponsesTranslator::new(&id, None))
    }

    /// Reads `known` events of a first answer, then all of a second one. Returns the log's contents and
    /// how the stream ended.
    fn read_again(
        first: &[String],
        known: usize,
        second: &[String],
    ) -> (Vec<String>, String, Option<Ending>) {
        let mut log = Log::new();
        let mut translator = fresh();
        for event in &first[..known] {
            translator.payload(None, event.as_bytes(), true, &mut log.records);
            log.append();
        }
        let mut again = CatchUp::new(fresh(), log.tail.clone());
        let mut ending = None;
        for event in second {
            let translated = again.payload(None, event.as_bytes(), true, &mut log.records);
            log.append();
            if let Progress::Over(over) = translated.progress {
                ending = Some(over);
                break;
            }
        }
        if let Some(over @ Ending::Failed(_)) = &ending {
            again.end(over.clone(), 0, &mut log.records);
            let last = log.records.batch().iter().last().unwrap();
            let Ok(Content::Full(full)) = Content::decode(last.payload) else {
                panic!("the end is no delta");
            };
            let Some(EventKind::End(outcome)) = full.events.last() else {
                panic!("{:?}", full.events);
            };
            // The object would be that of another answer.
            assert_eq!(outcome.relayed, None);
        }
        let (names, text) = log.contents();
        (names, text, ending)
    }

    #[test]
    fn each_event_is_in_the_log_once_wherever_it_was_cut_and_however_it_is_split() {
        let first = answer(&["Hel", "lo ", "wör", "ld"]);
        let others = [
            answer(&["Hel", "lo ", "wör", "ld"]),
            answer(&["Hello wörld"]),
            answer(&["H", "e", "l", "l", "o", " ", "w", "ö", "r", "l", "d"]),
            answer(&["Hell", "o wö", "rld"]),
        ];
        let (names, text, _) = read_again(&first, 0, &first);
        assert_eq!(text, "Hello wörld");
        for second in &others {
            for known in 0..first.len() {
                let again = read_again(&first, known, second);
                let expected = (names.clone(), text.clone(), Some(Ending::Completed));
                assert_eq!(again, expected, "{known} events were known");
            }
        }
    }

    #[test]
    fn comment_at_the_end_of_the_log_is_not_repeated_with_each_reading() {
        let mut first = answer(&["Hel", "lo ", "world"]);
        first.insert(4, r#"{"type":"keepalive"}"#.to_owned());
        let mut log = Log::new();
        let mut translator = fresh();
        for event in &first[..5] {
            translator.payload(None, event.as_bytes(), true, &mut log.records);
            log.append();
        }
        let end = log.tail.end().unwrap().next;
        for _ in 0..3 {
            let mut again = CatchUp::new(fresh(), log.tail.clone());
            for event in &first[..5] {
                again.payload(None, event.as_bytes(), true, &mut log.records);
                log.append();
            }
            assert_eq!(log.tail.end().unwrap().next, end);
        }
        // A further one is new.
        let mut again = CatchUp::new(fresh(), log.tail.clone());
        first.insert(5, r#"{"type":"keepalive"}"#.to_owned());
        for event in &first {
            again.payload(None, event.as_bytes(), true, &mut log.records);
            log.append();
        }
        assert_eq!(log.contents().1, "Hello world");
        let mut known = KnownEvents::new(log.tail.clone());
        while matches!(known.is_exhausted(), Ok(false)) {
            known.events.clear();
        }
        assert_eq!(known.chunks, 2);
    }

    #[test]
    fn another_answer_is_detected() {
        let first = answer(&["Hel", "lo ", "world"]);
        let ended_at_once = |pieces: &[&str]| {
            let all = answer(pieces);
            vec![all[0].clone(), all[all.len() - 1].clone()]
        };
        for (second, known) in [
            (ended_at_once(&["Bye"]), 5),
            (ended_at_once(&[]), 5),
            (answer(&["Hel", "p!"]), 5),
            (answer(&["Hel"]), 5),
            (answer(&["hel", "lo ", "world"]), 4),
        ] {
            let (_, text, ending) = read_again(&first, known, &second);
            let Some(Ending::Failed(failure)) = ending else {
                panic!("{ending:?}");
            };
            assert_eq!(failure.code, "producer_lost");
            assert!("Hello world".starts_with(&text), "{text}");
        }
    }
}
