//! The task that reads from one client: passes commands to the session, answers pings, and closes
//! the socket.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use actix_ws::{AggregatedMessage, AggregatedMessageStream, ProtocolError};
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::control_frames::{CloseReason, ControlFrame};
use crate::frame_guard::{Refusal, Refused};
use crate::session::SocketSession;
use crate::socket_credential::Expiry;

/// Pings and end of one socket.
#[derive(Clone, Debug)]
pub(crate) struct KeepAlive {
    /// Interval of protocol pings.
    pub(crate) ping_interval: Duration,
    /// A peer that is silent for this long after a ping was due is cut.
    pub(crate) ping_timeout: Duration,
    /// Whether the socket closes at once if another process reads its streams on.
    pub(crate) leaves: bool,
}

/// The longest interval of pings, and the longest wait for an answer.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Close codes of RFC 6455 and its registry.
const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED_DATA: u16 = 1003;
const INVALID_PAYLOAD: u16 = 1007;
const POLICY_VIOLATION: u16 = 1008;
const TOO_BIG: u16 = 1009;
const INTERNAL_ERROR: u16 = 1011;
const SERVICE_RESTART: u16 = 1012;
const TRY_AGAIN_LATER: u16 = 1013;

/// Asks for another credential.
pub(crate) const CREDENTIAL_REFUSED: u16 = 4401;

