//! Writes a detached body to its client.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BoxBody, MessageBody as _};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::AsyncWrite as _;

use crate::client_socket::{ClientSocket, Detached, Kind};

/// Bytes that are gathered before a write. The last piece of a body may exceed it.
const WRITE_BYTES: usize = 32 * 1024;

thread_local! {
    /// Gathered bytes. A poll leaves nothing in it, so all streams of a thread share it.
    static SCRATCH: RefCell<BytesMut> = RefCell::default();
}

/// Writes the rest of a response.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    body: BoxBody,
    /// Bytes that the socket has not accepted.
    unsent: Bytes,
    kind: Kind,
    end: Option<End>,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Complete, and another request may follow.
    KeepAlive,
    /// Complete, and the connection closes.
    Close,
    /// The client disconnected or the body failed. The client sees the connection close.
    Broken,
}

// === impl StreamWriter ===

impl StreamWriter {
    pub(crate) fn new(Detached { body, kind }: Detached) -> Self {
        Self {
            body,
            unsent: Bytes::new(),
            kind,
            end: None,
        }
    }

    /// Writes until the body is pending or has ended.
    pub(crate) fn poll(&mut self, client: &ClientSocket, cx: &mut Context<'_>) -> Poll<End> {
        let peer_closed = match self.kind {
            Kind::Chunked { .. } => client.poll_peer_closed(cx),
            Kind::Upgraded => client.poll_inbound(cx),
        };
        if peer_closed.is_ready() {
            return Poll::Ready(End::Broken);
        }
        loop {
            while !self.unsent.is_empty() {
                match ready!(write(client, cx, &self.unsent)) {
                    Ok(written) => self.unsent.advance(written),
                    Err(_) => return Poll::Ready(End::Broken),
                }
            }
            // TLS accepts more than its socket.
            if ready!(client.poll_flush(cx)).is_err() {
                return Poll::Ready(End::Broken);
            }
            if let Some(end) = self.end {
                return Poll::Ready(end);
            }
            let pending = SCRATCH.with_borrow_mut(|out| {
                out.clear();
                let pending = self.gather(cx, out);
                self.unsent = send(client, cx, out).unwrap_or_else(|_| {
                    self.end = Some(End::Broken);
                    Bytes::new()
                });
                pending
            });
            // A pending body has registered the waker, and so has a socket that is full.
            if pending && self.unsent.is_empty() && self.end.is_none() {
                return Poll::Pending;
            }
        }
    }

    /// Gathers what the body has now. Returns whether the body is pending.
    fn gather(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> bool {
        while out.len() < WRITE_BYTES {
            match self.body.as_pin_mut().poll_next(cx) {
                Poll::Pending => return true,
                Poll::Ready(Some(Ok(data))) if self.kind == Kind::Upgraded => {
                    out.extend_from_slice(&data)
                }
                Poll::Ready(Some(Ok(data))) => put_chunk(&data, out),
                Poll::Ready(None) => {
                    if self.kind != Kind::Upgraded {
                        out.put_slice(b"0\r\n\r\n");
                    }
                    self.end = Some(if self.kind == (Kind::Chunked { keep_alive: true }) {
                        End::KeepAlive
                    } else {
                        End::Close
                    });
                    return false;
                }
                Poll::Ready(Some(Err(_))) => {
                    self.end = Some(End::Broken);
                    return false;
                }
            }
        }
        false
    }
}

/// Writes as much as the socket accepts, and returns the rest.
fn send(client: &ClientSocket, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<Bytes> {
    while !bytes.is_empty() {
        match write(client, cx, bytes) {
            Poll::Ready(written) => bytes = &bytes[written?..],
            Poll::Pending => return Ok(Bytes::copy_from_slice(bytes)),
        }
    }
    Ok(Bytes::new())
}

fn write(client: &ClientSocket, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(client.with_socket(|socket: Pin<&mut _>| socket.poll_write(cx, bytes))) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(written),
    }
}

/// Appends one chunk (RFC 9112, section 7.1). Empty data is skipped: an empty chunk ends a body.
fn put_chunk(data: &[u8], out: &mut BytesMut) {
    if data.is_empty() {
        return;
    }
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut length = data.len();
    while length > 0 {
        at -= 1;
        digits[at] = b"0123456789ABCDEF"[length & 15];
        length >>= 4;
    }
    out.reserve(data.len() + digits.len() + 4);
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
    out.put_slice(data);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_size_is_hexadecimal() {
        let chunk = |data: &[u8]| {
            let mut out = BytesMut::new();
            put_chunk(data, &mut out);
            out.to_vec()
        };
        assert_eq!(chunk(b""), b"");
        assert_eq!(chunk(b"a"), b"1\r\na\r\n");
        assert_eq!(
            chunk(&[b'x'; 26]),
            [b"1A\r\n".as_slice(), &[b'x'; 26], b"\r\n"].concat()
        );
        assert!(chunk(&vec![b'x'; 0x1_0000]).starts_with(b"10000\r\nxxx"));
    }
}
