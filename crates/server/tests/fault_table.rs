//! Every fault of the simulator, over every transport, streamed, not streamed and in the
//! background, over upstreams of either language: how it ends for the client, what is kept, what
//! the upstream saw of it, and what was counted.
//!
//! A row says what a fault comes to; how each client is told follows from the client alone, so a
//! row that is right for one and wrong for another is a fault of the gateway's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says why and ends"
)]

mod support;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use serde_json::{Value, json};
use support::{Answer, End, Gateway, World, chat, response, start, with};
use tokenwire::config::schema::{Api, Config};
use tokenwire_core::model::error::ErrorCode;
use tokenwire_simulator::Outcome;

/// Who asks, and how the answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    ChatSdk,
    ChatWhole,
    ResponsesSdk,
    ResponsesWhole,
    /// Polled until it has ended.
    Background,
    EventSource,
    /// A chat request, read as chat.
    EventSourceChat,
    Text,
    WebSocket,
}

use Client::{
    Background, ChatSdk, ChatWhole, EventSource, EventSourceChat, ResponsesSdk, ResponsesWhole,
    Text, WebSocket,
};

const CLIENTS: [Client; 9] = [
    ChatSdk,
    ChatWhole,
    ResponsesSdk,
    ResponsesWhole,
    Background,
    EventSource,
    EventSourceChat,
    Text,
    WebSocket,
];

/// How a fault ends.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// With the whole answer.
    Whole,
    /// Before the upstream's head, with this status and code. Whether the code is retryable.
    Refused(u16, &'static str, bool),
    /// After it, with this code; the status is for those whose own head has not left yet. So many
    /// tokens are kept.
    Failed(u16, &'static str, bool, usize),
}

use Ends::{Failed, Refused, Whole};

/// How the upstream's record of the request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    /// It was read to its end.
    Done,
    /// It was given up by the gateway.
    Aborted,
    /// Either: what is left after the last word may still be on its way when the connection is let
    /// go.
    DoneOrAborted,
}

use Upstream::{Aborted, Done, DoneOrAborted};

/// Which of the counters of how requests fail before their first token goes up; after it, none
/// does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Nothing,
    Refusal,
    RateLimit,
    Broken,
    Silence,
}

use Counted::{Broken, Nothing, RateLimit, Refusal, Silence};

struct Row {
    steering: &'static str,
    ends: Ends,
    counted: Counted,
    /// Where the upstream is asked for the whole at once (chat over chat), which some faults do not
    /// touch and some strike otherwise.
    in_one_piece: Option<(Ends, Upstream, Counted)>,
    /// How often the upstream is asked, at least and at most.
    requests: (usize, usize),
    upstream: Upstream,
}

const fn row(steering: &'static str, ends: Ends, upstream: Upstream, counted: Counted) -> Row {
    Row {
        steering,
        ends,
        counted,
        in_one_piece: None,
        requests: (1, 1),
        upstream,
    }
}

const fn with_whole(row: Row, ends: Ends, upstream: Upstream, counted: Counted) -> Row {
    Row {
        in_one_piece: Some((ends, upstream, counted)),
        ..row
    }
}

const BEFORE_THE_HEAD: &[Row] = &[
    row(
        "fault=status code=400",
        Refused(400, "invalid_request_error", false),
        Done,
        Nothing,
    ),
    row(
        "fault=status code=404",
        Refused(404, "model_not_found", false),
        Done,
        Nothing,
    ),
    row(
        "fault=status code=408",
        Refused(408, "api_error", true),
        Done,
        Refusal,
    ),
    row(
        "fault=status code=429",
        Refused(429, "rate_limit_exceeded", true),
        Done,
        RateLimit,
    ),
    row(
        "fault=status code=500",
        Refused(500, "server_error", true),
        Done,
        Refusal,
    ),
    row(
        "fault=status code=503",
        Refused(503, "overloaded", true),
        Done,
        Refusal,
    ),
    row(
        "fault=status code=401",
        Refused(502, "upstream_auth", false),
        Done,
        Refusal,
    ),
    // On a connection that was idle the request may not have been read: then it is sent once more.
    Row {
        requests: (1, 2),
        ..row(
            "fault=refuse",
            Refused(502, "upstream_disconnected", true),
            Done,
            Broken,
        )
    },
    row(
        "fault=html",
        Refused(502, "upstream_status_502", true),
        Done,
        Refusal,
    ),
    with_whole(
        row(
            "fault=stall_head",
            Refused(504, "first_token_timeout", true),
            Aborted,
            Silence,
        ),
        Refused(504, "total_timeout", true),
        Aborted,
        Silence,
    ),
];

