//! Every fault of the simulator over every transport, streamed, unstreamed and in the background,
//! for upstreams of both APIs: what the client gets, what is kept, what the upstream sees, and what
//! is counted.
//!
//! A row gives the outcome of a fault. How each client receives it depends on the client alone, so
//! a row that holds for one client and not for another shows a fault of the gateway.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use crate::support::{Answer, End, Gateway, World, chat, response, start, with};
use futures::FutureExt as _;
use futures::future::join_all;
use serde_json::{Value, json};
use tokenwire::config::schema::{Api, Config};
use tokenwire_core::model::error::ErrorCode;
use tokenwire_simulator::Outcome;

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    ChatSdk,
    ChatJson,
    ResponsesSdk,
    ResponsesJson,
    /// Polled until it ends.
    Background,
    EventSource,
    /// A chat request, read as chat.
    EventSourceChat,
    Text,
    WebSocket,
}

use Client::{
    Background, ChatJson, ChatSdk, EventSource, EventSourceChat, ResponsesJson, ResponsesSdk, Text,
    WebSocket,
};

const CLIENTS: [Client; 9] = [
    ChatSdk,
    ChatJson,
    ResponsesSdk,
    ResponsesJson,
    Background,
    EventSource,
    EventSourceChat,
    Text,
    WebSocket,
];

/// Outcome of a fault for the client.
#[derive(Clone, Copy, Debug)]
enum Ends {
    /// The complete answer.
    Complete,
    /// A failure before the upstream's head: status, code, and whether the code is retryable.
    Refused(u16, &'static str, bool),
    /// A failure after the head: status for clients without a head so far, code, whether it is
    /// retryable, and the number of tokens kept.
    Failed(u16, &'static str, bool, usize),
}

use Ends::{Complete, Failed, Refused};

/// How the request ends for the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    /// The response was read to its end.
    Done,
    /// The gateway closed the connection.
    Aborted,
    /// Either: the end of the body may be under way when the connection is closed.
    DoneOrAborted,
}

use Upstream::{Aborted, Done, DoneOrAborted};

/// The failure counter that a fault increments. Failures after the first token increment none.
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
    /// The outcome where the upstream is asked for an unstreamed answer (chat over chat), if it
    /// differs.
    unstreamed: Option<(Ends, Upstream, Counted)>,
    upstream: Upstream,
}

const fn row(steering: &'static str, ends: Ends, upstream: Upstream, counted: Counted) -> Row {
    Row {
        steering,
        ends,
        counted,
        unstreamed: None,
        upstream,
    }
}

