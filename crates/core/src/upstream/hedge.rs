//! Hedging: where the first server is slower than it usually is, another is asked beside it, and
//! the first to give a token wins.
//!
//! What either sends is held back until one of them has a token, so that a reader never sees two
//! beginnings. The loser is dropped, which closes its connection.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Either, select};

use super::failover::Live;
use super::latency::Latency;
use super::retry::FailureKind;
use super::{OpenError, StreamStep, TokenStream};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, Failure};
use crate::model::id::GenerationId;
use crate::model::snapshot::Api;
use crate::upstream::decode::{Flow, SseEvent};
use crate::upstream::translate::{Progress, RecordWriter, Translated, Translator};

/// Until enough is known of a server, this is how long it has.
const UNTIL_KNOWN: Duration = Duration::from_secs(2);
/// A server that is this quick need not be raced against.
const LEAST: Duration = Duration::from_millis(10);
/// What is held back of a stream at most; with more of it, it counts as answered.
const HELD_BYTES: usize = 256 * 1024;

/// When a second server is asked because the first has given no token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hedge {
    /// Never.
    #[default]
    Never,
    /// After the time that 95 % of its requests keep to.
    P95,
    /// After this time.
    After(Duration),
}

impl Hedge {
    pub(super) fn patience(self, latency: &Latency) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::P95 => Some(latency.p95().unwrap_or(UNTIL_KNOWN).max(LEAST)),
            Self::After(time) => Some(time),
        }
    }
}

/// Runs the first attempt and, if it has no token after `patience` (or fails after that), another
/// beside it.
pub(super) async fn run<A, B>(
    api: Api,
    first: A,
    patience: Duration,
    other: impl FnOnce() -> Option<B>,
) -> Result<Live, OpenError>
where
    A: Future<Output = Result<Live, OpenError>>,
    B: Future<Output = Result<Live, OpenError>>,
{
    let mut first = pin!(answered(api, first));
    // Without another server the first has all the time it needs; one that fails in time is the
    // retries' business.
    if let Ok(answer) = tokio::time::timeout(patience, first.as_mut()).await {
        return answer;
    }
    let Some(other) = other() else {
        return first.await;
    };
    let other = pin!(answered(api, other));
    match select(first, other).await {
        Either::Left((Ok(live), _)) | Either::Right((Ok(live), _)) => Ok(live),
        Either::Left((Err(_), other)) => other.await,
        Either::Right((Err(_), first)) => first.await,
    }
}

/// Waits until an attempt has a token, or its end without one, and keeps what came until then.
async fn answered(
    api: Api,
    attempt: impl Future<Output = Result<Live, OpenError>>,
) -> Result<Live, OpenError> {
    let mut live = attempt.await?;
    let mut probe = FirstTokenProbe::new(api);
    let mut held = PrefetchedEvents::default();
    loop {
        let mut seen = Translated {
            progress: Progress::Open,
            tokens: false,
        };
        let step = std::future::poll_fn(|cx| {
            live.stream.poll_events(cx, &mut |event| {
                if event == SseEvent::KeepAlive {
                    return Flow::Continue;
                }
                let translated = probe.event(&event);
                seen.tokens |= translated.tokens;
                seen.progress = translated.progress;
                held.push(event);
                if matches!(seen.progress, Progress::Over(_)) {
                    Flow::Stop
                } else {
                    Flow::Continue
                }
            })
        });
        let step = step.await;
        let ending = match (&step, seen.progress) {
            (_, Progress::Over(ending)) => Some(ending),
            (StreamStep::Read, _) => None,
            (StreamStep::Ended(end), _) => Some(probe.translator.body_ended(*end)),
            (StreamStep::Failed(error), _) => Some(Ending::Failed(Failure::from(error))),
        };
        match ending {
            Some(Ending::Failed(failure)) if !seen.tokens => {
                live.attempt.failed(if failure.retryable {
                    FailureKind::Broken
                } else {
                    FailureKind::None
                });
                return Err(OpenError::Failed(to_error(failure)));
            }
            None if !seen.tokens && held.bytes < HELD_BYTES => continue,
            _ => {}
        }
        held.last = (step != StreamStep::Read).then_some(step);
        live.stream = Box::new(PrefetchedStream {
            held: Some(held),
            stream: live.stream,
        });
        return Ok(live);
    }
}

fn to_error(failure: Failure) -> ApiError {
    let mut error = ApiError::new(ErrorCode::UpstreamError, failure.message);
    error.code = Some(failure.code.into());
    error.kind = failure.kind.into();
    error.retryable = failure.retryable;
    error
}

/// Tells tokens from what only frames them, in either language.
struct FirstTokenProbe {
    translator: Translator,
    records: RecordWriter,
}

impl FirstTokenProbe {
    fn new(api: Api) -> Self {
        let translator = Translator::new(api, &GenerationId::random(), 1, None);
        Self {
            translator,
            records: RecordWriter::new(),
        }
    }

    fn event(&mut self, event: &SseEvent<'_>) -> Translated {
        let translated = self.translator.event(*event, &mut self.records);
        self.records.clear();
        translated
    }
}

/// Events that wait for the race to end.
#[derive(Default)]
struct PrefetchedEvents {
    events: Vec<OwnedEvent>,
    bytes: usize,
    /// What the stream said with or after them, if it was more than that something was read.
    last: Option<StreamStep>,
}

enum OwnedEvent {
    Data {
        name: Option<Vec<u8>>,
        data: Vec<u8>,
        terminated: bool,
    },
    ErrorField(Vec<u8>),
}

impl PrefetchedEvents {
    fn push(&mut self, event: SseEvent<'_>) {
        let owned = match event {
            SseEvent::Data {
                name,
                data,
                terminated,
            } => OwnedEvent::Data {
                name: name.map(<[u8]>::to_vec),
                data: data.to_vec(),
                terminated,
            },
            SseEvent::ErrorField(value) => OwnedEvent::ErrorField(value.to_vec()),
            SseEvent::KeepAlive => return,
        };
        // An event weighs something even if it says nothing.
        self.bytes += size_of::<OwnedEvent>();
        self.bytes += match &owned {
            OwnedEvent::Data { name, data, .. } => name.as_ref().map_or(0, Vec::len) + data.len(),
            OwnedEvent::ErrorField(value) => value.len(),
        };
        self.events.push(owned);
    }
}

/// A stream that first gives what was held back of it.
struct PrefetchedStream {
    held: Option<PrefetchedEvents>,
    stream: Box<dyn TokenStream>,
}

impl TokenStream for PrefetchedStream {
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        let Some(held) = self.held.take() else {
            return self.stream.poll_events(cx, sink);
        };
        for event in &held.events {
            let flow = match event {
                OwnedEvent::Data {
                    name,
                    data,
                    terminated,
                } => sink(SseEvent::Data {
                    name: name.as_deref(),
                    data,
                    terminated: *terminated,
                }),
                OwnedEvent::ErrorField(value) => sink(SseEvent::ErrorField(value)),
            };
            if flow == Flow::Stop {
                break;
            }
        }
        Poll::Ready(held.last.unwrap_or(StreamStep::Read))
    }

    fn first_token(&mut self) {
        self.stream.first_token();
    }
}