const AFTER_SOME_TOKENS: &[Row] = &[
    row(
        "fault=json_error",
        Failed(502, "server_error", true, 0),
        Done,
        Broken,
    ),
    with_whole(
        row(
            "ttft=1h",
            Failed(504, "first_token_timeout", true, 0),
            Aborted,
            Silence,
        ),
        Failed(504, "total_timeout", true, 0),
        Aborted,
        Silence,
    ),
    with_whole(
        row(
            "fault=stall after=2",
            Failed(504, "between_tokens_timeout", true, 2),
            Aborted,
            Nothing,
        ),
        Failed(504, "total_timeout", true, 0),
        Aborted,
        Silence,
    ),
    row(
        "fault=cut after=0",
        Failed(502, "upstream_truncated", true, 0),
        Done,
        Broken,
    ),
    with_whole(
        row(
            "fault=cut after=2",
            Failed(502, "upstream_truncated", true, 2),
            Done,
            Nothing,
        ),
        Failed(502, "upstream_truncated", true, 0),
        Done,
        Broken,
    ),
    with_whole(
        row(
            "fault=reset after=2",
            Failed(502, "upstream_truncated", true, 2),
            Done,
            Nothing,
        ),
        Failed(502, "upstream_truncated", true, 0),
        Done,
        Broken,
    ),
    with_whole(
        row(
            "fault=end after=2",
            Failed(502, "upstream_truncated", true, 2),
            Done,
            Nothing,
        ),
        Failed(502, "upstream_malformed", true, 0),
        Done,
        Broken,
    ),
    with_whole(
        row(
            "fault=error after=2",
            Failed(502, "server_error", true, 2),
            Done,
            Nothing,
        ),
        Refused(500, "server_error", true),
        Done,
        Refusal,
    ),
    with_whole(
        row(
            "fault=malformed after=2",
            Failed(502, "upstream_malformed", true, 2),
            DoneOrAborted,
            Nothing,
        ),
        Failed(502, "upstream_malformed", true, 0),
        Done,
        Broken,
    ),
    with_whole(
        row(
            "fault=bad_utf8 after=2",
            Failed(502, "upstream_invalid_utf8", true, 2),
            DoneOrAborted,
            Nothing,
        ),
        Failed(502, "upstream_invalid_utf8", true, 0),
        Done,
        Broken,
    ),
    with_whole(
        row(
            "fault=oversize after=2 size=4MiB",
            Failed(502, "upstream_event_too_large", false, 2),
            DoneOrAborted,
            Nothing,
        ),
        Failed(502, "upstream_event_too_large", false, 0),
        DoneOrAborted,
        Nothing,
    ),
];

const AT_THE_END: &[Row] = &[
    row("fault=none", Whole, Done, Nothing),
    row("fault=no_done", Whole, Done, Nothing),
    with_whole(
        row("fault=hang", Whole, Aborted, Nothing),
        Failed(504, "total_timeout", true, 0),
        Aborted,
        Silence,
    ),
];

const IN_THE_FRAMING: &[Row] = &[
    row("fault=split", Whole, Done, Nothing),
    row("fault=crlf", Whole, Done, Nothing),
    row("fault=cr", Whole, Done, Nothing),
    row("fault=nospace", Whole, Done, Nothing),
    row("fault=bom", Whole, Done, Nothing),
    row("fault=comments", Whole, Done, Nothing),
    row("fault=multi", Whole, Done, Nothing),
    row("fault=gzip", Whole, Done, Nothing),
];

