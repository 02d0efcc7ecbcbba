//! The task that writes a generation: it asks the upstream, translates its events, appends them,
//! and ends the log.
//!
//! It runs on the worker that accepted the request, so a token stays on one thread from socket to
//! socket.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, Sleep};

use super::Generation;
use super::control::{Stop, TimeoutState};
use super::reattach::{Opening, Reattachment};
use super::token_intervals::TokenIntervals;
use super::writer::Writer;
use crate::log::AppendError;
use crate::model::account::{Full, Growth};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, EventKind, Failure};
use crate::model::secret::Seal;
use crate::model::time::unix_now;
use crate::request::ToolNames;
use crate::upstream::decode::{Flow, SseEvent};
use crate::upstream::translate::{BodyEnd, Chunking, Progress, RecordWriter, Translator};
use crate::upstream::{
    AnswerOrigin, Attachment, OpenError, StreamStep, Timeouts, TokenStream, Upstream,
    UpstreamRequest, UpstreamResponse,
};

/// How long usage and `[DONE]` may take after every choice has finished. Then the answer ends, whether
/// or not the upstream still sends events without tokens.
const AFTER_FINISH: Duration = Duration::from_secs(5);
/// How long the reason of a failure may take that the upstream reported without one.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The number of reads before the task yields to others on its thread. A read is up to 64 KiB, some
/// hundred tokens.
const READS_PER_TURN: u32 = 2;
/// How long to wait for the end of a finished body, so that its connection can be reused.
const DRAIN: Duration = Duration::from_millis(100);
/// The most reads of a finished body. A body that goes on after its end is not worth more.
const DRAIN_READS: u32 = 8;

/// The work of a driver.
#[derive(Debug)]
pub struct Work {
    /// The upstream request.
    pub request: UpstreamRequest,
    /// The upstream timeouts.
    pub timeouts: Timeouts,
    /// The number of choices asked for.
    pub choices: u32,
    /// The response that the client's request continues.
    pub previous_response_id: Option<String>,
    /// Seals the reasoning of a chat upstream, for clients that give it back.
    pub(crate) seal: Option<Seal>,
    /// The tools that the upstream knows under another name or as another kind than the client.
    pub tools: ToolNames,
}

/// An answer that its upstream goes on with, and whose log was taken over from another process.
pub(crate) struct Adopted {
    /// What the upstream goes on with.
    pub(crate) attachment: Attachment,
    pub(crate) timeouts: Timeouts,
    /// The response that the client's request continues.
    pub(crate) previous_response_id: Option<String>,
}

/// Where an answer comes from.
pub(crate) enum Source {
    Asked(Work),
    Adopted(Adopted),
}

/// What remains to be done with the upstream once all are told of the end.
pub(crate) type Rest = BoxFuture<'static, ()>;

/// What a translator of the answer is made from. A second attempt takes another one.
struct TranslatorTerms {
    choices: u32,
    previous_response_id: Option<String>,
    seal: Option<Seal>,
    tools: ToolNames,
    origin: Option<AnswerOrigin>,
    streamed: bool,
}

// === impl TranslatorTerms ===

impl TranslatorTerms {
    fn translator(&self, generation: &Generation) -> Translator {
        let meta = generation.meta();
        // A client that asked for a stream gets chunks, also of a completion in one piece.
        let chunking = || {
            Box::new(Chunking {
                id: meta.id.clone(),
                created_at: meta.created_at,
                model: meta.model.clone(),
            })
        };
        Translator::new(
            meta.api,
            &meta.id,
            self.choices,
            self.previous_response_id.as_deref(),
            &self.tools,
        )
        .chunked(self.streamed.then(chunking))
        .keeping(self.seal.clone(), self.origin.clone())
    }
}

