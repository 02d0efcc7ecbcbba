//! Memory of streams: limited for each and in total, and freed completely.
//!
//! The gateway is built from its public parts, to give the tests its memory accounts. The figures are
//! those of the accounts, for logs and response objects. The process also holds buffers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(clippy::print_stdout, reason = "the figures are worth reading")]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use futures::future::join_all;
use serde_json::json;
use support::{Answer, PATIENCE, Request, Socket, chat, eventually, response};
use tokenwire::auth::Tickets;
use tokenwire::config::schema::{Config, Upstream};
use tokenwire::http::{configure, request_middleware};
use tokenwire::metrics::Metrics;
use tokenwire::service::{Service, Shared, shared_engine};
use tokenwire_core::engine::Registry;
use tokenwire_core::model::account::{Account, AccountKind};
use tokenwire_core::upstream::RetryBudget;
use tokenwire_simulator::{Options, Pace, Simulator};
use tokenwire_webhooks::{WebhookOptions, Webhooks};

const STREAMS: usize = 200;
const TOKENS: usize = 200;

/// A gateway with visible memory accounts.
struct Metered {
    address: SocketAddr,
    registry: Arc<Registry>,
    /// What requests and answers hold.
    account: Account,
    handle: actix_web::dev::ServerHandle,
    thread: Option<std::thread::JoinHandle<()>>,
    _simulator: Simulator,
}

