//! A stream that writes to its client by itself.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::body::{BoxBody, MessageBody as _};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::AsyncWrite as _;

use crate::client_socket::{ClientSocket, Detached, Kind};

/// How much is put together before it is written; a body's last piece comes on top.
const WRITE_BYTES: usize = 32 * 1024;

thread_local! {
    /// What is written is gone before the task lets go of the thread, so all streams of a thread
    /// share one buffer.
    static SCRATCH: RefCell<BytesMut> = RefCell::default();
}

/// The rest of an answer.
#[derive(Debug)]
pub(super) struct StreamWriter {
    body: BoxBody,
    /// What the socket did not take.
    unsent: Bytes,
    kind: Kind,
    end: Option<End>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Whole, and another request may follow.
    Next,
    /// Whole, and it was the last.
    Last,
    /// The client left, or the body broke off: the connection shows it by being closed.
    Broken,
}

impl StreamWriter {
    pub(super) fn new(Detached { body, kind }: Detached) -> Self {
        Self {
            body,
            unsent: Bytes::new(),
            kind,
            end: None,
        }
    }

    /// Writes what there is to write, until the end.
    pub(super) fn poll(&mut self, client: &ClientSocket, cx: &mut Context<'_>) -> Poll<End> {
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
            if let Some(end) = self.end {
                return Poll::Ready(end);
            }
            let waits = SCRATCH.with_borrow_mut(|out| {
                out.clear();
                let waits = self.gather(cx, out);
                self.unsent = send(client, cx, out).unwrap_or_else(|_| {
                    self.end = Some(End::Broken);
                    Bytes::new()
                });
                waits
            });
            // What waits has left its waker with the body.
            if waits && self.unsent.is_empty() && self.end.is_none() {
                return Poll::Pending;
            }
        }
    }

    /// Puts together what the body has to say now. Whether it waits for more.
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
                        End::Next
                    } else {
                        End::Last
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

/// Writes as much as the socket takes; gives back the rest.
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

/// One chunk (RFC 9112, section 7.1). An empty one would be the end of the body.
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
    fn chunks_are_sized_in_hexadecimal() {
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
