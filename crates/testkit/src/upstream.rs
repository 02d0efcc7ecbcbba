//! An upstream under the test's control.

use std::collections::VecDeque;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::upstream::decode::{Flow, SseDecoder, SseEvent};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_core::upstream::{
    Asked, Endpoint, OpenError, SecretString, StreamStep, Target, TokenStream, Upstream,
    UpstreamHead, UpstreamRequest, UpstreamResponse,
};
use tokio::sync::Notify;

/// The largest event that a scripted body may hold.
const EVENT_LIMIT: usize = 1 << 20;

/// What happens to a request until the test decides otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningPlan {
    /// It is answered with a stream at once.
    Answer,
    /// It waits for [`Call::answer`], [`Call::refuse`] or [`Call::panic_while_opening`].
    Hold,
    /// `open` panics before it returns a future.
    Panic,
}

/// An upstream that the test scripts. Every request becomes a [`Call`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ScriptedUpstream(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    target: Mutex<Target>,
    plan: Mutex<OpeningPlan>,
    accepts_client_key: AtomicBool,
    calls: Mutex<VecDeque<Call>>,
    arrived: Notify,
}

/// One request to the upstream, and its response.
#[derive(Clone, Debug)]
pub struct Call(Arc<CallState>);

#[derive(Debug)]
struct CallState {
    request: UpstreamRequest,
    script: Mutex<Script>,
    gone: Notify,
}

#[derive(Debug, Default)]
struct Script {
    opening: Option<ResponseHead>,
    steps: VecDeque<Step>,
    waker: Option<Waker>,
    gone: bool,
}

#[derive(Debug)]
enum ResponseHead {
    Answer(UpstreamHead),
    Error(OpenError),
    Panic,
}

#[derive(Debug)]
enum Step {
    Bytes(Vec<u8>),
    Document(Vec<u8>),
    End(BodyEnd),
    Fail(ApiError),
    Panic,
}

impl ScriptedUpstream {
    /// Creates an upstream that serves every model with `target`. A model that the client names
    /// keeps its name.
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self(Arc::new(Shared {
            target: Mutex::new(target),
            plan: Mutex::new(OpeningPlan::Answer),
            accepts_client_key: AtomicBool::new(false),
            calls: Mutex::default(),
            arrived: Notify::new(),
        }))
    }

    /// Sets what happens to later requests.
    pub fn plan(&self, plan: OpeningPlan) {
        *self.0.plan.lock() = plan;
    }

    /// Makes it accept clients' own keys from now on.
    pub fn accept_client_keys(&self) {
        self.0.accepts_client_key.store(true, Ordering::Relaxed);
    }

    /// Waits for the next request and takes it.
    pub async fn call(&self) -> Call {
        loop {
            let arrived = self.0.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if let Some(call) = self.0.calls.lock().pop_front() {
                return call;
            }
            arrived.await;
        }
    }

    /// The number of requests that [`ScriptedUpstream::call`] has not taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.calls.lock().len()
    }
}

impl Upstream for ScriptedUpstream {
    fn route(
        &self,
        model: Option<&str>,
        _client_key: Option<&SecretString>,
    ) -> Result<Target, ApiError> {
        let mut target = self.0.target.lock().clone();
        if model == Some("unknown") {
            return Err(ApiError::new(
                ErrorCode::NotFound,
                "The model 'unknown' is not served.",
            ));
        }
        if let Some(model) = model {
            target.model = model.to_owned();
        }
        Ok(target)
    }

    fn endpoint_name(&self, _endpoint: usize) -> Option<&str> {
        Some("scripted")
    }

    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        let plan = *self.0.plan.lock();
        assert_ne!(
            plan,
            OpeningPlan::Panic,
            "the script says that opening panics"
        );
        let opening =
            (plan == OpeningPlan::Answer).then(|| ResponseHead::Answer(UpstreamHead::default()));
        request.asked.begin();
        let script = Mutex::new(Script {
            opening,
            ..Script::default()
        });
        let call = Call(Arc::new(CallState {
            request,
            script,
            gone: Notify::new(),
        }));
        self.0.calls.lock().push_back(call.clone());
        self.0.arrived.notify_waiters();
        Connecting {
            guard: Some(CallGuard(call)),
        }
        .boxed()
    }
}

impl Endpoint for ScriptedUpstream {
    fn name(&self) -> &str {
        "scripted"
    }

    fn accepts_client_key(&self) -> bool {
        self.0.accepts_client_key.load(Ordering::Relaxed)
    }

    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        // The router counts the attempts.
        let asked = Asked::default();
        Upstream::open(self, UpstreamRequest { asked, ..request })
    }

    fn models(&self, _timeout: Duration) -> BoxFuture<'static, Result<Bytes, OpenError>> {
        ready(Ok(Bytes::from_static(br#"{"object":"list","data":[]}"#))).boxed()
    }

    fn probe(&self, _path: &str, _timeout: Duration) -> BoxFuture<'static, Result<u16, OpenError>> {
        ready(Ok(200)).boxed()
    }
}

impl Call {
    /// The request.
    #[must_use]
    pub fn request(&self) -> &UpstreamRequest {
        &self.0.request
    }

