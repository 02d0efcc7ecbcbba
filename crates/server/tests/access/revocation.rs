//! Revocation of tickets, owners and keys, on one node and on several.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::identities::{ALICE, BOB, OPERATOR, entry};
use crate::support::cluster_world::{ClusterWorld, ready};
use crate::support::websocket::RawSocket;
use crate::support::{Answer, End, Exchange, Request, Socket, World, eventually, response, start};
use serde_json::{Value, json};
use tokenwire::config::Config;
use tokenwire::config::auth::{KeyEntry, Role};

/// A stream that lasts longer than any test.
const ENDLESS: &str = "tokens=100000 text=count tbt=20ms";

/// The longest time until a revocation has taken effect, with the load of other tests.
const SOON: Duration = Duration::from_secs(10);

fn keys(config: &mut Config) {
    let operator = KeyEntry {
        role: Role::Operator,
        ..entry("ops", OPERATOR)
    };
    config.auth.keys = vec![entry("alice", ALICE), entry("bob", BOB), operator];
}

fn by(request: Request, key: &str) -> Request {
    request.header("authorization", &format!("Bearer {key}"))
}

fn get(address: SocketAddr, path: &str) -> Request {
    Request::new(address, "GET", path)
}

fn post(address: SocketAddr, path: &str, body: &Value) -> Request {
    Request::new(address, "POST", path)
        .header("content-type", "application/json")
        .body(body.to_string())
}

fn outcome(answer: &Answer) -> (u16, String) {
    let code = answer.json()["error"]["code"].as_str().map(str::to_owned);
    (answer.status, code.unwrap_or_default())
}

async fn ticket(address: SocketAddr, key: &str, body: Value) -> String {
    let answer = by(post(address, "/v1/tickets", &body), key).answer().await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    answer.json()["ticket"].as_str().unwrap().to_owned()
}

async fn revoke(address: SocketAddr, key: &str, body: Value) -> (u16, String) {
    let request = by(post(address, "/v1/tickets/revoke", &body), key);
    outcome(&request.answer().await)
}

fn done() -> (u16, String) {
    (200, String::new())
}

/// Starts an endless stream, and reads some of it.
async fn begin(address: SocketAddr, key: &str) -> Exchange {
    let mut stream = by(post(address, "/v1/streams", &response(ENDLESS)), key)
        .send()
        .await;
    stream.until("output_text.delta").await;
    stream
}

/// Opens a stream with a ticket, and reads some of it.
async fn read(address: SocketAddr, id: &str, ticket: &str) -> Exchange {
    let path = format!("/v1/streams/{id}?ticket={ticket}");
    let mut stream = get(address, &path).send().await;
    stream.until("output_text.delta").await;
    stream
}

async fn open(address: SocketAddr, ticket: &str) -> RawSocket {
    let protocols = format!("tokenwire.v1, tokenwire-ticket.{ticket}");
    let headers = [("sec-websocket-protocol", &*protocols)];
    let socket = RawSocket::connect(address, "/v1/ws", &headers).await;
    assert!(socket.head.contains(" 101 "), "{}", socket.head);
    socket
}

/// Reads until a stream breaks off.
async fn broken(stream: &mut Exchange) {
    while stream.read().await {}
    assert_eq!(stream.end, End::Broken);
}

/// Waits until more of a stream has come.
async fn goes_on(stream: &mut Exchange) {
    let before = stream.body.len();
    while stream.body.len() < before + 1000 {
        assert!(stream.read().await, "it has ended");
    }
}

/// Waits for a new second: tickets of the same one as a revocation of their owner are revoked too.
async fn next_second() {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.unwrap().as_secs()
    };
    let begun = now();
    eventually("the next second", async || now() > begun).await;
}

fn address(world: &World) -> SocketAddr {
    world.gateway.address
}

