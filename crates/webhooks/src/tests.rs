//! Tests of the dispatcher with a paused clock and a scripted sender.

use std::collections::VecDeque;

use serde_json::{Value, json};
use tokenwire_core::model::id::GenerationId;

use super::delivery::{Attempted, DeliveryError, Status};
use super::delivery_queue::Job;
use super::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The result of a scripted attempt.
enum Answer {
    Now(Attempted),
    Never,
    Panic,
}

/// Answers as scripted, then with 200. Records the attempts.
#[derive(Default)]
struct Scripted {
    answers: Mutex<VecDeque<Answer>>,
    attempts: Mutex<Vec<(Instant, String)>>,
    running: Arc<Mutex<(usize, usize)>>,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

/// Counts a running attempt.
struct Running(Arc<Mutex<(usize, usize)>>);

impl Running {
    fn new(count: &Arc<Mutex<(usize, usize)>>) -> Self {
        let mut counts = count.lock();
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
        Self(count.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().0 -= 1;
    }
}

impl Sender for Scripted {
    fn send(&self, job: Job) -> BoxFuture<'static, Attempted> {
        self.attempts
            .lock()
            .push((Instant::now(), job.event.id.clone()));
        let answer = self
            .answers
            .lock()
            .pop_front()
            .unwrap_or(Answer::Now(Ok(200)));
        let running = Running::new(&self.running);
        async move {
            let _running = running;
            match answer {
                Answer::Now(attempted) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    attempted
                }
                Answer::Never => std::future::pending().await,
                Answer::Panic => panic!("scripted panic of a sender"),
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

/// Keeps nothing.
#[derive(Debug)]
struct NoRecords;

impl DeliveryRecords for NoRecords {
    fn set(&self, _key: &str, _value: Option<Vec<u8>>) {}

    fn kept<'a>(&'a self, _key: &'a str) -> BoxFuture<'a, ()> {
        std::future::ready(()).boxed()
    }

    fn get(&self, _key: &str) -> Option<Vec<u8>> {
        None
    }

    fn list(&self) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }
}

impl World {
    fn accept(&self, host: &str) {
        let url = parse_url(&format!("https://{host}/hook"), false).unwrap();
        let endpoint = Endpoint::new(url, SigningKey::parse(SECRET).unwrap());
        self.webhooks.accept(
            Event::new("response.completed", GenerationId::random()),
            &crate::records::Owed::new(Owner::Anonymous, endpoint, None),
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
async fn record_that_is_taken_over_twice_is_owed_once() {
    let world = world([], |_| {});
    let url = parse_url("https://example.com/hook", false).unwrap();
    let endpoint = Endpoint::new(url, SigningKey::parse(SECRET).unwrap());
    let owed = crate::records::Owed::new(Owner::Anonymous, endpoint, None);
    let response = GenerationId::random();
    let record = || (owed.event.clone(), owed.encode(&response, None));
    let records: Arc<dyn DeliveryRecords> = Arc::new(NoRecords);
    assert!(world.webhooks.keep_in(records).is_empty());
    for _ in 0..2 {
        let taken = world.webhooks.take_over(vec![record()]);
        assert_eq!(taken, std::slice::from_ref(&response));
    }
    assert_eq!(world.webhooks.take_unfinished(&response).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn failing_delivery_is_attempted_for_a_day() {
    let world = world(
        (0..100).map(|_| Answer::Now(Err((DeliveryError::Connection, None)))),
        |_| {},
    );
    let begun = Instant::now();
    world.accept("example.com");
    tokio::time::sleep(Duration::from_secs(25 * 60 * 60)).await;
    let attempts = world.sender.attempts.lock().clone();
    let last = attempts.last().unwrap().0 - begun;
    assert!(
        (20..60).contains(&attempts.len()),
        "{} attempts",
        attempts.len()
    );
    assert!(
        last <= Duration::from_secs(24 * 60 * 60) && last > Duration::from_secs(21 * 60 * 60),
        "{last:?}"
    );
    let dead = world.list(Status::Failed).pop().unwrap();
    assert_eq!(
        (&dead["reason"], &dead["attempts"]),
        (&json!("exhausted"), &json!(attempts.len()))
    );
    assert_eq!(world.webhooks.counters().dead(), 1);
}

#[tokio::test(start_paused = true)]
async fn attempt_that_hangs_or_panics_is_retried() {
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
            world.sender.running.lock().0
        ),
        (2, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn concurrency_limits_hold() {
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
            world.sender.running.lock().1
        ),
        (100, 5)
    );
}

#[tokio::test(start_paused = true)]
async fn hanging_host_does_not_delay_other_hosts() {
    let world = world((0..4).map(|_| Answer::Never), |_| {});
    for _ in 0..40 {
        world.accept("hangs.example.com");
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(
        world.sender.attempts.lock().len(),
        4,
        "the limit of one host does not hold"
    );
    world.accept("answers.example.com");
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(
        world.list(Status::Delivered)[0]["host"],
        "answers.example.com"
    );
}

#[tokio::test(start_paused = true)]
async fn finish_makes_one_last_attempt_and_times_out() {
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
    // All three have failed once and wait for a retry.
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
    assert!(
        begun.elapsed().is_zero(),
        "it waited although nothing was pending"
    );
}

#[test]
fn invalid_webhook_of_a_request_is_refused() {
    let promise = |config: &WebhookOptions, webhook: Value| {
        let webhooks = Webhooks::with_sender(config, Arc::new(Scripted::default())).unwrap();
        let body = json!({"input": "hi", "background": true, "webhook": webhook});
        let request = StartRequest {
            body: StreamRequest::parse(body.to_string().as_bytes()).unwrap(),
            owner: Owner::Anonymous,
            idempotency_key: None,
            has_only_key: false,
            refuses_webhooks: false,
            route: "/v1/responses",
            fingerprint: Vec::new(),
            headers: Vec::new(),
            client_key: None,
            meter: None,
            freshness: tokenwire_core::engine::Freshness::Any,
            session: None,
            trace: None,
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
