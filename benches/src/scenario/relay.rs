//! Streams with one reader each: paced, saturated, idle, and beside stalled readers.

use std::time::Duration;

use super::{Bench, BenchError, Settings, Tally, growth, nanos};
use crate::events::{Commands, Dial, Event, Key, Nanos, Scenario};
use crate::load::Outcome;
use crate::measure::{Run, Times};
use crate::request::{Ending, Endpoint, Route, Spec, lane_of};
use crate::target::Target;
use crate::tokens::{TokenCount, TokenFinder};

/// Tokens requested by a stalled reader: more than all socket buffers on the way hold.
const UNREAD_TOKENS: u64 = 100_000;
const SMALL_RECEIVE_BUFFER: usize = 16 * 1024;

/// Time for a process to become idle before its memory is read.
const SETTLE: Duration = Duration::from_millis(500);

pub(super) fn run(
    bench: &mut Bench,
    target: &mut Target,
    settings: &Settings,
    tick: &mut dyn FnMut((u64, u64)),
) -> Result<Run, BenchError> {
    let mut relay = Relay::new(&target.endpoint, settings);
    let before = bench.before(target.tree)?;
    let outcome = bench.drive(&mut relay, settings.limit(), tick)?;
    bench.load.close_all();
    let streams = settings.streams as u64;
    let (tally, first_token, tokens) = relay.finish(outcome);
    Ok(bench
        .after(&before, target.tree, streams, tally)?
        .with_times(first_token, tokens))
}

/// Opens streams that become idle after one token and measures their memory.
pub(super) fn run_open(
    bench: &mut Bench,
    target: &mut Target,
    settings: &Settings,
    tick: &mut dyn FnMut((u64, u64)),
) -> Result<Run, BenchError> {
    if target.kind.can_restart() {
        // Memory freed by an earlier run would be reused and hide what these streams need.
        target.restart(&mut bench.bed)?;
        super::Name::Open.warm_up(
            bench,
            target,
            &Settings {
                streams: 8,
                ..settings.clone()
            },
        )?;
        rest();
    }
    let mut relay = Relay::new(&target.endpoint, settings);
    relay.hold = true;
    let before = bench.before(target.tree)?;
    let outcome = bench.drive(&mut relay, settings.limit(), tick)?;
    rest();
    let usage = target.tree.map(|tree| tree.usage()).transpose()?;
    let (tally, first_token, _) = relay.finish(outcome);
    let streams = settings.streams;
    let mut run = bench
        .after(&before, target.tree, streams as u64, tally)?
        .with_times(first_token, Times::new());
    run.memory = before
        .usage
        .zip(usage)
        .map(|(before, after)| growth(&before, &after, streams));
    bench.load.close_all();
    Ok(run)
}

/// Runs paced streams beside streams at full speed that are not read.
pub(super) fn run_slow(
    bench: &mut Bench,
    target: &mut Target,
    settings: &Settings,
    tick: &mut dyn FnMut((u64, u64)),
) -> Result<Run, BenchError> {
    if target.kind.can_restart() {
        target.restart(&mut bench.bed)?;
        super::Name::Slow.warm_up(
            bench,
            target,
            &Settings {
                streams: 8,
                ..settings.clone()
            },
        )?;
        rest();
    }
    let mut relay = Relay::new(&target.endpoint, settings);
    relay.unread = settings.slow;
    let before = bench.before(target.tree)?;
    let outcome = bench.drive(&mut relay, settings.limit(), tick)?;
    let usage = target.tree.map(|tree| tree.usage()).transpose()?;
    bench.load.close_all();
    let (tally, first_token, tokens) = relay.finish(outcome);
    let mut run = bench
        .after(&before, target.tree, settings.streams as u64, tally)?
        .with_times(first_token, tokens);
    if let Some((before, after)) = before.usage.zip(usage) {
        let grown = (after.rss as f64 - before.rss as f64) / 1024.0;
        run.extra.insert(
            "rss_kib_per_unread_stream".to_owned(),
            grown / settings.slow.max(1) as f64,
        );
    }
    Ok(run)
}

