//! `kill -9` and a start on the same disk: nothing that was stored is lost, and what ran ends once.

use std::path::Path;

use crate::support::process::Process;
use crate::support::receiver::{Receiver, status};
use crate::support::{
    DiskWorld, Request, eventually, get, post, reading_paths, response, stored, with,
};
use serde_json::{Value, json};

/// Reads a stream in every way.
async fn read_all(gateway: &Process, id: &str) -> Vec<(String, u16, String)> {
    let mut all = Vec::new();
    for path in reading_paths(id) {
        let answer = get(gateway, &path).await;
        all.push((path, answer.status, answer.text().to_owned()));
    }
    all
}

#[tokio::test]
async fn ended_streams_are_the_same_in_every_dialect_after_kill() {
    let world = DiskWorld::new();
    let gateway = world.start();
    let mut ids = Vec::new();
    for (path, body) in [
        ("/v1/responses", response("tokens=20 text=count")),
        ("/v1/streams", response("tokens=5 reasoning=4")),
        (
            "/v1/chat/completions",
            crate::support::chat("tokens=30 text=count"),
        ),
        ("/v1/responses", response("status=500")),
    ] {
        let answer = post(&gateway, path, &body).answer().await;
        if answer.header("location").is_some() {
            ids.push(answer.id().to_owned());
        }
    }
    assert!(ids.len() >= 3, "{ids:?}");
    stored(&gateway, ids.len()).await;
    let mut before = Vec::new();
    for id in &ids {
        before.push(read_all(&gateway, id).await);
    }
    let mut gateway = gateway;
    for _ in 0..3 {
        drop(gateway);
        gateway = world.start();
        for (id, before) in ids.iter().zip(&before) {
            assert_eq!(&read_all(&gateway, id).await, before);
        }
    }
}

#[tokio::test]
async fn running_stream_ends_above_all_that_its_readers_saw() {
    let world = DiskWorld::new();
    let gateway = world.start();
    let body = response("tokens=100 text=count fault=stall after=40");
    let mut stream = post(&gateway, "/v1/streams", &body).send().await;
    stream.until("\" t30\"").await;
    let seen = String::from_utf8_lossy(&stream.body).into_owned();
    let last = seen
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .next_back();
    let last = last.unwrap().to_owned();
    let (id, number) = last.split_once('.').unwrap();
    let number: u64 = number.parse().unwrap();
    // What it shows is stored a tick later. The header alone is smaller.
    let journal = async || {
        let answer = get(&gateway, "/metrics").await;
        let text = answer.text().to_owned();
        let written = text
            .lines()
            .find_map(|line| line.strip_prefix("tokenwire_store_written_bytes_total "));
        written.unwrap().parse::<u64>().unwrap() > 1200
    };
    eventually("the records on disk", journal).await;
    drop(gateway);
    let gateway = world.start();
    let answer = get(&gateway, &format!("/v1/responses/{id}")).await.json();
    assert_eq!(answer["status"], "failed");
    assert_eq!(answer["error"]["code"], "producer_lost");
    // Text is kept: the part that was stored.
    let text = answer["output"][0]["content"][0]["text"].as_str().unwrap();
    assert!(
        text.starts_with(" t0 t1 t2") || text.contains("t0"),
        "{text}"
    );
    let rest = Request::new(gateway.address, "GET", &format!("/v1/streams/{id}"))
        .header("last-event-id", &last)
        .answer()
        .await;
    let numbers: Vec<u64> = rest
        .text()
        .lines()
        .filter_map(|line| line.strip_prefix("id: "))
        .map(|event| event.split_once('.').unwrap().1.parse().unwrap())
        .collect();
    assert!(numbers.iter().all(|later| *later > number), "{numbers:?}");
    assert!(numbers.last().unwrap() >= &(1 << 24), "{numbers:?}");
    assert_eq!(rest.text().matches("\"response.failed\"").count(), 1);
    // A second crash changes nothing.
    let before = read_all(&gateway, id).await;
    drop(gateway);
    let gateway = world.start();
    assert_eq!(read_all(&gateway, id).await, before);
}

#[tokio::test]
async fn many_running_streams_end_before_the_next_process_is_ready() {
    let world = DiskWorld::new();
    let gateway = world.start();
    // More than a task may await in one go.
    let members = json!({"stream": false, "background": true});
    let body = with(
        response("tokens=100 text=count fault=stall after=4"),
        members,
    );
    let mut ids = Vec::new();
    for _ in 0..150 {
        let answer = post(&gateway, "/v1/responses", &body).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        ids.push(answer.id().to_owned());
    }
    drop(gateway);
    let gateway = world.start();
    for id in ids {
        let answer = get(&gateway, &format!("/v1/responses/{id}")).await.json();
        assert_eq!(answer["error"]["code"], "producer_lost");
    }
}

