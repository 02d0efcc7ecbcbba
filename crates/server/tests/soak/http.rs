//! Clients that read over HTTP: to the end, slowly, repeatedly, or for a short time.

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::plan::Plan;
use super::reading::{Ended, Reading, failure, text_of};
use super::support::sse::{Event, parse};
use super::support::{Answer, End, Exchange, Request, encode, with};
use super::world::{CHAT_MODEL, RESPONSES_MODEL, World};

/// A route that starts a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    ChatSdk,
    ResponsesSdk,
    EventSource,
    /// A GET with a key.
    EventSourceGet,
    EventSourceChat,
    Text,
}

const DOORS: [Door; 6] = [
    Door::ChatSdk,
    Door::ResponsesSdk,
    Door::EventSource,
    Door::EventSourceGet,
    Door::EventSourceChat,
    Door::Text,
];

/// What a client does beside reading, after a number of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    Stay,
    /// Leaves for good.
    Leave(u64),
    /// Leaves and resumes, each after this many more events.
    Return(u64),
    /// Cancels, and reads on.
    Cancel(u64),
    /// Deletes the response, and reads on.
    Delete(u64),
    /// Reads a little at a time.
    Crawl,
}

/// A client and its request.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) door: Door,
    pub(crate) plan: Plan,
    pub(crate) conduct: Conduct,
    pub(crate) model: &'static str,
}

/// The result of a client's reading.
#[derive(Debug)]
pub(crate) enum Outcome {
    Ended(Ended),
    /// The answer was an error status.
    Refused(Answer),
    Left,
    Deleted,
}

// === impl Stream ===

impl Stream {
    pub(crate) fn draw(world: &World, dice: &mut StdRng, id: String) -> Self {
        let door = DOORS[dice.random_range(0..DOORS.len())];
        let crawls = dice.random_bool(0.05);
        let plan = if crawls {
            Plan::large(dice, id)
        } else {
            Plan::draw(dice, id, &world.faults)
        };
        let after = dice.random_range(1..=plan.tokens() + 5);
        let conduct = match dice.random_range(0..20) {
            _ if crawls => Conduct::Crawl,
            0 => Conduct::Leave(0),
            1..=2 => Conduct::Leave(after),
            3..=6 => Conduct::Return(after),
            7..=8 => Conduct::Cancel(after),
            9 => Conduct::Delete(after),
            _ => Conduct::Stay,
        };
        Self {
            door,
            plan,
            conduct,
            model: model(dice),
        }
    }

    /// Returns the request that starts the stream.
    pub(crate) fn request(&self, world: &World) -> Request {
        let text = format!("[[{}]]", self.plan);
        let responses = json!({"model": self.model, "stream": true, "input": text});
        match self.door {
            Door::ChatSdk => {
                let messages = json!([{"role": "user", "content": text}]);
                world.post(
                    "/v1/chat/completions",
                    &json!({"model": self.model, "stream": true, "messages": messages}),
                )
            }
            Door::ResponsesSdk => world.post("/v1/responses", &responses),
            Door::EventSource => world.post("/v1/streams", &responses),
            Door::EventSourceGet => world.get(&format!(
                "/v1/streams?model={}&key={}&input={}",
                self.model,
                encode(&self.plan.to_string().replace(' ', "_")),
                encode(&text)
            )),
            Door::EventSourceChat => world.post("/v1/streams?dialect=chat", &responses),
            Door::Text => world
                .post("/v1/streams", &responses)
                .header("accept", "text/plain"),
        }
    }

    /// Reads as planned and returns the result.
    pub(crate) async fn run(&self, world: &World, dice: &mut StdRng) -> Outcome {
        let mut reading = Reading::new(
            &self.plan,
            matches!(self.door, Door::EventSource | Door::EventSourceGet),
        );
        let outcome = self.read(world, dice, &mut reading).await;
        if let (Outcome::Ended(_), Some(id)) = (&outcome, &reading.id)
            && self.door != Door::Text
        {
            reading.check_object(&world.object(id).await);
        }
        if let Outcome::Refused(answer) = &outcome {
            let Ended::Failed(code) = failure(&answer.json()["error"]) else {
                panic!("{}", answer.text())
            };
            assert!(
                !self.plan.is_sound() || code == "upstream_busy",
                "{} although the request has no fault",
                answer.text()
            );
        }
        outcome
    }

