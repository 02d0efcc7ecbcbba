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

use crate::client_socket::{ClientSocket, Kind};

/// What a request's answer needs to leave actix: taken before the request is handled, shown when
/// there is a response.
pub struct Detach {
    client: Rc<ClientSocket>,
    /// Bytes of the request's body.
    length: u64,
    kind: Kind,
}

impl Detach {
    /// A ticket, if the request came over a [`ClientSocket`] and says plainly where it ends and whether
    /// another may follow.
    pub fn of(request: &ServiceRequest) -> Option<Self> {
        let client = request.conn_data::<Rc<ClientSocket>>()?.clone();
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
        plain.then_some(Self {
            client,
            length,
            kind,
        })
    }

    /// Lets a body that streams leave once it waits.
    pub fn show(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        let Some(total_read) = self
            .client
            .whole_request(self.length)
            .filter(|_| self.may_leave(response.response()))
        else {
            return response;
        };
        response.map_body(|_, body| {
            self.client.offer(body, total_read, self.kind);
            BoxBody::new(DetachableBody {
                client: self.client,
            })
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
                    && self.client.inbound.is_installed()
            }
        };
        expected && response.body().size() == BodySize::Stream
    }
}

/// Stands in actix for a body that is in the [`ClientSocket`].
struct DetachableBody {
    client: Rc<ClientSocket>,
}

impl MessageBody for DetachableBody {
    type Error = Box<dyn Error>;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.client
            .poll_body(|body| body.poll_next(cx))
            .unwrap_or(Poll::Ready(None))
    }
}

impl Drop for DetachableBody {
    fn drop(&mut self) {
        self.client.withdraw();
    }
}
