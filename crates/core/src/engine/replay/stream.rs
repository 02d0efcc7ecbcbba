//! A leader's records, turned back into what its upstream sent.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::LeaderPhase;
use super::pace::Pace;
use crate::generation::{FollowerGuard, Generation, READ_BYTES};
use crate::log::LogReader;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, EventKind, Outcome};
use crate::model::folded_json::has_marks;
use crate::model::id::Seq;
use crate::model::record::{
    BatchPosition, Content, CorruptRecord, FullRecord, KnownTemplate, RecordBatch,
};
use crate::model::snapshot::Api;
use crate::upstream::decode::{Flow, SseEvent};
use crate::upstream::translate::BodyEnd;
use crate::upstream::{StreamStep, TokenStream};

/// Reads a leader's log as its upstream's stream.
pub(super) struct Replay {
    follower_guard: FollowerGuard,
    reader: LogReader,
    batch: RecordBatch,
    /// The next record of the batch.
    at: BatchPosition,
    templates: Vec<Arc<KnownTemplate>>,
    scratch: Vec<u8>,
    pace: Option<Pace>,
    /// Whether it has yielded to other tasks since the last full batch.
    rested: bool,
    end: Option<StreamStep>,
}

/// The end of the stream, if a record is the last.
type Last = Option<StreamStep>;

impl Replay {
    pub(super) fn new(follower_guard: FollowerGuard, phase: LeaderPhase) -> Self {
        let pace = match phase {
            LeaderPhase::Kept { pace } if pace > 0 => Some(Pace::new(pace)),
            LeaderPhase::Kept { .. } | LeaderPhase::Running => None,
        };
        let reader = LogReader::new(follower_guard.leader().log().clone(), Seq(0));
        Self {
            follower_guard,
            reader,
            batch: RecordBatch::default(),
            at: BatchPosition::default(),
            templates: Vec::new(),
            scratch: Vec::new(),
            pace,
            rested: false,
            end: None,
        }
    }

    /// Reads the next batch of the log. False if there is nothing left to read.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.batch.byte_len() >= READ_BYTES && !std::mem::replace(&mut self.rested, true) {
            // A complete log is never pending, so the task yields to others here.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.rested = false;
        let read = self.reader.poll_read(cx, READ_BYTES, &mut self.batch);
        if read.is_pending() {
            // A reader that waits holds little more than its position.
            if self.batch.byte_len() > 1024 {
                self.batch.release();
            } else {
                let next = self.reader.position();
                self.batch.restart(next);
            }
            self.scratch.shrink_to(1024);
        }
        self.at = self.batch.start();
        read.map(|read| read.is_ok() && !self.batch.is_empty())
    }

    /// Passes on what the upstream sent to cause this record.
    fn emit(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut Sink<'_>,
    ) -> Poll<Result<Last, CorruptRecord>> {
        let Some((record, after)) = self.batch.record_at(self.at) else {
            return Poll::Ready(Err(CorruptRecord));
        };
        let content = match Content::decode(record.payload) {
            Ok(content) => content,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let is_token = match &content {
            Content::Delta { .. } => true,
            Content::Full(whole) => whole.events.iter().any(is_delta),
        };
        if let Some(pace) = self.pace.as_mut().filter(|_| is_token) {
            std::task::ready!(pace.poll(cx));
        }
        self.at = after;
        let leader = self.follower_guard.leader();
        Poll::Ready(match content {
            Content::Delta { template, holes } => {
                if self.templates.len() <= template {
                    self.templates = leader.templates();
                }
                self.scratch.clear();
                let chunk = self
                    .templates
                    .get(template)
                    .and_then(|known| holes.chunk(&known.template, &mut self.scratch));
                match chunk {
                    Some(()) => {
                        sink.data(&self.scratch);
                        Ok(None)
                    }
                    None => Err(CorruptRecord),
                }
            }
            Content::Full(whole) => Ok(match leader.meta().api {
                Api::Chat => chat(&whole, sink),
                Api::Responses => responses(&whole, leader, sink),
            }),
        })
    }
}

/// The receiver of events, and whether it takes more.
struct Sink<'a> {
    sink: &'a mut dyn FnMut(SseEvent<'_>) -> Flow,
    flow: Flow,
}

