//! A transcript as server-sent events, with pace, framing and faults.

use std::collections::VecDeque;
use std::io::Write;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::time::Instant;

use crate::body::{Director, Step};
use crate::dice::Dice;
use crate::fault::{Fault, FaultKind};
use crate::transcript::{Beat, Transcript};

/// The due times of the tokens of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) start: Instant,
    pub(crate) first_token: Duration,
    pub(crate) between_tokens: Duration,
    pub(crate) jitter: Duration,
    pub(crate) seed: u64,
}

/// Plays a transcript.
pub(crate) struct Player<T> {
    transcript: T,
    schedule: Schedule,
    fault: Option<Fault>,
    struck: bool,
    /// Tokens sent so far.
    played: u64,
    /// Whether all remaining events are due now.
    unpaced: bool,
    buffer: BytesMut,
    /// Tokens in the buffer.
    buffered: u64,
    event: Vec<u8>,
    framed: Vec<u8>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// Steps to execute before the transcript continues.
    queue: VecDeque<Step>,
    started: bool,
}

/// Bytes per write if no event has to wait.
const BATCH: usize = 32 * 1024;

// === impl Schedule ===

impl Schedule {
    /// Returns the due time of token `index`. It is never before that of the previous token.
    pub(crate) fn due(&self, index: u64) -> Instant {
        let nanos = self
            .between_tokens
            .as_nanos()
            .saturating_mul(u128::from(index));
        let steps = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4));
        let due = self
            .start
            .checked_add(self.first_token)
            .and_then(|first| first.checked_add(steps))
            .unwrap_or_else(far_away);
        if self.jitter.is_zero() {
            return due;
        }
        // More than half a step would reorder tokens. Without steps, all tokens move together.
        let (jitter, index) = if self.between_tokens.is_zero() {
            (self.jitter, 0)
        } else {
            (self.jitter.min(self.between_tokens / 2), index)
        };
        let share = (Dice::at(self.seed, index) % 2001) as f64 / 1000.0 - 1.0;
        if share < 0.0 {
            due.checked_sub(jitter.mul_f64(-share)).unwrap_or(due)
        } else {
            due + jitter.mul_f64(share)
        }
    }

    fn is_paced(&self) -> bool {
        !(self.first_token.is_zero() && self.between_tokens.is_zero() && self.jitter.is_zero())
    }
}

/// A time that is never reached.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(60 * 60 * 24 * 365)
}

// === impl Player ===

impl<T: Transcript> Player<T> {
    pub(crate) fn new(transcript: T, schedule: Schedule, fault: Option<Fault>) -> Self {
        let gzip = fault
            .is_some_and(|fault| fault.kind == FaultKind::Gzip)
            .then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        Self {
            transcript,
            unpaced: !schedule.is_paced(),
            schedule,
            fault,
            struck: false,
            played: 0,
            buffer: BytesMut::new(),
            buffered: 0,
            event: Vec::new(),
            framed: Vec::new(),
            gzip,
            queue: VecDeque::new(),
            started: false,
        }
    }

    fn has(&self, kind: FaultKind) -> bool {
        self.fault.is_some_and(|fault| fault.kind == kind)
    }

    /// Returns the fault that occurs before the event `beat`, if it is due.
    fn strikes(&self, beat: Option<Beat>) -> Option<Fault> {
        let fault = self
            .fault
            .filter(|fault| fault.kind.strikes_mid_body() && !self.struck)?;
        // The head of a call, or the role before a token, belongs to that token.
        let due = self.played >= fault.after;
        (due || matches!(beat, None | Some(Beat::Finish))).then_some(fault)
    }

    /// Appends the buffered bytes, then `step`, to the queue.
    fn then(&mut self, step: Step) {
        self.release();
        self.queue.push_back(step);
    }

    /// Moves the buffer into the queue, byte by byte if the fault requires it.
    fn release(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let tokens = std::mem::take(&mut self.buffered);
        let mut bytes = self.buffer.split().freeze();
        if !self.has(FaultKind::Split) {
            self.queue.push_back(Step::Write(bytes, tokens));
            return;
        }
        let mut tokens = tokens;
        while !bytes.is_empty() {
            let byte: Bytes = bytes.split_to(1);
            self.queue
                .push_back(Step::Write(byte, std::mem::take(&mut tokens)));
            self.queue.push_back(Step::Flush);
        }
    }

