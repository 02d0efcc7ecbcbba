//! Delivers every token exactly once over connections that are cut.
//!
//! Many streams of 200 numbered tokens are read through a proxy that cuts each of them at least
//! three times: in the request, in the head, between events, within an event, within a character. A
//! cut is a FIN or a RST; bytes come in pieces and after stalls. After each cut the reader resumes
//! over a random transport and dialect, of those that carry numbers. At the end its text must be
//! `t0 … t199`, and the upstream must have received one request per stream, however often a start
//! was cut and repeated.
//!
//! A seed repeats the plan of a run: the position of the cuts and the choices. It does not repeat
//! the scheduling.
//!
//! ```text
//! CHAOS_STREAMS=1000 cargo test -p tokenwire --release --test chaos -- --nocapture     # the full size; also `just chaos`
//! CHAOS_SEED=7 cargo test -p tokenwire --test chaos -- --nocapture                     # one run again
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed precondition fails the test with its reason"
)]
#![allow(
    clippy::print_stdout,
    reason = "the run reports its counts and the seed that repeats it"
)]

#[path = "chaos/line.rs"]
mod line;
#[path = "chaos/reader.rs"]
mod reader;
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use line::{Outcome, Place, Shape, over_socket, over_sse};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reader::Reader;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use support::{Playback, World, over, response, start, with};
use tokenwire::config::schema::Api;
use tokenwire_testkit::chaos::{ChaosProxy, Cut, Plan};
use tokio::task::JoinSet;

const TOKENS: u64 = 200;

/// Lower bound on the size of a frame with a token, in bytes.
const LEAST_FRAME: u64 = 100;

/// Lower bound on the size of a request's or an answer's head, in bytes.
const LEAST_HEAD: u64 = 60;

/// Streams that are read concurrently. Each has a proxy with a thread and about ten descriptors.
const SIDE_BY_SIDE: usize = 250;

/// Limit of every wait. A full run on a busy machine has long queues.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("timed out waiting for {what}"))
}

/// A request that starts a generation. It is repeated unchanged after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// `POST /v1/streams`, a responses body.
    Streams,
    /// `POST /v1/streams?dialect=chat`, a responses body.
    StreamsChat,
    /// `POST /v1/streams?dialect=chat`, a chat body.
    StreamsChatBody,
    /// `POST /v1/responses`.
    Responses,
    /// `response.create`.
    Socket,
}

const STARTS: [Start; 5] = [
    Start::Streams,
    Start::StreamsChat,
    Start::StreamsChatBody,
    Start::Responses,
    Start::Socket,
];

/// A way to resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Return {
    /// `GET /v1/streams/{id}` with `Last-Event-ID`.
    EventSource,
    /// The same with `?after=`.
    EventSourceQuery,
    /// `POST /v1/streams` with `Last-Event-ID`, which attaches to the stream.
    EventSourcePost,
    /// `GET /v1/streams/{id}?dialect=chat`.
    EventSourceChat,
    /// `GET /v1/responses/{id}?stream=true&starting_after=N`.
    Sdk,
    /// `tokenwire:resume`.
    Socket,
    /// The starting request again, which replays the whole stream.
    Repetition,
}

/// Ways to resume. The last is chosen rarely, since it replays everything.
const RETURNS: [Return; 11] = [
    Return::EventSource,
    Return::EventSourceQuery,
    Return::EventSourcePost,
    Return::EventSourceChat,
    Return::EventSourceChat,
    Return::EventSourceChat,
    Return::Sdk,
    Return::Sdk,
    Return::Socket,
    Return::Socket,
    Return::Repetition,
];

/// Counts of one stream, or of all.
#[derive(Debug, Default)]
struct Tally {
    cuts: BTreeMap<Place, u64>,
    returns: BTreeMap<Return, u64>,
    /// Starting requests that were repeated because the first id had not arrived.
    restarts: u64,
    /// Times that a reader returned to a record's end to enter the chat dialect.
    went_back: u64,
    /// Repeated events that were correctly not applied.
    repeated: u64,
    lost: u64,
    doubled: u64,
}

