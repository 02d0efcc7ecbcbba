//! Whether a gateway that runs can be used through what is in front of it.

use std::time::Instant;

use reqwest::{Client, RequestBuilder, header};
use serde_json::{Value, json};
use url::Url;

use super::report::Report;
use super::requests::{TIMEOUT, client, get_text, reason};

/// The answer must take this many milliseconds, or it is not told whether it was held back.
const MEASURABLE_MS: u128 = 300;
/// Pieces that come within this time came together.
const SAME_BURST_MS: u128 = 2;
/// Fewer events tell nothing of bursts.
const FEW_EVENTS: usize = 20;
/// As many events may come together where nothing is held back.
const EVENTS_OF_A_BURST: usize = 8;
/// The most of an answer that is looked at.
const MAX_TEXT: usize = 1 << 20;
/// What is asked. Its answer takes most models a second.
const QUESTION: &str = "Count from one to forty in words.";

/// Asks the gateway at this URL as clients do.
pub(super) async fn check(url: &str, key: Option<&str>, report: &mut Report) {
    const SUBJECT: &str = "url";
    let parsed = Url::parse(url).ok();
    let parsed = parsed.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(parsed) = parsed else {
        return report.fail(
            SUBJECT,
            "--url is no URL",
            "Give it as https://chat.example.com",
        );
    };
    let base = parsed.as_str().trim_end_matches('/');
    let client = match client() {
        Ok(client) => client,
        Err(error) => {
            return report.fail(SUBJECT, error, "Check the certificates of this machine.");
        }
    };
    match get_text(client.get(format!("{base}/healthz"))).await {
        Ok((200, body)) if body.contains("\"status\":\"ok\"") => {
            report.fine(SUBJECT, format!("{base} leads to a gateway"));
        }
        Ok((status, _)) => {
            return report.fail(
                SUBJECT,
                format!("{base}/healthz is answered with {status}, not by a gateway"),
                "Let the proxy pass all paths on, to server.host and server.port.",
            );
        }
        Err(why) => {
            return report.fail(
                SUBJECT,
                format!("{base} cannot be reached: {why}"),
                "Check the name, the port, the certificate and the firewall; is the proxy running?",
            );
        }
    }
    let asked = Asked { client, base, key };
    if asked.check_stream(report).await {
        asked.check_socket(report).await;
    }
}

struct Asked<'a> {
    client: Client,
    base: &'a str,
    key: Option<&'a str>,
}

/// How a stream arrived.
#[derive(Debug, Default)]
struct Arrivals {
    /// Milliseconds since the request, and the bytes that came then.
    pieces: Vec<(u128, usize)>,
    /// When it ended.
    total: u128,
    /// Events in it.
    events: usize,
}

// === impl Asked ===

impl Asked<'_> {
    fn with_key(&self, request: RequestBuilder) -> RequestBuilder {
        match self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Reads one stream. Returns whether the gateway serves this client.
    async fn check_stream(&self, report: &mut Report) -> bool {
        const SUBJECT: &str = "streams";
        let request = self.client.post(format!("{}/v1/streams", self.base));
        // As browsers ask: a proxy may compress only then.
        let request = self
            .with_key(request)
            .header(header::ACCEPT_ENCODING, "gzip, deflate, br")
            .header(header::CONTENT_TYPE, "application/json")
            .body(json!({"input": QUESTION, "max_output_tokens": 200, "store": false}).to_string());
        let began = Instant::now();
        let sent = request.timeout(TIMEOUT * 6).send().await;
        let mut response = match sent {
            Ok(response) => response,
            Err(error) => {
                report.fail(
                    SUBJECT,
                    format!("a stream cannot be started: {}", reason(&error)),
                    "Look at the logs of the proxy and of the gateway.",
                );
                return false;
            }
        };
        let status = response.status().as_u16();
        if status != 200 {
            let body = response.text().await.unwrap_or_default();
            refused(status, &body, self.key.is_some(), report);
            return false;
        }
        let encoding = response.headers().get(header::CONTENT_ENCODING).cloned();
        let mut arrivals = Arrivals::default();
        let mut text = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(bytes)) => {
                    let at = began.elapsed().as_millis();
                    arrivals.pieces.push((at, bytes.len()));
                    if text.len() < MAX_TEXT {
                        text.extend_from_slice(&bytes);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    report.fail(
                        SUBJECT,
                        format!("a stream broke off: {}", reason(&error)),
                        "Raise the timeouts of the proxy above streams.heartbeat (15 s).",
                    );
                    return true;
                }
            }
        }
        arrivals.total = began.elapsed().as_millis();
        let text = String::from_utf8_lossy(&text);
        arrivals.events = text.matches("\n\n").count();
        let encoding = encoding.filter(|encoding| encoding != "identity");
        if text.contains("response.failed") {
            report.fail(
                SUBJECT,
                "a stream arrives, but its answer failed",
                "`tokenwire doctor` without --url checks the upstreams.",
            );
        } else if let Some(encoding) = encoding {
            let encoding = String::from_utf8_lossy(encoding.as_bytes()).into_owned();
            report.fail(
                SUBJECT,
                format!("the proxy compresses streams ({encoding}), which holds tokens back"),
                "Turn compression off for text/event-stream (nginx: gzip off; Caddy: leave out encode).",
            );
        } else if arrivals.total < MEASURABLE_MS {
            report.warn(
                SUBJECT,
                "a stream arrives, but its answer was too fast to tell whether it is held back",
                "Try a larger model.",
            );
        } else if arrivals.are_held_back() {
            report.fail(
                SUBJECT,
                format!(
                    "the proxy buffers: {} events came in {} bursts over {} ms",
                    arrivals.events,
                    arrivals.bursts(),
                    arrivals.total
                ),
                "Turn buffering off (nginx: proxy_buffering off, proxy_http_version 1.1, no proxy_ignore_headers X-Accel-Buffering; Apache: flushpackets=on). deploy/ has files for nginx and Caddy.",
            );
        } else {
            report.fine(
                SUBJECT,
                format!(
                    "arrive piece by piece: the first after {} ms, the last after {} ms",
                    arrivals.first(),
                    arrivals.total
                ),
            );
        }
        true
    }

    /// Opens a WebSocket and leaves it.
    async fn check_socket(&self, report: &mut Report) {
        const SUBJECT: &str = "websocket";
        let request = self
            .with_key(self.client.get(format!("{}/v1/ws", self.base)))
            .version(reqwest::Version::HTTP_11)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        match request.timeout(TIMEOUT).send().await {
            Ok(response) if response.status() == 101 => {
                report.fine(SUBJECT, "upgrades pass");
            }
            Ok(response) => report.fail(
                SUBJECT,
                format!("an upgrade is answered with {}", response.status().as_u16()),
                "Pass the headers Upgrade and Connection on (nginx: proxy_http_version 1.1, proxy_set_header Upgrade $http_upgrade).",
            ),
            Err(error) => report.fail(
                SUBJECT,
                format!("an upgrade fails: {}", reason(&error)),
                "Let the proxy speak HTTP/1.1 to clients that upgrade.",
            ),
        }
    }
}