impl Metered {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let simulator = Simulator::start(Options {
            pace: Pace::INSTANT,
            ..Options::default()
        })
        .unwrap();
        let mut config = Config {
            default_model: Some("simulator".to_owned()),
            upstreams: vec![Upstream {
                name: "upstream".to_owned(),
                base_url: simulator.base_url(),
                ..Upstream::default()
            }],
            ..Config::default()
        };
        change(&mut config);
        let engine = shared_engine(&config, None, None, None);
        let (registry, account) = (engine.registry().clone(), engine.account().clone());
        let upstreams = Shared::upstreams(&config, None).unwrap();
        let (_, changes) = tokio::sync::watch::channel(upstreams.clone());
        let shared = Shared {
            telemetry: tokenwire::telemetry::Telemetry::new(&config),
            engine,
            activity: tokenwire::activity::Activity::new(registry.clone(), changes),
            watch: None,
            metrics: Metrics::new(&config, registry.clone()),
            upstreams,
            retry_budget: Arc::new(RetryBudget::new(0)),
            webhooks: Webhooks::new(WebhookOptions::default()).unwrap(),
            store: None,
            auth: None,
            tickets: Arc::new(Tickets::of(&config, None, Arc::default())),
            revocations: Arc::default(),
            neighbours: None,
            limits: tokenwire::limits::Limits::new(&config),
            cluster: None,
            config: Arc::new(config),
        };
        let (up, is_up) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    let service = Service::new(&shared).unwrap();
                    App::new()
                        .app_data(web::Data::new(service))
                        .wrap(from_fn(request_middleware))
                        .configure(configure)
                });
                let server = server
                    .workers(2)
                    .tcp_nodelay(true)
                    .disable_signals()
                    .bind(("127.0.0.1", 0))
                    .unwrap();
                let address = server.addrs()[0];
                let server = server.run();
                up.send((address, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (address, handle) = is_up.recv_timeout(PATIENCE).unwrap();
        Self {
            address,
            registry,
            account,
            handle,
            thread: Some(thread),
            _simulator: simulator,
        }
    }

    fn post(&self, path: &str, body: &serde_json::Value) -> Request {
        Request::new(self.address, "POST", path)
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    /// Returns a request that starts a stream over SSE, of a kind chosen by `index`.
    fn request(&self, index: usize, steering: &str) -> Request {
        match index % 4 {
            0 => self.post("/v1/streams", &response(steering)),
            1 => self.post("/v1/streams?dialect=chat", &chat(steering)),
            2 => self.post("/v1/responses", &response(steering)),
            _ => self.post("/v1/chat/completions", &chat(steering)),
        }
    }

    /// Reads `streams` concurrent streams to their ends.
    async fn read(&self, streams: usize, steering: &str) -> Vec<Answer> {
        let answers = join_all(
            (0..streams).map(|index| async move { self.request(index, steering).answer().await }),
        )
        .await;
        // The terminal event is read before the writer's task ends.
        eventually("the end of the writers", async || self.registry.open() == 0).await;
        answers
    }

    async fn delete(&self, id: &str) {
        let answer = Request::new(self.address, "DELETE", &format!("/v1/responses/{id}"))
            .answer()
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    async fn holds_nothing(&self) {
        let held = || {
            (
                self.registry.open(),
                self.registry.len(),
                self.registry.used(),
                self.account.used(),
            )
        };
        eventually("all of it given back", async || held() == (0, 0, 0, 0)).await;
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn finished_streams_are_compact_and_delete_frees_them() {
    let gateway = Metered::start(|_| {});
    let answers = gateway
        .read(STREAMS, &format!("tokens={TOKENS} text=count"))
        .await;
    assert_eq!(gateway.registry.len(), STREAMS);
    let (logs, all) = (
        gateway.account.held(AccountKind::Logs),
        gateway.registry.used(),
    );
    println!(
        "a token: {} bytes in the log, {} in all",
        logs / STREAMS / TOKENS,
        all / STREAMS / TOKENS
    );
    // A chunk has more than 100 bytes, an event more than 150. The repeated parts are stored once per
    // stream. A token costs its text (4 bytes), its position, and its share of the capacity of a
    // `Vec`. The object holds the text again.
    assert!(
        logs / STREAMS / TOKENS <= 32,
        "{} bytes a token in the log",
        logs / STREAMS / TOKENS
    );
    assert!(
        all / STREAMS / TOKENS <= 64,
        "{} bytes a token",
        all / STREAMS / TOKENS
    );
    for answer in &answers {
        gateway.delete(answer.id()).await;
    }
    assert_eq!(
        (gateway.registry.len(), gateway.registry.used()),
        (0, 0),
        "the memory is freed when the response arrives"
    );
}

#[tokio::test]
async fn delete_of_running_streams_frees_them() {
    let gateway = Metered::start(|_| {});
    let steering = format!("tokens={TOKENS} text=count fault=stall after=20");
    let over_sse = join_all((0..STREAMS / 2).map(async |index| {
        let mut reader = gateway.request(index, &steering).send().await;
        reader.until(" t19").await;
        (reader.id().await, reader)
    }));
    let over_websocket = join_all((0..STREAMS / 2).map(async |_| {
        let mut socket = Socket::connect(gateway.address, "/v1/ws").await;
        socket.create(&steering, json!({})).await;
        let events = socket.until(|event| event["delta"] == " t19").await;
        (
            events[0]["response"]["id"].as_str().unwrap().to_owned(),
            socket,
        )
    }));
    let (readers, sockets) = tokio::join!(over_sse, over_websocket);
    assert_eq!(
        (gateway.registry.open(), gateway.registry.len()),
        (STREAMS, STREAMS)
    );
    assert!(gateway.account.held(AccountKind::Logs) > 0);
    let ids = readers
        .iter()
        .map(|(id, _)| id)
        .chain(sockets.iter().map(|(id, _)| id));
    for id in ids {
        gateway.delete(id).await;
    }
    // The readers are still connected and hold no memory of the stream.
    gateway.holds_nothing().await;
}

#[tokio::test]
async fn stream_stops_at_max_stream_bytes() {
    const BOUND: usize = 64 << 10;
    const MANY: usize = 20;
    let gateway = Metered::start(|config| config.streams.max_stream_bytes = BOUND);
    let ended = std::sync::atomic::AtomicBool::new(false);
    let most = async {
        let mut most = 0;
        while !ended.load(std::sync::atomic::Ordering::Acquire) {
            most = most.max(gateway.account.held(AccountKind::Logs));
            tokio::task::yield_now().await;
        }
        most
    };
    let all = async {
        let answers = gateway.read(MANY, "tokens=1000000 text=count").await;
        ended.store(true, std::sync::atomic::Ordering::Release);
        answers
    };
    let (answers, most) = tokio::join!(all, most);
    for answer in &answers {
        let object = Request::new(
            gateway.address,
            "GET",
            &format!("/v1/responses/{}", answer.id()),
        )
        .answer()
        .await
        .json();
        assert_eq!(
            object["error"]["code"], "stream_too_large",
            "{}",
            object["error"]
        );
    }
    println!(
        "{MANY} streams bound to {BOUND} bytes held {most} bytes at most, {} with their objects",
        gateway.registry.used()
    );
    assert!(
        most > MANY * BOUND / 4,
        "the streams stayed far below the limit: {most}"
    );
    // The limit applies to the records. Each also has a position of 8 bytes, which doubles the size of
    // such short tokens, and a growing `Vec` may double it again.
    assert!(most <= MANY * BOUND * 4, "{most} bytes of logs");
    // The object holds the same text as the log, without spare capacity.
    assert!(
        gateway.registry.used() <= MANY * BOUND * 4,
        "{} bytes of logs and objects",
        gateway.registry.used()
    );
}

#[tokio::test]
async fn oldest_finished_streams_are_evicted_at_max_memory() {
    const BOUND: usize = 256 << 10;
    let gateway = Metered::start(|config| config.streams.max_memory = BOUND);
    let mut ids = Vec::new();
    for index in 0..STREAMS {
        let answer = gateway
            .request(index, &format!("tokens={TOKENS} text=count"))
            .answer()
            .await;
        assert_eq!(answer.status, 200);
        ids.push(answer.id().to_owned());
        eventually("the end of the writer", async || {
            gateway.registry.open() == 0
        })
        .await;
        assert!(
            gateway.registry.used() <= BOUND,
            "{} bytes after {} streams",
            gateway.registry.used(),
            index + 1
        );
    }
    let kept = gateway.registry.len();
    assert!(kept > 0 && kept < STREAMS, "{kept} are kept");
    for (index, id) in ids.iter().enumerate() {
        let status = Request::new(gateway.address, "GET", &format!("/v1/responses/{id}"))
            .answer()
            .await
            .status;
        assert_eq!(
            status == 200,
            index >= STREAMS - kept,
            "{status} for number {index}, of which the last {kept} are kept"
        );
        if status == 200 {
            gateway.delete(id).await;
        }
    }
    assert_eq!((gateway.registry.len(), gateway.registry.used()), (0, 0));
}