fn rest() {
    std::thread::sleep(SETTLE);
}

/// One stream per connection; on the route `lanes`, several side by side on each. A connection has
/// the tag of its first stream.
struct Relay<'a> {
    endpoint: &'a Endpoint,
    finder: TokenFinder,
    spec: Spec,
    ramp: Duration,
    streams: Vec<Stream>,
    /// Streams per connection.
    lanes: usize,
    /// Streams stay open after their first token.
    hold: bool,
    /// Number of additional streams that are not read, tagged after the others.
    unread: usize,
    done: usize,
    tokens: u64,
    first_token: Times,
    delay: Times,
    tally: Tally,
}

#[derive(Default)]
struct Stream {
    sent: Nanos,
    count: TokenCount,
    complete: bool,
    done: bool,
    /// Of the first stream of a connection with lanes: the connection once it can take requests, and
    /// the streams that are due.
    socket: Option<Key>,
    due: Vec<usize>,
}

// === impl Relay ===

impl<'a> Relay<'a> {
    fn new(endpoint: &'a Endpoint, settings: &Settings) -> Self {
        Self {
            endpoint,
            finder: endpoint.route.finder(),
            spec: settings.spec,
            ramp: settings.ramp,
            streams: std::iter::repeat_with(Stream::default)
                .take(settings.streams)
                .collect(),
            lanes: match endpoint.route {
                Route::Lanes => settings.lanes,
                _ => 1,
            },
            hold: false,
            unread: 0,
            done: 0,
            tokens: 0,
            first_token: Times::new(),
            delay: Times::new(),
            tally: Tally::default(),
        }
    }

    /// Counts missing tokens as lost.
    fn finish(mut self, outcome: Outcome) -> (Tally, Times, Times) {
        for stream in &mut self.streams {
            if outcome == Outcome::TimedOut && !stream.done {
                self.tally.broke("not finished within the time limit");
            }
            stream
                .count
                .close(if self.hold { 1 } else { self.spec.tokens });
            self.tally.tokens += stream.count.received;
            self.tally.lost += stream.count.lost;
            self.tally.doubled += stream.count.doubled;
        }
        (self.tally, self.first_token, self.delay)
    }

    fn spec_of(&self, tag: usize) -> Spec {
        if tag < self.streams.len() {
            self.spec
        } else {
            Spec {
                tokens: UNREAD_TOKENS,
                between_tokens: Duration::ZERO,
                ..self.spec
            }
        }
    }

    /// Requests a stream on the connection of stream `first`, or when that is open.
    fn start_lane(&mut self, now: Nanos, first: usize, lane: usize, commands: &mut Commands) {
        let Some(connection) = self.streams.get_mut(first) else {
            return;
        };
        let Some(key) = connection.socket else {
            return connection.due.push(lane);
        };
        commands.send_text(key, self.endpoint.create_on(lane, &self.spec));
        if let Some(stream) = self.streams.get_mut(lane) {
            stream.sent = now;
        }
    }

    /// Closes the connection of stream `first` after the last of its streams.
    fn close_if_over(&mut self, first: usize, key: Key, commands: &mut Commands) {
        let mut of_connection = self.streams.iter().skip(first).take(self.lanes);
        if of_connection.all(|stream| stream.done) {
            commands.close(key);
        }
    }

    fn end(&mut self, tag: usize, complaint: Option<&str>) {
        let Some(stream) = self.streams.get_mut(tag) else {
            return;
        };
        if !stream.done {
            stream.done = true;
            self.done += 1;
            if let Some(complaint) = complaint {
                self.tally.broke(complaint);
            }
        }
    }
}