impl Sink<'_> {
    fn data(&mut self, data: &[u8]) {
        self.named(None, data);
    }

    fn named(&mut self, name: Option<&[u8]>, data: &[u8]) {
        if self.flow == Flow::Continue {
            self.flow = (self.sink)(SseEvent::Data {
                name,
                data,
                terminated: true,
            });
        }
    }
}

fn is_delta(event: &EventKind) -> bool {
    match event {
        EventKind::Delta { .. } => true,
        EventKind::Relayed(relayed) => relayed.is_delta(),
        _ => false,
    }
}

fn outcome<'a>(whole: &'a FullRecord<'_>) -> Option<&'a Outcome> {
    whole.events.iter().find_map(|event| {
        if let EventKind::End(outcome) = event {
            Some(outcome)
        } else {
            None
        }
    })
}

/// Chunks of a chat upstream are kept unchanged.
fn chat(whole: &FullRecord, sink: &mut Sink<'_>) -> Last {
    let outcome = outcome(whole);
    if let Some(raw) = &whole.raw {
        // The chunk of a failure is the upstream's error object. Some servers mark it by the event's
        // name only.
        let failed = outcome.is_some_and(|outcome| matches!(outcome.ending, Ending::Failed(_)));
        sink.named(failed.then_some(b"error"), raw);
    }
    let step = end_of(&outcome?.ending);
    if matches!(step, StreamStep::Ended(_)) {
        sink.data(b"[DONE]");
    }
    Some(step)
}

/// Events of a Responses upstream are kept under the leader's ids and numbers; the translator
/// replaces them.
fn responses(whole: &FullRecord, leader: &Generation, sink: &mut Sink<'_>) -> Last {
    if let Some(raw) = &whole.raw {
        sink.data(raw);
    } else if matches!(whole.events.as_slice(), [EventKind::InProgress]) {
        sink.data(br#"{"type":"response.in_progress"}"#);
    }
    for event in &whole.events {
        if let EventKind::Relayed(relayed) = event {
            if relayed.is_closing() && has_marks(&relayed.json) {
                let mut json = Vec::new();
                leader.with_snapshot(|snapshot| snapshot.write_folded(&relayed.json, &mut json));
                sink.data(&json);
            } else {
                sink.data(relayed.json.as_bytes());
            }
        }
    }
    let outcome = outcome(whole)?;
    if let Some(object) = &outcome.relayed {
        let name = match outcome.ending {
            Ending::Completed => "completed",
            Ending::Incomplete { .. } => "incomplete",
            Ending::Failed(_) => "failed",
            Ending::Cancelled => "cancelled",
        };
        let mut json = format!(r#"{{"type":"response.{name}","response":"#).into_bytes();
        leader.with_snapshot(|snapshot| snapshot.write_folded(object.as_str(), &mut json));
        json.push(b'}');
        sink.data(&json);
    }
    Some(end_of(&outcome.ending))
}

fn end_of(ending: &Ending) -> StreamStep {
    match ending {
        Ending::Completed | Ending::Incomplete { .. } => StreamStep::Ended(BodyEnd::Clean),
        Ending::Failed(failure) => StreamStep::Failed(ApiError::from(failure)),
        Ending::Cancelled => StreamStep::Failed(lost()),
    }
}

fn lost() -> ApiError {
    let message = "This answer was shared with an identical request, which was cancelled or deleted before the end.";
    ApiError::new(ErrorCode::SharedAnswerLost, message)
}

impl TokenStream for Replay {
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        if let Some(end) = &self.end {
            return Poll::Ready(end.clone());
        }
        if self.batch.is_end(self.at) && !std::task::ready!(self.poll_batch(cx)) {
            self.end = Some(StreamStep::Failed(lost()));
            return Poll::Ready(StreamStep::Failed(lost()));
        }
        let mut sink = Sink {
            sink,
            flow: Flow::Continue,
        };
        let first = self.at;
        while !self.batch.is_end(self.at) && self.end.is_none() && sink.flow == Flow::Continue {
            match self.emit(cx, &mut sink) {
                Poll::Pending if self.at == first => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Ok(last)) => self.end = last,
                Poll::Ready(Err(CorruptRecord)) => self.end = Some(StreamStep::Failed(lost())),
            }
        }
        Poll::Ready(StreamStep::Read)
    }
}
