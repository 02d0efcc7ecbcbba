//! One stream with many readers: attached streams of the gateway against channels of nchan.
//!
//! All readers attach before the first token; then the measured part begins. nchan has no upstream,
//! so the bench publishes each token as soon as the simulator sends it, as an application would do.
//! A token is due at the same time for both, and the simulator's own delay is in both figures.

use std::time::Duration;

use super::{Bench, BenchError, Settings, Tally, nanos};
use crate::events::{Commands, Dial, Event, Key, Nanos, Scenario};
use crate::load::Outcome;
use crate::measure::{Run, Times};
use crate::request::{Ending, Endpoint, Route, Spec};
use crate::target::{Kind, Target};
use crate::tokens::{TokenCount, TokenFinder};

/// The tag of the connection that starts the stream; readers have the tags after it.
const SOURCE: usize = 0;
/// Time between the connects of two readers.
const STEP: Duration = Duration::from_micros(500);

pub(super) fn run(
    bench: &mut Bench,
    target: &mut Target,
    settings: &Settings,
    tick: &mut dyn FnMut((u64, u64)),
) -> Result<Run, BenchError> {
    let channel = format!("channel{}", bench.load.now());
    let nchan = matches!(target.kind, Kind::Nchan(_));
    let mut fanout = Fanout {
        endpoint: &target.endpoint,
        finder: TokenFinder::responses(),
        spec: settings.spec,
        feed: nchan.then(|| Feed {
            endpoint: bench.bed.simulator_endpoint(),
            finder: TokenFinder::chat(),
            count: TokenCount::default(),
        }),
        channel,
        path: None,
        phase: Phase::Attach,
        source: None,
        source_sent: 0,
        readers: vec![Reader::default(); settings.streams + 1],
        attached: 0,
        done: 0,
        tokens: 0,
        delay: Times::new(),
        tally: Tally::default(),
    };
    let outcome = bench.drive(&mut fanout, settings.limit(), tick)?;
    if outcome == Outcome::TimedOut {
        fanout
            .tally
            .broke("not every reader attached within the time limit");
    }
    fanout.phase = Phase::Measure;
    let early = fanout.tokens;
    let before = bench.before(target.tree)?;
    let outcome = bench.drive(&mut fanout, settings.limit(), tick)?;
    bench.load.close_all();
    let delay = std::mem::replace(&mut fanout.delay, Times::new());
    let mut tally = fanout.finish(outcome);
    // Tokens before the measured part are not counted.
    tally.tokens -= early;
    let mut run = bench.after(&before, target.tree, settings.streams as u64, tally)?;
    if early > 0 {
        run.extra.insert(
            "tokens_before_all_had_attached (say a longer --ttft)".to_owned(),
            early as f64,
        );
    }
    Ok(run.with_times(Times::new(), delay))
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Attach,
    Measure,
}

struct Fanout<'a> {
    endpoint: &'a Endpoint,
    finder: TokenFinder,
    spec: Spec,
    /// The stream that is published to nchan.
    feed: Option<Feed>,
    channel: String,
    /// The path for attaching to the stream: `/v1/streams/{id}`.
    path: Option<String>,
    phase: Phase,
    source: Option<Key>,
    /// When the stream was requested.
    source_sent: Nanos,
    /// The source is the first. For the gateway it is a reader as well.
    readers: Vec<Reader>,
    attached: usize,
    done: usize,
    tokens: u64,
    delay: Times,
    tally: Tally,
}

/// A stream read directly from the simulator.
struct Feed {
    endpoint: Endpoint,
    finder: TokenFinder,
    count: TokenCount,
}

#[derive(Debug, Default, Clone)]
struct Reader {
    count: TokenCount,
    attached: bool,
    done: bool,
}

// === impl Fanout ===

impl Fanout<'_> {
    fn finish(mut self, outcome: Outcome) -> Tally {
        let skip = usize::from(self.feed.is_some());
        for reader in self.readers.iter_mut().skip(skip) {
            if outcome == Outcome::TimedOut && !reader.done {
                self.tally
                    .broke("a reader did not get the whole stream within the time limit");
            }
            reader.count.close(self.spec.tokens);
            self.tally.tokens += reader.count.received;
            self.tally.lost += reader.count.lost;
            self.tally.doubled += reader.count.doubled;
        }
        self.tally
    }

    fn expected(&self) -> usize {
        self.readers.len() - usize::from(self.feed.is_some())
    }

    /// The tag of the connection to the simulator, after the readers'.
    fn feed_tag(&self) -> usize {
        self.readers.len()
    }

    /// Handles an event of the connection to the simulator.
    fn feed(&mut self, now: Nanos, event: Event<'_>, commands: &mut Commands) {
        let Some(feed) = &mut self.feed else { return };
        match event {
            Event::Connected => self.source_sent = now,
            Event::Message { data, .. } => {
                let mut tokens = Vec::new();
                feed.count
                    .observe(&feed.finder, data, |index| tokens.push(index));
                if let Some(source) = self.source {
                    tokens
                        .into_iter()
                        .for_each(|index| commands.send(source, self.publish(index)));
                }
            }
            Event::Closed(why) if feed.count.next < self.spec.tokens => {
                self.tally.broke(&format!("the stream to publish: {why}"))
            }
            Event::Head(_) | Event::End(_) | Event::Closed(_) => {}
        }
    }

    /// Returns the first request of a reader.
    fn attach(&self, tag: usize) -> Dial {
        let web_socket = self.endpoint.route.is_web_socket();
        let nchan = self.feed.is_some();
        let path = match (&self.path, nchan) {
            (_, true) => format!("/sub/{}", self.channel),
            (path, false) => path.clone().unwrap_or_default(),
        };
        let first = match (web_socket, nchan) {
            (true, true) => self.endpoint.upgrade_at(&path),
            (true, false) => self.endpoint.upgrade(),
            (false, _) => self.endpoint.attach(&path, None),
        };
        Dial {
            address: self.endpoint.address,
            tag,
            first,
            receive_buffer: None,
        }
    }

    /// Returns the request that publishes a token, with the event that the gateway would send.
    fn publish(&self, index: u64) -> Vec<u8> {
        let body = format!(
            "{{\"type\":\"response.output_text.delta\",\"sequence_number\":{},\"item_id\":\"msg_0123456789abcdefghijkl\",\"output_index\":0,\"content_index\":0,\"delta\":\" t{index}\",\"logprobs\":[]}}",
            index + 4
        );
        format!(
            "POST /pub/{} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.channel,
            self.endpoint.address,
            body.len()
        )
        .into_bytes()
    }

    fn mark_attached(&mut self, tag: usize) {
        if let Some(reader) = self.readers.get_mut(tag).filter(|reader| !reader.attached) {
            reader.attached = true;
            self.attached += 1;
        }
    }

    fn mark_done(&mut self, tag: usize, complaint: Option<&str>) {
        if let Some(reader) = self.readers.get_mut(tag).filter(|reader| !reader.done) {
            reader.done = true;
            self.done += 1;
            if let Some(complaint) = complaint {
                self.tally.broke(complaint);
            }
        }
    }
}