/// One client with its random number generator.
struct Session {
    client: reqwest::Client,
    proxy: ChaosProxy,
    dice: StdRng,
    begin: Start,
    key: String,
    reader: Reader,
    tally: Tally,
    attempts: u64,
}

// === the test ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_delivered_exactly_once_across_cuts() {
    let seed = variable("CHAOS_SEED").unwrap_or_else(rand::random);
    let streams = variable("CHAOS_STREAMS").unwrap_or(60);
    println!("CHAOS_SEED={seed} CHAOS_STREAMS={streams}");
    let world = start(|config| {
        // This test is about cuts, not about time: a slow machine must not look like a reader that
        // left.
        config.streams.disconnect_grace = PATIENCE * 10;
        config.streams.slow_reader_timeout = PATIENCE * 10;
        config.streams.retain_events = PATIENCE * 10;
    });
    raise_descriptor_limit();
    // reqwest brings no cryptography provider; the gateway in this process installs the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .build()
        .unwrap();
    let begun = Instant::now();
    let mut sessions = JoinSet::new();
    let mut total = Tally::default();
    let mut ids = Vec::new();
    for index in 0..streams {
        if sessions.len() == SIDE_BY_SIDE {
            collect(sessions.join_next().await, &mut total, &mut ids);
        }
        sessions.spawn(Session::new(client.clone(), world.address, seed, index).run());
    }
    while let Some(ended) = sessions.join_next().await {
        collect(Some(ended), &mut total, &mut ids);
    }
    let took = begun.elapsed();
    world
        .upstream_saw("the end of every answer", |stats| {
            stats.completed + stats.aborted == stats.requests
        })
        .await;
    let upstream = world.simulator.stats();
    total.print(streams, took, upstream.requests);

    assert_eq!((total.lost, total.doubled), (0, 0));
    assert_eq!(
        (upstream.requests, upstream.completed),
        (streams, streams),
        "each generation must be requested once and run to its end"
    );
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len() as u64, streams, "two streams had the same id");
    for id in &ids {
        check_object(&world, id).await;
    }
    if streams >= 60 {
        let missing: Vec<Place> = LIKELY
            .into_iter()
            .filter(|place| !total.cuts.contains_key(place))
            .collect();
        assert!(missing.is_empty(), "no cut happened at {missing:?}");
        let missing: Vec<Return> = RETURNS
            .into_iter()
            .filter(|back| !total.returns.contains_key(back))
            .collect();
        assert!(missing.is_empty(), "no reader resumed by {missing:?}");
        assert!(total.restarts > 0, "no start was cut before its id arrived");
    }
}

/// The upstream puts several deltas into one chunk, so a reader may be cut between the events of a
/// record.
#[tokio::test]
async fn chat_dialect_resumes_exactly_from_a_record_boundary() {
    let chunk = |delta: &str, finish: &str| {
        let choices = format!(r#"[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]"#);
        format!(
            "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":{choices}}}\n\n"
        )
    };
    let body = chunk(r#"{"role":"assistant","content":" t0"}"#, "null")
        + &chunk(r#"{"content":" t1","refusal":" no"}"#, "null")
        + &chunk(r#"{"content":" t2"}"#, r#""stop""#)
        + "data: [DONE]\n\n";
    let upstream = Playback::events(body.into_bytes(), usize::MAX).await;
    let gateway = over(&upstream.base_url(), Api::Chat, |_| {});
    let whole = gateway.post("/v1/streams", &response("")).answer().await;
    let chunks = |after: Option<u64>| {
        let path = format!(
            "/v1/streams/{}?dialect=chat{}",
            whole.id(),
            query("&after=", after)
        );
        let request = gateway.get(&path);
        async move { request.answer().await.events() }
    };
    let events = whole.events();
    let all_chunks = chunks(None).await;
    for seen in 0..events.len() - 1 {
        // Read some chat chunks, then events up to a cut, then chat chunks again.
        for chunks_first in 0..all_chunks.len() - 1 {
            let mut reader = Reader::default();
            all_chunks
                .iter()
                .take(chunks_first)
                .for_each(|frame| reader.chunk(frame.number(), &frame.data));
            events
                .iter()
                .take(seen + 1)
                .for_each(|event| reader.event(&event.json()));
            if reader.may_be_inside_a_record() {
                reader.go_back();
            }
            chunks(reader.last)
                .await
                .iter()
                .for_each(|frame| reader.chunk(frame.number(), &frame.data));
            assert!(reader.ended);
            assert_eq!(
                reader.text, " t0 t1 t2",
                "after {chunks_first} chunks and the events up to {seen}"
            );
        }
    }
}

/// Places that are cut in every run of usual size. Few cuts fall exactly between two events.
const LIKELY: [Place; 4] = [
    Place::Head,
    Place::MidEvent,
    Place::MidCharacter,
    Place::Socket,
];

/// Raises the limit of descriptors. A full run needs about 3,000; many systems allow 1,024 by
/// default.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )
    .unwrap();
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is '{value}', but must be a number")),
    )
}

