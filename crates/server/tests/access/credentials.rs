//! Keys from outside: which requests need one, what an owner sees, and what a revocation ends.

use std::path::{Path, PathBuf};

use crate::identities::{ALICE, BOB, LIMITED, OPERATOR, entry};
use crate::support::{Answer, End, Request, Socket, World, chat, over, response, start, with};
use serde_json::{Value, json};
use tokenwire::auth::KeysFile;
use tokenwire::config::Config;
use tokenwire::config::auth::{KeyEntry, Role};
use tokenwire::config::schema::{Api, Upstream};
use tokenwire::key_hash::KeyHash;
use tokenwire_simulator::{Options, Simulator};

const EXPIRED: &str = "sk-tw-expired-expired-expired";
const REVOKED: &str = "sk-tw-revoked-revoked-revoked";

fn keys(config: &mut Config) {
    config.auth.keys = vec![
        entry("alice", ALICE),
        entry("bob", BOB),
        KeyEntry {
            role: Role::Operator,
            ..entry("ops", OPERATOR)
        },
        entry("alice", REVOKED),
        KeyEntry {
            expires: Some("2020-01-01".to_owned()),
            ..entry("alice", EXPIRED)
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

/// Every route under `/v1`, with a body where it takes one. `ID` stands for a response.
fn routes() -> Vec<(&'static str, &'static str, Option<Value>)> {
    vec![
        ("POST", "/v1/chat/completions", Some(chat("tokens=1"))),
        ("POST", "/v1/responses", Some(response("tokens=1"))),
        (
            "POST",
            "/v1/responses/input_tokens",
            Some(response("tokens=1")),
        ),
        ("POST", "/v1/responses/compact", Some(response("tokens=1"))),
        ("GET", "/v1/responses/ID", None),
        ("HEAD", "/v1/responses/ID", None),
        ("GET", "/v1/responses/ID?stream=true", None),
        ("DELETE", "/v1/responses/ID", None),
        ("POST", "/v1/responses/ID/cancel", None),
        ("GET", "/v1/responses/ID/input_items", None),
        ("HEAD", "/v1/responses/ID/input_items", None),
        ("POST", "/v1/streams", Some(response("tokens=1"))),
        ("GET", "/v1/streams?input=x", None),
        ("GET", "/v1/%73treams?input=x", None),
        ("GET", "/v1/streams/ID", None),
        ("HEAD", "/v1/streams/ID", None),
        ("GET", "/v1/ws", None),
        ("GET", "/v1/models", None),
        ("HEAD", "/v1/models", None),
        ("GET", "/v1/models/simulator", None),
        ("HEAD", "/v1/models/simulator", None),
        ("POST", "/v1/tickets", Some(json!({}))),
        (
            "POST",
            "/v1/tickets/revoke",
            Some(json!({"owner": "alice/app"})),
        ),
        ("GET", "/v1/usage", None),
        ("HEAD", "/v1/usage", None),
        ("GET", "/v1/webhooks/deliveries", None),
        ("HEAD", "/v1/webhooks/deliveries", None),
        ("POST", "/v1/webhooks/deliveries/x/retry", None),
        ("GET", "/v1", None),
        ("POST", "/v1/embeddings", None),
    ]
}

fn request(world: &World, method: &str, path: &str, body: Option<&Value>) -> Request {
    let request = Request::new(world.address, method, path);
    match body {
        Some(body) => request
            .header("content-type", "application/json")
            .body(body.to_string()),
        None => request,
    }
}

/// Starts an answer as this key's and returns its id.
async fn begin(world: &World, key: &str) -> String {
    let request = by(world.post("/v1/responses", &response("tokens=3")), key);
    let answer = request.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.id().to_owned()
}

#[tokio::test]
async fn every_v1_route_refuses_missing_wrong_and_expired_credentials() {
    let world = start(keys);
    let id = begin(&world, ALICE).await;
    let revoked = json!({"key": KeyHash::of(REVOKED).id()});
    let revoke = by(world.post("/v1/tickets/revoke", &revoked), OPERATOR);
    assert_eq!(revoke.answer().await.status, 200);
    let asked = world.simulator.stats().requests;
    for (method, path, body) in routes() {
        let path = path.replace("ID", &id);
        let plain = || request(&world, method, &path, body.as_ref());
        for (what, sent, status, expected) in [
            ("none", plain(), 401, "invalid_api_key"),
            ("wrong", by(plain(), "sk-tw-wrong"), 401, "invalid_api_key"),
            ("expired", by(plain(), EXPIRED), 401, "invalid_api_key"),
            ("revoked", by(plain(), REVOKED), 401, "invalid_api_key"),
            (
                "basic",
                plain().header("authorization", "Basic YTpi"),
                401,
                "invalid_api_key",
            ),
            (
                "two",
                by(plain(), ALICE).header("x-api-key", BOB),
                400,
                "ambiguous_credential",
            ),
            (
                "cookie of a foreign page",
                plain()
                    .header("cookie", "__Host-tokenwire=x")
                    .header("origin", "https://evil.example"),
                if matches!(method, "HEAD") || !needs_origin(method, &path) {
                    401
                } else {
                    403
                },
                "",
            ),
        ] {
            let mut exchange = sent.send().await;
            let found = exchange.status().await;
            assert_eq!(found, status, "{method} {path} {what}");
            let challenge = exchange.header("www-authenticate").await;
            assert_eq!(
                challenge.as_deref(),
                (status == 401).then_some("Bearer"),
                "{what}"
            );
            assert!(exchange.header("x-request-id").await.is_some());
            if method != "HEAD" && !expected.is_empty() {
                let answer = exchange.answer().await;
                assert_eq!(code(&answer), expected, "{method} {path} {what}");
                if what == "expired" {
                    assert!(answer.text().contains("has expired"), "{}", answer.text());
                }
            }
        }
        let preflight = Request::new(world.address, "OPTIONS", &path)
            .header("origin", "http://localhost:5173")
            .header("access-control-request-method", method)
            .header("access-control-request-headers", "authorization");
        let answer = preflight.answer().await;
        assert_eq!(answer.status, 204, "preflight of {method} {path}");
        let allowed = answer.header("access-control-allow-headers");
        assert_eq!(allowed, Some("authorization"));
    }
    assert_eq!(
        world.simulator.stats().requests,
        asked,
        "the upstream was asked"
    );
}

/// Whether the origin rule judges a request before its credential.
fn needs_origin(method: &str, path: &str) -> bool {
    method != "GET" || path.contains("treams") || path.contains("stream=")
}

#[tokio::test]
async fn objects_of_another_owner_are_not_found_and_of_the_same_owner_are() {
    let world = start(keys);
    let id = begin(&world, ALICE).await;
    for (method, path) in [
        ("GET", "/v1/responses/ID"),
        ("HEAD", "/v1/responses/ID"),
        ("GET", "/v1/responses/ID?stream=true"),
        ("GET", "/v1/responses/ID/input_items"),
        ("GET", "/v1/streams/ID"),
        ("HEAD", "/v1/streams/ID"),
        ("POST", "/v1/responses/ID/cancel"),
        ("DELETE", "/v1/responses/ID"),
    ] {
        let path = path.replace("ID", &id);
        for key in [BOB, OPERATOR] {
            let mut other = by(request(&world, method, &path, None), key).send().await;
            assert_eq!(other.status().await, 404, "{method} {path}");
        }
        // A second key of the owner may use other models only, but sees the owner's streams.
        let mut own = by(request(&world, method, &path, None), LIMITED)
            .send()
            .await;
        assert!(matches!(own.status().await, 200 | 204), "{method} {path}");
    }
    let id = begin(&world, ALICE).await;
    for (key, status) in [(BOB, 404), (ALICE, 200)] {
        let next = with(response("tokens=1"), json!({"previous_response_id": id}));
        let answer = by(world.post("/v1/responses", &next), key).answer().await;
        assert_eq!(answer.status, status, "{}", answer.text());
        let item = json!([{"type": "item_reference", "id": format!("msg_{id}_0")}]);
        let next = with(response("tokens=1"), json!({"input": item}));
        let answer = by(world.post("/v1/responses", &next), BOB).answer().await;
        assert_eq!(answer.status, 404, "{}", answer.text());
    }
}

#[tokio::test]
async fn the_table_of_routes_has_every_documented_one() {
    let world = start(keys);
    let document = world.get("/openapi.json").answer().await.json();
    let known: Vec<_> = routes()
        .into_iter()
        .map(|(method, path, _)| {
            let path = path.split('?').next().unwrap_or_default();
            (method.to_lowercase(), path.replace("ID", "{id}"))
        })
        .collect();
    for (path, methods) in document["paths"].as_object().unwrap() {
        if !path.starts_with("/v1/") {
            continue;
        }
        for method in methods.as_object().unwrap().keys() {
            let is_known = known.iter().any(|(known_method, known)| {
                let same = |(a, b): (&str, &str)| a == b || b.starts_with('{');
                let (ours, theirs) = (known.split('/'), path.split('/'));
                let equal = ours.clone().count() == theirs.clone().count();
                known_method == method && equal && ours.zip(theirs).all(same)
            });
            let is_socket = path == "/v1/ws" || (path == "/v1/responses" && method == "get");
            // Its answer goes on until the client leaves; `live.rs` has it.
            let is_socket = is_socket || path == "/v1/activity";
            assert!(is_known || is_socket, "{method} {path} is not in the table");
        }
    }
}

#[tokio::test]
async fn every_start_refuses_a_model_of_other_keys_and_every_list_shows_the_owners_own() {
    let world = start(keys);
    begin(&world, ALICE).await;
    let asked = world.simulator.stats().chat_completions;
    for (path, body) in [
        ("/v1/chat/completions", chat("tokens=1")),
        ("/v1/responses", response("tokens=1")),
        ("/v1/streams", response("tokens=1")),
    ] {
        let request = by(world.post(path, &body), LIMITED);
        let answer = request.answer().await;
        let found = (answer.status, code(&answer));
        assert_eq!(found, (403, "model_not_allowed".to_owned()), "{path}");
    }
    let by_get = by(world.get("/v1/streams?input=x"), LIMITED);
    assert_eq!(by_get.answer().await.status, 403);
    let mut socket = Socket::connect_by(world.address, "/v1/ws", LIMITED).await;
    socket.create("tokens=1", json!({})).await;
    let refused = socket.until_type("error").await;
    let refused = refused.last().unwrap();
    assert_eq!(refused["status"], 403, "{refused}");
    assert_eq!(world.simulator.stats().chat_completions, asked);
    // Usage: an owner sees its own, an operator all.
    crate::support::eventually("the usage", async || {
        let usage = by(world.get("/v1/usage"), ALICE).answer().await.json();
        usage["data"].as_array().is_some_and(|rows| rows.len() == 1)
    })
    .await;
    let owners = async |key: &str| {
        let usage = by(world.get("/v1/usage"), key).answer().await.json();
        let rows = usage["data"].as_array().unwrap().clone();
        rows.iter()
            .map(|row| row["owner"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(owners(BOB).await, [] as [Value; 0]);
    assert_eq!(owners(OPERATOR).await, [json!("alice")]);
}

#[tokio::test]
async fn shared_answers_and_webhooks_stay_with_their_owner() {
    let world = start(|config| {
        keys(config);
        config.reuse.coalesce = true;
        config.reuse.cache = true;
        config.webhooks.secret = Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned().into());
        config.webhooks.allow_private = true;
    });
    let body = with(response("tokens=2"), json!({"temperature": 0}));
    let ask = async |key: &str| {
        let answer = by(world.post("/v1/responses", &body), key).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        world.simulator.stats().chat_completions
    };
    let first = ask(ALICE).await;
    assert_eq!(ask(ALICE).await, first, "her own answer is shared");
    assert_eq!(ask(BOB).await, first + 1, "another owner's is not");
    let hook =
        json!({"stream": false, "background": true, "webhook": {"url": "http://127.0.0.1:1/"}});
    let body = with(response("tokens=1"), hook);
    let answer = by(world.post("/v1/responses", &body), ALICE).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let listed = async |key: &str| {
        let list = by(world.get("/v1/webhooks/deliveries"), key);
        let list = list.answer().await.json();
        list["data"].as_array().unwrap().clone()
    };
    crate::support::eventually("the delivery", async || !listed(ALICE).await.is_empty()).await;
    assert_eq!(listed(BOB).await, [] as [Value; 0]);
    let id = listed(ALICE).await[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/webhooks/deliveries/{id}/retry");
    let retry = by(world.post(&path, &json!({})), BOB).answer().await;
    assert_eq!(retry.status, 404, "{}", retry.text());
}

#[tokio::test]
async fn idempotency_keys_of_two_owners_start_two_answers() {
    let world = start(keys);
    let mut ids = Vec::new();
    for key in [ALICE, BOB, ALICE] {
        let post = by(world.post("/v1/responses", &response("tokens=1")), key);
        let answer = post.header("idempotency-key", "the-same").answer().await;
        ids.push(answer.id().to_owned());
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[0], ids[2]);
}

#[tokio::test]
async fn every_header_of_a_key_is_accepted_under_any_host() {
    let world = start(keys);
    for (name, value) in [
        ("authorization", format!("Bearer {ALICE}")),
        ("authorization", format!("bearer {ALICE}")),
        ("x-api-key", ALICE.to_owned()),
        ("api-key", ALICE.to_owned()),
    ] {
        for host in ["localhost", "gateway.example.com"] {
            let request = world.get("/v1/models").header(name, &value);
            let answer = request.header("host", host).answer().await;
            assert_eq!(answer.status, 200, "{name} {host}: {}", answer.text());
        }
    }
    // Without a key the host rule holds.
    for path in ["/v1/models", "/"] {
        let answer = world
            .get(path)
            .header("host", "evil.example")
            .answer()
            .await;
        assert_eq!(code(&answer), "host_not_allowed", "{path}");
    }
}

#[tokio::test]
async fn open_paths_need_no_key_and_operations_need_an_operator() {
    let world = start(keys);
    for path in [
        "/",
        "/tokenwire.js",
        "/page/page.js",
        "/docs",
        "/openapi.json",
        "/healthz",
        "/readyz",
    ] {
        for key in [None, Some("sk-tw-wrong")] {
            let mut request = world.get(path);
            if let Some(key) = key {
                request = by(request, key);
            }
            assert_eq!(request.answer().await.status, 200, "{path}");
        }
    }
    // From this machine, without a sign of a proxy.
    assert_eq!(world.get("/metrics").answer().await.status, 200);
    assert!(world.get("/readyz").answer().await.json()["upstreams"].is_array());
    // Through a proxy.
    let through = |path: &str| world.get(path).header("x-forwarded-for", "203.0.113.7");
    for (key, status) in [(None, 401), (Some(ALICE), 403), (Some(OPERATOR), 200)] {
        let request = through("/metrics");
        let request = match key {
            Some(key) => by(request, key),
            None => request,
        };
        assert_eq!(request.answer().await.status, status, "{key:?}");
    }
    assert!(through("/readyz").answer().await.json()["upstreams"].is_null());
    assert!(by(through("/readyz"), ALICE).answer().await.json()["upstreams"].is_null());
    let shown = by(through("/readyz"), OPERATOR).answer().await;
    assert!(shown.json()["upstreams"].is_array());
}

#[tokio::test]
async fn a_key_uses_its_models_and_upstreams_only() {
    let world = start(|config| {
        keys(config);
        config.auth.keys.push(KeyEntry {
            upstreams: vec!["other".to_owned()],
            ..entry("alice", "sk-tw-other-other-other-other")
        });
        let models =
            json!({"simulator": "simulator", "gpt-small": "simulator", "elsewhere": "simulator"});
        config.upstreams[0].models = serde_json::from_value(models).unwrap();
        config.upstreams.push(Upstream {
            name: "other".to_owned(),
            base_url: "http://127.0.0.1:1/v1".to_owned(),
            models: serde_json::from_value(json!(["elsewhere"])).unwrap(),
            ..Upstream::default()
        });
    });
    let ask = async |key: &str, model: &str| {
        let body = with(chat("tokens=1"), json!({"model": model}));
        by(world.post("/v1/chat/completions", &body), key)
            .answer()
            .await
    };
    assert_eq!(ask(LIMITED, "gpt-small").await.status, 200);
    let other = "sk-tw-other-other-other-other";
    for (key, model) in [
        (LIMITED, "simulator"),
        (LIMITED, "unknown"),
        (other, "simulator"),
    ] {
        let answer = ask(key, model).await;
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (403, "model_not_allowed"),
            "{model}"
        );
        assert_eq!(answer.json()["error"]["type"], "permission_error");
        assert_eq!(answer.json()["error"]["param"], "model");
    }
    assert_eq!(ask(ALICE, "unknown").await.status, 404);
    // Another upstream serves the model, and would answer.
    let asked = world.simulator.stats().requests;
    let answer = ask(other, "elsewhere").await;
    assert_eq!(
        (answer.status, code(&answer).as_str()),
        (502, "upstream_unreachable")
    );
    assert_eq!(world.simulator.stats().requests, asked);
    assert_eq!(ask(ALICE, "elsewhere").await.status, 200);
    let names = async |key: &str| {
        let list = by(world.get("/v1/models"), key).answer().await.json();
        let names = list["data"].as_array().unwrap().iter();
        names
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(LIMITED).await, ["gpt-small"]);
    assert_eq!(names(other).await, ["elsewhere"]);
    assert_eq!(
        by(world.get("/v1/models/simulator"), LIMITED)
            .answer()
            .await
            .status,
        404
    );
    // The default model is one like any other.
    let body = json!({"input": "[[tokens=1]]"});
    let answer = by(world.post("/v1/streams", &body), LIMITED).answer().await;
    assert_eq!(answer.status, 403, "{}", answer.text());
}

#[tokio::test]
async fn the_gateways_key_goes_to_no_upstream() {
    let world = start(|config| {
        keys(config);
        config.upstreams[0].accept_client_key = true;
        let names = [
            "x-api-key",
            "api-key",
            "traceparent",
            "x-upstream-authorization",
        ];
        config.forward_headers.0 = names.map(str::to_owned).to_vec();
    });
    let post = || world.post("/v1/chat/completions", &chat("tokens=1"));
    for (name, value) in [
        ("authorization", format!("Bearer {ALICE}")),
        ("x-api-key", ALICE.to_owned()),
        ("api-key", ALICE.to_owned()),
    ] {
        let sent = post().header(name, &value).header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        );
        assert_eq!(sent.answer().await.status, 200);
        let seen = format!("{:?}", world.last_request());
        assert!(!seen.contains(ALICE), "{name}: {seen}");
        assert!(!seen.contains("authorization"), "{name}: {seen}");
        assert!(seen.contains("traceparent"), "{seen}");
    }
}

#[tokio::test]
async fn a_clients_own_upstream_key_comes_in_a_header_of_its_own() {
    const OWN: &str = "sk-own-upstream-key";
    let simulator = Simulator::start(Options {
        required_key: Some(OWN.to_owned()),
        ..Options::default()
    })
    .unwrap();
    let gateway = over(&simulator.base_url(), Api::Chat, |config| {
        keys(config);
        config.upstreams[0].accept_client_key = true;
    });
    let post = || {
        by(
            gateway.post("/v1/chat/completions", &chat("tokens=1")),
            ALICE,
        )
    };
    let own = format!("Bearer {OWN}");
    let answer = post()
        .header("x-upstream-authorization", &own)
        .answer()
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = post().answer().await;
    assert_eq!(answer.status, 502, "{}", answer.text());
}

#[tokio::test]
async fn a_credential_is_ignored_where_no_keys_are_configured() {
    let world = start(|_| {});
    let request = by(world.get("/v1/models"), "sk-anything").header("x-api-key", "another");
    assert_eq!(request.answer().await.status, 200);
}

// === changes of the file ===

fn keys_path(folder: &Path) -> PathBuf {
    folder.join("keys.yaml")
}

/// Starts a gateway with this file of keys, which has Alice's and Bob's.
fn with_file(folder: &Path) -> (World, KeysFile) {
    let file = KeysFile::at(keys_path(folder));
    file.change(|keys| {
        keys.extend([
            entry("alice", ALICE),
            entry("alice", LIMITED),
            entry("bob", BOB),
        ]);
        Ok(())
    })
    .unwrap();
    let path = file.path().display().to_string();
    let world = start(|config| config.auth.keys_file = Some(path));
    (world, file)
}

async fn is_valid(world: &World, key: &str) -> bool {
    by(world.get("/v1/models"), key).answer().await.status == 200
}

#[tokio::test]
async fn keys_are_added_without_a_restart_and_a_broken_file_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (world, file) = with_file(folder.path());
    assert!(is_valid(&world, ALICE).await);
    assert!(!is_valid(&world, OPERATOR).await);
    file.change(|keys| {
        keys.push(entry("ops", OPERATOR));
        Ok(())
    })
    .unwrap();
    crate::support::eventually("the new key", async || is_valid(&world, OPERATOR).await).await;
    std::fs::write(file.path(), "keys: [").unwrap();
    std::fs::remove_file(file.path()).unwrap();
    assert!(is_valid(&world, ALICE).await);
    file.change(|keys| {
        keys.push(entry("alice", ALICE));
        Ok(())
    })
    .unwrap();
    crate::support::eventually("the loss of the others", async || {
        !is_valid(&world, BOB).await
    })
    .await;
    assert!(is_valid(&world, ALICE).await);
}

#[tokio::test]
async fn revocation_cancels_what_the_key_runs_and_cuts_what_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (world, file) = with_file(folder.path());
    let endless = "tokens=100000 tbt=20ms";
    // Alice's first key runs one, and reads one that her second key runs.
    let mut own = by(world.post("/v1/streams", &response(endless)), ALICE)
        .send()
        .await;
    let mut others = by(world.post("/v1/streams", &response(endless)), LIMITED)
        .send()
        .await;
    let mut bobs = by(world.post("/v1/streams", &response(endless)), BOB)
        .send()
        .await;
    let id = others.id().await;
    let mut reader = by(world.get(&format!("/v1/streams/{id}")), ALICE)
        .send()
        .await;
    let mut socket = Socket::connect_by(world.address, "/v1/ws", ALICE).await;
    for exchange in [&mut own, &mut others, &mut bobs, &mut reader] {
        exchange.until("output_text.delta").await;
    }
    let since = std::time::Instant::now();
    file.change(|keys| {
        keys.remove(0);
        Ok(())
    })
    .unwrap();
    own.until("response.incomplete").await;
    assert!(own.text().contains("cancelled"), "{}", own.text());
    while reader.read().await {}
    assert_eq!(reader.end, End::Broken);
    assert_eq!(socket.close_code().await, 4401);
    assert!(since.elapsed() < std::time::Duration::from_secs(15));
    assert!(!is_valid(&world, ALICE).await);
    // Other keys go on, of the same owner too.
    let before = (others.body.len(), bobs.body.len());
    while others.body.len() == before.0 || bobs.body.len() == before.1 {
        assert!(others.read().await && bobs.read().await);
    }
    assert!(is_valid(&world, LIMITED).await && is_valid(&world, BOB).await);
}

#[tokio::test]
async fn a_socket_starts_nothing_once_its_key_has_expired() {
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let expires = humantime::format_rfc3339_seconds(soon).to_string();
    let world = start(|config| {
        keys(config);
        config.auth.keys[0].expires = Some(expires);
    });
    let mut socket = Socket::connect_by(world.address, "/v1/ws", ALICE).await;
    let create = json!({"type": "response.create", "input": "[[tokens=1]]", "generate": true});
    crate::support::eventually("the refusal of a create", async || {
        socket.send(create.clone()).await;
        loop {
            let event = socket.next().await;
            match event["type"].as_str() {
                Some("error") => {
                    assert_eq!(event["status"], 401, "{event}");
                    assert!(event.to_string().contains("has expired"), "{event}");
                    return true;
                }
                Some("response.completed") => return false,
                _ => {}
            }
        }
    })
    .await;
}

// === the key that is made at the start ===

#[tokio::test]
async fn a_key_is_made_where_others_reach_an_upstream_key() {
    let open = |config: &mut Config| {
        config.server.allowed_hosts = vec!["chat.example.com".to_owned()];
        config.upstreams[0].api_key = Some("sk-upstream".to_owned().into());
    };
    let world = start(open);
    assert_eq!(world.get("/v1/models").answer().await.status, 401);
    let world = start(|config| {
        open(config);
        config.auth.anonymous = true;
    });
    assert_eq!(world.get("/v1/models").answer().await.status, 200);
}

#[tokio::test]
async fn the_made_key_is_printed_once_on_standard_error_and_not_logged() {
    let simulator = Simulator::start(Options::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "server:\n  allowed_hosts: [chat.example.com]\nlog:\n  filter: trace\nstore:\n  kind: disk\n  path: {}\nupstreams:\n  \
         - name: one\n    base_url: {}\n    api_key: sk-upstream\n",
        folder.path().join("store").display(),
        simulator.base_url()
    );
    let mut keys = Vec::new();
    for _ in 0..2 {
        let gateway = crate::support::process::Process::start(&config, &[]);
        let kept = std::fs::read_to_string(folder.path().join("store/anonymous.key")).unwrap();
        let get = Request::new(gateway.address, "GET", "/v1/models");
        assert_eq!(by(get, &kept).answer().await.status, 200);
        gateway.terminate();
        let (_, output) = gateway.output();
        assert_eq!(output.matches(&kept).count(), 2, "{output}");
        assert!(output.contains(&format!("/#key={kept}")), "{output}");
        keys.push(kept);
    }
    assert_eq!(keys[0], keys[1]);
}