    async fn read(&self, world: &World, dice: &mut StdRng, reading: &mut Reading) -> Outcome {
        let mut request = self.request(world);
        let mut numbered = self.numbers();
        let mut goes = match self.conduct {
            Conduct::Return(after) if numbered => Some(after),
            _ => None,
        };
        loop {
            let mut exchange = if self.conduct == Conduct::Crawl {
                request.send_reading_little(4096).await
            } else {
                request.send().await
            };
            if self.conduct == Conduct::Leave(0) {
                return Outcome::Left;
            }
            match exchange.status().await {
                200 => {}
                204 => {
                    // Only `[DONE]` was left, which has no number of its own.
                    assert!(self.is_chat(), "204 before the end of the stream");
                    reading.end(Ended::Completed);
                    return Outcome::Ended(Ended::Completed);
                }
                _ => return Outcome::Refused(exchange.answer().await),
            }
            if let Some(result) = exchange.header("tokenwire-cache").await {
                world.seen.add(format!("reuse {result}"));
            }
            reading.know(&exchange.id().await);
            if self.door == Door::Text {
                return self.read_text(world, exchange, reading).await;
            }
            if !self
                .pull(world, &mut exchange, reading, goes, numbered)
                .await
            {
                match (self.conduct, goes) {
                    (_, Some(at)) => goes = Some(at + dice.random_range(1..=20)),
                    (Conduct::Delete(_), _) => return Outcome::Deleted,
                    _ => return Outcome::Left,
                }
                drop(exchange);
                world.seen.add("resumed");
                (request, numbered) = self.request_rest(world, dice, reading);
                continue;
            }
            return Outcome::Ended(reading.ended.clone().unwrap());
        }
    }

    /// Reads to the end, or until the client leaves. Returns whether the end was seen.
    async fn pull(
        &self,
        world: &World,
        exchange: &mut Exchange,
        reading: &mut Reading,
        goes: Option<u64>,
        numbered: bool,
    ) -> bool {
        let mut acted = false;
        loop {
            for event in whole_events(exchange) {
                self.take(&event, reading, numbered);
                let id = reading.id.as_deref().unwrap();
                match self.conduct {
                    Conduct::Leave(after) if reading.events >= after && reading.ended.is_none() => {
                        return false;
                    }
                    Conduct::Cancel(after) if reading.events >= after && !acted => {
                        acted = true;
                        world.cancel(id).await;
                    }
                    Conduct::Delete(after)
                        if reading.events >= after && reading.ended.is_none() =>
                    {
                        assert_eq!(
                            world
                                .delete(&format!("/v1/responses/{id}"))
                                .answer()
                                .await
                                .status,
                            200
                        );
                        while exchange.read().await {}
                        return false;
                    }
                    _ => {}
                }
                if goes.is_some_and(|after| reading.events >= after)
                    && reading.ended.is_none()
                    && reading.last.is_some()
                {
                    return false;
                }
            }
            if self.conduct == Conduct::Crawl {
                // The reading speed of this client.
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            if !exchange.read().await {
                break;
            }
        }
        assert_eq!(exchange.end, End::Whole, "{reading:?}");
        assert!(
            reading.ended.is_some(),
            "the body ended cleanly before the stream did: {reading:?}"
        );
        true
    }

    async fn read_text(
        &self,
        world: &World,
        mut exchange: Exchange,
        reading: &mut Reading,
    ) -> Outcome {
        let mut cancelled = false;
        loop {
            let pieces = exchange.body.iter().filter(|byte| **byte == b' ').count() as u64;
            match self.conduct {
                Conduct::Leave(after) if pieces >= after => return Outcome::Left,
                Conduct::Cancel(after) if pieces >= after && !cancelled => {
                    cancelled = true;
                    world.cancel(reading.id.as_deref().unwrap()).await;
                }
                Conduct::Crawl => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
                _ => {}
            }
            if !exchange.read().await {
                break;
            }
        }
        reading.text = exchange.text();
        let object = world.object(reading.id.as_deref().unwrap()).await;
        let ended = Reading::end_of(&object);
        assert_eq!(
            exchange.end == End::Whole,
            ended == Ended::Completed,
            "the transfer ended differently from {object}"
        );
        assert_eq!(text_of(&object), reading.text);
        reading.end(ended.clone());
        Outcome::Ended(ended)
    }

    fn is_chat(&self) -> bool {
        matches!(self.door, Door::ChatSdk | Door::EventSourceChat)
    }

    /// Returns whether its events have numbers.
    fn numbers(&self) -> bool {
        !matches!(self.door, Door::ChatSdk | Door::Text)
    }

    fn take(&self, event: &Event, reading: &mut Reading, has_id: bool) {
        let number = || event.id.as_ref().map(|_| event.number());
        if self.is_chat() {
            return reading.chunk(number(), &event.data);
        }
        if event.data == "[DONE]" {
            assert!(
                reading.ended.is_some() && event.id.is_none(),
                "[DONE] before the terminal event"
            );
            return;
        }
        let json = event.json();
        if has_id && let Some(number) = number() {
            assert_eq!(json["sequence_number"], number);
        }
        reading.event(&json);
    }

    /// Returns the request for the rest, and whether every number is visible in its answer.
    fn request_rest(
        &self,
        world: &World,
        dice: &mut StdRng,
        reading: &mut Reading,
    ) -> (Request, bool) {
        let (id, last) = (
            reading.id.as_deref().unwrap().to_owned(),
            reading.last.unwrap(),
        );
        let path = format!("/v1/streams/{id}");
        if self.door == Door::EventSourceChat {
            return (
                world
                    .get(&format!("{path}?dialect=chat"))
                    .header("last-event-id", &format!("{id}.{last}")),
                true,
            );
        }
        let way = dice.random_range(0..3);
        reading.goes_on(way < 2);
        let request = match way {
            0 => world
                .get(&path)
                .header("last-event-id", &format!("{id}.{last}")),
            1 => world.get(&format!("{path}?after={last}")),
            _ => world.get(&format!(
                "/v1/responses/{id}?stream=true&starting_after={last}"
            )),
        };
        (request, true)
    }
}

/// Removes the whole events from the body and returns them.
fn whole_events(exchange: &mut Exchange) -> Vec<Event> {
    let Some(end) = exchange.body.windows(2).rposition(|pair| pair == b"\n\n") else {
        return Vec::new();
    };
    let whole: Vec<u8> = exchange.body.drain(..end + 2).collect();
    parse(std::str::from_utf8(&whole).unwrap())
}

pub(crate) fn model(dice: &mut StdRng) -> &'static str {
    if dice.random_bool(0.6) {
        CHAT_MODEL
    } else {
        RESPONSES_MODEL
    }
}

