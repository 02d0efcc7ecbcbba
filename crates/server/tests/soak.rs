//! Runs every kind of load at once for a given time: clients that read, leave, resume, cancel, read
//! slowly and send malformed input, over upstreams that fail in every known way, against the
//! gateway as a process. No answer may lose or repeat a token while it runs, and no resource may be
//! left afterwards.
//!
//! The seed and the session's number determine each request, but not how the sessions interleave.
//!
//! ```text
//! cargo xtask test --only soak                        # two minutes
//! SOAK_MINUTES=30 cargo xtask test --only soak
//! SOAK_SEED=7 cargo xtask test --only soak            # the same sessions again
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed precondition fails the test with its reason"
)]
#![allow(
    clippy::print_stdout,
    reason = "a long run shows its progress and the seed that repeats it"
)]

#[path = "soak/http.rs"]
mod http;
#[path = "soak/lanes.rs"]
mod lanes;
#[path = "soak/plan.rs"]
mod plan;
#[path = "soak/reading.rs"]
mod reading;
#[path = "soak/strangers.rs"]
mod strangers;
mod support;
#[path = "soak/tally.rs"]
mod tally;
#[path = "soak/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::join_all;
use http::{Conduct, Door, Outcome, Stream};
use lanes::Sockets;
use parking_lot::Mutex;
use plan::Plan;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reading::Ended;
use support::eventually;
use support::process::Process;
use support::receiver::{Receiver, status};
use tokio::task::JoinSet;
use world::{Samples, World};

/// Clients that run concurrently. Two cores carry them, the upstreams and the gateway, all in debug
/// builds.
const CLIENTS: usize = 16;
/// Least time between the starts of a client's sessions. It bounds the load on a fast machine, so
/// that memory use is comparable over a run.
const PACE: Duration = Duration::from_millis(350);
/// Failed sessions after which a run stops early.
const ENOUGH: usize = 10;
/// Sessions from which on every fault and every mechanism must have occurred. A slow machine may run
/// fewer.
const REPRESENTATIVE: u64 = 2000;

/// The work of one client.
#[derive(Clone, Debug)]
enum Session {
    Stream(Stream),
    /// The same request by several clients at once. The first may leave early.
    Shared(Stream, usize, Conduct),
    Whole {
        plan: Plan,
        model: &'static str,
        in_chat: bool,
        waits: bool,
    },
    Background(Plan),
    Sockets(Sockets),
    Stranger,
}

/// State that the clients share.
struct Load {
    world: World,
    seed: u64,
    begun: Instant,
    lasts: Duration,
    sessions: AtomicU64,
    /// Responses whose end must be delivered by a webhook.
    told: Mutex<Vec<String>>,
    /// The gateway's resident memory in bytes, each second.
    resident: Mutex<Vec<u64>>,
    wrong: Mutex<Vec<String>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; run by `cargo xtask test --only soak`"]
async fn mixed_load_loses_no_tokens_and_leaks_no_resources() {
    let seed: u64 = variable("SOAK_SEED").unwrap_or_else(rand::random);
    let minutes: f64 = variable("SOAK_MINUTES").unwrap_or(2.0);
    println!("SOAK_SEED={seed} SOAK_MINUTES={minutes}");
    // Every seventh delivery is refused once.
    let answers = (0..20_000).map(|number| status(if number % 7 == 3 { 503 } else { 200 }, ""));
    let receiver = Receiver::start(answers).await;
    let world = World::start(receiver.url());
    let ends = Arc::new(Mutex::default());
    let listener = tokio::spawn(listen(receiver, ends.clone()));
    let baseline = world.baseline().await;
    let load = Arc::new(Load {
        world,
        seed,
        begun: Instant::now(),
        lasts: Duration::from_secs_f64(minutes * 60.0),
        sessions: AtomicU64::new(0),
        told: Mutex::default(),
        resident: Mutex::default(),
        wrong: Mutex::default(),
    });
    let mut clients: JoinSet<()> = (0..CLIENTS).map(|_| client(load.clone())).collect();
    let watch = tokio::spawn(watch(load.clone()));
    while clients.join_next().await.is_some() {}
    watch.abort();
    let _ = watch.await;
    let load = Arc::into_inner(load).expect("all clients have ended");
    let is_representative = load.sessions.load(Ordering::Relaxed) >= REPRESENTATIVE;
    load.print().await;
    println!("seen: {}", load.world.seen);
    let wrong = load.wrong.into_inner();
    assert!(
        wrong.is_empty(),
        "SOAK_SEED={seed}: {} sessions failed:\n{}",
        wrong.len(),
        wrong.join("\n")
    );

    load.world.comes_to_rest(baseline).await;
    println!("at rest: {:?}", load.world.figures());
    let samples = load.world.samples().await;
    check_counters(&samples, is_representative);
    check_webhooks(&ends, load.told.into_inner(), &samples).await;
    assert!(
        !listener.is_finished(),
        "a webhook failed its check; see the output above"
    );
    listener.abort();
    if minutes >= 1.0 {
        check_resident(&load.resident.into_inner());
    }
    if is_representative {
        let missing: Vec<_> = load
            .world
            .faults
            .iter()
            .filter(|fault| load.world.seen.of(fault) == 0)
            .collect();
        assert!(
            missing.is_empty(),
            "these faults never occurred: {missing:?}"
        );
    }
    check_log(load.world.gateway);
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is '{value}', but must be a number")),
    )
}

