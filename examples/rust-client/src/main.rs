//! Reads one answer over a WebSocket and prints it as it arrives. When the connection breaks it
//! resumes with the number of the last event, so no token is lost or printed twice.
//!
//! `cargo run -p tokenwire-example-client -- "A question" [--cut-after N]`; the option drops the
//! connection after N deltas.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the answer goes to the terminal"
)]

use std::io::Write as _;
use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

type Error = Box<dyn std::error::Error>;

/// Most attempts in a row without an event in between.
const ATTEMPTS: u32 = 8;

/// The state that resuming needs.
struct Answer {
    question: String,
    id: Option<String>,
    last: Option<u64>,
    pieces: usize,
    cut_after: Option<usize>,
}

/// How a connection ended.
enum End {
    /// The answer is complete, or has failed.
    Done(Result<(), Error>),
    /// The connection broke.
    Cut,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let question = arguments
        .next()
        .unwrap_or_else(|| "Tell me something".to_owned());
    let cut_after = match arguments.next().as_deref() {
        Some("--cut-after") => Some(
            arguments
                .next()
                .ok_or("--cut-after needs a number")?
                .parse()?,
        ),
        Some(other) => {
            return Err(format!("unknown argument `{other}`; expected --cut-after N").into());
        }
        None => None,
    };
    let gateway =
        std::env::var("GATEWAY_URL").unwrap_or_else(|_| "http://localhost:3000".to_owned());
    let url = format!(
        "{}/v1/ws",
        gateway.trim_end_matches('/').replacen("http", "ws", 1)
    );
    read(
        &url,
        Answer {
            question,
            id: None,
            last: None,
            pieces: 0,
            cut_after,
        },
    )
    .await
}

/// Reads to the end, over several connections if needed.
async fn read(url: &str, mut answer: Answer) -> Result<(), Error> {
    let mut failures = 0;
    loop {
        let seen = answer.last;
        let why = match connect(url, &mut answer).await {
            Ok(End::Done(result)) => return result,
            Ok(End::Cut) => "the connection broke".to_owned(),
            Err(error) => error.to_string(),
        };
        failures = if answer.last == seen { failures + 1 } else { 1 };
        if failures > ATTEMPTS {
            return Err(format!("gave up after {ATTEMPTS} attempts: {why}").into());
        }
        eprintln!("\n({why}; resuming)");
        tokio::time::sleep(Duration::from_millis(100 << failures)).await;
    }
}

/// Opens one connection, and starts or resumes the answer.
async fn connect(url: &str, answer: &mut Answer) -> Result<End, Error> {
    let (mut socket, _) = connect_async(url).await?;
    let command = match &answer.id {
        None => json!({"type": "response.create", "input": answer.question}),
        Some(id) => {
            json!({"type": "tokenwire:resume", "response_id": id, "starting_after": answer.last})
        }
    };
    socket.send(Message::text(command.to_string())).await?;
    while let Some(message) = socket.next().await {
        // A broken connection is an error here; everything before it has been printed.
        let Ok(message) = message else {
            return Ok(End::Cut);
        };
        let Message::Text(text) = message else {
            continue;
        };
        if let Some(end) = answer.apply(&serde_json::from_str(&text)?) {
            return Ok(End::Done(end));
        }
        if answer.cut_after == Some(answer.pieces) {
            answer.cut_after = None;
            // Dropped without a close frame.
            return Ok(End::Cut);
        }
    }
    Ok(End::Cut)
}

impl Answer {
    /// Applies one event. Returns the result if it was the last.
    fn apply(&mut self, event: &Value) -> Option<Result<(), Error>> {
        let kind = event["type"].as_str().unwrap_or_default();
        if kind == "error" || kind == "tokenwire:error" {
            return Some(Err(event["error"]["message"]
                .as_str()
                .unwrap_or("the gateway refused")
                .into()));
        }
        let number = event["sequence_number"].as_u64();
        if kind != "tokenwire:reset" && number.is_some() && number <= self.last {
            return None;
        }
        self.last = number.or(self.last);
        if let Some(id) = event["response"]["id"].as_str() {
            self.id = Some(id.to_owned());
        }
        match kind {
            "response.output_text.delta" => {
                self.pieces += 1;
                print!("{}", event["delta"].as_str().unwrap_or_default());
                let _ = std::io::stdout().flush();
                None
            }
            // The events are no longer kept; the object holds the answer.
            "tokenwire:reset" => {
                println!("\n(from the beginning)\n{}", text(&event["response"]));
                ended(&event["response"])
            }
            _ => ended(&event["response"]),
        }
    }
}

/// Returns the result, once the response object has one.
fn ended(response: &Value) -> Option<Result<(), Error>> {
    match response["status"].as_str()? {
        "completed" | "incomplete" | "cancelled" => {
            println!();
            Some(Ok(()))
        }
        "failed" => Some(Err(response["error"]["message"]
            .as_str()
            .unwrap_or("the answer failed")
            .into())),
        _ => None,
    }
}

fn text(response: &Value) -> String {
    let items = response["output"].as_array().into_iter().flatten();
    items
        .flat_map(|item| item["content"].as_array().into_iter().flatten())
        .filter_map(|part| part["text"].as_str())
        .collect()
}