fn collect(
    ended: Option<Result<(String, Tally), tokio::task::JoinError>>,
    total: &mut Tally,
    ids: &mut Vec<String>,
) {
    match ended {
        Some(Ok((id, tally))) => {
            ids.push(id);
            total.add(tally);
        }
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        None => {}
    }
}

fn tokens() -> String {
    (0..TOKENS).map(|index| format!(" t{index}")).collect()
}

/// Checks that the response object has the text that was streamed.
async fn check_object(world: &World, id: &str) {
    let object = world.object(id).await;
    assert_eq!(object["status"], "completed", "{object}");
    let texts: Vec<&str> = object["output"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["content"][0]["text"].as_str())
        .collect();
    assert_eq!(texts, [tokens()], "the object of {id} has a different text");
}

// === impl Session ===

impl Session {
    fn new(client: reqwest::Client, gateway: SocketAddr, seed: u64, index: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let begin = STARTS[dice.random_range(0..STARTS.len())];
        Self {
            client,
            proxy: ChaosProxy::start(gateway, []).unwrap(),
            dice,
            begin,
            key: format!("chaos-{seed}-{index}"),
            reader: Reader::default(),
            tally: Tally::default(),
            attempts: 0,
        }
    }

    /// Reads to the end across all cuts. Returns the id and the counts.
    async fn run(mut self) -> (String, Tally) {
        let planned = self.dice.random_range(3..=6);
        let mut cuts = 0;
        loop {
            // Until the id is known only the starting request can be repeated; its key prevents a
            // second generation.
            let back = self
                .reader
                .id
                .is_some()
                .then(|| RETURNS[self.dice.random_range(0..RETURNS.len())]);
            self.prepare(back);
            let plan = self.plan(back, u64::saturating_sub(planned, cuts));
            self.proxy.plan(plan);
            self.attempts += 1;
            let outcome = self.connect(back).await;
            match back {
                Some(back) => *self.tally.returns.entry(back).or_default() += 1,
                None if self.attempts > 1 => self.tally.restarts += 1,
                None => {}
            }
            match outcome {
                Outcome::Ended => break,
                Outcome::ComeAgain => {}
                Outcome::Cut(place) => {
                    cuts += 1;
                    *self.tally.cuts.entry(place).or_default() += 1;
                }
            }
            assert!(
                self.attempts < 1000,
                "{} connections without an end: {}",
                self.attempts,
                self.reader.text
            );
        }
        assert!(
            cuts >= planned,
            "the stream ended after {cuts} of {planned} cuts; {} tokens",
            self.reader.tokens()
        );
        assert_eq!(
            self.proxy.counters().accepted(),
            self.attempts,
            "an unplanned connection"
        );
        for index in 0..TOKENS {
            match self
                .reader
                .text
                .split(' ')
                .filter(|token| token.strip_prefix('t') == Some(&index.to_string()))
                .count()
            {
                0 => self.tally.lost += 1,
                times => self.tally.doubled += times as u64 - 1,
            }
        }
        if self.reader.text != tokens() {
            println!(
                "{} (begun by {:?}) read {:?}",
                self.key, self.begin, self.reader.text
            );
            assert!(
                self.tally.lost + self.tally.doubled > 0,
                "every token once, but out of order"
            );
        }
        self.tally.repeated = self.reader.repeated;
        (self.reader.id.unwrap(), self.tally)
    }

