//! Another generation's log as an upstream.
//!
//! A record keeps what the upstream sent, so a log can be read back as the stream that it was made of: every chunk as it came,
//! usage and the end behind them. A translator that is given that writes the same answer again, under its own ids.
//!
//! ```text
//!   upstream ──▶ leader ──▶ log ──▶ Replay ──▶ follower ──▶ its own log ──▶ its own readers
//! ```
//!
//! For a leader that still writes, this is one upstream stream for several requests; for one that has ended well, a cache. The
//! two differ in the pace only.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use super::{OpenError, Opened, StreamStep, TokenStream, UpstreamHead};
use crate::decode::{Flow, SseEvent};
use crate::dialect::KnownTemplate;
use crate::error::{ApiError, ErrorCode};
use crate::event::{Ending, EventKind, Failure, Outcome};
use crate::generation::{Following, Generation, READ_BYTES};
use crate::id::Seq;
use crate::log::LogReader;
use crate::record::{Content, CorruptRecord, RecordBatch, WholeRecord};
use crate::snapshot::Api;
use crate::translate::BodyEnd;

/// Where a leader stands when it is first followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// It is being written.
    Live,
    /// It has ended well. It is given out at so many tokens a second; 0 is as fast as it is read.
    Kept {
        /// Tokens a second.
        pace: u32,
    },
}

/// What came of a leader.
pub(crate) enum Verdict {
    /// Its answer is this one's.
    Shared(Opened),
    /// Its upstream gave nothing but an error, and would give it again.
    Refused(OpenError),
    /// The same, but another try may find the upstream in a better state.
    Unlucky(OpenError),
    /// It came to nothing that can be shared, by no fault of its upstream's.
    Nothing,
}

/// Waits until the leader's upstream has sent something, or the leader has ended without.
pub(crate) async fn follow(following: Following, source: Source) -> Verdict {
    let leader = following.leader();
    if !begun(leader).await {
        return Verdict::Nothing;
    }
    if leader.is_over() {
        let Some(Outcome { ending, relayed, .. }) = leader.outcome() else { return Verdict::Nothing };
        match ending {
            Ending::Completed { .. } => {}
            _ if matches!(source, Source::Kept { .. }) => return Verdict::Nothing,
            Ending::Incomplete { .. } => {}
            // The upstream's own word is an answer; an owner's is his alone.
            Ending::Cancelled if relayed.is_none() => return Verdict::Nothing,
            Ending::Cancelled => {}
            Ending::Failed(failure) if !leader.with_snapshot(crate::snapshot::Snapshot::has_begun) => match leader.opening().now() {
                Some(Err(error)) if !failure.retryable => return Verdict::Refused(error),
                Some(Err(error)) => return Verdict::Unlucky(error),
                _ if failure.retryable => return Verdict::Unlucky(OpenError::Failed(as_error(&failure))),
                _ => {}
            },
            Ending::Failed(_) => {}
        }
    }
    // What the upstream said of itself at the time is no news any more once the answer is kept.
    let head = match (source, leader.opening().now()) {
        (Source::Live, Some(Ok(head))) => head,
        _ => UpstreamHead::default(),
    };
    Verdict::Shared(Opened { head, stream: Box::new(Replay::new(following, source)) })
}

/// Waits for the first record that says more than that the request was accepted; false if the log went before it came.
async fn begun(leader: &Generation) -> bool {
    let mut reader = LogReader::new(leader.log().clone(), Seq(0));
    let mut batch = RecordBatch::default();
    loop {
        let read = std::future::poll_fn(|cx| reader.poll_read(cx, READ_BYTES, &mut batch)).await;
        if read.is_err() || batch.is_empty() {
            return false;
        }
        let says_something = |payload: &[u8]| match Content::decode(payload) {
            Ok(Content::Whole(whole)) => {
                whole.raw.is_some() || whole.events.iter().any(|event| !matches!(event, EventKind::Created | EventKind::Queued))
            }
            Ok(Content::Delta { .. }) => true,
            Err(CorruptRecord) => false,
        };
        if batch.iter().any(|record| says_something(record.payload)) {
            return true;
        }
    }
}

