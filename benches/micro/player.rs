//! An upstream without a socket, whose reads are scripted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::decode::{Flow, SseDecoder, SseEvent};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_core::upstream::{
    OpenError, SecretString, StreamStep, Target, Timeouts, TokenStream, Upstream, UpstreamHead,
    UpstreamRequest, UpstreamResponse,
};

/// The reads that are left. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Player(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    pieces: VecDeque<Vec<u8>>,
    ended: bool,
    waker: Option<Waker>,
}

impl Player {
    /// Adds one read of the body.
    pub(crate) fn push(&self, piece: impl Into<Vec<u8>>) {
        let mut script = self.script();
        script.pieces.push_back(piece.into());
        if let Some(waker) = script.waker.take() {
            waker.wake();
        }
    }

    /// Ends the body.
    pub(crate) fn end(&self) {
        self.script().ended = true;
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream for Player {
    fn route(
        &self,
        model: Option<&str>,
        _client_key: Option<&SecretString>,
    ) -> Result<Target, ApiError> {
        let model = model.unwrap_or("model").to_owned();
        // The gateway's defaults. The clock is paused while the benchmark runs.
        let timeouts = Timeouts {
            connect: Duration::from_secs(10),
            first_token: Duration::from_secs(300),
            between_tokens: Duration::from_secs(120),
            total: Duration::from_secs(3600),
        };
        Ok(Target {
            model,
            upstream_model: None,
            api: Api::Chat,
            timeouts,
            endpoint: 0,
            queued: false,
            reservation: Default::default(),
        })
    }

    fn open(
        &self,
        _request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        let stream = Box::new(Playing {
            player: self.clone(),
            decoder: SseDecoder::new(1 << 20),
        });
        std::future::ready(Ok(UpstreamResponse {
            head: UpstreamHead::default(),
            stream,
        }))
        .boxed()
    }
}

struct Playing {
    player: Player,
    decoder: SseDecoder,
}

impl TokenStream for Playing {
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        let mut script = self.player.script();
        let Some(piece) = script.pieces.pop_front() else {
            if script.ended {
                return Poll::Ready(StreamStep::Ended(BodyEnd::Clean));
            }
            script.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        drop(script);
        Poll::Ready(match self.decoder.push(&piece, sink) {
            Ok(_) => StreamStep::Read,
            Err(_) => StreamStep::Ended(BodyEnd::Broken),
        })
    }
}
