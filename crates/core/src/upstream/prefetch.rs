//! Reads a stream up to its first token and holds back what it read.

use std::future::Future;
use std::task::{Context, Poll};

use super::attempt::AttemptStream;
use super::failure::FailureKind;
use super::{OpenError, StreamStep, TokenStream};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, Failure};
use crate::model::id::GenerationId;
use crate::model::snapshot::Api;
use crate::request::ToolNames;
use crate::upstream::decode::{Flow, SseEvent};
use crate::upstream::translate::{Progress, RecordWriter, Translated, Translator};

/// The most bytes that are held back of one stream. A stream with more counts as answered.
const MAX_HELD: usize = 256 * 1024;

/// Waits until an attempt has a token or ends. Returns a stream that first gives the events read
/// meanwhile.
pub(super) async fn until_first_token(
    api: Api,
    attempt: impl Future<Output = Result<AttemptStream, OpenError>>,
) -> Result<AttemptStream, OpenError> {
    let mut started = attempt.await?;
    let mut probe = FirstTokenProbe::new(api);
    let mut held = PrefetchedEvents::default();
    loop {
        let mut seen = Translated {
            progress: Progress::Open,
            tokens: false,
        };
        let step = std::future::poll_fn(|cx| {
            started.stream.poll_events(cx, &mut |event| {
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
                started
                    .attempt
                    .fail(FailureKind::of_stream(failure.retryable));
                return Err(OpenError::Failed(to_error(failure)));
            }
            None if !seen.tokens && held.bytes < MAX_HELD => continue,
            _ => {}
        }
        held.last = (step != StreamStep::Read).then_some(step);
        started.stream = Box::new(PrefetchedStream {
            held: Some(held),
            stream: started.stream,
        });
        return Ok(started);
    }
}

fn to_error(failure: Failure) -> ApiError {
    let mut error = ApiError::new(ErrorCode::UpstreamError, failure.message);
    error.code = Some(failure.code.into());
    error.kind = failure.kind.into();
    error.retryable = failure.retryable;
    error
}

/// Finds the first token of a stream in either API.
struct FirstTokenProbe {
    translator: Translator,
    records: RecordWriter,
}

impl FirstTokenProbe {
    fn new(api: Api) -> Self {
        let translator =
            Translator::new(api, &GenerationId::random(), 1, None, &ToolNames::default());
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

/// Events that are held back.
#[derive(Default)]
struct PrefetchedEvents {
    events: Vec<OwnedEvent>,
    bytes: usize,
    /// The step that came with the last of them, unless it was [`StreamStep::Read`].
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
        // An empty event takes memory as well.
        self.bytes += size_of::<OwnedEvent>();
        self.bytes += match &owned {
            OwnedEvent::Data { name, data, .. } => name.as_ref().map_or(0, Vec::len) + data.len(),
            OwnedEvent::ErrorField(value) => value.len(),
        };
        self.events.push(owned);
    }
}

/// A stream that first gives the events that were held back.
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

    fn buffered(&self) -> usize {
        self.stream.buffered()
    }

    fn first_token(&mut self) {
        self.stream.first_token();
    }
}
