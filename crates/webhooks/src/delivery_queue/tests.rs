//! Tests of the queue, which pass it the time.

use std::collections::HashSet;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::json;
use tokenwire_core::model::id::GenerationId;

use super::*;
use crate::backoff::{MAX_RETRY_AFTER, ceiling};
use crate::{SigningKey, parse_url};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A queue and the time.
struct World {
    queue: DeliveryQueue,
    counters: Arc<WebhookCounters>,
    now: Instant,
    rng: StdRng,
}

impl World {
    fn new(change: impl FnOnce(&mut Bounds)) -> Self {
        let mut bounds = Bounds {
            max_pending: 100,
            max_kept: 100,
            concurrency: 8,
            concurrency_per_host: 4,
            retry_for: DAY,
        };
        change(&mut bounds);
        let counters = Arc::new(WebhookCounters::default());
        Self {
            queue: DeliveryQueue::new(bounds, counters.clone()),
            counters,
            now: Instant::now(),
            rng: StdRng::seed_from_u64(1),
        }
    }

    fn accept_for(&mut self, owner: &Owner, host: &str) -> (String, Option<Notice>) {
        let event = Event::new("response.completed", GenerationId::random());
        let id = event.id.clone();
        (id, self.accept_event(event, owner, host))
    }

    fn accept_event(&mut self, event: Event, owner: &Owner, host: &str) -> Option<Notice> {
        let url = parse_url(&format!("https://{host}/hook"), false).unwrap();
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let endpoint = Endpoint::new(url, key);
        self.queue.accept(event, owner.clone(), endpoint, self.now)
    }

    fn accept(&mut self, host: &str) -> String {
        self.accept_for(&Owner::Anonymous, host).0
    }

    fn start(&mut self) -> Vec<Job> {
        self.queue.start(self.now).0
    }

    fn settle(&mut self, job: &Job, attempted: Attempted) -> Option<NoticeKind> {
        self.queue
            .settle(job.number, attempted, self.now, &mut self.rng)
            .map(|notice| notice.kind)
    }

    /// Starts and settles the only due job.
    fn attempt(&mut self, attempted: Attempted) -> NoticeKind {
        let jobs = self.start();
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        self.settle(&jobs[0], attempted).unwrap()
    }

    fn list(&self, status: Option<Status>) -> Vec<Value> {
        self.queue
            .list(&Owner::Anonymous, status, None, 1000, self.now)
            .unwrap()
            .deliveries
    }

    fn one(&self, id: &str) -> Value {
        self.list(None)
            .into_iter()
            .find(|delivery| delivery["id"] == id)
            .unwrap()
    }

    /// `(delivered, failed attempts, dead, pending)`
    fn counts(&self) -> (u64, u64, u64, u64) {
        (
            self.counters.delivered(),
            self.counters.failed_attempts(),
            self.counters.dead(),
            self.counters.pending(),
        )
    }
}

fn failed(status: u16) -> Attempted {
    Err((DeliveryError::Status(status), None))
}

fn dead(reason: Reason, error: Option<DeliveryError>) -> NoticeKind {
    NoticeKind::Dead { reason, error }
}

#[test]
fn matches_leave_room_for_ends_of_responses() {
    let mut world = World::new(|bounds| bounds.max_pending = 8);
    let data = json!({"rule": "often"});
    let matched = |world: &mut World| {
        let data = data.as_object().unwrap().clone();
        let event = Event::of_match(GenerationId::random(), data);
        let id = event.id.clone();
        (id, world.accept_event(event, &Owner::Anonymous, "a.test"))
    };
    let accepted: Vec<_> = (0..3).map(|_| matched(&mut world)).collect();
    assert!(accepted[0].1.is_none() && accepted[1].1.is_none());
    let refused = accepted[2].1.as_ref().unwrap();
    assert_eq!(refused.kind, dead(Reason::QueueFull, None));
    let retried = world
        .queue
        .retry(&Owner::Anonymous, &accepted[2].0, world.now);
    assert_eq!(retried.unwrap_err(), NoRetry::QueueFull);
    for _ in 0..6 {
        assert!(world.accept_for(&Owner::Anonymous, "b.test").1.is_none());
    }
    assert!(world.accept_for(&Owner::Anonymous, "b.test").1.is_some());
    // One that has ended makes room for another.
    let job = world.start().into_iter().next().unwrap();
    assert_eq!(job.event.id, accepted[0].0);
    world.settle(&job, Ok(200));
    assert!(matched(&mut world).1.is_none());
    assert!(matched(&mut world).1.is_some());
}