    /// Enters the chat dialect in one of the two exact ways; see [`reader`].
    fn prepare(&mut self, back: Option<Return>) {
        let chat = match back {
            Some(Return::EventSourceChat) => true,
            Some(Return::Repetition) => {
                matches!(self.begin, Start::StreamsChat | Start::StreamsChatBody)
            }
            _ => false,
        };
        if chat && self.reader.may_be_inside_a_record() && self.dice.random_bool(0.5) {
            self.reader.go_back();
            self.tally.went_back += 1;
        }
    }

    /// Plans the faults of the next connection. While cuts are left it is cut before the rest of
    /// the stream can arrive.
    fn plan(&mut self, back: Option<Return>, cuts_left: u64) -> Plan {
        let dice = &mut self.dice;
        let mut plan = Plan::default();
        for leg in [&mut plan.up, &mut plan.down] {
            if dice.random_bool(0.3) {
                leg.pieces = dice.random_range(1..200);
            }
            if dice.random_bool(0.2) {
                leg.stall = Some((
                    dice.random_range(0..5000),
                    Duration::from_millis(dice.random_range(1..30)),
                ));
            }
        }
        if cuts_left == 0 {
            return plan;
        }
        let left = TOKENS.saturating_sub(self.reader.tokens()) * LEAST_FRAME / cuts_left;
        let cut = if dice.random_bool(0.5) {
            Cut::Reset
        } else {
            Cut::Close
        };
        // A POST with a position is answered before its body is read, so only a cut in its head is
        // certain to come first.
        let with_body = matches!(back, None | Some(Return::Repetition));
        match dice.random_range(0..10) {
            0 => {
                let request = if with_body {
                    self.body(self.begin).to_string().len() as u64
                } else {
                    LEAST_HEAD
                };
                plan.up.cut = Some((dice_of(&mut self.dice, request), cut));
            }
            1 => plan.down.cut = Some((dice_of(dice, LEAST_HEAD), cut)),
            // The first events carry multi-byte characters.
            2..6 => plan.down.cut = Some((dice_of(dice, left.clamp(LEAST_HEAD, 4000)), cut)),
            _ => plan.down.cut = Some((dice_of(dice, left.max(LEAST_HEAD)), cut)),
        }
        plan
    }

    /// Returns the body of the starting request.
    fn body(&self, begin: Start) -> Value {
        let steering = format!("[[tokens={TOKENS} tbt=2ms text=count]]");
        let body = json!({"model": "simulator", "stream": true});
        match begin {
            Start::StreamsChatBody => with(
                body,
                json!({"messages": [{"role": "user", "content": steering}]}),
            ),
            // The instructions are part of the response object, and so of the first and the last
            // events.
            _ => with(
                body,
                json!({"input": steering, "instructions": "Ä€𝄞".repeat(200)}),
            ),
        }
    }

    async fn connect(&mut self, back: Option<Return>) -> Outcome {
        let base = format!("http://{}", self.proxy.address());
        let (id, after) = (self.reader.id.clone().unwrap_or_default(), self.reader.last);
        let cursor = after
            .map(|after| format!("{id}.{after}"))
            .unwrap_or_default();
        let next = Some(after.map_or(0, |after| after + 1));
        let (request, shape, expected) = match back {
            None | Some(Return::Repetition) => return self.begin().await,
            Some(Return::Socket) => return self.resume_by_socket(&id).await,
            Some(Return::EventSource) => (
                self.client
                    .get(format!("{base}/v1/streams/{id}"))
                    .header("last-event-id", cursor),
                Shape::EventSource,
                next,
            ),
            Some(Return::EventSourceQuery) => (
                self.client
                    .get(format!("{base}/v1/streams/{id}{}", query("?after=", after))),
                Shape::EventSource,
                next,
            ),
            // Without a number it would repeat the start, and another route than the start's is
            // another request.
            Some(Return::EventSourcePost) if after.is_none() => return self.begin().await,
            Some(Return::EventSourcePost) => {
                let body = self.body(self.begin).to_string();
                let request = self
                    .client
                    .post(format!("{base}/v1/streams"))
                    .header("idempotency-key", &self.key)
                    .body(body);
                (
                    request.header("last-event-id", cursor),
                    Shape::EventSource,
                    next,
                )
            }
            Some(Return::EventSourceChat) => {
                let request = self
                    .client
                    .get(format!("{base}/v1/streams/{id}?dialect=chat"))
                    .header("last-event-id", cursor);
                (request, Shape::Chat, None)
            }
            Some(Return::Sdk) => {
                let url = format!(
                    "{base}/v1/responses/{id}?stream=true{}",
                    query("&starting_after=", after)
                );
                (self.client.get(url), Shape::Sdk, next)
            }
        };
        self.reader.attach(expected);
        over_sse(request, shape, &mut self.reader).await
    }

