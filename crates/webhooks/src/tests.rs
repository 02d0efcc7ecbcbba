//! The dispatcher under a paused clock, with a courier that does as it is told.

use std::collections::VecDeque;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokenwire_core::model::id::GenerationId;

use super::delivery::{Attempted, DeliveryError, Status};
use super::queue::Job;
use super::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// What an attempt is answered with.
enum Answer {
    Now(Attempted),
    Never,
    Panic,
}

/// Answers as scripted, then with 200; writes down when it was asked for what.
#[derive(Default)]
struct Scripted {
    answers: Mutex<VecDeque<Answer>>,
    asked: Mutex<Vec<(Instant, String)>>,
    under_way: Arc<Mutex<(usize, usize)>>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

/// Counts an attempt for as long as it is under way.
struct Counted(Arc<Mutex<(usize, usize)>>);

impl Counted {
    fn new(count: &Arc<Mutex<(usize, usize)>>) -> Self {
        let mut counts = count.lock();
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.lock().0 -= 1;
    }
}

impl Sender for Scripted {
    fn send(&self, job: Job) -> BoxFuture<'static, Attempted> {
        self.asked
            .lock()
            .push((Instant::now(), job.event.id.clone()));
        let answer = self
            .answers
            .lock()
            .pop_front()
            .unwrap_or(Answer::Now(Ok(200)));
        let counted = Counted::new(&self.under_way);
        async move {
            let _counted = counted;
            match answer {
                Answer::Now(attempted) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    attempted
                }
                Answer::Never => std::future::pending().await,
                Answer::Panic => panic!("a sender that fails"),
            }
        }
        .boxed()
    }
}

struct World {
    webhooks: Webhooks,
    sender: Arc<Scripted>,
    _dispatcher: tokio::task::JoinHandle<()>,
}

fn config() -> WebhookOptions {
    WebhookOptions {
        secret: Some(SecretString::from(SECRET.to_owned())),
        ..WebhookOptions::default()
    }
}

fn world(
    answers: impl IntoIterator<Item = Answer>,
    change: impl FnOnce(&mut WebhookOptions),
) -> World {
    let mut config = config();
    change(&mut config);
    let sender = Arc::new(Scripted {
        answers: Mutex::new(answers.into_iter().collect()),
        ..Scripted::default()
    });
    let webhooks = Webhooks::with_sender(&config, sender.clone()).unwrap();
    let dispatcher = tokio::spawn(webhooks.clone().run());
    World {
        webhooks,
        sender,
        _dispatcher: dispatcher,
    }
}

impl World {
    fn accept(&self, host: &str) {
        let url = parse_url(&format!("https://{host}/hook"), false).unwrap();
        let endpoint = Endpoint::new(url, SigningKey::parse(SECRET).unwrap());
        self.webhooks.accept(
            Event::new("response.completed", GenerationId::random()),
            Owner::Anonymous,
            endpoint,
        );
    }

    fn list(&self, status: Status) -> Vec<Value> {
        self.webhooks
            .list(&Owner::Anonymous, Some(status), None, 1000)
            .unwrap()
            .deliveries
    }
}