/// Writes the generation to its end. `records` may hold events that come first
/// (`response.created`). Returns what remains to be done with the upstream: a body is read so that its
/// connection can be reused, or an answer is cancelled that the upstream goes on with.
///
/// The arguments are references and boxes, since an async function keeps each argument twice.
pub(crate) async fn drive(
    writer: &mut Writer,
    records: &mut RecordWriter,
    upstream: Arc<dyn Upstream>,
    source: Box<Source>,
) -> Option<Rest> {
    let mut held = reattachment(&upstream, &source);
    let run = AssertUnwindSafe(run(writer, records, upstream, source, &mut held))
        .catch_unwind()
        .await;
    let finished = run.unwrap_or_else(|_| {
        // The panic itself was reported by the panic hook.
        tracing::error!(generation = %writer.generation().meta().id, "the generation's task panicked");
        writer.seal_abruptly(&ApiError::new(
            ErrorCode::InternalError,
            "The gateway failed while it wrote this answer.",
        ));
        None
    });
    writer.end_shown().await;
    let generation = writer.generation();
    // The process that took the log over reads the answer.
    match held.filter(|held| held.is_running() && !generation.is_fenced()) {
        Some(held) => Some(held.cancel(generation.meta().id.clone()).boxed()),
        None => finished.map(|body| drain(body).boxed()),
    }
}

/// Returns what may read the answer again.
fn reattachment(upstream: &Arc<dyn Upstream>, source: &Source) -> Option<Box<Reattachment>> {
    let (origin, client_key, first_token) = match source {
        Source::Asked(Work { request, .. }) => (
            request.reasoning.as_ref()?.answer.clone(),
            request.client_key.clone(),
            request.first_token_timeout,
        ),
        Source::Adopted(adopted) => (
            AnswerOrigin::attached(adopted.attachment.clone()),
            None,
            adopted.timeouts.first_token,
        ),
    };
    let upstream = upstream.clone();
    let held = Reattachment::new(upstream, origin, client_key, first_token);
    Some(Box::new(held))
}