/// The answer that every row asks for, and so much of it.
fn tokens(count: usize) -> String {
    (0..count).map(|number| format!(" t{number}")).collect()
}
const TOKENS: usize = 4;

/// Retries have tests of their own: here what a request goes up for, once, is what the table shows.
fn without_retries(config: &mut Config) {
    config.retry.attempts = 0;
    // With nobody else to ask it changes nothing, and when it opens depends on the order of the
    // failures.
    config.breaker.failures = 0;
}

fn world(api: Api) -> World {
    start(|config| {
        config.upstreams[0].api = api;
        config.limits.event = 1024 * 1024;
        config.timeouts.first_token = Duration::from_secs(8);
        config.timeouts.between_tokens = Duration::from_secs(8);
        // Of what comes in one piece this is the only clock; it must not run out before the others
        // do.
        config.timeouts.total = Duration::from_secs(20);
        // A head waits for the upstream's status, however slow the machine is.
        config.streams.commit_after = Duration::from_secs(600);
        without_retries(config);
    })
}

async fn check(rows: &[Row]) {
    for api in [Api::Chat, Api::Responses] {
        let world = &world(api);
        // Every cell is looked at, whatever is wrong with the others: what a fault has in common
        // tells where it comes from.
        let cells = rows.iter().flat_map(|row| {
            CLIENTS.map(|client| AssertUnwindSafe(cell(world, api, row, client)).catch_unwind())
        });
        let wrong = join_all(cells)
            .await
            .into_iter()
            .filter(Result::is_err)
            .count();
        assert_eq!(
            wrong,
            0,
            "so many of {} cells over {api:?} are wrong; each is shown above",
            rows.len() * CLIENTS.len()
        );
        world.idle().await;
        assert_eq!(world.simulator.stats().open_streams, 0);
        check_counters(world, api, rows).await;
    }
}

/// What the gateway has counted is what the cells came to, no more and no less.
async fn check_counters(world: &World, api: Api, rows: &[Row]) {
    let mut expected = Counts::default();
    for (row, client) in rows
        .iter()
        .flat_map(|row| CLIENTS.map(|client| (row, client)))
    {
        expected.cell(row, client, api);
    }
    // A generation and its request are counted just after its last event is on its way.
    let cells = rows.len() * CLIENTS.len();
    let mut counted = Counts::default();
    support::eventually("that all is counted", async || {
        counted = Counts::of(&world.get("/metrics").answer().await.text());
        let ended = counted
            .0
            .iter()
            .filter(|(name, _)| name.starts_with("generations_ended"));
        ended.map(|(_, count)| count).sum::<u64>() == cells as u64
            && !counted.0.contains_key("upstream_running")
    })
    .await;
    assert_eq!(counted, expected, "over {api:?}");
}

