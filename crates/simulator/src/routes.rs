//! The routes.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::background::{Background, Held, MakeOutline, Read};
use crate::body::{Answer, Broken};
use crate::chat;
use crate::conversation::{self, Conversation};
use crate::dice::Dice;
use crate::error::ApiError;
use crate::fault::{Fault, FaultKind};
use crate::occasion::{Examples, Occasion};
use crate::options::{Options, Pace};
use crate::plan::Plan;
use crate::player::{Player, Schedule};
use crate::responses::strict::check as check_items;
use crate::responses::{Events, Outline, other};
use crate::socket::Control;
use crate::stats::{Guard, Recorder, Route};
use crate::steering::Steering;
use crate::transcript::Transcript;
use crate::whole::{self, Whole};

/// The HTTP service of the simulator.
#[derive(Debug)]
pub(crate) struct Service {
    options: Options,
    examples: Examples,
    recorder: Arc<Recorder>,
    /// How often each `id=` has used a fault with `times=`.
    seen: Mutex<HashMap<String, u64>>,
    background: Background,
    /// Makes the ids of this run unique.
    run: u64,
    started: u64,
}

/// The two APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Chat,
    Responses,
}

/// Paths below `/v1/responses` that answer at once.
const INPUT_TOKENS: &str = "/v1/responses/input_tokens";
const COMPACT: &str = "/v1/responses/compact";
/// What the path of a response begins with.
const BELOW_RESPONSES: &str = "/v1/responses/";
/// How long a background response can be read, as at OpenAI.
const WINDOW: Duration = Duration::from_secs(5 * 60);

/// Time limit for receiving a request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// The most names that `times=` counts. The faults of further names always apply.
const NAMES: usize = 4096;

// === impl Service ===

impl Service {
    /// Creates the service of a simulator that listens on `address`.
    pub(crate) fn new(options: Options, address: SocketAddr, recorder: Arc<Recorder>) -> Self {
        let run = RandomState::new().hash_one(std::process::id());
        let examples = options
            .gateway
            .map_or(Examples::Simulator(address), Examples::Gateway);
        Self {
            options,
            examples,
            recorder,
            seen: Mutex::default(),
            background: Background::default(),
            run,
            started: seconds_since_1970(),
        }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Answers one request. An error closes the connection without an answer.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        control: Arc<Control>,
    ) -> Result<Response<Answer>, Broken> {
        let start = Instant::now();
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        if let Some(answer) = self.look(&parts.method, &path) {
            return Ok(full(StatusCode::OK, &answer, None, &control));
        }
        let route = match path.as_str() {
            "/v1/chat/completions" => Route::ChatCompletions,
            "/v1/responses" | INPUT_TOKENS | COMPACT => Route::Responses,
            "/v1/models" => Route::Models,
            _ if path.starts_with("/v1/models/") => Route::Models,
            _ => Route::Other,
        };
        let authorization = parts.headers.get(AUTHORIZATION).cloned();
        let header = parts.headers.get("x-simulator").map(|value| {
            value
                .to_str()
                .map(str::to_owned)
                .unwrap_or_else(|_| "?".to_owned())
        });
        let mut guard =
            self.recorder
                .arrived(route, parts.method.clone(), path.clone(), parts.headers);
        let result = match (route, &parts.method) {
            (Route::Other, &Method::GET | &Method::POST) if path.starts_with(BELOW_RESPONSES) => {
                match self.admit(authorization.as_ref()) {
                    Ok(()) => {
                        self.held(&parts.method, &path, parts.uri.query(), &mut guard)
                            .await
                    }
                    Err(error) => Err(error),
                }
            }
            (Route::Models, &Method::GET) => self
                .admit(authorization.as_ref())
                .and_then(|()| self.models(&path))
                .map(Reply::Json),
            (Route::ChatCompletions | Route::Responses, &Method::POST) => {
                let dialect = if route == Route::ChatCompletions {
                    Dialect::Chat
                } else {
                    Dialect::Responses
                };
                let account = authorization.as_ref().and_then(|value| value.to_str().ok());
                let account = account.unwrap_or_default();
                match self.admit(authorization.as_ref()) {
                    Ok(()) if matches!(path.as_str(), INPUT_TOKENS | COMPACT) => {
                        self.answer_at_once(&path, account, body, &mut guard).await
                    }
                    Ok(()) => {
                        let asked = Asked {
                            dialect,
                            header: header.as_deref(),
                            account,
                            start,
                        };
                        self.generate(asked, body, &mut guard).await
                    }
                    Err(error) => Err(error),
                }
            }
            (Route::Other, method) => Err(ApiError::unknown_url(method.as_str(), &path)),
            (_, method) => Err(ApiError::wrong_method(method.as_str(), &path)),
        };
        match result {
            Ok(Reply::Json(value)) => Ok(full(StatusCode::OK, &value, Some(guard), &control)),
            Ok(Reply::Raw(status, headers, bytes)) => {
                Ok(raw(status, headers, bytes, Some(guard), &control))
            }
            Ok(Reply::Staged(status, headers, director)) => {
                guard.status(status.as_u16());
                let mut response = Response::new(Answer::staged(director, guard, control));
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                Ok(response)
            }
            // Dropping the guard without ending it counts an abort.
            Ok(Reply::Leave) => Err(Broken),
            Ok(Reply::Refuse) => {
                guard.end();
                Err(Broken)
            }
            Err(error) => {
                let status =
                    StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                Ok(full(status, &error.body(), Some(guard), &control))
            }
        }
    }

