//! A generation's hold on an answer that its upstream goes on with although no connection reads it.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

use super::Generation;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::Failure;
use crate::model::id::GenerationId;
use crate::model::random::random_part;
use crate::upstream::decode::Flow;
use crate::upstream::translate::{RecordWriter, Translator};
use crate::upstream::{
    AnswerOrigin, Asked, AttachRequest, Attachment, OpenError, SecretString, StreamStep,
    TokenStream, Upstream, UpstreamRequest, UpstreamResponse, lasting_headers, may_come_back,
};

/// The pause after a first attempt that failed, or that gave nothing new. It doubles with each further
/// one.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an upstream has for the head of its answer.
const HEAD: Duration = Duration::from_secs(15);
/// How long an upstream has to name an answer that is to be cancelled.
const NAME: Duration = Duration::from_secs(10);
/// How often an upstream is asked to cancel.
const CANCELS: u32 = 3;

/// Asks the upstream of one generation for its answer again, and ends it there.
pub(super) struct Reattachment {
    upstream: Arc<dyn Upstream>,
    origin: AnswerOrigin,
    client_key: Option<SecretString>,
    headers: Arc<[(String, String)]>,
    first_token_timeout: Duration,
    /// When the upstream was asked, or the log was taken over.
    since: Instant,
    /// Openings since the last delta.
    fruitless: u32,
    /// When the last delta was known, no earlier than `since`.
    progressed: Instant,
    /// The deltas of the log at the last opening.
    deltas: Option<u64>,
    /// Counts the requests that were sent.
    asked: Asked,
    /// The request, if it was given up before the upstream named its answer.
    left: Option<Left>,
}

/// A response that is being opened.
pub(super) type Opening = BoxFuture<'static, Result<UpstreamResponse, OpenError>>;

/// A request that was given up before the upstream named its answer.
enum Left {
    Opening(Opening, Box<Translator>),
    Open(Box<dyn TokenStream>, Box<Translator>),
}

impl Reattachment {
    pub(super) fn new(
        upstream: Arc<dyn Upstream>,
        origin: AnswerOrigin,
        client_key: Option<SecretString>,
        first_token_timeout: Duration,
    ) -> Self {
        Self {
            upstream,
            origin,
            client_key,
            headers: Arc::default(),
            first_token_timeout,
            since: Instant::now(),
            fruitless: 0,
            progressed: Instant::now(),
            deltas: None,
            asked: Asked::default(),
            left: None,
        }
    }

    /// Who answers.
    pub(super) fn origin(&self) -> &AnswerOrigin {
        &self.origin
    }

    /// Counts the attempts of this request at an upstream that may go on without a connection, and
    /// keeps the headers by which that is asked again.
    pub(super) fn count_attempts(&mut self, request: &mut UpstreamRequest) {
        request.asked.count();
        self.asked = request.asked.clone();
        self.headers = lasting_headers(&request.headers);
    }

    /// Keeps a request whose answer has to be cancelled once it is named.
    pub(super) fn leave_opening(&mut self, opening: Opening, translator: Translator) {
        if self.asked.is_asked() {
            self.left = Some(Left::Opening(opening, Box::new(translator)));
        }
    }

    /// As [`Reattachment::leave_opening`], for a response that has begun.
    pub(super) fn leave_open(&mut self, stream: Box<dyn TokenStream>, translator: Translator) {
        if self.origin.is_unnamed() {
            self.left = Some(Left::Open(stream, Box::new(translator)));
        }
    }

    /// What the upstream goes on with, if the stream that failed like this is worth another read.
    pub(super) fn attachment(&self, failure: &Failure) -> Option<Attachment> {
        if failure.code == ErrorCode::ProducerLost.as_str() {
            return None;
        }
        self.origin.attachment()
    }

