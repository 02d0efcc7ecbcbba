//! The task that writes a generation: asks the upstream, translates what comes, appends it, and
//! ends the log.
//!
//! It runs on the worker that accepted the request, so that a token's way from socket to socket
//! never leaves a thread.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{Instant, Sleep};

use super::Generation;
use super::control::{Stop, TimeoutState};
use super::writer::Writer;
use crate::log::AppendError;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, EventKind, Failure};
use crate::model::time::unix_now;
use crate::upstream::decode::Flow;
use crate::upstream::translate::{BodyEnd, Chunking, Progress, RecordWriter, Translator};
use crate::upstream::{OpenError, StreamStep, Timeouts, TokenStream, Upstream, UpstreamRequest};

/// How long usage and `[DONE]` may take once every choice has finished. Then silence is an end.
const AFTER_FINISH: Duration = Duration::from_secs(5);
/// How long the reason of a failure may take that the upstream reported without one.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often it reads before the other tasks of its thread have their turn. A read is up to 64 KiB,
/// or some hundred tokens; one that is not full is the last before it waits.
const READS_IN_A_TURN: u32 = 2;
/// How long the end of a finished body is waited for, so that its connection can be used again.
const DRAIN: Duration = Duration::from_millis(100);

/// What there is to do.
#[derive(Debug)]
pub struct Work {
    /// What is asked.
    pub request: UpstreamRequest,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How many choices were asked for.
    pub choices: u32,
    /// The predecessor that the client named.
    pub previous_response_id: Option<String>,
}

/// Writes the generation to its end. The scribe may hold events (`response.created`) that go first.
/// What comes back, if anything, is a body whose connection may be used again once it is
/// [drained](drain).
pub(crate) async fn drive(
    mut writer: Writer,
    mut records: RecordWriter,
    upstream: Arc<dyn Upstream>,
    work: Work,
) -> Option<Box<dyn TokenStream>> {
    let id = writer.generation().meta().id.clone();
    let run = AssertUnwindSafe(run(&mut writer, &mut records, upstream, work))
        .catch_unwind()
        .await;
    run.unwrap_or_else(|_| {
        // The panic itself was reported by the panic hook.
        tracing::error!(generation = %id, "the generation's task panicked");
        writer.seal_abruptly(&ApiError::new(
            ErrorCode::InternalError,
            "The gateway failed while it wrote this answer.",
        ));
        None
    })
}