#[test]
fn delivery_is_retried_until_it_succeeds() {
    let mut world = World::new(|_| {});
    let id = world.accept("example.com");
    let mut ids = HashSet::new();
    for failures in 1..=3 {
        let job = world.start().pop().unwrap();
        ids.insert((job.event.id.clone(), job.event.body()));
        let Some(NoticeKind::Retrying { error, wait }) = world.settle(&job, failed(503)) else {
            panic!("not retried")
        };
        assert!(
            error == DeliveryError::Status(503) && wait <= ceiling(failures),
            "{wait:?} after {failures}"
        );
        assert_eq!(world.queue.next_due(), Some(world.now + wait));
        if !wait.is_zero() {
            assert!(
                world.start().is_empty(),
                "the attempt started before its time"
            );
        }
        let seen = world.one(&id);
        assert_eq!(
            (&seen["status"], &seen["attempts"], &seen["last_status"]),
            (&json!("pending"), &json!(failures), &json!(503))
        );
        assert_eq!(seen["last_error"], "the endpoint answered 503");
        world.now += wait;
    }
    assert_eq!(
        world.attempt(Ok(204)),
        NoticeKind::Delivered { attempts: 4 }
    );
    assert_eq!(ids.len(), 1, "the event differs between attempts");
    let seen = world.one(&id);
    assert_eq!(
        (&seen["status"], &seen["last_status"], &seen["last_error"]),
        (&json!("delivered"), &json!(204), &Value::Null)
    );
    assert_eq!(
        (world.counts(), world.queue.next_due()),
        ((1, 3, 0, 0), None)
    );
}

#[test]
fn delivery_becomes_a_dead_letter_after_a_day() {
    let mut world = World::new(|_| {});
    let id = world.accept("example.com");
    let begun = world.now;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match world.attempt(Err((DeliveryError::TimedOut, None))) {
            NoticeKind::Retrying { wait, .. } => world.now += wait,
            kind => {
                assert_eq!(kind, dead(Reason::Exhausted, Some(DeliveryError::TimedOut)));
                break;
            }
        }
    }
    assert!(
        world.now - begun <= DAY && world.now - begun > DAY - ceiling(u32::MAX),
        "{:?}",
        world.now - begun
    );
    assert!((20..60).contains(&attempts), "{attempts} attempts");
    let seen = world.one(&id);
    assert_eq!(
        (&seen["status"], &seen["reason"], &seen["next_attempt_at"]),
        (&json!("failed"), &json!("exhausted"), &Value::Null)
    );
    assert!(world.start().is_empty() && world.queue.next_due().is_none());
    assert_eq!(world.counts(), (0, attempts, 1, 0));
}

#[test]
fn retry_after_is_honoured_up_to_its_maximum() {
    let mut world = World::new(|_| {});
    world.accept("example.com");
    let asked = |seconds| {
        Err((
            DeliveryError::Status(429),
            Some(Duration::from_secs(seconds)),
        ))
    };
    let NoticeKind::Retrying { wait, .. } = world.attempt(asked(600)) else {
        panic!("not retried")
    };
    assert_eq!(wait, Duration::from_secs(600));
    world.now += wait;
    let NoticeKind::Retrying { wait, .. } = world.attempt(asked(1_000_000)) else {
        panic!("not retried")
    };
    assert_eq!(wait, MAX_RETRY_AFTER);
}

#[test]
fn gone_endpoint_is_disabled_until_a_manual_retry() {
    let mut world = World::new(|_| {});
    let first = world.accept("gone.example.com");
    assert_eq!(
        world.attempt(Err((DeliveryError::Gone, None))),
        dead(Reason::Gone, Some(DeliveryError::Gone))
    );
    let (second, notice) = world.accept_for(&Owner::Anonymous, "gone.example.com");
    assert_eq!(notice.unwrap().kind, dead(Reason::Disabled, None));
    assert!(world.start().is_empty(), "a disabled endpoint was called");
    assert_eq!(world.one(&first)["reason"], "gone");
    assert_eq!(world.one(&first)["last_status"], 410);
    assert_eq!(
        (
            &world.one(&second)["reason"],
            &world.one(&second)["attempts"]
        ),
        (&json!("disabled"), &json!(0))
    );
    assert!(
        world
            .accept_for(&Owner::Named("other".into()), "gone.example.com")
            .1
            .is_none(),
        "one owner disabled another's endpoint"
    );
    assert_eq!(
        world.attempt(Ok(200)),
        NoticeKind::Delivered { attempts: 1 }
    );

    let retried = world
        .queue
        .retry(&Owner::Anonymous, &second, world.now)
        .unwrap();
    assert_eq!(
        (&retried["status"], &retried["reason"]),
        (&json!("pending"), &Value::Null)
    );
    assert_eq!(
        world.attempt(Ok(200)),
        NoticeKind::Delivered { attempts: 1 }
    );
    assert!(
        world
            .accept_for(&Owner::Anonymous, "gone.example.com")
            .1
            .is_none(),
        "the endpoint is still disabled"
    );
}

