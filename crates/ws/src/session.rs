//! One socket's lanes and readers, shared by the task that hears the client and the body that
//! speaks to it.
//!
//! Everything in it is bounded: readers and waiting creates by the options, replies by
//! [`MAX_REPLIES`] (a client that asks without reading the answers is closed).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use secrecy::SecretString;
use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::{Engine, Freshness, Registry, Resumption, StartRequest};
use tokenwire_core::generation::Subscription;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::gauge::{Gauge, GaugeGuard};
use tokenwire_core::model::id::{GenerationId, Owner};
use tokenwire_core::request::{ResponsesRequest, StreamRequest};

use crate::framing::{StreamId, TextFrames, put_text};
use crate::message::{self, Command, Named, Rejected, Resume};

/// The most bytes of replies that wait for a client to read.
const MAX_REPLIES: usize = 1024 * 1024;
/// The most that one poll of the body gives, give or take what one reader has.
const POLL_BYTES: usize = 64 * 1024;

/// Bounds and identity of one socket.
#[derive(Clone, Debug)]
pub(crate) struct HubOptions {
    pub(crate) owner: Owner,
    pub(crate) max_lanes: usize,
    pub(crate) max_queued: usize,
    /// Request headers that go to the upstream.
    pub(crate) headers: Vec<(String, String)>,
    /// The client's own key, for upstreams that take it.
    pub(crate) client_key: Option<SecretString>,
    /// Counts the readers.
    pub(crate) readers: Gauge,
}

/// Why a socket ends from our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HubEnd {
    /// The client does not read its replies.
    TooSlow,
}

pub(crate) struct SocketSession {
    engine: Engine,
    options: HubOptions,
    replies: BytesMut,
    readers: Vec<Reader>,
    lanes: HashMap<LaneKey, Lane>,
    queued: usize,
    /// The reader whose turn is next: a busy lane must not starve the others.
    turn: usize,
    body: Option<Waker>,
    pub(crate) end: Option<HubEnd>,
}

#[derive(Default)]
struct Lane {
    running: Option<GenerationId>,
    waiting: VecDeque<ResponsesRequest>,
}

/// A lane's key: its name, or none for the socket's own lane.
type LaneKey = Option<StreamId>;

struct Reader {
    subscription: Subscription,
    /// The lane whose turn ends with this reader's generation; none for a reader that resumed.
    lane: Option<LaneKey>,
    _present: GaugeGuard,
}

impl SocketSession {
    pub(crate) fn new(engine: Engine, options: HubOptions) -> Self {
        Self {
            engine,
            options,
            replies: BytesMut::new(),
            readers: Vec::new(),
            lanes: HashMap::new(),
            queued: 0,
            turn: 0,
            body: None,
            end: None,
        }
    }

