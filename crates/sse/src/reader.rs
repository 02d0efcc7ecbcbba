//! From a request to a stream: the resume table in the framings of SSE.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderName;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bytes::BytesMut;
use tokenwire_core::dialect::{Dialect, Frame, Framing};
use tokenwire_core::engine::{
    Cursor, Engine, LOST_SEQ, LostStream, Place, ReaderKind, Resumption, StartRequest,
};
use tokenwire_core::generation::{Generation, ReaderGuard, Subscription};
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::gauge::Gauge;
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::include::Include;

use crate::body::{HeartbeatKind, SseBody, SseOptions};
use crate::framing::{Bare, EventSource, Sdk};
use crate::response::{event_stream, plain_text};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// First line of the first block: how long an EventSource waits before it reconnects.
const RETRY: &[u8] = b"retry: 2000\n";

/// Which framing a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SseFraming {
    /// [`EventSource`]
    EventSource,
    /// [`Sdk`]
    Sdk,
    /// [`Bare`], as `text/plain`
    Bare,
}

/// How a client reads.
#[derive(Clone, Debug)]
pub struct SseReader {
    /// The JSON of its events.
    pub dialect: Dialect,
    /// What goes around them.
    pub framing: SseFraming,
    /// A heartbeat is sent after this long a silence. Bare text has none.
    pub heartbeat: Option<Duration>,
    /// What a heartbeat looks like.
    pub heartbeat_kind: HeartbeatKind,
    /// Counts the open bodies.
    pub readers: Gauge,
    /// What the client's request asks to be shown. [`start`] reads it from the body.
    pub include: Include,
}

impl SseReader {
    /// An EventSource that reads Open Responses events, with a heartbeat every 15 s.
    #[must_use]
    pub fn event_source() -> Self {
        Self {
            dialect: Dialect::Responses,
            framing: SseFraming::EventSource,
            heartbeat: Some(Duration::from_secs(15)),
            heartbeat_kind: HeartbeatKind::Comment,
            readers: Gauge::default(),
            include: Include::default(),
        }
    }

    /// The same reader, for a request that asks for this.
    #[must_use]
    pub fn including(&self, include: Include) -> Self {
        Self {
            include,
            ..self.clone()
        }
    }

    /// Its column of the resume table.
    #[must_use]
    pub fn kind(&self) -> ReaderKind {
        match self.framing {
            SseFraming::EventSource => ReaderKind::EventSource,
            SseFraming::Sdk | SseFraming::Bare => ReaderKind::Sdk,
        }
    }

    /// A body with this preface and the events from `from` on, if there are any.
    fn body(
        &self,
        subscription: Option<Subscription>,
        preface: Vec<u8>,
        engine: &Engine,
    ) -> SseBody {
        let options = SseOptions {
            heartbeat: self.heartbeat.filter(|_| self.framing != SseFraming::Bare),
            heartbeat_kind: self.heartbeat_kind,
            preface: preface.into(),
            // The SDKs raise on an error in the stream, and take a cut for a lost connection.
            shows_expiry: self.framing == SseFraming::Sdk,
            readers: self.readers.clone(),
            // The SDKs take a body that ends early for a complete one.
            drain: (self.framing == SseFraming::EventSource).then(|| engine.registry().clone()),
        };
        SseBody::new(subscription, options)
    }

    fn subscription(&self, guard: ReaderGuard, from: Seq) -> Subscription {
        let framing: Arc<dyn Framing> = match self.framing {
            SseFraming::EventSource => Arc::new(EventSource),
            SseFraming::Sdk => Arc::new(Sdk),
            SseFraming::Bare => Arc::new(Bare),
        };
        Subscription::new(guard, from, self.dialect, framing).including(self.include)
    }

    fn respond(&self, mut response: HttpResponseBuilder, body: SseBody) -> HttpResponse {
        match self.framing {
            SseFraming::Bare => plain_text(&mut response, body),
            SseFraming::EventSource | SseFraming::Sdk => event_stream(&mut response, body),
        }
    }

    /// What goes before the events from `from` on.
    fn preface(&self, generation: &Generation, from: Seq) -> Vec<u8> {
        match (self.framing, self.dialect) {
            // `response.created` has no chunk in the chat dialect. Its id is sent on its own, so
            // that an EventSource that is cut before the first chunk comes back to this stream
            // instead of starting another.
            (SseFraming::EventSource, Dialect::Chat) if from == Seq(0) => [
                RETRY,
                format!("id: {}.0\n\n", generation.meta().id).as_bytes(),
            ]
            .concat(),
            (SseFraming::EventSource, _) => RETRY.to_vec(),
            (SseFraming::Sdk | SseFraming::Bare, _) => Vec::new(),
        }
    }
}

/// Returns the cursor of `Last-Event-ID`, if the request has one. An EventSource that has seen
/// nothing sends an empty one, which counts as none. Two that differ are a malformed one.
///
/// # Errors
/// [`ErrorCode::InvalidCursor`](tokenwire_core::model::error::ErrorCode::InvalidCursor).
pub fn last_event_id(request: &HttpRequest) -> Result<Option<Cursor>, ApiError> {
    let values = request.headers().get_all(LAST_EVENT_ID);
    // Bytes that are not ASCII stay a malformed id: the request must not start a generation.
    let mut ids: Vec<_> = values
        .map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
        .filter(|id| !id.is_empty())
        .collect();
    ids.dedup();
    match ids.join(", ").as_str() {
        "" => Ok(None),
        text => Cursor::from_event_id(text).map(Some),
    }
}

