//! Each fault on the wire.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod wire;

use serde_json::{Value, json};
use tokenwire_simulator::Outcome;
use wire::{PATIENCE, chat, instant, post, question, responses};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn fault_status_is_an_error_answer() {
    let simulator = instant();
    for (steering, status, code, retry_after) in [
        ("fault=status", 503, json!("overloaded"), None),
        (
            "fault=status,code=429,retry_after=2",
            429,
            json!("rate_limit_exceeded"),
            Some("2"),
        ),
        ("fault=status,code=500", 500, Value::Null, None),
        ("fault=status,code=404", 404, json!("model_not_found"), None),
    ] {
        for answer in [
            chat(&simulator, steering).await,
            responses(&simulator, steering).await,
        ] {
            assert_eq!(
                (answer.status, answer.header("retry-after")),
                (status, retry_after),
                "{steering}"
            );
            assert_eq!(answer.json()["error"]["code"], code);
            assert!(answer.json()["error"]["message"].is_string());
        }
    }
}

#[tokio::test]
async fn fault_refuse_closes_without_a_byte() {
    let simulator = instant();
    assert_eq!(
        post(&simulator, CHAT, "fault=refuse", &question(true))
            .await
            .raw()
            .await,
        b""
    );
    assert!(
        simulator
            .wait_until(|stats| stats.faulted == 1, PATIENCE)
            .await
    );
}

#[tokio::test]
async fn fault_with_times_applies_to_first_requests_of_an_id() {
    let simulator = instant();
    let mut seen = Vec::new();
    for id in ["a", "a", "a", "b"] {
        seen.push(
            chat(
                &simulator,
                &format!("fault=status,times=2,id={id},tokens=1"),
            )
            .await
            .status,
        );
    }
    assert_eq!(seen, [503, 503, 200, 503]);
}

#[tokio::test]
async fn faults_json_error_and_html_replace_the_answer() {
    let simulator = instant();
    let answer = chat(&simulator, "fault=json_error").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(answer.json()["error"]["type"], "server_error");
    let answer = chat(&simulator, "fault=html").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (502, Some("text/html"))
    );
    assert!(answer.text().contains("502 Bad Gateway"));
}