/// A leader's log, as its upstream's stream.
struct Replay {
    following: Following,
    reader: LogReader,
    batch: RecordBatch,
    /// The next record of the batch.
    index: usize,
    templates: Vec<Arc<KnownTemplate>>,
    scratch: Vec<u8>,
    pace: Option<Pace>,
    /// A turn was given to others since the last full batch.
    rested: bool,
    end: Option<StreamStep>,
}

/// So many tokens a second, from the first on.
struct Pace {
    per_second: u32,
    given: u32,
    since: Instant,
    timer: std::pin::Pin<Box<Sleep>>,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        let since = Instant::now();
        Self { per_second, given: 0, since, timer: Box::pin(tokio::time::sleep_until(since)) }
    }

    /// Ready when the next token is due; then it counts as given.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.since + std::time::Duration::from_secs(1) * self.given / self.per_second;
        if due > Instant::now() {
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            std::task::ready!(self.timer.as_mut().poll(cx));
        }
        self.given = self.given.saturating_add(1);
        Poll::Ready(())
    }
}

/// How a record ended the stream, if it did.
type Last = Option<StreamStep>;

impl Replay {
    fn new(following: Following, source: Source) -> Self {
        let pace = match source {
            Source::Kept { pace } if pace > 0 => Some(Pace::new(pace)),
            Source::Kept { .. } | Source::Live => None,
        };
        let reader = LogReader::new(following.leader().log().clone(), Seq(0));
        Self {
            following,
            reader,
            batch: RecordBatch::default(),
            index: 0,
            templates: Vec::new(),
            scratch: Vec::new(),
            pace,
            rested: false,
            end: None,
        }
    }

    /// Reads on in the log; false: there is nothing to read any more.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.batch.byte_len() >= READ_BYTES && !std::mem::replace(&mut self.rested, true) {
            // A log that is there whole is never pending; others want the thread, too.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.rested = false;
        self.index = 0;
        let read = self.reader.poll_read(cx, READ_BYTES, &mut self.batch);
        if read.is_pending() {
            // One that waits holds no more than its cursor.
            if self.batch.byte_len() > 1024 {
                self.batch.release();
            } else {
                let next = self.reader.position();
                self.batch.restart(next);
            }
            self.scratch.shrink_to(1024);
        }
        read.map(|read| read.is_ok() && !self.batch.is_empty())
    }

    /// Gives what the upstream sent to cause this record.
    fn give(&mut self, index: usize, cx: &mut Context<'_>, sink: &mut Sink<'_>) -> Poll<Result<Last, CorruptRecord>> {
        let Some(record) = self.batch.get(index) else { return Poll::Ready(Ok(None)) };
        let content = match Content::decode(record.payload) {
            Ok(content) => content,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let is_token = match &content {
            Content::Delta { .. } => true,
            Content::Whole(whole) => whole.events.iter().any(is_delta),
        };
        if let Some(pace) = self.pace.as_mut().filter(|_| is_token) {
            std::task::ready!(pace.poll(cx));
        }
        let leader = self.following.leader();
        Poll::Ready(match content {
            Content::Delta { template, holes } => {
                if self.templates.len() <= template {
                    self.templates = leader.templates();
                }
                self.scratch.clear();
                let chunk = self.templates.get(template).and_then(|known| holes.chunk(&known.template, &mut self.scratch));
                match chunk {
                    Some(()) => {
                        sink.data(&self.scratch);
                        Ok(None)
                    }
                    None => Err(CorruptRecord),
                }
            }
            Content::Whole(whole) => Ok(match leader.meta().api {
                Api::Chat => chat(&whole, sink),
                Api::Responses => responses(&whole, sink),
            }),
        })
    }
}

/// The one who is given events, and whether he has had enough.
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
            self.flow = (self.sink)(SseEvent::Data { name, data, terminated: true });
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

