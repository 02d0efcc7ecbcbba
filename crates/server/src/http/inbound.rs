//! Reads and checks requests: bodies, keys, query parameters.

use std::borrow::Cow;

use actix_web::http::Method;
use actix_web::http::header::{self, AsHeaderName, HeaderMap, HeaderName};
use actix_web::web::Payload;
use actix_web::{HttpMessage as _, HttpRequest};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokenwire_core::engine::{Cursor, Freshness, StartRequest};
use tokenwire_core::model::account::{AccountKind, Charge};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::id::GenerationId;
use tokenwire_core::model::include::Include;
use tokenwire_core::request::{StreamRequest, check_idempotency_key};
use tokenwire_core::upstream::RequestTrace;
use tokenwire_sse::last_event_id;

use super::timing::for_client;
use crate::service::Service;

/// The content types that a route accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentType {
    /// `application/json` or `application/*+json` only.
    Json,
    /// Anything: curl's `-d` says `application/x-www-form-urlencoded`.
    Any,
}

/// A body that was read.
pub(crate) struct Received {
    pub(crate) bytes: Bytes,
    /// Counts the body, and after it the request that was parsed from it, until it is started.
    pub(crate) charge: Charge,
}

/// What an error about the header's key names.
const KEY_HEADER: &str = "Idempotency-Key";

/// The capacity of a body's buffer to begin with. It then doubles up to the announced length.
const FIRST_CAPACITY: usize = 4 * 1024;

/// Reads the whole body.
///
/// # Errors
/// `body_too_large` beyond `limits.body` bytes and for what can never be started,
/// `unsupported_media_type`, and `overloaded` where there is no memory for it now.
pub(crate) async fn body(
    request: &HttpRequest,
    mut payload: Payload,
    content_type: ContentType,
    service: &Service,
) -> Result<Received, ApiError> {
    let limit = service.config.limits.body;
    let account = service.engine.account();
    let headers = request.headers();
    if content_type == ContentType::Json {
        require_json(headers)?;
    }
    if let Some(encoding) = text(headers, header::CONTENT_ENCODING)
        .filter(|encoding| !encoding.eq_ignore_ascii_case("identity"))
    {
        let message = format!(
            "Bodies with Content-Encoding '{encoding}' are not accepted. Send the body uncompressed."
        );
        return Err(ApiError::new(ErrorCode::UnsupportedMediaType, message));
    }
    let too_large = || {
        ApiError::new(
            ErrorCode::BodyTooLarge,
            format!("The body is larger than the {limit} bytes that limits.body allows."),
        )
    };
    let announced =
        text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    account.check_size(announced.unwrap_or(0))?;
    let mut body = BytesMut::new();
    let mut charge = account.charge(AccountKind::Bodies, 0);
    while let Some(piece) = for_client(payload.next()).await {
        let piece = piece.map_err(|error| {
            ApiError::new(
                ErrorCode::InvalidJson,
                format!("The body could not be read: {error}."),
            )
        })?;
        if body.len() + piece.len() > limit {
            return Err(too_large());
        }
        let needed = body.len() + piece.len();
        if needed > body.capacity() {
            let doubled = (2 * body.capacity()).max(FIRST_CAPACITY);
            let most = announced.unwrap_or(limit).max(needed);
            let capacity = doubled.clamp(needed, most);
            account.check_size(needed)?;
            charge.try_resize(capacity)?;
            body.reserve(capacity - body.len());
        }
        body.extend_from_slice(&piece);
    }
    Ok(Received {
        bytes: body.freeze(),
        charge,
    })
}

/// Discards a body, at most `limit` bytes of it: a client that comes back to its stream sends its
/// request again. A connection with unread bytes cannot be used for another request.
pub(crate) async fn discard_body(mut payload: Payload, limit: usize) {
    let mut left = limit;
    while let Some(Ok(piece)) = payload.next().await
        && left > piece.len()
    {
        left -= piece.len();
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    if given == "application/json" {
        return Ok(());
    }
    let essence = given
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
    {
        return Ok(());
    }
    let message = match given {
        "" => "The request has no Content-Type. Send 'Content-Type: application/json'.".to_owned(),
        given => format!("The Content-Type is '{given}', but this route takes 'application/json'."),
    };
    Err(ApiError::new(ErrorCode::UnsupportedMediaType, message))
}

/// Returns a header's text, trimmed.
pub(crate) fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
}

/// Returns the freshness that `Cache-Control` asks for.
///
/// Browsers send `no-cache` with `Pragma` for what their own cache must not answer: every
/// EventSource, and `fetch` with `cache: "no-store"`. That concerns their cache only, so it does not
/// count here. On a route for EventSource (`by_event_source`) no `no-cache` counts. `no-store`,
/// which browsers never add, always counts.
fn freshness(headers: &HeaderMap, by_event_source: bool) -> Freshness {
    let says = |name: HeaderName, wanted: &str| {
        headers
            .get_all(name)
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|directive| {
                directive
                    .split('=')
                    .next()
                    .unwrap_or_default()
                    .trim()
                    .eq_ignore_ascii_case(wanted)
            })
    };
    if says(header::CACHE_CONTROL, "no-store") {
        Freshness::Private
    } else if says(header::CACHE_CONTROL, "no-cache")
        && !by_event_source
        && !says(header::PRAGMA, "no-cache")
    {
        Freshness::New
    } else {
        Freshness::Any
    }
}

