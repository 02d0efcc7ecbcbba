//! A gateway in this process, on its own threads, over a simulator.

use std::net::SocketAddr;
use std::ops::Deref;
use std::thread::JoinHandle;

use actix_web::dev::ServerHandle;
use serde_json::Value;
use tokenwire::config::schema::{Api, Config, Upstream};
use tokenwire::gateway::Gateway as Server;
use tokenwire_simulator::{Options, Pace, RecordedRequest, Simulator, Stats};

use super::http::Request;
use super::{PATIENCE, Socket};

/// A gateway that serves until it is dropped.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

/// A gateway and the simulator that is its upstream.
pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) simulator: Simulator,
}

/// Starts a gateway over a simulator that adds no delay unless it is steered to.
pub(crate) fn start(change: impl FnOnce(&mut Config)) -> World {
    let simulator = Simulator::start(Options {
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap();
    let gateway = over(&simulator.base_url(), Api::Chat, change);
    World { gateway, simulator }
}

/// Starts a gateway over any upstream.
pub(crate) fn over(base_url: &str, api: Api, change: impl FnOnce(&mut Config)) -> Gateway {
    let mut config = Config::default();
    config.server.port = 0;
    // More than one worker, so that per-worker and shared state differ.
    config.server.workers = 2;
    config.default_model = Some("simulator".to_owned());
    config.upstreams = vec![Upstream {
        name: "upstream".to_owned(),
        base_url: base_url.to_owned(),
        api,
        ..Upstream::default()
    }];
    change(&mut config);
    Gateway::start(config)
}

impl Gateway {
    pub(crate) fn start(config: Config) -> Self {
        let (up, is_up) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = Server::bind(config).unwrap_or_else(|error| panic!("{error}"));
                up.send((server.address(), server.handle())).unwrap();
                server.serve().await.unwrap();
            });
        });
        let (address, handle) = is_up
            .recv_timeout(PATIENCE)
            .expect("the gateway does not start");
        Self {
            address,
            handle,
            thread: Some(thread),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Request {
        Request::new(self.address, "GET", path)
    }

    pub(crate) fn delete(&self, path: &str) -> Request {
        Request::new(self.address, "DELETE", path)
    }

    /// Builds a POST with a JSON body.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Request {
        Request::new(self.address, "POST", path)
            .header("content-type", "application/json")
            .body(body.to_string())
    }

    pub(crate) async fn socket(&self) -> Socket {
        Socket::connect(self.address, "/v1/ws").await
    }

    /// Waits until no generation runs.
    pub(crate) async fn idle(&self) {
        super::eventually("the end of all generations", async || {
            self.get("/readyz").answer().await.json()["open_streams"] == 0
        })
        .await;
    }

    /// Returns the current response object.
    pub(crate) async fn object(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/responses/{id}")).answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The call sends the command; the thread ends once it was carried out.
        drop(self.handle.stop(false));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the gateway panicked");
            }
        }
    }
}

impl Deref for World {
    type Target = Gateway;

    fn deref(&self) -> &Gateway {
        &self.gateway
    }
}

impl World {
    /// Waits until the simulator's counters satisfy `wanted`.
    pub(crate) async fn upstream_saw(&self, what: &str, wanted: impl Fn(&Stats) -> bool) {
        assert!(
            self.simulator.wait_until(wanted, PATIENCE).await,
            "{what} did not happen: {:?}",
            self.simulator.stats()
        );
    }

    /// Returns the last request that the upstream received.
    pub(crate) fn last_request(&self) -> RecordedRequest {
        self.simulator
            .requests()
            .pop()
            .expect("the upstream received no request")
    }
}