/// Runs until the client leaves, is silent for too long, breaks the protocol, or the body is
/// dropped.
pub(crate) async fn read_loop(
    socket: Weak<RefCell<SocketSession>>,
    mut messages: AggregatedMessageStream,
    refusal: Refusal,
    keep_alive: KeepAlive,
) {
    let mut closes = ClosesSocket {
        socket: socket.clone(),
        reason: Some((INTERNAL_ERROR, "")),
    };
    // Zero is no interval, and longer ones would not fit the clock.
    let ping_interval = keep_alive
        .ping_interval
        .clamp(Duration::from_millis(1), LONGEST_INTERVAL);
    let ping_timeout = keep_alive.ping_timeout.min(LONGEST_INTERVAL);
    let opened = Instant::now();
    let mut last_message = opened;
    let mut pings = tokio::time::interval_at(last_message + ping_interval, ping_interval);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let registry = socket.upgrade().map(|socket| socket.borrow().registry());
    let closing = async {
        match &registry {
            Some(registry) => registry.draining().await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(closing);
    let renewed = socket
        .upgrade()
        .map_or_else(Rc::default, |socket| socket.borrow().renewed());
    let mut drain: Option<Interval> = None;
    let room = socket
        .upgrade()
        .map_or_else(Rc::default, |socket| socket.borrow().room());
    let end = loop {
        let silent_until = last_message + ping_interval + ping_timeout;
        let has_room = socket
            .upgrade()
            .is_none_or(|socket| socket.borrow().has_room());
        let (revoked, expiry) = socket.upgrade().map_or((None, None), |socket| {
            let socket = socket.borrow();
            (socket.revoked(), socket.expiry())
        });
        tokio::select! {
            message = messages.recv(), if has_room => {
                last_message = Instant::now();
                match on_message(&socket, message, &refusal) {
                    Next::GoOn => {}
                    Next::Close(code, reason) => break Some((code, reason)),
                    Next::Gone => break None,
                }
            }
            // A client that reads what waits for it is there, though nothing of it is read.
            () = room.notified(), if !has_room => last_message = Instant::now(),
            () = cancelled(revoked.as_ref()) => {
                break Some((CREDENTIAL_REFUSED, "the credential was revoked"));
            }
            () = due(expiry), if expiry.is_some() => match (expiry, socket.upgrade()) {
                (Some(Expiry::Notice(_)), Some(socket)) => socket.borrow_mut().tell_expiry(),
                _ => break Some((CREDENTIAL_REFUSED, "the credential has expired")),
            },
            () = renewed.notified() => {}
            _ = pings.tick() => match socket.upgrade() {
                Some(socket) => socket.borrow_mut().control(ControlFrame::Ping),
                None => break None,
            },
            () = &mut closing, if drain.is_none() => {
                // A client that has just connected is about to send its first message.
                let now = Instant::now();
                let is_new = last_message == opened;
                let first = if is_new { now.max(opened + FIRST_MESSAGE) } else { now };
                drain = Some(tokio::time::interval_at(first, DRAIN_CHECK));
            }
            () = tick(drain.as_mut()), if drain.is_some() => {
                // Running generations may end; an idle socket closes at once. The SDKs reconnect on
                // both codes.
                let elsewhere = registry.as_ref().is_some_and(|registry| registry.readers_leave());
                let leaves = elsewhere && keep_alive.leaves;
                let may_close = socket.upgrade().is_none_or(|socket| {
                    let socket = socket.borrow();
                    socket.is_idle() || leaves && socket.may_leave()
                });
                if may_close {
                    break Some(if elsewhere {
                        (SERVICE_RESTART, "another process has taken over")
                    } else {
                        (GOING_AWAY, "the gateway is shutting down")
                    });
                }
            }
            () = tokio::time::sleep_until(silent_until) => {
                if !has_room {
                    break Some((TRY_AGAIN_LATER, "too slow"));
                }
                tracing::debug!("a WebSocket peer did not answer pings");
                break Some((INTERNAL_ERROR, "no answer to pings"));
            }
        }
    };
    closes.reason = end;
}

/// Closes the socket when the loop ends, also by a panic: without the loop nothing else would.
struct ClosesSocket {
    socket: Weak<RefCell<SocketSession>>,
    reason: CloseReason,
}

impl Drop for ClosesSocket {
    fn drop(&mut self) {
        // A peer that does not read does not see it.
        if let Some(socket) = self.socket.upgrade()
            && let Ok(mut session) = socket.try_borrow_mut()
        {
            session.close(self.reason);
        }
    }
}

/// How often a socket is checked for being idle while the gateway drains.
const DRAIN_CHECK: Duration = Duration::from_millis(50);

/// The time that a new socket has for its first message while the gateway drains.
const FIRST_MESSAGE: Duration = Duration::from_secs(5);

async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

async fn due(expiry: Option<Expiry>) {
    match expiry {
        Some(Expiry::Notice(at) | Expiry::Close(at)) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

enum Next {
    GoOn,
    Close(u16, &'static str),
    Gone,
}

fn on_message(
    socket: &Weak<RefCell<SocketSession>>,
    message: Option<Result<AggregatedMessage, ProtocolError>>,
    refusal: &Refusal,
) -> Next {
    let message = match message {
        None => return Next::Gone,
        Some(Err(_)) if refusal.get() == Some(Refused::TooLarge) => {
            return Next::Close(TOO_BIG, "message too large");
        }
        Some(Err(_)) if refusal.get() == Some(Refused::TooSlow) => {
            return Next::Close(POLICY_VIOLATION, "message not complete in time");
        }
        Some(Err(_)) if refusal.get() == Some(Refused::Overloaded) => {
            return Next::Close(TRY_AGAIN_LATER, "overloaded");
        }
        Some(Err(ProtocolError::Overflow)) => return Next::Close(TOO_BIG, "message too large"),
        Some(Err(ProtocolError::Io(error))) if error.kind() == std::io::ErrorKind::InvalidData => {
            // actix-ws has one error kind for both; only the text differs.
            if error.to_string().contains("reserved bits") {
                return Next::Close(PROTOCOL_ERROR, "reserved bits are set");
            }
            return Next::Close(INVALID_PAYLOAD, "text is not UTF-8");
        }
        Some(Err(ProtocolError::Io(_))) => return Next::Gone,
        Some(Err(_)) => return Next::Close(PROTOCOL_ERROR, "protocol error"),
        Some(Ok(message)) => message,
    };
    match message {
        AggregatedMessage::Text(text) => {
            let Some(socket) = socket.upgrade() else {
                return Next::Gone;
            };
            socket.borrow_mut().on_message(&text);
            Next::GoOn
        }
        AggregatedMessage::Binary(_) => {
            Next::Close(UNSUPPORTED_DATA, "binary messages are not supported")
        }
        AggregatedMessage::Ping(payload) => {
            let Some(socket) = socket.upgrade() else {
                return Next::Gone;
            };
            socket.borrow_mut().control(ControlFrame::Pong(&payload));
            Next::GoOn
        }
        AggregatedMessage::Pong(_) => Next::GoOn,
        AggregatedMessage::Close(reason) => match reason {
            Some(reason) => Next::Close(reason.code.into(), ""),
            None => Next::Gone,
        },
    }
}
