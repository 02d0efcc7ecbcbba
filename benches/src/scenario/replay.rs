//! A finished stream, read again from its beginning by one reader at a time.

use super::{Bench, BenchError, Settings, Tally};
use crate::events::{Commands, Dial, Event, Key, Nanos, Scenario};
use crate::load::Outcome;
use crate::measure::{Run, Times};
use crate::request::{Ending, Endpoint, Route, Spec};
use crate::target::Target;
use crate::tokens::{TokenCount, TokenFinder};

const SOURCE: usize = 0;
const READER: usize = 1;

pub(super) fn run(
    bench: &mut Bench,
    target: &mut Target,
    settings: &Settings,
    tick: &mut dyn FnMut((u64, u64)),
) -> Result<Run, BenchError> {
    let mut replay = Replay {
        endpoint: &target.endpoint,
        finder: TokenFinder::responses(),
        spec: settings.spec,
        path: None,
        recorded: false,
        replaying: false,
        left: settings.requests,
        reads: settings.requests,
        sent: 0,
        count: TokenCount::default(),
        complete: false,
        failed: false,
        first_token: Times::new(),
        whole: Times::new(),
        tally: Tally::default(),
    };
    bench.drive(&mut replay, settings.limit(), tick)?;
    if replay.path.is_none() || !replay.recorded {
        replay
            .tally
            .broke("the stream to replay could not be recorded");
        replay.failed = true;
    }
    let before = bench.before(target.tree)?;
    let outcome = if replay.failed {
        Outcome::Finished
    } else {
        bench.drive(&mut replay, settings.limit(), tick)?
    };
    bench.load.close_all();
    if outcome == Outcome::TimedOut {
        replay
            .tally
            .broke("not every replay ended within the time limit");
    }
    let whole = replay.whole.quantiles();
    let mut run = bench.after(&before, target.tree, settings.requests, replay.tally)?;
    if let Some(whole) = whole {
        run.extra
            .insert("replay_p50_ms".to_owned(), whole.p50 / 1e3);
        run.extra
            .insert("replay_max_ms".to_owned(), whole.max / 1e3);
    }
    Ok(run.with_times(replay.first_token, Times::new()))
}

struct Replay<'a> {
    endpoint: &'a Endpoint,
    finder: TokenFinder,
    spec: Spec,
    path: Option<String>,
    /// Whether the stream was read to its end once.
    recorded: bool,
    replaying: bool,
    left: u64,
    reads: u64,
    sent: Nanos,
    count: TokenCount,
    complete: bool,
    failed: bool,
    first_token: Times,
    whole: Times,
    tally: Tally,
}

// === impl Replay ===

impl Replay<'_> {
    fn dial(&mut self, commands: &mut Commands) {
        self.count = TokenCount::default();
        self.complete = false;
        let first = match self.endpoint.route {
            Route::Ws => self.endpoint.upgrade(),
            _ => self
                .endpoint
                .attach(self.path.as_deref().unwrap_or_default(), None),
        };
        commands.dial(Dial {
            address: self.endpoint.address,
            tag: READER,
            first,
            receive_buffer: None,
        });
    }

    fn fail(&mut self, why: &str) {
        self.failed = true;
        self.tally.broke(why);
    }
}

impl Scenario for Replay<'_> {
    fn start(&mut self, commands: &mut Commands) {
        if self.recorded {
            self.replaying = true;
            self.dial(commands);
        } else {
            let endpoint = Endpoint {
                route: Route::Streams,
                ..self.endpoint.clone()
            };
            commands.dial(endpoint.dial(&self.spec, SOURCE));
        }
    }

    fn timer(&mut self, _now: Nanos, _tag: usize, _commands: &mut Commands) {}

    fn event(
        &mut self,
        now: Nanos,
        key: Key,
        tag: usize,
        event: Event<'_>,
        commands: &mut Commands,
    ) {
        match event {
            Event::Connected => self.sent = now,
            Event::Head(head) if tag == SOURCE => self.path.clone_from(&head.location),
            Event::Head(head) if head.status == 101 => {
                self.sent = now;
                let id = self
                    .path
                    .as_deref()
                    .and_then(|path| path.rsplit('/').next())
                    .unwrap_or_default();
                commands.send_text(key, Endpoint::resume(id, None));
            }
            Event::Head(head) if head.status != 200 => {
                self.fail(&format!("a replay was refused: status {}", head.status))
            }
            Event::Head(_) => {}
            Event::Message { data, .. } => {
                if tag == READER {
                    let (first, sent) = (&mut self.first_token, self.sent);
                    self.count.observe(&self.finder, data, |index| {
                        if index == 0 {
                            first.record(now.saturating_sub(sent));
                        }
                    });
                }
                match Route::Streams.ending(data) {
                    Ending::None => {}
                    Ending::Failed(why) => self.fail(&why),
                    Ending::Complete if self.complete => {}
                    Ending::Complete => {
                        self.complete = true;
                        commands.close(key);
                        if tag == SOURCE {
                            self.recorded = true;
                            return;
                        }
                        self.whole.record(now.saturating_sub(self.sent));
                        self.count.close(self.spec.tokens);
                        self.tally.tokens += self.count.received;
                        self.tally.lost += self.count.lost;
                        self.tally.doubled += self.count.doubled;
                        self.left -= 1;
                        if self.left > 0 {
                            self.dial(commands);
                        }
                    }
                }
            }
            Event::End(_) => self.fail("the stream ended without its last event"),
            Event::Closed(why) => self.fail(&why),
        }
    }

    fn finished(&self) -> bool {
        self.failed
            || if self.replaying {
                self.left == 0
            } else {
                self.recorded
            }
    }

    fn progress(&self) -> (u64, u64) {
        (self.reads - self.left, self.reads)
    }
}
