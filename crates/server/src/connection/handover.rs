//! A response body that may leave actix.

use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceRequest;
use actix_web::http::{ConnectionType, StatusCode, Version, header};
use actix_web::{HttpResponse, dev::ServiceResponse};
use bytes::Bytes;

use super::line::{Kind, Line};

/// What a request's answer needs to leave actix: taken before the request is handled, shown when
/// there is a response.
pub(crate) struct Ticket {
    line: Rc<Line>,
    /// Bytes of the request's body.
    length: u64,
    kind: Kind,
}

impl Ticket {
    /// A ticket, if the request came over a [`Line`] and says plainly where it ends and whether
    /// another may follow.
    pub(crate) fn of(request: &ServiceRequest) -> Option<Self> {
        let line = request.conn_data::<Rc<Line>>()?.clone();
        let headers = request.headers();
        let plain = request.version() == Version::HTTP_11
            && !headers.contains_key(header::TRANSFER_ENCODING)
            && !headers.contains_key(header::EXPECT);
        let length = match headers.get(header::CONTENT_LENGTH) {
            Some(length) => length.to_str().ok()?.parse().ok()?,
            None => 0,
        };
        let kind = match request.head().connection_type() {
            ConnectionType::Upgrade => Kind::Upgraded,
            kind => Kind::Chunked {
                keep_alive: kind == ConnectionType::KeepAlive,
            },
        };
        plain.then_some(Self { line, length, kind })
    }

    /// Lets a body that streams leave once it waits.
    pub(crate) fn show(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        let Some(ever) = self
            .line
            .whole_request(self.length)
            .filter(|_| self.may_leave(response.response()))
        else {
            return response;
        };
        response.map_body(|_, body| {
            self.line.offer(body, ever, self.kind);
            BoxBody::new(Handover { line: self.line })
        })
    }

    /// Whether the body follows the head as it comes, in chunks or as it is.
    fn may_leave(&self, response: &HttpResponse<BoxBody>) -> bool {
        let expected = match self.kind {
            Kind::Chunked { .. } => {
                response.status().is_success()
                    && !response.headers().contains_key(header::CONNECTION)
            }
            Kind::Upgraded => {
                response.status() == StatusCode::SWITCHING_PROTOCOLS
                    && self.line.inbox.is_installed()
            }
        };
        expected && response.body().size() == BodySize::Stream
    }
}

/// Stands in actix for a body that is in the [`Line`].
struct Handover {
    line: Rc<Line>,
}

impl MessageBody for Handover {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.line
            .poll_body(|body| body.poll_next(cx))
            .unwrap_or(Poll::Ready(None))
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        self.line.withdraw();
    }
}