    /// The registry behind the engine.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.engine.registry().clone()
    }

    /// Whether nothing runs, waits or is left to be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.readers.is_empty() && self.queued == 0 && self.replies.is_empty()
    }

    /// Takes one message of the client's.
    pub(crate) fn on_message(&mut self, text: &str) {
        match Command::parse(text) {
            Ok(Command::Create) => self.create(text),
            Ok(Command::Resume(resume)) => self.resume(resume),
            Ok(Command::Cancel(named)) => self.on_generation(&named, |socket, id| {
                socket.engine.find(id, &socket.options.owner)?.cancel();
                Ok(())
            }),
            Ok(Command::Unsubscribe(named)) => self.on_generation(&named, Self::unsubscribe),
            Ok(Command::Ping) => self.reply(message::PONG, None),
            Err(rejected) => {
                let Rejected {
                    error,
                    ours,
                    response_id,
                    stream_id,
                } = *rejected;
                let reply = if ours {
                    message::command_error(response_id.as_deref(), &error)
                } else {
                    message::error(&error)
                };
                self.reply(&reply, stream_id.as_deref());
            }
        }
        self.wake();
    }

    /// Wakes the body: there is something to send, or to do.
    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.body.take() {
            waker.wake();
        }
    }

    fn reply(&mut self, json: &[u8], stream_id: Option<&str>) {
        if self.replies.len() + json.len() > MAX_REPLIES {
            self.end = Some(HubEnd::TooSlow);
            return;
        }
        put_text(json, stream_id, &mut self.replies);
    }

    fn create(&mut self, text: &str) {
        let request = match ResponsesRequest::parse(text.as_bytes()) {
            Ok(request) => request,
            Err(error) => {
                let lane = match serde_json::from_str::<serde_json::Value>(text) {
                    Ok(value) => value
                        .get("stream_id")
                        .and_then(|id| id.as_str())
                        .map(str::to_owned),
                    Err(_) => None,
                };
                return self.reply(
                    &message::error(&error),
                    lane.filter(|id| message::is_stream_id(id)).as_deref(),
                );
            }
        };
        let name: Option<StreamId> = request.stream_id().map(Into::into);
        let busy = self
            .lanes
            .get(&name)
            .is_some_and(|lane| lane.running.is_some());
        if !busy {
            let running = self
                .lanes
                .values()
                .filter(|lane| lane.running.is_some())
                .count();
            if running >= self.options.max_lanes {
                return self.limit_reached(
                    name.as_deref(),
                    &format!("This socket runs {running} lanes, as many as it may."),
                );
            }
            return self.start(name, request);
        }
        if self.queued >= self.options.max_queued {
            return self.limit_reached(
                name.as_deref(),
                &format!(
                    "{} responses wait on this socket, as many as may.",
                    self.queued
                ),
            );
        }
        self.queued += 1;
        self.lanes
            .entry(name)
            .or_default()
            .waiting
            .push_back(request);
    }

    fn limit_reached(&mut self, lane: Option<&str>, text: &str) {
        let error = ApiError::new(ErrorCode::WebsocketStreamLimitReached, text);
        self.reply(&message::error(&error), lane);
    }

    fn start(&mut self, name: Option<StreamId>, request: ResponsesRequest) {
        let start = StartRequest {
            owner: self.options.owner.clone(),
            idempotency_key: request.idempotency_key(),
            route: "/v1/responses",
            fingerprint: request.fingerprint(),
            headers: self.options.headers.clone(),
            client_key: self.options.client_key.clone(),
            // A browser says `no-cache` on every upgrade; a message has no headers.
            freshness: Freshness::Any,
            body: StreamRequest::Responses(request),
        };
        match self.engine.start(start) {
            Ok(started) => {
                let id = started.guard.generation().meta().id.clone();
                // An idempotent repetition on this very socket moves the reader to its new lane;
                // the old one is free.
                let moved = self.take_reader(&id).flatten();
                self.lanes.entry(name.clone()).or_default().running = Some(id);
                self.read(
                    Subscription::new(
                        started.guard,
                        tokenwire_core::model::id::Seq(0),
                        Dialect::Responses,
                        framing(name.as_ref()),
                    ),
                    Some(name),
                );
                self.free(moved);
            }
            Err(error) => self.reply(&message::error(&error), name.as_deref()),
        }
    }

    fn read(&mut self, subscription: Subscription, lane: Option<LaneKey>) {
        self.readers.push(Reader {
            subscription,
            lane,
            _present: self.options.readers.enter(),
        });
    }

    fn resume(&mut self, resume: Resume) {
        let Resume {
            response_id,
            starting_after,
            stream_id,
        } = resume;
        if let Err(error) = self.try_resume(
            &response_id,
            starting_after,
            stream_id.as_deref().map(Into::into),
        ) {
            let reply = message::command_error(Some(&response_id), &error);
            self.reply(&reply, stream_id.as_deref());
        }
    }

    fn try_resume(
        &mut self,
        response_id: &str,
        after: Option<u64>,
        name: Option<StreamId>,
    ) -> Result<(), ApiError> {
        let id = self.parse_id(response_id)?;
        let generation = self.engine.find(&id, &self.options.owner)?;
        // Between the reader that goes and the one that comes the generation must not be without
        // any.
        let _present = generation.attach();
        // A second resume repositions: the first reader goes, but keeps the lane's turn.
        let lane = self.take_reader(&id);
        if lane.is_none() && self.readers.len() >= self.options.max_lanes {
            let error = ApiError::new(
                ErrorCode::WebsocketStreamLimitReached,
                format!(
                    "This socket reads {} streams, as many as it may.",
                    self.readers.len()
                ),
            );
            return Err(error);
        }
        let head = generation
            .tail()
            .ok()
            .map(|tail| tail.next.0.saturating_sub(1));
        let status = generation.status().as_str();
        match self.engine.resume(&generation, after) {
            Resumption::Read { guard, from } => {
                self.reply(
                    &message::resumed(response_id, from.0, head, status),
                    name.as_deref(),
                );
                self.read(
                    Subscription::new(guard, from, Dialect::Responses, framing(name.as_ref())),
                    lane.flatten(),
                );
            }
            Resumption::NothingLeft => {
                let from = after.map_or(0, |after| after.saturating_add(1));
                self.reply(
                    &message::resumed(response_id, from, head, status),
                    name.as_deref(),
                );
                self.free(lane.flatten());
            }
            Resumption::LogGone => {
                let (_, reset) = generation.reset_event();
                self.reply(&reset, name.as_deref());
                self.free(lane.flatten());
            }
            Resumption::PastHead { .. } => {
                let guard = generation.attach();
                let (head, reset) = generation.reset_event();
                self.reply(&reset, name.as_deref());
                self.read(
                    Subscription::new(
                        guard,
                        head.next(),
                        Dialect::Responses,
                        framing(name.as_ref()),
                    ),
                    lane.flatten(),
                );
            }
        }
        Ok(())
    }

    fn on_generation(
        &mut self,
        named: &Named,
        act: impl FnOnce(&mut Self, &GenerationId) -> Result<(), ApiError>,
    ) {
        let result = self
            .parse_id(&named.response_id)
            .and_then(|id| act(self, &id));
        if let Err(error) = result {
            self.reply(
                &message::command_error(Some(&named.response_id), &error),
                None,
            );
        }
    }

    fn unsubscribe(&mut self, id: &GenerationId) -> Result<(), ApiError> {
        match self.take_reader(id) {
            Some(lane) => {
                self.free(lane);
                Ok(())
            }
            None => Err(ApiError::new(
                ErrorCode::NotFound,
                format!("This socket does not read '{id}'."),
            )),
        }
    }

    fn parse_id(&self, text: &str) -> Result<GenerationId, ApiError> {
        text.parse().map_err(|_| {
            ApiError::new(
                ErrorCode::NotFound,
                "Response not found: the id is not one of the gateway's.".to_owned(),
            )
            .param("response_id")
        })
    }

    /// Takes the reader of this generation away, with the lane that waits for its end.
    fn take_reader(&mut self, id: &GenerationId) -> Option<Option<LaneKey>> {
        let at = self
            .readers
            .iter()
            .position(|reader| reader.subscription.generation().meta().id == *id)?;
        Some(self.readers.remove(at).lane)
    }

    /// A lane's generation is over or not read any more: the next create takes its turn.
    fn free(&mut self, lane: Option<LaneKey>) {
        let Some(name) = lane else { return };
        let Some(lane) = self.lanes.get_mut(&name) else {
            return;
        };
        lane.running = None;
        match lane.waiting.pop_front() {
            Some(request) => {
                self.queued -= 1;
                self.start(name.clone(), request);
                // One that could not be started must not hold up those behind it.
                if self
                    .lanes
                    .get(&name)
                    .is_some_and(|lane| lane.running.is_none())
                {
                    self.free(Some(name));
                }
            }
            None => drop(self.lanes.remove(&name)),
        }
    }

    /// Everything that is ready to be sent, as frames.
    pub(crate) fn poll_frames(&mut self, cx: &mut Context<'_>) -> Bytes {
        if !self
            .body
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            self.body = Some(cx.waker().clone());
        }
        let mut out = Frames::default();
        loop {
            out.push(self.take_replies());
            let over = self.poll_readers(cx, &mut out);
            let full = out.len() >= POLL_BYTES;
            if full {
                // There may be more: the body asks again as soon as this much is written.
                cx.waker().wake_by_ref();
            }
            let more = !over.is_empty();
            over.into_iter().for_each(|lane| self.free(lane));
            // A lane that ended may have started the next create, whose first event is ready at
            // once.
            if full || !more {
                out.push(self.take_replies());
                return out.into_bytes();
            }
        }
    }

    /// The replies that wait. To split an empty buffer costs an allocation.
    fn take_replies(&mut self) -> Bytes {
        if self.replies.is_empty() {
            Bytes::new()
        } else {
            self.replies.split().freeze()
        }
    }

    /// Gives the lanes of the readers that came to their end.
    fn poll_readers(&mut self, cx: &mut Context<'_>, out: &mut Frames) -> Vec<Option<LaneKey>> {
        let mut over = Vec::new();
        let mut left = self.readers.len();
        while left > 0 && out.len() < POLL_BYTES {
            left -= 1;
            if self.turn >= self.readers.len() {
                self.turn = 0;
            }
            let Some(reader) = self.readers.get_mut(self.turn) else {
                break;
            };
            match reader.subscription.poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    out.push(bytes);
                    // A body that gave something is asked again, and so is this reader then: only
                    // Pending registers its waker.
                    self.turn += 1;
                }
                Poll::Ready(Some(Err(error))) => {
                    let id = reader.subscription.generation().meta().id.clone();
                    let gone = ApiError::new(
                        ErrorCode::PositionGone,
                        format!("The stream cannot be read any further: {error}."),
                    );
                    let reply = message::command_error(Some(id.as_str()), &gone);
                    over.push(self.readers.remove(self.turn).lane);
                    let mut framed = BytesMut::new();
                    put_text(&reply, None, &mut framed);
                    out.push(framed.freeze());
                }
                Poll::Ready(None) => over.push(self.readers.remove(self.turn).lane),
                Poll::Pending => self.turn += 1,
            }
        }
        over
    }
}

/// Frames on their way out. One piece, which is the usual case, goes on as it is.
#[derive(Default)]
struct Frames {
    first: Bytes,
    more: BytesMut,
}

impl Frames {
    fn len(&self) -> usize {
        self.first.len() + self.more.len()
    }

    fn push(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
        } else {
            self.more.extend_from_slice(&bytes);
        }
    }

    fn into_bytes(self) -> Bytes {
        if self.more.is_empty() {
            return self.first;
        }
        let mut all = BytesMut::with_capacity(self.len());
        all.extend_from_slice(&self.first);
        all.extend_from_slice(&self.more);
        all.freeze()
    }
}

fn framing(name: Option<&StreamId>) -> Arc<TextFrames> {
    Arc::new(TextFrames {
        stream_id: name.cloned(),
    })
}