/// Returns the idempotency key of a request: the query parameter `key`, where the route has one, or
/// the header. An empty one counts as none.
///
/// # Errors
/// `invalid_value` for a key that is not visible ASCII, too long, or looks like a credential, and
/// for two keys that differ.
pub(crate) fn idempotency_key(
    request: &HttpRequest,
    query: Option<&Query>,
) -> Result<Option<String>, ApiError> {
    const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
    let by_query = query.into_iter().flat_map(|query| query.all("key"));
    let by_query = by_query.map(|key| (Cow::Borrowed(key), "key"));
    // Bytes that are not ASCII must be refused, not dropped: the request would not be idempotent.
    let by_header = request.headers().get_all(HEADER);
    let by_header = by_header.map(|value| (String::from_utf8_lossy(value.as_bytes()), KEY_HEADER));
    let mut found: Option<Cow<'_, str>> = None;
    for (key, param) in by_query.chain(by_header) {
        if key.is_empty() {
            continue;
        }
        check_idempotency_key(&key, param)?;
        match &found {
            Some(first) if *first != key => return Err(two_keys(param)),
            _ => found = Some(key),
        }
    }
    Ok(found.map(Cow::into_owned))
}

fn two_keys(param: &'static str) -> ApiError {
    let message = "The request has two different idempotency keys. Send one.";
    ApiError::new(ErrorCode::InvalidValue, message).param(param)
}

/// The one place where a handler's request becomes a [`StartRequest`].
///
/// # Errors
/// `invalid_value` if `key` is not the body's.
pub(crate) fn start_request(
    request: &HttpRequest,
    service: &Service,
    body: StreamRequest,
    route: &'static str,
    key: Option<String>,
) -> Result<StartRequest, ApiError> {
    let by_event_source = request.method() == Method::GET;
    let identity = service.identity(request)?;
    let trace = request.extensions().get::<RequestTrace>().cloned();
    let caller = service.caller(&identity, request.headers(), trace);
    let start = StartRequest::new(body, caller, route);
    if let (Some(key), Some(in_body), false) = (&key, &start.idempotency_key, start.has_only_key)
        && key != in_body
    {
        return Err(two_keys("idempotency_key"));
    }
    Ok(start
        .with_idempotency_key(key)
        .with_freshness(freshness(request.headers(), by_event_source)))
}

/// Returns the position at which a reader of this generation comes back: `Last-Event-ID`, else the
/// query parameter `name`, else the start.
pub(crate) fn cursor(
    request: &HttpRequest,
    id: GenerationId,
    name: &'static str,
    query: &Query,
) -> Result<Cursor, ApiError> {
    match last_event_id(request)? {
        Some(cursor) => cursor.of(&id),
        None => Cursor::from_query(id, name, query.get(name)),
    }
}

/// A query's parameters, percent-decoded; the last of a name wins.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of(request: &HttpRequest) -> Self {
        Self::parse(request.query_string())
    }

    pub(crate) fn parse(query: &str) -> Self {
        Self(
            url::form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// What the request asks to be shown: `include[]=…` or `include=…`, as often as there are values.
    pub(crate) fn include(&self) -> Include {
        let values = self.0.iter();
        let values = values.filter(|(name, _)| matches!(name.as_str(), "include[]" | "include"));
        Include::of(values.flat_map(|(_, value)| value.split(',')))
    }

    /// Returns every value of a name.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Whether the client prefers `text/plain` to an event stream.
pub(crate) fn wants_text(headers: &HeaderMap) -> bool {
    let Some(accept) = text(headers, header::ACCEPT) else {
        return false;
    };
    let mut best: Option<(f32, bool)> = None;
    for range in accept.split(',') {
        let mut parameters = range.split(';').map(str::trim);
        let kind = parameters.next().unwrap_or_default().to_ascii_lowercase();
        let quality = parameters
            .find_map(|parameter| parameter.strip_prefix("q="))
            .and_then(|q| q.parse().ok())
            .unwrap_or(1.0);
        let text = match kind.as_str() {
            "text/plain" => true,
            "text/event-stream" | "text/*" | "*/*" => false,
            _ => continue,
        };
        if best.is_none_or(|(known, _)| quality > known) {
            best = Some((quality, text));
        }
    }
    best.is_some_and(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn cache_control_of_a_client_is_told_from_a_browsers() {
        for (headers, by_event_source, expected) in [
            (&[][..], false, Freshness::Any),
            (&[("cache-control", "max-age=0")], false, Freshness::Any),
            (&[("cache-control", "no-cache")], false, Freshness::New),
            (
                &[("cache-control", "max-age=0, No-Cache=\"x\"")],
                false,
                Freshness::New,
            ),
            (&[("cache-control", "no-cache")], true, Freshness::Any),
            (
                &[("cache-control", "no-cache"), ("pragma", "no-cache")],
                false,
                Freshness::Any,
            ),
            (
                &[
                    ("cache-control", "no-cache, no-store"),
                    ("pragma", "no-cache"),
                ],
                true,
                Freshness::Private,
            ),
            (
                &[("cache-control", "no-cache"), ("cache-control", "no-store")],
                false,
                Freshness::Private,
            ),
        ] {
            let mut request = TestRequest::default();
            for header in headers {
                request = request.append_header(*header);
            }
            let request = request.to_http_request();
            assert_eq!(
                freshness(request.headers(), by_event_source),
                expected,
                "{headers:?}"
            );
        }
    }

    #[test]
    fn text_plain_is_negotiated_by_quality() {
        for (accept, expected) in [
            ("text/plain", true),
            ("text/plain, */*", true),
            ("*/*", false),
            ("text/event-stream", false),
            ("application/json", false),
            ("text/event-stream, text/plain;q=0.5", false),
            ("text/event-stream;q=0.1, text/plain;q=0.5", true),
        ] {
            let request = TestRequest::default()
                .insert_header(("accept", accept))
                .to_http_request();
            assert_eq!(wants_text(request.headers()), expected, "{accept}");
        }
    }
}