#[test]
fn pending_deliveries_to_a_gone_endpoint_become_dead_letters() {
    let mut world = World::new(|bounds| bounds.concurrency_per_host = 1);
    let [waiting, queued] = [
        world.accept("gone.example.com"),
        world.accept("gone.example.com"),
    ];
    let job = world.start().pop().unwrap();
    world.settle(&job, failed(500));
    let job = world.start().pop().unwrap();
    assert_eq!(job.event.id, queued);
    let behind = world.accept("gone.example.com");
    world.settle(&job, Err((DeliveryError::Gone, None)));
    world.now += ceiling(1);
    let (jobs, notices) = world.queue.start(world.now);
    let mut dead: Vec<String> = notices.iter().map(|notice| notice.id.clone()).collect();
    dead.sort();
    let mut expected = [waiting, behind];
    expected.sort();
    assert!(jobs.is_empty() && dead == expected, "{jobs:?} {notices:?}");
    assert!(notices.iter().all(|notice| matches!(
        notice.kind,
        NoticeKind::Dead {
            reason: Reason::Disabled,
            ..
        }
    )));
    assert_eq!(world.counts(), (0, 2, 3, 0));
}

#[test]
fn delivery_beyond_max_pending_becomes_a_dead_letter() {
    let mut world = World::new(|bounds| bounds.max_pending = 2);
    world.accept("a.example.com");
    world.accept("b.example.com");
    let (third, notice) = world.accept_for(&Owner::Anonymous, "c.example.com");
    assert_eq!(notice.unwrap().kind, dead(Reason::QueueFull, None));
    assert_eq!(
        world.queue.retry(&Owner::Anonymous, &third, world.now),
        Err(NoRetry::QueueFull)
    );
    assert_eq!(world.counts(), (0, 0, 1, 2));
    let jobs = world.start();
    world.settle(&jobs[0], Ok(200));
    assert_eq!(
        world
            .queue
            .retry(&Owner::Anonymous, &third, world.now)
            .unwrap()["status"],
        "pending"
    );
    assert_eq!(world.start()[0].event.id, third);
}

#[test]
fn ended_deliveries_are_kept_up_to_a_limit_of_each_kind() {
    let mut world = World::new(|bounds| bounds.max_kept = 3);
    let lost = world.accept("example.com");
    world.attempt(Err((DeliveryError::Gone, None)));
    let ids: Vec<String> = (0..5)
        .map(|number| {
            let id = world.accept(&format!("h{number}.example.com"));
            world.attempt(Ok(200));
            id
        })
        .collect();
    let listed: Vec<Value> = world
        .list(Some(Status::Delivered))
        .into_iter()
        .map(|delivery| delivery["id"].clone())
        .collect();
    assert_eq!(listed, [json!(ids[4]), json!(ids[3]), json!(ids[2])]);
    assert_eq!(
        world.list(Some(Status::Failed))[0]["id"],
        lost,
        "a delivered one removed a dead letter"
    );
    assert_eq!(
        (world.queue.deliveries.len(), world.queue.numbers.len()),
        (4, 4)
    );
    assert_eq!(
        world.queue.retry(&Owner::Anonymous, &ids[0], world.now),
        Err(NoRetry::NotFound)
    );
}