impl Scenario for Relay<'_> {
    fn start(&mut self, commands: &mut Commands) {
        for tag in (0..self.unread).map(|unread| self.streams.len() + unread) {
            let dial = self.endpoint.dial(&self.spec_of(tag), tag);
            commands.dial(Dial {
                receive_buffer: Some(SMALL_RECEIVE_BUFFER),
                ..dial
            });
        }
        commands.at(0, 0);
    }

    fn timer(&mut self, now: Nanos, tag: usize, commands: &mut Commands) {
        // Each stream's start asks for the next one's: spread evenly, so that tokens do not all
        // fall due at once.
        let first = tag - tag % self.lanes;
        if tag == first {
            commands.dial(self.endpoint.dial(&self.spec, tag));
        }
        if self.lanes > 1 {
            self.start_lane(now, first, tag, commands);
        }
        if tag + 1 < self.streams.len() {
            let step = nanos(self.ramp) / self.streams.len() as u64;
            commands.at(now + step, tag + 1);
        }
    }

    fn event(
        &mut self,
        now: Nanos,
        key: Key,
        tag: usize,
        event: Event<'_>,
        commands: &mut Commands,
    ) {
        let web_socket = self.endpoint.route.is_web_socket();
        let unread = tag >= self.streams.len();
        match event {
            Event::Connected if unread && !web_socket => commands.stop_reading(key),
            Event::Connected => {
                if let Some(stream) = self.streams.get_mut(tag) {
                    stream.sent = now;
                }
            }
            Event::Head(head) if head.status == 101 && self.lanes > 1 => {
                let due = self.streams.get_mut(tag).map(|stream| {
                    stream.socket = Some(key);
                    std::mem::take(&mut stream.due)
                });
                for lane in due.unwrap_or_default() {
                    self.start_lane(now, tag, lane, commands);
                }
            }
            Event::Head(head) if head.status == 101 => {
                commands.send_text(key, self.endpoint.create(&self.spec_of(tag)));
                match self.streams.get_mut(tag) {
                    Some(stream) => stream.sent = now,
                    None => commands.stop_reading(key),
                }
            }
            Event::Head(_) => {}
            Event::Message { data, .. } => {
                let connection = tag;
                let tag = match self.lanes {
                    1 => tag,
                    _ => lane_of(data).unwrap_or(tag),
                };
                let Some(stream) = self.streams.get_mut(tag) else {
                    return;
                };
                // At full speed tokens have no due time.
                let paced = !self.spec.between_tokens.is_zero();
                let due = |index| stream.sent + nanos(self.spec.due(index));
                let (first, delay, tokens) =
                    (&mut self.first_token, &mut self.delay, &mut self.tokens);
                let is_token = stream.count.observe(&self.finder, data, |index| {
                    let late = now.saturating_sub(due(index));
                    *tokens += 1;
                    if index == 0 {
                        first.record(late);
                    } else if paced {
                        delay.record(late);
                    }
                });
                if is_token {
                    if self.hold {
                        self.end(tag, None);
                    }
                    return;
                }
                match self.endpoint.route.ending(data) {
                    Ending::None => {}
                    Ending::Complete if web_socket => {
                        self.end(tag, None);
                        self.close_if_over(connection, key, commands);
                    }
                    Ending::Complete => stream.complete = true,
                    Ending::Failed(why) => {
                        self.end(tag, Some(&why));
                        self.close_if_over(connection, key, commands);
                    }
                }
            }
            Event::End(body) => {
                let complete = self.streams.get(tag).is_some_and(|stream| stream.complete);
                let complaint = (!complete).then(|| complaint_of(body));
                commands.close(key);
                self.end(tag, complaint.as_deref());
            }
            Event::Closed(why) => {
                // A held stream must not end after its token.
                let early = self.hold && self.streams.get(tag).is_some_and(|stream| stream.done);
                if early {
                    self.tally.broke(&why);
                }
                for tag in tag..tag + self.lanes {
                    self.end(tag, Some(&why));
                }
            }
        }
    }

    fn finished(&self) -> bool {
        self.done == self.streams.len()
    }

    fn progress(&self) -> (u64, u64) {
        let each = if self.hold { 1 } else { self.spec.tokens };
        (self.tokens, self.streams.len() as u64 * each)
    }
}

pub(super) fn complaint_of(body: &[u8]) -> String {
    if body.is_empty() {
        return "the stream ended without its last event".to_owned();
    }
    String::from_utf8_lossy(body).chars().take(200).collect()
}
