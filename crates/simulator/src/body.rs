//! A response body that executes steps: write, wait, stall, break off.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::socket::Control;
use crate::stats::Guard;

/// One step of a body.
#[derive(Debug)]
pub(crate) enum Step {
    /// Write these bytes, which hold this number of tokens.
    Write(Bytes, u64),
    /// Wait until this time.
    Sleep(Instant),
    /// Wait until the kernel has all bytes, and let other tasks run.
    Flush,
    /// Send nothing until the peer closes the connection.
    Stall,
    /// Close the connection without ending the body.
    Cut,
    /// The same with a TCP reset.
    Reset,
    /// End the body as HTTP defines.
    End,
}

/// Source of the steps. It is not called again after `Stall`, `Cut`, `Reset` and `End`.
pub(crate) trait Director: Send {
    fn next(&mut self) -> Step;
}

/// The body of every answer.
pub(crate) enum Answer {
    /// In one piece, with a length.
    Whole {
        body: Full<Bytes>,
        guard: Option<Guard>,
        control: Arc<Control>,
    },
    /// Step by step, chunked.
    Staged(Box<Staged>),
}

pub(crate) struct Staged {
    director: Box<dyn Director>,
    guard: Option<Guard>,
    control: Arc<Control>,
    state: State,
    sleep: Pin<Box<Sleep>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asking,
    Sleeping,
    /// The number of the flush after which the body continues.
    Flushing(u64),
    Cutting(u64),
    Stalled,
    Over,
}

/// The error that makes hyper close the connection without ending the body.
#[derive(Debug)]
pub(crate) struct Broken;

// === impl Answer ===

impl Answer {
    pub(crate) fn whole(body: Bytes, guard: Option<Guard>, control: Arc<Control>) -> Self {
        Self::Whole {
            body: Full::new(body),
            guard,
            control,
        }
    }

    pub(crate) fn staged(director: Box<dyn Director>, guard: Guard, control: Arc<Control>) -> Self {
        let sleep = Box::pin(tokio::time::sleep_until(Instant::now()));
        Self::Staged(Box::new(Staged {
            director,
            guard: Some(guard),
            control,
            state: State::Asking,
            sleep,
        }))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Whole {
                body,
                guard,
                control,
            } => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                if let Some(guard) = guard.take() {
                    control.end_at_flush(guard);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(|never: Infallible| match never {})))
            }
            Self::Staged(staged) => staged.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            // An empty body is polled as well, so its guard is ended.
            Self::Whole { body, guard, .. } => guard.is_none() && body.is_end_stream(),
            Self::Staged(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { body, .. } => body.size_hint(),
            Self::Staged(_) => SizeHint::default(),
        }
    }
}

// === impl Staged ===

impl Staged {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.state {
                State::Asking => {}
                State::Sleeping => {
                    ready!(self.sleep.as_mut().poll(cx));
                    self.state = State::Asking;
                }
                State::Flushing(seen) => {
                    ready!(self.control.poll_flushed_since(seen, cx));
                    self.state = State::Asking;
                }
                State::Cutting(seen) => {
                    ready!(self.control.poll_flushed_since(seen, cx));
                    self.state = State::Over;
                    if let Some(guard) = self.guard.take() {
                        guard.end();
                    }
                    return Poll::Ready(Some(Err(Broken)));
                }
                State::Stalled => return Poll::Pending,
                State::Over => return Poll::Ready(None),
            }
            match self.director.next() {
                Step::Write(bytes, tokens) => {
                    if let Some(guard) = &self.guard {
                        guard.tokens(tokens);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Step::Sleep(until) => {
                    self.sleep.as_mut().reset(until);
                    self.state = State::Sleeping;
                }
                Step::Flush => self.state = State::Flushing(self.control.flushes()),
                Step::Stall => self.state = State::Stalled,
                // The peer shall see what was written before, so the connection is not
                // broken under it.
                Step::Cut => self.state = State::Cutting(self.control.flushes()),
                Step::Reset => {
                    self.control.reset_on_close();
                    self.state = State::Cutting(self.control.flushes());
                }
                Step::End => {
                    self.state = State::Over;
                    if let Some(guard) = self.guard.take() {
                        self.control.end_at_flush(guard);
                    }
                }
            }
        }
    }
}

// === impl Broken ===

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer was broken off, as the request asked")
    }
}

impl std::error::Error for Broken {}