/// Runs one session after the other until the time is over.
async fn client(load: Arc<Load>) {
    while load.begun.elapsed() < load.lasts && load.wrong.lock().len() < ENOUGH {
        let next = tokio::time::Instant::now() + PACE;
        let number = load.sessions.fetch_add(1, Ordering::Relaxed);
        let mut dice =
            StdRng::seed_from_u64(load.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let session = Session::draw(&load.world, &mut dice, number);
        if AssertUnwindSafe(session.run(&load, &mut dice))
            .catch_unwind()
            .await
            .is_err()
        {
            load.wrong.lock().push(format!("{number}: {session:?}"));
        }
        tokio::time::sleep_until(next).await;
    }
}

/// Samples the gateway each second, and prints its state every ten seconds.
async fn watch(load: Arc<Load>) {
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    for second in 0_u64.. {
        clock.tick().await;
        load.resident.lock().push(load.world.figures().resident);
        if second % 10 == 9 {
            load.print().await;
        }
    }
}

/// Checks that the gateway's counters agree with each other and that every mechanism was exercised.
fn check_counters(samples: &Samples, is_representative: bool) {
    let (started, ended) = (
        samples.sum("tokenwire_generations_started_total"),
        samples.sum("tokenwire_generations_ended_total"),
    );
    assert_eq!(started, ended, "started and ended generations differ");
    let happened = [
        "tokenwire_upstream_retries_total",
        "tokenwire_upstream_failovers_total",
        "tokenwire_upstream_hedges_total",
        "tokenwire_upstream_breaker_opened_total",
        "tokenwire_upstream_busy_total",
        "tokenwire_upstream_timeouts_total",
        "tokenwire_webhooks_failed_attempts_total",
    ]
    .map(|name| (name, samples.sum(name)));
    let coalesced = samples.one(r#"tokenwire_reuse_total{result="coalesced"}"#);
    println!("{started} generations; coalesced {coalesced}; {happened:?}");
    if is_representative {
        let missing: Vec<_> = happened.iter().filter(|(_, count)| *count == 0.0).collect();
        assert!(
            missing.is_empty() && coalesced > 0.0,
            "these never happened: {missing:?}; coalesced: {coalesced}"
        );
    }
}

/// Received webhooks by response: the type of the end and the delivery's id.
type Ends = Mutex<BTreeMap<String, (String, String)>>;

/// Checks each webhook when it is received.
async fn listen(mut receiver: Receiver, ends: Arc<Ends>) {
    loop {
        let received = receiver.wait().await;
        let (kind, id) = received.checked(world::SECRET);
        let end = (kind, received.header("webhook-id").to_owned());
        let mut ends = ends.lock();
        let first = ends.entry(id).or_insert_with(|| end.clone());
        assert_eq!(*first, end, "one response has two ends");
    }
}

/// Every requested webhook was delivered, with one end per response.
async fn check_webhooks(ends: &Ends, mut told: Vec<String>, samples: &Samples) {
    eventually("the check of all webhooks", async || {
        ends.lock().len() >= told.len()
    })
    .await;
    told.sort();
    let ends: Vec<String> = ends.lock().keys().cloned().collect();
    assert_eq!(ends, told);
    assert_eq!(
        (
            samples.one("tokenwire_webhooks_delivered_total"),
            samples.one("tokenwire_webhooks_dead_total")
        ),
        (told.len() as f64, 0.0)
    );
}

/// The load is constant and nothing is kept for more than 15 s, which is shorter than the first
/// third of the shortest run. If the last third uses more than the maximum of the first, plus a
/// margin for the allocator, memory is leaked.
fn check_resident(resident: &[u64]) {
    let third = resident.len() / 3;
    let first = *resident[..third].iter().max().unwrap();
    let mut last = resident[2 * third..].to_vec();
    last.sort_unstable();
    let last = last[last.len() / 2];
    println!(
        "resident: at most {} MiB in the first third, {} MiB in the middle of the last",
        first >> 20,
        last >> 20
    );
    assert!(last <= first + first / 4, "{resident:?}");
}

/// Every ERROR is expected, and nothing panicked.
fn check_log(gateway: Process) {
    gateway.terminate();
    let (well, log) = gateway.output();
    assert!(well, "the gateway did not stop cleanly: {log}");
    // The fault `status` with 401 causes this one.
    let reasons = ["the upstream refused the gateway's own key"];
    let has_reason = |line: &&str| !reasons.iter().any(|reason| line.contains(reason));
    let bad: Vec<_> = log
        .lines()
        .filter(|line| line.contains("ERROR") || line.contains("panicked"))
        .filter(has_reason)
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(
        !log.contains("the shutdown timeout has passed"),
        "a generation was still running at shutdown"
    );
}

// === impl Load ===

impl Load {
    async fn print(&self) {
        let samples = self.world.samples().await;
        println!(
            "{:4.0} s: {} sessions, {} open, {} kept, {} MiB; {}",
            self.begun.elapsed().as_secs_f64(),
            self.sessions.load(Ordering::Relaxed),
            samples.sum("tokenwire_open_streams"),
            samples.sum("tokenwire_kept_streams"),
            self.world.figures().resident >> 20,
            self.world.outcomes,
        );
    }
}

// === impl Session ===

impl Session {
    fn draw(world: &World, dice: &mut StdRng, number: u64) -> Self {
        let id = number.to_string();
        match dice.random_range(0..20) {
            0..=7 => Self::Stream(Stream::draw(world, dice, id)),
            8..=9 => {
                let stream = Stream {
                    conduct: Conduct::Stay,
                    ..Stream::draw(world, dice, id)
                };
                // A key would make it one generation instead of several coalesced ones.
                let stream = if stream.door == Door::EventSourceGet {
                    Stream {
                        door: Door::EventSource,
                        ..stream
                    }
                } else {
                    stream
                };
                let first = if dice.random_bool(0.3) {
                    Conduct::Leave(dice.random_range(1..=5))
                } else {
                    Conduct::Stay
                };
                Self::Shared(stream, dice.random_range(2..=3), first)
            }
            10..=11 => Self::Whole {
                plan: Plan::draw(dice, id, &world.faults),
                model: http::model(dice),
                in_chat: dice.random_bool(0.5),
                waits: dice.random_bool(0.8),
            },
            12..=14 => Self::Background(Plan::draw(dice, id, &world.faults)),
            15..=17 => Self::Sockets(Sockets::draw(world, dice, &id)),
            _ => Self::Stranger,
        }
    }

    async fn run(&self, load: &Load, dice: &mut StdRng) {
        let world = &load.world;
        for fault in self.plans().into_iter().filter_map(|plan| plan.fault) {
            world.seen.add(fault);
        }
        let outcomes = match self {
            Self::Stream(stream) => vec![stream.run(world, dice).await],
            Self::Shared(stream, clients, first) => {
                let clients = (0..*clients).map(|number| {
                    let stream = Stream {
                        conduct: if number == 0 { *first } else { Conduct::Stay },
                        ..stream.clone()
                    };
                    let mut dice = StdRng::from_rng(dice);
                    async move { stream.run(world, &mut dice).await }
                });
                join_all(clients).await
            }
            Self::Whole {
                plan,
                model,
                in_chat,
                waits,
            } => vec![http::whole(world, plan, model, *in_chat, *waits).await],
            Self::Background(plan) => {
                let (outcome, told) = http::background(world, dice, plan).await;
                load.told.lock().extend(told);
                vec![outcome]
            }
            Self::Sockets(sockets) => sockets.run(world, dice).await,
            Self::Stranger => {
                strangers::run(world, dice).await;
                return world.outcomes.add("strangers");
            }
        };
        for outcome in outcomes {
            world.outcomes.add(match outcome {
                Outcome::Ended(Ended::Completed) => "completed".to_owned(),
                Outcome::Ended(Ended::Cancelled) => "cancelled".to_owned(),
                Outcome::Ended(Ended::Failed(code)) => code,
                Outcome::Refused(answer) => answer.status.to_string(),
                Outcome::Left => "left".to_owned(),
                Outcome::Deleted => "deleted".to_owned(),
            });
        }
    }

    fn plans(&self) -> Vec<&Plan> {
        match self {
            Self::Stream(stream) | Self::Shared(stream, ..) => vec![&stream.plan],
            Self::Whole { plan, .. } | Self::Background(plan) => vec![plan],
            Self::Sockets(sockets) => sockets.plans(),
            Self::Stranger => Vec::new(),
        }
    }
}
