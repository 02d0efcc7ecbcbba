//! Reads frame heads, and refuses a message that is too large when its size is announced, or that is
//! not complete in time.
//!
//! actix-ws checks a frame's size only once the whole frame is buffered, so one head of fourteen
//! bytes could make it buffer any amount.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use bytes::Bytes;
use futures::Stream;
use tokenwire_core::model::account::{Account, AccountKind, Charge};
use tokio::time::{Instant, Sleep};

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It exceeds the limit.
    TooLarge,
    /// It was not complete in time.
    TooSlow,
    /// There is no memory for it now.
    Overloaded,
}

/// actix-ws makes room for a whole frame when it has its head. Of that room whole huge pages are
/// resident.
const HUGE_PAGE: u64 = 2 * 1024 * 1024;

/// Messages are counted from this size on. Smaller ones are bounded by the number of sockets.
const COUNT_FROM: u64 = 4 * 1024;

/// Set once a message is refused.
pub(crate) type Refusal = Rc<Cell<Option<Refused>>>;

/// Limits of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageLimits {
    /// Maximum size in bytes, over all fragments.
    pub(crate) size: usize,
    /// Maximum time until it is complete.
    pub(crate) timeout: Duration,
    /// Bytes that extend the time by a second.
    pub(crate) min_rate: usize,
}

/// Passes the client's bytes on unchanged, up to the first head that announces too much.
pub(crate) struct FrameGuard {
    payload: Payload,
    heads: Heads,
    limits: MessageLimits,
    /// The start of the incomplete message.
    start: Instant,
    /// Created when an incomplete message is first waited for.
    timer: Option<Pin<Box<Sleep>>>,
    refusal: Refusal,
    account: Account,
    /// Counts the bytes of a message until it was processed.
    charge: Option<Charge>,
    /// Whether the bytes read so far were processed.
    processed: bool,
}

impl FrameGuard {
    pub(crate) fn new(
        payload: Payload,
        limits: MessageLimits,
        account: Account,
    ) -> (Self, Refusal) {
        let refusal = Refusal::default();
        (
            Self {
                payload,
                heads: Heads::new(limits.size),
                limits,
                start: Instant::now(),
                timer: None,
                refusal: refusal.clone(),
                account,
                charge: None,
                processed: false,
            },
            refusal,
        )
    }

    fn deadline(&self) -> Instant {
        let rate = self.limits.min_rate.max(1) as u64;
        let extension = Duration::from_secs(self.heads.received / rate);
        self.start + self.limits.timeout + extension
    }

    /// Counts the bytes of the incomplete message. Returns false if there is no memory for them.
    fn count(&mut self) -> bool {
        let (received, rest) = (self.heads.received, self.heads.skip);
        let bytes = received
            .next_multiple_of(HUGE_PAGE)
            .min(received.saturating_add(rest));
        if bytes < COUNT_FROM || !self.heads.is_incomplete() {
            return true;
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        match &mut self.charge {
            Some(charge) => charge.try_resize(bytes.max(charge.bytes())).is_ok(),
            charge => match self.account.try_charge(AccountKind::Messages, bytes) {
                Ok(counted) => {
                    *charge = Some(counted);
                    true
                }
                Err(_) => false,
            },
        }
    }

    /// Waits for the deadline of an incomplete message.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.heads.is_incomplete() {
            return Poll::Pending;
        }
        let deadline = self.deadline();
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(cx)
    }
}

impl Stream for FrameGuard {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.refusal.get().is_some() {
            return Poll::Ready(Some(Err(PayloadError::Overflow)));
        }
        // The reader processes all complete messages between a poll that gave nothing and the next.
        if this.processed && this.charge.is_some() && this.heads.received == 0 {
            this.charge = None;
        }
        let polled = Pin::new(&mut this.payload).poll_next(cx);
        this.processed = polled.is_pending();
        match &polled {
            Poll::Ready(Some(Ok(bytes))) => {
                let was_incomplete = this.heads.is_incomplete();
                let completed = this.heads.completed;
                if this.heads.scan(bytes).is_err() {
                    this.refusal.set(Some(Refused::TooLarge));
                    return Poll::Ready(Some(Err(PayloadError::Overflow)));
                }
                if !this.count() {
                    this.refusal.set(Some(Refused::Overloaded));
                    return Poll::Ready(Some(Err(PayloadError::Overflow)));
                }
                if !was_incomplete || this.heads.completed != completed {
                    this.start = Instant::now();
                }
                polled
            }
            Poll::Ready(_) => polled,
            Poll::Pending => {
                ready!(this.poll_deadline(cx));
                this.refusal.set(Some(Refused::TooSlow));
                Poll::Ready(Some(Err(PayloadError::Overflow)))
            }
        }
    }
}