impl Scenario for Fanout<'_> {
    fn start(&mut self, commands: &mut Commands) {
        match (&self.phase, self.feed.is_some()) {
            (Phase::Attach, true) => commands.at(0, 1),
            (Phase::Attach, false) => {
                let endpoint = Endpoint {
                    route: Route::Streams,
                    ..self.endpoint.clone()
                };
                commands.dial(endpoint.dial(&self.spec, SOURCE));
            }
            (Phase::Measure, true) => commands.dial(Dial {
                address: self.endpoint.address,
                tag: SOURCE,
                first: Vec::new(),
                receive_buffer: None,
            }),
            (Phase::Measure, false) => {}
        }
    }

    fn timer(&mut self, now: Nanos, tag: usize, commands: &mut Commands) {
        commands.dial(self.attach(tag));
        if tag + 1 < self.readers.len() {
            commands.at(now + nanos(STEP), tag + 1);
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
        let nchan = self.feed.is_some();
        match event {
            event if tag == self.feed_tag() => self.feed(now, event, commands),
            Event::Connected if tag == SOURCE => {
                self.source = Some(key);
                self.source_sent = now;
                if let Some(feed) = &self.feed {
                    commands.dial(feed.endpoint.dial(&self.spec, self.feed_tag()));
                }
            }
            Event::Connected => {}
            Event::Head(head) if tag == SOURCE => {
                if !nchan {
                    self.path.clone_from(&head.location);
                    if head.status == 200 && self.path.is_some() {
                        self.mark_attached(tag);
                        commands.at(now, 1);
                    } else {
                        self.mark_done(
                            tag,
                            Some(&format!("the stream was refused: status {}", head.status)),
                        );
                    }
                } else if head.status >= 300 {
                    self.tally
                        .broke(&format!("publishing was refused: status {}", head.status));
                }
            }
            Event::Head(head) => match head.status {
                101 if !nchan => {
                    let path = self.path.clone().unwrap_or_default();
                    let id = path.rsplit('/').next().unwrap_or_default();
                    commands.send_text(key, Endpoint::resume(id, None));
                }
                200 | 101 => self.mark_attached(tag),
                status => {
                    self.mark_done(tag, Some(&format!("a reader was refused: status {status}")))
                }
            },
            Event::Message { data, .. } => {
                if nchan && tag == SOURCE {
                    return;
                }
                self.mark_attached(tag);
                let Some(reader) = self.readers.get_mut(tag) else {
                    return;
                };
                let (spec, sent) = (self.spec, self.source_sent);
                let (delay, tokens) = (&mut self.delay, &mut self.tokens);
                let is_token = reader.count.observe(&self.finder, data, |index| {
                    delay.record(now.saturating_sub(sent + nanos(spec.due(index))));
                    *tokens += 1;
                });
                if is_token {
                    if nchan && reader.count.next == spec.tokens {
                        self.mark_done(tag, None);
                    }
                    return;
                }
                match Route::Streams.ending(data) {
                    Ending::None => {}
                    Ending::Complete => {
                        commands.close(key);
                        self.mark_done(tag, None);
                    }
                    Ending::Failed(why) => {
                        commands.close(key);
                        self.mark_done(tag, Some(&why));
                    }
                }
            }
            Event::End(_) if nchan && tag == SOURCE => {}
            Event::End(_) => self.mark_done(tag, Some("the stream ended without its last event")),
            Event::Closed(why) => {
                if !nchan || tag != SOURCE {
                    self.mark_done(tag, Some(&why));
                } else if self
                    .feed
                    .as_ref()
                    .is_some_and(|feed| feed.count.next < self.spec.tokens)
                {
                    self.tally
                        .broke(&format!("the publisher's connection: {why}"));
                }
            }
        }
    }

    fn finished(&self) -> bool {
        match self.phase {
            // A reader that cannot attach does not delay the others.
            Phase::Attach => self.attached + self.done >= self.expected(),
            Phase::Measure => self.done >= self.expected(),
        }
    }

    fn progress(&self) -> (u64, u64) {
        (self.tokens, self.spec.tokens * self.expected() as u64)
    }
}