    /// Sends the starting request: the first time, again while no id is known, or again to replay
    /// everything.
    async fn begin(&mut self) -> Outcome {
        let (path, shape) = match self.begin {
            Start::Streams => ("/v1/streams", Shape::EventSource),
            Start::StreamsChat | Start::StreamsChatBody => {
                ("/v1/streams?dialect=chat", Shape::Chat)
            }
            Start::Responses => ("/v1/responses", Shape::Sdk),
            Start::Socket => ("/v1/ws", Shape::Socket),
        };
        self.reader.attach((shape != Shape::Chat).then_some(0));
        let body = self.body(self.begin);
        if shape == Shape::Socket {
            let create = with(
                body,
                json!({"type": "response.create", "idempotency_key": self.key}),
            );
            return over_socket(self.proxy.address(), path, &create, &mut self.reader).await;
        }
        let request = self
            .client
            .post(format!("http://{}{path}", self.proxy.address()));
        let request = request
            .header("content-type", "application/json")
            .header("idempotency-key", &self.key)
            .body(body.to_string());
        over_sse(request, shape, &mut self.reader).await
    }

    async fn resume_by_socket(&mut self, id: &str) -> Outcome {
        let mut message = json!({"type": "tokenwire:resume", "response_id": id});
        if let Some(after) = self.reader.last {
            message["starting_after"] = json!(after);
        }
        if self.dice.random_bool(0.5) {
            message["stream_id"] = json!("lane");
        }
        let path = if self.dice.random_bool(0.5) {
            "/v1/ws"
        } else {
            "/v1/responses"
        };
        self.reader
            .attach(Some(self.reader.last.map_or(0, |last| last + 1)));
        over_socket(self.proxy.address(), path, &message, &mut self.reader).await
    }
}

fn dice_of(dice: &mut StdRng, below: u64) -> u64 {
    dice.random_range(0..below)
}

fn query(name: &str, value: Option<u64>) -> String {
    value
        .map(|value| format!("{name}{value}"))
        .unwrap_or_default()
}

// === impl Tally ===

impl Tally {
    fn add(&mut self, other: Self) {
        other
            .cuts
            .into_iter()
            .for_each(|(place, count)| *self.cuts.entry(place).or_default() += count);
        other
            .returns
            .into_iter()
            .for_each(|(back, count)| *self.returns.entry(back).or_default() += count);
        self.restarts += other.restarts;
        self.went_back += other.went_back;
        self.repeated += other.repeated;
        self.lost += other.lost;
        self.doubled += other.doubled;
    }

    fn print(&self, streams: u64, took: Duration, asked: u64) {
        println!(
            "{streams} streams of {TOKENS} tokens in {took:.1?}; the upstream received {asked} requests"
        );
        println!("cuts: {} {:?}", self.cuts.values().sum::<u64>(), self.cuts);
        println!(
            "resumed: {} {:?}",
            self.returns.values().sum::<u64>(),
            self.returns
        );
        println!(
            "starts repeated: {}; returned to a record's end: {}; events repeated: {}",
            self.restarts, self.went_back, self.repeated
        );
        println!("lost: {}; doubled: {}", self.lost, self.doubled);
    }
}