/// Reads a finished body to its end, if that comes soon, so that its connection can be used again.
pub(crate) async fn drain(mut stream: Box<dyn TokenStream>) {
    let end = std::future::poll_fn(|cx| {
        loop {
            match stream.poll_events(cx, &mut |_| Flow::Continue) {
                Poll::Ready(StreamStep::Read) => {}
                Poll::Ready(StreamStep::Ended(_) | StreamStep::Failed(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    let _ = tokio::time::timeout(DRAIN, end).await;
}

/// Gives the stream back if its connection may be used again.
async fn run(
    writer: &mut Writer,
    records: &mut RecordWriter,
    upstream: Arc<dyn Upstream>,
    work: Work,
) -> Option<Box<dyn TokenStream>> {
    let generation = writer.generation().clone();
    let Work {
        request,
        timeouts,
        choices,
        previous_response_id,
    } = work;
    // A client that asked for a stream gets chunks, also of a completion in one piece.
    let chunking = request.streamed.then(|| Chunking {
        id: generation.meta().id.clone(),
        created_at: generation.meta().created_at,
        model: generation.meta().model.clone(),
        include_usage: generation.meta().include_usage,
    });
    records.set_history(generation.clone());
    let fresh = || {
        Translator::new(
            generation.meta().api,
            &generation.meta().id,
            choices,
            previous_response_id.as_deref(),
        )
        .chunked(chunking.clone())
    };
    let mut translator = fresh();
    let mut watch = Watch::new(generation.clone(), timeouts);
    let opened = watch.guard(upstream.open(request)).await;
    let mut stream = match opened {
        Ok(Ok(opened)) => {
            generation.response_head().set(Ok(opened.head));
            opened.stream
        }
        Ok(Err(error)) => {
            let ending = Ending::Failed(Failure::from(&error.to_api_error()));
            generation.response_head().set(Err(error));
            finish(writer, records, &mut translator, ending);
            return None;
        }
        Err(interrupt) => {
            let error = interrupt.to_api_error();
            generation
                .response_head()
                .set(Err(OpenError::Failed(error)));
            finish(writer, records, &mut translator, interrupt.into_ending());
            return None;
        }
    };
    let mut kept = false;
    let mut reads = 0;
    loop {
        let mut step = Poll::Pending;
        if reads >= READS_IN_A_TURN {
            reads = 0;
            tokio::task::yield_now().await;
            // An answer that never pauses has its clocks, and may be stopped or given up, like any
            // other.
            step =
                std::future::poll_fn(|cx| Poll::Ready(watch.poll_end(cx, &mut translator))).await;
        }
        let step = match step {
            Poll::Ready(step) => step,
            Poll::Pending => {
                std::future::poll_fn(|cx| {
                    let step = watch.poll_stream(cx, stream.as_mut(), &mut translator, records);
                    if step.is_pending() {
                        reads = 0;
                    }
                    step
                })
                .await
            }
        };
        if let Step::Over(Ending::Failed(failure)) = &step
            && !kept
            && records.is_empty()
            && stream.retry(failure)
        {
            translator = fresh();
            continue;
        }
        if let Step::Over(Ending::Failed(failure)) = &step
            && continue_elsewhere(writer, records, stream.as_mut(), failure)
        {
            continue;
        }
        if let Step::Over(Ending::Failed(failure)) = &step {
            stream.failed(failure);
        }
        let (Step::Over(ending) | Step::GivenUp(ending)) = step else {
            kept |= !records.is_empty();
            match writer.append(records) {
                Ok(()) => {
                    reads += 1;
                    continue;
                }
                Err(AppendError::Full { .. }) => {
                    tracing::warn!(generation = %generation.meta().id, "the answer outgrew the bound on one stream");
                    writer.seal_abruptly(&ApiError::new(
                        ErrorCode::StreamTooLarge,
                        "The answer is larger than the gateway keeps for one stream.",
                    ));
                }
                // Somebody else writes it now, or it was deleted: there is nothing left to do here.
                Err(
                    AppendError::Fenced { .. }
                    | AppendError::Sealed
                    | AppendError::Gap { .. }
                    | AppendError::Expired,
                ) => {}
            }
            return None;
        };
        let reusable = matches!(ending, Ending::Completed { .. } | Ending::Incomplete { .. });
        finish(writer, records, &mut translator, ending);
        return reusable.then_some(stream);
    }
}

/// Whether another server goes on with the answer that broke off. The log says where, and who does.
fn continue_elsewhere(
    writer: &mut Writer,
    records: &mut RecordWriter,
    stream: &mut dyn TokenStream,
    failure: &Failure,
) -> bool {
    // What came with the failure belongs to the text that the other goes on from.
    if writer.append(records).is_err() {
        return false;
    }
    let generation = writer.generation().clone();
    let text = generation.with_snapshot(|snapshot| snapshot.continuable_text().map(str::to_owned));
    let Some(upstream) = text.and_then(|text| stream.continue_from(failure, &text)) else {
        return false;
    };
    tracing::info!(generation = %generation.meta().id, code = %failure.code, %upstream, "another upstream goes on with the answer");
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
    if let Ending::Failed(failure) = &ending {
        // The code is ours or the upstream's; the message may quote the conversation and stays out
        // of the log.
        tracing::info!(generation = %writer.generation().meta().id, code = %failure.code, "generation failed");
    }
    translator.end(ending, unix_now(), records);
    writer.seal(records);
}

enum Step {
    Read,
    /// The upstream has come to an end.
    Over(Ending),
    /// It is not waited for any longer.
    GivenUp(Ending),
}

/// Why waiting was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interrupt {
    Stopped(Stop),
    Clock(ErrorCode),
}

impl Interrupt {
    fn to_api_error(self) -> ApiError {
        match self {
            Self::Stopped(Stop::Cancelled) => {
                ApiError::new(ErrorCode::Cancelled, "The generation was cancelled.")
            }
            Self::Stopped(Stop::ShuttingDown) => ApiError::new(
                ErrorCode::ShuttingDown,
                "The gateway stopped before the answer was whole.",
            ),
            Self::Stopped(Stop::Abandoned) => ApiError::new(
                ErrorCode::Cancelled,
                "The generation was cancelled: nobody was reading it.",
            ),
            Self::Clock(code) => {
                let what = match code {
                    ErrorCode::FirstTokenTimeout => "The upstream sent no first token in time.",
                    ErrorCode::BetweenTokensTimeout => {
                        "The upstream fell silent in the middle of the answer."
                    }
                    _ => "The upstream took too long over the whole answer.",
                };
                ApiError::new(code, what)
            }
        }
    }

    fn into_ending(self) -> Ending {
        match self {
            Self::Stopped(Stop::Cancelled | Stop::Abandoned) => Ending::Cancelled,
            Self::Stopped(Stop::ShuttingDown) | Self::Clock(_) => {
                Ending::Failed(Failure::from(&self.to_api_error()))
            }
        }
    }
}

/// The clocks and the strings of one generation, under one timer.
///
/// The timer is not moved with every token. It is set once and, when it fires too early because
/// tokens came meanwhile, set again to what is left.
struct Watch {
    generation: Arc<Generation>,
    timeouts: Timeouts,
    started: Instant,
    last_token: Option<Instant>,
    finished: Option<Instant>,
    /// How long the rest of a finished answer is waited for.
    after_finish: Duration,
    abandoned: Option<Instant>,
    /// Somebody else watches over the upstream.
    held: bool,
    timer: Pin<Box<Sleep>>,
}

impl Watch {
    fn new(generation: Arc<Generation>, timeouts: Timeouts) -> Self {
        let started = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(started));
        Self {
            generation,
            timeouts,
            started,
            last_token: None,
            finished: None,
            after_finish: AFTER_FINISH,
            abandoned: None,
            held: false,
            timer,
        }
    }

    /// Runs a future until it is done or there is a reason to give up.
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

    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut dyn TokenStream,
        translator: &mut Translator,
        records: &mut RecordWriter,
    ) -> Poll<Step> {
        let mut tokens = false;
        let mut progress = Progress::Open;
        let step = stream.poll_events(cx, &mut |event| {
            let translated = translator.event(event, records);
            tokens |= translated.tokens;
            progress = translated.progress;
            if matches!(progress, Progress::Over(_)) {
                Flow::Stop
            } else {
                Flow::Continue
            }
        });
        if tokens {
            let now = Instant::now();
            if self.last_token.replace(now).is_none() {
                stream.first_token();
                self.generation
                    .note_first_token(now.duration_since(self.started));
            }
        }
        match progress {
            Progress::Over(ending) => return Poll::Ready(Step::Over(ending)),
            Progress::Finished => {
                self.finished = Some(Instant::now());
                self.after_finish = AFTER_FINISH;
            }
            Progress::Failing => {
                self.finished = Some(Instant::now());
                self.after_finish = AFTER_FAILURE;
            }
            // Text after a finish reason: the answer goes on.
            Progress::Open if tokens => self.finished = None,
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

    /// The end, if there is a reason not to wait any longer.
    fn poll_end(&mut self, cx: &mut Context<'_>, translator: &mut Translator) -> Poll<Step> {
        self.poll(cx).map(|interrupt| {
            if self.silence_is_an_end() {
                Step::Over(translator.body_ended(BodyEnd::Silence))
            } else {
                Step::GivenUp(interrupt.into_ending())
            }
        })
    }

    /// Whether the time after the last finish reason has run out.
    fn silence_is_an_end(&self) -> bool {
        self.finished
            .is_some_and(|at| Instant::now() >= at + self.after_finish)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Interrupt> {
        let control = self.generation.control();
        control.watch(cx);
        if let Some(stop) = control.stopped() {
            return Poll::Ready(Interrupt::Stopped(stop));
        }
        match control.timeouts() {
            TimeoutState::Running => self.held = false,
            TimeoutState::Paused => self.held = true,
            TimeoutState::Resumed => {
                self.held = false;
                self.started = Instant::now();
            }
        }
        match control.abandoned() {
            Some(grace) => {
                let now = Instant::now();
                // A grace that ran out while others were made of this answer ends with the last of
                // them.
                if now >= *self.abandoned.get_or_insert(now) + grace && !control.is_followed() {
                    return Poll::Ready(Interrupt::Stopped(Stop::Abandoned));
                }
            }
            None => self.abandoned = None,
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
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if self.timer.deadline() >= deadline => {
                    return Poll::Ready(interrupt);
                }
                Poll::Ready(()) => {}
            }
        }
    }

    /// What runs out first, and what that means.
    fn next_deadline(&self) -> Option<(Instant, Interrupt)> {
        let held = self.held;
        let clock = |from: Instant, after: Duration, code| {
            (!after.is_zero() && !held).then(|| (from + after, Interrupt::Clock(code)))
        };
        let tokens = match (self.finished, self.last_token) {
            (Some(finished), _) => Some((
                finished + self.after_finish,
                Interrupt::Clock(ErrorCode::BetweenTokensTimeout),
            )),
            (None, Some(last)) => clock(
                last,
                self.timeouts.between_tokens,
                ErrorCode::BetweenTokensTimeout,
            ),
            (None, None) => clock(
                self.started,
                self.timeouts.first_token,
                ErrorCode::FirstTokenTimeout,
            ),
        };
        // An answer that has finished is whole, however long the rest takes to come.
        let total = if self.finished.is_none() {
            clock(self.started, self.timeouts.total, ErrorCode::TotalTimeout)
        } else {
            None
        };
        let control = self.generation.control();
        let grace = control.abandoned().unwrap_or_default();
        let abandoned = self
            .abandoned
            .filter(|_| !control.is_followed())
            .map(|since| (since + grace, Interrupt::Stopped(Stop::Abandoned)));
        [tokens, total, abandoned]
            .into_iter()
            .flatten()
            .min_by_key(|(deadline, _)| *deadline)
    }
}
