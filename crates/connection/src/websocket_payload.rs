//! The payload of a WebSocket, which outlives actix's part of the connection.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::HttpRequest;
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures::Stream;

use crate::client_socket::ClientSocket;

/// Reads from actix until the connection leaves it, then from the connection's buffer.
struct WebSocketPayload {
    actix: Payload,
    client: Rc<ClientSocket>,
    through_actix: bool,
}

/// Wraps the payload of a WebSocket upgrade, so that its connection can leave actix.
///
/// Without [direct writes](crate::ConnectionOptions::direct_writes) the payload is returned as it is.
pub fn websocket_payload(request: &HttpRequest, payload: Payload) -> Payload {
    let client = request.conn_data::<Rc<ClientSocket>>().cloned();
    let Some(client) = client.filter(|client| client.direct_writes()) else {
        return payload;
    };
    client.inbound().install();
    Payload::Stream {
        payload: Box::pin(WebSocketPayload {
            actix: payload,
            client,
            through_actix: true,
        }),
    }
}

// === impl WebSocketPayload ===

impl Stream for WebSocketPayload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let inbound = this.client.inbound();
        if this.through_actix {
            match Pin::new(&mut this.actix).poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    inbound.count_through_actix(bytes.len());
                    return Poll::Ready(Some(Ok(bytes)));
                }
                // Everything that actix had read was taken before.
                _ if inbound.is_direct() => this.through_actix = false,
                Poll::Pending => {
                    inbound.wake_on_change(cx);
                    return Poll::Pending;
                }
                ended => return ended,
            }
        }
        // A client that disconnects without a close frame is an error, as with actix.
        inbound
            .poll_inbound(cx)
            .map(|bytes| Some(bytes.ok_or(PayloadError::Incomplete(None))))
    }
}