    /// Notes how far the answer has come: what has no delta is no progress. Returns the pause before
    /// the next opening.
    fn pause(&mut self, deltas: u64) -> Duration {
        if self.deltas.replace(deltas) != Some(deltas) {
            self.fruitless = 0;
            self.progressed = Instant::now();
        }
        let pause = match self.fruitless {
            0 => Duration::ZERO,
            before => PAUSE.saturating_mul(1 << (before - 1).min(10)),
        };
        self.fruitless = self.fruitless.saturating_add(1);
        pause.min(LONGEST_PAUSE)
    }

    fn request(&self, attachment: Attachment) -> AttachRequest {
        AttachRequest {
            attachment,
            client_key: self.client_key.clone(),
            headers: self.headers.clone(),
            after: None,
            first_token_timeout: self.first_token_timeout,
        }
    }

    /// Asks for the answer again, until the upstream gives it or says that it does not any more. Tries
    /// for as long as the answer can be asked for. An answer that has got no delta since it was asked
    /// for last is asked for after a pause, and for no longer than that.
    ///
    /// # Errors
    /// [`ErrorCode::ProducerLost`].
    pub(super) fn open(&mut self, generation: &Generation, attachment: Attachment) -> Opening {
        let pause = self.pause(generation.progress().1);
        let (upstream, since, progressed) = (self.upstream.clone(), self.since, self.progressed);
        let (id, request) = (generation.meta().id.clone(), self.request(attachment));
        async move {
            if !pause.is_zero() {
                let window = upstream.reattach_window(&request.attachment.upstream);
                if window.is_some_and(|window| progressed.elapsed() + pause >= window) {
                    let message =
                        "The connection was lost, and the upstream gives nothing new of the answer.";
                    return Err(OpenError::Failed(lost(message)));
                }
                sleep(random_part(pause)).await;
            }
            let opened = open(&*upstream, &id, request, since).await;
            opened.map_err(OpenError::Failed)
        }
        .boxed()
    }

    /// Whether the upstream may go on with the answer.
    pub(super) fn is_running(&self) -> bool {
        self.origin.attachment().is_some() || self.origin.is_unnamed() || self.left.is_some()
    }

    /// Ends the answer at the upstream. A request that was given up is read on until its answer is
    /// named.
    pub(super) async fn cancel(mut self: Box<Self>, id: GenerationId) {
        let (origin, left) = (self.origin.clone(), self.left.take());
        let left = match left {
            Some(Left::Open(stream, translator)) => Some((stream, translator)),
            Some(Left::Opening(opening, translator)) => match timeout(NAME, opening).await {
                Ok(Ok(opened)) => Some((opened.stream, translator)),
                Ok(Err(_)) | Err(_) => None,
            },
            None => None,
        };
        if let Some((stream, translator)) = left {
            let _ = timeout(NAME, until_named(&origin, stream, *translator)).await;
        }
        let Some(attachment) = self.origin.attachment() else {
            return;
        };
        let request = self.request(attachment);
        for attempt in 1..=CANCELS {
            match self.upstream.cancel(request.clone()).await {
                Ok(()) => return,
                Err(error) if attempt == CANCELS || !may_come_back(&error) => {
                    // One that has just ended cannot be cancelled.
                    tracing::info!(generation = %id, upstream = %request.attachment.upstream, code = ?error.to_api_error().code, "the upstream did not cancel an answer");
                    return;
                }
                Err(_) => sleep(PAUSE * attempt).await,
            }
        }
    }
}

/// Ends an answer at its upstream whose log has ended without it.
pub(crate) async fn cancel_held(
    upstream: Arc<dyn Upstream>,
    attachment: Attachment,
    id: GenerationId,
) {
    let origin = AnswerOrigin::attached(attachment);
    let held = Reattachment::new(upstream, origin, None, Duration::ZERO);
    Box::new(held).cancel(id).await;
}

