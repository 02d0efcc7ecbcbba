//! Closed connections are detected in each phase.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod wire;

use serde_json::json;
use tokenwire_simulator::{Outcome, Simulator};
use tokio::io::AsyncWriteExt;
use wire::{Exchange, PATIENCE, chat, instant, post, question, with};

const CHAT: &str = "/v1/chat/completions";

/// How a peer closes the connection.
#[derive(Debug, Clone, Copy)]
enum Leaving {
    Close,
    HalfClose,
    Reset,
}

/// Closes the connection. Returns what must stay alive for this kind of close.
async fn leave(mut exchange: Exchange, how: Leaving) -> Option<Exchange> {
    match how {
        Leaving::Close => None,
        Leaving::HalfClose => {
            exchange.socket.shutdown().await.unwrap();
            Some(exchange)
        }
        Leaving::Reset => {
            exchange.socket.set_zero_linger().unwrap();
            None
        }
    }
}

async fn noticed(simulator: &Simulator, when: &str) {
    assert!(
        simulator
            .wait_until(
                |stats| stats.aborted == 1 && stats.open_streams == 0,
                PATIENCE
            )
            .await,
        "{when}: {:?}",
        simulator.stats()
    );
    assert_eq!(simulator.stats().completed, 0);
    assert_eq!(simulator.requests()[0].outcome, Outcome::Aborted);
    assert!(
        simulator
            .wait_until(|stats| stats.open_connections == 0, PATIENCE)
            .await
    );
}

#[tokio::test]
async fn close_is_detected_in_each_phase() {
    for how in [Leaving::Close, Leaving::HalfClose, Leaving::Reset] {
        for (phase, steering, stream, seen) in [
            ("before the head", "head=1h", true, None),
            ("before the head, stalled", "fault=stall_head", true, None),
            ("before the head of a whole answer", "ttft=1h", false, None),
            ("in the prefill", "ttft=1h", true, Some("\r\n\r\n")),
            (
                "between tokens",
                "tokens=9,text=count,tbt=1h",
                true,
                Some(" t0"),
            ),
            (
                "stalled after tokens",
                "tokens=9,text=count,fault=stall,after=2",
                true,
                Some(" t1"),
            ),
            (
                "in a paced stream",
                "tokens=1000000,text=count,tbt=1ms",
                true,
                Some(" t3"),
            ),
            (
                "after the end that hangs",
                "tokens=2,fault=hang",
                true,
                Some("finish_reason\":\"stop"),
            ),
        ] {
            let simulator = instant();
            let mut exchange = post(&simulator, CHAT, steering, &question(stream)).await;
            match seen {
                Some(text) => exchange.until(text).await,
                None => assert!(
                    simulator
                        .wait_until(|stats| stats.requests == 1, PATIENCE)
                        .await
                ),
            }
            let _held = leave(exchange, how).await;
            noticed(&simulator, &format!("{how:?} {phase}")).await;
        }
    }
}

#[tokio::test]
async fn close_of_a_stalled_reader_is_detected() {
    let simulator = instant();
    let exchange = post(&simulator, CHAT, "tokens=1000000000", &question(true)).await;
    assert!(
        simulator
            .wait_until(|stats| stats.tokens_sent > 10_000, PATIENCE)
            .await
    );
    drop(exchange);
    noticed(&simulator, "").await;
}

#[tokio::test]
async fn stalled_reader_holds_bounded_tokens() {
    let simulator = instant();
    let exchange = post(
        &simulator,
        CHAT,
        "tokens=1000000000,text=count",
        &question(true),
    )
    .await;
    assert!(
        simulator
            .wait_until(|stats| stats.tokens_sent > 1000, PATIENCE)
            .await
    );
    // Another stream of the same thread completes in the meantime.
    assert!(chat(&simulator, "tokens=100000").await.done());
    let stats = simulator.stats();
    assert_eq!((stats.open_streams, stats.completed), (1, 1));
    // The kernel's buffers and ours, in tokens of some 230 bytes.
    assert!(
        stats.tokens_sent < 100_000 + 100_000,
        "{}",
        stats.tokens_sent
    );
    drop(exchange);
    assert!(
        simulator
            .wait_until(|stats| stats.aborted == 1, PATIENCE)
            .await
    );
}

#[tokio::test]
async fn close_during_the_request_body_is_detected() {
    let simulator = instant();
    let mut socket = tokio::net::TcpStream::connect(simulator.addr())
        .await
        .unwrap();
    socket
        .write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    assert!(
        simulator
            .wait_until(|stats| stats.requests == 1, PATIENCE)
            .await
    );
    drop(socket);
    noticed(&simulator, "").await;
}

#[tokio::test]
async fn fully_read_answer_counts_as_completed() {
    let simulator = instant();
    chat(&simulator, "tokens=5").await;
    post(&simulator, CHAT, "tokens=5", &question(false))
        .await
        .answer()
        .await;
    post(&simulator, CHAT, "tokens=5", &json!({}))
        .await
        .answer()
        .await;
    assert!(
        simulator
            .wait_until(|stats| stats.completed == 3, PATIENCE)
            .await
    );
    let stats = simulator.stats();
    assert_eq!(
        (
            stats.requests,
            stats.aborted,
            stats.faulted,
            stats.rejected,
            stats.tokens_sent
        ),
        (3, 0, 0, 1, 10)
    );
    assert_eq!(
        (
            stats.open_streams,
            stats.max_open_streams,
            stats.chat_completions
        ),
        (0, 1, 3)
    );
}

#[tokio::test]
async fn stop_cuts_open_connections() {
    let simulator = instant();
    let mut exchange = post(
        &simulator,
        CHAT,
        "tokens=5,text=count,tbt=1h",
        &question(true),
    )
    .await;
    exchange.until(" t0").await;
    let address = simulator.addr();
    drop(simulator);
    assert!(!exchange.answer().await.ended);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn concurrent_streams_are_counted() {
    let simulator = instant();
    let mut exchanges = Vec::new();
    for _ in 0..50 {
        exchanges.push(
            post(
                &simulator,
                CHAT,
                "ttft=1h",
                &with(question(true), json!({})),
            )
            .await,
        );
    }
    assert!(
        simulator
            .wait_until(|stats| stats.open_streams == 50, PATIENCE)
            .await
    );
    exchanges.truncate(20);
    assert!(
        simulator
            .wait_until(
                |stats| stats.open_streams == 20 && stats.aborted == 30,
                PATIENCE
            )
            .await
    );
    drop(exchanges);
    assert!(
        simulator
            .wait_until(
                |stats| stats.aborted == 50 && stats.max_open_streams == 50,
                PATIENCE
            )
            .await
    );
    assert!(
        simulator
            .wait_until(
                |stats| stats.connections == 50 && stats.open_connections == 0,
                PATIENCE
            )
            .await
    );
}