#[tokio::test]
async fn revoked_ticket_ends_what_it_has_open_and_nothing_else() {
    let world = start(keys);
    let at = address(&world);
    let mut alices = begin(at, ALICE).await;
    let id = alices.id().await;
    let reads = json!({"stream": id});
    let (one, other) = (
        ticket(at, ALICE, reads.clone()).await,
        ticket(at, ALICE, reads).await,
    );
    let (mut reader, mut again) = (read(at, &id, &one).await, read(at, &id, &one).await);
    let mut others = read(at, &id, &other).await;
    let starts = ticket(at, ALICE, json!({"may": ["start"]})).await;
    let path = format!("/v1/streams?ticket={starts}");
    let mut started = post(at, &path, &response(ENDLESS)).send().await;
    started.until("output_text.delta").await;
    let socket = ticket(at, ALICE, json!({})).await;
    let mut socket = (open(at, &socket).await, socket);
    for text in [&one, &starts, &socket.1] {
        assert_eq!(revoke(at, ALICE, json!({"ticket": text})).await, done());
    }
    broken(&mut reader).await;
    broken(&mut again).await;
    started.until("response.incomplete").await;
    assert!(started.text().contains("cancelled"), "{}", started.text());
    assert_eq!(socket.0.close_code().await, Some(4401));
    for path in [
        format!("/v1/streams/{id}?ticket={one}"),
        format!("/v1/streams?input=x&ticket={starts}"),
    ] {
        let answer = get(at, &path).answer().await;
        assert_eq!(outcome(&answer), (401, "invalid_ticket".to_owned()));
        assert!(answer.text().contains("revoked"), "{}", answer.text());
    }
    goes_on(&mut alices).await;
    goes_on(&mut others).await;
    // A socket that a ticket prolonged ends with that one.
    let (first, second) = (
        ticket(at, ALICE, json!({})).await,
        ticket(at, ALICE, json!({"may": ["read", "start"]})).await,
    );
    let mut socket = open(at, &first).await;
    let message = json!({"type": "tokenwire:auth", "ticket": second}).to_string();
    let message = crate::support::websocket::frame(0x81, message.as_bytes());
    assert!(socket.send(&message).await);
    // Its answer shows that the messages before it are handled.
    let message = json!({"type": "response.create", "input": "[[tokens=1]]"}).to_string();
    let message = crate::support::websocket::frame(0x81, message.as_bytes());
    assert!(socket.send(&message).await);
    while socket.text().await["type"] != "response.completed" {}
    assert_eq!(revoke(at, ALICE, json!({"ticket": first})).await, done());
    assert_eq!(revoke(at, ALICE, json!({"ticket": second})).await, done());
    assert_eq!(socket.close_code().await, Some(4401));
}

#[tokio::test]
async fn owner_and_key_are_revoked_with_their_tickets() {
    let world = start(keys);
    let at = address(&world);
    let mut bobs = begin(at, BOB).await;
    let id = bobs.id().await;
    // An owner below alice: its ticket, and another one.
    let below = json!({"may": ["read"], "for": "app"});
    let (first, second) = (
        ticket(at, ALICE, below).await,
        ticket(at, ALICE, json!({})).await,
    );
    let (mut first, mut second) = (open(at, &first).await, open(at, &second).await);
    assert_eq!(
        revoke(at, ALICE, json!({"owner": "alice/app"})).await,
        done()
    );
    assert_eq!(first.close_code().await, Some(4401));
    next_second().await;
    let later = ticket(at, ALICE, json!({"for": "app"})).await;
    let mut later = open(at, &later).await;
    // All of alice's, by an operator.
    assert_eq!(
        revoke(at, OPERATOR, json!({"owner": "alice"})).await,
        done()
    );
    assert_eq!(second.close_code().await, Some(4401));
    assert_eq!(later.close_code().await, Some(4401));
    let answer = by(get(at, "/v1/models"), ALICE).answer().await;
    assert_eq!(outcome(&answer), (401, "invalid_api_key".to_owned()));
    // One key, by its id.
    let reads = ticket(at, BOB, json!({"stream": id})).await;
    let mut reader = read(at, &id, &reads).await;
    let mut socket = Socket::connect_by(at, "/v1/ws", BOB).await;
    let bob = tokenwire::key_hash::KeyHash::of(BOB).id();
    assert_eq!(revoke(at, OPERATOR, json!({"key": bob})).await, done());
    bobs.until("response.incomplete").await;
    while reader.read().await {}
    assert_eq!(socket.close_code().await, 4401);
    let answer = get(at, &format!("/v1/streams/{id}?ticket={reads}"));
    assert_eq!(answer.answer().await.status, 401);
}