    /// Routes that are neither counted nor recorded.
    fn look(&self, method: &Method, path: &str) -> Option<Value> {
        let value = match path {
            _ if method != Method::GET => return None,
            "/stats" => serde_json::to_value(self.recorder.stats()),
            "/requests" => serde_json::to_value(self.recorder.requests()),
            // `/health` is the health check of model servers.
            "/healthz" | "/health" => Ok(json!({"status": "ok"})),
            _ => return None,
        };
        Some(value.unwrap_or(Value::Null))
    }

    fn admit(&self, authorization: Option<&HeaderValue>) -> Result<(), ApiError> {
        let Some(required) = &self.options.required_key else {
            return Ok(());
        };
        let sent = authorization.and_then(|value| value.to_str().ok());
        let key = sent
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        match key.map(|(_, key)| key.trim()) {
            None | Some("") => Err(ApiError::key_missing()),
            Some(key) if key == required => Ok(()),
            Some(key) => Err(ApiError::key_wrong(key)),
        }
    }

    fn models(&self, path: &str) -> Result<Value, ApiError> {
        let model = |id: &str| json!({"id": id, "object": "model", "created": self.started, "owned_by": "tokenwire"});
        match path.strip_prefix("/v1/models/") {
            None => Ok(
                json!({"object": "list", "data": self.options.models.iter().map(|id| model(id)).collect::<Vec<_>>()}),
            ),
            Some(id) if !id.is_empty() && self.options.offers(id) => Ok(model(id)),
            Some(id) => Err(ApiError::model_not_found(id)),
        }
    }

    /// Answers a request that asks for no answer of a model.
    async fn answer_at_once(
        &self,
        path: &str,
        account: &str,
        body: Incoming,
        guard: &mut Guard,
    ) -> Result<Reply, ApiError> {
        let Some(body) = self.body(body).await? else {
            return Ok(Reply::Leave);
        };
        guard.body(&body);
        let request: Value =
            serde_json::from_slice(&body).map_err(|_| ApiError::body_not_json())?;
        let conversation = conversation::responses::read(&request)?;
        if !self.options.offers(&conversation.model) {
            return Err(ApiError::model_not_found(&conversation.model));
        }
        // Nothing is stored between the two.
        let mut strict = request.clone();
        strict["store"] = Value::Bool(false);
        check_items(&strict, account, None)?;
        Ok(Reply::Json(if path == COMPACT {
            let mut dice = Dice::new(Dice::at(self.run, guard.number()));
            let now = seconds_since_1970();
            other::compaction(&request, &conversation, account, now, &mut dice)
        } else {
            other::input_tokens(&conversation)
        }))
    }