#[tokio::test]
async fn faults_cut_and_reset_break_off_after_a_token() {
    let simulator = instant();
    for after in [0, 1, 4, 100] {
        let expected: String = (0..after.min(10))
            .map(|index| format!(" t{index}"))
            .collect();
        let answer = chat(
            &simulator,
            &format!("tokens=10,text=count,fault=cut,after={after}"),
        )
        .await;
        assert_eq!((answer.status, answer.ended), (200, false), "{after}");
        assert_eq!(
            (answer.content(), answer.finish()),
            (expected, None),
            "{after}"
        );
    }
    let mut exchange = post(
        &simulator,
        CHAT,
        "tokens=10,text=count,fault=reset,after=2",
        &question(true),
    )
    .await;
    let mut buffer = [0; 4096];
    let error = loop {
        match tokio::time::timeout(
            PATIENCE,
            tokio::io::AsyncReadExt::read(&mut exchange.socket, &mut buffer),
        )
        .await
        .unwrap()
        {
            Ok(0) => panic!("the connection was closed in order"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(
        simulator
            .wait_until(|stats| stats.faulted == 5 && stats.aborted == 0, PATIENCE)
            .await
    );
}

#[tokio::test]
async fn paced_stream_is_cut_at_the_same_token() {
    let simulator = instant();
    let answer = chat(
        &simulator,
        "tokens=10,text=count,ttft=2ms,tbt=1ms,jitter=1ms,fault=cut,after=4",
    )
    .await;
    assert_eq!(
        (answer.content().as_str(), answer.ended),
        (" t0 t1 t2 t3", false)
    );
}

#[tokio::test]
async fn faults_end_and_error_end_the_body_without_a_finish() {
    let simulator = instant();
    let answer = chat(&simulator, "tokens=10,text=count,fault=end,after=2").await;
    assert_eq!(
        (
            answer.content().as_str(),
            answer.finish(),
            answer.ended,
            answer.done()
        ),
        (" t0 t1", None, true, false)
    );
    let answer = chat(&simulator, "tokens=10,text=count,fault=error,after=2").await;
    let events = answer.events();
    assert_eq!(events.last().unwrap()["error"]["type"], "server_error");
    assert_eq!(
        (wire::content(&events).as_str(), answer.ended, answer.done()),
        (" t0 t1", true, false)
    );
}

#[tokio::test]
async fn faults_no_done_and_hang_stop_after_the_finish() {
    let simulator = instant();
    let answer = chat(&simulator, "tokens=2,text=count,usage=on,fault=no_done").await;
    assert_eq!(
        (answer.finish().as_deref(), answer.ended, answer.done()),
        (Some("stop"), true, false)
    );
    assert_eq!(
        answer.events().last().unwrap()["usage"]["completion_tokens"],
        2
    );
    let mut exchange = post(
        &simulator,
        CHAT,
        "tokens=2,text=count,fault=hang",
        &question(true),
    )
    .await;
    exchange.until(r#""finish_reason":"stop""#).await;
    assert_eq!(simulator.stats().open_streams, 1);
    drop(exchange);
    assert!(
        simulator
            .wait_until(
                |stats| stats.aborted == 1 && stats.open_streams == 0,
                PATIENCE
            )
            .await
    );
}

#[tokio::test]
async fn fault_malformed_breaks_one_event() {
    let simulator = instant();
    let answer = chat(&simulator, "tokens=4,text=count,fault=malformed,after=2").await;
    let data = answer.data();
    let broken: Vec<usize> = (0..data.len() - 1)
        .filter(|index| serde_json::from_str::<Value>(&data[*index]).is_err())
        .collect();
    assert_eq!(
        broken,
        [3],
        "the third token, after the role and two tokens"
    );
    assert!(answer.done());
}

#[tokio::test]
async fn bad_utf8_spoils_one_event() {
    let simulator = instant();
    let answer = chat(&simulator, "tokens=4,text=count,fault=bad_utf8,after=2").await;
    let error = std::str::from_utf8(&answer.body).unwrap_err();
    assert!(
        std::str::from_utf8(&answer.body[..error.valid_up_to()])
            .unwrap()
            .contains(" t1")
    );
    let repaired = String::from_utf8_lossy(&answer.body);
    assert!(repaired.contains("\u{fffd}\u{fffd}( t2\"") && repaired.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn fault_oversize_sends_one_large_event() {
    let simulator = instant();
    for (steering, size) in [
        (
            "tokens=3,text=count,fault=oversize,size=1MiB,after=1",
            1024 * 1024,
        ),
        ("fault=oversize", 20 * 1024 * 1024),
    ] {
        let answer = chat(&simulator, steering).await;
        let data = answer.data();
        let largest = data.iter().map(String::len).max().unwrap();
        assert_eq!(
            (
                largest,
                data.iter().filter(|data| data.len() > 10_000).count()
            ),
            (size, 1),
            "{steering}"
        );
        assert!(answer.done() && answer.events().len() == data.len() - 1);
    }
}

#[tokio::test]
async fn framing_faults_keep_the_events() {
    let simulator = instant();
    let plain = chat(&simulator, "tokens=4,text=count,seed=1").await;
    for fault in ["crlf", "cr", "nospace", "bom", "comments", "multi"] {
        // The ids do not depend on the header, so the payloads are the same.
        let answer = chat(
            &simulator,
            &format!("tokens=4,text=count,seed=1,fault={fault}"),
        )
        .await;
        assert!(answer.ended, "{fault}");
        let text = answer.text();
        assert_ne!(text, plain.text(), "{fault}");
        let normal = match fault {
            "crlf" => {
                assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
                text.replace("\r\n", "\n")
            }
            "cr" => {
                assert!(!text.contains('\n'));
                text.replace('\r', "\n")
            }
            "nospace" => text.replace("data:", "data: "),
            "bom" => text.strip_prefix('\u{feff}').unwrap().to_owned(),
            "comments" => text.replace(": a comment of the simulator\n\n:\n\n\n", ""),
            _ => text
                .replace("\ndata: ", "")
                .replace("\n\n{", "\n\ndata: {")
                .replace("\n\n[", "\n\ndata: ["),
        };
        if fault == "multi" {
            let block = text.split("\n\n").next().unwrap();
            assert!(block.lines().count() > 5);
            let joined: String = block
                .lines()
                .map(|line| line.strip_prefix("data: ").unwrap().to_owned() + "\n")
                .collect();
            assert_eq!(
                serde_json::from_str::<Value>(&joined).unwrap(),
                plain.events()[0]
            );
        } else {
            assert_eq!(normal, plain.text(), "{fault}");
        }
    }
}

#[tokio::test]
async fn fault_gzip_flushes_each_event() {
    let simulator = instant();
    let plain = chat(&simulator, "tokens=4,text=count,seed=1").await;
    let answer = chat(&simulator, "tokens=4,text=count,seed=1,fault=gzip").await;
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(answer.gunzipped(), plain.body);
    // The first event can be read before the second is sent.
    let mut exchange = post(
        &simulator,
        CHAT,
        "tokens=4,text=count,seed=1,tbt=1h,fault=gzip",
        &question(true),
    )
    .await;
    exchange
        .until_answer(|answer| String::from_utf8_lossy(&answer.gunzipped()).contains(" t0\""))
        .await;
}

#[tokio::test]
async fn fault_split_sends_single_bytes() {
    let simulator = instant();
    let plain = chat(&simulator, "tokens=2,text=count,seed=1").await;
    let raw = post(
        &simulator,
        CHAT,
        "tokens=2,text=count,seed=1,fault=split",
        &question(true),
    )
    .await
    .raw()
    .await;
    let head = raw
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap()
        + 4;
    let (chunk, last) = ("1\r\nx\r\n".len(), "0\r\n\r\n".len());
    assert_eq!(
        raw.len() - head,
        plain.body.len() * chunk + last,
        "a chunk of its own for each byte"
    );
    assert_eq!(
        chat(&simulator, "tokens=2,text=count,seed=1,fault=split")
            .await
            .body,
        plain.body
    );
}

#[tokio::test]
async fn fault_stall_sends_nothing_after_its_tokens() {
    let simulator = instant();
    let mut exchange = post(
        &simulator,
        CHAT,
        "tokens=9,text=count,fault=stall,after=2",
        &question(true),
    )
    .await;
    exchange.until(" t1").await;
    assert!(
        simulator
            .wait_until(
                |stats| stats.tokens_sent == 2 && stats.open_streams == 1,
                PATIENCE
            )
            .await
    );
    drop(exchange);
    assert!(
        simulator
            .wait_until(|stats| stats.aborted == 1, PATIENCE)
            .await
    );
    let request = simulator.requests().remove(0);
    assert_eq!(
        (request.fault, request.outcome),
        (Some("stall"), Outcome::Aborted)
    );
}

#[tokio::test]
async fn unstreamed_answers_have_faults() {
    let simulator = instant();
    let ask = async |fault: &str| {
        post(
            &simulator,
            CHAT,
            &format!("tokens=3,text=count,seed=1,fault={fault}"),
            &question(false),
        )
        .await
        .answer()
        .await
    };
    let sound = ask("none").await;
    for fault in ["cut", "reset"] {
        let exchange = post(
            &simulator,
            CHAT,
            &format!("tokens=3,fault={fault}"),
            &question(false),
        )
        .await;
        assert!(!exchange.answer().await.ended, "{fault}");
    }
    let ended = ask("end").await;
    assert!(ended.ended && serde_json::from_slice::<Value>(&ended.body).is_err());
    assert!(serde_json::from_slice::<Value>(&ask("malformed").await.body).is_err());
    assert!(std::str::from_utf8(&ask("bad_utf8").await.body).is_err());
    assert_eq!(ask("oversize,size=100KiB").await.body.len(), 100 * 1024);
    assert_eq!(ask("gzip").await.gunzipped(), sound.body);
    assert_eq!(ask("split").await.body, sound.body);
    assert_eq!(ask("bom").await.body[3..], sound.body);
    let error = ask("error").await;
    assert_eq!(
        (error.status, error.json()["error"]["type"].as_str()),
        (500, Some("server_error"))
    );
}

#[tokio::test]
async fn responses_api_has_its_own_failure_events() {
    let simulator = instant();
    let answer = responses(&simulator, "tokens=5,text=count,fault=error,after=2").await;
    let events = answer.events();
    let kinds: Vec<&str> = events
        .iter()
        .rev()
        .take(3)
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["response.failed", "error", "response.output_text.delta"]
    );
    assert_eq!(events.last().unwrap()["response"]["status"], "failed");
    assert!(
        events
            .iter()
            .enumerate()
            .all(|(index, event)| event["sequence_number"] == index)
    );
    for (fault, ended) in [("cut", false), ("end", true)] {
        let answer = responses(
            &simulator,
            &format!("tokens=5,text=count,fault={fault},after=2"),
        )
        .await;
        let deltas = answer
            .events()
            .iter()
            .filter(|event| event["type"] == "response.output_text.delta")
            .count();
        assert_eq!(
            (
                deltas,
                answer.ended,
                answer.text().contains("response.completed")
            ),
            (2, ended, false),
            "{fault}"
        );
    }
    let malformed = responses(&simulator, "tokens=5,fault=malformed,after=2").await;
    assert_eq!(
        malformed
            .data()
            .iter()
            .filter(|data| serde_json::from_str::<Value>(data).is_err())
            .count(),
        1
    );
    let mut exchange = post(
        &simulator,
        "/v1/responses",
        "tokens=2,fault=hang",
        &json!({"model": "simulator", "input": "hi", "stream": true}),
    )
    .await;
    exchange.until("event: response.completed").await;
    assert!(
        simulator
            .wait_until(|stats| stats.open_streams == 1, PATIENCE)
            .await
    );
}