#[tokio::test]
async fn conversation_goes_on_after_kill() {
    let world = DiskWorld::new();
    let gateway = world.start();
    let first = with(response("tokens=3 text=count"), json!({"stream": false}));
    let first = post(&gateway, "/v1/responses", &first)
        .answer()
        .await
        .json();
    stored(&gateway, 1).await;
    drop(gateway);
    let gateway = world.start();
    let second = json!({"model": "simulator", "input": "and now? [[tokens=2]]", "previous_response_id": first["id"]});
    let second = post(&gateway, "/v1/responses", &second).answer().await;
    assert_eq!(second.status, 200, "{}", second.text());
    let sent = world.simulator.requests();
    let sent = sent.last().unwrap().body.as_ref().unwrap().to_string();
    assert!(sent.contains("t0") && sent.contains("and now?"), "{sent}");
}

#[tokio::test]
async fn idempotency_key_names_the_same_stream_after_kill() {
    let world = DiskWorld::new();
    let gateway = world.start();
    let body = response("tokens=5 text=count");
    let request = |gateway: &Process, body: &Value| {
        post(gateway, "/v1/streams", body).header("idempotency-key", "order-7")
    };
    let first = request(&gateway, &body).answer().await;
    stored(&gateway, 1).await;
    drop(gateway);
    let gateway = world.start();
    let again = request(&gateway, &body).answer().await;
    assert_eq!(
        (again.id().to_owned(), again.text()),
        (first.id().to_owned(), first.text())
    );
    let other = request(&gateway, &response("tokens=6")).answer().await;
    assert_eq!(other.status, 422, "{}", other.text());
    assert_eq!(other.json()["error"]["code"], "idempotency_mismatch");
    assert_eq!(world.simulator.stats().chat_completions, 1);
}

#[tokio::test]
async fn deleted_stream_stays_deleted_after_kill() {
    let world = DiskWorld::new();
    let gateway = world.start();
    let first = post(&gateway, "/v1/responses", &response("tokens=3"))
        .answer()
        .await;
    let id = first.id().to_owned();
    stored(&gateway, 1).await;
    let delete = Request::new(gateway.address, "DELETE", &format!("/v1/responses/{id}"));
    assert_eq!(delete.answer().await.status, 200);
    drop(gateway);
    for _ in 0..2 {
        let gateway = world.start();
        for path in [format!("/v1/responses/{id}"), format!("/v1/streams/{id}")] {
            assert_eq!(get(&gateway, &path).await.status, 404);
        }
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn text_of_unstored_responses_is_in_no_objects_file() {
    let world = DiskWorld::new();
    let gateway = world.start();
    for store in [true, false] {
        let words = if store { "keepthis" } else { "hidethis" };
        let members = json!({"store": store, "input": format!("{words} [[tokens=3]]")});
        let body = with(response("tokens=3"), members);
        assert_eq!(
            post(&gateway, "/v1/responses", &body).answer().await.status,
            200
        );
    }
    stored(&gateway, 2).await;
    drop(gateway);
    let has = |path: &Path, words: &str| {
        let bytes = std::fs::read(path).unwrap();
        bytes
            .windows(words.len())
            .any(|window| window == words.as_bytes())
    };
    let objects: Vec<_> = files(world.folder.path())
        .into_iter()
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("objects-")
        })
        .collect();
    assert!(objects.iter().any(|path| has(path, "keepthis")));
    assert!(!objects.iter().any(|path| has(path, "hidethis")));
}

#[tokio::test]
async fn object_outlives_its_events() {
    let world = DiskWorld::new();
    let gateway = world.start_with("streams:\n  retain_events: 1s\n");
    let body = response("tokens=20 text=count");
    let answer = post(&gateway, "/v1/responses", &body).answer().await;
    let id = answer.id().to_owned();
    stored(&gateway, 1).await;
    let object = get(&gateway, &format!("/v1/responses/{id}")).await;
    let is_gone = async || {
        let names = files(world.folder.path());
        !names.iter().any(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("logs-")
        })
    };
    eventually("the end of the events on disk", is_gone).await;
    drop(gateway);
    let gateway = world.start();
    let again = get(&gateway, &format!("/v1/responses/{id}")).await;
    assert_eq!((again.status, again.text()), (200, object.text()));
    let events = get(&gateway, &format!("/v1/responses/{id}?stream=true")).await;
    assert_eq!(events.json()["error"]["code"], "position_gone");
    let reset = get(&gateway, &format!("/v1/streams/{id}?after=3")).await;
    assert!(reset.text().contains("tokenwire:reset"), "{}", reset.text());
}

