//! The requests of each route, and the ends of their answers.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::ValueEnum;
use memchr::memmem;
use thiserror::Error;

use crate::events::Dial;
use crate::tokens::TokenFinder;
use crate::websocket;

/// How a stream is requested and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Route {
    /// POST /v1/chat/completions, SSE
    Chat,
    /// POST /v1/responses, SSE
    Responses,
    /// POST /v1/streams, SSE as an EventSource reads it
    Streams,
    /// response.create on the WebSocket /v1/ws
    Ws,
    /// The same on lanes: --lanes streams side by side on each WebSocket
    Lanes,
}

/// What the simulator shall send. It is part of the prompt, since gateways may drop headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) tokens: u64,
    pub(crate) first_token: Duration,
    pub(crate) between_tokens: Duration,
    /// Whether the stream stays open without data after its first token.
    pub(crate) stall: bool,
}

/// Where requests go.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// The path before `/chat/completions`, `/v1` as a rule.
    pub(crate) prefix: String,
    pub(crate) route: Route,
    pub(crate) model: String,
    pub(crate) key: Option<String>,
}

/// What an event without a token says about the end of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    None,
    Complete,
    Failed(String),
}

#[derive(Debug, Error)]
#[error("the URL {url} cannot be used: {why}; expected something like http://127.0.0.1:8000/v1")]
pub(crate) struct UrlError {
    url: String,
    why: String,
}

// === impl Route ===

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Streams => "streams",
            Self::Ws => "ws",
            Self::Lanes => "lanes",
        })
    }
}

impl Route {
    /// Returns whether streams are read from a WebSocket.
    pub(crate) fn is_web_socket(self) -> bool {
        matches!(self, Self::Ws | Self::Lanes)
    }

    pub(crate) fn finder(self) -> TokenFinder {
        match self {
            Self::Chat => TokenFinder::chat(),
            Self::Responses | Self::Streams | Self::Ws | Self::Lanes => TokenFinder::responses(),
        }
    }

    /// Returns what an event without a token says about the end.
    pub(crate) fn ending(self, data: &[u8]) -> Ending {
        let failed = || Ending::Failed(String::from_utf8_lossy(data).chars().take(200).collect());
        match self {
            Self::Chat if data == b"[DONE]" => Ending::Complete,
            Self::Chat if data.starts_with(b"{\"error\"") => failed(),
            Self::Chat => Ending::None,
            _ if memmem::find(data, b"\"type\":\"response.completed\"").is_some() => {
                Ending::Complete
            }
            _ => {
                const FAILURES: [&[u8]; 4] = [
                    b"\"type\":\"response.failed\"",
                    b"\"type\":\"response.incomplete\"",
                    b"\"type\":\"error\"",
                    b"\"type\":\"tokenwire:error\"",
                ];
                if FAILURES
                    .iter()
                    .any(|failure| memmem::find(data, failure).is_some())
                {
                    failed()
                } else {
                    Ending::None
                }
            }
        }
    }
}

// === impl Spec ===

impl Spec {
    fn prompt(&self) -> String {
        let Self {
            tokens,
            first_token,
            between_tokens,
            stall,
        } = self;
        let stall = if *stall { " fault=stall after=1" } else { "" };
        format!(
            "[[tokens={tokens} ttft={}us tbt={}us text=count{stall}]]",
            first_token.as_micros(),
            between_tokens.as_micros()
        )
    }

    /// Returns the time from the request until token `index` is due.
    pub(crate) fn due(&self, index: u64) -> Duration {
        let between = u64::try_from(self.between_tokens.as_nanos()).unwrap_or(u64::MAX);
        self.first_token + Duration::from_nanos(between.saturating_mul(index))
    }
}

// === impl Endpoint ===

impl Endpoint {
    pub(crate) fn parse_url(url: &str, route: Route) -> Result<Self, UrlError> {
        let error = |why: &str| UrlError {
            url: url.to_owned(),
            why: why.to_owned(),
        };
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| error("it does not begin with http:// (put TLS in front)"))?;
        let (authority, path) = rest
            .split_once('/')
            .map_or((rest, String::new()), |(a, p)| (a, format!("/{p}")));
        let authority = if authority.contains(':') {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let address = authority
            .to_socket_addrs()
            .map_err(|cause| error(&cause.to_string()))?
            .next()
            .ok_or_else(|| error("the host has no address"))?;
        let prefix = path.trim_end_matches('/').to_owned();
        Ok(Self {
            address,
            prefix,
            route,
            model: "simulator".to_owned(),
            key: None,
        })
    }

    /// Returns a connection that requests a stream (SSE) or an upgrade to WebSocket.
    pub(crate) fn dial(&self, spec: &Spec, tag: usize) -> Dial {
        let first = if self.route.is_web_socket() {
            self.upgrade()
        } else {
            self.post(spec)
        };
        Dial {
            address: self.address,
            tag,
            first,
            receive_buffer: None,
        }
    }

