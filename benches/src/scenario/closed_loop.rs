//! Short answers: each connection sends its next request as soon as it has its answer.

use std::time::Duration;

use super::relay::complaint_of;
use super::{Bench, BenchError, Settings, Tally, nanos};
use crate::events::{Commands, Event, Key, Nanos, Scenario};
use crate::load::Outcome;
use crate::measure::{Run, Times};
use crate::request::{Ending, Endpoint, Spec};
use crate::target::Target;
use crate::tokens::{TokenCount, TokenFinder};

/// `fresh` closes each connection after its answer and opens another for the next request.
pub(super) fn run(
    bench: &mut Bench,
    target: &mut Target,
    settings: &Settings,
    fresh: bool,
    tick: &mut dyn FnMut((u64, u64)),
) -> Result<Run, BenchError> {
    let mut short = ClosedLoop {
        endpoint: &target.endpoint,
        finder: target.endpoint.route.finder(),
        spec: settings.spec,
        fresh,
        connections: vec![Asked::default(); settings.streams],
        requests: settings.requests,
        asked: 0,
        answered: 0,
        first_token: Times::new(),
        whole: Times::new(),
        tally: Tally::default(),
    };
    let before = bench.before(target.tree)?;
    let limit = Duration::from_secs(60) + settings.spec.due(settings.spec.tokens);
    let outcome = bench.drive(&mut short, limit, tick)?;
    bench.load.close_all();
    if outcome == Outcome::TimedOut {
        short
            .tally
            .broke("not every request was answered within the time limit");
    }
    let answered = short.answered;
    let whole = short.whole.quantiles();
    let mut run = bench.after(&before, target.tree, answered, short.tally)?;
    run.extra.insert(
        "requests_per_second".to_owned(),
        answered as f64 / run.seconds,
    );
    if let Some(whole) = whole {
        run.extra.insert("request_p50_us".to_owned(), whole.p50);
        run.extra.insert("request_p99_us".to_owned(), whole.p99);
    }
    Ok(run.with_times(short.first_token, Times::new()))
}

struct ClosedLoop<'a> {
    endpoint: &'a Endpoint,
    finder: TokenFinder,
    spec: Spec,
    fresh: bool,
    connections: Vec<Asked>,
    requests: u64,
    asked: u64,
    answered: u64,
    first_token: Times,
    whole: Times,
    tally: Tally,
}

/// The pending request of a connection.
#[derive(Debug, Default, Clone)]
struct Asked {
    sent: Nanos,
    count: TokenCount,
    complete: bool,
    waiting: bool,
    /// The server will close after this answer.
    last: bool,
}

// === impl ClosedLoop ===

impl ClosedLoop<'_> {
    /// Returns whether one more request is due, and counts it.
    fn one_more(&mut self) -> bool {
        let more = self.asked < self.requests;
        self.asked += u64::from(more);
        more
    }

    fn dial(&mut self, tag: usize, commands: &mut Commands) {
        if self.one_more() {
            if let Some(connection) = self.connections.get_mut(tag) {
                *connection = Asked {
                    waiting: true,
                    ..Asked::default()
                };
            }
            commands.dial(self.endpoint.dial(&self.spec, tag));
        }
    }

    fn answer(
        &mut self,
        now: Nanos,
        key: Key,
        tag: usize,
        complaint: Option<&str>,
        commands: &mut Commands,
    ) {
        let Some(connection) = self.connections.get_mut(tag) else {
            return;
        };
        connection.waiting = false;
        connection.count.close(self.spec.tokens);
        self.tally.tokens += connection.count.received;
        self.tally.lost += connection.count.lost;
        self.tally.doubled += connection.count.doubled;
        self.answered += 1;
        self.whole.record(now.saturating_sub(connection.sent));
        let last = connection.last || self.fresh;
        if let Some(complaint) = complaint {
            self.tally.broke(complaint);
        }
        if last {
            commands.close(key);
            self.dial(tag, commands);
        } else if self.one_more() {
            if let Some(connection) = self.connections.get_mut(tag) {
                *connection = Asked {
                    waiting: true,
                    sent: now,
                    ..Asked::default()
                };
            }
            if self.endpoint.route.is_web_socket() {
                commands.send_text(key, self.endpoint.create(&self.spec));
            } else {
                commands.send(key, self.endpoint.post(&self.spec));
            }
        } else {
            commands.close(key);
        }
    }
}

impl Scenario for ClosedLoop<'_> {
    fn start(&mut self, commands: &mut Commands) {
        for tag in 0..self.connections.len() {
            self.dial(tag, commands);
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
        let web_socket = self.endpoint.route.is_web_socket();
        let Some(connection) = self.connections.get_mut(tag) else {
            return;
        };
        match event {
            Event::Connected => connection.sent = now,
            Event::Head(head) if head.status == 101 => {
                connection.sent = now;
                commands.send_text(key, self.endpoint.create(&self.spec));
            }
            Event::Head(head) => connection.last = head.close,
            Event::Message { data, .. } => {
                let due = connection.sent + nanos(self.spec.first_token);
                let first = &mut self.first_token;
                let is_token = connection.count.observe(&self.finder, data, |index| {
                    if index == 0 {
                        first.record(now.saturating_sub(due));
                    }
                });
                if is_token {
                    return;
                }
                match self.endpoint.route.ending(data) {
                    Ending::None => {}
                    Ending::Complete if web_socket => self.answer(now, key, tag, None, commands),
                    Ending::Complete => connection.complete = true,
                    Ending::Failed(why) => {
                        // After a failed answer the state of the connection is unknown.
                        connection.last = true;
                        self.answer(now, key, tag, Some(&why), commands);
                    }
                }
            }
            Event::End(body) => {
                if connection.waiting {
                    let complaint = (!connection.complete).then(|| complaint_of(body));
                    self.answer(now, key, tag, complaint.as_deref(), commands);
                }
            }
            Event::Closed(why) => {
                if connection.waiting {
                    connection.last = true;
                    self.answer(now, key, tag, Some(&why), commands);
                }
            }
        }
    }

    fn finished(&self) -> bool {
        self.answered >= self.requests
    }

    fn progress(&self) -> (u64, u64) {
        (self.answered, self.requests)
    }
}
