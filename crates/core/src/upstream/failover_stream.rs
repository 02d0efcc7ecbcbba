//! A stream whose attempt can still be replaced: by a retry before its first record, by a
//! continuation after it.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::attempt::AttemptStream;
use super::endpoint_stats::Attempt;
use super::failover::Failover;
use super::failure::{FailureKind, RetryDecision};
use super::reasoning::refused_by;
use super::{OpenError, StreamStep, TokenStream, UpstreamResponse};
use crate::model::event::Failure;
use crate::upstream::decode::{Flow, SseEvent};

struct FailoverStream {
    /// `None` once no further attempt is possible.
    failover: Option<Box<Failover>>,
    state: State,
}

enum State {
    Live {
        stream: Box<dyn TokenStream>,
        attempt: Attempt,
        /// Whether it continues an answer. Its first read then counts as its first token, since
        /// [`TokenStream::first_token`] is called for an answer's first token only.
        continues: bool,
    },
    Reopening(BoxFuture<'static, (Box<Failover>, Result<AttemptStream, OpenError>)>),
    Over,
}

/// Returns a stream whose attempt is not replaced. Its first read counts as its first token.
pub(super) fn attached(started: AttemptStream) -> UpstreamResponse {
    let AttemptStream {
        head,
        stream,
        attempt,
        endpoint: _,
    } = started;
    let state = State::Live {
        stream,
        attempt,
        continues: true,
    };
    UpstreamResponse {
        head,
        stream: Box::new(FailoverStream {
            failover: None,
            state,
        }),
    }
}

/// Makes attempts until one is answered.
pub(super) async fn open(failover: Box<Failover>) -> Result<UpstreamResponse, OpenError> {
    failover.credit_budget();
    let (failover, started) = failover.run(Duration::ZERO).await;
    let AttemptStream {
        head,
        stream,
        attempt,
        endpoint: _,
    } = started?;
    let state = State::Live {
        stream,
        attempt,
        continues: false,
    };
    Ok(UpstreamResponse {
        head,
        stream: Box::new(FailoverStream {
            failover: Some(failover),
            state,
        }),
    })
}

impl TokenStream for FailoverStream {
    fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        loop {
            match &mut self.state {
                State::Live {
                    stream,
                    attempt,
                    continues: false,
                } => {
                    let step = stream.poll_events(cx, sink);
                    if let (Poll::Ready(StreamStep::Ended(_)), Some(trace)) =
                        (&step, &mut attempt.trace)
                    {
                        trace.answered();
                    }
                    return step;
                }
                State::Live {
                    stream,
                    attempt,
                    continues,
                } => {
                    let step = stream.poll_events(cx, sink);
                    if matches!(step, Poll::Ready(StreamStep::Read)) {
                        attempt.first_token();
                        *continues = false;
                    }
                    return step;
                }
                State::Reopening(reopening) => {
                    let Poll::Ready((failover, started)) = reopening.as_mut().poll_unpin(cx) else {
                        return Poll::Pending;
                    };
                    let continues = failover.is_kept();
                    // An upstream that refuses to continue leaves it to another one.
                    self.failover = Some(failover).filter(|_| continues || started.is_ok());
                    match started {
                        Ok(AttemptStream {
                            stream, attempt, ..
                        }) => {
                            self.state = State::Live {
                                stream,
                                attempt,
                                continues,
                            }
                        }
                        Err(error) => {
                            self.state = State::Over;
                            return Poll::Ready(StreamStep::Failed(error.to_api_error()));
                        }
                    }
                }
                State::Over => return Poll::Pending,
            }
        }
    }

    fn buffered(&self) -> usize {
        match &self.state {
            State::Live { stream, .. } => stream.buffered(),
            State::Reopening(_) | State::Over => 0,
        }
    }

    fn first_token(&mut self) {
        // The request is kept only if an endpoint could continue the answer.
        if let Some(failover) = &mut self.failover
            && !failover.keep()
        {
            self.failover = None;
        }
        if let State::Live {
            stream, attempt, ..
        } = &mut self.state
        {
            attempt.first_token();
            stream.first_token();
        }
    }

    fn failed(&mut self, failure: &Failure) {
        if let State::Live { attempt, .. } = &mut self.state {
            if let Some(trace) = &mut attempt.trace {
                trace.failed(&failure.code);
            }
            attempt.fail(FailureKind::of_stream(failure.retryable));
        }
    }

    fn retry(&mut self, failure: &Failure) -> bool {
        self.failed(failure);
        let State::Live { .. } = &self.state else {
            return false;
        };
        let Some(mut failover) = self.failover.take() else {
            return false;
        };
        if let Some(refused) = refused_by(&failure.code, &failure.message, "")
            && failover.drop_refused(refused)
        {
            self.state = State::Reopening(failover.run(Duration::ZERO).boxed());
            return true;
        }
        let decision = if failure.retryable {
            RetryDecision::Anywhere(None)
        } else {
            RetryDecision::No
        };
        match failover.plan(decision) {
            Some(wait) => {
                // Closes the old connection and frees its slot before the new request is sent.
                self.state = State::Reopening(failover.run(wait).boxed());
                true
            }
            None => false,
        }
    }

    fn continue_from(&mut self, failure: &Failure, text: &str) -> Option<String> {
        if let State::Reopening(_) = &self.state {
            return None;
        }
        let mut failover = self.failover.take()?;
        let name = failover.plan_continuation(failure, text)?;
        self.state = State::Reopening(failover.run(Duration::ZERO).boxed());
        Some(name)
    }
}
