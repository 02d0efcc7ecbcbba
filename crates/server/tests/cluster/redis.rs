//! Which Redis a node can use, and what it says of one that it cannot.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::support::cluster_world::{ClusterWorld, LONG, SECRET, begin, ready, settled};
use crate::support::process::Process;
use crate::support::{Request, eventually, get, post, response, with};
use serde_json::json;
use tempfile::TempDir;
use tokenwire_testkit::RedisServer;

/// Starts a server that says this of itself. Returns its URL.
fn answering(info: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = socket.read(&mut bytes) {
                    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                    for command in text.split('*').skip(1) {
                        let answer = if command.contains("INFO\r\n$") && !command.contains("CLIENT")
                        {
                            format!("${}\r\n{info}\r\n", info.len())
                        } else {
                            "+OK\r\n".to_owned()
                        };
                        socket.write_all(answer.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    format!("redis://{address}/")
}

#[tokio::test]
async fn redis_that_cannot_be_used_stops_the_start() {
    let world = ClusterWorld::new();
    let port = |redis: &RedisServer| redis.address().port();
    let guarded = RedisServer::start_with(&[("requirepass", "s3cret")]);
    let evicting = [("maxmemory", "64mb"), ("maxmemory-policy", "allkeys-lru")];
    let evicting = RedisServer::start_with(&evicting);
    for (url, reason) in [
        (
            format!("redis://:wrong@127.0.0.1:{}/", port(&guarded)),
            "refused the user or the password",
        ),
        (evicting.url(), "set it to noeviction"),
        (
            // Redis of Debian 10.
            answering("redis_version:5.0.14"),
            "has version 5.0.14, but 6.2 or newer is needed",
        ),
        (answering("no information"), "INFO names no version"),
    ] {
        let config = world.config(SECRET).replace(&world.redis.url(), &url);
        let said = Process::fail_on(0, &config);
        assert!(said.contains("cluster.url"), "{said}");
        assert!(said.contains(reason), "{said}");
        assert!(!said.contains("wrong"), "{said}");
    }
}

#[tokio::test]
async fn gateway_starts_without_redis_and_joins_when_it_comes() {
    let mut world = ClusterWorld::new();
    world.redis.kill();
    let node = world.start();
    let answer = post(&node, "/v1/responses", &response("tokens=2"));
    assert_eq!(answer.answer().await.status, 200);
    assert_eq!(ready(&node).await["cluster"]["redis"], "away");
    world.redis.restart();
    eventually("the node joins", async || {
        ready(&node).await["cluster"]["redis"] == "up"
    })
    .await;
    let other = world.start();
    let (_stream, id) = begin(&node, LONG).await;
    let answer = settled(&other, &format!("/v1/responses/{id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn joined(nodes: &[Process]) {
    for node in nodes {
        eventually("the node joins", async || {
            ready(node).await["cluster"]["redis"] == "up"
        })
        .await;
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let command = command.args(arguments.split(' ')).current_dir(folder);
    let output = command.output().expect("openssl can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Makes a certificate for 127.0.0.1 and the authority that signs it.
fn certificates(folder: &Path) {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        folder,
        &format!("req -x509 {KEY} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"),
    );
    openssl(
        folder,
        &format!("req {KEY} -keyout redis.key -out redis.csr -subj /CN=redis"),
    );
    openssl(
        folder,
        "x509 -req -in redis.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out redis.pem -days 2 -extfile names",
    );
}

#[tokio::test]
async fn redis_over_tls_is_used_and_its_certificate_is_checked() {
    let world = ClusterWorld::new();
    let folder = TempDir::new().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let authority = file("ca.pem");
    let redis = RedisServer::start_with(&[
        ("tls-cert-file", &file("redis.pem")),
        ("tls-key-file", &file("redis.key")),
        ("tls-ca-cert-file", &authority),
        ("tls-auth-clients", "no"),
    ]);
    let url = format!("rediss://{}/", redis.address());
    let config = world.config(SECRET).replace(&world.redis.url(), &url);
    let environment = [("SSL_CERT_FILE", authority.as_str())];
    let nodes = [(); 2].map(|()| Process::start(&config, &environment));
    joined(&nodes).await;
    let (_stream, id) = begin(&nodes[0], LONG).await;
    let answer = settled(&nodes[1], &format!("/v1/responses/{id}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Without the authority the certificate is one of a stranger.
    let said = Process::fail_on(0, &config);
    assert!(said.contains("cluster.url"), "{said}");
    assert!(said.contains("SSL_CERT_FILE"), "{said}");
}

#[tokio::test]
async fn redis_user_needs_rights_to_own_keys_only_and_lacking_ones_are_named() {
    let world = ClusterWorld::new();
    let user = |name: &str, rights: &[&str]| {
        let mut command = vec!["ACL", "SETUSER", name, "on", ">s3cret"];
        command.extend(rights);
        assert_eq!(world.redis.command(&command), "OK");
        let url = world.redis.url();
        let url = url.replace("redis://", &format!("redis://{name}:s3cret@"));
        world.config(SECRET).replace(&world.redis.url(), &url)
    };
    // As in deploy/README.md.
    let rights = ["~tw:*", "+@all", "-@admin", "-@dangerous", "+info"];
    let config = user("tokenwire", &rights);
    let nodes = [(); 2].map(|()| Process::start(&config, &[]));
    joined(&nodes).await;
    let body = with(
        response("tokens=3"),
        json!({"stream": false, "background": true}),
    );
    let keyed = post(&nodes[0], "/v1/responses", &body).header("idempotency-key", "order-3");
    let answer = keyed.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let path = format!("/v1/responses/{}", answer.id());
    eventually("the answer over the other node", async || {
        get(&nodes[1], &path).await.json()["status"] == "completed"
    })
    .await;
    let delete = Request::new(nodes[1].address, "DELETE", &path);
    assert_eq!(delete.answer().await.status, 200);
    let denied = world.redis.command(&["ACL", "LOG"]);
    assert_eq!(denied, "", "a command was refused");
    for (name, rights) in [
        ("reader", &["~tw:*", "+@read", "+@scripting", "+info"][..]),
        ("stranger", &["~other:*", "+@all"]),
        ("mute", &["~tw:*"]),
    ] {
        let said = Process::fail_on(0, &user(name, rights));
        assert!(said.contains("cluster.url"), "{said}");
        assert!(said.contains("lacks a right"), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}