/// Says why the gateway does not start a stream.
fn refused(status: u16, body: &str, has_key: bool, report: &mut Report) {
    const SUBJECT: &str = "streams";
    let parsed: Value = serde_json::from_str(body).unwrap_or_default();
    let code = parsed["error"]["code"].as_str().unwrap_or("no code");
    let remedy = match (status, code) {
        (403, "host_not_allowed") => {
            "Set server.public_url to this URL, or add its host to server.allowed_hosts."
        }
        (401, _) if has_key => {
            "The key of --key is not valid here: `tokenwire key list` shows the keys."
        }
        (401, _) => "The gateway needs a key: add --key.",
        (413, _) => "Raise the largest body of the proxy (nginx: client_max_body_size).",
        (502..=504, "no code") => {
            "The proxy does not reach the gateway: check the address that it passes requests to."
        }
        _ => {
            "Look at the log of the gateway; `tokenwire doctor` without --url checks its upstreams."
        }
    };
    let found = format!("the gateway answers with {status} ({code})");
    report.fail(SUBJECT, found, remedy);
}

// === impl Arrivals ===

impl Arrivals {
    fn first(&self) -> u128 {
        self.pieces.first().map_or(self.total, |(at, _)| *at)
    }

    /// Returns how often something came, after a time without anything.
    fn bursts(&self) -> usize {
        let times = self.pieces.iter().map(|(at, _)| *at);
        let mut bursts = 0;
        let mut last = None;
        for at in times {
            if last.is_none_or(|last| at > last + SAME_BURST_MS) {
                bursts += 1;
            }
            last = Some(at);
        }
        bursts
    }

    /// Whether nearly all bytes came at the very end, or many events at a time. The gateway sends the
    /// first event at once, and then each token; a buffer of 4 KiB holds about 16.
    fn are_held_back(&self) -> bool {
        if self.events >= FEW_EVENTS && self.bursts() * EVENTS_OF_A_BURST < self.events {
            return true;
        }
        let all: usize = self.pieces.iter().map(|(_, bytes)| bytes).sum();
        let late = self.total * 8 / 10;
        let early = self.pieces.iter().filter(|(at, _)| *at < late);
        let early: usize = early.map(|(_, bytes)| bytes).sum();
        early * 10 < all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_that_comes_at_its_end_was_held_back() {
        let of = |pieces: &[(u128, usize)], total| Arrivals {
            pieces: pieces.to_vec(),
            total,
            events: 0,
        };
        assert!(of(&[(1000, 4000)], 1000).are_held_back());
        // The header of a compressed stream.
        assert!(of(&[(2, 10), (1000, 4000)], 1000).are_held_back());
        assert!(!of(&[(2, 500), (400, 900), (1000, 900)], 1000).are_held_back());
        let bursts: Vec<(u128, usize)> = (0..5).map(|burst| (burst * 200, 4096)).collect();
        let mut full_buffers = of(&bursts, 1000);
        full_buffers.events = 80;
        assert!(full_buffers.are_held_back());
        full_buffers.events = 30;
        assert!(!full_buffers.are_held_back());
        // A model that thinks before it answers.
        assert!(!of(&[(2, 500), (900, 1500), (1000, 500)], 1000).are_held_back());
    }
}
