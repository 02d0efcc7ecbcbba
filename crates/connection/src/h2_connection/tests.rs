//! An HTTP/2 connection over a pipe in memory, on a clock that runs ahead.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::cell::Cell;
use std::convert::Infallible;

use actix_server::Server;
use actix_service::fn_service;
use actix_web::HttpResponse;
use actix_web::test::TestRequest;
use futures::stream;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::*;
use crate::connection::ConnectionTimeouts;

/// Size of the pieces of a test's body.
const PIECE: usize = 4096;

type Handler = Rc<dyn Fn() -> LocalBoxFuture<'static, HttpResponse>>;

/// Serves one side of a pipe with this handler. Returns the other side, and the connection.
fn serve(handler: Handler) -> (DuplexStream, JoinHandle<()>) {
    serve_through(1 << 20, handler)
}

/// The same through a pipe that holds so many bytes.
fn serve_through(bytes: usize, handler: Handler) -> (DuplexStream, JoinHandle<()>) {
    let (client, server) = tokio::io::duplex(bytes);
    let application = fn_service(move |_: Request| {
        let handler = handler.clone();
        async move {
            let request = TestRequest::default().to_http_request();
            Ok::<_, actix_web::Error>(ServiceResponse::new(request, handler().await))
        }
    });
    let context = H2Context {
        application: Rc::new(application),
        connection: ConnectionContext {
            timeouts: ConnectionTimeouts {
                keep_alive: Duration::from_secs(75),
                head: Duration::from_secs(10),
                linger: Duration::from_secs(1),
            },
            shutdown: Server::build().graceful_shutdown_signal(),
            direct: Gauge::default(),
            draining: None,
        },
        options: Http2Options::default(),
        slow_reader: Duration::from_secs(30),
        peer: None,
        is_reserved: false,
        _guards: (Gauge::default().enter(), Box::new(())),
    };
    (client, spawn_local(serve_http2(server, context)))
}

async fn connect(io: DuplexStream, window: u32) -> SendRequest<Bytes> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let (send, connection) = builder.handshake(io).await.unwrap();
    spawn_local(async move {
        let _ = connection.await;
    });
    send.ready().await.unwrap()
}

fn request() -> http::Request<()> {
    http::Request::get("https://localhost/").body(()).unwrap()
}

/// Lets all tasks run until they wait.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Runs a test on a clock that jumps to the next timer whenever all tasks wait.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn body_is_polled_only_as_far_as_the_window_has_room() {
    run(async {
        let polled = Rc::new(Cell::new(0));
        let counter = polled.clone();
        let (io, _connection) = serve(Rc::new(move || {
            let counter = counter.clone();
            let pieces = stream::repeat_with(move || {
                counter.set(counter.get() + PIECE);
                Ok::<_, Infallible>(Bytes::from_static(&[b'x'; PIECE]))
            });
            Box::pin(async { HttpResponse::Ok().streaming(pieces) })
        }));
        let mut send = connect(io, 10_000).await;
        let (response, _sending) = send.send_request(request(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut received = 0;
        for window in [10_000, 20_000, 30_000] {
            while received < window {
                received += body.data().await.unwrap().unwrap().len();
            }
            settle().await;
            assert_eq!(received, window);
            let waiting = polled.get() - received;
            assert!(waiting <= SEND_BUFFER + PIECE, "{waiting} bytes wait");
            body.flow_control().release_capacity(10_000).unwrap();
        }
    });
}

#[test]
fn reset_drops_the_handler_and_the_body() {
    run(async {
        struct Dropped(Rc<Notify>);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.notify_one();
            }
        }
        let (started, dropped) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        for streams in [false, true] {
            let (begun, guard) = (started.clone(), dropped.clone());
            let (io, _connection) = serve(Rc::new(move || {
                let (begun, guard) = (begun.clone(), Dropped(guard.clone()));
                Box::pin(async move {
                    begun.notify_one();
                    if !streams {
                        std::future::pending::<()>().await;
                    }
                    HttpResponse::Ok().streaming(stream::poll_fn(move |_| {
                        let _ = &guard;
                        Poll::<Option<Result<Bytes, Infallible>>>::Pending
                    }))
                })
            }));
            let mut send = connect(io, 10_000).await;
            let (response, mut sending) = send.send_request(request(), true).unwrap();
            started.notified().await;
            let response = if streams {
                Some(response.await.unwrap())
            } else {
                None
            };
            sending.send_reset(Reason::CANCEL);
            let before = Instant::now();
            dropped.notified().await;
            assert_eq!(before.elapsed(), Duration::ZERO);
            drop(response);
        }
    });
}

/// Starts a connection by hand, with these settings, and a GET as its first stream.
async fn write_get(io: &mut DuplexStream, settings: &[u8]) {
    // SETTINGS, and HEADERS with `:path: /` and `:authority: a`.
    let head = [0x82, 0x87, 0x84, 0x01, 0x01, b'a'];
    let length = u8::try_from(settings.len()).unwrap();
    for part in [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0, 0, length, 4, 0, 0, 0, 0, 0][..],
        settings,
        &[0, 0, 6, 1, 5, 0, 0, 0, 1],
        &head,
    ] {
        io.write_all(part).await.unwrap();
    }
}