#[tokio::test]
async fn only_operators_revoke_what_is_not_their_own() {
    let world = start(keys);
    let at = address(&world);
    let alices = ticket(at, ALICE, json!({})).await;
    let role = || (403, "role_required".to_owned());
    let alice = tokenwire::key_hash::KeyHash::of(ALICE).id();
    for body in [
        json!({"ticket": alices}),
        json!({"owner": "alice"}),
        json!({"owner": "alice/app"}),
        json!({"owner": "bob"}),
        json!({"owner": "bobby"}),
        json!({"key": alice}),
    ] {
        assert_eq!(revoke(at, BOB, body.clone()).await, role(), "{body}");
    }
    let unknown = revoke(at, OPERATOR, json!({"key": "0123456789ab"})).await;
    assert_eq!(unknown, (404, "not_found".to_owned()));
    let no_ticket = revoke(at, BOB, json!({"ticket": "tkt_x"})).await;
    assert_eq!(no_ticket, (401, "invalid_ticket".to_owned()));
    // A ticket revokes nothing, not itself either.
    let path = format!("/v1/tickets/revoke?ticket={alices}");
    let answer = post(at, &path, &json!({"ticket": alices})).answer().await;
    assert_eq!(outcome(&answer), (403, "ticket_not_allowed".to_owned()));
    open(at, &alices).await;
}

// === several nodes ===

const AUTH: &str = "auth:\n  keys:\n    - {owner: alice, key: sk-tw-alice-alice-alice-alice}\n    \
    - {owner: bob, key: sk-tw-bob-bob-bob-bob-bob-bob}\n    \
    - {owner: ops, key: sk-tw-operator-operator-oper, role: operator}\n";

#[tokio::test]
async fn revocation_reaches_open_connections_of_every_node_within_a_second() {
    let world = ClusterWorld::new();
    let (one, other) = (world.start_with(AUTH), world.start_with(AUTH));
    let mut alices = begin(one.address, ALICE).await;
    let id = alices.id().await;
    let reads = ticket(one.address, ALICE, json!({"stream": id})).await;
    let mut reader = read(other.address, &id, &reads).await;
    let socket = ticket(one.address, ALICE, json!({})).await;
    let mut socket = open(other.address, &socket).await;
    let mut bobs = begin(other.address, BOB).await;
    let since = Instant::now();
    let asked = revoke(one.address, ALICE, json!({"ticket": reads})).await;
    assert_eq!(asked, done());
    broken(&mut reader).await;
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    let path = format!("/v1/streams/{id}?ticket={reads}");
    for node in [&one, &other] {
        assert_eq!(get(node.address, &path).answer().await.status, 401);
    }
    goes_on(&mut alices).await;
    // A key, at the node that did not start its stream.
    let bob = tokenwire::key_hash::KeyHash::of(BOB).id();
    let since = Instant::now();
    let asked = revoke(one.address, OPERATOR, json!({"key": bob})).await;
    assert_eq!(asked, done());
    bobs.until("response.incomplete").await;
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    // An owner, with the key that a later node knows too.
    let since = Instant::now();
    let asked = revoke(one.address, OPERATOR, json!({"owner": "alice"})).await;
    assert_eq!(asked, done());
    assert_eq!(socket.close_code().await, Some(4401));
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    let later = world.start_with(AUTH);
    for node in [&one, &other, &later] {
        for key in [ALICE, BOB] {
            let answer = by(get(node.address, "/v1/models"), key).answer().await;
            assert_eq!(outcome(&answer), (401, "invalid_api_key".to_owned()));
        }
    }
}

#[tokio::test]
async fn node_that_does_not_reach_the_store_says_so_and_learns_of_it_later() {
    let mut world = ClusterWorld::new();
    let (one, other) = (world.start_with(AUTH), world.start_with(AUTH));
    let text = ticket(one.address, ALICE, json!({})).await;
    let mut socket = open(other.address, &text).await;
    assert_eq!(ready(&other).await["revocations"], Value::Null);
    world.redis.pause();
    eventually("the report", async || {
        ready(&other).await["revocations"] == "store unavailable"
    })
    .await;
    let refused = revoke(one.address, ALICE, json!({"ticket": text})).await;
    assert_eq!(refused, (503, "store_unavailable".to_owned()));
    world.redis.resume();
    eventually("the revocation", async || {
        revoke(one.address, ALICE, json!({"ticket": text})).await.0 == 200
    })
    .await;
    assert_eq!(socket.close_code().await, Some(4401));
    eventually("the end of the report", async || {
        ready(&other).await["revocations"].is_null()
    })
    .await;
    // A Redis that has lost everything learns it again from the nodes.
    world.redis.restart();
    eventually("the list", async || {
        let kept = world.redis.command(&["HLEN", "tw:revoked"]);
        kept.trim() == "2"
    })
    .await;
    for node in [&one, &other, &world.start_with(AUTH)] {
        let request = get(node.address, &format!("/v1/ws?ticket={text}"));
        assert_eq!(request.answer().await.status, 401);
    }
}