const fn with_unstreamed(row: Row, ends: Ends, upstream: Upstream, counted: Counted) -> Row {
    Row {
        unstreamed: Some((ends, upstream, counted)),
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
    row(
        "fault=refuse",
        Refused(502, "upstream_disconnected", true),
        Done,
        Broken,
    ),
    row(
        "fault=html",
        Refused(502, "upstream_status_502", true),
        Done,
        Refusal,
    ),
    with_unstreamed(
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
    with_unstreamed(
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
    with_unstreamed(
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
    with_unstreamed(
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
    with_unstreamed(
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
    with_unstreamed(
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
    with_unstreamed(
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
    with_unstreamed(
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
    with_unstreamed(
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
    with_unstreamed(
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
    row("fault=none", Complete, Done, Nothing),
    row("fault=no_done", Complete, Done, Nothing),
    with_unstreamed(
        row("fault=hang", Complete, Aborted, Nothing),
        Failed(504, "total_timeout", true, 0),
        Aborted,
        Silence,
    ),
];

const IN_THE_FRAMING: &[Row] = &[
    row("fault=split", Complete, Done, Nothing),
    row("fault=crlf", Complete, Done, Nothing),
    row("fault=cr", Complete, Done, Nothing),
    row("fault=nospace", Complete, Done, Nothing),
    row("fault=bom", Complete, Done, Nothing),
    row("fault=comments", Complete, Done, Nothing),
    row("fault=multi", Complete, Done, Nothing),
    row("fault=gzip", Complete, Done, Nothing),
];

/// The first `count` tokens of the answer that every row asks for.
fn tokens(count: usize) -> String {
    (0..count).map(|number| format!(" t{number}")).collect()
}
const TOKENS: usize = 4;

/// Turns retries off: the table shows the outcome of one attempt.
fn without_retries(config: &mut Config) {
    config.retry.attempts = 0;
    // When the breaker opens depends on the order of the failures.
    config.breaker.failures = 0;
}

fn world(api: Api) -> World {
    start(|config| {
        config.upstreams[0].api = api;
        config.limits.event = 1024 * 1024;
        config.timeouts.first_token = Duration::from_secs(8);
        config.timeouts.between_tokens = Duration::from_secs(8);
        // The only timeout of an unstreamed answer. It must not run out before the others.
        config.timeouts.total = Duration::from_secs(20);
        // A head waits for the upstream's status even on a slow machine.
        config.streams.commit_after = Duration::from_secs(600);
        without_retries(config);
    })
}

async fn check(rows: &[Row]) {
    for api in [Api::Chat, Api::Responses] {
        let world = &world(api);
        // All cells run even if some fail, to show what the failures have in common.
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
            "wrong cells of {} over {api:?}; each is shown above",
            rows.len() * CLIENTS.len()
        );
        world.idle().await;
        assert_eq!(world.simulator.stats().open_streams, 0);
        check_counters(world, api, rows).await;
    }
}

/// Checks that the gateway's counters match the cells exactly.
async fn check_counters(world: &World, api: Api, rows: &[Row]) {
    let mut expected = Counts::default();
    for (row, client) in rows
        .iter()
        .flat_map(|row| CLIENTS.map(|client| (row, client)))
    {
        expected.cell(row, client, api);
    }
    // A generation and its request are counted just after its last event is sent.
    let cells = rows.len() * CLIENTS.len();
    let mut counted = Counts::default();
    crate::support::eventually("all counters to be updated", async || {
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

/// The non-zero samples of ended generations and of upstreams, without the prefix `tokenwire_`.
#[derive(Debug, Default, PartialEq)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn of(text: &str) -> Self {
        let samples = text
            .lines()
            .filter_map(|line| line.strip_prefix("tokenwire_")?.rsplit_once(' '));
        let prefixes = ["generations_ended_total", "upstream_"];
        // Gauges of health and durations are no counts.
        let wanted =
            samples.filter(|(name, _)| prefixes.iter().any(|prefix| name.starts_with(prefix)));
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
        let (ends, counted) = match row.unstreamed {
            Some((ends, _, counted)) if client == ChatJson && over == Api::Chat => (ends, counted),
            _ => (row.ends, row.counted),
        };
        let api = if matches!(client, ChatSdk | ChatJson | EventSourceChat) {
            "chat"
        } else {
            "responses"
        };
        let (status, code) = match ends {
            Complete => ("completed", ""),
            Refused(_, code, _) | Failed(_, code, ..) => ("failed", code),
        };
        // The upstream's own codes are no labels.
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
    let (ends, upstream) = match row.unstreamed {
        Some((ends, upstream, _)) if client == ChatJson && api == Api::Chat => (ends, upstream),
        _ => (row.ends, row.upstream),
    };
    let context = format!("{} as {client:?} over {api:?}", row.steering);
    // The error of a Responses upstream is relayed unchanged.
    let own_words = api == Api::Responses && row.steering.starts_with("fault=error");
    let told = |retryable: bool| (!own_words).then_some(retryable);
    // Identifies the request at the simulator.
    let mark = format!(
        "{}{client:?}",
        row.steering
            .replace(|c: char| !c.is_ascii_alphanumeric(), "-")
    );
    let steering = format!("tokens={TOKENS} text=count {} id={mark}", row.steering);
    let seen = Seen::of(world, client, &steering).await;
    match ends {
        Complete => seen.is_complete(&context),
        Refused(status, code, retryable) if seen.by_status => {
            seen.is_error(&context, status, code, told(retryable))
        }
        Refused(_, code, retryable) => seen.is_failed(&context, code, told(retryable), 0),
        Failed(status, code, retryable, _) if client == ChatJson => {
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
    crate::support::eventually("the end of the upstream's request", async || {
        records()
            .iter()
            .all(|record| record.outcome != Outcome::Open)
    })
    .await;
    let records = records();
    assert_eq!(records.len(), 1, "{context}: requests at the upstream");
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

/// An answer as a client received it.
struct Seen {
    client: Client,
    /// Whether this client gets failures before the upstream's head as a status.
    by_status: bool,
    answer: Option<Answer>,
    /// The payloads of its stream.
    payloads: Vec<String>,
    /// The response object.
    object: Value,
}

impl Seen {
    async fn of(gateway: &Gateway, client: Client, steering: &str) -> Self {
        let unstreamed = json!({"stream": false});
        let answer = match client {
            ChatSdk => gateway.post("/v1/chat/completions", &chat(steering)),
            ChatJson => gateway.post("/v1/chat/completions", &with(chat(steering), unstreamed)),
            ResponsesSdk => gateway.post("/v1/responses", &response(steering)),
            ResponsesJson => gateway.post("/v1/responses", &with(response(steering), unstreamed)),
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
            crate::support::eventually("the end of a background response", async || {
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

    /// Returns the text as this client assembles it.
    fn text(&self) -> String {
        let json = |payload: &String| serde_json::from_str::<Value>(payload).ok();
        match (self.client, &self.answer) {
            (Text, Some(answer)) => answer.text(),
            (ChatJson, Some(answer)) => answer.json()["choices"][0]["message"]["content"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            (ResponsesJson | Background, _) => self.kept(),
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
                crate::support::sse::output_text(&events)
            }
        }
    }

    /// Returns the text of the response object.
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

    /// Returns the number of `[DONE]` in the stream.
    fn dones(&self) -> usize {
        self.payloads
            .iter()
            .filter(|payload| *payload == "[DONE]")
            .count()
    }

    fn is_complete(&self, context: &str) {
        let shown = self.answer.as_ref().map(Answer::text).unwrap_or_default();
        assert_eq!(self.text(), tokens(TOKENS), "{context}: {shown}");
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

    /// Checks an error that was received as a status.
    fn is_error(&self, context: &str, status: u16, code: &str, retryable: Option<bool>) {
        let answer = self.answer.as_ref().expect("an answer");
        assert_eq!(
            (answer.status, answer.end),
            (status, End::Whole),
            "{context}: {}",
            answer.text()
        );
        let error = &answer.json()["error"];
        // An upstream's refusal is passed on unchanged and need not have a code.
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
        // The upstream may have billed, and the gateway retries by itself.
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{context}");
        if matches!(status, 429 | 503) {
            assert!(answer.header("retry-after").is_some(), "{context}");
        }
        self.object_failed(context, code, retryable);
    }

    /// Checks a failure that was received after the head or in the response object.
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
        assert_eq!(self.text(), tokens(kept), "{context}: {shown}");
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
                    "{context}: a finish reason was sent: {shown}"
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
            ChatJson | ResponsesJson | Background | Text => {}
        }
    }

    /// Checks the response object. `retryable` is `None` where it is the upstream's own.
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
