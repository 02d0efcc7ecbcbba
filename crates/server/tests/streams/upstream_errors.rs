//! Refusals and failures of an upstream, as each kind of client sees them.

use std::time::Duration;

use crate::support::{FullBacklog, Gateway, Playback, World, chat, over, response, start, with};
use futures::future::join_all;
use serde_json::{Value, json};
use tokenwire::config::schema::{Api, Config};
use tokenwire_testkit::free_port;

/// An error as a client received it, in the body of a status or in an event.
#[derive(Debug)]
struct Seen {
    status: u16,
    headers: Vec<(String, String)>,
    error: Value,
    raw: String,
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
    ChatJson,
    ResponsesSdk,
    ResponsesJson,
    Background,
    Streams,
    Text,
    WebSocket,
}

use Client::{
    Background, ChatJson, ChatSdk, ResponsesJson, ResponsesSdk, Streams, Text, WebSocket,
};

/// Clients whose response head waits for the upstream's status.
const BY_STATUS: [Client; 5] = [ChatSdk, ChatJson, ResponsesSdk, ResponsesJson, Text];
/// Clients that get the error in an event.
const BY_EVENT: [Client; 3] = [Background, Streams, WebSocket];

impl Client {
    async fn ask(self, gateway: &Gateway, steering: &str) -> Seen {
        let unstreamed = json!({"stream": false});
        let answer = match self {
            ChatSdk => {
                gateway
                    .post("/v1/chat/completions", &chat(steering))
                    .answer()
                    .await
            }
            ChatJson => {
                gateway
                    .post("/v1/chat/completions", &with(chat(steering), unstreamed))
                    .answer()
                    .await
            }
            ResponsesSdk => {
                gateway
                    .post("/v1/responses", &response(steering))
                    .answer()
                    .await
            }
            ResponsesJson => {
                gateway
                    .post("/v1/responses", &with(response(steering), unstreamed))
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
                    raw: terminal.to_string(),
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
            raw: format!("{:?}\n{}", answer.headers, answer.text()),
            headers: answer.headers,
        }
    }
}

/// Sends a request as every client. All must get `code`, and those that get a status this one.
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
            seen.raw
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
                seen.raw
            );
            assert_eq!(
                seen.header("x-should-retry"),
                Some("false"),
                "{client:?}: {}",
                seen.raw
            );
        }
    }
    seen
}

#[tokio::test]
async fn upstream_refusals_pass_through() {
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
async fn refusal_keeps_its_body_and_rate_limit_headers() {
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
async fn refusal_body_is_cut_at_its_bound() {
    // Valid JSON of eight times the bound. The cut body is no JSON, so the status is passed on with
    // an error object of the gateway.
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
async fn rate_limit_headers_of_a_success_pass_through() {
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
async fn refused_gateway_key_is_502_without_upstream_text() {
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
                assert!(!seen.raw.contains(quoted), "{client:?}: {}", seen.raw);
            }
        }
    }
}

#[tokio::test]
async fn unreachable_upstream_is_502() {
    let port = free_port();
    let gateway = over(&format!("http://127.0.0.1:{port}/v1"), Api::Chat, |_| {});
    all_see(&gateway, "", 502, "upstream_unreachable").await;
    let models = gateway.get("/v1/models").answer().await;
    assert_eq!(
        (models.status, models.json()["error"]["code"].as_str()),
        (502, Some("upstream_unreachable"))
    );
}

#[tokio::test]
async fn close_before_the_head_is_502() {
    let world = start(|_| {});
    all_see(&world, "fault=refuse", 502, "upstream_disconnected").await;
}

#[tokio::test]
async fn html_error_page_becomes_an_openai_error() {
    let world = start(|_| {});
    for (client, seen) in all_see(&world, "fault=html", 502, "upstream_status_502").await {
        assert!(!seen.raw.contains("<html>"), "{client:?}");
    }
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let upstream = Playback::start(
        "307 Temporary Redirect",
        "location: http://127.0.0.1:1/elsewhere\r\n",
        Vec::new(),
        1,
    )
    .await;
    let gateway = over(&upstream.base_url(), Api::Chat, |_| {});
    for (client, seen) in all_see(&gateway, "", 502, "upstream_unreachable").await {
        assert!(!seen.raw.contains("elsewhere"), "{client:?}");
    }
}

#[tokio::test]
async fn status_that_is_not_final_or_not_known_is_502() {
    for status in ["101 Switching Protocols", "099 Odd", "600 Odd", "999 Odd"] {
        let upstream = Playback::start(
            status,
            "content-type: application/json\r\n",
            b"{}".to_vec(),
            1,
        )
        .await;
        let gateway = over(&upstream.base_url(), Api::Chat, |_| {});
        all_see(&gateway, "", 502, "upstream_malformed").await;
    }
    // An interim response without a final one is no answer.
    let upstream = Playback::start("199 Odd", "", Vec::new(), 1).await;
    let gateway = over(&upstream.base_url(), Api::Chat, |_| {});
    let answer = gateway
        .post("/v1/chat/completions", &chat(""))
        .answer()
        .await;
    assert_eq!(answer.status, 502, "{}", answer.text());
}

#[tokio::test]
async fn retry_after_of_any_size_passes_through() {
    for after in [
        "86400",
        "18446744073709551614",
        "99999999999999999999",
        "-1",
        "soon",
        "Fri, 31 Dec 9999 23:59:59 GMT",
    ] {
        let headers = format!("content-type: application/json\r\nretry-after: {after}\r\n");
        let upstream = Playback::start("429 Too Many Requests", &headers, b"{}".to_vec(), 9).await;
        let gateway = over(&upstream.base_url(), Api::Chat, |config| {
            config.retry.backoff = Duration::from_millis(1);
        });
        let answer = gateway
            .post("/v1/chat/completions", &chat(""))
            .answer()
            .await;
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (429, Some(after)),
            "{}",
            answer.text()
        );
        let failed = gateway
            .post("/v1/streams", &response(""))
            .answer()
            .await
            .events()
            .pop()
            .unwrap()
            .json();
        assert_eq!(
            failed["response"]["error"]["code"], "rate_limit_exceeded",
            "{after}: {failed}"
        );
    }
}