    /// Appends `framed` to the buffer, compressed with gzip if the fault requires it.
    fn put(&mut self) {
        match &mut self.gzip {
            None => self.buffer.extend_from_slice(&self.framed),
            Some(encoder) => {
                // Writing to memory cannot fail.
                let _ = encoder.write_all(&self.framed);
                let _ = encoder.flush();
                self.buffer.extend_from_slice(encoder.get_ref());
                encoder.get_mut().clear();
            }
        }
        self.framed.clear();
    }

    /// Frames the event in `event` as the fault requires and appends it.
    fn frame(&mut self, name: Option<&'static str>) {
        let kind = self.fault.map(|fault| fault.kind);
        let end: &[u8] = match kind {
            Some(FaultKind::Crlf) => b"\r\n",
            Some(FaultKind::Cr) => b"\r",
            _ => b"\n",
        };
        let data: &[u8] = if kind == Some(FaultKind::NoSpace) {
            b"data:"
        } else {
            b"data: "
        };
        let framed = &mut self.framed;
        if kind == Some(FaultKind::Comments) {
            framed.extend_from_slice(b": a comment of the simulator\n\n:\n\n\n");
        }
        if let Some(name) = name {
            framed.extend_from_slice(if data.len() == 5 {
                b"event:"
            } else {
                b"event: "
            });
            framed.extend_from_slice(name.as_bytes());
            framed.extend_from_slice(end);
        }
        framed.extend_from_slice(data);
        if kind == Some(FaultKind::Multi) {
            spread(&self.event, framed);
        } else {
            framed.extend_from_slice(&self.event);
        }
        framed.extend_from_slice(end);
        framed.extend_from_slice(end);
        self.put();
    }

    /// Appends an event with the usual framing.
    fn frame_plain(&mut self, name: Option<&'static str>) {
        if let Some(name) = name {
            self.framed.extend_from_slice(b"event: ");
            self.framed.extend_from_slice(name.as_bytes());
            self.framed.push(b'\n');
        }
        self.framed.extend_from_slice(b"data: ");
        self.transcript.write(&mut self.framed);
        self.framed.extend_from_slice(b"\n\n");
        self.buffer.extend_from_slice(&self.framed);
        self.framed.clear();
    }

    /// Ends the body after the buffered bytes.
    fn end(&mut self) {
        if let Some(encoder) = self.gzip.take() {
            let rest = encoder.finish().unwrap_or_default();
            self.buffer.extend_from_slice(&rest);
        }
        self.then(Step::End);
    }

    /// Executes the fault. Returns whether it ends the stream.
    fn strike(&mut self, fault: Fault) -> bool {
        self.struck = true;
        match fault.kind {
            FaultKind::Stall => self.then(Step::Stall),
            FaultKind::Cut => self.then(Step::Cut),
            FaultKind::Reset => self.then(Step::Reset),
            FaultKind::End => self.end(),
            FaultKind::Error => {
                for (name, event) in self.transcript.failure() {
                    self.event = event;
                    self.frame(name);
                }
                self.end();
            }
            kind => {
                let token = self.transcript.peek() == Some(Beat::Token);
                let name = self.transcript.name();
                self.event.clear();
                self.transcript.write(&mut self.event);
                match kind {
                    FaultKind::Malformed => self.event.truncate(self.event.len() * 2 / 3),
                    FaultKind::BadUtf8 => insert_into_text(&mut self.event, b"\xff\xc3\x28"),
                    _ => {
                        let padding = vec![b'x'; fault.size.saturating_sub(self.event.len())];
                        insert_into_text(&mut self.event, &padding);
                    }
                }
                self.frame(name);
                self.count(token);
                return false;
            }
        }
        true
    }

    fn count(&mut self, token: bool) {
        if token {
            self.played += 1;
            self.buffered += 1;
        }
    }
}