    async fn generate(
        &self,
        asked: Asked<'_>,
        body: Incoming,
        guard: &mut Guard,
    ) -> Result<Reply, ApiError> {
        let Asked {
            dialect,
            header,
            account,
            start,
        } = asked;
        let Some(body) = self.body(body).await? else {
            return Ok(Reply::Leave);
        };
        guard.body(&body);
        let request: Value =
            serde_json::from_slice(&body).map_err(|_| ApiError::body_not_json())?;
        if !request.is_object() {
            return Err(ApiError::body_not_json());
        }
        let conversation = match dialect {
            Dialect::Chat => conversation::chat::read(&request)?,
            Dialect::Responses => conversation::responses::read(&request)?,
        };
        if !self.options.offers(&conversation.model) {
            return Err(ApiError::model_not_found(&conversation.model));
        }
        let steering = Steering::of(header, &conversation.question).map_err(|error| {
            ApiError::invalid("x-simulator", "invalid_steering", error.to_string())
        })?;
        match dialect {
            Dialect::Responses => check_items(&request, account, steering.encrypted)?,
            Dialect::Chat => {
                conversation::chat::check_tool_messages(&request)?;
                if steering.reasoning_back {
                    conversation::chat::check_reasoning(&request)?;
                }
            }
        }
        let fault = self.fault(&steering);
        if let Some(fault) = fault {
            guard.fault(fault.kind.name());
        }
        if conversation.stream {
            guard.streaming();
        }
        if let Some(head) = steering.head {
            tokio::time::sleep_until(start + head).await;
        }
        if let Some(reply) = before_the_head(fault, &conversation.model).await {
            return Ok(reply);
        }
        let pace = if steering.is_set() {
            Pace {
                first_token: steering.first_token.unwrap_or_default(),
                between_tokens: steering.between_tokens.unwrap_or_default(),
            }
        } else {
            self.options.pace
        };
        let reasons = conversation.model == "simulator-reasoning";
        let conversation = Conversation {
            reasons: conversation.reasons || reasons,
            ..conversation
        };
        let unique = Dice::at(self.run, guard.number());
        let occasion = Occasion {
            unique,
            now: seconds_since_1970(),
            pace,
            examples: self.examples,
        };
        let plan = Plan::make(&conversation, &steering, &body, &occasion)?;
        let schedule = Schedule {
            start,
            first_token: pace.first_token,
            between_tokens: pace.between_tokens,
            jitter: steering.jitter.unwrap_or_default(),
            seed: steering.seed.or(conversation.seed).unwrap_or(0),
        };
        let seeded = steering.seed.or(conversation.seed).is_some();
        let mut headers = headers(if seeded { plan.identity } else { unique });
        if dialect == Dialect::Responses {
            plan.check_held()?;
        }
        let usage = steering.usage.unwrap_or(true);
        if dialect == Dialect::Responses
            && conversation.stream
            && request["background"] == Value::Bool(true)
        {
            let (account, rotate) = (account.to_owned(), steering.rotate);
            let make: MakeOutline = {
                let (plan, request) = (plan, request.clone());
                let other = plan.with_other_text();
                Box::new(move |is_other| {
                    let plan = if is_other { &other } else { &plan };
                    Outline::new(plan.clone(), &request, usage, &account, rotate)
                })
            };
            let id = make(false).response_id();
            let window = steering.window.unwrap_or(WINDOW);
            let held = Held::new(make, schedule, steering.again, window);
            let held = self.background.keep(id, held);
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/event-stream; charset=utf-8"),
            );
            return Ok(Reply::Staged(StatusCode::OK, headers, held.first(fault)));
        }
        let outline = |plan| Outline::new(plan, &request, usage, account, steering.rotate);
        let tokens = plan.completion_tokens();
        if conversation.stream {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/event-stream; charset=utf-8"),
            );
            headers.insert("cache-control", HeaderValue::from_static("no-cache"));
            if fault.is_some_and(|fault| fault.kind == FaultKind::Gzip) {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            return Ok(match dialect {
                Dialect::Chat => staged(headers, chat::Chunks::new(plan), schedule, fault),
                Dialect::Responses => staged(headers, Events::new(outline(plan)), schedule, fault),
            });
        }
        let answer = match dialect {
            Dialect::Chat => {
                let mut completion = chat::completion(&plan);
                if steering.usage == Some(false) {
                    completion["usage"] = Value::Null;
                }
                completion
            }
            Dialect::Responses => outline(plan).whole(),
        };
        if !(pace.first_token.is_zero() && pace.between_tokens.is_zero()) {
            tokio::time::sleep_until(schedule.due(tokens.saturating_sub(1))).await;
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        guard.tokens(tokens);
        let bytes = answer.to_string().into_bytes();
        Ok(match whole::with_fault(bytes, fault, &mut headers) {
            Whole::Sound(bytes) => Reply::Raw(StatusCode::OK, headers, bytes.into()),
            Whole::Failed(error) => return Err(error),
            Whole::Staged(director) => Reply::Staged(StatusCode::OK, headers, director),
        })
    }

    /// Reads or cancels a response that goes on in the background.
    async fn held(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        guard: &mut Guard,
    ) -> Result<Reply, ApiError> {
        let unknown = || ApiError::unknown_url(method.as_str(), path);
        let rest = path.strip_prefix(BELOW_RESPONSES).ok_or_else(unknown)?;
        let (id, command) = rest.split_once('/').unwrap_or((rest, ""));
        let held = self
            .background
            .get(id)
            .ok_or_else(|| ApiError::response_not_found(id))?;
        match (method, command) {
            (&Method::POST, "cancel") => {
                held.cancel();
                let response = json!({"id": id, "object": "response", "status": "cancelled"});
                Ok(Reply::Json(response))
            }
            (&Method::GET, "") => {
                let mut query = query.unwrap_or_default().split('&');
                let after = query.find_map(|pair| pair.strip_prefix("starting_after="));
                let after = after.and_then(|after| after.parse().ok());
                guard.streaming();
                match held.read(after).await {
                    Read::Events(director) => {
                        let mut headers = headers(self.run);
                        headers.insert(
                            CONTENT_TYPE,
                            HeaderValue::from_static("text/event-stream; charset=utf-8"),
                        );
                        Ok(Reply::Staged(StatusCode::OK, headers, director))
                    }
                    Read::Busy => Err(ApiError::of_status(503, "")),
                    Read::Gone => Err(ApiError::response_not_found(id)),
                }
            }
            _ => Err(unknown()),
        }
    }

