//! The client of Redis against a real server, and against what is none.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::io::Write as _;
use std::time::{Duration, Instant};

use redis::cmd;
use tokenwire_store::redis::{RedisClient, RedisError, RedisOptions};
use tokenwire_testkit::RedisServer;

fn client(url: impl Into<String>) -> RedisClient {
    RedisClient::new(RedisOptions::new(url)).unwrap()
}

fn ping() -> redis::Cmd {
    cmd("PING")
}

/// Repeats a request while the client cannot reach its server.
async fn until_answered(client: &RedisClient) {
    loop {
        match client.query::<String>(ping()).await {
            Ok(answer) => return assert_eq!(answer, "PONG"),
            Err(error) => assert!(error.is_retryable(), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn server_says_its_version_and_policy() {
    let server = RedisServer::start_with(&[("maxmemory", "64mb")]);
    let client = client(server.url());
    let info = client.check().await.unwrap();
    assert!(info.keeps_everything(), "{info:?}");
    assert_eq!(info.max_memory, 64 << 20);
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let info = client.check().await.unwrap();
    assert!(!info.keeps_everything(), "{info:?}");
    assert_eq!(client.key("node:a"), "tw:node:a");
}

#[tokio::test]
async fn wrong_password_is_the_fault_of_the_credentials() {
    let server = RedisServer::start_with(&[("requirepass", "a-secret-word")]);
    assert!(client(server.url()).check().await.is_ok());
    for user in ["", ":wrong-word@", "unknown:wrong-word@"] {
        let url = format!("redis://{user}{}/", server.address());
        let error = client(url).check().await.unwrap_err();
        assert_eq!(error, RedisError::Credentials, "{user}");
        assert!(!error.is_retryable());
        assert!(!error.to_string().contains("word@"), "{error}");
    }
    let shown = format!("{:?}", client(server.url()));
    assert!(!shown.contains("a-secret-word"), "{shown}");
    let options = format!("{:?}", RedisOptions::new(server.url()));
    assert!(!options.contains("a-secret-word"), "{options}");
}

#[tokio::test]
async fn user_without_a_right_is_told_so() {
    let server = RedisServer::start();
    let added = server.command(&["ACL", "SETUSER", "reader", "on", ">pass", "~tw:*", "+get"]);
    assert_eq!(added, "OK");
    let client = client(format!("redis://reader:pass@{}/", server.address()));
    let read: Result<Option<String>, _> = client.query(cmd("GET").arg("tw:a").to_owned()).await;
    assert_eq!(read, Ok(None));
    let error = client.check().await.unwrap_err();
    assert!(matches!(error, RedisError::Forbidden(_)), "{error}");
}

#[test]
fn address_that_is_none_is_refused() {
    for url in ["", "localhost", "http://127.0.0.1/", "redis://"] {
        let error = RedisClient::new(RedisOptions::new(url)).err();
        assert_eq!(error, Some(RedisError::Address), "{url}");
    }
}

#[tokio::test]
async fn nothing_that_listens_is_unreachable_at_once() {
    let mut server = RedisServer::start();
    let client = client(server.url());
    server.kill();
    let start = Instant::now();
    for _ in 0..100 {
        let error = client.query::<String>(ping()).await.unwrap_err();
        assert!(matches!(error, RedisError::Unreachable(_)), "{error}");
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(client.failures(), 100);
    server.restart();
    until_answered(&client).await;
}

#[tokio::test]
async fn another_protocol_at_the_address_is_no_redis() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let _ = (&socket).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    assert!(client(url).check().await.is_err());
}

#[tokio::test]
async fn server_that_hangs_is_given_up_and_used_again() {
    let server = RedisServer::start();
    let client = client(server.url());
    until_answered(&client).await;
    server.pause();
    let requests = (0..50).map(|_| client.query::<String>(ping()));
    let start = Instant::now();
    for result in futures::future::join_all(requests).await {
        let error = result.unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
    // All wait for the same answer, and then for the same connection.
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
    server.resume();
    until_answered(&client).await;
}

#[tokio::test]
async fn server_that_restarts_is_found_again() {
    let mut server = RedisServer::start();
    let client = client(server.url());
    for _ in 0..3 {
        until_answered(&client).await;
        server.restart();
    }
    until_answered(&client).await;
}

#[tokio::test]
async fn full_server_is_told_from_one_that_is_away() {
    let server = RedisServer::start_with(&[("maxmemory", "1b")]);
    let client = client(server.url());
    let set = || cmd("SET").arg("tw:a").arg("b").to_owned();
    let error = client.query::<String>(set()).await.unwrap_err();
    assert_eq!(error, RedisError::Full);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(client.query::<String>(set()).await.unwrap(), "OK");
}

#[test]
fn client_works_from_every_runtime() {
    let server = RedisServer::start();
    let client = client(server.url());
    for _ in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(until_answered_once(&client));
    }
}

async fn until_answered_once(client: &RedisClient) {
    assert_eq!(client.query::<String>(ping()).await.unwrap(), "PONG");
}
