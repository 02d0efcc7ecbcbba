//! One request and its response. The connection returns to the pool at the end of the body.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use reqwest::header::HeaderMap;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::pool::Pool;
use super::response::{Framing, Head, HeadReader};

/// Size of the read buffer, in bytes.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// A read is decoded before the task yields, so all streams of a thread share one buffer.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub(in crate::upstream) enum SendError {
    /// Connecting timed out.
    #[error("the connection was not accepted in time")]
    ConnectTimeout,
    /// Connecting failed.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The connection broke, or the response is not HTTP.
    #[error("no answer: {0}")]
    Disconnected(String),
}

/// Whether a failed request may have reached the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// It was not written completely, and the server sent no byte.
    Incomplete,
    /// It may have.
    Unknown,
}

/// A client of one endpoint.
#[derive(Debug)]
pub(in crate::upstream) struct Client {
    /// Host and port to connect to.
    address: (String, u16),
    /// Value of the `Host` header.
    authority: String,
    connect_timeout: Duration,
    pool: Arc<Pool>,
}

impl Client {
    pub(in crate::upstream) fn new(url: &reqwest::Url, connect_timeout: Duration) -> Option<Self> {
        let host = url.host_str()?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let bare = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Some(Self {
            address: (bare, url.port_or_known_default()?),
            authority,
            connect_timeout,
            pool: Arc::default(),
        })
    }

    /// Sends a POST and waits for the head.
    pub(in crate::upstream) async fn post(
        &self,
        target: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Exchange, SendError> {
        let request = self.request(target, headers, body);
        if let Some(stream) = self.pool.take() {
            match self.send(stream, &request).await {
                Ok(exchange) => return Ok(exchange),
                // Closed while idle: the server did not get the complete request.
                Err((_, Delivery::Incomplete)) => {}
                // The server may have processed the request, so the retry policy decides.
                Err((error, Delivery::Unknown)) => return Err(error),
            }
        }
        let stream = self.connect().await?;
        self.send(stream, &request)
            .await
            .map_err(|(error, _)| error)
    }

    fn request(&self, target: &str, headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
        let mut request = Vec::with_capacity(512 + body.len());
        for piece in [
            "POST ",
            target,
            " HTTP/1.1\r\nhost: ",
            &self.authority,
            "\r\ncontent-length: ",
            itoa::Buffer::new().format(body.len()),
            "\r\n",
        ] {
            request.extend_from_slice(piece.as_bytes());
        }
        for (name, value) in headers {
            for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                request.extend_from_slice(piece);
            }
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        request
    }

    async fn connect(&self) -> Result<TcpStream, SendError> {
        let (host, port) = (&*self.address.0, self.address.1);
        let connected = if self.connect_timeout.is_zero() {
            TcpStream::connect((host, port)).await
        } else {
            let connecting =
                tokio::time::timeout(self.connect_timeout, TcpStream::connect((host, port)));
            connecting.await.map_err(|_| SendError::ConnectTimeout)?
        };
        let stream = connected.map_err(SendError::Connect)?;
        // Otherwise a request's body may wait for the acknowledgement of its head.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// Writes the request and reads the head.
    async fn send(
        &self,
        mut stream: TcpStream,
        request: &[u8],
    ) -> Result<Exchange, (SendError, Delivery)> {
        let written = stream.write_all(request).await;
        // Without an answer's byte and the request's last one, the server cannot have processed it.
        let delivery = |reader: &HeadReader| {
            if written.is_err() && reader.is_empty() {
                Delivery::Incomplete
            } else {
                Delivery::Unknown
            }
        };
        let mut reader = HeadReader::default();
        loop {
            // A server may refuse a request and close before it has read all of it, so the answer
            // is read even where writing failed.
            let read = std::future::poll_fn(|cx| {
                read(&mut stream, cx, |bytes| {
                    (bytes.is_empty(), reader.push(bytes))
                })
            })
            .await;
            match read {
                Ok((_, Ok(Some((head, rest))))) => {
                    return Ok(Exchange::new(stream, self.pool.clone(), head, rest));
                }
                Ok((true, _)) => {
                    let why = written
                        .as_ref()
                        .err()
                        .map_or_else(|| "closed before the head".to_owned(), ToString::to_string);
                    return Err((SendError::Disconnected(why), delivery(&reader)));
                }
                Ok((false, Ok(None))) => {}
                Ok((false, Err(_))) => {
                    return Err((
                        SendError::Disconnected("the head is not HTTP".to_owned()),
                        Delivery::Unknown,
                    ));
                }
                Err(error) => {
                    return Err((
                        SendError::Disconnected(error.to_string()),
                        delivery(&reader),
                    ));
                }
            }
        }
    }
}

/// Reads once and passes the bytes to `take`. No bytes means the end of the stream.
fn read<T>(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut into = ReadBuf::new(buffer);
        match Pin::new(stream).poll_read(cx, &mut into) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(take(into.filled()))),
        }
    })
}

