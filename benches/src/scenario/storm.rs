//! Connections cut at random positions and resumed; each token must arrive exactly once.

use std::time::Duration;

use memchr::memmem;

use super::{Bench, BenchError, Settings, Tally};
use crate::events::{Commands, Dial, Event, Key, Nanos, Scenario};
use crate::load::Outcome;
use crate::measure::Run;
use crate::request::{Ending, Endpoint, Route, Spec};
use crate::target::Target;
use crate::tokens::{TokenCount, TokenFinder};

/// A connection is cut after at most this number of events.
const MOST_EVENTS: u64 = 60;
/// A cut connection reconnects within this time.
const LONGEST_ABSENCE: Duration = Duration::from_millis(150);

pub(super) fn run(
    bench: &mut Bench,
    target: &mut Target,
    settings: &Settings,
    tick: &mut dyn FnMut((u64, u64)),
) -> Result<Run, BenchError> {
    let mut storm = Storm {
        endpoint: Endpoint {
            route: if target.endpoint.route == Route::Ws {
                Route::Ws
            } else {
                Route::Streams
            },
            ..target.endpoint.clone()
        },
        finder: TokenFinder::responses(),
        spec: settings.spec,
        random: Random(settings.seed),
        streams: std::iter::repeat_with(Stream::default)
            .take(settings.streams)
            .collect(),
        done: 0,
        tokens: 0,
        cuts: 0,
        tally: Tally::default(),
    };
    let before = bench.before(target.tree)?;
    let outcome = bench.drive(&mut storm, settings.limit(), tick)?;
    bench.load.close_all();
    let cuts = storm.cuts;
    let tally = storm.finish(outcome);
    let mut run = bench.after(&before, target.tree, settings.streams as u64, tally)?;
    run.extra.insert("cuts".to_owned(), cuts as f64);
    Ok(run)
}

struct Storm {
    endpoint: Endpoint,
    finder: TokenFinder,
    spec: Spec,
    random: Random,
    streams: Vec<Stream>,
    done: usize,
    tokens: u64,
    cuts: u64,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Stream {
    /// The current connection; events of an earlier one are ignored.
    key: Option<Key>,
    path: Option<String>,
    /// The id of the last event applied (SSE), and its number (WebSocket).
    last_id: String,
    last_number: Option<u64>,
    count: TokenCount,
    events_left: u64,
    done: bool,
}

/// SplitMix64: the same seed, the same cuts.
#[derive(Debug)]
struct Random(u64);

// === impl Random ===

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}

// === impl Storm ===

impl Storm {
    fn finish(mut self, outcome: Outcome) -> Tally {
        for stream in &mut self.streams {
            if outcome == Outcome::TimedOut && !stream.done {
                self.tally
                    .broke("a stream did not end within the time limit");
            }
            stream.count.close(self.spec.tokens);
            self.tally.tokens += stream.count.received;
            self.tally.lost += stream.count.lost;
            self.tally.doubled += stream.count.doubled;
        }
        self.tally
    }

    fn end(&mut self, tag: usize, complaint: Option<&str>) {
        let Some(stream) = self.streams.get_mut(tag).filter(|stream| !stream.done) else {
            return;
        };
        stream.done = true;
        self.done += 1;
        if let Some(complaint) = complaint {
            self.tally.broke(complaint);
        }
    }

    /// Applies an event. Returns whether the connection is to be cut after it.
    fn apply(&mut self, tag: usize, data: &[u8], id: &[u8]) -> bool {
        let Some(stream) = self.streams.get_mut(tag) else {
            return false;
        };
        let tokens = &mut self.tokens;
        stream.count.observe(&self.finder, data, |_| *tokens += 1);
        if stream.path.is_none() {
            stream.path = response_id(data).map(|id| format!("/v1/streams/{id}"));
        }
        let number = number_of(data);
        if let Some(number) = number {
            stream.last_number = Some(number);
        }
        let can_resume = stream.path.is_some()
            && if id.is_empty() {
                number.is_some()
            } else {
                true
            };
        if stream.events_left == 0 && can_resume {
            stream.last_id = String::from_utf8_lossy(id).into_owned();
            return true;
        }
        stream.events_left = stream.events_left.saturating_sub(1);
        false
    }
}