    /// Returns the full body, or none if the peer closed or broke the framing before its end.
    async fn body(&self, body: Incoming) -> Result<Option<Bytes>, ApiError> {
        let limit = self.options.body_limit;
        if body.size_hint().lower() > limit as u64 {
            return Err(ApiError::body_too_large(limit));
        }
        match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
            Err(_) => Err(ApiError::body_too_slow()),
            Ok(Ok(body)) => Ok(Some(body.to_bytes())),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                Err(ApiError::body_too_large(limit))
            }
            Ok(Err(_)) => Ok(None),
        }
    }

    /// Returns the fault that applies to this request now.
    fn fault(&self, steering: &Steering) -> Option<Fault> {
        let fault = steering.fault()?;
        let Some(times) = steering.times else {
            return Some(fault);
        };
        let mut seen = self.seen.lock();
        let id = steering.id.as_deref().unwrap_or_default();
        if !seen.contains_key(id) && seen.len() >= NAMES {
            return Some(fault);
        }
        let count = seen.entry(id.to_owned()).or_default();
        *count += 1;
        (*count <= times).then_some(fault)
    }
}

/// A request for an answer, beside its body.
struct Asked<'a> {
    dialect: Dialect,
    /// The steering of `x-simulator`.
    header: Option<&'a str>,
    /// The credential that it came with.
    account: &'a str,
    start: Instant,
}

/// How a request is answered.
enum Reply {
    Json(Value),
    Raw(StatusCode, HeaderMap, Bytes),
    Staged(StatusCode, HeaderMap, Box<dyn crate::body::Director>),
    /// By closing the connection, for a fault.
    Refuse,
    /// Not at all: the peer has closed the connection.
    Leave,
}

/// Returns the answer of a fault that replaces the whole answer.
async fn before_the_head(fault: Option<Fault>, model: &str) -> Option<Reply> {
    let fault = fault?;
    Some(match fault.kind {
        FaultKind::Status => {
            let error = ApiError::of_status(fault.code, model);
            let mut headers = HeaderMap::from_iter([(
                CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            )]);
            if let Some(seconds) = fault.retry_after {
                headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
            }
            let status =
                StatusCode::from_u16(fault.code).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            // These statuses have no body.
            let bytes = if matches!(fault.code, 204 | 205 | 304) {
                Bytes::new()
            } else {
                Bytes::from(error.body().to_string())
            };
            Reply::Raw(status, headers, bytes)
        }
        FaultKind::Refuse => Reply::Refuse,
        FaultKind::StallHead => std::future::pending().await,
        FaultKind::JsonError => Reply::Json(ApiError::of_status(500, model).body()),
        FaultKind::Html => {
            let headers =
                HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/html"))]);
            let page = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n";
            Reply::Raw(
                StatusCode::BAD_GATEWAY,
                headers,
                Bytes::from_static(page.as_bytes()),
            )
        }
        _ => return None,
    })
}

fn staged(
    headers: HeaderMap,
    transcript: impl Transcript + 'static,
    schedule: Schedule,
    fault: Option<Fault>,
) -> Reply {
    Reply::Staged(
        StatusCode::OK,
        headers,
        Box::new(Player::new(transcript, schedule, fault)),
    )
}

/// Adds the headers of OpenAI's answers.
fn headers(identity: u64) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    let id = format!("req_{}", Dice::new(identity ^ 0x7e9).hex(32));
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert("x-request-id", id);
    }
    headers.insert("openai-version", HeaderValue::from_static("2020-10-01"));
    headers
}

fn full(
    status: StatusCode,
    value: &Value,
    guard: Option<Guard>,
    control: &Arc<Control>,
) -> Response<Answer> {
    let headers =
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    raw(
        status,
        headers,
        Bytes::from(value.to_string()),
        guard,
        control,
    )
}

fn raw(
    status: StatusCode,
    headers: HeaderMap,
    bytes: Bytes,
    guard: Option<Guard>,
    control: &Arc<Control>,
) -> Response<Answer> {
    if let Some(guard) = &guard {
        guard.status(status.as_u16());
    }
    let mut response = Response::new(Answer::whole(bytes, guard, Arc::clone(control)));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn seconds_since_1970() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