    /// Returns the POST that requests a stream over SSE.
    pub(crate) fn post(&self, spec: &Spec) -> Vec<u8> {
        let (path, field) = match self.route {
            Route::Chat => ("chat/completions", "messages"),
            Route::Responses => ("responses", "input"),
            Route::Streams | Route::Ws | Route::Lanes => ("streams", "input"),
        };
        let prompt = spec.prompt();
        let content = match field {
            "messages" => format!("[{{\"role\":\"user\",\"content\":\"{prompt}\"}}]"),
            _ => format!("\"{prompt}\""),
        };
        let stream = match self.route {
            Route::Chat | Route::Responses => ",\"stream\":true",
            Route::Streams | Route::Ws | Route::Lanes => "",
        };
        let body = format!(
            "{{\"model\":\"{}\"{stream},\"{field}\":{content}}}",
            self.model
        );
        format!(
            "POST {}/{path} HTTP/1.1\r\nHost: {}\r\n{}Accept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.prefix,
            self.address,
            self.authorization(),
            body.len()
        )
        .into_bytes()
    }

    /// Returns the GET that requests an upgrade to WebSocket.
    pub(crate) fn upgrade(&self) -> Vec<u8> {
        self.upgrade_at(&format!("{}/ws", self.prefix))
    }

    /// Returns the same request for another path.
    pub(crate) fn upgrade_at(&self, path: &str) -> Vec<u8> {
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\n{}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
            self.address,
            self.authorization(),
            websocket::KEY
        )
        .into_bytes()
    }

    /// Returns the WebSocket message that requests a stream.
    pub(crate) fn create(&self, spec: &Spec) -> Vec<u8> {
        format!(
            "{{\"type\":\"response.create\",\"model\":\"{}\",\"input\":\"{}\"}}",
            self.model,
            spec.prompt()
        )
        .into_bytes()
    }

    /// Returns the WebSocket message that requests a stream on a lane. Its events carry the name of
    /// the lane; see [`lane_of`].
    pub(crate) fn create_on(&self, lane: usize, spec: &Spec) -> Vec<u8> {
        let mut message = self.create(spec);
        message.pop();
        message.extend_from_slice(format!(",\"stream_id\":\"{lane}\"}}").as_bytes());
        message
    }

    /// Returns the GET that attaches to a stream, from the start or after the event with this id.
    pub(crate) fn attach(&self, path: &str, last_event_id: Option<&str>) -> Vec<u8> {
        let last = last_event_id
            .map(|id| format!("Last-Event-ID: {id}\r\n"))
            .unwrap_or_default();
        format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\n{}{last}Accept: text/event-stream\r\n\r\n",
            self.address,
            self.authorization()
        )
        .into_bytes()
    }

    /// Returns the WebSocket message that attaches to a stream, from the start or after this
    /// number.
    pub(crate) fn resume(response_id: &str, after: Option<u64>) -> Vec<u8> {
        let after = after
            .map(|after| format!(",\"starting_after\":{after}"))
            .unwrap_or_default();
        format!("{{\"type\":\"tokenwire:resume\",\"response_id\":\"{response_id}\"{after}}}")
            .into_bytes()
    }

    fn authorization(&self) -> String {
        self.key
            .as_ref()
            .map(|key| format!("Authorization: Bearer {key}\r\n"))
            .unwrap_or_default()
    }
}

/// Returns the lane that an event names, as [`Endpoint::create_on`] named it.
pub(crate) fn lane_of(event: &[u8]) -> Option<usize> {
    const MEMBER: &[u8] = b"\"stream_id\":\"";
    let start = memmem::rfind(event, MEMBER)? + MEMBER.len();
    let name = event.get(start..)?;
    let end = name.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(name.get(..end)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_parsed_into_address_and_prefix() {
        let endpoint = Endpoint::parse_url("http://127.0.0.1:8000/v1/", Route::Chat).unwrap();
        assert_eq!(endpoint.address.to_string(), "127.0.0.1:8000");
        assert_eq!(endpoint.prefix, "/v1");
        assert_eq!(
            Endpoint::parse_url("http://127.0.0.1", Route::Chat)
                .unwrap()
                .address
                .port(),
            80
        );
        assert!(Endpoint::parse_url("https://127.0.0.1", Route::Chat).is_err());
    }

    #[test]
    fn body_is_json_with_the_spec_in_the_prompt() {
        let spec = Spec {
            tokens: 5,
            first_token: Duration::from_millis(1),
            between_tokens: Duration::from_micros(250),
            stall: true,
        };
        for route in [Route::Chat, Route::Responses, Route::Streams] {
            let endpoint = Endpoint::parse_url("http://127.0.0.1:1/v1", route).unwrap();
            let request = String::from_utf8(endpoint.post(&spec)).unwrap();
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            assert!(
                head.contains(format!("Content-Length: {}\r\n", body.len()).trim_end()),
                "{head}"
            );
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            let prompt = match route {
                Route::Chat => &json["messages"][0]["content"],
                _ => &json["input"],
            };
            assert_eq!(
                prompt,
                "[[tokens=5 ttft=1000us tbt=250us text=count fault=stall after=1]]"
            );
        }
    }

    #[test]
    fn ends_are_recognised_on_each_route() {
        assert_eq!(Route::Chat.ending(b"[DONE]"), Ending::Complete);
        assert!(matches!(
            Route::Chat.ending(br#"{"error":{"message":"x"}}"#),
            Ending::Failed(_)
        ));
        assert_eq!(Route::Chat.ending(br#"{"choices":[]}"#), Ending::None);
        assert_eq!(
            Route::Ws.ending(br#"{"type":"response.completed"}"#),
            Ending::Complete
        );
        assert!(matches!(
            Route::Ws.ending(br#"{"type":"response.failed"}"#),
            Ending::Failed(_)
        ));
        assert_eq!(
            Route::Streams.ending(br#"{"type":"response.in_progress"}"#),
            Ending::None
        );
    }
}