impl Scenario for Storm {
    fn start(&mut self, commands: &mut Commands) {
        for tag in 0..self.streams.len() {
            commands.at(0, tag);
        }
    }

    fn timer(&mut self, _now: Nanos, tag: usize, commands: &mut Commands) {
        let events_left = self.random.below(MOST_EVENTS);
        let Some(stream) = self.streams.get_mut(tag) else {
            return;
        };
        stream.events_left = events_left;
        let dial = self.endpoint.dial(&self.spec, tag);
        commands.dial(match &stream.path {
            Some(path) if self.endpoint.route != Route::Ws => Dial {
                first: self.endpoint.attach(path, Some(&stream.last_id)),
                ..dial
            },
            _ => dial,
        });
    }

    fn event(
        &mut self,
        now: Nanos,
        key: Key,
        tag: usize,
        event: Event<'_>,
        commands: &mut Commands,
    ) {
        let Some(stream) = self.streams.get_mut(tag) else {
            return;
        };
        if matches!(event, Event::Connected) {
            stream.key = Some(key);
            return;
        }
        if stream.key != Some(key) {
            return;
        }
        match event {
            Event::Connected => {}
            Event::Head(head) => match head.status {
                101 => {
                    let message = match (&stream.path, stream.last_number) {
                        (Some(path), after) => {
                            Endpoint::resume(path.rsplit('/').next().unwrap_or_default(), after)
                        }
                        (None, _) => self.endpoint.create(&self.spec),
                    };
                    commands.send_text(key, message);
                }
                200 => {
                    if head.location.is_some() {
                        stream.path.clone_from(&head.location);
                    }
                }
                // The stream was already complete when the connection was cut.
                204 => {
                    commands.close(key);
                    self.end(tag, None);
                }
                status => {
                    commands.close(key);
                    self.end(tag, Some(&format!("a stream was refused: status {status}")));
                }
            },
            Event::Message { data, id } => {
                let cut = self.apply(tag, data, id);
                match Route::Streams.ending(data) {
                    Ending::Complete => {
                        commands.close(key);
                        self.end(tag, None);
                    }
                    Ending::Failed(why) => {
                        commands.close(key);
                        self.end(tag, Some(&why));
                    }
                    Ending::None if cut => {
                        self.cuts += 1;
                        commands.close(key);
                        let absence = self.random.below(super::nanos(LONGEST_ABSENCE));
                        commands.at(now + absence, tag);
                        if let Some(stream) = self.streams.get_mut(tag) {
                            stream.key = None;
                        }
                    }
                    Ending::None => {}
                }
            }
            Event::End(_) => self.end(tag, Some("the stream ended without its last event")),
            Event::Closed(why) => self.end(tag, Some(&why)),
        }
    }

    fn finished(&self) -> bool {
        self.done == self.streams.len()
    }

    fn progress(&self) -> (u64, u64) {
        (self.tokens, self.streams.len() as u64 * self.spec.tokens)
    }
}

fn number_of(data: &[u8]) -> Option<u64> {
    const NAME: &[u8] = b"\"sequence_number\":";
    let rest = data.get(memmem::find(data, NAME)? + NAME.len()..)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}

fn response_id(data: &[u8]) -> Option<String> {
    let start = memmem::find(data, b"\"resp_")? + 1;
    let rest = data.get(start..)?;
    let end = memchr::memchr(b'"', rest)?;
    String::from_utf8(rest.get(..end)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_id_of_an_event_are_found() {
        let event = br#"{"type":"response.created","sequence_number":17,"response":{"id":"resp_abc","object":"response"}}"#;
        assert_eq!(number_of(event), Some(17));
        assert_eq!(response_id(event).as_deref(), Some("resp_abc"));
        assert_eq!(number_of(b"{}"), None);
        assert_eq!(response_id(b"{}"), None);
    }

    #[test]
    fn same_seed_gives_same_cuts() {
        let draw = |seed| {
            let mut random = Random(seed);
            (0..50).map(|_| random.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(3).iter().all(|value| *value < 10));
    }
}
