//! WebSocket upgrades.

use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::http::Version;
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use tokenwire_connection::websocket_payload;
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::Owner;
use tokenwire_core::upstream::RequestTrace;
use tokenwire_ws::{ActivityEvents, ActivityFeed, Renewal, TicketCheck, WebSocketOptions};

use super::middleware::RefusedTicket;
use super::outbound::{HttpError, error_response};
use crate::activity::{Activity, Scope, Watcher};
use crate::auth::{Identity, TicketKind, not_allowed};
use crate::service::Service;

/// Checks the tickets of `tokenwire:auth` on one socket.
struct SocketTickets {
    service: web::Data<Service>,
    /// The page that opened the socket.
    origin: Option<HeaderValue>,
    /// The headers of its request, some of which go to upstreams.
    headers: HeaderMap,
    trace: Option<RequestTrace>,
}

impl fmt::Debug for SocketTickets {
    /// Omits the headers, which may hold a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SocketTickets")
    }
}

/// What a client of a socket sees of the activity.
#[derive(Debug)]
struct SocketActivity {
    activity: Activity,
    scope: Scope,
}

/// The events for one socket.
#[derive(Debug)]
struct SocketEvents(Watcher);

impl SocketActivity {
    fn of(service: &Service, identity: &Identity) -> Rc<dyn ActivityFeed> {
        Rc::new(Self {
            activity: service.activity.clone(),
            scope: Service::activity_scope(identity),
        })
    }
}

impl ActivityFeed for SocketActivity {
    fn watch(&self, after: Option<&str>) -> Result<Box<dyn ActivityEvents>, ApiError> {
        let watcher = self.activity.watch(self.scope.clone(), after)?;
        Ok(Box::new(SocketEvents(watcher)))
    }
}

impl ActivityEvents for SocketEvents {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        self.0.poll_next(cx)
    }

    fn last_id(&self) -> Option<String> {
        self.0.id()
    }
}

impl TicketCheck for SocketTickets {
    fn renew(
        &self,
        ticket: String,
        owner: Owner,
    ) -> LocalBoxFuture<'static, Result<Renewal, ApiError>> {
        let (service, origin) = (self.service.clone(), self.origin.clone());
        let (headers, trace) = (self.headers.clone(), self.trace.clone());
        async move {
            let auth = service.auth.as_deref();
            let identity = service.tickets.identify(&ticket, auth)?;
            if let Some(ticket) = identity.ticket() {
                if ticket.kind != TicketKind::Owner {
                    let message = "A socket goes on with a ticket for a WebSocket: one without 'stream', that may 'read'.";
                    return Err(not_allowed(message));
                }
                if identity.owner() != owner {
                    return Err(not_allowed("The ticket is another owner's. Open another socket for it."));
                }
                if let (Some(only), Some(origin)) = (&ticket.origin, &origin)
                    && !origin.as_bytes().eq_ignore_ascii_case(only.as_bytes())
                {
                    return Err(not_allowed(format!("The ticket is for pages of the origin '{only}'.")));
                }
                service.tickets.admit(ticket).await?;
            }
            Ok(Renewal {
                caller: service.caller(&identity, &headers, trace),
                engine: service.engine_of(&identity).into_owned(),
                credential: identity.socket_credential(),
                activity: Some(SocketActivity::of(&service, &identity)),
            })
        }
        .boxed_local()
    }
}

/// `GET /v1/ws`
pub(super) async fn connect(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    // Its clients resume.
    upgrade(&request, payload, &service, true)
}

fn upgrade(
    request: &HttpRequest,
    payload: web::Payload,
    service: &web::Data<Service>,
    leaves: bool,
) -> Result<HttpResponse, HttpError> {
    if service.engine.registry().is_closed() {
        return Err(ApiError::new(ErrorCode::ShuttingDown, "The gateway is shutting down.").into());
    }
    if request.version() < Version::HTTP_11 {
        // RFC 6455, section 4.2.1.
        let message = "A WebSocket needs HTTP/1.1. A proxy in front has to be told to use it.";
        return Err(ApiError::new(ErrorCode::InvalidUpgrade, message).into());
    }
    if let Some(RefusedTicket(error)) = request.extensions().get::<RefusedTicket>() {
        let payload = websocket_payload(request, payload.into_inner());
        return Ok(tokenwire_ws::refuse(request, payload, &error.message)?);
    }
    let identity = service.identity(request)?;
    let trace = request.extensions().get::<RequestTrace>().cloned();
    let options = WebSocketOptions {
        leaves,
        tickets: service.auth.is_some().then(|| {
            Rc::new(SocketTickets {
                service: service.clone(),
                origin: request.headers().get(header::ORIGIN).cloned(),
                headers: request.headers().clone(),
                trace: trace.clone(),
            }) as Rc<dyn TicketCheck>
        }),
        activity: Some(SocketActivity::of(service, &identity)),
        ..service.websocket(&identity, request.headers(), trace)
    };
    Ok(tokenwire_ws::upgrade(
        request,
        websocket_payload(request, payload.into_inner()),
        service.engine_of(&identity).into_owned(),
        options,
    )?)
}

/// `GET /v1/responses`: OpenAI's path of the same socket. Other GETs are not allowed there.
pub(super) async fn responses(
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    if !request.headers().contains_key("upgrade") {
        let message = "Not allowed to GET on /v1/responses without a WebSocket upgrade; allowed: POST, or GET with an upgrade.";
        let mut response = error_response(&ApiError::new(ErrorCode::MethodNotAllowed, message));
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    // The SDKs do not resume.
    upgrade(&request, payload, &service, false)
}