/// Reads a stream until the answer's id is known.
async fn until_named(
    origin: &AnswerOrigin,
    mut stream: Box<dyn TokenStream>,
    mut translator: Translator,
) {
    let mut nowhere = RecordWriter::new();
    std::future::poll_fn(|cx| {
        loop {
            if !origin.is_unnamed() {
                return Poll::Ready(());
            }
            let step = stream.poll_events(cx, &mut |event| {
                let _ = translator.event(event, &mut nowhere);
                if origin.is_unnamed() {
                    Flow::Continue
                } else {
                    Flow::Stop
                }
            });
            match step {
                Poll::Ready(StreamStep::Read) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

/// Asks for an answer again, until the upstream gives it or says that it does not any more.
async fn open(
    upstream: &dyn Upstream,
    id: &GenerationId,
    request: AttachRequest,
    since: Instant,
) -> Result<UpstreamResponse, ApiError> {
    let name = &request.attachment.upstream;
    let Some(window) = upstream.reattach_window(name) else {
        return Err(lost("The upstream of this answer is not there any more."));
    };
    let mut pause = PAUSE;
    loop {
        let opened = timeout(HEAD, upstream.attach(request.clone())).await;
        match opened {
            Ok(Ok(opened)) => {
                tracing::info!(generation = %id, upstream = %name, "the answer is read from its upstream again");
                return Ok(opened);
            }
            Ok(Err(error)) if !may_come_back(&error) => {
                return Err(lost(
                    "The connection was lost, and the upstream does not give the answer again.",
                ));
            }
            Ok(Err(_)) | Err(_) => {}
        }
        if since.elapsed() + pause >= window {
            return Err(lost(
                "The connection was lost, and the upstream did not come back in time.",
            ));
        }
        sleep(random_part(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn lost(message: &str) -> ApiError {
    ApiError::new(ErrorCode::ProducerLost, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::generation::fixture::{generation, meta};
    use crate::model::snapshot::{Api, Meta};
    use crate::upstream::{Target, UpstreamHead};

    const WINDOW: Duration = Duration::from_secs(20);

    /// Gives the answer each time it is asked.
    #[derive(Debug, Default)]
    struct Giving(AtomicU32);

    impl Upstream for Giving {
        fn route(&self, _: Option<&str>, _: Option<&SecretString>) -> Result<Target, ApiError> {
            Err(lost("not routed"))
        }

        fn reattach_window(&self, _: &str) -> Option<Duration> {
            Some(WINDOW)
        }

        fn attach(
            &self,
            _: AttachRequest,
        ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let opened = UpstreamResponse {
                head: UpstreamHead::default(),
                stream: Box::new(Silent),
            };
            std::future::ready(Ok(opened)).boxed()
        }

        fn open(
            &self,
            _: UpstreamRequest,
        ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
            std::future::ready(Err(OpenError::Failed(lost("not opened")))).boxed()
        }
    }

    struct Silent;

    impl TokenStream for Silent {
        fn poll_events(
            &mut self,
            _: &mut std::task::Context<'_>,
            _: &mut dyn FnMut(crate::upstream::decode::SseEvent<'_>) -> Flow,
        ) -> Poll<StreamStep> {
            Poll::Pending
        }
    }

    fn held() -> Arc<Generation> {
        let meta = Meta {
            api: Api::Responses,
            background: true,
            store: true,
            ..meta()
        };
        generation(meta, Duration::ZERO)
    }

    #[tokio::test(start_paused = true)]
    async fn answer_without_anything_new_is_asked_for_with_pauses_until_its_window_has_passed() {
        let (upstream, generation) = (Arc::new(Giving::default()), held());
        let attachment = Attachment::new("held", "resp_1").unwrap();
        let origin = AnswerOrigin::attached(attachment.clone());
        let mut held = Reattachment::new(upstream.clone(), origin, None, Duration::ZERO);
        let asked = Instant::now();
        let error = loop {
            match held.open(&generation, attachment.clone()).await {
                Ok(_) => assert!(asked.elapsed() < WINDOW),
                Err(error) => break error.to_api_error(),
            }
        };
        assert!(error.is(ErrorCode::ProducerLost), "{error:?}");
        assert!(asked.elapsed() + LONGEST_PAUSE >= WINDOW);
        // Five pauses grow to the longest one, of which at least half is waited for.
        let times = upstream.0.load(Ordering::Relaxed);
        assert!((8..=26).contains(&times), "{times}");
    }
}
