//! A generation's hold on an answer that its upstream goes on with although no connection reads it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, Failure};
use crate::model::id::GenerationId;
use crate::upstream::decode::Flow;
use crate::upstream::translate::{RecordWriter, Translator};
use crate::upstream::{
    AnswerOrigin, AttachRequest, Attachment, SecretString, StreamStep, TokenStream, Upstream,
    UpstreamResponse, may_come_back,
};

/// The pause after a first attempt that failed. It doubles with each further one.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an upstream has for the head of its answer.
const HEAD: Duration = Duration::from_secs(15);
/// How often an answer is read again without anything new in between.
const FRUITLESS: u32 = 4;
/// How long an upstream has to name an answer that is to be cancelled.
const NAME: Duration = Duration::from_secs(10);
/// How often an upstream is asked to cancel.
const CANCELS: u32 = 3;

/// Asks the upstream of one generation for its answer again, and ends it there.
pub(super) struct Reattachment {
    upstream: Arc<dyn Upstream>,
    origin: AnswerOrigin,
    client_key: Option<SecretString>,
    first_token_timeout: Duration,
    /// When the upstream was asked, or the log was taken over.
    since: Instant,
    /// Attempts since the last record.
    fruitless: u32,
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
            first_token_timeout,
            since: Instant::now(),
            fruitless: 0,
        }
    }

    /// What the upstream goes on with, if the stream that failed like this is worth another read.
    pub(super) fn attachment(&self, failure: &Failure) -> Option<Attachment> {
        if failure.code == ErrorCode::ProducerLost.as_str() || self.fruitless >= FRUITLESS {
            return None;
        }
        self.origin.attachment()
    }

    /// Notes that the answer has grown.
    pub(super) fn progressed(&mut self) {
        self.fruitless = 0;
    }

    fn request(&self, attachment: Attachment) -> AttachRequest {
        AttachRequest {
            attachment,
            client_key: self.client_key.clone(),
            after: None,
            first_token_timeout: self.first_token_timeout,
        }
    }

    /// Asks for the answer again, until the upstream gives it or says that it does not any more. Tries
    /// for as long as the answer can be asked for.
    ///
    /// # Errors
    /// [`ErrorCode::ProducerLost`].
    pub(super) async fn open(
        &mut self,
        id: &GenerationId,
        attachment: Attachment,
    ) -> Result<UpstreamResponse, ApiError> {
        self.fruitless += 1;
        let Some(window) = self.upstream.reattach_window(&attachment.upstream) else {
            return Err(lost("The upstream of this answer is not there any more."));
        };
        let request = self.request(attachment);
        let mut pause = PAUSE;
        loop {
            let opened = timeout(HEAD, self.upstream.attach(request.clone())).await;
            match opened {
                Ok(Ok(opened)) => {
                    tracing::info!(generation = %id, upstream = %request.attachment.upstream, "the answer is read from its upstream again");
                    return Ok(opened);
                }
                Ok(Err(error)) if !may_come_back(&error) => {
                    return Err(lost(
                        "The connection was lost, and the upstream does not give the answer again.",
                    ));
                }
                Ok(Err(_)) | Err(_) => {}
            }
            if self.since.elapsed() + pause >= window {
                return Err(lost(
                    "The connection was lost, and the upstream did not come back in time.",
                ));
            }
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether the upstream goes on with an answer whose id is not known.
    pub(super) fn is_unnamed(&self) -> bool {
        self.origin.is_unnamed()
    }

    /// Whether the upstream may go on with the answer.
    pub(super) fn is_running(&self) -> bool {
        self.origin.attachment().is_some() || self.origin.is_unnamed()
    }

    /// Ends the answer at the upstream. `stream` is read on if the answer's id is not known yet.
    pub(super) async fn cancel(
        self,
        id: GenerationId,
        stream: Option<(Box<dyn TokenStream>, Translator)>,
    ) {
        if let Some((stream, translator)) = stream
            && self.origin.is_unnamed()
        {
            let named = self.until_named(stream, translator);
            let _ = timeout(NAME, named).await;
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

    /// Reads a stream until the answer's id is known.
    async fn until_named(&self, mut stream: Box<dyn TokenStream>, mut translator: Translator) {
        let mut nowhere = RecordWriter::new();
        std::future::poll_fn(|cx| {
            loop {
                if !self.origin.is_unnamed() {
                    return std::task::Poll::Ready(());
                }
                let step = stream.poll_events(cx, &mut |event| {
                    let _ = translator.event(event, &mut nowhere);
                    if self.origin.is_unnamed() {
                        Flow::Continue
                    } else {
                        Flow::Stop
                    }
                });
                match step {
                    std::task::Poll::Ready(StreamStep::Read) => {}
                    std::task::Poll::Ready(_) => return std::task::Poll::Ready(()),
                    std::task::Poll::Pending => return std::task::Poll::Pending,
                }
            }
        })
        .await;
    }
}

fn lost(message: &str) -> ApiError {
    ApiError::new(ErrorCode::ProducerLost, message)
}

/// Returns the ending of an answer that cannot be read again.
pub(super) fn ending(error: &ApiError) -> Ending {
    Ending::Failed(Failure::from(error))
}
