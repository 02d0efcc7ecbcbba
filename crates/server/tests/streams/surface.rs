//! The HTTP surface beside the streams themselves: HEAD, HTTP/1.0, wrong paths, timings.

use crate::support::{End, Request, World, chat, response, start, with};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Sends these bytes and returns the head and the body of what comes back until the end.
async fn raw(world: &World, bytes: &str) -> (String, String) {
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    crate::support::patiently("the answer", socket.read_to_end(&mut answer))
        .await
        .unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("no end of the head");
    (head.to_ascii_lowercase(), body.to_owned())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

// === HEAD ===

#[tokio::test]
async fn head_answers_with_the_headers_of_get_and_no_body() {
    let world = start(|_| {});
    let started = world.post("/v1/responses", &response("tokens=3"));
    let id = started.answer().await.id().to_owned();
    world.idle().await;
    for path in [
        "/".to_owned(),
        "/tokenwire.js".to_owned(),
        "/docs".to_owned(),
        "/openapi.json".to_owned(),
        "/health".to_owned(),
        "/healthz".to_owned(),
        "/readyz".to_owned(),
        "/metrics".to_owned(),
        "/v1/models".to_owned(),
        "/v1/models/simulator".to_owned(),
        "/v1/models/none".to_owned(),
        "/v1/webhooks/deliveries".to_owned(),
        format!("/v1/responses/{id}"),
        format!("/v1/responses/{id}/input_items"),
        format!("/v1/responses/{id}?stream=true"),
        format!("/v1/responses/{id}?stream=true&starting_after=9999"),
        format!("/v1/streams/{id}"),
        format!("/v1/streams/{id}?dialect=chat"),
        format!("/v1/streams/{id}?dialect=text"),
        format!("/v1/streams/{id}?after=9999"),
        "/v1/streams/resp_AAAAAAAAAAAAAAAAAAAAAAAA".to_owned(),
    ] {
        let ask = |method: &str| {
            format!(
                "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
                world.address
            )
        };
        let (get, body) = raw(&world, &ask("GET")).await;
        let (head, nothing) = raw(&world, &ask("HEAD")).await;
        assert!(!body.is_empty(), "{path}");
        assert_eq!(nothing, "", "{path}");
        assert_eq!(head.lines().next(), get.lines().next(), "{path}");
        for name in [
            "content-type",
            "location",
            "transfer-encoding",
            "etag",
            "cache-control",
        ] {
            assert_eq!(header(&head, name), header(&get, name), "{path}: {name}");
        }
        // The figures of metrics change with each request.
        if path != "/metrics" {
            assert_eq!(
                header(&head, "content-length"),
                header(&get, "content-length"),
                "{path}"
            );
        }
        assert!(header(&head, "x-request-id").is_some(), "{path}");
    }
    let end =
        format!("HEAD /v1/streams/{id}?after=9 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let events = world
        .get(&format!("/v1/streams/{id}"))
        .answer()
        .await
        .events();
    let last = events.last().unwrap().number();
    let (head, _) = raw(&world, &end.replace("after=9", &format!("after={last}"))).await;
    assert!(head.starts_with("http/1.1 204"), "{head}");
}

#[tokio::test]
async fn head_starts_nothing_and_counts_no_reader() {
    let world = start(|config| config.streams.disconnect_grace = std::time::Duration::ZERO);
    for path in [
        "/v1/streams?input=x",
        "/v1/streams",
        "/v1/ws",
        "/v1/responses",
    ] {
        let answer = format!("HEAD {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let (head, _) = raw(&world, &answer).await;
        assert!(head.starts_with("http/1.1 405"), "{path}: {head}");
        assert!(header(&head, "allow").is_some());
    }
    assert_eq!(world.simulator.stats().requests, 0);
    // With a grace of zero the end of the only reader cancels. A HEAD is none.
    let steering = "tokens=40 tbt=10ms text=count";
    let mut reader = world.post("/v1/streams", &response(steering)).send().await;
    reader.until(" t1").await;
    let id = reader.id().await;
    for _ in 0..3 {
        let ask = format!("HEAD /v1/streams/{id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let (head, _) = raw(&world, &ask).await;
        assert!(head.starts_with("http/1.1 200"), "{head}");
    }
    let metrics = world.get("/metrics").answer().await.text();
    let readers = metrics
        .lines()
        .filter(|line| line.starts_with("tokenwire_readers"));
    let readers: f64 = readers
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum();
    assert_eq!(readers, 1.0, "{metrics}");
    let answer = reader.answer().await;
    assert_eq!(answer.end, End::Whole);
    assert!(answer.text().contains("response.completed"));
}

#[tokio::test]
async fn a_connection_goes_on_after_a_head_of_a_stream() {
    let world = start(|_| {});
    let started = world.post("/v1/responses", &response("tokens=3"));
    let id = started.answer().await.id().to_owned();
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    let ask = format!(
        "HEAD /v1/streams/{id} HTTP/1.1\r\nhost: x\r\n\r\nGET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    );
    socket.write_all(ask.as_bytes()).await.unwrap();
    let mut answer = String::new();
    crate::support::patiently("both answers", socket.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/event-stream"), "{answer}");
    assert!(rest.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(rest.ends_with("{\"status\":\"ok\"}"), "{answer}");
}

// === HTTP/1.0 ===

#[tokio::test]
async fn http_1_0_gets_no_chunks_and_a_closed_connection() {
    let world = start(|_| {});
    let started = world.post("/v1/responses", &response("tokens=3 text=count"));
    let id = started.answer().await.id().to_owned();
    let post = |path: &str, body: serde_json::Value, more: &str| {
        let body = body.to_string();
        format!(
            "POST {path} HTTP/1.0\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let steering = "tokens=3 text=count tbt=5ms";
    let keep = "connection: keep-alive\r\n";
    for (ask, ends_with) in [
        (
            post("/v1/chat/completions", chat(steering), ""),
            "data: [DONE]\n\n",
        ),
        (
            post("/v1/chat/completions", chat(steering), keep),
            "data: [DONE]\n\n",
        ),
        (
            post("/v1/responses", response(steering), keep),
            "data: [DONE]\n\n",
        ),
        (post("/v1/streams", response(steering), keep), "\n\n"),
        (
            post("/v1/streams", response(steering), "accept: text/plain\r\n"),
            " t0 t1 t2",
        ),
        (
            post(
                "/v1/responses",
                with(response(steering), json!({"stream": false})),
                keep,
            ),
            "}",
        ),
        (post("/v1/responses", json!({}), keep), "}"),
        (
            format!("GET /v1/streams/{id} HTTP/1.0\r\n{keep}\r\n"),
            "\n\n",
        ),
        (
            format!("GET /v1/responses/{id}?stream=true HTTP/1.0\r\n\r\n"),
            "data: [DONE]\n\n",
        ),
        (
            "GET /v1/streams?input=%5B%5Btokens%3D1%5D%5D HTTP/1.0\r\n\r\n".to_owned(),
            "\n\n",
        ),
        (
            "GET /healthz HTTP/1.0\r\nconnection: keep-alive\r\n\r\n".to_owned(),
            "}",
        ),
        ("GET /nowhere HTTP/1.0\r\n\r\n".to_owned(), "}"),
    ] {
        let (head, body) = raw(&world, &ask).await;
        assert!(head.starts_with("http/1.0 "), "{head}");
        assert_eq!(header(&head, "transfer-encoding"), None, "{ask}{head}");
        assert_eq!(header(&head, "connection"), Some("close"), "{ask}{head}");
        assert!(body.ends_with(ends_with), "{ask}{body:?}");
        assert!(!body.contains("\r\n"), "{body:?}");
    }
}

// === paths ===

#[tokio::test]
async fn http_1_0_opens_no_websocket() {
    let world = start(|_| {});
    for path in ["/v1/ws", "/v1/responses"] {
        let request = format!(
            "GET {path} HTTP/1.0\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let (head, body) = raw(&world, &request).await;
        assert!(head.starts_with("http/1.0 400 "), "{head}");
        assert!(body.contains("invalid_upgrade"), "{body}");
    }
}

#[tokio::test]
async fn wrong_paths_name_the_right_one() {
    let world = start(|_| {});
    for (method, path, says) in [
        ("POST", "/chat/completions", "/v1/chat/completions"),
        ("POST", "/v1/v1/chat/completions", "/v1/chat/completions"),
        ("POST", "//v1/chat/completions", "/v1/chat/completions"),
        ("POST", "/openai/v1/responses", "/v1/responses"),
        ("POST", "/responses", "/v1/responses"),
        ("GET", "/models", "/v1/models"),
        ("GET", "/v1", "/v1"),
        ("POST", "/v1/responses/compact", "does not serve"),
        ("POST", "/v1/responses/input_tokens", "does not serve"),
        ("POST", "/v1/embeddings", "does not serve"),
    ] {
        let answer = Request::new(world.address, method, path).answer().await;
        let error = &answer.json()["error"];
        assert_eq!(
            (answer.status, &error["code"]),
            (404, &json!("unknown_url")),
            "{method} {path}"
        );
        let message = error["message"].as_str().unwrap();
        let after = message.split_once(&format!("{method} {path}. ")).unwrap().1;
        assert!(after.contains(says), "{path}: {message}");
    }
    assert_eq!(world.simulator.stats().requests, 0);
}

// === timings ===

/// The milliseconds of each entry of `Server-Timing`.
fn timings(value: &str) -> Vec<(String, f64)> {
    let entries = value.split(", ");
    entries
        .map(|entry| {
            let (name, duration) = entry.split_once(";dur=").unwrap();
            (name.to_owned(), duration.parse().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn server_timing_has_the_gateways_own_share() {
    let world = start(|_| {});
    let slow = "ttft=300ms tokens=2";
    let unstreamed = json!({"stream": false});
    // The least wait for the upstream: for its whole answer, for its head, or none.
    for (request, least) in [
        (
            world.post(
                "/v1/chat/completions",
                &with(chat(slow), unstreamed.clone()),
            ),
            Some(250.0),
        ),
        (
            world.post("/v1/responses", &with(response(slow), unstreamed)),
            Some(250.0),
        ),
        (world.post("/v1/chat/completions", &chat(slow)), Some(0.0)),
        (world.post("/v1/responses", &response(slow)), Some(0.0)),
        (world.post("/v1/streams", &response(slow)), None),
        (world.get("/v1/streams?input=hello"), None),
    ] {
        let answer = request.answer().await;
        let timings = timings(answer.header("server-timing").expect("no Server-Timing"));
        assert_eq!(timings[0].0, "gateway");
        let upstream = timings
            .get(1)
            .map(|(name, wait)| (name.as_str(), *wait >= least.unwrap()));
        assert_eq!(upstream, least.map(|_| ("upstream", true)), "{timings:?}");
        if least > Some(0.0) {
            let [(_, gateway), (_, upstream)] = &timings[..] else {
                unreachable!()
            };
            assert!(
                gateway < upstream,
                "the wait is not the gateway's: {timings:?}"
            );
        }
        let path = format!("/v1/streams/{}", answer.id());
        let served = world.get(&path).answer().await;
        assert!(served.header("server-timing").is_some());
    }
    let probe = world.get("/healthz").answer().await;
    assert_eq!(probe.header("server-timing"), None);
}
