//! The receiver of webhooks.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use tokenwire_webhooks::Post;
use tokio::time::sleep;

use crate::world::World;

/// Takes the webhooks of all nodes. Some are refused, and of some the answer is lost.
#[derive(Debug)]
pub(crate) struct Receiver(pub(crate) Arc<World>);

/// A webhook that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) event: String,
    pub(crate) kind: String,
}

impl Post for Receiver {
    fn post(&self, event: &str, body: &str) -> BoxFuture<'static, Option<u16>> {
        let body: Value = serde_json::from_str(body).expect("the body of a webhook is JSON");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (response, kind) = (text(&body["data"]["id"]), text(&body["type"]));
        let received = Received {
            event: event.to_owned(),
            kind,
        };
        let world = self.0.clone();
        async move {
            let (pause, fate) = world.draw("post", |dice| (dice.millis(2..=60), dice.range(0..=9)));
            sleep(Duration::from_millis(pause)).await;
            let is_healed = world.is_healed();
            if fate == 0 && !is_healed {
                return Some(500);
            }
            let (event, kind) = (&received.event, &received.kind);
            world.note(format_args!("webhook {event} {kind} of {response}"));
            world.received(&response, received);
            (fate > 1 || is_healed).then_some(200)
        }
        .boxed()
    }
}
