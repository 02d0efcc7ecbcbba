//! Compares the bytes on the wire with those of actix alone.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use actix_server::{Server, ServerHandle};
use actix_web::{App, HttpResponse, web};
use bytes::Bytes;
use futures::future::join_all;
use futures::{Stream, StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokenwire_connection::{ConnectionOptions, connections};
use tokenwire_core::model::gauge::Gauge;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A server in a thread of its own.
struct TestServer {
    address: SocketAddr,
    direct: Gauge,
    handle: ServerHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// One step of a client.
#[derive(Clone, Debug)]
enum Step {
    Send(String),
    /// Reads until this text was received since the last `Until`.
    Until(&'static str),
}

use Step::{Send, Until};

/// Three chunks with pauses, so that the body is pending and can leave actix.
fn paced() -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
    stream::iter(0..3).then(|number| async move {
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(Bytes::from(format!("event {number}\n")))
    })
}

/// Streams without reading the request's body.
async fn ignore() -> HttpResponse {
    HttpResponse::Ok().streaming(paced())
}

/// Reads the request's body, then streams.
async fn read(body: Bytes) -> HttpResponse {
    let first = stream::iter([Ok(Bytes::from(format!("body of {}\n", body.len())))]);
    HttpResponse::Ok().streaming(first.chain(paced()))
}

/// Streams the request's body back.
async fn echo(payload: web::Payload) -> HttpResponse {
    let first = stream::iter([Ok::<_, actix_web::Error>(Bytes::from_static(b"echo\n"))]);
    HttpResponse::Ok().streaming(first.chain(payload.map(|bytes| bytes.map_err(Into::into))))
}

/// Streams until the client disconnects.
async fn wait() -> HttpResponse {
    let first = stream::iter([Ok::<_, actix_web::Error>(Bytes::from_static(b"waiting\n"))]);
    HttpResponse::Ok().streaming(first.chain(stream::pending()))
}

/// Streams, and then fails.
async fn fail() -> HttpResponse {
    let failure = stream::iter([Err(actix_web::error::ErrorBadGateway("broke off"))]);
    HttpResponse::Ok().streaming(paced().chain(failure))
}

/// Responds without a stream.
async fn hello() -> &'static str {
    "hello"
}

impl TestServer {
    fn start(direct_writes: bool) -> Self {
        Self::with(
            direct_writes,
            Duration::from_secs(10),
            Duration::from_secs(75),
        )
    }

    fn with(direct_writes: bool, head_timeout: Duration, keep_alive: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let direct = Gauge::default();
        let counted = direct.clone();
        let (started, starts) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let builder = Server::build().workers(1).disable_signals();
                let options = ConnectionOptions {
                    direct: counted,
                    direct_writes,
                    head_timeout,
                    keep_alive,
                    ..ConnectionOptions::new(builder.graceful_shutdown_signal())
                };
                let application = move || {
                    let app = App::new()
                        .route("/ignore", web::to(ignore))
                        .route("/read", web::to(read))
                        .route("/echo", web::to(echo))
                        .route("/hello", web::to(hello))
                        .route("/fail", web::to(fail))
                        .route("/wait", web::to(wait));
                    connections(app, &options)
                };
                let server = builder.listen("http", listener, application).unwrap().run();
                started.send(server.handle()).unwrap();
                server.await.unwrap();
            });
        });
        Self {
            address,
            direct,
            handle: starts.recv().unwrap(),
            thread: Some(thread),
        }
    }

    /// Waits until so many streams are written directly.
    async fn direct_streams(&self, count: usize) {
        let wait = async {
            while self.direct.count() != count {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
        waited.expect("the number of direct streams did not change");
    }

    /// Takes the steps on one connection, and returns all received bytes, up to the end of the
    /// connection if the last step is a `Send`. Dates are left out, and `connection: close`, which
    /// actix also writes while the next request is read in part.
    async fn exchange(&self, steps: &[Step]) -> String {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let (mut received, mut seen) = (Vec::new(), 0);
        for step in steps {
            match step {
                Send(text) => {
                    socket.write_all(text.as_bytes()).await.unwrap();
                    tokio::task::yield_now().await;
                }
                Until(mark) => loop {
                    let found = String::from_utf8_lossy(&received[seen..]).find(mark);
                    if let Some(at) = found {
                        seen += at + mark.len();
                        break;
                    }
                    assert!(
                        receive(&mut socket, &mut received).await,
                        "closed before {mark:?}: {:?}",
                        String::from_utf8_lossy(&received)
                    );
                },
            }
        }
        if let Some(Send(_)) = steps.last() {
            while receive(&mut socket, &mut received).await {}
        }
        let text = String::from_utf8(received).unwrap();
        text.split_inclusive("\r\n")
            .filter(|line| !line.starts_with("date: ") && *line != "connection: close\r\n")
            .collect()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

async fn receive(socket: &mut TcpStream, received: &mut Vec<u8>) -> bool {
    let read = socket.read_buf(received);
    let read = tokio::time::timeout(Duration::from_secs(30), read).await;
    read.expect("no bytes within 30 s").unwrap() > 0
}

/// Takes the steps with and without direct writes. Returns the common bytes.
async fn same(steps: &[Step]) -> String {
    let (direct, plain) = (TestServer::start(true), TestServer::start(false));
    let (direct, plain) = (direct.exchange(steps).await, plain.exchange(steps).await);
    assert_eq!(direct, plain, "{steps:?}");
    direct
}

fn send(text: impl Into<String>) -> Step {
    Send(text.into())
}

fn post(path: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: h\r\n{headers}\r\n{body}")
}

fn with_length(path: &str, body: &str) -> String {
    post(path, &format!("content-length: {}\r\n", body.len()), body)
}

const CHUNKED: &str = "transfer-encoding: chunked\r\n";
const END: &str = "0\r\n\r\n";

/// The last request of a connection.
fn last() -> Step {
    send("GET /hello HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn blank_lines_before_a_request_are_skipped() {
    for blank in ["\r\n", "\n", "\r\n\r\n", "\n\r\n"] {
        let request = with_length("/read", "\r\n\r\n");
        let text = same(&[
            send(format!("{blank}{request}")),
            Until(END),
            send(blank),
            send(request.clone()),
            Until("event 0"),
            send(blank),
            send(blank),
            Until(END),
            send(request),
            Until(END),
            last(),
        ])
        .await;
        assert_eq!(text.matches("body of 4").count(), 3, "{text}");
        assert!(text.ends_with("hello"), "{text}");
    }
}

#[tokio::test]
async fn body_that_looks_like_a_request_is_not_one() {
    let smuggled = "\r\n\r\nGET /hello HTTP/1.1\r\nhost: h\r\n\r\n";
    let text = same(&[
        send(with_length("/read", smuggled)),
        Until("event 1"),
        send(with_length("/read", smuggled)),
        Until(END),
        Until(END),
        last(),
    ])
    .await;
    assert_eq!(text.matches("hello").count(), 1, "{text}");
}

#[tokio::test]
async fn rest_of_an_unread_chunked_body_is_not_a_head() {
    let text = same(&[
        send(post("/ignore", CHUNKED, "5\r\nhello\r\n")),
        Until("event 0"),
        send("4\r\n\r\n\r\n\r\n"),
        send("0\r\n\r\n"),
        Until("event 2"),
        Until(END),
        last(),
    ])
    .await;
    assert!(text.contains("event 2"), "{text}");
}

#[tokio::test]
async fn chunked_bodies_with_trailers_are_followed_by_requests() {
    let body = "4;a=b\r\n\r\n\r\n\r\n0\r\nx: y\r\nz: \r\n\r\n";
    let text = same(&[
        send(post("/read", CHUNKED, body)),
        send(post("/read", CHUNKED, body)),
        Until(END),
        Until("event 0"),
        send(post("/read", CHUNKED, body)),
        Until(END),
        Until(END),
        last(),
    ])
    .await;
    assert_eq!(text.matches("body of 4").count(), 3, "{text}");
}

#[tokio::test]
async fn request_body_can_be_read_during_the_response() {
    let sized = [
        send(post("/echo", "content-length: 10\r\n", "12345")),
        Until("12345"),
        send("67890"),
        Until(END),
    ];
    let text = same(&sized).await;
    assert!(text.contains("67890"), "{text}");
    let chunked = [
        send(post("/echo", CHUNKED, "3\r\none\r\n")),
        Until("one"),
        send("3\r\ntwo\r\n0\r\n\r\n"),
        Until(END),
    ];
    let text = same(&chunked).await;
    assert!(text.contains("two"), "{text}");
}

#[tokio::test]
async fn pending_stream_is_written_directly() {
    let wait = "GET /wait HTTP/1.1\r\nhost: h\r\n\r\n";
    for direct_writes in [true, false] {
        let server = TestServer::start(direct_writes);
        for before in [
            String::new(),
            "\r\n\n".to_owned(),
            post("/read", CHUNKED, "1\r\na\r\n0\r\na: b\r\n\r\n"),
            with_length("/read", "\r\n\r\n"),
        ] {
            let mut socket = TcpStream::connect(server.address).await.unwrap();
            socket.write_all(before.as_bytes()).await.unwrap();
            let mut received = Vec::new();
            if before.contains("POST") {
                while !received.ends_with(END.as_bytes()) {
                    assert!(receive(&mut socket, &mut received).await);
                }
            }
            socket.write_all(wait.as_bytes()).await.unwrap();
            while !received.ends_with(b"waiting\n\r\n") {
                assert!(receive(&mut socket, &mut received).await);
            }
            server.direct_streams(usize::from(direct_writes)).await;
            drop(socket);
            server.direct_streams(0).await;
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn connection_with_an_incomplete_request_is_closed() {
    for direct_writes in [true, false] {
        let server = TestServer::with(direct_writes, SECOND, SECOND);
        let long = "a".repeat(300);
        let cases = [
            vec![send("GET /hello HTTP/1.1\r\nho")],
            vec![
                send("GET /hello HTTP/1.1\r\nhost: h\r\n\r\n"),
                Until("hello"),
                send("GET /hello HTTP/1.1\r\nho"),
            ],
            vec![
                send("GET /ignore HTTP/1.1\r\nhost: h\r\n\r\nGET /hello"),
                Until(END),
                send(""),
            ],
            vec![send(post("/hello", CHUNKED, "5\r\nab"))],
            vec![send(post("/hello", "content-length: 10\r\n", "ab"))],
            vec![send(post("/ignore", CHUNKED, "5\r\nab"))],
            // The tracker gives up on such a long header.
            vec![send(post(
                "/hello",
                &format!("upgrade: {long}\r\n{CHUNKED}"),
                "5\r\nab",
            ))],
        ];
        // Each exchange ends with its connection.
        join_all(cases.iter().map(|steps| server.exchange(steps))).await;
    }
}

#[tokio::test]
async fn pipelined_request_does_not_change_the_response_before_it() {
    let stream = "GET /ignore HTTP/1.1\r\nhost: h\r\n\r\n";
    for (next, ending) in [
        (
            "HEAD /hello HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
            "\r\n\r\n",
        ),
        ("GET /hello HTTP/1.0\r\n\r\n", "hello"),
        (
            "GET /hello HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n",
            "hello",
        ),
    ] {
        let text = same(&[send(format!("{stream}{next}"))]).await;
        let (first, second) = text.split_once(END).expect("the stream has no end");
        assert!(first.starts_with("HTTP/1.1 200"), "{text}");
        assert!(first.contains("transfer-encoding: chunked"), "{text}");
        assert_eq!(first.matches("event ").count(), 3, "{text}");
        assert!(second.starts_with("HTTP/1."), "{text}");
        assert!(second.ends_with(ending), "{text}");
    }
}

#[tokio::test]
async fn request_after_connection_close_is_not_answered() {
    let close = "GET /ignore HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    let text = same(&[send(format!(
        "{close}GET /hello HTTP/1.1\r\nhost: h\r\n\r\n"
    ))])
    .await;
    assert!(text.ends_with(END), "{text}");
    assert!(!text.contains("hello"), "{text}");
}

#[tokio::test]
async fn pipelined_requests_are_all_answered() {
    let mut text = String::new();
    for number in 0..40 {
        let (path, method) = (
            ["/hello", "/ignore"][number % 2],
            ["GET", "HEAD"][number % 3 % 2],
        );
        text += &format!("{method} {path} HTTP/1.1\r\nhost: h\r\n\r\n");
    }
    let text = same(&[send(text), last()]).await;
    assert_eq!(text.matches("HTTP/1.1 200").count(), 41, "{text}");
}

#[tokio::test]
async fn broken_http_1_0_response_is_reset() {
    let server = TestServer::start(true);
    for (path, breaks) in [("/fail", true), ("/ignore", false)] {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut received = Vec::new();
        let end = socket.read_to_end(&mut received).await;
        assert_eq!(end.is_err(), breaks, "{path}: {end:?}");
        assert!(
            String::from_utf8_lossy(&received).contains("event 1"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn random_requests_in_random_pieces_get_the_same_bytes() {
    let (direct, plain) = (TestServer::start(true), TestServer::start(false));
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut text, mut ends) = (String::new(), Vec::new());
        for _ in 0..rng.random_range(1..5) {
            let blank = ["", "", "\r\n", "\n"][rng.random_range(0..4)];
            let body = "\r\n".repeat(rng.random_range(0..4));
            let request = match rng.random_range(0..4) {
                0 => "GET /ignore HTTP/1.1\r\nhost: h\r\n\r\n".to_owned(),
                1 => with_length("/read", &body),
                2 if body.is_empty() => post("/read", CHUNKED, "0\r\n\r\n"),
                2 => {
                    let chunk = format!("{:x}\r\n{body}\r\n0\r\na: b\r\n\r\n", body.len());
                    post("/read", CHUNKED, &chunk)
                }
                _ => "GET /hello HTTP/1.1\r\nhost: h\r\n\r\n".to_owned(),
            };
            ends.push(Until(if request.contains("hello") {
                "hello"
            } else {
                END
            }));
            text = format!("{text}{blank}{request}");
        }
        let mut steps = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rng.random_range(1..=rest.len().min(60)));
            steps.push(send(piece));
            rest = after;
        }
        steps.extend(ends);
        let (direct, plain) = tokio::join!(direct.exchange(&steps), plain.exchange(&steps));
        assert_eq!(direct, plain, "seed {seed}: {steps:?}");
    }
}