#[test]
fn unanswered_ping_closes_the_connection_after_its_streams() {
    run(async {
        let (mut io, connection) = serve(Rc::new(|| {
            Box::pin(async {
                tokio::time::sleep(Duration::from_secs(100)).await;
                HttpResponse::Ok().body("hello")
            })
        }));
        write_get(&mut io, &[]).await;
        let start = Instant::now();
        connection.await.unwrap();
        // The ping was due at 30 s.
        assert_eq!(start.elapsed().as_secs(), 110);
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        // One PING of 8 bytes.
        let pings = all.windows(5).filter(|frame| *frame == [0, 0, 8, 6, 0]);
        assert_eq!(pings.count(), 1);
        assert!(all.ends_with(b"hello"));
    });
}

#[test]
fn client_that_makes_room_for_single_bytes_is_a_slow_reader() {
    run(async {
        let (mut io, _connection) = serve(Rc::new(|| {
            let pieces =
                stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[0; PIECE])));
            Box::pin(async { HttpResponse::Ok().streaming(pieces) })
        }));
        // INITIAL_WINDOW_SIZE is 1.
        write_get(&mut io, &[0, 4, 0, 0, 0, 1]).await;
        let start = Instant::now();
        let mut all = Vec::new();
        // RST_STREAM with CANCEL.
        let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
        while !all.windows(reset.len()).any(|frame| frame == reset) {
            assert!(start.elapsed().as_secs() < 60, "it is not reset");
            tokio::select! {
                read = io.read_buf(&mut all) => assert!(read.unwrap() > 0),
                () = tokio::time::sleep(Duration::from_secs(7)) => {
                    let update = [0, 0, 4, 8, 0, 0, 0, 0, 1, 0, 0, 0, 1];
                    io.write_all(&update).await.unwrap();
                }
            }
        }
        assert_eq!(start.elapsed().as_secs(), 30);
    });
}

#[test]
fn what_a_body_yields_before_its_error_arrives_before_the_reset() {
    run(async {
        // The smaller pipe is full before all is written.
        for bytes in [64, 1 << 20] {
            let handler: Handler = Rc::new(|| {
                let pieces = [Ok(Bytes::from_static(&[b'x'; PIECE])), Err("broken")];
                Box::pin(async { HttpResponse::Ok().streaming(stream::iter(pieces)) })
            });
            let (io, _connection) = serve_through(bytes, handler);
            let mut send = connect(io, 10_000).await;
            let (response, _) = send.send_request(request(), true).unwrap();
            let mut body = response.await.unwrap().into_body();
            let mut received = 0;
            let error = loop {
                match body.data().await.unwrap() {
                    Ok(data) => received += data.len(),
                    Err(error) => break error,
                }
            };
            assert_eq!(received, PIECE);
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
            assert!(error.is_remote() && error.is_reset());
        }
    });
}

#[test]
fn panic_ends_its_own_stream_only() {
    run(async {
        let (count, go) = (Rc::new(Cell::new(0)), Rc::new(Notify::new()));
        let waits = go.clone();
        let (io, _connection) = serve(Rc::new(move || {
            count.set(count.get() + 1);
            let (number, go) = (count.get(), waits.clone());
            Box::pin(async move {
                assert!(number != 2, "a handler");
                let body = stream::once(async move {
                    assert!(number != 3, "a body");
                    go.notified().await;
                    Ok::<_, Infallible>(Bytes::from_static(b"hello"))
                });
                HttpResponse::Ok().streaming(body)
            })
        }));
        let mut send = connect(io, 10_000).await;
        let (response, _) = send.send_request(request(), true).unwrap();
        let mut first = response.await.unwrap().into_body();
        let (response, _) = send.send_request(request(), true).unwrap();
        let error = response.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        let (response, _) = send.send_request(request(), true).unwrap();
        let mut third = response.await.unwrap().into_body();
        let error = third.data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        go.notify_one();
        assert_eq!(first.data().await.unwrap().unwrap(), "hello");
    });
}

#[test]
fn connection_without_streams_is_told_to_leave_and_closed() {
    run(async {
        let (io, connection) = serve(Rc::new(|| {
            Box::pin(async { HttpResponse::Ok().body("hello") })
        }));
        let start = Instant::now();
        let send = connect(io, 10_000).await;
        connection.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 10);
        assert!(send.ready().await.is_err());

        let (io, connection) = serve(Rc::new(|| {
            Box::pin(async { HttpResponse::Ok().body("hello") })
        }));
        let mut send = connect(io, 10_000).await;
        let (response, _) = send.send_request(request(), true).unwrap();
        assert_eq!(response.await.unwrap().headers()["content-length"], "5");
        let start = Instant::now();
        connection.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 75);
    });
}

#[test]
fn connection_is_replaced_after_many_streams() {
    run(async {
        let (io, connection) = serve(Rc::new(|| Box::pin(async { HttpResponse::Ok().finish() })));
        let mut send = connect(io, 10_000).await;
        let mut answered = 0;
        loop {
            send = match send.ready().await {
                Ok(send) => send,
                Err(error) => {
                    assert_eq!(error.reason(), Some(Reason::NO_ERROR));
                    break;
                }
            };
            let Ok((response, _)) = send.send_request(request(), true) else {
                break;
            };
            assert_eq!(response.await.unwrap().status(), 200);
            answered += 1;
        }
        assert_eq!(answered, MAX_STREAMS);
        connection.await.unwrap();
    });
}

#[test]
fn reset_budget_refills_with_time() {
    run(async {
        let mut budget = ResetBudget {
            left: RESET_BURST,
            counted: Instant::now(),
        };
        let accepted = (0..1000).take_while(|_| budget.take()).count();
        assert_eq!(accepted, 512);
        tokio::time::advance(Duration::from_secs(2)).await;
        let accepted = (0..1000).take_while(|_| budget.take()).count();
        assert!((198..=200).contains(&accepted), "{accepted}");
    });
}
