//! Middleware around every request: a request id, the host and origin rules, and a guard against
//! panics.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode, Version};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpResponse, web};
use futures::FutureExt as _;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::random_id;
use tokenwire_core::model::log_scope::LogScope;

use super::access::identify;
use super::body_deadline::limit_body;
use super::guarded_body::GuardedBody;
use super::health::StatusOnly;
use super::inbound::{Query, text};
use super::outbound::error_response;
use super::presented::{offers_subprotocol, ticket};
use super::revocable_body::RevocableBody;
use super::timing::Timing;
use crate::admission::ConnectionLimits;
use crate::auth::Identity;
use crate::host_policy::{ClientHost, HostNotAllowed};
use crate::limits::ClientMeter;
use crate::origin_policy::{Effect, OriginPolicy, PageOrigin};
use crate::reload::WorkerService;
use crate::service::Service;
use tokenwire_connection::Reserved;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Handles a request: the outermost middleware of the application.
///
/// # Errors
/// Errors that carry a complete response.
pub async fn request_middleware(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let timing = Timing::start();
    let id: Arc<str> = random_id("req_").into();
    let version = request.version();
    let worker = request.app_data::<Rc<WorkerService>>().cloned();
    let service = match worker {
        Some(worker) => Some(worker.give_to(&mut request)),
        None => request.app_data::<web::Data<Service>>().cloned(),
    };
    let Some(service) = service else {
        return next
            .call(request)
            .await
            .map(ServiceResponse::map_into_boxed_body);
    };
    let trace = service.tracer.begin(request.headers(), id.clone());
    let scope = LogScope::of(&trace.context);
    let mut span = match is_probe(&request) {
        true => None,
        false => service.tracer.request(&trace, request.method()),
    };
    request.extensions_mut().insert(trace);
    let preflight = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key("access-control-request-method");
    let mut host = service.hosts.check(request.head());
    let mut identified = if preflight {
        Ok(None)
    } else {
        identify(&request, &service, host.as_ref().ok()).await
    };
    let identity = identified.as_ref().ok().and_then(Option::as_ref);
    // A browser adds a cookie to what a foreign page sends, too.
    let by_cookie = identity.is_some_and(Identity::is_by_cookie);
    let has_credential = identity.is_some() && !by_cookie;
    if has_credential {
        // A page that made its name lead here has no credential.
        host = host.or_else(|_| Ok(service.hosts.unlisted()));
    }
    let origin = page_origin(&request, &service, identity, host.as_ref().ok());
    let mut close = request.conn_data::<Reserved>().is_some();
    close |= service.engine.registry().is_draining();
    let limits = request.app_data::<web::Data<ConnectionLimits>>();
    let admitted = limits.map_or(Ok(None), |limits| limits.check(&request));
    let (counted, mut refusal) = match admitted {
        Ok(counted) => (counted, None),
        Err(error) => (None, Some(error)),
    };
    match &host {
        Ok(host) => {
            let effect = effect(&request);
            let why =
                service
                    .origins
                    .refusal(request.head(), host, &origin, effect, has_credential);
            let ticket = identity.and_then(Identity::ticket);
            let why = why.or_else(|| match &origin {
                _ if by_cookie => OriginPolicy::cookie_refusal(request.head(), &origin),
                // A ticket that is for other pages is good for nothing on this one.
                PageOrigin::Foreign(why) if ticket.is_some_and(|known| known.origin.is_some()) => {
                    Some(why.clone())
                }
                _ => None,
            });
            let foreign = why.map(|why| ApiError::new(ErrorCode::OriginForbidden, why));
            refusal = refusal.or(foreign);
        }
        Err(_) if is_probe(&request) => {
            request.extensions_mut().insert(StatusOnly);
        }
        Err(host) => refusal = refusal.or_else(|| Some(not_served(host))),
    }
    if refusal.is_none()
        && let Ok(Some(identity)) = &identified
        && let Some(ticket) = identity.ticket()
        && request.method() != Method::HEAD
        && let Err(error) = service.tickets.admit(ticket).await
    {
        identified = Err(error);
    }
    let mut revocation = None;
    let mut limited = None;
    match identified {
        Ok(Some(mut identity)) => {
            limited = identity.look_up(&service.limits).cloned();
            revocation = identity.revocation().cloned();
            request.extensions_mut().insert(identity);
        }
        Ok(None) if service.auth.is_none() && request.path().starts_with("/v1/") => {
            limited = service.limits.anonymous();
        }
        Ok(None) => {}
        Err(error) if refusal.is_none() && closes_socket(&request, &error) => {
            request.extensions_mut().insert(RefusedTicket(error));
        }
        Err(error) => refusal = refusal.or(Some(error)),
    }
    let has_cookies = service.auth.is_some();
    let limited = limited.filter(|client| client.is_limited());
    let limited = limited.as_ref();
    let server = &service.config.server;
    let late = limit_body(&mut request, server.body_timeout, server.min_body_rate);
    let mut response = match refusal {
        Some(error) => request.into_response(refused(&error)),
        None if preflight => {
            let answer = origin.preflight(request.headers());
            request.into_response(answer)
        }
        // Routing requires that no other reference to the request exists.
        None => match timing
            .measure(LogScope::run(Some(scope.clone()), async {
                let answer = AssertUnwindSafe(next.call(request)).catch_unwind().await;
                if let Ok(Ok(response)) = &answer {
                    let status = response.status().as_u16();
                    tracing::debug!(status, "answered");
                }
                answer
            }))
            .await
        {
            Ok(Ok(response)) => response.map_into_boxed_body(),
            Ok(Err(error)) => {
                let response = error.error_response();
                if let Some(span) = &mut span {
                    span.answered(response.status().as_u16(), None);
                }
                return Err(complete(
                    response,
                    version,
                    &origin,
                    has_cookies,
                    limited,
                    id,
                ));
            }
            Err(_) => {
                // The panic hook has reported the panic.
                tracing::error!(request_id = %id, trace_id = %scope.trace, "a request handler panicked");
                if let Some(span) = &mut span {
                    span.answered(500, None);
                }
                let error = ApiError::new(
                    ErrorCode::InternalError,
                    "The gateway failed while it handled this request.",
                );
                return Err(complete(
                    error_response(&error),
                    version,
                    &origin,
                    has_cookies,
                    limited,
                    id,
                ));
            }
        },
    };
    if late.get() {
        let error = ApiError::new(
            ErrorCode::RequestTimeout,
            "The body did not arrive within server.body_timeout.",
        );
        response = response.into_response(error_response(&error));
        close = true;
    }
    // The connection of an upgrade ends with it, and its header says `Upgrade`.
    if close && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let head = response.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    if response.headers().contains_key(header::LOCATION) {
        timing.add_to(response.headers_mut());
    }
    finish(
        response.response_mut(),
        version,
        &origin,
        has_cookies,
        limited,
        id,
    );
    let response = match counted {
        Some(counted) => response.map_body(|_, body| GuardedBody::attach(body, counted)),
        None => response,
    };
    let response = match span {
        Some(mut span) => {
            let request = response.request();
            let route = request.match_pattern();
            let route = route.map(|route| (route, request.path()));
            span.answered(response.status().as_u16(), route);
            response.map_body(|_, body| GuardedBody::attach(body, span))
        }
        None => response,
    };
    // A socket closes with a code of its own.
    let is_socket = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    Ok(match revocation.filter(|_| !is_socket) {
        Some(revocation) => response.map_body(|_, body| RevocableBody::attach(body, &revocation)),
        None => response,
    })
}

