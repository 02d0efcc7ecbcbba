//! No panic reaches a client. A panic in a handler becomes an error response, a panic in a generation
//! ends it with a terminal event, and the worker continues. An upstream and a route of the tests
//! panic; the gateway has no hook for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::{End, PATIENCE, Request, Socket, chat, response, with};
use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpResponse, HttpServer, web};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokenwire::config::Config;
use tokenwire::http::{configure, request_middleware};
use tokenwire::metrics::Metrics;
use tokenwire::service::{Service, Shared};
use tokenwire_core::engine::{Engine, Retention};
use tokenwire_core::log::LogLimits;
use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::snapshot::Api;
use tokenwire_core::upstream::decode::{Flow, SseEvent};
use tokenwire_core::upstream::translate::BodyEnd;
use tokenwire_core::upstream::{
    OpenError, RetryBudget, SecretString, StreamStep, Target, Timeouts, TokenStream, Upstream,
    UpstreamHead, UpstreamRequest, UpstreamResponse,
};
use tokenwire_webhooks::{WebhookOptions, Webhooks};

/// An upstream that panics at the place that the model's name gives.
#[derive(Debug)]
struct Panicking;

struct PanickingBody {
    model: String,
    reads: usize,
}

impl Upstream for Panicking {
    fn route(
        &self,
        model: Option<&str>,
        _client_key: Option<&SecretString>,
    ) -> Result<Target, ApiError> {
        let model = model.unwrap_or("sound").to_owned();
        assert_ne!(model, "in the route");
        let none = Duration::ZERO;
        let timeouts = Timeouts {
            connect: none,
            first_token: none,
            between_tokens: none,
            total: none,
        };
        Ok(Target {
            model,
            upstream_model: None,
            api: Api::Chat,
            timeouts,
            endpoint: 0,
            queued: false,
            reservation: Default::default(),
        })
    }

    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        Box::pin(async move {
            assert_ne!(request.model, "before the head");
            Ok(UpstreamResponse {
                head: UpstreamHead::default(),
                stream: Box::new(PanickingBody {
                    model: request.model,
                    reads: 0,
                }),
            })
        })
    }
}

impl TokenStream for PanickingBody {
    fn poll_events(
        &mut self,
        _: &mut Context<'_>,
        sink: &mut dyn FnMut(SseEvent<'_>) -> Flow,
    ) -> Poll<StreamStep> {
        self.reads += 1;
        assert!(self.reads < 3 || self.model != "in mid-stream");
        let data: &[u8] = match self.reads {
            1 => br#"{"choices":[{"index":0,"delta":{"content":"one"}}]}"#,
            2 => br#"{"choices":[{"index":0,"delta":{"content":"two"}}]}"#,
            3 => br#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            4 => b"[DONE]",
            _ => return Poll::Ready(StreamStep::Ended(BodyEnd::Clean)),
        };
        let _ = sink(SseEvent::Data {
            name: None,
            data,
            terminated: true,
        });
        Poll::Ready(StreamStep::Read)
    }
}

/// The gateway's application on one worker, over [`Panicking`], with a route that panics.
struct Server {
    address: SocketAddr,
    handle: ServerHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

fn shared() -> Shared {
    let keep = Duration::from_secs(600);
    let retention = Retention {
        events: keep,
        responses: keep,
        max_memory: 1 << 30,
        max_open: 4,
    };
    let engine = Engine::builder()
        .retention(retention)
        .log_limits(LogLimits {
            bytes: 1 << 20,
            events: 1000,
        })
        .disconnect_grace(Duration::ZERO)
        .build();
    let simulator = Some("http://127.0.0.1:1/v1".to_owned());
    let upstreams = Shared::upstreams(&Config::default(), simulator).unwrap();
    let (_, changes) = tokio::sync::watch::channel(upstreams.clone());
    Shared {
        metrics: Metrics::new(&Config::default(), engine.registry().clone()),
        activity: tokenwire::activity::Activity::new(engine.registry().clone(), changes),
        watch: None,
        engine,
        upstreams,
        retry_budget: Arc::new(RetryBudget::new(0)),
        webhooks: Webhooks::new(WebhookOptions::default()).unwrap(),
        store: None,
        auth: None,
        neighbours: None,
        limits: tokenwire::limits::Limits::new(&Config::default()),
        telemetry: tokenwire::telemetry::Telemetry::new(&Config::default()),
        tickets: Arc::new(tokenwire::auth::Tickets::of(
            &Config::default(),
            None,
            Arc::default(),
        )),
        revocations: Arc::default(),
        cluster: None,
        config: Arc::new(Config::default()),
    }
}

impl Server {
    fn start() -> Self {
        let (up, is_up) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let shared = shared();
                let server = HttpServer::new(move || {
                    let mut service = Service::new(&shared).unwrap();
                    service.engine = shared.engine.engine(Arc::new(Panicking));
                    let panics = web::get().to(|| async {
                        assert!(std::hint::black_box(false), "panic of the test");
                        HttpResponse::Ok().finish()
                    });
                    App::new()
                        .app_data(web::Data::new(service))
                        .wrap(from_fn(request_middleware))
                        .route("/panics", panics)
                        .configure(configure)
                })
                .workers(1)
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
            handle,
            thread: Some(thread),
        }
    }