/// A message of more than the limit was announced.
#[derive(Debug, PartialEq, Eq)]
struct TooLarge;

#[derive(Debug)]
struct Heads {
    limit: u64,
    /// The current head, at most 14 bytes.
    head: [u8; 14],
    have: usize,
    /// Payload bytes left to skip.
    skip: u64,
    /// Payload of the current message, over its fragments.
    message: u64,
    /// Whether more fragments of the current message follow.
    fragmented: bool,
    /// Bytes since the last complete message.
    received: u64,
    /// Number of complete messages.
    completed: u64,
}

impl Heads {
    fn new(limit: usize) -> Self {
        Self {
            limit: limit as u64,
            head: [0; 14],
            have: 0,
            skip: 0,
            message: 0,
            fragmented: false,
            received: 0,
            completed: 0,
        }
    }

    /// Whether a frame or a message is incomplete.
    fn is_incomplete(&self) -> bool {
        self.have > 0 || self.skip > 0 || self.fragmented
    }

    /// Notes the end of a frame. A control frame between fragments completes no message.
    fn end_frame(&mut self) {
        if !self.fragmented {
            self.received = 0;
            self.completed += 1;
        }
    }

    fn scan(&mut self, mut bytes: &[u8]) -> Result<(), TooLarge> {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let take = self.skip.min(bytes.len() as u64);
                self.skip -= take;
                self.received += take;
                bytes = &bytes[take as usize..];
                if self.skip == 0 {
                    self.end_frame();
                }
                continue;
            }
            self.head[self.have] = bytes[0];
            self.have += 1;
            self.received += 1;
            bytes = &bytes[1..];
            if let Some(length) = self.payload_length() {
                self.open(length)?;
                if length == 0 {
                    self.end_frame();
                }
            }
        }
        Ok(())
    }

    /// Returns the payload's length once the head is complete (RFC 6455, section 5.2).
    fn payload_length(&self) -> Option<u64> {
        if self.have < 2 {
            return None;
        }
        let extended = match self.head[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        if self.have < 2 + extended + mask {
            return None;
        }
        Some(match extended {
            0 => u64::from(self.head[1] & 0x7F),
            _ => self.head[2..2 + extended]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
        })
    }

    fn open(&mut self, length: u64) -> Result<(), TooLarge> {
        let (fin, opcode) = (self.head[0] & 0x80 != 0, self.head[0] & 0x0F);
        self.have = 0;
        self.skip = length;
        let control = opcode & 0x08 != 0;
        if control {
            return if length > self.limit {
                Err(TooLarge)
            } else {
                Ok(())
            };
        }
        self.message = if opcode == 0 {
            self.message.saturating_add(length)
        } else {
            length
        };
        if self.message > self.limit {
            return Err(TooLarge);
        }
        if fin {
            self.message = 0;
        }
        self.fragmented = !fin;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut out = vec![first];
        match length {
            0..126 => out.push(0x80 | length as u8),
            126..65536 => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        out.extend_from_slice(&[1, 2, 3, 4]);
        out.extend(std::iter::repeat_n(0xFF, length.min(100_000)));
        out
    }

    fn check(stream: &[u8], limit: usize, expected: Result<(), TooLarge>) {
        assert_eq!(Heads::new(limit).scan(stream), expected, "whole");
        let mut heads = Heads::new(limit);
        let split: Result<(), TooLarge> = stream.chunks(1).try_for_each(|byte| heads.scan(byte));
        assert_eq!(split, expected, "byte by byte");
    }

    #[test]
    fn messages_above_the_limit_are_refused() {
        check(
            &[frame(0x81, 10), frame(0x81, 1000), frame(0x81, 70_000)].concat(),
            70_000,
            Ok(()),
        );
        check(&frame(0x81, 1001), 1000, Err(TooLarge));
        check(&frame(0x82, 1 << 40)[..14], 1000, Err(TooLarge));
        check(&frame(0x81, usize::MAX)[..14], 1000, Err(TooLarge));
    }

    #[test]
    fn message_size_counts_all_fragments() {
        let pings_between = [frame(0x01, 600), frame(0x89, 50), frame(0x80, 400)].concat();
        check(
            &[pings_between.clone(), pings_between].concat(),
            1000,
            Ok(()),
        );
        check(
            &[frame(0x01, 600), frame(0x00, 300), frame(0x80, 101)].concat(),
            1000,
            Err(TooLarge),
        );
    }
}
