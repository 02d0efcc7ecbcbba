//! Requests that start or resume a stream and read it until its end or a cut.

use std::net::SocketAddr;

use futures::{SinkExt as _, StreamExt as _};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::patiently;
use super::reader::Reader;
use crate::support;
use crate::support::sse::parse;

/// Where the sequence number of an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/v1/streams`, responses dialect.
    EventSource,
    /// `/v1/streams?dialect=chat`.
    Chat,
    /// `/v1/responses` over SSE: the number is in the event only, and there is a `[DONE]`.
    Sdk,
    /// A WebSocket.
    Socket,
}

/// Where a connection was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Before the whole head had arrived, or before the whole request was sent.
    Head,
    /// After a whole event.
    BetweenEvents,
    /// Within an event.
    MidEvent,
    /// Within a character.
    MidCharacter,
    /// After the head of a WebSocket, which shows whole messages only.
    Socket,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The reader saw the end of the stream.
    Ended,
    /// The connection broke.
    Cut(Place),
    /// The gateway asked to retry: another request with this key is being started.
    ComeAgain,
}

/// Sends a request and reads its answer into `reader`.
pub(crate) async fn over_sse(
    request: RequestBuilder,
    shape: Shape,
    reader: &mut Reader,
) -> Outcome {
    let Ok(mut response) = patiently("the head", request.send()).await else {
        return Outcome::Cut(Place::Head);
    };
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NO_CONTENT => {
            assert!(shape != Shape::Sdk, "an SDK is sent [DONE], not 204");
            reader.ended = true;
            return Outcome::Ended;
        }
        StatusCode::SERVICE_UNAVAILABLE => return Outcome::ComeAgain,
        status => panic!("{status}: {:?}", response.text().await),
    }
    assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
    let location = response.headers()[LOCATION].to_str().unwrap();
    reader.know(location.strip_prefix("/v1/streams/").unwrap());
    events(&mut response, shape, reader).await
}

async fn events(response: &mut Response, shape: Shape, reader: &mut Reader) -> Outcome {
    let mut buffer = Vec::new();
    loop {
        match patiently("bytes", response.chunk()).await {
            Ok(Some(bytes)) => buffer.extend_from_slice(&bytes),
            Ok(None) => panic!(
                "the body ended cleanly before the stream did: {:?}",
                String::from_utf8_lossy(&buffer)
            ),
            Err(_) => return Outcome::Cut(place(&buffer)),
        }
        let Some(end) = buffer
            .windows(2)
            .rposition(|pair| pair == b"\n\n")
            .map(|at| at + 2)
        else {
            continue;
        };
        let whole: Vec<u8> = buffer.drain(..end).collect();
        for event in parse(std::str::from_utf8(&whole).unwrap()) {
            take(&event, shape, reader);
            if reader.ended {
                return Outcome::Ended;
            }
        }
    }
}

fn take(event: &support::Event, shape: Shape, reader: &mut Reader) {
    if shape == Shape::Sdk {
        assert_eq!(event.id, None);
        if event.data == "[DONE]" {
            reader.ended = true;
            return;
        }
        let json = event.json();
        assert_eq!(event.name.as_deref(), json["type"].as_str());
        return reader.event(&json);
    }
    let (id, number) = event
        .id
        .as_deref()
        .and_then(|id| id.split_once('.'))
        .unwrap_or_else(|| panic!("no id: {event:?}"));
    reader.know(id);
    let number = number.parse().unwrap();
    if shape == Shape::Chat {
        return reader.chunk(number, &event.data);
    }
    let json = event.json();
    assert_eq!(
        json["sequence_number"],
        json!(number),
        "the id has another number: {event:?}"
    );
    reader.event(&json);
}

fn place(rest: &[u8]) -> Place {
    match std::str::from_utf8(rest) {
        Ok("") => Place::BetweenEvents,
        Ok(_) => Place::MidEvent,
        Err(error) => {
            assert_eq!(error.error_len(), None, "invalid UTF-8");
            Place::MidCharacter
        }
    }
}

/// Opens a WebSocket, sends `message` and reads events into `reader`.
pub(crate) async fn over_socket(
    address: SocketAddr,
    path: &str,
    message: &Value,
    reader: &mut Reader,
) -> Outcome {
    let Ok((mut socket, _)) = patiently(
        "the upgrade",
        tokio_tungstenite::connect_async(format!("ws://{address}{path}")),
    )
    .await
    else {
        return Outcome::Cut(Place::Head);
    };
    if patiently(
        "room to send",
        socket.send(Message::text(message.to_string())),
    )
    .await
    .is_err()
    {
        return Outcome::Cut(Place::Head);
    }
    let from = message["starting_after"]
        .as_u64()
        .map_or(0, |after| after + 1);
    loop {
        let text = match patiently("a message", socket.next()).await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_))) => continue,
            Some(Ok(other)) => panic!("{other:?} instead of an event"),
            Some(Err(_)) | None => return Outcome::Cut(Place::Socket),
        };
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            json.get("stream_id"),
            message.get("stream_id"),
            "another lane: {json}"
        );
        match json["type"].as_str().unwrap() {
            "tokenwire:resumed" => {
                assert_eq!(
                    (&json["response_id"], &json["from"]),
                    (&message["response_id"], &json!(from))
                );
                if json["status"] == "completed" && json["head"].as_u64() == reader.last {
                    reader.ended = true;
                }
            }
            "error" if json["status"] == 503 => return Outcome::ComeAgain,
            "error" | "tokenwire:error" => panic!("{json}"),
            _ => reader.event(&json),
        }
        if reader.ended {
            return Outcome::Ended;
        }
    }
}