impl<T: Transcript> Director for Player<T> {
    fn next(&mut self) -> Step {
        if !std::mem::replace(&mut self.started, true) && self.has(FaultKind::Bom) {
            self.framed.extend_from_slice(b"\xef\xbb\xbf");
            self.put();
        }
        let plain = self.fault.is_none_or(|fault| fault.kind.strikes_mid_body());
        // The clock is read once per call: tokens due in the meantime are part of the next write.
        let mut now = None;
        loop {
            if let Some(step) = self.queue.pop_front() {
                return step;
            }
            if self.buffer.len() >= BATCH {
                self.release();
                continue;
            }
            let beat = self.transcript.peek();
            if let Some(fault) = self.strikes(beat) {
                self.strike(fault);
                continue;
            }
            let Some(beat) = beat else {
                self.end();
                continue;
            };
            if beat == Beat::Done && (self.has(FaultKind::NoDone) || self.has(FaultKind::Hang)) {
                if self.has(FaultKind::Hang) {
                    self.then(Step::Stall);
                } else {
                    self.end();
                }
                continue;
            }
            if !self.unpaced && matches!(beat, Beat::Lead | Beat::Token) {
                let due = self.schedule.due(self.played);
                if due > *now.get_or_insert_with(Instant::now) {
                    self.then(Step::Sleep(due));
                    continue;
                }
                // Without time between tokens only the first is waited for.
                self.unpaced = self.schedule.between_tokens.is_zero();
            }
            let name = self.transcript.name();
            if plain {
                self.frame_plain(name);
            } else {
                self.event.clear();
                self.transcript.write(&mut self.event);
                self.frame(name);
            }
            self.count(beat == Beat::Token);
            if self.has(FaultKind::Hang) && self.transcript.peek().is_none() {
                self.then(Step::Stall);
            }
        }
    }
}

/// Writes `event` as several `data:` lines. It is split where JSON allows a line break: after
/// commas outside of strings.
fn spread(event: &[u8], out: &mut Vec<u8>) {
    let mut in_string = false;
    let mut escaped = false;
    for &byte in event {
        out.push(byte);
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' if !in_string => out.extend_from_slice(b"\ndata: "),
            _ => {}
        }
    }
}

/// Inserts bytes into the text of an event, or before its end if it has no text.
pub(crate) fn insert_into_text(event: &mut Vec<u8>, bytes: &[u8]) {
    const TEXTS: [&[u8]; 6] = [
        b"\"content\":\"",
        b"\"reasoning_content\":\"",
        b"\"delta\":\"",
        b"\"arguments\":\"",
        b"\"refusal\":\"",
        b"\"text\":\"",
    ];
    let at = TEXTS.iter().find_map(|text| {
        event
            .windows(text.len())
            .position(|window| window == *text)
            .map(|at| at + text.len())
    });
    let at = at.unwrap_or(event.len().saturating_sub(1));
    event.splice(at..at, bytes.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(first: u64, between: u64, jitter: u64) -> Schedule {
        let ms = Duration::from_millis;
        Schedule {
            start: Instant::now(),
            first_token: ms(first),
            between_tokens: ms(between),
            jitter: ms(jitter),
            seed: 3,
        }
    }

    #[test]
    fn tokens_are_due_in_order_without_drift() {
        for jitter in [0, 3, 100] {
            let schedule = schedule(100, 20, jitter);
            let due: Vec<Duration> = (0..1000)
                .map(|index| schedule.due(index) - schedule.start)
                .collect();
            assert!(due.is_sorted(), "{jitter}");
            let last = Duration::from_millis(100 + 999 * 20);
            assert!(
                due[999] + Duration::from_millis(10) >= last
                    && due[999] <= last + Duration::from_millis(10)
            );
        }
        let steady = schedule(100, 20, 0);
        assert_eq!(steady.due(7) - steady.start, Duration::from_millis(240));
    }

    #[test]
    fn due_time_beyond_the_clock_is_never_reached() {
        let schedule = Schedule {
            between_tokens: Duration::from_secs(86_400),
            ..schedule(0, 0, 0)
        };
        assert!(schedule.due(u64::MAX) > Instant::now());
    }

    #[test]
    fn json_is_split_only_between_members() {
        let mut out = Vec::new();
        spread(br#"{"a":"x,\",y","b":[1,2]}"#, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"a\":\"x,\\\",y\",\ndata: \"b\":[1,\ndata: 2]}"
        );
    }
}
