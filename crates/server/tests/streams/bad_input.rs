//! Bad input gets a clear error in OpenAI's shape and has no other effect.

use crate::support::process::Process;
use crate::support::websocket::RawSocket;
use crate::support::{Answer, End, Gateway, Request, World, chat, response, start, with};
use serde_json::{Value, json};

/// A request and the expected error.
struct Case {
    what: &'static str,
    request: Request,
    status: u16,
    kind: &'static str,
    code: &'static str,
    param: Option<&'static str>,
    /// Parts of the message.
    says: &'static str,
}

fn json_post(world: &Gateway, path: &str, body: impl Into<Vec<u8>>) -> Request {
    Request::new(world.address, "POST", path)
        .header("content-type", "application/json")
        .body(body)
}

const REQUEST: &str = "invalid_request_error";

fn cases(world: &Gateway) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |what, request, status, code, param, says| {
        let kind = if status == 403 {
            "permission_error"
        } else {
            REQUEST
        };
        cases.push(Case {
            what,
            request,
            status,
            kind,
            code,
            param,
            says,
        });
    };
    let get = |path: &str| world.get(path);
    let method = |method: &str, path: &str| Request::new(world.address, method, path);

    case(
        "an unknown path",
        get("/v2/nothing"),
        404,
        "unknown_url",
        None,
        "/v2/nothing",
    );
    case(
        "a path of OpenAI's that is not served",
        json_post(world, "/v1/embeddings", "{}"),
        404,
        "unknown_url",
        None,
        "does not serve",
    );
    case(
        "an id that is none",
        get("/v1/responses/nonsense"),
        404,
        "not_found",
        None,
        "nonsense",
    );
    case(
        "an id with bytes that are no text",
        get("/v1/responses/%ff%fe"),
        404,
        "not_found",
        None,
        "not found",
    );
    case(
        "an unknown id",
        get("/v1/responses/resp_AAAAAAAAAAAAAAAAAAAAAAAA"),
        404,
        "not_found",
        None,
        "resp_AAAA",
    );
    case(
        "an unknown stream",
        get("/v1/streams/resp_AAAAAAAAAAAAAAAAAAAAAAAA"),
        404,
        "not_found",
        None,
        "resp_AAAA",
    );
    case(
        "a model that is not offered",
        get("/v1/models/none-such"),
        404,
        "model_not_found",
        Some("model"),
        "none-such",
    );

    case(
        "a wrong method",
        get("/v1/chat/completions"),
        405,
        "method_not_allowed",
        None,
        "POST",
    );
    case(
        "another wrong method",
        method("PUT", "/v1/streams"),
        405,
        "method_not_allowed",
        None,
        "GET, POST",
    );
    case(
        "a GET of the socket's path without an upgrade",
        get("/v1/responses"),
        405,
        "method_not_allowed",
        None,
        "upgrade",
    );
    case(
        "a POST to health",
        json_post(world, "/healthz", ""),
        405,
        "method_not_allowed",
        None,
        "GET",
    );

    for (path, sound) in [
        ("/v1/chat/completions", chat("tokens=1")),
        ("/v1/responses", response("tokens=1")),
    ] {
        let form = method("POST", path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body("a=b");
        case(
            "a form",
            form,
            415,
            "unsupported_media_type",
            None,
            "application/json",
        );
        case(
            "no content type",
            method("POST", path).body("{}"),
            415,
            "unsupported_media_type",
            None,
            "no Content-Type",
        );
        let zipped = json_post(world, path, "{}").header("content-encoding", "gzip");
        case(
            "a compressed body",
            zipped,
            415,
            "unsupported_media_type",
            None,
            "gzip",
        );
        case(
            "broken JSON",
            json_post(world, path, "{\"model\":\"m\",\n  \"x\" 1}"),
            400,
            "invalid_json",
            None,
            "line 2 column 7",
        );
        case(
            "JSON that breaks off",
            json_post(world, path, "{\"model\":"),
            400,
            "invalid_json",
            None,
            "line 1 column 9",
        );
        case(
            "an empty body",
            json_post(world, path, ""),
            400,
            "invalid_json",
            None,
            "empty",
        );
        case(
            "a list",
            json_post(world, path, "[]"),
            400,
            "invalid_type",
            None,
            "an array",
        );
        case(
            "bytes that are no text",
            json_post(world, path, b"{\"model\":\"\xff\"}".to_vec()),
            400,
            "invalid_json",
            None,
            "offset 10",
        );
        case(
            "nesting without an end",
            json_post(world, path, "[".repeat(60_000)),
            400,
            "invalid_json",
            None,
            "",
        );
        case(
            "a model that is no name",
            world.post(path, &with(sound.clone(), json!({"model": 7}))),
            400,
            "invalid_type",
            Some("model"),
            "a number",
        );
        let members = sound.to_string();
        let repeated = format!(r#"{{"user":"a","us\u0065r":"b",{}"#, &members[1..]);
        case(
            "a member that is repeated",
            json_post(world, path, repeated),
            400,
            "invalid_value",
            Some("user"),
            "more than once",
        );
        let cursor = json_post(world, path, "{}").header("last-event-id", "nonsense");
        case(
            "a cursor that is none",
            cursor,
            400,
            "invalid_cursor",
            Some("Last-Event-ID"),
            "nonsense",
        );
        let key = world
            .post(path, &sound)
            .header("idempotency-key", &"k".repeat(256));
        case(
            "a key that is too long",
            key,
            400,
            "invalid_value",
            Some("Idempotency-Key"),
            "255",
        );
        let large = json_post(world, path, "x".repeat(70_000));
        case(
            "a body over the limit",
            large,
            413,
            "body_too_large",
            None,
            "65536",
        );
        let announced = method("POST", path)
            .header("content-type", "application/json")
            .header("content-length", "99999999999");
        case(
            "a body announced over the limit",
            announced,
            413,
            "body_too_large",
            None,
            "65536",
        );
        let mut chunked = b"20000\r\n".to_vec();
        chunked.extend(std::iter::repeat_n(b'x', 0x20000));
        let chunked = method("POST", path)
            .header("content-type", "application/json")
            .header("transfer-encoding", "chunked")
            .body(chunked);
        case(
            "a body over the limit without a length",
            chunked,
            413,
            "body_too_large",
            None,
            "65536",
        );
    }

    case(
        "no messages",
        world.post("/v1/chat/completions", &json!({"model": "simulator"})),
        400,
        "missing_required_parameter",
        Some("messages"),
        "'messages'",
    );
    case(
        "no input",
        world.post("/v1/responses", &json!({"model": "simulator"})),
        400,
        "missing_required_parameter",
        Some("input"),
        "'input'",
    );
    case(
        "no input in a query",
        get("/v1/streams?model=simulator"),
        400,
        "missing_required_parameter",
        Some("input"),
        "'input'",
    );
    case(
        "messages that are no list",
        world.post("/v1/chat/completions", &json!({"messages": "hi"})),
        400,
        "invalid_type",
        Some("messages"),
        "an array",
    );
    case(
        "an input that is neither text nor items",
        world.post("/v1/responses", &json!({"input": 7})),
        400,
        "invalid_type",
        Some("input"),
        "a number",
    );
    case(
        "a temperature out of range",
        world.post("/v1/responses", &json!({"input": "x", "temperature": 3})),
        400,
        "invalid_value",
        Some("temperature"),
        "2",
    );
    for (parameter, value) in [
        ("conversation", json!("conv_1")),
        ("tools", json!([{"type": "web_search"}])),
        ("prompt", json!({"id": "pmpt_1"})),
        ("truncation", json!("auto")),
        ("context_management", json!([{"type": "compaction"}])),
    ] {
        let request = world.post(
            "/v1/responses",
            &with(json!({"input": "x"}), json!({parameter: value})),
        );
        case(
            "a parameter that cannot be honoured",
            request,
            400,
            "unsupported_parameter",
            None,
            "",
        );
    }
    let previous = json!({"input": "x", "previous_response_id": "resp_AAAAAAAAAAAAAAAAAAAAAAAA"});
    case(
        "an unknown predecessor",
        world.post("/v1/responses", &previous),
        404,
        "previous_response_not_found",
        Some("previous_response_id"),
        "resp_AAAA",
    );

    let id = "resp_AAAAAAAAAAAAAAAAAAAAAAAA";
    let other = get(&format!("/v1/streams/{id}"))
        .header("last-event-id", "resp_BBBBBBBBBBBBBBBBBBBBBBBB.1");
    case(
        "a cursor of another stream",
        other,
        400,
        "invalid_cursor",
        Some("Last-Event-ID"),
        "resp_BBBB",
    );
    case(
        "a position that is no number",
        get(&format!("/v1/streams/{id}?after=-1")),
        400,
        "invalid_cursor",
        Some("after"),
        "-1",
    );
    case(
        "a dialect that is none",
        get(&format!("/v1/streams/{id}?dialect=latin")),
        400,
        "invalid_value",
        Some("dialect"),
        "latin",
    );

    let foreign =
        json_post(world, "/v1/chat/completions", "{}").header("origin", "https://evil.example");
    case(
        "a foreign page",
        foreign,
        403,
        "origin_forbidden",
        None,
        "https://evil.example",
    );
    case(
        "a foreign page's EventSource",
        get("/v1/streams?input=x").header("origin", "https://evil.example"),
        403,
        "origin_forbidden",
        None,
        "evil",
    );
    let hidden = json_post(world, "/v1/responses", "{}").header("sec-fetch-site", "cross-site");
    case(
        "a foreign page without an origin",
        hidden,
        403,
        "origin_forbidden",
        None,
        "another site",
    );
    let deletes = world
        .delete(&format!("/v1/responses/{id}"))
        .header("origin", "https://evil.example");
    case(
        "a foreign page that deletes",
        deletes,
        403,
        "origin_forbidden",
        None,
        "evil",
    );
    let upgrade = get("/v1/ws")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("origin", "https://evil.example");
    case(
        "a foreign page's WebSocket",
        upgrade,
        403,
        "origin_forbidden",
        None,
        "evil",
    );
    let simple = method("POST", "/v1/streams")
        .header("content-type", "text/plain")
        .header("origin", "null")
        .body("{\"input\":\"x\"}");
    case(
        "a sandboxed page's form",
        simple,
        403,
        "origin_forbidden",
        None,
        "null",
    );
    cases
}

#[tokio::test]
async fn bad_requests_get_a_clear_error_and_the_connection_stays_usable() {
    let world = start(|config| config.limits.body = 64 * 1024);
    let mut problems = Vec::new();
    for case in cases(&world) {
        let answer = case.request.answer().await;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        let error = &body["error"];
        let found = (
            answer.status,
            error["type"].as_str(),
            error["code"].as_str(),
        );
        let message = error["message"].as_str().unwrap_or_default();
        // Another test checks the parameter of unsupported ones.
        let param = case.code == "unsupported_parameter" || error["param"].as_str() == case.param;
        if found != (case.status, Some(case.kind), Some(case.code))
            || !param
            || !message.contains(case.says)
            || message.is_empty()
        {
            problems.push(format!(
                "{}: {} {}",
                case.what,
                answer.status,
                answer.text()
            ));
            continue;
        }
        assert_eq!(
            answer.header("content-type"),
            Some("application/json"),
            "{}",
            case.what
        );
        assert_eq!(
            answer.header("x-should-retry"),
            Some("false"),
            "{}",
            case.what
        );
        assert!(
            answer
                .header("x-request-id")
                .is_some_and(|id| id.starts_with("req_")),
            "{}",
            case.what
        );
        if case.status == 405 {
            let allow = answer.header("allow").unwrap_or_default();
            assert!(
                allow
                    .split(", ")
                    .all(|method| ["GET", "HEAD", "POST", "DELETE"].contains(&method)),
                "{}: {allow}",
                case.what
            );
        }
        let next = world
            .post("/v1/chat/completions", &chat("tokens=1"))
            .answer()
            .await;
        assert!(
            next.text().ends_with("data: [DONE]\n\n"),
            "after {}: {}",
            case.what,
            next.text()
        );
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(
        world
            .simulator
            .requests()
            .iter()
            .all(|request| request.status == Some(200)),
        "a bad request went up"
    );
}

#[tokio::test]
async fn unsupported_parameter_is_named() {
    let world = start(|_| {});
    for (member, param) in [
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"prompt": {"id": "pmpt_1"}}), "prompt"),
    ] {
        let error = world
            .post("/v1/responses", &with(response("tokens=1"), member))
            .answer()
            .await
            .json();
        assert_eq!(
            (&error["error"]["code"], error["error"]["param"].as_str()),
            (&json!("unsupported_parameter"), Some(param)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn unknown_model_error_is_the_upstreams() {
    let world = start(|_| {});
    for body in [
        chat("tokens=1"),
        with(chat("tokens=1"), json!({"stream": false})),
    ] {
        let answer = world
            .post(
                "/v1/chat/completions",
                &with(body, json!({"model": "unknown-model"})),
            )
            .answer()
            .await;
        assert_eq!(answer.status, 404);
        let expected = json!({"error": {
            "message": "The model `unknown-model` does not exist or you do not have access to it.",
            "type": "invalid_request_error", "param": null, "code": "model_not_found"}});
        assert_eq!(answer.json(), expected);
    }
}

// === upgrades ===

#[tokio::test]
async fn a_malformed_upgrade_is_400() {
    let world = start(|_| {});
    let good = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let ask = async |path: &str, headers: &[(&str, &str)]| -> (u16, Answer) {
        let request = headers
            .iter()
            .fold(world.get(path), |request, (name, value)| {
                request.header(name, value)
            });
        let mut exchange = request.send().await;
        let status = exchange.status().await;
        if status == 101 {
            return (
                status,
                Answer {
                    status,
                    headers: Vec::new(),
                    body: Vec::new(),
                    end: crate::support::End::Open,
                },
            );
        }
        (status, exchange.answer().await)
    };
    for path in ["/v1/ws", "/v1/responses"] {
        assert_eq!(ask(path, &good).await.0, 101);
        for (what, headers) in [
            ("no key", good[..3].to_vec()),
            ("no version", vec![good[0], good[1], good[3]]),
            ("no connection", good[1..].to_vec()),
            (
                "another protocol",
                vec![good[0], ("upgrade", "h2c"), good[2], good[3]],
            ),
            (
                "an old version",
                vec![good[0], good[1], ("sec-websocket-version", "8"), good[3]],
            ),
            (
                "a key that is none",
                vec![good[0], good[1], good[2], ("sec-websocket-key", "short")],
            ),
            (
                "a key that is not base64",
                vec![
                    good[0],
                    good[1],
                    good[2],
                    ("sec-websocket-key", "!!!!!!!!!!!!!!!!!!!!!!!!"),
                ],
            ),
        ] {
            let (status, answer) = ask(path, &headers).await;
            assert_eq!(status, 400, "{what} on {path}");
            assert_eq!(
                answer.json()["error"]["code"],
                "invalid_upgrade",
                "{what} on {path}: {}",
                answer.text()
            );
        }
        if path == "/v1/ws" {
            assert_eq!(ask(path, &[]).await.0, 400, "no upgrade at all");
        }
    }
    let mut socket = RawSocket::connect(world.address, "/v1/ws", &[]).await;
    assert!(
        socket
            .send(&crate::support::websocket::frame(
                0x81,
                br#"{"type":"tokenwire:ping"}"#
            ))
            .await
    );
    assert_eq!(socket.text().await["type"], "tokenwire:pong");
}

// === pages ===

async fn preflight(world: &World, origin: &str) -> Answer {
    Request::new(world.address, "OPTIONS", "/v1/responses")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization,content-type,x-stainless-lang,x-stainless-retry-count",
        )
        .answer()
        .await
}

#[tokio::test]
async fn allowed_origins_may_send_requests_and_read_responses() {
    let world =
        start(|config| config.server.allowed_origins = vec!["https://app.example.com".to_owned()]);
    for origin in [
        "https://app.example.com",
        "http://localhost:5173",
        "http://127.0.0.1:8080",
    ] {
        let answer = preflight(&world, origin).await;
        assert_eq!(answer.status, 204, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let methods = answer
            .header("access-control-allow-methods")
            .unwrap_or_default();
        assert!(
            ["GET", "POST", "DELETE"]
                .iter()
                .all(|method| methods.contains(method)),
            "{methods}"
        );
        let headers = answer.header("access-control-allow-headers");
        assert_eq!(
            headers,
            Some("authorization,content-type,x-stainless-lang,x-stainless-retry-count")
        );
        assert!(
            answer
                .header("vary")
                .is_some_and(|vary| vary.contains("Origin"))
        );

        for request in [
            world.post("/v1/chat/completions", &chat("tokens=1")),
            world.post("/v1/chat/completions", &json!({})),
            world.get("/nowhere"),
        ] {
            let answer = request.header("origin", origin).answer().await;
            assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
            let exposed = answer
                .header("access-control-expose-headers")
                .unwrap_or_default()
                .to_ascii_lowercase();
            for name in [
                "location",
                "x-request-id",
                "x-upstream-request-id",
                "retry-after",
            ] {
                assert!(exposed.contains(name), "{name} in {exposed}");
            }
        }
    }
    let foreign = preflight(&world, "https://evil.example").await;
    assert_eq!(
        (
            foreign.status,
            foreign.header("access-control-allow-origin")
        ),
        (403, None)
    );
}

#[tokio::test]
async fn foreign_page_cannot_read_operations_endpoints() {
    let world = start(|_| {});
    let answer = world
        .get("/healthz")
        .header("origin", "https://evil.example")
        .answer()
        .await;
    assert_eq!(
        (answer.status, answer.header("access-control-allow-origin")),
        (200, None)
    );
}

#[tokio::test]
async fn every_response_has_a_unique_request_id() {
    let world = start(|_| {});
    let mut ids = Vec::new();
    for request in [
        world.get("/healthz"),
        world.get("/nowhere"),
        world.get("/v1/models"),
        world.post("/v1/chat/completions", &chat("tokens=1")),
        world.post("/v1/responses", &json!({})),
        world
            .get("/v1/streams?input=x")
            .header("origin", "https://evil.example"),
    ] {
        ids.push(
            request
                .answer()
                .await
                .header("x-request-id")
                .expect("no X-Request-Id")
                .to_owned(),
        );
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 6);
}

/// Errors in the log are for the operator. Bad input from clients is not logged as an error.
#[tokio::test]
async fn bad_input_does_not_fill_the_log_with_errors() {
    let gateway = Process::start("", &[]);
    let request = |path: &str| {
        Request::new(gateway.address, "POST", path).header("content-type", "application/json")
    };
    assert_eq!(
        request("/v1/responses")
            .header("bad header", "x")
            .body("{}")
            .answer()
            .await
            .status,
        400
    );
    assert_eq!(
        request("/v1/responses").body("{").answer().await.status,
        400
    );
    // A plain text stream that fails is aborted, which is how its reader detects the failure.
    let failing = response("tokens=9 fault=cut after=2").to_string();
    assert_eq!(
        request("/v1/streams")
            .header("accept", "text/plain")
            .body(failing)
            .answer()
            .await
            .end,
        End::Broken
    );
    gateway.terminate();
    let (well, log) = gateway.output();
    assert!(well && !log.contains("ERROR"), "{log}");
    assert!(!log.contains('\u{1b}'), "colours without a terminal: {log}");
}