    /// The request's body as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    pub fn body(&self) -> serde_json::Value {
        serde_json::from_slice(&self.0.request.body).expect("a request's body is JSON")
    }

    /// Answers with a stream.
    pub fn answer(&self, head: UpstreamHead) {
        self.open(ResponseHead::Answer(head));
    }

    /// Answers with an error.
    pub fn refuse(&self, error: OpenError) {
        self.open(ResponseHead::Error(error));
    }

    /// Panics in the future that waits for the head.
    pub fn panic_while_opening(&self) {
        self.open(ResponseHead::Panic);
    }

    /// Sends bytes of the body. Each call is one read.
    pub fn bytes(&self, bytes: impl Into<Vec<u8>>) -> &Self {
        self.step(Step::Bytes(bytes.into()))
    }

    /// Sends an SSE event with this payload.
    pub fn data(&self, payload: &str) -> &Self {
        self.bytes(format!("data: {payload}\n\n"))
    }

    /// Sends a chat chunk with this text.
    pub fn token(&self, text: &str) -> &Self {
        let text = serde_json::Value::from(text);
        self.data(&format!(
            r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{{"content":{text}}},"finish_reason":null}}]}}"#
        ))
    }

    /// Sends a chat chunk with this finish reason.
    pub fn finish(&self, reason: &str) -> &Self {
        self.data(&format!(
            r#"{{"id":"c","object":"chat.completion.chunk","choices":[{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]}}"#
        ))
    }

    /// Sends `[DONE]`.
    pub fn done(&self) -> &Self {
        self.data("[DONE]")
    }

    /// Sends a body that is one JSON document.
    pub fn document(&self, json: &str) -> &Self {
        self.step(Step::Document(json.as_bytes().to_vec()))
    }

    /// Ends the body.
    pub fn end(&self, end: BodyEnd) -> &Self {
        self.step(Step::End(end))
    }

    /// Fails the body with a decode error.
    pub fn fail(&self, error: ApiError) -> &Self {
        self.step(Step::Fail(error))
    }

    /// Panics in the next read.
    pub fn panic(&self) -> &Self {
        self.step(Step::Panic)
    }

    /// Whether the request was cancelled or its stream dropped.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.script.lock().gone
    }

    /// Waits until [`Call::is_gone`].
    pub async fn gone(&self) {
        loop {
            let gone = self.0.gone.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if self.is_gone() {
                return;
            }
            gone.await;
        }
    }

    fn open(&self, opening: ResponseHead) {
        let waker = {
            let mut script = self.0.script.lock();
            script.opening = Some(opening);
            script.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    fn step(&self, step: Step) -> &Self {
        let waker = {
            let mut script = self.0.script.lock();
            script.steps.push_back(step);
            script.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
        self
    }
}

/// The gateway's end of a call. Dropping it is a disconnect.
#[derive(Debug)]
struct CallGuard(Call);

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.0.script.lock().gone = true;
        self.0.0.gone.notify_waiters();
    }
}

struct Connecting {
    guard: Option<CallGuard>,
}

impl Future for Connecting {
    type Output = Result<UpstreamResponse, OpenError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let opening = {
            let guard = self.guard.as_ref().expect("polled after it was ready");
            let mut script = guard.0.0.script.lock();
            let Some(opening) = script.opening.take() else {
                script.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            opening
        };
        match opening {
            ResponseHead::Answer(head) => {
                let guard = self.guard.take().expect("checked above");
                Poll::Ready(Ok(UpstreamResponse {
                    head,
                    stream: Box::new(Body {
                        guard,
                        decoder: SseDecoder::new(EVENT_LIMIT),
                        ended: None,
                    }),
                }))
            }
            ResponseHead::Error(error) => Poll::Ready(Err(error)),
            ResponseHead::Panic => panic!("the script says that opening panics"),
        }
    }
}

struct Body {
    guard: CallGuard,
    decoder: SseDecoder,
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
        let step = {
            let mut script = self.guard.0.0.script.lock();
            let Some(step) = script.steps.pop_front() else {
                script.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            step
        };
        let too_large = |_| {
            StreamStep::Failed(ApiError::new(
                ErrorCode::UpstreamEventTooLarge,
                "The scripted event is too large.",
            ))
        };
        Poll::Ready(match step {
            Step::Bytes(bytes) => self
                .decoder
                .push(&bytes, sink)
                .map_or_else(too_large, |_| StreamStep::Read),
            Step::Document(json) => {
                sink(SseEvent::Data {
                    name: None,
                    data: &json,
                    terminated: true,
                });
                StreamStep::Read
            }
            Step::End(end) => {
                self.ended = Some(end);
                let finished = if end == BodyEnd::Clean {
                    self.decoder.finish(sink).map(|_| ())
                } else {
                    Ok(())
                };
                finished.map_or_else(too_large, |()| StreamStep::Ended(end))
            }
            Step::Fail(error) => StreamStep::Failed(error),
            Step::Panic => panic!("the script says that reading panics"),
        })
    }

    fn buffered(&self) -> usize {
        self.decoder.memory_size()
    }
}
