//! The takeover of the listening sockets: what a successor and a predecessor do for each other, and
//! what happens when one of them fails.

use std::io::{BufRead as _, BufReader, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::support::process::Process;
use crate::support::{Request, eventually, patiently};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokenwire_testkit::free_port;

/// A folder for the store, and a free port.
struct Place {
    folder: tempfile::TempDir,
    port: u16,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::TempDir::new().unwrap(),
            port: free_port(),
        }
    }

    fn config(&self) -> String {
        let path = self.folder.path().display();
        format!("store:\n  kind: disk\n  path: {path}\n")
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    fn socket(&self) -> PathBuf {
        let name = format!("takeover-{}.sock", self.port);
        self.folder.path().join(name)
    }

    async fn start(&self) -> Process {
        self.start_with(&self.config()).await
    }

    /// Starts a gateway on this port with another configuration.
    async fn start_with(&self, config: &str) -> Process {
        let gateway = Process::start_on(self.port, config);
        eventually("the takeover socket", async || self.socket().exists()).await;
        gateway
    }

    async fn is_served(&self) -> bool {
        let ready = Request::new(self.address(), "GET", "/healthz");
        patiently("an answer", ready.answer()).await.status == 200
    }
}

/// One side of the conversation, played by the test.
struct Other(BufReader<UnixStream>);

impl Other {
    fn send(&mut self, message: &Value) {
        let line = format!("{message}\n");
        self.0.get_mut().write_all(line.as_bytes()).unwrap();
    }

    /// Returns the next message, or null at the end.
    fn receive(&mut self) -> Value {
        let mut line = String::new();
        match self.0.read_line(&mut line).unwrap() {
            0 => Value::Null,
            _ => serde_json::from_str(&line).unwrap(),
        }
    }