/// Requests an unstreamed answer. `waits` says whether the client stays for it.
pub(crate) async fn whole(
    world: &World,
    plan: &Plan,
    model: &str,
    in_chat: bool,
    waits: bool,
) -> Outcome {
    let text = format!("[[{plan}]]");
    let (path, body) = match in_chat {
        true => (
            "/v1/chat/completions",
            json!({"messages": [{"role": "user", "content": text}]}),
        ),
        false => ("/v1/responses", json!({"input": text})),
    };
    let exchange = world
        .post(path, &with(body, json!({"model": model, "stream": false})))
        .send()
        .await;
    if !waits {
        return Outcome::Left;
    }
    let answer = exchange.answer().await;
    assert_eq!(answer.end, End::Whole, "{}", answer.text());
    let said = answer.json();
    if answer.status != 200 {
        let Ended::Failed(code) = failure(&said["error"]) else {
            panic!("{said}")
        };
        // An upstream that hangs after the end looks like one that hangs before it if it is not
        // streamed.
        assert!(
            !plan.is_sound() || code == "upstream_busy",
            "{said} although the request has no fault"
        );
        return Outcome::Refused(answer);
    }
    let mut reading = Reading::new(plan, false);
    let (text, ended) = match in_chat {
        true => (
            said["choices"][0]["message"]["content"]
                .as_str()
                .unwrap()
                .to_owned(),
            Ended::Completed,
        ),
        false => (text_of(&said), Reading::end_of(&said)),
    };
    reading.text = text;
    reading.end(ended.clone());
    reading.check_object(&world.object(answer.id()).await);
    Outcome::Ended(ended)
}

/// Starts a background response and polls it until its end. Returns its id if a webhook was
/// requested.
pub(crate) async fn background(
    world: &World,
    dice: &mut StdRng,
    plan: &Plan,
) -> (Outcome, Option<String>) {
    let told = dice.random_bool(0.6);
    let cancels = dice.random_bool(0.2);
    let mut body = json!({"model": model(dice), "stream": false, "background": true, "input": format!("[[{plan}]]")});
    if told {
        body["webhook"] = json!({"url": world.webhooks});
    }
    let answer = world.post("/v1/responses", &body).answer().await;
    if answer.status != 200 {
        // It started nothing and the upstream was not asked, so only the queue can be the reason.
        let code = failure(&answer.json()["error"]);
        assert_eq!(
            (answer.status, code),
            (429, Ended::Failed("upstream_busy".to_owned())),
            "{}",
            answer.text()
        );
        return (Outcome::Refused(answer), None);
    }
    let id = answer.id().to_owned();
    if cancels {
        world.cancel(&id).await;
    }
    let mut looks = 0;
    let object: Value = loop {
        let object = world.object(&id).await;
        if !matches!(object["status"].as_str(), Some("queued" | "in_progress")) {
            break object;
        }
        looks += 1;
        assert!(looks < 2400, "no end: {object}");
        // The polling interval of this client.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    let mut reading = Reading::new(plan, false);
    reading.text = text_of(&object);
    let ended = Reading::end_of(&object);
    reading.end(ended.clone());
    (Outcome::Ended(ended), told.then_some(id))
}
