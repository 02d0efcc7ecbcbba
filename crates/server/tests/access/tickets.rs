//! Tickets from outside: what each kind is good for, and when it is not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::identities::{ALICE, BOB, LIMITED, OPERATOR, entry};
use crate::support::websocket::RawSocket;
use crate::support::{
    Answer, DiskWorld, End, Request, World, chat, eventually, response, start, with,
};
use serde_json::{Value, json};
use tokenwire::auth::KeysFile;
use tokenwire::config::Config;
use tokenwire::config::auth::{KeyEntry, Role};

fn keys(config: &mut Config) {
    config.auth.keys = vec![
        entry("alice", ALICE),
        entry("bob", BOB),
        KeyEntry {
            role: Role::Operator,
            ..entry("ops", OPERATOR)
        },
        KeyEntry {
            models: vec!["gpt-*".to_owned()],
            ..entry("alice", LIMITED)
        },
    ];
}

fn by(request: Request, key: &str) -> Request {
    request.header("authorization", &format!("Bearer {key}"))
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Asks for a ticket with this key.
async fn ask(world: &World, key: &str, body: &Value) -> Answer {
    by(world.post("/v1/tickets", body), key).answer().await
}

/// Returns a ticket of this key.
async fn ticket(world: &World, key: &str, body: Value) -> String {
    let answer = ask(world, key, &body).await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

/// Adds a ticket to a path.
fn with_ticket(path: &str, ticket: &str) -> String {
    let mark = if path.contains('?') { '&' } else { '?' };
    format!("{path}{mark}ticket={ticket}")
}

/// Starts an answer as this key's and returns its id.
async fn begin(world: &World, key: &str) -> String {
    let request = by(world.post("/v1/responses", &response("tokens=3")), key);
    let answer = request.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.id().to_owned()
}

fn post(world: &World, path: &str, body: &Value) -> Request {
    world.post(path, body)
}

/// Opens a WebSocket with these subprotocols. Returns the socket and the status.
async fn upgrade(world: &World, path: &str, protocols: &str) -> (RawSocket, u16) {
    let headers: &[(&str, &str)] = match protocols {
        "" => &[],
        protocols => &[("sec-websocket-protocol", protocols)],
    };
    let socket = RawSocket::connect(world.address, path, headers).await;
    let status = socket.head[9..12].parse().unwrap();
    (socket, status)
}

async fn open(world: &World, ticket: &str) -> RawSocket {
    let protocols = format!("tokenwire.v1, tokenwire-ticket.{ticket}");
    let (socket, status) = upgrade(world, "/v1/ws", &protocols).await;
    assert_eq!(status, 101, "{}", socket.head);
    assert!(!socket.head.contains(ticket), "{}", socket.head);
    socket
}

async fn say(socket: &mut RawSocket, message: Value) {
    let message = message.to_string();
    assert!(
        socket
            .send(&crate::support::websocket::frame(0x81, message.as_bytes()))
            .await
    );
}

/// Reads events until one of this type.
async fn until(socket: &mut RawSocket, kind: &str) -> Value {
    loop {
        let event = socket.text().await;
        if event["type"] == kind {
            return event;
        }
    }
}

/// A route, the ticket kinds that are good for it, and a body where it takes one. `ID` is the stream
/// of the stream ticket. The letters are `s`tream, `t` (start), `o`wner (WebSocket only).
fn routes() -> Vec<(&'static str, &'static str, Option<Value>, &'static str)> {
    vec![
        ("POST", "/v1/chat/completions", Some(chat("tokens=1")), "t"),
        ("POST", "/v1/responses", Some(response("tokens=1")), "t"),
        (
            "POST",
            "/v1/responses/input_tokens",
            Some(response("tokens=1")),
            "",
        ),
        (
            "POST",
            "/v1/responses/compact",
            Some(response("tokens=1")),
            "",
        ),
        ("GET", "/v1/responses/ID", None, "s"),
        ("HEAD", "/v1/responses/ID", None, "s"),
        ("GET", "/v1/responses/ID?stream=true", None, "s"),
        ("DELETE", "/v1/responses/ID", None, ""),
        ("POST", "/v1/responses/ID/cancel", None, "s"),
        ("GET", "/v1/responses/ID/input_items", None, ""),
        ("POST", "/v1/streams", Some(response("tokens=1")), "t"),
        ("GET", "/v1/streams?input=x", None, "t"),
        ("GET", "/v1/%73treams?input=x", None, "t"),
        ("GET", "/v1/streams/ID", None, "s"),
        ("HEAD", "/v1/streams/ID", None, "s"),
        ("GET", "/v1/ws", None, ""),
        ("UPGRADE", "/v1/ws", None, "sto"),
        ("UPGRADE", "/v1/responses", None, "sto"),
        ("GET", "/v1/models", None, ""),
        ("GET", "/v1/models/simulator", None, ""),
        ("POST", "/v1/tickets", Some(json!({})), ""),
        ("POST", "/v1/tickets/revoke", Some(json!({})), ""),
        ("GET", "/v1/usage", None, ""),
        ("GET", "/v1/webhooks/deliveries", None, ""),
        ("POST", "/v1/webhooks/deliveries/x/retry", None, ""),
        ("GET", "/v1", None, ""),
        ("POST", "/v1/embeddings", None, ""),
    ]
}

/// Sends a request to a route. Returns its status and code.
async fn send(
    world: &World,
    method: &str,
    path: &str,
    body: Option<&Value>,
    origin: Option<&str>,
) -> (u16, String) {
    if method == "UPGRADE" {
        let headers: Vec<_> = origin
            .map(|origin| ("origin", origin))
            .into_iter()
            .collect();
        let socket = RawSocket::connect(world.address, path, &headers).await;
        return (socket.head[9..12].parse().unwrap(), String::new());
    }
    let mut request = Request::new(world.address, method, path);
    if let Some(body) = body {
        request = request
            .header("content-type", "application/json")
            .body(body.to_string());
    }
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    let mut exchange = request.send().await;
    let status = exchange.status().await;
    let code = match (method, status) {
        ("HEAD", _) | (_, 200 | 204) => String::new(),
        _ => code(&exchange.answer().await),
    };
    (status, code)
}

/// The bodies of the kinds of the table.
fn kinds(id: &str) -> [(char, Value); 3] {
    [
        ('s', json!({"stream": id, "may": ["read", "cancel"]})),
        ('t', json!({"may": ["start"]})),
        ('o', json!({"may": ["read", "start", "cancel"]})),
    ]
}

#[tokio::test]
async fn each_kind_of_ticket_is_good_for_its_routes_and_no_other() {
    let world = start(keys);
    let id = begin(&world, ALICE).await;
    for (method, path, body, good) in routes() {
        for (kind, asked) in kinds(&id) {
            let text = ticket(&world, ALICE, asked).await;
            let path = with_ticket(&path.replace("ID", &id), &text);
            let (status, code) = send(&world, method, &path, body.as_ref(), None).await;
            let what = format!("{method} {path} {kind}: {status} {code}");
            if good.contains(kind) {
                assert!(matches!(status, 101 | 200 | 204), "{what}");
            } else if kind == 't' && path.starts_with("/v1/responses/resp_") && code == "not_found"
            {
                // A stream that it has not started.
                assert_eq!(status, 404, "{what}");
            } else if kind == 't' && ["GET", "HEAD"].contains(&method) && status == 404 {
                assert!(path.contains(&id), "{what}");
            } else {
                assert_eq!(status, 403, "{what}");
                if method != "HEAD" {
                    assert_eq!(code, "ticket_not_allowed", "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn tickets_that_are_not_valid_are_refused_on_every_route() {
    let folder = tempfile::tempdir().unwrap();
    let file = KeysFile::at(folder.path().join("keys.yaml"));
    const CAROL: &str = "sk-tw-carol-carol-carol-carol";
    file.change(|keys| {
        keys.push(entry("alice", CAROL));
        Ok(())
    })
    .unwrap();
    let path = file.path().display().to_string();
    let world = start(|config| {
        keys(config);
        config.auth.keys_file = Some(path);
    });
    let (id, other) = (begin(&world, ALICE).await, begin(&world, ALICE).await);
    let asked = world.simulator.stats().chat_completions;
    let mut cases: Vec<(String, char, String, u16, &str)> = Vec::new();
    for (kind, body) in kinds(&id) {
        let make = async |key: &str, members: Value| {
            let text = ticket(&world, key, with(body.clone(), members)).await;
            (kind, text)
        };
        let mut add = |what: &str, (kind, text): (char, String), status, code| {
            cases.push((what.to_owned(), kind, text, status, code));
        };
        let soon = json!({"valid_until": now() + 1});
        add("expired", make(ALICE, soon).await, 401, "invalid_ticket");
        let (_, whole) = make(ALICE, json!({})).await;
        let (first, last) = whole.split_at(whole.len() - 1);
        let changed = format!("{first}{}", if last == "A" { 'Q' } else { 'A' });
        add("tampered", (kind, changed), 401, "invalid_ticket");
        add("cut", (kind, first.to_owned()), 401, "invalid_ticket");
        let foreign = json!({"origin": "https://app.example.com"});
        add(
            "other origin",
            make(ALICE, foreign).await,
            403,
            "origin_forbidden",
        );
        add(
            "revoked issuer",
            make(CAROL, json!({})).await,
            401,
            "invalid_ticket",
        );
    }
    let late = json!({"stream": id, "connect_by": now() + 1});
    let late = ticket(&world, ALICE, late).await;
    file.change(|keys| {
        keys.clear();
        Ok(())
    })
    .unwrap();
    eventually("the revocation", async || {
        by(world.get("/v1/models"), CAROL).answer().await.status == 401
    })
    .await;
    // The second in which the short ones end is over.
    let ended = now() + 1;
    eventually("the end of the tickets", async || now() > ended).await;
    let path = with_ticket(&format!("/v1/streams/{id}"), &late);
    let answer = world.get(&path).answer().await;
    assert_eq!(
        (answer.status, code(&answer).as_str()),
        (401, "invalid_ticket")
    );
    assert!(
        answer.text().contains("not used in time"),
        "{}",
        answer.text()
    );
    for (method, path, body, _) in routes() {
        for (what, kind, text, status, expected) in &cases {
            // The path of another stream, so that the ticket is not good for it anyway.
            for id in [&id, &other] {
                let path = with_ticket(&path.replace("ID", id), text);
                let origin = Some("http://localhost:5173").filter(|_| what == "other origin");
                let (found, code) = send(&world, method, &path, body.as_ref(), origin).await;
                let told = format!("{method} {path} {kind} {what}: {code}");
                if what == "other origin" && found == 403 {
                    // What the ticket is not for is refused with that.
                    assert!(
                        matches!(&*code, "" | "origin_forbidden" | "ticket_not_allowed"),
                        "{told}"
                    );
                    continue;
                }
                assert_eq!(found, *status, "{told}");
                if !code.is_empty() {
                    assert_eq!(code, *expected, "{told}");
                }
            }
        }
    }
    assert_eq!(
        world.simulator.stats().chat_completions,
        asked,
        "the upstream was asked"
    );
}

#[tokio::test]
async fn a_refused_ticket_says_what_to_do_and_challenges() {
    let world = start(keys);
    let answer = world.get("/v1/streams/resp_x?ticket=tkt_x").answer().await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    assert!(
        answer.text().contains("POST /v1/tickets"),
        "{}",
        answer.text()
    );
    assert_eq!(answer.json()["error"]["type"], "authentication_error");
    let text = ticket(&world, ALICE, json!({})).await;
    let two = format!("/v1/ws?ticket={text}&ticket=tkt_x");
    assert_eq!(
        code(&world.get(&two).answer().await),
        "ambiguous_credential"
    );
    let both = by(world.get(&with_ticket("/v1/models", &text)), ALICE);
    assert_eq!(code(&both.answer().await), "ambiguous_credential");
}

#[tokio::test]
async fn tickets_have_a_relative_url_or_that_of_the_public_url() {
    let world = start(keys);
    let id = begin(&world, ALICE).await;
    for (body, path) in [
        (json!({"stream": id}), format!("/v1/streams/{id}")),
        (json!({"may": ["start"]}), "/v1/streams".to_owned()),
        (json!({}), "/v1/ws".to_owned()),
    ] {
        let request = by(world.post("/v1/tickets", &body), ALICE);
        let answer = request.header("host", "evil.example").answer().await;
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let (made, text) = (answer.json(), answer.text());
        let expected = with_ticket(&path, made["ticket"].as_str().unwrap());
        assert_eq!(made["url"], *expected, "{text}");
    }
    let public = start(|config| {
        keys(config);
        config.server.public_url = Some("https://chat.example.com/".to_owned());
    });
    let made = ask(&public, ALICE, &json!({})).await.json();
    let url = made["url"].as_str().unwrap();
    assert!(
        url.starts_with("https://chat.example.com/v1/ws?ticket=tkt_"),
        "{url}"
    );
    // Only the owner's own streams.
    for (key, body) in [
        (BOB, json!({"stream": id})),
        (ALICE, json!({"stream": id, "for": "one"})),
        (ALICE, json!({"stream": "resp_unknown"})),
        (ALICE, json!({"stream": "unknown"})),
    ] {
        let answer = ask(&world, key, &body).await;
        assert_eq!(
            (answer.status, &*code(&answer)),
            (404, "not_found"),
            "{body}"
        );
    }
    let answer = ask(&world, ALICE, &json!({"for": "/bob"})).await;
    assert_eq!((answer.status, &*code(&answer)), (403, "role_required"));
    assert_eq!(
        ask(&world, OPERATOR, &json!({"for": "/bob"})).await.status,
        200
    );
}

#[tokio::test]
async fn a_stream_ticket_reads_its_stream_over_every_transport() {
    let world = start(keys);
    let (id, other) = (begin(&world, ALICE).await, begin(&world, ALICE).await);
    let text = ticket(&world, ALICE, json!({"stream": id})).await;
    let answer = world
        .get(&with_ticket(&format!("/v1/streams/{id}"), &text))
        .header("accept", "text/event-stream")
        .answer()
        .await;
    assert!(answer.text().contains("response.completed"));
    let wrong = world.get(&with_ticket(&format!("/v1/streams/{other}"), &text));
    assert_eq!(code(&wrong.answer().await), "ticket_not_allowed");
    let by_event = world.get(&with_ticket("/v1/streams", &text));
    let own = by_event.clone().header("last-event-id", &format!("{id}.1"));
    assert_eq!(own.answer().await.status, 200);
    let wrong = by_event.header("last-event-id", &format!("{other}.1"));
    assert_eq!(code(&wrong.answer().await), "ticket_not_allowed");
    // Not with a right that it does not have.
    let cancel = post(
        &world,
        &with_ticket(&format!("/v1/responses/{id}/cancel"), &text),
        &json!({}),
    );
    assert_eq!(code(&cancel.answer().await), "ticket_not_allowed");
    let mut socket = open(&world, &text).await;
    say(
        &mut socket,
        json!({"type": "tokenwire:resume", "response_id": id}),
    )
    .await;
    until(&mut socket, "response.completed").await;
    for (message, kind) in [
        (
            json!({"type": "tokenwire:resume", "response_id": other}),
            "tokenwire:error",
        ),
        (
            json!({"type": "tokenwire:cancel", "response_id": id}),
            "tokenwire:error",
        ),
        (json!({"type": "response.create", "input": "x"}), "error"),
    ] {
        say(&mut socket, message).await;
        let error = until(&mut socket, kind).await;
        assert_eq!(error["status"], 403, "{error}");
        assert_eq!(error["error"]["code"], "ticket_not_allowed", "{error}");
    }
}

#[tokio::test]
async fn a_stream_ticket_is_good_from_its_first_use_until_its_end() {
    let world = start(keys);
    let id = begin(&world, ALICE).await;
    let (by_when, until) = (now() + 2, now() + 6);
    let body = json!({"stream": id, "connect_by": by_when, "valid_until": until});
    let (used, unused) = (
        ticket(&world, ALICE, body.clone()).await,
        ticket(&world, ALICE, body.clone()).await,
    );
    let head_only = ticket(&world, ALICE, body).await;
    let path = |text: &str| with_ticket(&format!("/v1/streams/{id}"), text);
    assert_eq!(world.get(&path(&used)).answer().await.status, 200);
    let head = Request::new(world.address, "HEAD", &path(&head_only));
    assert_eq!(head.send().await.status().await, 200);
    eventually("the end of the time for a first use", async || {
        now() > by_when
    })
    .await;
    let again = world
        .get(&path(&used))
        .header("last-event-id", &format!("{id}.1"));
    assert_eq!(again.answer().await.status, 200);
    for text in [&unused, &head_only] {
        let late = world
            .get(&path(text))
            .header("last-event-id", &format!("{id}.1"));
        assert_eq!(late.answer().await.status, 401, "a Last-Event-ID is no use");
    }
    // Its end refuses connections and ends no open body.
    let running = by(
        world.post("/v1/streams", &response("tokens=100000 tbt=20ms")),
        ALICE,
    );
    let mut running = running.send().await;
    let id = running.id().await;
    let until = now() + 2;
    let text = ticket(&world, ALICE, json!({"stream": id, "valid_until": until})).await;
    let path = with_ticket(&format!("/v1/streams/{id}"), &text);
    let mut reader = world.get(&path).send().await;
    reader.until("output_text.delta").await;
    let mut socket = open(&world, &text).await;
    say(
        &mut socket,
        json!({"type": "tokenwire:resume", "response_id": id}),
    )
    .await;
    eventually("the end of the ticket", async || now() > until).await;
    assert_eq!(world.get(&path).answer().await.status, 401);
    let before = reader.body.len();
    while reader.body.len() < before + 2000 {
        assert!(reader.read().await);
    }
    say(&mut socket, json!({"type": "tokenwire:ping"})).await;
    self::until(&mut socket, "tokenwire:pong").await;
}

#[tokio::test]
async fn a_start_ticket_starts_one_generation_and_attaches_from_then_on() {
    let world = start(keys);
    let text = ticket(&world, ALICE, json!({"may": ["start"]})).await;
    let path = with_ticket("/v1/streams?input=%5B%5Btokens%3D3%5D%5D", &text);
    let asked = world.simulator.stats().chat_completions;
    let first = world.get(&path).answer().await;
    assert_eq!(first.status, 200, "{}", first.text());
    let id = first.id().to_owned();
    for request in [
        world.get(&path),
        world.get(&path).header("last-event-id", &format!("{id}.1")),
        // A client's own key does not make another one.
        world.get(&format!("{path}&key=another")),
        world.get(&with_ticket(&format!("/v1/streams/{id}"), &text)),
        world.get(&with_ticket(&format!("/v1/responses/{id}"), &text)),
    ] {
        let again = request.answer().await;
        assert_eq!((again.status, again.id()), (200, &*id), "{}", again.text());
    }
    let end = first.events().last().unwrap().number();
    let nothing = world
        .get(&path)
        .header("last-event-id", &format!("{id}.{end}"));
    assert_eq!(nothing.answer().await.status, 204);
    assert_eq!(world.simulator.stats().chat_completions, asked + 1);
    // Another request, and another stream.
    let other = world.get(&with_ticket("/v1/streams?input=other", &text));
    assert_eq!(other.answer().await.status, 422);
    let other = begin(&world, ALICE).await;
    for path in ["/v1/streams/ID", "/v1/responses/ID"] {
        let wrong = world.get(&with_ticket(&path.replace("ID", &other), &text));
        assert_eq!(wrong.answer().await.status, 404, "{path}");
    }
    // It is the owner's.
    let own = by(world.get(&format!("/v1/responses/{id}")), ALICE);
    assert_eq!(own.answer().await.status, 200);
    let asked = world.simulator.stats().chat_completions;
    let text = ticket(&world, ALICE, json!({"may": ["start", "cancel"]})).await;
    let mut socket = open(&world, &text).await;
    for _ in 0..2 {
        say(
            &mut socket,
            json!({"type": "response.create", "input": "[[tokens=2]]"}),
        )
        .await;
        until(&mut socket, "response.completed").await;
    }
    assert_eq!(world.simulator.stats().chat_completions, asked + 1);
    say(
        &mut socket,
        json!({"type": "tokenwire:resume", "response_id": other}),
    )
    .await;
    assert_eq!(until(&mut socket, "tokenwire:error").await["status"], 404);
}

#[tokio::test]
async fn a_start_ticket_starts_nothing_after_its_time_and_no_webhook() {
    let world = start(keys);
    let by_when = now() + 2;
    let body = json!({"may": ["start"], "connect_by": by_when});
    let used = ticket(&world, ALICE, body.clone()).await;
    let unused = ticket(&world, ALICE, body).await;
    let path = |text: &str| with_ticket("/v1/streams?input=%5B%5Btokens%3D2%5D%5D", text);
    let first = world.get(&path(&used)).answer().await;
    eventually("the end of the time for a first use", async || {
        now() > by_when
    })
    .await;
    assert_eq!(world.get(&path(&used)).answer().await.id(), first.id());
    let late = world.get(&path(&unused)).answer().await;
    assert_eq!((late.status, &*code(&late)), (401, "invalid_ticket"));
    let text = ticket(&world, ALICE, json!({"may": ["start"]})).await;
    let hooked = with(
        response("tokens=1"),
        json!({"background": true, "webhook": {"url": "https://hooks.example.com"}}),
    );
    let answer = world
        .post(&with_ticket("/v1/responses", &text), &hooked)
        .answer()
        .await;
    assert_eq!(
        (answer.status, &*code(&answer)),
        (403, "ticket_not_allowed")
    );
    assert_eq!(answer.json()["error"]["param"], "webhook");
}

#[tokio::test]
async fn a_ticket_uses_no_more_models_than_it_and_its_key_may() {
    let world = start(|config| {
        keys(config);
        let models =
            json!({"simulator": "simulator", "gpt-small": "simulator", "gpt-large": "simulator"});
        config.upstreams[0].models = serde_json::from_value(models).unwrap();
    });
    for (key, models, allowed) in [
        (
            ALICE,
            None,
            ["simulator", "gpt-small", "gpt-large"].as_slice(),
        ),
        (ALICE, Some(json!(["gpt-s*"])), &["gpt-small"]),
        (LIMITED, None, &["gpt-small", "gpt-large"]),
        (
            LIMITED,
            Some(json!(["simulator", "gpt-l*"])),
            &["gpt-large"],
        ),
    ] {
        for model in ["simulator", "gpt-small", "gpt-large"] {
            let mut body = json!({"may": ["start"]});
            if let Some(models) = &models {
                body["models"] = models.clone();
            }
            let text = ticket(&world, key, body).await;
            let asked = with(response("tokens=1"), json!({"model": model}));
            let answer = world
                .post(&with_ticket("/v1/responses", &text), &asked)
                .answer()
                .await;
            let expected = if allowed.contains(&model) { 200 } else { 403 };
            assert_eq!(
                answer.status,
                expected,
                "{model} {models:?}: {}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn an_owner_ticket_opens_one_socket_once() {
    let world = start(keys);
    let text = ticket(
        &world,
        ALICE,
        json!({"may": ["read", "start"], "for": "one"}),
    )
    .await;
    let mut socket = open(&world, &text).await;
    say(
        &mut socket,
        json!({"type": "response.create", "input": "[[tokens=2]]"}),
    )
    .await;
    let completed = until(&mut socket, "response.completed").await;
    let id = completed["response"]["id"].as_str().unwrap().to_owned();
    // A stream of the owner below Alice.
    let answer = by(world.get(&format!("/v1/responses/{id}")), ALICE)
        .answer()
        .await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        ask(&world, ALICE, &json!({"stream": id, "for": "one"}))
            .await
            .status,
        200
    );
    say(
        &mut socket,
        json!({"type": "tokenwire:cancel", "response_id": id}),
    )
    .await;
    assert_eq!(until(&mut socket, "tokenwire:error").await["status"], 403);
    // The second use, by each way.
    let offered = format!("tokenwire.v1, tokenwire-ticket.{text}");
    for (path, protocols) in [
        ("/v1/ws".to_owned(), offered.as_str()),
        (with_ticket("/v1/ws", &text), "tokenwire.v1"),
        (with_ticket("/v1/responses", &text), "tokenwire.v1"),
    ] {
        let (mut again, status) = upgrade(&world, &path, protocols).await;
        assert_eq!(status, 101, "a page cannot see a status");
        assert!(
            again
                .head
                .to_lowercase()
                .contains("sec-websocket-protocol: tokenwire.v1")
        );
        assert_eq!(again.close_code().await, Some(4401));
    }
    let (_, status) = upgrade(&world, &with_ticket("/v1/ws", &text), "").await;
    assert_eq!(status, 401);
    let foreign = [
        ("origin", "https://evil.example"),
        ("sec-websocket-protocol", &*offered),
    ];
    let socket = RawSocket::connect(world.address, "/v1/ws", &foreign).await;
    assert!(socket.head.starts_with("HTTP/1.1 403"), "{}", socket.head);
}

#[tokio::test]
async fn a_ticket_without_the_subprotocol_beside_it_is_refused() {
    for checked in [true, false] {
        let world = start(|config| {
            if checked {
                keys(config)
            }
        });
        let (_, status) = upgrade(&world, "/v1/ws", "tokenwire-ticket.tkt_x").await;
        assert_eq!(status, 400);
        let request = world
            .get("/v1/ws")
            .header("sec-websocket-protocol", "tokenwire-ticket.tkt_x");
        assert_eq!(code(&request.answer().await), "subprotocol_missing");
    }
}

#[tokio::test]
async fn a_socket_is_told_of_its_end_and_prolonged_by_another_ticket() {
    let world = start(keys);
    let short = |may: Value| json!({"may": may, "valid_until": now() + 3});
    let text = ticket(&world, ALICE, short(json!(["read", "start"]))).await;
    let mut ending = open(&world, &text).await;
    let text = ticket(&world, ALICE, short(json!(["read", "start"]))).await;
    let mut prolonged = open(&world, &text).await;
    for socket in [&mut ending, &mut prolonged] {
        let told = until(socket, "tokenwire:auth_expiring").await;
        assert!(
            (1..=3).contains(&told["expires_in"].as_u64().unwrap()),
            "{told}"
        );
    }
    // What is not a ticket for it changes nothing.
    let id = begin(&world, ALICE).await;
    let others = ticket(&world, BOB, json!({})).await;
    let of_stream = ticket(&world, ALICE, json!({"stream": id})).await;
    for (given, status) in [
        (&others, 403),
        (&of_stream, 403),
        (&text, 401),
        (&"x".to_owned(), 401),
    ] {
        say(
            &mut prolonged,
            json!({"type": "tokenwire:auth", "ticket": given}),
        )
        .await;
        let error = until(&mut prolonged, "tokenwire:error").await;
        assert_eq!(error["status"], status, "{error}");
    }
    say(&mut prolonged, json!({"type": "tokenwire:auth"})).await;
    let error = until(&mut prolonged, "tokenwire:error").await;
    assert_eq!(error["error"]["param"], "ticket", "{error}");
    // Another owner's ticket was not used up.
    drop(open(&world, &others).await);
    let longer = ticket(&world, ALICE, json!({"may": ["read", "start"]})).await;
    say(
        &mut prolonged,
        json!({"type": "tokenwire:auth", "ticket": longer}),
    )
    .await;
    assert_eq!(ending.close_code().await, Some(4401));
    say(
        &mut prolonged,
        json!({"type": "response.create", "input": "[[tokens=2]]"}),
    )
    .await;
    until(&mut prolonged, "response.completed").await;
}

#[tokio::test]
async fn revocation_of_the_key_ends_what_its_tickets_have_open() {
    let folder = tempfile::tempdir().unwrap();
    let file = KeysFile::at(folder.path().join("keys.yaml"));
    file.change(|keys| {
        keys.extend([entry("alice", ALICE), entry("alice", LIMITED)]);
        Ok(())
    })
    .unwrap();
    let path = file.path().display().to_string();
    let world = start(|config| config.auth.keys_file = Some(path));
    let endless = response("tokens=100000 tbt=20ms");
    let mut others = by(world.post("/v1/streams", &endless), LIMITED)
        .send()
        .await;
    let id = others.id().await;
    others.until("output_text.delta").await;
    let reads = ticket(&world, ALICE, json!({"stream": id})).await;
    let mut reader = world
        .get(&with_ticket(&format!("/v1/streams/{id}"), &reads))
        .send()
        .await;
    reader.until("output_text.delta").await;
    let starts = ticket(&world, ALICE, json!({"may": ["start"]})).await;
    let mut started = world
        .post(&with_ticket("/v1/streams", &starts), &endless)
        .send()
        .await;
    started.until("output_text.delta").await;
    let text = ticket(&world, ALICE, json!({})).await;
    let mut socket = open(&world, &text).await;
    let since = std::time::Instant::now();
    file.change(|keys| {
        keys.remove(0);
        Ok(())
    })
    .unwrap();
    started.until("response.incomplete").await;
    while reader.read().await {}
    assert_eq!(reader.end, End::Broken);
    assert_eq!(socket.close_code().await, Some(4401));
    assert!(since.elapsed() < Duration::from_secs(15));
    let before = others.body.len();
    while others.body.len() < before + 1000 {
        assert!(others.read().await);
    }
}

#[tokio::test]
async fn a_ticket_for_one_origin_allows_its_pages_and_no_other() {
    let world = start(keys);
    let id = begin(&world, ALICE).await;
    let page = "https://app.example.com";
    let text = ticket(&world, ALICE, json!({"stream": id, "origin": page})).await;
    let path = with_ticket(&format!("/v1/streams/{id}"), &text);
    let answer = world.get(&path).header("origin", page).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("access-control-allow-origin"), Some(page));
    let preflight = Request::new(world.address, "OPTIONS", &path)
        .header("origin", page)
        .header("access-control-request-method", "GET");
    let answer = preflight.answer().await;
    assert_eq!(answer.header("access-control-allow-origin"), Some(page));
    for origin in ["https://evil.example", "http://localhost:5173", "null"] {
        let answer = world.get(&path).header("origin", origin).answer().await;
        assert_eq!(
            (answer.status, &*code(&answer)),
            (403, "origin_forbidden"),
            "{origin}"
        );
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // A stolen URL in a program, or in a page that hides its origin.
    for site in [None, Some("same-origin"), Some("cross-site")] {
        let mut request = world.get(&path);
        if let Some(site) = site {
            request = request.header("sec-fetch-site", site);
        }
        assert_eq!(request.answer().await.status, 403, "{site:?}");
    }
    // Without an origin of its own a ticket opens nothing to a foreign page.
    let text = ticket(&world, ALICE, json!({"stream": id})).await;
    let path = with_ticket(&format!("/v1/streams/{id}"), &text);
    let answer = world.get(&path).header("origin", page).answer().await;
    assert_eq!(code(&answer), "origin_forbidden");
}

#[tokio::test]
async fn tickets_work_without_keys_for_pages_that_are_developed() {
    let world = start(|_| {});
    let answer = world
        .post("/v1/tickets", &json!({"may": ["start"]}))
        .answer()
        .await;
    let text = answer.json()["ticket"].as_str().unwrap().to_owned();
    let path = with_ticket("/v1/streams?input=%5B%5Btokens%3D2%5D%5D", &text);
    let first = world.get(&path).answer().await;
    assert_eq!(world.get(&path).answer().await.id(), first.id());
    // As any credential is, a wrong one is ignored.
    let answer = world.get("/v1/models?ticket=tkt_x").answer().await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn tickets_and_their_uses_outlive_the_process_with_a_store() {
    let disk = DiskWorld::new();
    let more = format!("auth:\n  keys: [{{owner: alice, key: {ALICE}}}]\n");
    let gateway = disk.start_with(&more);
    let made = async |gateway: &crate::support::process::Process, body: Value| {
        let answer = by(crate::support::post(gateway, "/v1/tickets", &body), ALICE)
            .answer()
            .await;
        answer.json()["ticket"]
            .as_str()
            .unwrap_or_else(|| panic!("{}", answer.text()))
            .to_owned()
    };
    let started = by(
        crate::support::post(&gateway, "/v1/responses", &response("tokens=3")),
        ALICE,
    );
    let id = started.answer().await.id().to_owned();
    let by_when = now() + 3;
    let reads = made(&gateway, json!({"stream": id, "connect_by": by_when})).await;
    let late = made(&gateway, json!({"stream": id, "connect_by": by_when})).await;
    let starts = made(&gateway, json!({"may": ["start"]})).await;
    let owner = made(&gateway, json!({"connect_by": now() + 600})).await;
    let read = with_ticket(&format!("/v1/streams/{id}"), &reads);
    let run = with_ticket("/v1/streams?input=%5B%5Btokens%3D2%5D%5D", &starts);
    assert_eq!(crate::support::get(&gateway, &read).await.status, 200);
    let first = crate::support::get(&gateway, &run).await.id().to_owned();
    let socket = RawSocket::connect(gateway.address, &with_ticket("/v1/ws", &owner), &[]).await;
    assert!(socket.head.starts_with("HTTP/1.1 101"), "{}", socket.head);
    drop(socket);
    crate::support::stored(&gateway, 2).await;
    gateway.terminate();
    let (_, output) = gateway.output();
    for text in [&reads, &late, &starts, &owner] {
        assert!(
            !output.contains(&**text),
            "the log shows a ticket: {output}"
        );
    }
    let gateway = disk.start_with(&more);
    eventually("the end of the time for a first use", async || {
        now() > by_when
    })
    .await;
    assert_eq!(crate::support::get(&gateway, &read).await.status, 200);
    let late = with_ticket(&format!("/v1/streams/{id}"), &late);
    assert_eq!(crate::support::get(&gateway, &late).await.status, 401);
    assert_eq!(crate::support::get(&gateway, &run).await.id(), first);
    let socket = RawSocket::connect(gateway.address, &with_ticket("/v1/ws", &owner), &[]).await;
    assert!(socket.head.starts_with("HTTP/1.1 401"), "{}", socket.head);
}

// === cookies ===

const HOST: &str = "chat.example.com";
const OWN: &str = "https://chat.example.com";
const LISTED: &str = "https://app.example.com";

fn with_https(config: &mut Config) {
    keys(config);
    config.server.public_url = Some(OWN.to_owned());
    config.server.allowed_origins = vec![LISTED.to_owned()];
}

/// Returns a cookie of this key.
async fn cookie(world: &World, key: &str, members: Value) -> String {
    let body = with(
        json!({"cookie": true, "may": ["read", "start", "cancel"]}),
        members,
    );
    let request = by(world.post("/v1/tickets", &body), key).header("host", HOST);
    let answer = request.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        answer.json(),
        json!({"ticket": null, "url": "https://chat.example.com/"})
    );
    let line = answer.header("set-cookie").unwrap();
    let (pair, attributes) = line.split_once("; Max-Age=").unwrap();
    let (seconds, attributes) = attributes.split_once("; ").unwrap();
    assert!(
        (1..=43_200).contains(&seconds.parse::<u64>().unwrap()),
        "{line}"
    );
    assert_eq!(attributes, "Path=/; Secure; HttpOnly; SameSite=Strict");
    assert!(pair.starts_with("__Host-tokenwire=tkt_"), "{line}");
    pair.to_owned()
}

#[tokio::test]
async fn a_cookie_counts_only_from_own_and_listed_origins() {
    let world = start(with_https);
    let cookie = cookie(&world, ALICE, json!({})).await;
    let id = begin(&world, ALICE).await;
    for (method, path, body, good) in routes() {
        // The routes of starting and reading, and lists.
        let lists =
            method == "GET" && (path.starts_with("/v1/models") || path.ends_with("/input_items"));
        let is_good = lists || !good.is_empty();
        if method == "UPGRADE" {
            continue;
        }
        for (origin, site, is_allowed) in [
            (Some(OWN), None, true),
            (Some(LISTED), None, true),
            (None, Some("same-origin"), true),
            (Some("http://localhost:5173"), None, false),
            (Some("https://evil.example"), None, false),
            (Some("null"), None, false),
            (None, Some("cross-site"), false),
            (None, Some("same-site"), false),
            (None, None, false),
        ] {
            let mut request = Request::new(world.address, method, &path.replace("ID", &id))
                .header("host", HOST)
                .header("cookie", &cookie);
            for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            if let Some(body) = &body {
                request = request
                    .header("content-type", "application/json")
                    .body(body.to_string());
            }
            let mut exchange = request.send().await;
            let status = exchange.status().await;
            let what = format!("{method} {path} {origin:?} {site:?}: {status}");
            if is_allowed && is_good {
                assert!(matches!(status, 200 | 204), "{what}");
                let allowed = exchange.header("access-control-allow-credentials").await;
                let expected = (origin == Some(LISTED)).then_some("true");
                assert_eq!(allowed.as_deref(), expected, "{what}");
            } else {
                assert_eq!(status, 403, "{what}");
                let allowed = exchange.header("access-control-allow-credentials").await;
                assert!(allowed.is_none() || origin == Some(LISTED), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_cookie_opens_sockets_and_streams_of_its_owner() {
    let world = start(with_https);
    let cookie = cookie(&world, ALICE, json!({})).await;
    let upgrade = async |origin: &str| {
        let headers = [("origin", origin), ("cookie", &*cookie)];
        RawSocket::connect_to(world.address, HOST, "/v1/ws", &headers).await
    };
    for (origin, status) in [
        (OWN, "101"),
        (LISTED, "101"),
        ("http://localhost:5173", "403"),
    ] {
        for _ in 0..2 {
            let socket = upgrade(origin).await;
            assert_eq!(&socket.head[9..12], status, "{origin}");
        }
    }
    let get = |path: &str| {
        let request = world
            .get(path)
            .header("host", HOST)
            .header("cookie", &cookie);
        request
            .header("sec-fetch-site", "same-origin")
            .header("sec-fetch-mode", "cors")
    };
    let started = get("/v1/streams?input=%5B%5Btokens%3D2%5D%5D")
        .answer()
        .await;
    assert_eq!(started.status, 200, "{}", started.text());
    let own = by(world.get(&format!("/v1/responses/{}", started.id())), ALICE);
    assert_eq!(own.answer().await.status, 200);
    // A key in a header wins.
    let bobs = by(get(&format!("/v1/responses/{}", started.id())), BOB);
    assert_eq!(bobs.answer().await.status, 404);
    // Neither is good in the place of the other.
    let (_, text) = cookie.split_once('=').unwrap();
    let moved = world
        .get(&with_ticket("/v1/models", text))
        .header("host", HOST);
    assert_eq!(code(&moved.answer().await), "ticket_not_allowed");
    let other = ticket(&world, ALICE, json!({"stream": started.id()})).await;
    let moved = world
        .get(&format!("/v1/streams/{}", started.id()))
        .header("host", HOST)
        .header("sec-fetch-site", "same-origin")
        .header("cookie", &format!("a=b; __Host-tokenwire={other}"));
    assert_eq!(code(&moved.answer().await), "ticket_not_allowed");
    for wrong in ["tkt_x", "", "%"] {
        let request = world
            .get("/v1/models")
            .header("host", HOST)
            .header("sec-fetch-site", "same-origin")
            .header("cookie", &format!("__Host-tokenwire={wrong}"));
        assert_eq!(code(&request.answer().await), "invalid_ticket", "{wrong}");
    }
    // The session may do no more than it says.
    let read_only = self::cookie(&world, ALICE, json!({"may": ["read"]})).await;
    let post = world
        .post("/v1/responses", &response("tokens=1"))
        .header("host", HOST)
        .header("origin", OWN)
        .header("cookie", &read_only);
    assert_eq!(code(&post.answer().await), "ticket_not_allowed");
}

#[tokio::test]
async fn a_cookie_is_set_over_https_only_and_not_by_a_ticket() {
    let world = start(keys);
    let answer = ask(&world, ALICE, &json!({"cookie": true})).await;
    assert_eq!((answer.status, &*code(&answer)), (400, "invalid_value"));
    assert_eq!(answer.json()["error"]["param"], "cookie");
    assert_eq!(answer.header("set-cookie"), None);
    let world = start(with_https);
    let cookie = cookie(&world, ALICE, json!({})).await;
    let again = world
        .post("/v1/tickets", &json!({"cookie": true}))
        .header("host", HOST)
        .header("origin", OWN)
        .header("cookie", &cookie);
    assert_eq!(code(&again.answer().await), "ticket_not_allowed");
}
