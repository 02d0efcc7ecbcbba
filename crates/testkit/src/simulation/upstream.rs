//! The simulated upstream: it answers each request by a script of the seed.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::decode::{Flow, SseDecoder, SseEvent};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_core::upstream::{
    OpenError, Refusal, SecretString, StreamStep, Target, Timeouts, TokenStream, Upstream,
    UpstreamHead, UpstreamRequest, UpstreamResponse,
};
use tokio::time::{Sleep, sleep};

use super::dice::Dice;
use super::script::{Head, Script, Step};

/// The largest event of a body.
const EVENT_LIMIT: usize = 1 << 20;

/// What a simulated upstream tells of its calls, and what decides them.
pub trait UpstreamWorld: Send + Sync {
    /// Decides all answers.
    fn seed(&self) -> u64;

    /// How long the gateway waits.
    fn timeouts(&self) -> Timeouts;

    /// How much slower than its script an upstream is.
    fn slowness(&self) -> u64 {
        1
    }

    /// Notes a call for the request of this name. Returns its number.
    fn called(&self, marker: String) -> usize;

    /// Notes text that a call has delivered.
    fn delivered(&self, call: usize, text: &str);

    /// Adds a line to the trace.
    fn note(&self, what: fmt::Arguments<'_>);
}

/// Answers each request by a script of the seed. The text of a request has its name between two `#`.
pub struct SimulatedUpstream(pub Arc<dyn UpstreamWorld>);

impl fmt::Debug for SimulatedUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedUpstream").finish_non_exhaustive()
    }
}

impl Upstream for SimulatedUpstream {
    fn route(
        &self,
        model: Option<&str>,
        _client_key: Option<&SecretString>,
    ) -> Result<Target, ApiError> {
        let model = model.unwrap_or("chat");
        Ok(Target {
            model: model.to_owned(),
            upstream_model: None,
            api: if model == "responses" {
                Api::Responses
            } else {
                Api::Chat
            },
            timeouts: self.0.timeouts(),
            endpoint: 0,
            queued: false,
            reservation: Default::default(),
        })
    }

    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        let world = self.0.clone();
        let call = world.called(marker(&request.body));
        let mut dice = Dice::new(world.seed(), &format!("call {call}"));
        let mut script = Script::draw(&mut dice, request.api);
        let slowness = world.slowness();
        script
            .steps
            .iter_mut()
            .for_each(|(pause, _)| *pause *= slowness);
        world.note(format_args!(
            "upstream {call}: {:?} after {}, {} steps",
            script.head,
            script.head_after,
            script.steps.len()
        ));
        answer(world, call, script).boxed()
    }
}

/// Returns the name of the request, which its text begins and ends with `#`.
fn marker(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.split('#').nth(1).unwrap_or_default().to_owned()
}

async fn answer(
    world: Arc<dyn UpstreamWorld>,
    call: usize,
    script: Script,
) -> Result<UpstreamResponse, OpenError> {
    sleep(Duration::from_millis(script.head_after)).await;
    match script.head {
        Head::Answer => Ok(UpstreamResponse {
            head: UpstreamHead::default(),
            stream: Box::new(Body {
                world,
                call,
                decoder: SseDecoder::new(EVENT_LIMIT),
                steps: script.steps.into(),
                pause: None,
                ended: None,
            }),
        }),
        Head::Refuse(status) => Err(OpenError::Refused(Refusal {
            status,
            content_type: Some("application/json".to_owned()),
            body: Bytes::from_static(br#"{"error":{"message":"no","type":"x","code":"no"}}"#),
            headers: Vec::new(),
            should_retry: None,
        })),
        Head::Fail => Err(OpenError::Failed(ApiError::new(
            ErrorCode::UpstreamError,
            "The simulated upstream cannot be reached.",
        ))),
        Head::Hang => std::future::pending().await,
    }
}

/// The body of one answer.
struct Body {
    world: Arc<dyn UpstreamWorld>,
    call: usize,
    decoder: SseDecoder,
    steps: VecDeque<(u64, Step)>,
    pause: Option<Pin<Box<Sleep>>>,
    ended: Option<BodyEnd>,
}

impl TokenStream for Body {
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        if let Some(end) = self.ended {
            return Poll::Ready(StreamStep::Ended(end));
        }
        let Some((pause, _)) = self.steps.front() else {
            // The upstream is silent for ever.
            return Poll::Pending;
        };
        if *pause > 0 {
            let time = Duration::from_millis(*pause);
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(time)));
            ready!(pause.as_mut().poll(cx));
        }
        self.pause = None;
        let Some((_, step)) = self.steps.pop_front() else {
            return Poll::Pending;
        };
        let (world, call) = (self.world.clone(), self.call);
        let mut sink = |event: SseEvent<'_>| {
            if let SseEvent::Data { data, .. } = event
                && let Some(text) = text(data)
            {
                world.delivered(call, &text);
            }
            sink(event)
        };
        let failed = || {
            StreamStep::Failed(ApiError::new(
                ErrorCode::UpstreamError,
                "The body of the simulated upstream cannot be read.",
            ))
        };
        Poll::Ready(match step {
            Step::Bytes(bytes) => match self.decoder.push(&bytes, &mut sink) {
                Ok(_) => StreamStep::Read,
                Err(_) => failed(),
            },
            Step::End(end) => {
                self.ended = Some(end);
                if end == BodyEnd::Clean && self.decoder.finish(&mut sink).is_err() {
                    return Poll::Ready(failed());
                }
                StreamStep::Ended(end)
            }
            Step::Fail => failed(),
        })
    }
}

/// Returns the answer's text in one event of either API; `None` for what is not part of an answer.
fn text(data: &[u8]) -> Option<String> {
    if let Ok(event) = serde_json::from_slice::<Value>(data)
        && let Some(kind) = event["type"].as_str()
    {
        let delta = event["delta"]
            .as_str()
            .filter(|_| kind == "response.output_text.delta");
        return Some(delta.unwrap_or_default().to_owned());
    }
    // A fault may stand right after a chunk, which is read all the same.
    let values = serde_json::Deserializer::from_slice(data).into_iter::<Value>();
    let chunks = values.map_while(Result::ok);
    let texts = chunks.filter_map(|chunk| {
        let content = &chunk.get("choices")?[0]["delta"]["content"];
        Some(content.as_str().unwrap_or_default().to_owned())
    });
    texts.reduce(|text, next| text + &next)
}