/// The samples that tell of ends and of upstreams, without `tokenwire_` and without those that are
/// zero.
#[derive(Debug, Default, PartialEq)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn of(text: &str) -> Self {
        let samples = text
            .lines()
            .filter_map(|line| line.strip_prefix("tokenwire_")?.rsplit_once(' '));
        let told = ["generations_ended_total", "upstream_"];
        // The one that says that it is up, and the seconds, are no counts.
        let wanted = samples.filter(|(name, _)| told.iter().any(|told| name.starts_with(told)));
        let wanted = wanted
            .filter(|(name, _)| !name.starts_with("upstream_up") && !name.contains("_seconds"));
        let counts = wanted.map(|(name, value)| {
            (
                name.replace(r#"{upstream="upstream"}"#, ""),
                value.parse::<f64>().unwrap() as u64,
            )
        });
        Self(counts.filter(|(_, count)| *count > 0).collect())
    }

    fn add(&mut self, name: impl Into<String>) {
        *self.0.entry(name.into()).or_default() += 1;
    }

    fn cell(&mut self, row: &Row, client: Client, over: Api) {
        let (ends, counted) = match row.in_one_piece {
            Some((ends, _, counted)) if client == ChatWhole && over == Api::Chat => (ends, counted),
            _ => (row.ends, row.counted),
        };
        let api = if matches!(client, ChatSdk | ChatWhole | EventSourceChat) {
            "chat"
        } else {
            "responses"
        };
        let (status, code) = match ends {
            Whole => ("completed", ""),
            Refused(_, code, _) | Failed(_, code, ..) => ("failed", code),
        };
        // A code of the upstream's own is no label.
        let label = if code.is_empty() || ErrorCode::ALL.iter().any(|known| known.as_str() == code)
        {
            code
        } else {
            "other"
        };
        self.add(format!(
            r#"generations_ended_total{{api="{api}",status="{status}",code="{label}"}}"#
        ));
        self.add("upstream_requests_total");
        if let Some(clock) = code.strip_suffix("_timeout") {
            self.add(format!(r#"upstream_timeouts_total{{upstream="upstream",model="simulator",clock="{clock}"}}"#));
        }
        match counted {
            Nothing => {}
            Refusal => self.add("upstream_refusals_total"),
            RateLimit => self.add("upstream_rate_limits_total"),
            Broken => self.add("upstream_broken_total"),
            Silence => self.add("upstream_silences_total"),
        }
    }
}

async fn cell(world: &World, api: Api, row: &Row, client: Client) {
    let (ends, upstream) = match row.in_one_piece {
        Some((ends, upstream, _)) if client == ChatWhole && api == Api::Chat => (ends, upstream),
        _ => (row.ends, row.upstream),
    };
    let context = format!("{} as {client:?} over {api:?}", row.steering);
    // A Responses upstream that says itself that it failed is relayed as it is.
    let own_words = api == Api::Responses && row.steering.starts_with("fault=error");
    let told = |retryable: bool| (!own_words).then_some(retryable);
    // By this the request is found among the others.
    let mark = format!(
        "{}{client:?}",
        row.steering
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-")
    );
    let steering = format!("tokens={TOKENS} text=count {} id={mark}", row.steering);
    let seen = Seen::of(world, client, &steering).await;
    match ends {
        Whole => seen.is_whole(&context),
        Refused(status, code, retryable) if seen.by_status => {
            seen.is_error(&context, status, code, told(retryable))
        }
        Refused(_, code, retryable) => seen.is_failed(&context, code, told(retryable), 0),
        Failed(status, code, retryable, _) if client == ChatWhole => {
            seen.is_error(&context, status, code, told(retryable))
        }
        Failed(_, code, retryable, kept) => seen.is_failed(&context, code, told(retryable), kept),
    }
    let ours = format!("id={mark}]]");
    let records = || {
        let all = world.simulator.requests().into_iter();
        all.filter(|record| {
            record
                .body
                .as_ref()
                .is_some_and(|body| body.to_string().contains(&ours))
        })
        .collect::<Vec<_>>()
    };
    support::eventually("the end of the upstream's request", async || {
        records()
            .iter()
            .all(|record| record.outcome != Outcome::Open)
    })
    .await;
    let records = records();
    let (least, most) = row.requests;
    assert!(
        (least..=most).contains(&records.len()),
        "{context}: the upstream was asked {} times",
        records.len()
    );
    for record in records {
        let aborted = record.outcome == Outcome::Aborted;
        let expected = match upstream {
            Done => !aborted,
            Aborted => aborted,
            DoneOrAborted => true,
        };
        assert!(
            expected,
            "{context}: the upstream's request ended {:?}",
            record.outcome
        );
    }
}

/// What a client got.
struct Seen {
    client: Client,
    /// Whether this client is told what fails before the upstream's head by its status.
    by_status: bool,
    answer: Option<Answer>,
    /// The payloads of its stream.
    payloads: Vec<String>,
    /// The response object, where it got one or could ask for it.
    object: Value,
}

impl Seen {
    async fn of(gateway: &Gateway, client: Client, steering: &str) -> Self {
        let whole = json!({"stream": false});
        let answer = match client {
            ChatSdk => gateway.post("/v1/chat/completions", &chat(steering)),
            ChatWhole => gateway.post("/v1/chat/completions", &with(chat(steering), whole)),
            ResponsesSdk => gateway.post("/v1/responses", &response(steering)),
            ResponsesWhole => gateway.post("/v1/responses", &with(response(steering), whole)),
            Background => gateway.post(
                "/v1/responses",
                &with(
                    response(steering),
                    json!({"stream": false, "background": true}),
                ),
            ),
            EventSource => gateway.post("/v1/streams", &response(steering)),
            EventSourceChat => gateway.post("/v1/streams?dialect=chat", &chat(steering)),
            Text => gateway
                .post("/v1/streams", &response(steering))
                .header("accept", "text/plain"),
            WebSocket => return Self::over_websocket(gateway, steering).await,
        }
        .answer()
        .await;
        let id = answer
            .header("location")
            .and_then(|location| location.rsplit('/').next())
            .expect("no Location")
            .to_owned();
        if client == Background {
            support::eventually("the end of a background response", async || {
                !matches!(
                    gateway.object(&id).await["status"].as_str(),
                    Some("queued" | "in_progress")
                )
            })
            .await;
        }
        let object = gateway.object(&id).await;
        let streams = matches!(
            client,
            ChatSdk | ResponsesSdk | EventSource | EventSourceChat
        ) && answer.status == 200;
        let payloads = if streams {
            answer
                .events()
                .into_iter()
                .map(|event| event.data)
                .collect()
        } else {
            Vec::new()
        };
        let by_status = !matches!(client, Background | EventSource | EventSourceChat);
        Self {
            client,
            by_status,
            payloads,
            object,
            answer: Some(answer),
        }
    }

    async fn over_websocket(gateway: &Gateway, steering: &str) -> Self {
        let mut socket = gateway.socket().await;
        socket.create(steering, json!({"model": "simulator"})).await;
        let events = socket.until_end().await;
        let object = events.last().unwrap()["response"].clone();
        assert_eq!(gateway.object(object["id"].as_str().unwrap()).await, object);
        Self {
            client: WebSocket,
            by_status: false,
            answer: None,
            payloads: events.iter().map(Value::to_string).collect(),
            object,
        }
    }

    /// What was said, as this client puts it together.
    fn said(&self) -> String {
        let json = |payload: &String| serde_json::from_str::<Value>(payload).ok();
        match (self.client, &self.answer) {
            (Text, Some(answer)) => answer.text(),
            (ChatWhole, Some(answer)) => answer.json()["choices"][0]["message"]["content"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            (ResponsesWhole | Background, _) => self.kept(),
            (ChatSdk | EventSourceChat, _) => {
                let chunks = self.payloads.iter().filter_map(json);
                chunks
                    .filter_map(|chunk| {
                        chunk["choices"][0]["delta"]["content"]
                            .as_str()
                            .map(str::to_owned)
                    })
                    .collect()
            }
            _ => {
                let events: Vec<Value> = self.payloads.iter().filter_map(json).collect();
                support::sse::output_text(&events)
            }
        }
    }

    /// What the response object holds.
    fn kept(&self) -> String {
        let items = self.object["output"].as_array().unwrap().iter();
        items
            .filter_map(|item| item["content"][0]["text"].as_str())
            .collect()
    }

    fn last(&self) -> Value {
        let last = self
            .payloads
            .iter()
            .rfind(|payload| *payload != "[DONE]")
            .expect("no payload");
        serde_json::from_str(last).unwrap()
    }

    /// How often a stream of SSE says that it is done.
    fn dones(&self) -> usize {
        self.payloads
            .iter()
            .filter(|payload| *payload == "[DONE]")
            .count()
    }

    fn is_whole(&self, context: &str) {
        let shown = self.answer.as_ref().map(Answer::text).unwrap_or_default();
        assert_eq!(self.said(), tokens(TOKENS), "{context}: {shown}");
        assert_eq!(
            (self.object["status"].as_str(), self.kept()),
            (Some("completed"), tokens(TOKENS)),
            "{context}"
        );
        if let Some(answer) = &self.answer {
            assert_eq!(
                (answer.status, answer.end),
                (200, End::Whole),
                "{context}: {shown}"
            );
        }
        match self.client {
            ChatSdk | EventSourceChat | ResponsesSdk => {
                assert_eq!(self.dones(), 1, "{context}: {shown}")
            }
            _ => assert_eq!(self.dones(), 0, "{context}: {shown}"),
        }
    }

    /// Told by a status, before anything else.
    fn is_error(&self, context: &str, status: u16, code: &str, retryable: Option<bool>) {
        let answer = self.answer.as_ref().expect("an answer");
        assert_eq!(
            (answer.status, answer.end),
            (status, End::Whole),
            "{context}: {}",
            answer.text()
        );
        let error = &answer.json()["error"];
        // A refusal of the upstream's is passed on in its own words, which need not hold a code.
        assert_eq!(
            error["code"].as_str().or(error["type"].as_str()),
            Some(code),
            "{context}: {error}"
        );
        for member in ["message", "type"] {
            assert!(
                error[member].as_str().is_some_and(|text| !text.is_empty()),
                "{context}: {error}"
            );
        }
        // The upstream may have billed, and our own retries are the gateway's business.
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{context}");
        if matches!(status, 429 | 503) {
            assert!(answer.header("retry-after").is_some(), "{context}");
        }
        self.object_failed(context, code, retryable);
    }

    /// Told after the head, or by the object.
    fn is_failed(&self, context: &str, code: &str, retryable: Option<bool>, kept: usize) {
        let shown = self
            .answer
            .as_ref()
            .map_or_else(|| self.payloads.join("\n"), Answer::text);
        if let Some(answer) = &self.answer {
            assert_eq!(answer.status, 200, "{context}: {shown}");
            assert_eq!(
                answer.end,
                if self.client == Text {
                    End::Broken
                } else {
                    End::Whole
                },
                "{context}: {shown}"
            );
        }
        assert_eq!(self.said(), tokens(kept), "{context}: {shown}");
        assert_eq!(self.kept(), tokens(kept), "{context}: {}", self.object);
        self.object_failed(context, code, retryable);
        match self.client {
            ChatSdk | EventSourceChat => {
                assert_eq!(self.dones(), 0, "{context}: {shown}");
                let last = self.last();
                assert!(
                    last["error"]["message"]
                        .as_str()
                        .is_some_and(|message| !message.is_empty()),
                    "{context}: {last}"
                );
                assert!(
                    !shown.contains(r#""finish_reason":""#),
                    "{context}: it looks finished: {shown}"
                );
            }
            ResponsesSdk | EventSource | WebSocket => {
                let last = self.last();
                assert_eq!(
                    (last["type"].as_str(), &last["response"]),
                    (Some("response.failed"), &self.object),
                    "{context}"
                );
                assert_eq!(
                    self.dones(),
                    usize::from(self.client == ResponsesSdk),
                    "{context}: {shown}"
                );
            }
            ChatWhole | ResponsesWhole | Background | Text => {}
        }
    }

    /// `retryable` is `None` where the object is the upstream's own.
    fn object_failed(&self, context: &str, code: &str, retryable: Option<bool>) {
        assert_eq!(
            self.object["status"], "failed",
            "{context}: {}",
            self.object
        );
        assert_eq!(
            self.object["error"]["code"], code,
            "{context}: {}",
            self.object
        );
        assert_eq!(
            self.object["error"]["retryable"].as_bool(),
            retryable,
            "{context}: {}",
            self.object
        );
    }
}

#[tokio::test]
async fn faults_before_the_head() {
    check(BEFORE_THE_HEAD).await;
}

#[tokio::test]
async fn faults_after_some_tokens() {
    check(AFTER_SOME_TOKENS).await;
}

#[tokio::test]
async fn faults_at_the_end() {
    check(AT_THE_END).await;
}

#[tokio::test]
async fn faults_in_the_framing() {
    check(IN_THE_FRAMING).await;
}
