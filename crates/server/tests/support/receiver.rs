//! A webhook receiver: an HTTP server with scripted responses that records its requests.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::patiently;

/// A scripted response: the head, or no response at all.
#[derive(Clone)]
pub(crate) enum Answer {
    Head(String),
    Silence,
}

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    received: mpsc::UnboundedReceiver<Received>,
    task: tokio::task::JoinHandle<()>,
}

/// Returns a response with this status and these header lines.
pub(crate) fn status(status: u16, headers: &str) -> Answer {
    Answer::Head(format!(
        "HTTP/1.1 {status} Said\r\ncontent-length: 0\r\nconnection: close\r\n{headers}\r\n"
    ))
}

impl Receiver {
    /// Starts a receiver that gives these responses in order, then 200.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::unbounded_channel();
        let answers: Arc<Mutex<VecDeque<Answer>>> =
            Arc::new(Mutex::new(answers.into_iter().collect()));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, sender.clone(), answers.clone()));
            }
        });
        Self {
            address,
            received,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook?token=t0ken", self.address)
    }

    /// Waits for the next request.
    pub(crate) async fn next(&mut self) -> Received {
        patiently("a webhook", self.received.recv()).await.unwrap()
    }

    /// Waits for the next request without a timeout.
    #[allow(dead_code, reason = "each test uses its part of it")]
    pub(crate) async fn wait(&mut self) -> Received {
        self.received.recv().await.unwrap()
    }

    /// Returns the number of requests not yet taken with [`Receiver::next`].
    pub(crate) fn more(&mut self) -> usize {
        std::iter::from_fn(|| self.received.try_recv().ok()).count()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut socket: TcpStream,
    sender: mpsc::UnboundedSender<Received>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
) {
    let Some(received) = read(&mut socket).await else {
        return;
    };
    let answer = answers
        .lock()
        .unwrap()
        .pop_front()
        .unwrap_or_else(|| status(200, ""));
    let _ = sender.send(received);
    match answer {
        Answer::Head(head) => {
            let _ = socket.write_all(head.as_bytes()).await;
            let _ = socket.shutdown().await;
        }
        Answer::Silence => {
            // Until the other side closes.
            let _ = socket.read(&mut [0; 1]).await;
        }
    }
}

async fn read(socket: &mut TcpStream) -> Option<Received> {
    let mut raw = Vec::new();
    let end = loop {
        if let Some(at) = raw.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(&mut raw).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(raw[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .unwrap()
        .1
        .parse()
        .unwrap();
    while raw.len() < end + length {
        if socket.read_buf(&mut raw).await.ok()? == 0 {
            return None;
        }
    }
    Some(Received {
        path,
        headers,
        body: String::from_utf8(raw[end..].to_vec()).unwrap(),
    })
}

impl Received {
    pub(crate) fn header(&self, wanted: &str) -> &str {
        &self
            .headers
            .iter()
            .find(|(name, _)| name == wanted)
            .unwrap_or_else(|| panic!("no {wanted} in {:?}", self.headers))
            .1
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Whether the request was signed with this secret.
    pub(crate) fn is_signed_with(&self, secret: &str) -> bool {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let key = ring::hmac::Key::new(
            ring::hmac::HMAC_SHA256,
            &STANDARD
                .decode(secret.strip_prefix("whsec_").unwrap())
                .unwrap(),
        );
        let signed = format!(
            "{}.{}.{}",
            self.header("webhook-id"),
            self.header("webhook-timestamp"),
            self.body
        );
        let signature = STANDARD
            .decode(
                self.header("webhook-signature")
                    .strip_prefix("v1,")
                    .unwrap(),
            )
            .unwrap();
        ring::hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
    }

    /// Checks headers, signature and shape, and returns the event's type and response id.
    pub(crate) fn checked(&self, secret: &str) -> (String, String) {
        assert!(self.is_signed_with(secret), "the signature is wrong");
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let timestamp: u64 = self.header("webhook-timestamp").parse().unwrap();
        assert!(
            timestamp.abs_diff(now) < 60,
            "sent at {timestamp}, received at {now}"
        );
        assert_eq!(self.header("content-type"), "application/json");
        let body = self.json();
        assert_eq!(
            (body["object"].as_str(), body["id"].as_str()),
            (Some("event"), Some(self.header("webhook-id")))
        );
        assert!(body["created_at"].as_u64().unwrap() <= timestamp);
        (
            body["type"].as_str().unwrap().to_owned(),
            body["data"]["id"].as_str().unwrap().to_owned(),
        )
    }
}