/// A ticket that is not valid, on a socket that is closed for it: a page cannot see a status.
#[derive(Debug)]
pub(super) struct RefusedTicket(pub(super) ApiError);

/// Whether the client of a WebSocket is to see this error as a close code.
fn closes_socket(request: &ServiceRequest, error: &ApiError) -> bool {
    let path = request.match_info().as_str();
    error.is(ErrorCode::InvalidTicket)
        && matches!(path, "/v1/ws" | "/v1/responses")
        && request.method() == Method::GET
        && request.headers().contains_key(header::UPGRADE)
        && offers_subprotocol(request.headers())
}

/// Classifies the page that sent a request. A ticket may be for pages of one origin, also where its
/// request is only announced by a preflight.
fn page_origin(
    request: &ServiceRequest,
    service: &Service,
    identity: Option<&Identity>,
    host: Option<&ClientHost>,
) -> PageOrigin {
    let head = request.head();
    let only = match identity.and_then(Identity::ticket) {
        Some(ticket) => ticket.origin.clone(),
        // What is refused tells the page of its origin why.
        None => ticket(request.query_string(), request.headers())
            .ok()
            .flatten()
            .and_then(|text| service.tickets.open(&text).ok()?.origin),
    };
    match only {
        Some(only) => service.origins.classify_by_ticket(head, host, &only),
        None => service.origins.classify(head, host),
    }
}

