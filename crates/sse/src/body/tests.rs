//! Readers that leave when the gateway drains.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use tokenwire_core::dialect::{Dialect, Framing};
use tokenwire_core::model::id::Seq;
use tokenwire_testkit::{EngineOptions, TestEngine};

use super::*;
use crate::framing::{EventSource, Sdk};

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Reader {
    body: SseBody,
    wakes: Arc<Wakes>,
}

impl Reader {
    fn poll(&mut self) -> Poll<Option<String>> {
        let waker = Waker::from(self.wakes.clone());
        let polled = Pin::new(&mut self.body).poll_next(&mut Context::from_waker(&waker));
        polled.map(|bytes| bytes.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap()))
    }

    fn woken(&self) -> usize {
        self.wakes.0.load(Ordering::SeqCst)
    }
}

fn reader(test: &TestEngine, framing: Arc<dyn Framing>, leaves: bool) -> Reader {
    let started = test.start(r#"{"model":"scripted","stream":true,"input":"hello"}"#);
    let subscription = Subscription::new(started.guard, Seq(0), Dialect::Responses, framing);
    let options = SseOptions {
        drain: leaves.then(|| test.engine.registry().clone()),
        ..SseOptions::default()
    };
    Reader {
        body: SseBody::new(Some(subscription), options),
        wakes: Arc::default(),
    }
}

#[tokio::test]
async fn reader_that_waits_is_woken_and_leaves_with_a_retry() {
    let test = TestEngine::new(EngineOptions::default());
    let mut reader = reader(&test, Arc::new(EventSource), true);
    let Poll::Ready(Some(first)) = reader.poll() else {
        panic!("no first event");
    };
    assert!(first.starts_with("id: resp_"), "{first}");
    assert!(reader.poll().is_pending());
    let woken = reader.woken();
    test.engine.registry().begin_drain(true);
    assert_eq!(reader.woken(), woken + 1);
    let Poll::Ready(Some(last)) = reader.poll() else {
        panic!("it does not leave");
    };
    let retry = last.strip_prefix("retry: ").unwrap().trim_end();
    assert!((200..2000).contains(&retry.parse().unwrap()), "{last}");
    assert_eq!(reader.poll(), Poll::Ready(None));
}

#[tokio::test]
async fn reader_leaves_only_after_its_first_event() {
    let test = TestEngine::new(EngineOptions::default());
    let mut reader = reader(&test, Arc::new(EventSource), true);
    test.engine.registry().begin_drain(true);
    // Without an id it would start another generation.
    assert!(matches!(reader.poll(), Poll::Ready(Some(first)) if first.starts_with("id: resp_")));
    assert!(matches!(reader.poll(), Poll::Ready(Some(last)) if last.starts_with("retry: ")));
}

#[tokio::test]
async fn sdk_body_stays_until_its_end() {
    let test = TestEngine::new(EngineOptions::default());
    let mut sdk = reader(&test, Arc::new(Sdk), false);
    let mut alone = reader(&test, Arc::new(EventSource), true);
    assert!(sdk.poll().is_ready() && alone.poll().is_ready());
    test.engine.registry().begin_drain(false);
    assert!(sdk.poll().is_pending());
    // No other process reads it on.
    assert!(alone.poll().is_pending());
    test.engine.registry().begin_drain(true);
    assert!(sdk.poll().is_pending());
}