/// A response whose body is still to be read. Dropping it before the end of the body closes the
/// connection.
#[derive(Debug)]
pub(in crate::upstream) struct Exchange {
    stream: Option<TcpStream>,
    pool: Arc<Pool>,
    pub(in crate::upstream) status: u16,
    pub(in crate::upstream) headers: HeaderMap,
    framing: Framing,
    keep_alive: bool,
    /// Body bytes that were read with the head.
    rest: Vec<u8>,
}

/// Result of one read of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum BodyStep {
    /// Bytes were read; perhaps none of them data.
    Read,
    /// The body is complete.
    End,
    /// The connection broke, or the body's framing is malformed.
    Broken,
}

impl Exchange {
    fn new(stream: TcpStream, pool: Arc<Pool>, head: Head, rest: Vec<u8>) -> Self {
        let Head {
            status,
            headers,
            framing,
            keep_alive,
        } = head;
        Self {
            stream: Some(stream),
            pool,
            status,
            headers,
            framing,
            keep_alive,
            rest,
        }
    }

    /// Reads once and passes the body's data to `sink`, borrowed from the read buffer.
    pub(in crate::upstream) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Poll<BodyStep> {
        if self.framing.is_done() {
            return Poll::Ready(self.complete(0));
        }
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(self.decode(&rest, sink));
        }
        let Some(mut stream) = self.stream.take() else {
            return Poll::Ready(BodyStep::Broken);
        };
        let polled = read(&mut stream, cx, |bytes| {
            if bytes.is_empty() {
                None
            } else {
                Some(self.decode(bytes, sink))
            }
        });
        let step = match polled {
            Poll::Pending => {
                self.stream = Some(stream);
                return Poll::Pending;
            }
            Poll::Ready(Err(_)) => return Poll::Ready(BodyStep::Broken),
            Poll::Ready(Ok(None)) => {
                return Poll::Ready(if matches!(self.framing, Framing::UntilClose) {
                    BodyStep::End
                } else {
                    BodyStep::Broken
                });
            }
            Poll::Ready(Ok(Some(step))) => step,
        };
        match step {
            BodyStep::Broken => {}
            BodyStep::End if self.keep_alive => self.pool.put(stream),
            BodyStep::End => {}
            BodyStep::Read => self.stream = Some(stream),
        }
        Poll::Ready(step)
    }

    fn decode(&mut self, mut bytes: &[u8], sink: &mut dyn FnMut(&[u8])) -> BodyStep {
        loop {
            match self.framing.next(&mut bytes) {
                Ok(Some(data)) => sink(data),
                Ok(None) if self.framing.is_done() => return self.complete(bytes.len()),
                Ok(None) => return BodyStep::Read,
                Err(_) => return BodyStep::Broken,
            }
        }
    }

    /// Body complete. Unexpected bytes after it make the connection unusable.
    fn complete(&mut self, after: usize) -> BodyStep {
        if after > 0 {
            self.keep_alive = false;
        }
        if let Some(stream) = self.stream.take().filter(|_| self.keep_alive) {
            self.pool.put(stream);
        }
        BodyStep::End
    }
}