#[test]
fn lists_are_paged_newest_first_and_limited_to_the_owner() {
    let mut world = World::new(|_| {});
    let other = Owner::Named("other".into());
    let ids: Vec<String> = (0..3).map(|_| world.accept("example.com")).collect();
    let (theirs, _) = world.accept_for(&other, "example.com");
    let page = |after: Option<&str>, limit| {
        let page = world
            .queue
            .list(&Owner::Anonymous, None, after, limit, world.now)?;
        Some((
            page.deliveries
                .iter()
                .map(|delivery| delivery["id"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>(),
            page.has_more,
        ))
    };
    assert_eq!(
        page(None, 2),
        Some((vec![ids[2].clone(), ids[1].clone()], true))
    );
    assert_eq!(page(Some(&ids[1]), 2), Some((vec![ids[0].clone()], false)));
    assert_eq!(
        page(Some(&theirs), 2),
        None,
        "another owner's delivery was found"
    );
    assert_eq!(page(Some("evt_none"), 2), None);
    assert!(world.list(Some(Status::Failed)).is_empty());
    assert_eq!(
        world.queue.retry(&Owner::Anonymous, &theirs, world.now),
        Err(NoRetry::NotFound)
    );
}

#[test]
fn concurrency_limits_hold_in_total_and_per_host() {
    let mut world = World::new(|bounds| (bounds.concurrency, bounds.concurrency_per_host) = (3, 2));
    for _ in 0..4 {
        world.accept("slow.example.com");
    }
    world.accept("quick.example.com:8443");
    let jobs = world.start();
    let hosts: Vec<String> = jobs
        .iter()
        .map(|job| job.endpoint.host_and_port())
        .collect();
    assert_eq!(
        hosts,
        [
            "slow.example.com",
            "quick.example.com:8443",
            "slow.example.com"
        ]
    );
    assert!(world.start().is_empty());
    world.settle(&jobs[1], Ok(200));
    assert!(world.start().is_empty(), "the slow host exceeds its limit");
    world.settle(&jobs[0], failed(500));
    assert_eq!(world.start().len(), 1);
}

#[test]
fn manual_retry_skips_the_wait_and_restarts_the_time_limit() {
    let mut world = World::new(|_| {});
    let id = world.accept("example.com");
    for _ in 0..8 {
        let NoticeKind::Retrying { wait, .. } = world.attempt(failed(500)) else {
            panic!("not retried")
        };
        world.now += wait;
    }
    let job = world.start().pop().unwrap();
    assert_eq!(
        world
            .queue
            .retry(&Owner::Anonymous, &id, world.now)
            .unwrap()["attempts"],
        9
    );
    assert!(
        world.start().is_empty(),
        "the running attempt was started again"
    );
    world.settle(&job, failed(500));
    world.now += DAY;
    world
        .queue
        .retry(&Owner::Anonymous, &id, world.now)
        .unwrap();
    assert_eq!(world.queue.next_due(), None);
    let NoticeKind::Retrying { wait, .. } = world.attempt(failed(500)) else {
        panic!("the time limit was not restarted")
    };
    assert!(
        wait <= ceiling(1),
        "the backoff was not restarted: {wait:?}"
    );
    // A delivered one can be sent again too, with the same id.
    world.now += wait;
    world.attempt(Ok(200));
    world
        .queue
        .retry(&Owner::Anonymous, &id, world.now)
        .unwrap();
    assert_eq!(world.counts().3, 1);
    assert_eq!(
        world.attempt(Ok(200)),
        NoticeKind::Delivered { attempts: 12 }
    );
}

#[test]
fn shutdown_makes_one_last_attempt_for_each_delivery() {
    let mut world = World::new(|_| {});
    for host in ["a.example.com", "b.example.com", "c.example.com"] {
        world.accept(host);
    }
    for job in world.start() {
        world.settle(&job, failed(500));
    }
    world.now += Duration::from_millis(1);
    world.queue.last_call();
    let jobs = world.start();
    assert_eq!(jobs.len(), 3, "not all attempts were started");
    assert_eq!(
        world.settle(&jobs[0], Ok(200)),
        Some(NoticeKind::Delivered { attempts: 2 })
    );
    assert_eq!(
        world.settle(&jobs[1], failed(500)),
        Some(dead(Reason::Stopped, Some(DeliveryError::Status(500))))
    );
    let lost = world.queue.abandon();
    assert_eq!(
        lost.iter()
            .map(|notice| notice.host.as_str())
            .collect::<Vec<_>>(),
        [jobs[2].endpoint.host_and_port()]
    );
    assert_eq!(
        world.settle(&jobs[2], Ok(200)),
        None,
        "it was a dead letter already"
    );
    assert_eq!(
        world
            .accept_for(&Owner::Anonymous, "d.example.com")
            .1
            .unwrap()
            .kind,
        dead(Reason::Stopped, None)
    );
    assert_eq!(world.counts(), (1, 4, 3, 0));
}