/// Answers a request that is not served.
fn refused(error: &ApiError) -> HttpResponse {
    let mut response = error_response(error);
    if error.is(ErrorCode::InvalidApiKey) || error.is(ErrorCode::InvalidTicket) {
        let scheme = HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// Adds what every response has. HTTP/1.0 has neither chunks nor, by default, kept connections.
fn finish<B>(
    response: &mut HttpResponse<B>,
    version: Version,
    origin: &PageOrigin,
    has_cookies: bool,
    limited: Option<&ClientMeter>,
    id: Arc<str>,
) {
    if version < Version::HTTP_11 {
        response.head_mut().no_chunking(true);
        response
            .head_mut()
            .set_connection_type(ConnectionType::Close);
    }
    let headers = response.headers_mut();
    if let Some(client) = limited {
        client.write_headers(headers);
    }
    origin.expose(headers, has_cookies);
    if let Ok(value) = HeaderValue::try_from(&*id) {
        headers.insert(X_REQUEST_ID, value);
    }
}

/// Makes an error out of a response, where the request is no longer available.
fn complete(
    mut response: HttpResponse,
    version: Version,
    origin: &PageOrigin,
    has_cookies: bool,
    limited: Option<&ClientMeter>,
    id: Arc<str>,
) -> Error {
    finish(&mut response, version, origin, has_cookies, limited, id);
    InternalError::from_response("answered", response).into()
}

/// Returns what the request may do. The path is the one that is routed, which is percent-decoded.
fn effect(request: &ServiceRequest) -> Effect {
    match *request.method() {
        Method::GET | Method::HEAD => {}
        // OPTIONS too: a preflight asks for a request that has effects.
        _ => return Effect::Protected,
    }
    if request.headers().contains_key(header::UPGRADE) {
        return Effect::Protected;
    }
    if request.method() == Method::HEAD {
        return Effect::None;
    }
    let path = request.match_info().as_str();
    if path == "/v1/streams" {
        // With a position it only resumes.
        let resumes = text(request.headers(), "last-event-id").is_some_and(|id| !id.is_empty());
        return if resumes {
            Effect::Protected
        } else {
            Effect::StartsByGet
        };
    }
    let reads = path == "/v1/activity"
        || path.starts_with("/v1/streams/")
        || path.starts_with("/v1/responses/")
            && Query::parse(request.query_string()).get("stream").is_some();
    if reads {
        Effect::Protected
    } else {
        Effect::None
    }
}

/// Whether this is a health check, which is answered under any host.
fn is_probe(request: &ServiceRequest) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && matches!(
            request.match_info().as_str(),
            "/health" | "/healthz" | "/readyz"
        )
}

fn not_served(host: &HostNotAllowed) -> ApiError {
    ApiError::new(
        ErrorCode::HostNotAllowed,
        format!(
            "The host '{}' is not served, which protects against pages that make their own name lead here (DNS rebinding). \
             If the gateway is reached by this name, add it to server.allowed_hosts.",
            host.0
        ),
    )
}