    fn send_socket(&mut self, message: &Value, socket: &TcpListener) {
        let line = format!("{message}\n");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [socket.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let line = [IoSlice::new(line.as_bytes())];
        sendmsg(self.0.get_ref(), &line, &mut control, SendFlags::empty()).unwrap();
    }
}

fn connect(path: &Path) -> Other {
    Other(BufReader::new(UnixStream::connect(path).unwrap()))
}

async fn exit(gateway: Process) -> (bool, String) {
    let output = tokio::task::spawn_blocking(move || gateway.output());
    patiently("the exit", output).await.unwrap()
}

#[tokio::test]
async fn successor_takes_the_port_and_its_predecessor_exits() {
    let place = Place::new();
    let first = place.start().await;
    let second = place.start().await;
    let (success, output) = exit(first).await;
    assert!(success, "{output}");
    assert!(place.is_served().await);
    // The file is the successor's, for the next one.
    let third = place.start().await;
    assert!(exit(second).await.0);
    assert!(place.is_served().await);
    let mode = place.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    third.terminate();
    assert!(exit(third).await.0);
    assert!(!place.socket().exists(), "the last one leaves a file");
}

#[tokio::test]
async fn responses_of_a_process_are_found_while_it_exits() {
    let place = Place::new();
    // Its exit waits for this one, which never answers.
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = format!(
        "{}telemetry: {{otlp: {{endpoint: 'http://{}', traces: 1}}}}\n",
        place.config(),
        collector.local_addr().unwrap()
    );
    let first = place.start_with(&config).await;
    let create = Request::new(place.address(), "POST", "/v1/responses")
        .header("content-type", "application/json")
        .body(r#"{"input": "[[tokens=1]]"}"#);
    let id = create.answer().await.id().to_owned();
    let entries = std::fs::read_dir(place.folder.path()).unwrap();
    let mut entries = entries.map(|entry| entry.unwrap().path());
    let folder = entries.find(|path| path.is_dir()).unwrap();
    let _second = place.start().await;
    eventually("the first one answers no other process", async || {
        UnixStream::connect(folder.join("peer.sock")).is_err()
    })
    .await;
    // Until it is gone, its folder is its own.
    let get = Request::new(place.address(), "GET", &format!("/v1/responses/{id}"));
    let answer = patiently("the response", get.answer()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (ended_well, output) = exit(first).await;
    assert!(ended_well, "{output}");
}

#[tokio::test]
async fn operations_listener_is_taken_over_too() {
    let place = Place::new();
    let operations = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = format!("{}server:\n  operations: {operations}\n", place.config());
    let first = place.start_with(&config).await;
    let _second = Process::start_on(place.port, &config);
    assert!(exit(first).await.0);
    let ready = Request::new(operations, "GET", "/readyz");
    assert_eq!(ready.answer().await.status, 200);
    assert!(place.is_served().await);
}

#[tokio::test]
async fn predecessor_goes_on_if_its_successor_fails_before_it_is_ready() {
    let place = Place::new();
    let _gateway = place.start().await;
    // It takes the sockets and dies.
    let mut failing = connect(&place.socket());
    failing.send(&json!({"takeover": 1, "version": "0"}));
    let offer = failing.receive();
    assert_eq!(offer["sockets"], json!([place.address().to_string()]));
    drop(failing);
    assert!(place.is_served().await);
    // It says nothing, or nonsense.
    drop(connect(&place.socket()));
    let mut failing = connect(&place.socket());
    failing.send(&json!(["?"]));
    assert_eq!(failing.receive(), Value::Null);
    assert!(place.is_served().await);
    let config = place.config() + "webhooks:\n  url: http://127.0.0.1/\n  secret: whsec_%\n";
    Process::fail_on(place.port, &config);
    let ready = Request::new(place.address(), "GET", "/readyz");
    assert_eq!(ready.answer().await.status, 200);
}

#[tokio::test]
async fn successor_of_a_later_version_gets_the_sockets() {
    let place = Place::new();
    let gateway = place.start().await;
    let mut later = connect(&place.socket());
    later.send(&json!({
        "takeover": 9, "version": "99.0.0", "reads": {"min": 70, "max": 71}, "later": [1],
    }));
    assert_eq!(later.receive()["takeover"], 1);
    later.send(&json!({"ready": true, "later": null}));
    assert_eq!(later.receive(), json!({"draining": true}));
    let (success, output) = exit(gateway).await;
    assert!(success, "{output}");
}

#[tokio::test]
async fn predecessor_of_a_later_version_gives_its_sockets() {
    let place = Place::new();
    let listener = TcpListener::bind(place.address()).unwrap();
    let asked = UnixListener::bind(place.socket()).unwrap();
    let address = place.address();
    let predecessor = std::thread::spawn(move || {
        let mut other = Other(BufReader::new(asked.accept().unwrap().0));
        assert_eq!(other.receive()["takeover"], 1);
        let offer = json!({
            "takeover": 9, "version": "99.0.0", "speaks": {"min": 70, "max": 71},
            "sockets": [address], "later": {},
        });
        other.send_socket(&offer, &listener);
        assert_eq!(other.receive(), json!({"ready": true}));
        drop(listener);
        other.send(&json!({"draining": true, "later": 1}));
    });
    let gateway = Process::start_on(place.port, &place.config());
    tokio::task::spawn_blocking(move || predecessor.join())
        .await
        .unwrap()
        .unwrap();
    assert!(place.is_served().await);
    gateway.terminate();
    let (_, output) = exit(gateway).await;
    assert!(output.contains("its streams cannot be read"), "{output}");
}

#[tokio::test]
async fn predecessor_that_hangs_is_named() {
    let place = Place::new();
    let gateway = place.start().await;
    gateway.signal(Signal::STOP);
    let (port, config) = (place.port, place.config());
    let refused = tokio::task::spawn_blocking(move || Process::fail_on(port, &config));
    let refused = patiently("the refusal", refused).await.unwrap();
    let named = format!("kill -9 {}", gateway.id());
    assert!(refused.contains(&named), "{refused}");
    gateway.signal(Signal::CONT);
    // The timers of connections have run out meanwhile: the first request may get a 408.
    eventually("service", async || place.is_served().await).await;
}

#[tokio::test]
async fn address_in_use_says_how_it_could_be_taken_over() {
    let place = Place::new();
    let taken = TcpListener::bind(place.address()).unwrap();
    let refused = Process::fail_on(place.port, "");
    assert!(refused.contains("store.kind: disk"), "{refused}");
    let refused = Process::fail_on(place.port, &place.config());
    assert!(
        refused.contains("no gateway with this store.path"),
        "{refused}"
    );
    drop(taken);
    let _gateway = place.start().await;
    // Another folder is another gateway.
    let other = Place::new();
    let refused = Process::fail_on(place.port, &other.config());
    assert!(
        refused.contains("no gateway with this store.path"),
        "{refused}"
    );
    let config = place.config() + "server:\n  host: 0.0.0.0\n";
    let refused = Process::fail_on(place.port, &config);
    assert!(refused.contains(&place.address().to_string()), "{refused}");
    assert!(place.is_served().await);
}

#[tokio::test]
async fn takeover_works_below_a_long_path() {
    let mut place = Place::new();
    let deep = place.folder.path().join("x".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    place.folder = tempfile::TempDir::new_in(&deep).unwrap();
    let first = place.start().await;
    let _second = place.start().await;
    assert!(exit(first).await.0);
    assert!(place.is_served().await);
}

#[tokio::test]
async fn socket_of_systemd_is_served() {
    let place = Place::new();
    let port = place.port;
    // It starts the gateway for the first connection, which waits.
    let first = Request::new(place.address(), "GET", "/healthz");
    let starting = tokio::task::spawn_blocking(move || Process::start_activated(port, ""));
    eventually("the listener", async || {
        tokio::net::TcpStream::connect(place.address())
            .await
            .is_ok()
    })
    .await;
    assert_eq!(patiently("an answer", first.answer()).await.status, 200);
    let gateway = patiently("the start", starting).await.unwrap();
    assert_eq!(gateway.address, place.address());
    gateway.terminate();
    assert!(exit(gateway).await.0);
}