/// Reads a finished body to its end, for at most 100 ms, so that its connection can be reused.
async fn drain(mut stream: Box<dyn TokenStream>) {
    let mut reads = 0;
    let end = std::future::poll_fn(|cx| {
        loop {
            match stream.poll_events(cx, &mut |_| Flow::Continue) {
                Poll::Ready(StreamStep::Read) if reads < DRAIN_READS => reads += 1,
                Poll::Ready(StreamStep::Read) => return Poll::Ready(()),
                Poll::Ready(StreamStep::Ended(_) | StreamStep::Failed(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    let _ = tokio::time::timeout(DRAIN, end).await;
}

/// Returns the stream if its connection can be reused.
async fn run(
    writer: &mut Writer,
    records: &mut RecordWriter,
    upstream: Arc<dyn Upstream>,
    source: Box<Source>,
    held: &mut Option<Box<Reattachment>>,
) -> Option<Box<dyn TokenStream>> {
    let generation = writer.generation().clone();
    records.set_history(generation.clone());
    if writer.is_filtered() {
        // The process that wrote the match did not write the end.
        writer.end_filtered(None);
        return None;
    }
    let is_adopted = matches!(*source, Source::Adopted(_));
    let (mut opening, terms, timeouts) = ask(&*upstream, *source, held, &generation);
    let mut translator = terms.translator(&generation);
    if is_adopted {
        translator = translator.catching_up(generation.log().clone());
    }
    let mut deadlines = Deadlines::new(generation.clone(), timeouts);
    let opened = deadlines.until_open(&mut opening, is_adopted).await;
    let mut stream = match note_head(&generation, opened) {
        Ok(stream) => stream,
        Err(ending) => {
            finish(writer, records, &mut translator, ending);
            if let Some(held) = held {
                held.leave_opening(opening, translator);
            }
            return None;
        }
    };
    drop(opening);
    let mut appended = false;
    let mut reads = 0;
    loop {
        let mut step = Poll::Pending;
        if reads >= READS_PER_TURN {
            reads = 0;
            tokio::task::yield_now().await;
            // A stream that never pauses is subject to timeouts and cancellation, too.
            step = std::future::poll_fn(|cx| Poll::Ready(deadlines.poll_end(cx, &mut translator)))
                .await;
        }
        let step = match step {
            Poll::Ready(step) => step,
            Poll::Pending => {
                std::future::poll_fn(|cx| {
                    let step = deadlines.poll_stream(cx, stream.as_mut(), &mut translator, records);
                    if step.is_pending() {
                        reads = 0;
                    }
                    step
                })
                .await
            }
        };
        if let Step::Over(Ending::Failed(failure)) = &step
            && !appended
            && records.is_empty()
            && stream.retry(failure)
        {
            translator = terms.translator(&generation);
            deadlines.restart();
            continue;
        }
        let broken_off = match &step {
            Step::Over(Ending::Failed(failure)) => Some(failure),
            Step::GivenUp(Ending::Failed(failure)) if is_silence(failure) => Some(failure),
            _ => None,
        };
        if let Some(failure) = broken_off
            && continue_elsewhere(writer, records, stream.as_mut(), failure)
        {
            if !translator.has_usage() {
                writer.continued_without_usage();
            }
            translator.continue_elsewhere();
            deadlines.restart_token();
            deadlines.restart();
            continue;
        }
        if let Step::Over(Ending::Failed(failure)) = &step {
            stream.failed(failure);
        }
        if let Some(failure) = broken_off
            && let Some(mut opening) = open_again(writer, records, held, failure)
        {
            appended = true;
            // Its connection is closed before another one is opened.
            drop(std::mem::replace(&mut stream, Box::new(Nothing)));
            let opened = deadlines.until_open(&mut opening, true).await;
            match opened {
                Ok(Ok(opened)) => {
                    stream = opened.stream;
                    translator = terms.translator(&generation);
                    translator = translator.catching_up(generation.log().clone());
                    deadlines.restart_token();
                    continue;
                }
                Ok(Err(error)) => {
                    let ending = Ending::Failed(Failure::from(&error.to_api_error()));
                    finish(writer, records, &mut translator, ending);
                }
                Err(interrupt) => {
                    finish(writer, records, &mut translator, interrupt.into_ending());
                }
            }
            return None;
        }
        let (Step::Over(ending) | Step::GivenUp(ending)) = step else {
            appended |= !records.is_empty();
            if !writer.may_append()
                && let Err(interrupt) = deadlines.guard(writer.until_may_append()).await
            {
                finish(writer, records, &mut translator, interrupt.into_ending());
                return None;
            }
            match writer.append(records) {
                Ok(_) if writer.is_filtered() => writer.end_filtered(translator.usage()),
                Ok(_) if writer.is_used_up() => {
                    let reason = "max_output_tokens".to_owned();
                    translator.end_early();
                    let ending = Ending::Incomplete { reason };
                    finish(writer, records, &mut translator, ending);
                }
                Ok(mut grown) => {
                    reads += 1;
                    if deadlines.read_no_event {
                        grown |= writer.note_buffered(stream.buffered());
                    }
                    if !grown {
                        continue;
                    }
                    match deadlines.room().await {
                        Ok(()) => continue,
                        Err(interrupt) => {
                            let ending = interrupt.into_ending();
                            finish(writer, records, &mut translator, ending);
                            return None;
                        }
                    }
                }
                Err(AppendError::Full { .. }) => writer.seal_full(),
                // Another writer took over, or the log was deleted.
                Err(
                    AppendError::Fenced { .. }
                    | AppendError::Sealed
                    | AppendError::Gap { .. }
                    | AppendError::Expired,
                ) => {}
            }
            return None;
        };
        let reusable = matches!(ending, Ending::Completed | Ending::Incomplete { .. });
        let ending = match ending {
            // What came with the failure has used up what there was.
            Ending::Failed(_) if writer.is_used_up() => {
                translator.end_early();
                let reason = "max_output_tokens".to_owned();
                Ending::Incomplete { reason }
            }
            ending => ending,
        };
        finish(writer, records, &mut translator, ending);
        if reusable {
            return Some(stream);
        }
        if let Some(held) = held {
            held.leave_open(stream, translator);
        }
        return None;
    }
}

/// In place of a stream whose connection is closed.
struct Nothing;

impl TokenStream for Nothing {
    fn poll_events(
        &mut self,
        _: &mut Context<'_>,
        _: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        Poll::Pending
    }
}

/// Asks an upstream again that goes on with the answer although the connection is lost. `None` if it
/// does not.
fn open_again(
    writer: &mut Writer,
    records: &mut RecordWriter,
    held: &mut Option<Box<Reattachment>>,
    failure: &Failure,
) -> Option<Opening> {
    let held = held.as_mut()?;
    // Events that came with the failure belong to the answer.
    writer.append(records).ok()?;
    if writer.is_used_up() || writer.is_filtered() {
        // The answer is not read on.
        return None;
    }
    let attachment = held.attachment(failure)?;
    let generation = writer.generation();
    tracing::info!(generation = %generation.meta().id, code = %failure.code, "the connection to the upstream is lost");
    Some(held.open(generation, attachment))
}

/// Begins to ask the upstream. The request is kept no longer than that.
fn ask(
    upstream: &dyn Upstream,
    source: Source,
    held: &mut Option<Box<Reattachment>>,
    generation: &Generation,
) -> (Opening, TranslatorTerms, Timeouts) {
    let mut work = match (source, held.as_mut()) {
        (Source::Asked(work), _) => work,
        (Source::Adopted(adopted), held) => {
            let origin = held.as_ref().map(|held| held.origin().clone());
            let opening = held.map(|held| held.open(generation, adopted.attachment));
            let terms = TranslatorTerms {
                choices: 1,
                previous_response_id: adopted.previous_response_id,
                seal: None,
                tools: ToolNames::default(),
                origin,
                streamed: true,
            };
            let opening = opening.unwrap_or_else(|| std::future::pending().boxed());
            return (opening, terms, adopted.timeouts);
        }
    };
    if work.request.reattach
        && let Some(held) = held.as_mut()
        && let Some(name) = upstream.endpoint_name(work.request.endpoint)
        && upstream.reattach_window(name).is_some()
    {
        held.count_attempts(&mut work.request);
    }
    let timeouts = work.timeouts;
    let reasoning = work.request.reasoning.as_ref();
    let terms = TranslatorTerms {
        choices: work.choices,
        previous_response_id: work.previous_response_id,
        seal: work.seal,
        tools: work.tools,
        origin: reasoning.map(|reasoning| reasoning.answer.clone()),
        streamed: work.request.streamed,
    };
    (upstream.open(work.request), terms, timeouts)
}

/// Notes the head of the upstream's response. Returns its body, or how the generation ends.
fn note_head(
    generation: &Generation,
    opened: Result<Result<UpstreamResponse, OpenError>, Interrupt>,
) -> Result<Box<dyn TokenStream>, Ending> {
    let head = generation.response_head();
    match opened {
        Ok(Ok(opened)) => {
            head.set(Ok(opened.head));
            Ok(opened.stream)
        }
        Ok(Err(error)) => {
            let ending = Ending::Failed(Failure::from(&error.to_api_error()));
            head.set(Err(error));
            Err(ending)
        }
        Err(interrupt) => {
            head.set(Err(OpenError::Failed(interrupt.to_api_error())));
            Err(interrupt.into_ending())
        }
    }
}

/// Returns true if the upstream fell silent after its first token.
fn is_silence(failure: &Failure) -> bool {
    failure.code == ErrorCode::BetweenTokensTimeout.as_str()
}

/// Asks another upstream to continue the answer that broke off. Returns whether one does. The log
/// records the place and the upstream.
fn continue_elsewhere(
    writer: &mut Writer,
    records: &mut RecordWriter,
    stream: &mut dyn TokenStream,
    failure: &Failure,
) -> bool {
    // Events that came with the failure are part of the text to continue.
    if writer.append(records).is_err() || writer.is_filtered() {
        return false;
    }
    if writer.is_used_up() {
        return false;
    }
    let generation = writer.generation().clone();
    let text = generation.snapshot().continuable_text();
    let Some(upstream) = text.and_then(|text| stream.continue_from(failure, &text)) else {
        return false;
    };
    tracing::info!(generation = %generation.meta().id, code = %failure.code, %upstream, "another upstream continues the answer");
    let chunk = serde_json::json!({
        "id": format!("chatcmpl-{}", generation.meta().id.suffix()),
        "object": "chat.completion.chunk",
        "created": generation.meta().created_at,
        "model": generation.meta().model,
        "choices": [{"index": 0, "delta": {}, "finish_reason": null}],
        "tokenwire:continued": {"upstream": upstream},
    });
    records.event(EventKind::Continued { upstream });
    records.record(Some(chunk.to_string().as_bytes()));
    writer.append(records).is_ok()
}

fn finish(
    writer: &mut Writer,
    records: &mut RecordWriter,
    translator: &mut Translator,
    ending: Ending,
) {
    if writer.is_watched() && writer.may_append() && ending != Ending::Cancelled {
        // A rule may stop the answer before its own end.
        match writer.append(records) {
            Ok(_) if writer.is_filtered() => return writer.end_filtered(translator.usage()),
            Ok(_) => {}
            Err(AppendError::Full { .. }) => return writer.seal_full(),
            // Another writer took over, or the log was deleted.
            Err(
                AppendError::Fenced { .. }
                | AppendError::Sealed
                | AppendError::Gap { .. }
                | AppendError::Expired,
            ) => return,
        }
    }
    if let Ending::Failed(failure) = &ending {
        // The message may quote the conversation and stays out of the log.
        tracing::info!(generation = %writer.generation().meta().id, code = %failure.code, "generation failed");
    }
    translator.end(ending, unix_now(), records);
    writer.seal(records);
}

enum Step {
    Read,
    /// The upstream ended.
    Over(Ending),
    /// The gateway gave up on the upstream.
    GivenUp(Ending),
}

/// Why the driver stops waiting for the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interrupt {
    Stopped(Stop),
    Timeout(ErrorCode),
    /// The memory for streams was used up for a long time, and this is the youngest.
    NoRoom,
}

impl Interrupt {
    fn to_api_error(self) -> ApiError {
        match self {
            Self::Stopped(Stop::Cancelled) => {
                ApiError::new(ErrorCode::Cancelled, "The generation was cancelled.")
            }
            Self::Stopped(Stop::ShuttingDown) => ApiError::new(
                ErrorCode::ShuttingDown,
                "The gateway stopped before the answer was complete.",
            ),
            Self::Stopped(Stop::Abandoned) => ApiError::new(
                ErrorCode::Cancelled,
                "The generation was cancelled: it had no reader.",
            ),
            Self::Timeout(code) => {
                let what = match code {
                    ErrorCode::FirstTokenTimeout => "The upstream sent no first token in time.",
                    ErrorCode::BetweenTokensTimeout => {
                        "The upstream fell silent in the middle of the answer."
                    }
                    _ => "The upstream took too long for the whole answer.",
                };
                ApiError::new(code, what)
            }
            Self::NoRoom => ApiError::new(
                ErrorCode::Overloaded,
                "The gateway ended this answer: the memory for streams (streams.max_memory) is used up by older ones.",
            ),
        }
    }

    fn into_ending(self) -> Ending {
        match self {
            Self::Stopped(Stop::Cancelled | Stop::Abandoned) => Ending::Cancelled,
            Self::Stopped(Stop::ShuttingDown) | Self::Timeout(_) | Self::NoRoom => {
                Ending::Failed(Failure::from(&self.to_api_error()))
            }
        }
    }
}

/// The timeouts and the external control of one generation, under one timer.
///
/// The timer is not reset with every token. When it fires early because tokens have come, it is set
/// to the time that is left.
struct Deadlines {
    generation: Arc<Generation>,
    timeouts: Timeouts,
    started: Instant,
    /// The first token, or the last event after it.
    last_event: Option<Instant>,
    /// From the first token on.
    pace: Option<Pace>,
    finished: Option<Instant>,
    /// How long the rest of a finished answer is waited for.
    after_finish: Duration,
    abandoned: Option<Abandoned>,
    /// The timeouts do not run.
    paused: bool,
    /// The upstream is not read: the account is exceeded.
    waits_for_room: bool,
    growth: Option<Box<Growth>>,
    /// Whether the last read completed no event.
    read_no_event: bool,
    timer: Pin<Box<Sleep>>,
    /// The task that the timer wakes, no later than at the first deadline. Tokens only move that. `None`
    /// if anything else may have changed it.
    armed: Option<Waker>,
}

/// The times between tokens so far.
struct Pace {
    last_token: Instant,
    intervals: TokenIntervals,
}

/// The time without a reader.
#[derive(Clone, Copy, Debug)]
struct Abandoned {
    /// When the last reader had left.
    since: Instant,
    /// How long the generation may run without one.
    grace: Duration,
    /// The number of readers so far.
    arrivals: u32,
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        if let Some(pace) = self.pace.take()
            && !pace.intervals.is_empty()
        {
            self.generation.keep_token_intervals(pace.intervals);
        }
    }
}

impl Deadlines {
    fn new(generation: Arc<Generation>, timeouts: Timeouts) -> Self {
        let started = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(started));
        Self {
            generation,
            timeouts,
            started,
            last_event: None,
            pace: None,
            finished: None,
            after_finish: AFTER_FINISH,
            abandoned: None,
            paused: false,
            waits_for_room: false,
            growth: None,
            read_no_event: false,
            timer,
            armed: None,
        }
    }

    /// Waits until the answer may grow. The timeouts do not run meanwhile.
    async fn room(&mut self) -> Result<(), Interrupt> {
        let asked = Instant::now();
        let generation = self.generation.clone();
        let growth = self.growth.take();
        let mut growth =
            growth.unwrap_or_else(|| Box::new(generation.account().growth(self.started)));
        self.waits_for_room = true;
        self.armed = None;
        let room = std::future::poll_fn(|cx| {
            let room = growth.poll_room(cx, generation.log().is_behind());
            if let Poll::Ready(room) = room {
                return Poll::Ready(room.map_err(|Full| Interrupt::NoRoom));
            }
            self.poll(cx).map(Err)
        })
        .await;
        self.waits_for_room = false;
        self.armed = None;
        self.growth = Some(growth);
        let waited = asked.elapsed();
        self.started += waited;
        for noted in [&mut self.last_event, &mut self.finished] {
            *noted = noted.map(|noted| noted + waited);
        }
        if let Some(turn) = room? {
            generation.hold_turn(turn);
        }
        Ok(())
    }

    /// Another upstream is asked. Its first event is waited for like the next one of the first, and
    /// a finish of the first does not count.
    fn restart(&mut self) {
        self.finished = None;
        self.armed = None;
        if let Some(last) = &mut self.last_event {
            *last = Instant::now();
        }
    }

    /// Runs a future until it is ready or there is a reason to give up.
    async fn guard<F: Future>(&mut self, future: F) -> Result<F::Output, Interrupt> {
        tokio::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(interrupt) = self.poll(cx) {
                return Poll::Ready(Err(interrupt));
            }
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// As [`Deadlines::guard`], for a response that is being opened. The timeouts of the upstream do not
    /// run for one that is read again.
    async fn until_open(
        &mut self,
        opening: &mut Opening,
        again: bool,
    ) -> Result<Result<UpstreamResponse, OpenError>, Interrupt> {
        let asked = Instant::now();
        self.waits_for_room = again;
        self.armed = None;
        let opened = self.guard(opening).await;
        self.waits_for_room = false;
        self.armed = None;
        if again {
            self.started += asked.elapsed();
        }
        opened
    }

    /// Starts the time to the next token again, for an upstream that continues the answer.
    fn restart_token(&mut self) {
        self.finished = None;
        self.armed = None;
        self.last_event = Some(Instant::now());
    }

    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut dyn TokenStream,
        translator: &mut Translator,
        records: &mut RecordWriter,
    ) -> Poll<Step> {
        let mut events = false;
        let mut tokens = false;
        let mut progress = Progress::Open;
        records.borrow_memory();
        let step = stream.poll_events(cx, &mut |event| {
            events = true;
            if event == SseEvent::KeepAlive {
                return Flow::Continue;
            }
            let translated = translator.event(event, records);
            tokens |= translated.tokens;
            progress = translated.progress;
            if matches!(progress, Progress::Over(_)) {
                Flow::Stop
            } else {
                Flow::Continue
            }
        });
        records.give_back_memory();
        self.read_no_event = !events;
        // Before the first token nothing restarts a timeout: a server may send comments while the
        // request waits in its queue.
        if tokens || (events && self.last_event.is_some()) {
            let now = Instant::now();
            if tokens {
                self.note_token(now);
            }
            if self.last_event.replace(now).is_none() {
                self.armed = None;
                stream.first_token();
                self.generation
                    .note_first_token(now.duration_since(self.started));
            }
        }
        match progress {
            Progress::Over(ending) => return Poll::Ready(Step::Over(ending)),
            Progress::Finished if tokens || self.finished.is_none() => {
                self.finished = Some(Instant::now());
                self.after_finish = AFTER_FINISH;
                self.armed = None;
            }
            Progress::Failing if self.finished.is_none() => {
                self.finished = Some(Instant::now());
                self.after_finish = AFTER_FAILURE;
                self.armed = None;
            }
            Progress::Finished | Progress::Failing => {}
            // Text after a finish reason: the answer continues.
            Progress::Open if tokens && self.finished.is_some() => {
                self.finished = None;
                self.armed = None;
            }
            Progress::Open => {}
        }
        match step {
            Poll::Ready(StreamStep::Read) => Poll::Ready(Step::Read),
            Poll::Ready(StreamStep::Ended(end)) => {
                Poll::Ready(Step::Over(translator.body_ended(end)))
            }
            Poll::Ready(StreamStep::Failed(error)) => {
                Poll::Ready(Step::Over(Ending::Failed(Failure::from(&error))))
            }
            Poll::Pending => self.poll_end(cx, translator),
        }
    }

    fn note_token(&mut self, now: Instant) {
        match &mut self.pace {
            Some(pace) => {
                let last = std::mem::replace(&mut pace.last_token, now);
                pace.intervals.add(now.duration_since(last));
            }
            None => {
                self.pace = Some(Pace {
                    last_token: now,
                    intervals: TokenIntervals::default(),
                });
            }
        }
    }

    /// Ready if there is a reason to stop waiting.
    fn poll_end(&mut self, cx: &mut Context<'_>, translator: &mut Translator) -> Poll<Step> {
        self.poll(cx).map(|interrupt| match interrupt {
            // A finished answer is complete.
            Interrupt::Timeout(_) if self.finished.is_some() => {
                Step::Over(translator.body_ended(BodyEnd::Silence))
            }
            _ => Step::GivenUp(interrupt.into_ending()),
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        let control = self.generation.control();
        control.watch(cx);
        if let Some(stop) = control.stopped() {
            return Poll::Ready(Interrupt::Stopped(stop));
        }
        let state = control.timeouts();
        let paused = state == TimeoutState::Paused;
        if paused != self.paused || state == TimeoutState::Resumed {
            self.paused = paused;
            self.armed = None;
        }
        if state == TimeoutState::Resumed {
            self.started = Instant::now();
        }
        match control.abandoned() {
            Some((grace, arrivals)) => {
                self.armed = None;
                let now = Instant::now();
                let since = self
                    .abandoned
                    .filter(|abandoned| abandoned.arrivals == arrivals)
                    .map_or(now, |abandoned| abandoned.since);
                self.abandoned = Some(Abandoned {
                    since,
                    grace,
                    arrivals,
                });
                // A grace that ran out while the generation was followed ends with the last
                // follower.
                if now.duration_since(since) >= grace && !control.is_followed() {
                    return Poll::Ready(Interrupt::Stopped(Stop::Abandoned));
                }
            }
            None if self.abandoned.is_some() => {
                self.abandoned = None;
                self.armed = None;
            }
            None => {}
        }
        let is_armed = |armed: &Waker| armed.will_wake(cx.waker());
        if self.armed.as_ref().is_some_and(is_armed) && !self.timer.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            let Some((deadline, interrupt)) = self.next_deadline() else {
                return Poll::Pending;
            };
            let armed = self.timer.deadline();
            if armed > deadline || self.timer.is_elapsed() {
                if deadline <= Instant::now() {
                    return Poll::Ready(interrupt);
                }
                self.timer.as_mut().reset(deadline);
            }
            match self.timer.as_mut().poll(cx) {
                Poll::Pending => {
                    self.armed = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Poll::Ready(()) if self.timer.deadline() >= deadline => {
                    return Poll::Ready(interrupt);
                }
                Poll::Ready(()) => {}
            }
        }
    }

    /// Returns the earliest deadline and its meaning. A deadline too far away to be represented is
    /// none.
    fn next_deadline(&self) -> Option<(Instant, Interrupt)> {
        let deadline = |from: Instant, after: Duration, interrupt| {
            from.checked_add(after)
                .map(|deadline| (deadline, interrupt))
        };
        let timeout = |from: Instant, after: Duration, code| {
            (!after.is_zero() && !self.paused && !self.waits_for_room)
                .then(|| deadline(from, after, Interrupt::Timeout(code)))
                .flatten()
        };
        let tokens = match (self.finished, self.last_event) {
            _ if self.waits_for_room => None,
            (Some(finished), _) => deadline(
                finished,
                self.after_finish,
                Interrupt::Timeout(ErrorCode::BetweenTokensTimeout),
            ),
            (None, Some(last)) => timeout(
                last,
                self.timeouts.between_tokens,
                ErrorCode::BetweenTokensTimeout,
            ),
            (None, None) => timeout(
                self.started,
                self.timeouts.first_token,
                ErrorCode::FirstTokenTimeout,
            ),
        };
        let total = timeout(self.started, self.timeouts.total, ErrorCode::TotalTimeout);
        // The readers are not counted again here: one that comes in between, on another thread, is
        // seen by the next poll, and it has just woken the driver.
        let abandoned = self
            .abandoned
            .filter(|_| !self.generation.control().is_followed())
            .and_then(|Abandoned { since, grace, .. }| {
                deadline(since, grace, Interrupt::Stopped(Stop::Abandoned))
            });
        [tokens, total, abandoned]
            .into_iter()
            .flatten()
            .min_by_key(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::fixture::{generation, meta};

    /// A reader on another thread may attach at any point of a poll, also after the readers were
    /// counted.
    #[tokio::test(start_paused = true)]
    async fn reader_that_attaches_during_a_poll_does_not_end_the_grace() {
        let grace = Duration::from_secs(30);
        let generation = generation(meta(), grace);
        let timeouts = Timeouts {
            total: Duration::ZERO,
            first_token: Duration::ZERO,
            ..Timeouts::default()
        };
        let mut deadlines = Deadlines::new(generation.clone(), timeouts);
        let started = Instant::now();
        let polled = std::future::poll_fn(|cx| Poll::Ready(deadlines.poll(cx))).await;
        assert!(polled.is_pending());
        tokio::time::advance(Duration::from_secs(1)).await;

        let reader = generation.attach();
        let expected = (started + grace, Interrupt::Stopped(Stop::Abandoned));
        assert_eq!(deadlines.next_deadline(), Some(expected));

        let polled = std::future::poll_fn(|cx| Poll::Ready(deadlines.poll(cx))).await;
        assert!(polled.is_pending());
        assert_eq!(deadlines.next_deadline(), None);
        drop(reader);
    }

    #[tokio::test(start_paused = true)]
    async fn reader_that_comes_and_goes_between_two_polls_restarts_the_grace() {
        let grace = Duration::from_secs(30);
        let generation = generation(meta(), grace);
        let mut deadlines = Deadlines::new(generation.clone(), Timeouts::default());
        let polled = std::future::poll_fn(|cx| Poll::Ready(deadlines.poll(cx))).await;
        assert!(polled.is_pending());
        tokio::time::advance(Duration::from_secs(29)).await;

        drop(generation.attach());
        let polled = std::future::poll_fn(|cx| Poll::Ready(deadlines.poll(cx))).await;
        assert!(polled.is_pending());
        let abandoned = Interrupt::Stopped(Stop::Abandoned);
        let expected = (Instant::now() + grace, abandoned);
        assert_eq!(deadlines.next_deadline(), Some(expected));
    }
}