#[tokio::test]
async fn connect_timeout_is_504() {
    let full = FullBacklog::new();
    let gateway = over(&full.base_url(), Api::Chat, |config| {
        config.timeouts.connect = Duration::from_millis(200)
    });
    all_see(&gateway, "", 504, "connect_timeout").await;
}

fn short_first_token(config: &mut Config) {
    config.timeouts.first_token = Duration::from_millis(200);
}

#[tokio::test]
async fn first_token_timeout_before_the_head_is_504() {
    // An unstreamed completion has no first token: `total` is its timeout.
    let world: World = start(|config| {
        short_first_token(config);
        config.timeouts.total = Duration::from_millis(400);
    });
    for client in [
        ChatSdk,
        ChatJson,
        ResponsesSdk,
        ResponsesJson,
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
        let code = if client == ChatJson {
            "total_timeout"
        } else {
            "first_token_timeout"
        };
        assert_eq!(
            (seen.status, seen.error["code"].as_str()),
            (status, Some(code)),
            "{client:?}: {}",
            seen.raw
        );
    }
    world
        .upstream_saw("the end of the timed-out requests", |stats| {
            stats.requests == stats.aborted
        })
        .await;
}

#[tokio::test]
async fn unstreamed_answer_times_out_with_504() {
    let world = start(|config| {
        short_first_token(config);
        config.timeouts.total = Duration::from_millis(400);
    });
    for (client, status, code) in [
        (ChatJson, 504, "total_timeout"),
        (ResponsesJson, 200, "first_token_timeout"),
    ] {
        let seen = client.ask(&world, "ttft=1h").await;
        assert_eq!(
            (seen.status, seen.error["code"].as_str()),
            (status, Some(code)),
            "{client:?}: {}",
            seen.raw
        );
    }
}

#[tokio::test]
async fn failures_of_an_unstreamed_completion_have_a_status() {
    let world = start(|_| {});
    for (steering, status, code) in [
        ("fault=cut", 502, "upstream_truncated"),
        ("fault=malformed", 502, "upstream_malformed"),
        ("fault=bad_utf8", 502, "upstream_invalid_utf8"),
        ("fault=json_error", 502, "server_error"),
    ] {
        let seen = ChatJson.ask(&world, &format!("tokens=9 {steering}")).await;
        assert_eq!(
            (seen.status, seen.error["code"].as_str()),
            (status, Some(code)),
            "{steering}: {}",
            seen.raw
        );
    }
}

#[tokio::test]
async fn failed_request_releases_its_stream_slot() {
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
async fn endless_upstream_is_timed_out_and_does_not_block_its_worker() {
    const TOKEN: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    const END: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    for (what, body, code) in [
        (
            "before the first token",
            b"".as_slice(),
            Some("first_token_timeout"),
        ),
        // A comment is a sign of life: it restarts `between_tokens`, up to `total`.
        ("in mid-stream", TOKEN, Some("total_timeout")),
        ("after its end", END, None),
    ] {
        let upstream = Playback::endless(body, b": nothing to say\n").await;
        let gateway = over(&upstream.base_url(), Api::Chat, |config| {
            config.server.workers = 1;
            config.timeouts.first_token = Duration::from_millis(300);
            config.timeouts.between_tokens = Duration::from_millis(300);
            config.timeouts.total = Duration::from_secs(2);
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
async fn client_disconnect_ends_an_endless_upstream() {
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