fn refused(error: ApiError) -> (String, String) {
    (
        error.code.unwrap_or_default().into_owned(),
        error.param.unwrap_or_default(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_day_of_failures_is_a_day_of_attempts() {
    let world = world(
        (0..100).map(|_| Answer::Now(Err((DeliveryError::Connection, None)))),
        |_| {},
    );
    let begun = Instant::now();
    world.accept("example.com");
    tokio::time::sleep(Duration::from_secs(25 * 60 * 60)).await;
    let asked = world.sender.asked.lock().clone();
    let last = asked.last().unwrap().0 - begun;
    assert!((20..60).contains(&asked.len()), "{} attempts", asked.len());
    assert!(
        last <= Duration::from_secs(24 * 60 * 60) && last > Duration::from_secs(21 * 60 * 60),
        "{last:?}"
    );
    let dead = world.list(Status::Failed).pop().unwrap();
    assert_eq!(
        (&dead["reason"], &dead["attempts"]),
        (&json!("exhausted"), &json!(asked.len()))
    );
    assert_eq!(world.webhooks.counters().dead(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_or_panics_is_a_failure_and_not_the_last() {
    let world = world([Answer::Never, Answer::Panic], |config| {
        config.timeout = Duration::from_secs(3)
    });
    world.accept("example.com");
    tokio::time::sleep(Duration::from_millis(2999)).await;
    assert_eq!(world.list(Status::Pending)[0]["last_error"], Value::Null);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.list(Status::Delivered)[0]["attempts"], 3);
    assert_eq!(
        (
            world.webhooks.counters().failed_attempts(),
            world.sender.under_way.lock().0
        ),
        (2, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn no_more_are_under_way_than_may_be() {
    let world = world([], |config| {
        (config.concurrency, config.concurrency_per_host) = (5, 2)
    });
    for number in 0..100 {
        world.accept(&format!("h{}.example.com", number % 4));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (
            world.list(Status::Delivered).len(),
            world.sender.under_way.lock().1
        ),
        (100, 5)
    );
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_hangs_does_not_hold_up_the_others() {
    let world = world((0..4).map(|_| Answer::Never), |_| {});
    for _ in 0..40 {
        world.accept("hangs.example.com");
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(
        world.sender.asked.lock().len(),
        4,
        "the bound of one machine does not hold"
    );
    world.accept("answers.example.com");
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(
        world.list(Status::Delivered)[0]["host"],
        "answers.example.com"
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_one_last_chance_and_no_longer_than_it_may() {
    let busy = || {
        Answer::Now(Err((
            DeliveryError::Status(503),
            Some(Duration::from_secs(600)),
        )))
    };
    let world = world((0..3).map(|_| busy()), |_| {});
    for number in 0..3 {
        world.accept(&format!("h{number}.example.com"));
    }
    // All three have failed once, and wait.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.webhooks.counters().failed_attempts(), 3);
    world
        .sender
        .answers
        .lock()
        .extend([Answer::Now(Ok(200)), busy(), Answer::Never]);
    let begun = Instant::now();
    world.webhooks.finish(Duration::from_secs(10)).await;
    assert!(
        begun.elapsed() >= Duration::from_secs(10) && begun.elapsed() < Duration::from_secs(11),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        (
            world.list(Status::Delivered).len(),
            world.list(Status::Failed).len(),
            world.list(Status::Pending).len()
        ),
        (1, 1, 1)
    );
    world.webhooks.abandon();
    assert!(
        world
            .list(Status::Failed)
            .iter()
            .all(|dead| dead["reason"] == "stopped")
    );
    assert_eq!(world.list(Status::Failed).len(), 2);

    let nothing = self::world([], |_| {});
    let begun = Instant::now();
    nothing.webhooks.finish(Duration::from_secs(10)).await;
    assert!(begun.elapsed().is_zero(), "it waited for nothing");
}

#[test]
fn what_a_request_asks_for_is_checked() {
    let promise = |config: &WebhookOptions, webhook: Value| {
        let webhooks = Webhooks::with_sender(config, Arc::new(Scripted::default())).unwrap();
        let body = json!({"input": "hi", "background": true, "webhook": webhook});
        let request = StartRequest {
            body: StreamRequest::parse(body.to_string().as_bytes()).unwrap(),
            owner: Owner::Anonymous,
            idempotency_key: None,
            route: "/v1/responses",
            fingerprint: Vec::new(),
            headers: Vec::new(),
            client_key: None,
            freshness: tokenwire_core::engine::Freshness::Any,
        };
        webhooks
            .on_end(&request)
            .map(|promised| promised.is_some())
            .map_err(refused)
    };
    let (none, some) = (WebhookOptions::default(), config());
    let url = "https://example.com/hook";
    let invalid = |param: &str| Err(("invalid_value".to_owned(), param.to_owned()));
    assert_eq!(promise(&some, json!({"url": url})), Ok(true));
    assert_eq!(
        promise(&none, json!({"url": url, "secret": SECRET})),
        Ok(true)
    );
    assert_eq!(promise(&none, Value::Null), Ok(false));
    assert_eq!(
        promise(&none, json!({"url": url})),
        Err((
            "missing_required_parameter".to_owned(),
            "webhook.secret".to_owned()
        ))
    );
    assert_eq!(
        promise(&some, json!({"url": url, "secret": "hunter2"})),
        invalid("webhook.secret")
    );
    for url in [
        "ftp://example.com",
        "https://u:p@example.com",
        "nonsense",
        "http://127.0.0.1/",
        "http://example.com:25/",
    ] {
        assert_eq!(
            promise(&some, json!({"url": url})),
            invalid("webhook.url"),
            "{url}"
        );
    }
    let configured = WebhookOptions {
        url: Some(url.to_owned()),
        ..config()
    };
    assert_eq!(promise(&configured, Value::Null), Ok(true));
}
