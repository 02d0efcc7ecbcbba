//! Heads of requests and responses between HTTP/2 and actix.

use std::net::SocketAddr;
use std::time::SystemTime;

use actix_http::header::{self, HeaderName, HeaderValue};
use actix_http::{HttpMessage as _, Method, Payload, Request, ResponseHead, Uri};
use actix_web::body::BodySize;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures::Stream;
use h2::RecvStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Connection data of a request that came over HTTP/2. It is in the request's own extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Stream {
    /// Requests of the same connection that were open when this one came.
    pub others: usize,
    /// Whether the connection is [reserved](crate::Reserved).
    pub is_reserved: bool,
}

/// The body of a request.
struct Body(RecvStream);

// === impl Body ===

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(data) = ready!(self.0.poll_data(cx)) else {
            return Poll::Ready(None);
        };
        let data = data.map_err(|_| PayloadError::Incomplete(None))?;
        // It is counted by its reader from here on.
        let _ = self.0.flow_control().release_capacity(data.len());
        Poll::Ready(Some(Ok(data)))
    }
}

/// Makes a request for actix. The URI keeps its authority, which is the host that the client named.
/// `None` if it is no request that a resource could answer.
pub(crate) fn request(
    received: http::Request<RecvStream>,
    peer: Option<SocketAddr>,
    stream: Http2Stream,
) -> Option<Request> {
    let (parts, body) = received.into_parts();
    if parts.method == http::Method::CONNECT {
        return None;
    }
    let mut request = if body.is_end_stream() {
        Request::new()
    } else {
        Request::with_payload(Payload::Stream {
            payload: Box::pin(Body(body)) as _,
        })
    };
    let head = request.head_mut();
    head.method = Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    head.uri = uri(&parts.uri)?;
    head.version = actix_http::Version::HTTP_2;
    head.peer_addr = peer;
    let mut cookies = Vec::new();
    for (name, value) in &parts.headers {
        // Browsers send each cookie apart (RFC 9113, section 8.2.3).
        if name == http::header::COOKIE {
            if !cookies.is_empty() {
                cookies.extend_from_slice(b"; ");
            }
            cookies.extend_from_slice(value.as_bytes());
            continue;
        }
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        head.headers.append(name, value);
    }
    if !cookies.is_empty() {
        let value = HeaderValue::from_bytes(&cookies).ok()?;
        head.headers.insert(header::COOKIE, value);
    }
    request.extensions_mut().insert(stream);
    Some(request)
}

/// Makes a URI of actix from its parts, since one with an authority and the path `*`, of an OPTIONS
/// request, cannot be parsed.
fn uri(received: &http::Uri) -> Option<Uri> {
    let mut uri = Uri::builder();
    if let Some(scheme) = received.scheme_str() {
        uri = uri.scheme(scheme);
    }
    if let Some(authority) = received.authority() {
        uri = uri.authority(authority.as_str());
    }
    if let Some(path) = received.path_and_query() {
        uri = uri.path_and_query(path.as_str());
    }
    uri.build().ok()
}

/// Returns the size of a body. Responses of some statuses have none (RFC 9110, section 6.4.1).
pub(crate) fn body_size(head: &ResponseHead, size: BodySize) -> BodySize {
    match head.status.as_u16() {
        100..200 | 204 | 304 => BodySize::None,
        _ => size,
    }
}

/// Makes the head of a response. Headers of a single connection are left out.
pub(crate) fn response(head: &ResponseHead, size: BodySize) -> http::Response<()> {
    let mut response = http::Response::new(());
    if let Ok(status) = http::StatusCode::from_u16(head.status.as_u16()) {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    for (name, value) in head.headers() {
        let is_dropped = match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "te" | "transfer-encoding"
            | "upgrade" => true,
            // Without a body it is that of the response to a GET, unless there could be none.
            "content-length" => {
                size != BodySize::None || matches!(head.status.as_u16(), 100..200 | 204)
            }
            _ => false,
        };
        if is_dropped {
            continue;
        }
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = http::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    if let BodySize::Sized(length) = size {
        headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    if !headers.contains_key(http::header::DATE)
        && let Ok(date) = http::HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now()))
    {
        headers.insert(http::header::DATE, date);
    }
    response
}

#[cfg(test)]
mod tests {
    use actix_web::HttpResponse;
    use actix_web::http::StatusCode;

    use super::*;

    #[test]
    fn uri_is_made_of_its_parts() {
        for (text, expected) in [("https://a:1/b?c=%20", "https://a:1/b?c=%20"), ("/b", "/b")] {
            let made = uri(&text.parse().unwrap()).unwrap();
            assert_eq!(made.to_string(), expected);
        }
        let all = http::Uri::builder()
            .scheme("https")
            .authority("a")
            .path_and_query("*");
        let made = uri(&all.build().unwrap()).unwrap();
        assert_eq!((made.path(), made.host()), ("*", Some("a")));
    }

    #[test]
    fn length_of_a_response_without_a_body() {
        for (status, length) in [(204, None), (304, Some("7")), (200, Some("0"))] {
            let mut answer = HttpResponse::build(StatusCode::from_u16(status).unwrap());
            answer.insert_header(("content-length", "7"));
            let answer = answer.finish();
            let size = body_size(answer.head(), BodySize::Sized(0));
            let head = response(answer.head(), size);
            let found = head.headers().get("content-length");
            assert_eq!(found.map(|value| value.to_str().unwrap()), length);
        }
    }

    #[test]
    fn response_has_no_headers_of_a_connection() {
        let mut answer = HttpResponse::Ok();
        answer.insert_header(("transfer-encoding", "chunked"));
        answer.insert_header(("connection", "close"));
        answer.insert_header(("keep-alive", "timeout=5"));
        answer.insert_header(("proxy-connection", "close"));
        answer.insert_header(("te", "trailers"));
        answer.insert_header(("content-length", "7"));
        answer.append_header(("set-cookie", "a=1"));
        answer.append_header(("set-cookie", "b=2"));
        let answer = answer.finish();
        let head = response(answer.head(), BodySize::Sized(5));
        assert_eq!(head.headers().get_all("set-cookie").iter().count(), 2);
        assert_eq!(head.headers()["content-length"], "5");
        assert!(head.headers().contains_key("date"));
        for name in [
            "transfer-encoding",
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
        ] {
            assert!(!head.headers().contains_key(name), "{name}");
        }
        let head = response(answer.head(), BodySize::Stream);
        assert!(!head.headers().contains_key("content-length"));
    }
}
