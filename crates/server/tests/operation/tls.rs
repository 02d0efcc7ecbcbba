//! TLS and HTTP/2 on the listener: certificates, handshakes, streams of one connection.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::process::Process;
use crate::support::tls::{Http2, Pair, get_frame, openssl};
use crate::support::{World, chat, eventually, patiently, response, start, with};
use futures::future::join_all;
use futures::{SinkExt as _, StreamExt as _};
use h2::client::Builder;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokenwire::config::schema::Config;
use tokenwire::gateway::Gateway;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Frame types (RFC 9113, section 6).
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Error codes (RFC 9113, section 7).
const REFUSED_STREAM: u32 = 7;
const CANCEL: [u8; 4] = 8u32.to_be_bytes();
const ENHANCE_YOUR_CALM: u32 = 11;

/// Starts a gateway over TLS.
fn secured(pair: &Pair, change: impl FnOnce(&mut Config)) -> World {
    start(|config| {
        config.server.tls.cert = Some(pair.cert());
        config.server.tls.key = Some(pair.key());
        change(config);
    })
}

/// The lines that turn TLS on in a file.
fn lines(pair: &Pair) -> String {
    let (cert, key) = (pair.cert(), pair.key());
    format!("server:\n  shutdown_timeout: 20s\n  tls: {{cert: {cert}, key: {key}}}\n")
}

/// Returns what curl prints.
async fn curl(pair: &Pair, arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["-sSN", "--max-time", "30", "--cacert", &pair.cert()]);
    command.args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns a metric of the gateway.