fn outcome(whole: &WholeRecord) -> Option<&Outcome> {
    whole.events.iter().find_map(|event| if let EventKind::End(outcome) = event { Some(outcome) } else { None })
}

/// A chat upstream's chunks are kept as they came.
fn chat(whole: &WholeRecord, sink: &mut Sink<'_>) -> Last {
    let outcome = outcome(whole);
    if let Some(raw) = &whole.raw {
        // The chunk of a failure is the upstream's error object. Some servers say only by the event's name that it is one.
        let failed = outcome.is_some_and(|outcome| matches!(outcome.ending, Ending::Failed(_)));
        sink.named(failed.then_some(b"error"), raw);
    }
    let step = end_of(&outcome?.ending);
    if matches!(step, StreamStep::Ended(_)) {
        sink.data(b"[DONE]");
    }
    Some(step)
}

/// A Responses upstream's events are kept under the leader's ids and numbers; the translator puts its own in their place.
fn responses(whole: &WholeRecord, sink: &mut Sink<'_>) -> Last {
    if let Some(raw) = &whole.raw {
        sink.data(raw);
    } else if matches!(whole.events.as_slice(), [EventKind::InProgress]) {
        sink.data(br#"{"type":"response.in_progress"}"#);
    }
    for event in &whole.events {
        if let EventKind::Relayed(relayed) = event {
            sink.data(relayed.json.as_bytes());
        }
    }
    let outcome = outcome(whole)?;
    if let Some(object) = &outcome.relayed {
        let name = match outcome.ending {
            Ending::Completed { .. } => "completed",
            Ending::Incomplete { .. } => "incomplete",
            Ending::Failed(_) => "failed",
            Ending::Cancelled => "cancelled",
        };
        sink.data(format!(r#"{{"type":"response.{name}","response":{object}}}"#).as_bytes());
    }
    Some(end_of(&outcome.ending))
}

fn end_of(ending: &Ending) -> StreamStep {
    match ending {
        Ending::Completed { .. } | Ending::Incomplete { .. } => StreamStep::Ended(BodyEnd::Clean),
        Ending::Failed(failure) => StreamStep::Failed(as_error(failure)),
        Ending::Cancelled => StreamStep::Failed(lost()),
    }
}

/// The error whose failure is this one again.
fn as_error(failure: &Failure) -> ApiError {
    let mut error = ApiError::new(ErrorCode::UpstreamError, failure.message.clone());
    if let Some(code) = ErrorCode::ALL.iter().find(|code| code.as_str() == failure.code) {
        error.status = code.status();
    }
    error.kind = failure.kind.clone().into();
    error.code = Some(failure.code.clone().into());
    error.retryable = failure.retryable;
    error
}

fn lost() -> ApiError {
    let message = "This answer was shared with an identical request, which was cancelled or deleted before the end.";
    ApiError::new(ErrorCode::SharedAnswerLost, message)
}

impl TokenStream for Replay {
    fn poll_events(&mut self, cx: &mut Context<'_>, sink: &mut dyn FnMut(SseEvent<'_>) -> Flow) -> Poll<StreamStep> {
        if let Some(end) = &self.end {
            return Poll::Ready(end.clone());
        }
        if self.index >= self.batch.len() && !std::task::ready!(self.poll_batch(cx)) {
            self.end = Some(StreamStep::Failed(lost()));
            return Poll::Ready(StreamStep::Failed(lost()));
        }
        let mut sink = Sink { sink, flow: Flow::Continue };
        let first = self.index;
        while self.index < self.batch.len() && self.end.is_none() && sink.flow == Flow::Continue {
            match self.give(self.index, cx, &mut sink) {
                Poll::Pending if self.index == first => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Ok(last)) => self.end = last,
                Poll::Ready(Err(CorruptRecord)) => self.end = Some(StreamStep::Failed(lost())),
            }
            self.index += 1;
        }
        Poll::Ready(StreamStep::Read)
    }
}