    fn post(&self, path: &str, body: &Value) -> Request {
        Request::new(self.address, "POST", path)
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    async fn still_serves(&self) {
        let answer = self
            .post(
                "/v1/chat/completions",
                &with(chat(""), json!({"model": "sound"})),
            )
            .answer()
            .await;
        assert!(
            answer.text().ends_with("data: [DONE]\n\n"),
            "{}",
            answer.text()
        );
        let ready = Request::new(self.address, "GET", "/readyz");
        crate::support::eventually("the end of all generations", async || {
            ready.answer().await.json()["open_streams"] == 0
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

#[tokio::test]
async fn handler_panic_returns_an_openai_error() {
    let server = Server::start();
    let in_route = server.post(
        "/v1/responses",
        &with(response(""), json!({"model": "in the route"})),
    );
    for request in [Request::new(server.address, "GET", "/panics"), in_route] {
        let answer = request.answer().await;
        let error = &answer.json()["error"];
        assert_eq!(
            (
                answer.status,
                error["type"].as_str(),
                error["code"].as_str()
            ),
            (500, Some("server_error"), Some("internal_error"))
        );
        assert!(
            !answer.text().contains("panic of the test"),
            "the panic message reached a client"
        );
        assert!(
            answer
                .header("x-request-id")
                .is_some_and(|id| id.starts_with("req_"))
        );
        server.still_serves().await;
    }
}

#[tokio::test]
async fn generation_panic_ends_the_stream_with_a_terminal_event() {
    let server = Server::start();
    for place in ["before the head", "in mid-stream"] {
        let early = place == "before the head";
        let model = json!({"model": place});
        let (ask_chat, ask_response) = (
            with(chat(""), model.clone()),
            with(response(""), model.clone()),
        );
        let status = if early { 500 } else { 200 };

        let chat_sdk = server
            .post("/v1/chat/completions", &ask_chat)
            .answer()
            .await;
        assert_eq!(chat_sdk.status, status, "{place}: {}", chat_sdk.text());
        let error = if early {
            chat_sdk.json()
        } else {
            chat_sdk.events().pop().unwrap().json()
        };
        assert_eq!(error["error"]["code"], "internal_error", "{place}");
        assert!(!chat_sdk.text().contains("[DONE]") && chat_sdk.end == End::Whole);

        let whole = server
            .post(
                "/v1/chat/completions",
                &with(ask_chat, json!({"stream": false})),
            )
            .answer()
            .await;
        assert_eq!(
            (whole.status, whole.json()["error"]["code"].as_str()),
            (500, Some("internal_error")),
            "{place}"
        );

        let sdk = server.post("/v1/responses", &ask_response).answer().await;
        assert_eq!(sdk.status, status, "{place}");

        let eventsource = server.post("/v1/streams", &ask_response).answer().await;
        let events: Vec<Value> = eventsource
            .events()
            .iter()
            .map(crate::support::Event::json)
            .collect();
        check_failed(&events, early);

        let text = server
            .post("/v1/streams?dialect=text", &ask_response)
            .answer()
            .await;
        assert_eq!(text.status, status, "{place}");
        if !early {
            assert_eq!((text.text().as_str(), text.end), ("onetwo", End::Broken));
        }

        let mut socket = Socket::connect(server.address, "/v1/ws").await;
        socket.create("", model).await;
        check_failed(&socket.until_end().await, early);
        assert!(
            socket.until_pong().await.is_empty(),
            "the socket stays open"
        );
        drop(socket);
        server.still_serves().await;
    }
}

/// Checks that the numbers have no gaps, open items are closed, and the last event is the failure.
fn check_failed(events: &[Value], early: bool) {
    let numbers: Vec<u64> = events
        .iter()
        .map(|event| event["sequence_number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let terminal = events.last().unwrap();
    assert_eq!(
        (&terminal["type"], &terminal["response"]["status"]),
        (&json!("response.failed"), &json!("failed"))
    );
    assert_eq!(terminal["response"]["error"]["code"], "internal_error");
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!(
        (
            of("response.output_item.added"),
            of("response.output_item.done")
        ),
        if early { (0, 0) } else { (1, 1) }
    );
}
