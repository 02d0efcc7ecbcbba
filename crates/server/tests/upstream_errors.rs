//! What an upstream refuses or fails at, as each kind of client gets to see it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on says why and ends"
)]

mod support;

use std::net::TcpListener;
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use support::{FullBacklog, Gateway, Playback, World, chat, over, response, start, with};
use tokenwire::config::schema::{Api, Config};

/// What a client got of an error: a status where its head had not left, and the error wherever it
/// stood.
#[derive(Debug)]
struct Seen {
    status: u16,
    headers: Vec<(String, String)>,
    error: Value,
    whole: String,
}

impl Seen {
    fn header(&self, wanted: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    ChatSdk,
    ChatWhole,
    ResponsesSdk,
    ResponsesWhole,
    Background,
    Streams,
    Text,
    WebSocket,
}

use Client::{
    Background, ChatSdk, ChatWhole, ResponsesSdk, ResponsesWhole, Streams, Text, WebSocket,
};

/// Whose head waits for the upstream's status.
const BY_STATUS: [Client; 5] = [ChatSdk, ChatWhole, ResponsesSdk, ResponsesWhole, Text];
/// Who gets to know by an event.
const BY_EVENT: [Client; 3] = [Background, Streams, WebSocket];

impl Client {
    async fn ask(self, gateway: &Gateway, steering: &str) -> Seen {
        let whole = json!({"stream": false});
        let answer = match self {
            ChatSdk => {
                gateway
                    .post("/v1/chat/completions", &chat(steering))
                    .answer()
                    .await
            }
            ChatWhole => {
                gateway
                    .post("/v1/chat/completions", &with(chat(steering), whole))
                    .answer()
                    .await
            }
            ResponsesSdk => {
                gateway
                    .post("/v1/responses", &response(steering))
                    .answer()
                    .await
            }
            ResponsesWhole => {
                gateway
                    .post("/v1/responses", &with(response(steering), whole))
                    .answer()
                    .await
            }
            Text => {
                gateway
                    .post("/v1/streams", &response(steering))
                    .header("accept", "text/plain")
                    .answer()
                    .await
            }
            Streams => {
                gateway
                    .post("/v1/streams", &response(steering))
                    .answer()
                    .await
            }
            Background => {
                gateway
                    .post(
                        "/v1/responses",
                        &with(response(steering), json!({"background": true})),
                    )
                    .answer()
                    .await
            }
            WebSocket => {
                let mut socket = gateway.socket().await;
                socket.create(steering, json!({"model": "simulator"})).await;
                let terminal = socket.until_end().await.pop().unwrap();
                assert_eq!(terminal["type"], "response.failed");
                return Seen {
                    status: 200,
                    headers: Vec::new(),
                    error: terminal["response"]["error"].clone(),
                    whole: terminal.to_string(),
                };
            }
        };
        let error = if matches!(self, Background | Streams) && answer.status == 200 {
            let terminal = answer
                .events()
                .into_iter()
                .rfind(|event| event.data != "[DONE]")
                .unwrap()
                .json();
            assert_eq!(
                terminal["type"],
                "response.failed",
                "{self:?}: {}",
                answer.text()
            );
            terminal["response"]["error"].clone()
        } else {
            answer.json()["error"].clone()
        };
        Seen {
            status: answer.status,
            error,
            whole: format!("{:?}\n{}", answer.headers, answer.text()),
            headers: answer.headers,
        }
    }
}

/// Asks with every client; those that see a status must see this one, and all must see this code.
async fn all_see(
    gateway: &Gateway,
    steering: &str,
    status: u16,
    code: &str,
) -> Vec<(Client, Seen)> {
    let asked = BY_STATUS
        .into_iter()
        .chain(BY_EVENT)
        .map(|client| async move { (client, client.ask(gateway, steering).await) });
    let seen = join_all(asked).await;
    for (client, seen) in &seen {
        let expected = if BY_STATUS.contains(client) {
            status
        } else {
            200
        };
        assert_eq!(
            (seen.status, seen.error["code"].as_str()),
            (expected, Some(code)),
            "{steering} as {client:?}: {}",
            seen.whole
        );
        assert!(
            seen.error["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty()),
            "{client:?}"
        );
        if BY_STATUS.contains(client) {
            assert!(
                seen.error["type"].is_string() && seen.error.get("param").is_some(),
                "{client:?}: {}",
                seen.whole
            );
            assert_eq!(
                seen.header("x-should-retry"),
                Some("false"),
                "{client:?}: {}",
                seen.whole
            );
        }
    }
    seen
}

#[tokio::test]
async fn the_upstreams_refusals_pass_through() {
    let world = start(|_| {});
    for (steering, status, code, kind) in [
        (
            "fault=status code=429 retry_after=7",
            429,
            "rate_limit_exceeded",
            "requests",
        ),
        (
            "fault=status code=503 retry_after=7",
            503,
            "overloaded",
            "server_error",
        ),
        (
            "fault=status code=404 retry_after=7",
            404,
            "model_not_found",
            "invalid_request_error",
        ),
    ] {
        for (client, seen) in all_see(&world, steering, status, code).await {
            if BY_STATUS.contains(&client) {
                assert_eq!(seen.header("retry-after"), Some("7"), "{client:?}");
                assert_eq!(seen.error["type"], kind, "{client:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_keeps_its_body_and_the_headers_that_clients_live_by() {
    let body = br#" {"error":{"message":"slow down","type":"tokens","param":null,"code":"rate_limit_exceeded","extra":[1.50]}} "#.to_vec();
    let headers = "content-type: application/json\r\nretry-after: 3\r\nretry-after-ms: 2500\r\nx-ratelimit-remaining-tokens: 0\r\n\
                   x-ratelimit-reset-tokens: 6m0s\r\nx-request-id: req_upstream\r\nset-cookie: secret=1\r\nserver: other\r\n";
    let upstream =
        Playback::start("429 Too Many Requests", headers, body.clone(), usize::MAX).await;
    let gateway = over(&upstream.base_url(), Api::Chat, |_| {});
    for request in [
        gateway.post("/v1/chat/completions", &chat("")),
        gateway.post("/v1/responses", &response("")),
    ] {
        let answer = request.answer().await;
        assert_eq!((answer.status, &answer.body), (429, &body));
        for (name, value) in [
            ("content-type", "application/json"),
            ("retry-after", "3"),
            ("retry-after-ms", "2500"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "6m0s"),
            ("x-upstream-request-id", "req_upstream"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{name}");
        }
        assert!(
            answer
                .header("x-request-id")
                .is_some_and(|id| id != "req_upstream")
        );
        assert_eq!(
            (answer.header("set-cookie"), answer.header("server")),
            (None, None)
        );
    }
}

#[tokio::test]
async fn a_refusal_without_measure_is_cut_at_its_bound() {
    // Valid JSON as a whole, eight times the bound: what is left of it is none, so the status goes
    // on in OpenAI's shape.
    let body = format!(r#"{{"error":{{"message":"{}"}}}}"#, "x".repeat(8 << 20)).into_bytes();
    let upstream = Playback::start(
        "500 Internal Server Error",
        "content-type: application/json\r\n",
        body,
        64 * 1024,
    )
    .await;
    let gateway = over(&upstream.base_url(), Api::Chat, |_| {});
    let answer = gateway
        .post("/v1/chat/completions", &chat(""))
        .answer()
        .await;
    assert_eq!(
        (answer.status, answer.json()["error"]["code"].as_str()),
        (500, Some("upstream_status_500"))
    );
    assert!(answer.body.len() < 1024, "{} bytes", answer.body.len());
}

#[tokio::test]
async fn rate_limits_of_a_good_answer_pass_through() {
    let headers = "content-type: text/event-stream\r\nx-ratelimit-remaining-requests: 9\r\nopenai-processing-ms: 12\r\n";
    let body = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n".to_vec();
    let upstream = Playback::start("200 OK", headers, body, usize::MAX).await;
    let gateway = over(&upstream.base_url(), Api::Chat, |_| {});
    let answer = gateway
        .post("/v1/chat/completions", &chat(""))
        .answer()
        .await;
    assert_eq!(
        (
            answer.header("x-ratelimit-remaining-requests"),
            answer.header("openai-processing-ms")
        ),
        (Some("9"), Some("12"))
    );
}

#[tokio::test]
async fn a_refusal_of_the_gateways_key_is_502_and_quotes_nothing() {
    let world =
        start(|config| config.upstreams[0].api_key = Some("sk-very-secret".to_owned().into()));
    for code in [401, 403] {
        for (client, seen) in all_see(
            &world,
            &format!("fault=status code={code}"),
            502,
            "upstream_auth",
        )
        .await
        {
            for quoted in ["sk-", "Incorrect API key", "Country, region"] {
                assert!(!seen.whole.contains(quoted), "{client:?}: {}", seen.whole);
            }
        }
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_502() {
    // A port that was free a moment ago and that nobody listens on.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let gateway = over(&format!("http://127.0.0.1:{port}/v1"), Api::Chat, |_| {});
    all_see(&gateway, "", 502, "upstream_unreachable").await;
    let models = gateway.get("/v1/models").answer().await;
    assert_eq!(
        (models.status, models.json()["error"]["code"].as_str()),
        (502, Some("upstream_unreachable"))
    );
}

#[tokio::test]
async fn an_upstream_that_closes_without_an_answer_is_502() {
    let world = start(|_| {});
    all_see(&world, "fault=refuse", 502, "upstream_disconnected").await;
}

#[tokio::test]
async fn a_page_of_some_proxys_is_502_in_openais_shape() {
    let world = start(|_| {});
    for (client, seen) in all_see(&world, "fault=html", 502, "upstream_status_502").await {
        assert!(!seen.whole.contains("<html>"), "{client:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let upstream = Playback::start(
        "307 Temporary Redirect",
        "location: http://127.0.0.1:1/elsewhere\r\n",
        Vec::new(),
        1,
    )
    .await;
    let gateway = over(&upstream.base_url(), Api::Chat, |_| {});
    for (client, seen) in all_see(&gateway, "", 502, "upstream_unreachable").await {
        assert!(!seen.whole.contains("elsewhere"), "{client:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_not_accepted_in_time_is_504() {
    let full = FullBacklog::new();
    let gateway = over(&full.base_url(), Api::Chat, |config| {
        config.timeouts.connect = Duration::from_millis(200)
    });
    all_see(&gateway, "", 504, "connect_timeout").await;
}

fn impatient(config: &mut Config) {
    config.timeouts.first_token = Duration::from_millis(200);
}

#[tokio::test]
async fn a_head_that_does_not_come_in_time_is_504() {
    // A completion in one piece has no first token to wait for: its clock is that of the whole.
    let world: World = start(|config| {
        impatient(config);
        config.timeouts.total = Duration::from_millis(400);
    });
    for client in [
        ChatSdk,
        ChatWhole,
        ResponsesSdk,
        ResponsesWhole,
        Text,
        Background,
        Streams,
        WebSocket,
    ] {
        let seen = client.ask(&world, "fault=stall_head").await;
        let status = if BY_STATUS.contains(&client) {
            504
        } else {
            200
        };
        let code = if client == ChatWhole {
            "total_timeout"
        } else {
            "first_token_timeout"
        };
        assert_eq!(
            (seen.status, seen.error["code"].as_str()),
            (status, Some(code)),
            "{client:?}: {}",
            seen.whole
        );
    }
    world
        .upstream_saw("the end of requests that were given up", |stats| {
            stats.requests == stats.aborted
        })
        .await;
}

#[tokio::test]
async fn a_whole_answer_that_does_not_come_in_time_is_504() {
    let world = start(|config| {
        impatient(config);
        config.timeouts.total = Duration::from_millis(400);
    });
    for (client, status, code) in [
        (ChatWhole, 504, "total_timeout"),
        (ResponsesWhole, 200, "first_token_timeout"),
    ] {
        let seen = client.ask(&world, "ttft=1h").await;
        assert_eq!(
            (seen.status, seen.error["code"].as_str()),
            (status, Some(code)),
            "{client:?}: {}",
            seen.whole
        );
    }
}

#[tokio::test]
async fn what_breaks_in_a_whole_completion_is_an_error_with_a_status() {
    let world = start(|_| {});
    for (steering, status, code) in [
        ("fault=cut", 502, "upstream_truncated"),
        ("fault=malformed", 502, "upstream_malformed"),
        ("fault=bad_utf8", 502, "upstream_invalid_utf8"),
        ("fault=json_error", 502, "server_error"),
    ] {
        let seen = ChatWhole.ask(&world, &format!("tokens=9 {steering}")).await;
        assert_eq!(
            (seen.status, seen.error["code"].as_str()),
            (status, Some(code)),
            "{steering}: {}",
            seen.whole
        );
    }
}

#[tokio::test]
async fn a_request_in_vain_holds_no_place() {
    let world = start(|config| config.limits.streams = 1);
    for steering in [
        "fault=status code=500",
        "fault=refuse",
        "fault=json_error",
        "fault=cut after=0",
    ] {
        world
            .post("/v1/chat/completions", &chat(steering))
            .answer()
            .await;
        world.idle().await;
        let next = world
            .post("/v1/chat/completions", &chat("tokens=1"))
            .answer()
            .await;
        world.idle().await;
        assert_eq!(next.status, 200, "after {steering}: {}", next.text());
    }
}

#[tokio::test]
async fn an_upstream_that_never_pauses_is_still_stopped_and_holds_nobody_up() {
    const TOKEN: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    const END: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    for (what, body, code) in [
        (
            "before the first token",
            b"".as_slice(),
            Some("first_token_timeout"),
        ),
        ("in mid-stream", TOKEN, Some("between_tokens_timeout")),
        ("after its end", END, None),
    ] {
        let upstream = Playback::endless(body, b": nothing to say\n").await;
        let gateway = over(&upstream.base_url(), Api::Chat, |config| {
            config.server.workers = 1;
            config.timeouts.first_token = Duration::from_millis(300);
            config.timeouts.between_tokens = Duration::from_millis(300);
        });
        let stream = gateway.post("/v1/streams", &response("")).send().await;
        let next = gateway.get("/healthz").answer().await;
        assert_eq!(next.status, 200, "{what}");
        let terminal = stream.answer().await.events().pop().unwrap().json();
        assert_eq!(
            terminal["response"]["error"]["code"].as_str(),
            code,
            "{what}: {terminal}"
        );
        gateway.idle().await;
    }
}

#[tokio::test]
async fn who_leaves_an_upstream_that_never_pauses_has_left() {
    let upstream = Playback::endless(b"", b": nothing to say\n").await;
    let gateway = over(&upstream.base_url(), Api::Chat, |config| {
        config.server.workers = 1;
        config.streams.disconnect_grace = Duration::ZERO;
    });
    let mut stream = gateway.post("/v1/streams", &response("")).send().await;
    stream.until_event("response.created").await;
    drop(stream);
    gateway.idle().await;
}