async fn metric(http: &Http2, name: &str) -> Option<f64> {
    let text = http.get("/metrics").await.whole().await.unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// Binds a gateway, and returns why it does not start.
fn refusal(change: impl FnOnce(&mut Config)) -> String {
    let mut config = Config::default();
    config.server.port = 0;
    change(&mut config);
    let bound = actix_web::rt::System::new().block_on(async { Gateway::bind(config) });
    bound.expect_err("it started").to_string()
}

#[test]
fn wrong_files_stop_the_start_and_name_file_and_remedy() {
    let (pair, other) = (Pair::new(), Pair::new());
    let file = |name: &str, content: &[u8]| {
        fs::write(pair.folder().join(name), content).unwrap();
        pair.file(name)
    };
    let cert = fs::read(pair.cert()).unwrap();
    let text = file("text", b"hello\n");
    let half = file("half", &cert[..cert.len() / 2]);
    let (der, encrypted) = (pair.file("der"), pair.file("encrypted"));
    openssl(&["x509", "-in", &pair.cert(), "-outform", "der", "-out", &der]);
    let encrypt = ["-aes128", "-passout", "pass:secret", "-out", &encrypted];
    openssl(&[&["pkey", "-in", &pair.key()][..], &encrypt].concat());
    let folder = pair.folder().display().to_string();
    let (good, key, foreign) = (pair.cert(), pair.key(), other.key());
    for (cert, key, named, reason, remedy) in [
        (
            "/none/cert.pem",
            &*key,
            "/none/cert.pem",
            "No such file",
            "is the path right",
        ),
        (
            &good,
            "/none/key.pem",
            "/none/key.pem",
            "No such file",
            "is the path right",
        ),
        (
            &folder,
            &key,
            &folder,
            "Is a directory",
            "give a file in PEM",
        ),
        (
            &text,
            &key,
            &text,
            "no certificate in PEM",
            "BEGIN CERTIFICATE",
        ),
        (&half, &key, &half, "not valid PEM", "copy the file again"),
        (&der, &key, &der, "not PEM but DER", "openssl x509"),
        (
            &key,
            &good,
            &key,
            "a private key and no certificate",
            "swapped",
        ),
        (
            &good,
            &good,
            &good,
            "a certificate and no private key",
            "swapped",
        ),
        (
            &good,
            &text,
            &text,
            "no private key in PEM",
            "BEGIN PRIVATE KEY",
        ),
        (&good, &encrypted, &encrypted, "encrypted", "openssl pkey"),
        (
            &good,
            &foreign,
            &foreign,
            "is not the key of the certificate",
            "the same certificate",
        ),
    ] {
        let text = refusal(|config| {
            config.server.tls.cert = Some(cert.to_owned());
            config.server.tls.key = Some(key.to_owned());
        });
        assert!(text.starts_with("server.tls."), "{text}");
        for part in [named, reason, remedy] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
}

#[tokio::test]
async fn expired_certificate_is_served_with_a_warning() {
    let pair = Pair::expired();
    let gateway = Process::start(&lines(&pair), &[]);
    let refused = pair.connect(gateway.address, &["h2"]).await.unwrap_err();
    assert!(
        refused.to_string().to_lowercase().contains("expired"),
        "{refused}"
    );
    gateway.terminate();
    let (_, output) = tokio::task::spawn_blocking(|| gateway.output())
        .await
        .unwrap();
    assert!(output.contains("expired at 20"), "{output}");
}

#[tokio::test]
async fn curl_reads_the_same_bytes_over_plain_tls_and_http2() {
    let pair = Pair::new();
    let world = secured(&pair, |_| {});
    let plain = start(|_| {});
    let request = |address: SocketAddr| format!("localhost:{}", address.port());
    let (secure, open) = (request(world.address), request(plain.address));
    let body = response("tokens=20 text=count seed=1").to_string();
    let mut texts = Vec::new();
    for (base, options) in [
        (format!("http://{open}"), &["--http1.1"][..]),
        (format!("https://{secure}"), &["--http1.1"]),
        (format!("https://{secure}"), &["--http2"]),
    ] {
        let streams = format!("{base}/v1/streams");
        let start = [options, &["-d", &body, &streams]].concat();
        let text = curl(&pair, &start).await;
        assert!(text.starts_with("retry: 2000\n"), "{text}");
        let id = text.split("\nid: ").nth(1).unwrap();
        let id = id.split_once('.').unwrap().0.to_owned();
        // Read again, so that the head and the bytes of one stream are compared.
        let again = format!("{base}/v1/streams/{id}");
        let print = ["-w", "\n%{http_version} %{content_type}", &again];
        let (again, version) = {
            let text = curl(&pair, &[options, &print].concat()).await;
            let (text, version) = text.rsplit_once('\n').unwrap();
            (text.to_owned(), version.to_owned())
        };
        assert_eq!(text, again);
        texts.push((text.replace(&id, "ID"), version));
    }
    let events = |text: &str| crate::support::sse::parse(text).len();
    let versions: Vec<&str> = texts.iter().map(|(_, version)| &**version).collect();
    assert_eq!(
        versions,
        [
            "1.1 text/event-stream",
            "1.1 text/event-stream",
            "2 text/event-stream"
        ]
    );
    for (text, _) in &texts {
        assert_eq!(events(text), events(&texts[0].0));
        assert!(
            text.contains("t19") && text.contains("response.completed"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn plain_http_on_the_port_of_tls_is_told_so() {
    let pair = Pair::new();
    let world = secured(&pair, |_| {});
    let answer = world.get("/healthz").answer().await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("https://"), "{}", answer.text());
    let http = pair.http2(world.address).await;
    let counted = metric(
        &http,
        "tokenwire_tls_handshakes_total{result=\"plain_http\"}",
    )
    .await;
    assert_eq!(counted, Some(1.0));
}

#[tokio::test]
async fn files_are_read_again_under_an_open_stream() {
    let (pair, later) = (Pair::new(), Pair::new());
    let auth =
        "auth:\n  keys:\n    - {owner: op, key: sk-tw-operator-operator-oper, role: operator}\n";
    let gateway = Process::start(&format!("{}{auth}", lines(&pair)), &[]);
    let bearer = [("authorization", "Bearer sk-tw-operator-operator-oper")];
    let first = pair.http2(gateway.address).await;
    let body = response("tokens=2000 tbt=10ms text=count");
    let mut stream = first
        .ask("POST", "/v1/streams", &bearer, Some(&body))
        .await
        .unwrap();
    stream.until("\" t1\"").await;
    let before = Pair::new();
    before.replace(&pair);
    pair.replace(&later);
    eventually("the new certificate", async || {
        later.connect(gateway.address, &["h2"]).await.is_ok()
    })
    .await;
    assert!(before.connect(gateway.address, &["h2"]).await.is_err());
    // A key that fits another certificate.
    fs::write(pair.key(), fs::read(before.key()).unwrap()).unwrap();
    let second = later.http2(gateway.address).await;
    let asked = async || {
        let answer = second
            .ask("POST", "/admin/reload", &bearer, Some(&json!({})))
            .await
            .unwrap();
        let status = answer.status.as_u16();
        (
            status,
            serde_json::from_str::<Value>(&answer.whole().await.unwrap()).unwrap(),
        )
    };
    let (status, refused) = asked().await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(
        status >= 400 && message.contains(&pair.key()),
        "{status} {refused}"
    );
    let metrics = second.ask("GET", "/metrics", &bearer, None).await.unwrap();
    let metrics = metrics.whole().await.unwrap();
    assert!(
        metrics.contains("tokenwire_config_last_reload_successful 0"),
        "{metrics}"
    );
    later.connect(gateway.address, &["h2"]).await.unwrap();
    // A key is added meanwhile.
    let alice = "    - {owner: alice, key: sk-tw-alice-alice-alice-alice}\n";
    gateway.configure(&format!("{}{auth}{alice}", lines(&pair)));
    let (status, _) = asked().await;
    let added = [("authorization", "Bearer sk-tw-alice-alice-alice-alice")];
    let models = second.ask("GET", "/v1/models", &added, None).await;
    assert_eq!((status, models.unwrap().status.as_u16()), (422, 200));
    pair.replace(&later);
    // Nothing has changed, seen from the last good files.
    let (status, reloaded) = asked().await;
    assert_eq!(
        (status, &reloaded["changed"]),
        (200, &json!([])),
        "{reloaded}"
    );
    // A certificate is renewed while the configuration is wrong.
    gateway.configure("nonsense: 1\n");
    let (status, _) = asked().await;
    assert_eq!(status, 422);
    pair.replace(&before);
    eventually("the renewed certificate", async || {
        before.connect(gateway.address, &["h2"]).await.is_ok()
    })
    .await;
    stream.until("\" t100\"").await;
    stream.request.send_reset(h2::Reason::CANCEL);
    gateway.terminate();
    let (_, output) = tokio::task::spawn_blocking(|| gateway.output())
        .await
        .unwrap();
    assert!(
        output.contains("is not the key of the certificate"),
        "{output}"
    );
}

#[tokio::test]
async fn streams_of_a_connection_are_bounded_and_counted() {
    let pair = Pair::new();
    let world = secured(&pair, |_| {});
    let (http, watch) = (
        pair.http2(world.address).await,
        pair.http2(world.address).await,
    );
    let body = chat("ttft=1h");
    // Twenty more than are allowed: they wait in the client.
    let streams = (0..148).map(|_| http.post("/v1/streams", &body));
    let mut streams: Vec<_> = streams.map(Box::pin).collect();
    let open = join_all(streams.drain(..128));
    let open = patiently("128 streams", open).await;
    assert!(open.iter().all(|answer| answer.status == 200));
    let counted = metric(&watch, "tokenwire_http2_streams").await;
    // And the one that asks.
    assert_eq!(counted, Some(129.0));
    assert_eq!(
        metric(&watch, "tokenwire_http2_connections").await,
        Some(2.0)
    );
    let mut next = Box::pin(http.get("/healthz"));
    assert!(futures::poll!(&mut next).is_pending());
    drop(open);
    assert_eq!(patiently("a free stream", next).await.status, 200);
}

#[tokio::test]
async fn stream_past_the_bound_is_refused() {
    let pair = Pair::new();
    let world = secured(&pair, |config| config.limits.streams_per_connection = 2);
    let mut raw = pair.raw_http2(world.address).await;
    let settings = raw.next(SETTINGS).await.unwrap().3;
    // MAX_CONCURRENT_STREAMS is setting 3.
    assert!(
        settings.chunks(6).any(|one| one == [0, 3, 0, 0, 0, 2]),
        "{settings:?}"
    );
    let path = "/v1/streams?input=%5B%5Bttft=1h%5D%5D";
    let frames: Vec<_> = [1, 3, 5].map(|stream| get_frame(stream, path)).into();
    raw.send(&frames).await;
    let (.., stream, code) = raw.next(RST_STREAM).await.unwrap();
    assert_eq!((stream, code), (5, REFUSED_STREAM.to_be_bytes().to_vec()));
}

#[tokio::test]
async fn further_streams_count_for_the_limit_of_an_address() {
    let pair = Pair::new();
    let world = secured(&pair, |config| {
        config.server.max_connections_per_address = 3
    });
    let http = pair.http2(world.address).await;
    let body = chat("ttft=1h");
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(http.post("/v1/streams", &body).await);
    }
    let refused = http.post("/v1/streams", &body).await;
    assert_eq!(refused.status, 429);
    assert!(
        refused
            .whole()
            .await
            .unwrap()
            .contains("max_connections_per_address")
    );
    drop(open);
    eventually("free places", async || {
        http.post("/v1/streams", &body).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn reset_cancels_as_a_closed_socket_does() {
    let pair = Pair::new();
    let world = secured(&pair, |config| {
        config.streams.disconnect_grace = Duration::ZERO
    });
    let http = pair.http2(world.address).await;
    for (number, path) in ["/v1/streams", "/v1/chat/completions", "/v1/streams"]
        .iter()
        .enumerate()
    {
        let silent = chat("ttft=1h");
        let before = world.simulator.stats().aborted;
        let mut answer = if number == 1 {
            let started = chat("tokens=3600 tbt=1s");
            http.post(path, &started).await
        } else {
            http.post(path, &silent).await
        };
        world
            .upstream_saw("a request", |stats| stats.requests > number as u64)
            .await;
        answer.request.send_reset(h2::Reason::CANCEL);
        world
            .upstream_saw("the abort", |stats| stats.aborted > before)
            .await;
    }
    // The connection goes on.
    assert_eq!(http.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn slow_reader_holds_up_no_other_stream_and_is_reset() {
    let pair = Pair::new();
    let world = secured(&pair, |config| {
        config.streams.slow_reader_timeout = Duration::from_secs(2);
    });
    let mut builder = Builder::new();
    builder
        .initial_window_size(20_000)
        .initial_connection_window_size(1 << 20);
    let http = pair.http2_with(world.address, &builder).await;
    let mut slow = http
        .post("/v1/streams", &response("tokens=2000 size=100"))
        .await;
    let mut received = 0;
    while received < 20_000 {
        // Taken from the window, and not given back.
        let data = patiently("a piece", slow.stream.data())
            .await
            .unwrap()
            .unwrap();
        received += data.len();
    }
    assert_eq!(received, 20_000);
    for _ in 0..3 {
        let other = http
            .post("/v1/streams", &response("tokens=2000 size=100"))
            .await;
        let text = other.whole().await.unwrap();
        assert!(text.len() > 200_000 && text.contains("response.completed"));
    }
    let error = patiently("the reset", slow.stream.data())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "{error}");
    assert_eq!(http.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn goaway_at_drain_lets_running_streams_end() {
    let pair = Pair::new();
    let gateway = Process::start(&lines(&pair), &[]);
    let http = pair.http2(gateway.address).await;
    let body = with(
        chat("tokens=150 tbt=10ms text=count"),
        json!({"model": "simulator"}),
    );
    let mut stream = http.post("/v1/chat/completions", &body).await;
    stream.until("\" t1\"").await;
    gateway.signal(Signal::TERM);
    // Of the client's own library, which has received GOAWAY.
    eventually("GOAWAY", async || {
        let asked = http.ask("GET", "/healthz", &[], None).await;
        asked.is_err_and(|error| {
            error.is_go_away() || error.is_library() || error.reason().is_none()
        })
    })
    .await;
    let text = stream.whole().await.unwrap();
    assert!(text.contains("t149") && text.contains("[DONE]"), "{text}");
    patiently("the end of the connection", http.connection)
        .await
        .unwrap()
        .unwrap();
    let ended = tokio::task::spawn_blocking(|| gateway.output());
    assert!(patiently("the end of the process", ended).await.unwrap().0);
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    let pair = Pair::new();
    let world = secured(&pair, |_| {});
    let mut raw = pair.raw_http2(world.address).await;
    let mut frames = Vec::new();
    for number in 0..5_000 {
        let stream = 2 * number + 1;
        frames.push(get_frame(stream, "/healthz"));
        frames.push((RST_STREAM, 0, stream, CANCEL.to_vec()));
    }
    for part in frames.chunks(200) {
        raw.send(part).await;
    }
    let (.., payload) = raw.next(GOAWAY).await.unwrap();
    assert_eq!(payload[4..8], ENHANCE_YOUR_CALM.to_be_bytes());
    while raw.frame().await.is_some() {}
    let http = pair.http2(world.address).await;
    assert_eq!(http.get("/healthz").await.status, 200);
    // The first one is read for a while, so that the client receives GOAWAY.
    eventually("the close", async || {
        metric(&http, "tokenwire_http2_connections").await == Some(1.0)
    })
    .await;
}

#[tokio::test]
async fn silent_handshakes_are_closed() {
    let pair = Pair::new();
    let world = secured(&pair, |_| {});
    let silent = TcpStream::connect(world.address).await.unwrap();
    let mut half = TcpStream::connect(world.address).await.unwrap();
    // The header of a record of 256 bytes, which does not follow.
    half.write_all(&[22, 3, 1, 1, 0, 1]).await.unwrap();
    // TLS, and then no preface of HTTP/2.
    let mut secured = pair.connect(world.address, &["h2"]).await.unwrap();
    let mut buffer = Vec::new();
    for mut socket in [silent, half] {
        let closed = patiently("the close", socket.read_to_end(&mut buffer)).await;
        assert!(closed.is_err() || buffer.is_empty(), "{buffer:?}");
    }
    let _ = patiently("the close", secured.read_to_end(&mut buffer)).await;
    let http = pair.http2(world.address).await;
    let counted = metric(&http, "tokenwire_tls_handshakes_total{result=\"timeout\"}").await;
    assert_eq!(counted, Some(2.0));
}

#[tokio::test]
async fn silent_sockets_do_not_keep_operations_out() {
    let pair = Pair::new();
    let world = secured(&pair, |config| config.limits.connections = 1);
    let mut silent = Vec::new();
    for _ in 0..65 {
        silent.push(TcpStream::connect(world.address).await.unwrap());
    }
    let begun = Instant::now();
    eventually("an answer", async || {
        let connected = pair.connect(world.address, &["http/1.1"]).await;
        let Ok(mut stream) = connected else {
            return false;
        };
        let get = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let mut answer = String::new();
        let _ = stream.write_all(get.as_bytes()).await;
        let _ = stream.read_to_string(&mut answer).await;
        answer.starts_with("HTTP/1.1 200")
    })
    .await;
    // Their handshakes have 10 s.
    assert!(begun.elapsed() < Duration::from_secs(8));
    drop(silent);
}

#[tokio::test]
async fn websocket_runs_over_tls() {
    use tokio_tungstenite::tungstenite::Message;
    let pair = Pair::new();
    let world = secured(&pair, |_| {});
    let stream = pair.connect(world.address, &["http/1.1"]).await.unwrap();
    let url = format!("wss://localhost:{}/v1/ws", world.address.port());
    let connected = tokio_tungstenite::client_async(url, stream).await;
    let (mut socket, _) = connected.unwrap();
    let create = json!({"type": "response.create", "input": "[[tokens=50 tbt=2ms text=count]]"});
    for _ in 0..2 {
        socket
            .send(Message::text(create.to_string()))
            .await
            .unwrap();
        let mut last = String::new();
        while !last.contains("\"response.completed\"") {
            let message = patiently("a message", socket.next())
                .await
                .unwrap()
                .unwrap();
            last = message.to_text().unwrap().to_owned();
        }
        assert!(last.contains("t49"), "{last}");
    }
}

#[tokio::test]
async fn origins_are_those_of_https() {
    let pair = Pair::new();
    let world = secured(&pair, |config| config.server.allow_loopback_origins = false);
    let http = pair.http2(world.address).await;
    let body = response("tokens=1");
    let own = format!("https://localhost:{}", world.address.port());
    let plain = own.replace("https", "http");
    for (origin, status) in [(&*own, 200), (&*plain, 403), ("https://evil.example", 403)] {
        let headers = [("origin", origin)];
        let asked = http.ask("POST", "/v1/streams", &headers, Some(&body)).await;
        assert_eq!(asked.unwrap().status, status, "{origin}");
        let port = world.address.port();
        let line = format!("https://localhost:{port}/v1/streams");
        let header = format!("origin: {origin}");
        let print = ["-o", "/dev/null", "-w", "%{http_code}"];
        let data = body.to_string();
        let old = ["--http1.1", "-H", &header, "-d", &data, &line];
        let printed = curl(&pair, &[&old[..], &print].concat()).await;
        assert_eq!(printed, status.to_string(), "{origin}");
    }
    let rebound = http
        .ask("GET", "/v1/models", &[("host", "evil.example")], None)
        .await;
    assert_eq!(rebound.unwrap().status, 403);
}

#[tokio::test]
async fn cookie_is_set_over_tls() {
    const KEY: &str = "sk-tw-alice-alice-alice-alice";
    let pair = Pair::new();
    let auth = format!("auth:\n  keys:\n    - {{owner: alice, key: {KEY}}}\n");
    let gateway = Process::start(&format!("{}{auth}", lines(&pair)), &[]);
    let http = pair.http2(gateway.address).await;
    let bearer = format!("Bearer {KEY}");
    let bearer = [("authorization", &*bearer)];
    let ask = json!({"may": ["read", "start"], "cookie": true});
    let made = http
        .ask("POST", "/v1/tickets", &bearer, Some(&ask))
        .await
        .unwrap();
    let cookie = made.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(
        cookie.starts_with("__Host-tokenwire=") && cookie.contains("; Secure;"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap();
    // Browsers send each cookie in a header of its own.
    let own = format!("https://localhost:{}", gateway.address.port());
    let headers = [("cookie", "a=b"), ("cookie", cookie), ("origin", &*own)];
    let usable = http.ask("GET", "/v1/models", &headers, None).await.unwrap();
    assert_eq!(usable.status, 200);
    let headers = [("cookie", "a=b"), ("origin", &*own)];
    let without = http.ask("GET", "/v1/models", &headers, None).await.unwrap();
    assert_eq!(without.status, 401);
}