#[tokio::test]
async fn logs_that_memory_has_no_room_for_are_read_from_disk() {
    let world = DiskWorld::new();
    let gateway = world.start_with("streams:\n  max_memory: 64MiB\n");
    let body = response("tokens=20000 text=count");
    let mut all = Vec::new();
    for number in 0..40 {
        let body = with(
            body.clone(),
            json!({"metadata": {"number": number.to_string()}}),
        );
        let answer = post(&gateway, "/v1/streams", &body).answer().await;
        all.push((answer.id().to_owned(), answer.text().to_owned()));
    }
    stored(&gateway, all.len()).await;
    for (id, before) in &all {
        let again = get(&gateway, &format!("/v1/streams/{id}")).await;
        assert!(again.text() == *before, "{id} is read as it was written");
    }
}

#[tokio::test]
async fn path_that_cannot_be_used_is_an_error_of_the_start() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let config = folder.path().join("tokenwire.yaml");
    let text = format!("store:\n  kind: disk\n  path: {}\n", file.display());
    std::fs::write(&config, text).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tokenwire"))
        .args(["--port", "0", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message.contains("store.path") && message.contains("local disk"),
        "{message}"
    );
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Starts a background response with a webhook that has a secret of its own.
async fn job(gateway: &Process, steering: &str, receiver: &Receiver) -> String {
    let webhook = json!({"url": receiver.url(), "secret": SECRET});
    let members = json!({"stream": false, "background": true, "webhook": webhook});
    let body = with(response(steering), members);
    let answer = post(gateway, "/v1/responses", &body).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.id().to_owned()
}

const WEBHOOKS: &str = "webhooks:\n  allow_private: true\n";

/// Waits until the disk has what was noted so far. A further response reaches it later; `streams` are
/// kept then.
async fn noted(gateway: &Process, streams: usize) {
    let answer = post(gateway, "/v1/responses", &response("tokens=1"));
    assert_eq!(answer.answer().await.status, 200);
    stored(gateway, streams).await;
}

#[tokio::test]
async fn webhook_of_a_running_response_follows_after_kill() {
    let world = DiskWorld::new();
    let mut receiver = Receiver::start([]).await;
    let gateway = world.start_with(WEBHOOKS);
    let id = job(&gateway, "tokens=9 fault=stall after=3", &receiver).await;
    eventually("the start", async || {
        world.simulator.stats().chat_completions == 1
    })
    .await;
    assert_eq!(receiver.more(), 0);
    drop(gateway);
    let gateway = world.start_with(WEBHOOKS);
    let received = receiver.next().await;
    assert_eq!(received.checked(SECRET), ("response.failed".to_owned(), id));
    // It is owed no longer.
    let delivered = async || {
        let text = get(&gateway, "/metrics").await.text();
        text.contains("tokenwire_webhooks_delivered_total 1")
    };
    eventually("the delivery", delivered).await;
    drop(gateway);
    let gateway = world.start_with(WEBHOOKS);
    assert_eq!(get(&gateway, "/healthz").await.status, 200);
    let text = get(&gateway, "/metrics").await.text();
    assert!(text.contains("tokenwire_webhooks_pending 0"), "{text}");
}

#[tokio::test]
async fn webhook_of_a_killed_process_is_sent_by_one_that_runs() {
    let world = DiskWorld::new();
    let mut receiver = Receiver::start([]).await;
    let gateway = world.start_with(WEBHOOKS);
    let later = world.start_with(WEBHOOKS);
    let id = job(&gateway, "tokens=9 fault=stall after=3", &receiver).await;
    eventually("the start", async || {
        world.simulator.stats().chat_completions == 1
    })
    .await;
    drop(gateway);
    let received = receiver.next().await;
    assert_eq!(received.checked(SECRET), ("response.failed".to_owned(), id));
    let delivered = async || {
        let text = get(&later, "/metrics").await.text();
        text.contains("tokenwire_webhooks_delivered_total 1")
    };
    eventually("the delivery", delivered).await;
}

#[tokio::test]
async fn pending_webhook_has_the_same_id_after_kill() {
    let world = DiskWorld::new();
    let mut receiver = Receiver::start([status(500, "retry-after: 3600\r\n")]).await;
    let gateway = world.start_with(WEBHOOKS);
    let id = job(&gateway, "tokens=3", &receiver).await;
    let first = receiver.next().await;
    let failed = async || {
        let text = get(&gateway, "/metrics").await.text();
        text.contains("tokenwire_webhooks_failed_attempts_total 1")
    };
    eventually("the failure", failed).await;
    drop(gateway);
    let _gateway = world.start_with(WEBHOOKS);
    let second = receiver.next().await;
    assert_eq!(
        second.checked(SECRET),
        ("response.completed".to_owned(), id)
    );
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(first.body, second.body);
}

#[tokio::test]
async fn dead_letter_is_listed_and_retried_after_kill() {
    let world = DiskWorld::new();
    let mut receiver = Receiver::start([status(410, "")]).await;
    let gateway = world.start_with(WEBHOOKS);
    let id = job(&gateway, "tokens=3", &receiver).await;
    let first = receiver.next().await;
    let path = "/v1/webhooks/deliveries?status=failed";
    let failed = async || get(&gateway, path).await.text().contains(&id);
    eventually("the dead letter", failed).await;
    let before = get(&gateway, path).await.json();
    noted(&gateway, 2).await;
    drop(gateway);
    let gateway = world.start_with(WEBHOOKS);
    let after = get(&gateway, path).await.json();
    for member in ["id", "reason", "attempts", "response_id", "created_at"] {
        assert_eq!(before["data"][0][member], after["data"][0][member]);
    }
    assert_eq!(after["data"][0]["reason"], "gone");
    assert_eq!(receiver.more(), 0, "it is not sent again unasked");
    // The endpoint is still disabled.
    let other = job(&gateway, "tokens=3", &receiver).await;
    let refused = async || {
        let deliveries = get(&gateway, path).await.json();
        deliveries["data"][0]["response_id"] == other
            && deliveries["data"][0]["reason"] == "disabled"
    };
    eventually("the refused delivery", refused).await;
    assert_eq!(receiver.more(), 0, "a disabled endpoint was called");
    let delivery = after["data"][0]["id"].as_str().unwrap();
    let retry = format!("/v1/webhooks/deliveries/{delivery}/retry");
    let answer = post(&gateway, &retry, &json!({})).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let second = receiver.next().await;
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    let delivered = async || {
        let left = get(&gateway, path).await.json();
        left["data"].as_array().unwrap().len() == 1 && left["data"][0]["response_id"] == other
    };
    eventually("the delivery", delivered).await;
    noted(&gateway, 4).await;
    drop(gateway);
    let gateway = world.start_with(WEBHOOKS);
    let left = get(&gateway, path).await.json();
    assert_eq!(left["data"].as_array().unwrap().len(), 1);
    // The retry has enabled the endpoint for later processes as well.
    let third = job(&gateway, "tokens=3", &receiver).await;
    loop {
        let (_, response) = receiver.next().await.checked(SECRET);
        if response == third {
            break;
        }
        // The process was killed before it had noted that this one was delivered.
        assert_eq!(response, id);
    }
}

#[tokio::test]
async fn conversation_keeps_its_encrypted_reasoning_after_kill() {
    let world = DiskWorld::new();
    let start = || {
        let api = "    api: responses\n";
        world.start_with(api)
    };
    let gateway = start();
    let body = json!({"model": "simulator-reasoning", "input": "one"});
    let first = post(&gateway, "/v1/responses", &body).answer().await;
    assert_eq!(first.status, 200, "{}", first.text());
    let first = first.id().to_owned();
    stored(&gateway, 1).await;
    drop(gateway);
    let gateway = start();
    let body = with(body, json!({"input": "two", "previous_response_id": first}));
    let second = post(&gateway, "/v1/responses", &body).answer().await;
    assert_eq!(second.status, 200, "{}", second.text());
    let request = world.simulator.requests().pop().unwrap().body.unwrap();
    let items = request["input"].as_array().unwrap();
    let reasoning = items.iter().find(|item| item["type"] == "reasoning");
    let reasoning = reasoning.unwrap_or_else(|| panic!("no reasoning: {items:?}"));
    assert!(reasoning["encrypted_content"].is_string(), "{reasoning}");
}