/// Answers a request that carries `Last-Event-ID`; `None` if it carries none. Such a request never
/// starts a generation.
///
/// # Errors
/// The errors of the [resume table](tokenwire_core::engine::resume), or a malformed id.
pub async fn resume(
    request: &HttpRequest,
    engine: &Engine,
    owner: &Owner,
    reader: &SseReader,
) -> Result<Option<HttpResponse>, ApiError> {
    match last_event_id(request)? {
        Some(cursor) => resume_at(engine, owner, &cursor, reader).await.map(Some),
        None => Ok(None),
    }
}

/// Answers a reader that comes back at this cursor.
///
/// # Errors
/// The errors of the [resume table](tokenwire_core::engine::resume).
pub async fn resume_at(
    engine: &Engine,
    owner: &Owner,
    cursor: &Cursor,
    reader: &SseReader,
) -> Result<HttpResponse, ApiError> {
    let resumption = engine.resume(cursor, owner, reader.kind()).await?;
    Ok(respond(HttpResponse::Ok(), engine, resumption, reader))
}

/// Answers a request that carries `Last-Event-ID`, or starts a generation: [`resume`] and [`start`].
///
/// # Errors
/// As [`resume`] and [`start`].
pub async fn resume_or_start(
    request: &HttpRequest,
    engine: &Engine,
    start_request: StartRequest,
    reader: &SseReader,
) -> Result<HttpResponse, ApiError> {
    match resume(request, engine, &start_request.owner, reader).await? {
        Some(response) => Ok(response),
        None => start(engine, start_request, reader).await,
    }
}

/// Answers a HEAD at this cursor: the head of [`resume_at`] without a body. It counts no reader.
///
/// # Errors
/// The errors of the [resume table](tokenwire_core::engine::resume).
pub async fn head_at(
    engine: &Engine,
    owner: &Owner,
    cursor: &Cursor,
    reader: &SseReader,
) -> Result<HttpResponse, ApiError> {
    let place = engine.peek(cursor, owner, reader.kind()).await?;
    if place == Place::NothingLeft && reader.framing == SseFraming::EventSource {
        return Ok(HttpResponse::NoContent().finish());
    }
    let body = SseBody::new(None, SseOptions::default());
    Ok(reader.respond(HttpResponse::Ok(), body))
}

/// Starts a generation, or attaches to the one of the same idempotency key, and streams it. The
/// head leaves at once.
///
/// # Errors
/// As [`Engine::start`], and the errors of the [resume table](tokenwire_core::engine::resume) for a
/// repeated key.
pub async fn start(
    engine: &Engine,
    request: StartRequest,
    reader: &SseReader,
) -> Result<HttpResponse, ApiError> {
    let started = engine.start(request).await?;
    let reader = reader.including(started.include);
    read(HttpResponse::Ok(), engine, started.guard, &reader)
}

/// Streams a generation from its first event, in a response with these headers.
///
/// # Errors
/// The errors of the [resume table](tokenwire_core::engine::resume).
pub fn read(
    response: HttpResponseBuilder,
    engine: &Engine,
    guard: ReaderGuard,
    reader: &SseReader,
) -> Result<HttpResponse, ApiError> {
    let resumption = engine.read(guard, None, reader.kind())?;
    Ok(respond(response, engine, resumption, reader))
}

/// A stream that holds nothing but `retry:`. An EventSource gives up for good on any status but
/// 200, so this is how it is told to come back later.
#[must_use]
pub fn come_back(after: Duration) -> HttpResponse {
    let options = SseOptions {
        preface: format!("retry: {}\n\n", after.as_millis()).into(),
        ..SseOptions::default()
    };
    event_stream(&mut HttpResponse::Ok(), SseBody::new(None, options))
}

/// One cell of the table as a response.
fn respond(
    mut response: HttpResponseBuilder,
    engine: &Engine,
    resumption: Resumption,
    reader: &SseReader,
) -> HttpResponse {
    match resumption {
        Resumption::Read { guard, from } => {
            let preface = reader.preface(guard.generation(), from);
            let subscription = reader.subscription(guard, from);
            reader.respond(response, reader.body(Some(subscription), preface, engine))
        }
        Resumption::NothingLeft { .. } => match reader.framing {
            // The only answer that an EventSource takes as the end.
            SseFraming::EventSource => response.status(StatusCode::NO_CONTENT).finish(),
            SseFraming::Sdk => {
                let body = reader.body(None, b"data: [DONE]\n\n".to_vec(), engine);
                reader.respond(response, body)
            }
            SseFraming::Bare => reader.respond(response, reader.body(None, Vec::new(), engine)),
        },
        Resumption::Reset { generation } => {
            let body = reader.body(None, RETRY.to_vec(), engine);
            let frame = generation.reset_frame(&EventSource, reader.include);
            reader.respond(response, body.followed_by(frame))
        }
        Resumption::Lost(LostStream { id, event, error }) => {
            // A chat client learns of a failure by the error alone.
            let event = match reader.dialect {
                Dialect::Chat => error.body().into_bytes(),
                Dialect::Responses | Dialect::Text => event,
            };
            let frame = last_frame(&id, &event);
            reader.respond(response, reader.body(None, frame, engine))
        }
    }
}

/// The stream of a lost node: one event.
fn last_frame(id: &GenerationId, event: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::from(RETRY);
    let frame = Frame::unnamed(LOST_SEQ, event);
    EventSource.frame(id, &frame, &mut out);
    out.to_vec()
}
