//! Traces: `traceparent` in and out, spans and metrics over OTLP, ids in log lines.
//!
//! `cargo xtask test --only telemetry` reads the exports with the official protobufs. Without them
//! the tests look at the bytes only.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::support::process::Process;
use crate::support::{Request, World, chat, eventually, patiently, response, start};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokenwire::config::schema::{Config, OptIn, Ratio};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Set to a Python that has the official protobufs.
const PYTHON: &str = "TELEMETRY_PYTHON";

/// What a collector does with an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Exports,
    /// The first ones are answered with 503.
    After(usize),
    /// None is answered.
    Nothing,
}

/// One request to a collector.
#[derive(Clone, Debug)]
struct Export {
    path: String,
    head: String,
    body: Vec<u8>,
}

/// A collector that keeps what it gets.
struct Collector {
    address: SocketAddr,
    exports: Arc<Mutex<Vec<Export>>>,
    came: Arc<Notify>,
}

impl Collector {
    async fn start(takes: Takes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let exports: Arc<Mutex<Vec<Export>>> = Arc::default();
        let came = Arc::new(Notify::new());
        let (kept, told) = (exports.clone(), came.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(answer(socket, takes, kept.clone(), told.clone()));
            }
        });
        Self {
            address,
            exports,
            came,
        }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until what was received is enough.
    async fn until(&self, what: &str, mut enough: impl FnMut(&[Export]) -> bool) {
        patiently(what, async {
            loop {
                let told = self.came.notified();
                if enough(&self.exports.lock()) {
                    return;
                }
                told.await;
            }
        })
        .await;
    }

    /// Waits until the bytes of all exports of spans contain each of these texts.
    async fn until_spans_say(&self, texts: &[&str]) {
        self.until(&format!("{texts:?}"), |exports| {
            let all = of(exports, "/v1/traces");
            texts.iter().all(|text| contains(&all, text))
        })
        .await;
    }
}

fn of(exports: &[Export], path: &str) -> Vec<u8> {
    let of_path = exports.iter().filter(|export| export.path == path);
    of_path.flat_map(|export| export.body.clone()).collect()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    memchr::memmem::find(bytes, text.as_bytes()).is_some()
}

async fn answer(
    mut socket: TcpStream,
    takes: Takes,
    kept: Arc<Mutex<Vec<Export>>>,
    told: Arc<Notify>,
) {
    let mut received = Vec::new();
    loop {
        let head_end = memchr::memmem::find(&received, b"\r\n\r\n");
        if let Some(end) = head_end {
            let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
            if received.len() >= end + 4 + length {
                let rest = received.split_off(end + 4 + length);
                let body = received.split_off(end + 4);
                let path = head.split(' ').nth(1).unwrap().to_owned();
                received = rest;
                let count = {
                    let mut kept = kept.lock();
                    kept.push(Export { path, head, body });
                    kept.len()
                };
                told.notify_waiters();
                let status = match takes {
                    Takes::Exports => "200 OK",
                    Takes::After(refused) if count > refused => "200 OK",
                    Takes::After(_) => "503 Busy\r\nretry-after: 0",
                    Takes::Nothing => return std::future::pending().await,
                };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                socket.write_all(answer.as_bytes()).await.unwrap();
                continue;
            }
        }
        if !matches!(socket.read_buf(&mut received).await, Ok(1..)) {
            return;
        }
    }
}

/// Reads exports with the official protobufs, where they are installed.
fn decode(exports: &[Export], path: &str) -> Option<Vec<Value>> {
    let Some(python) = std::env::var_os(PYTHON) else {
        eprintln!("{PYTHON} is not set: the exports are not decoded");
        return None;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/telemetry/decode.py");
    let mut child = Command::new(python)
        .args(["-B", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for export in exports.iter().filter(|export| export.path == path) {
        let body = STANDARD.encode(&export.body);
        writeln!(stdin, "{} {body}", export.path).unwrap();
    }
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the exports cannot be decoded");
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines();
    Some(
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    )
}

/// A span as the protobufs show it, with its attributes by name.
#[derive(Debug)]
struct Span(Value);

impl Span {
    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_default()
    }

    fn attribute(&self, key: &str) -> Value {
        let attributes = self.0["attributes"].as_array().unwrap();
        let found = attributes.iter().find(|attribute| attribute["key"] == key);
        let value = found.map(|found| &found["value"]);
        let value = value.and_then(|value| value.as_object()?.values().next());
        value.cloned().unwrap_or_default()
    }

    fn events(&self) -> Vec<&str> {
        let events = self.0["events"].as_array().into_iter().flatten();
        events
            .map(|event| event["name"].as_str().unwrap())
            .collect()
    }
}

fn spans(exports: &[Value]) -> Vec<Span> {
    let scopes = exports.iter().flat_map(|export| {
        let resources = export["resourceSpans"].as_array().unwrap();
        resources
            .iter()
            .flat_map(|one| one["scopeSpans"].as_array().unwrap())
    });
    let spans = scopes.flat_map(|scope| scope["spans"].as_array().unwrap().clone());
    spans.map(Span).collect()
}

fn traced(config: &mut Config, collector: &Collector, ratio: f64) {
    config.telemetry.otlp.endpoint = Some(collector.url());
    config.telemetry.otlp.traces = Ratio(ratio);
}

/// The trace headers of the last request that the upstream received.
fn sent_up(world: &World) -> (Option<String>, Option<String>) {
    let record = world.last_request();
    let value = |wanted: &str| {
        let mut headers = record.headers.iter();
        let found = headers.find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone())
    };
    (value("traceparent"), value("tracestate"))
}

#[tokio::test]
async fn without_traces_a_valid_traceparent_goes_up_as_it_is() {
    let world = start(|_| {});
    let ask = |headers: &[(&str, &str)]| {
        let post = world.post("/v1/chat/completions", &chat("tokens=1"));
        headers
            .iter()
            .fold(post, |post, (name, value)| post.header(name, value))
    };
    let long = format!("a=1,long={},b=2", "x".repeat(520));
    for (headers, expected) in [
        (&[][..], (None, None)),
        (&[("traceparent", PARENT)], (Some(PARENT), None)),
        (
            &[
                ("traceparent", PARENT),
                ("tracestate", "a=1, b=2"),
                ("tracestate", "c=3"),
            ],
            (Some(PARENT), Some("a=1,b=2,c=3")),
        ),
        (
            &[("traceparent", PARENT), ("tracestate", "A=1")],
            (Some(PARENT), None),
        ),
        (
            &[("traceparent", PARENT), ("tracestate", long.as_str())],
            (Some(PARENT), None),
        ),
        // An invalid one counts as none, and its state too.
        (
            &[("traceparent", "00-1"), ("tracestate", "a=1")],
            (None, None),
        ),
        (
            &[
                ("traceparent", &PARENT.to_uppercase()),
                ("tracestate", "a=1"),
            ],
            (None, None),
        ),
        (
            &[("traceparent", PARENT), ("traceparent", PARENT)],
            (None, None),
        ),
    ] {
        assert_eq!(ask(headers).answer().await.status, 200);
        let (parent, state) = sent_up(&world);
        assert_eq!(
            (parent.as_deref(), state.as_deref()),
            expected,
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn traceparent_goes_up_only_where_it_is_listed() {
    let collector = Collector::start(Takes::Exports).await;
    let world = start(|config| {
        traced(config, &collector, 1.0);
        config.forward_headers.0.clear();
    });
    let post = world.post("/v1/responses", &response("tokens=1"));
    let post = post
        .header("traceparent", PARENT)
        .header("tracestate", "a=1");
    assert_eq!(post.answer().await.status, 200);
    assert_eq!(sent_up(&world), (None, None));
    collector
        .until_spans_say(&["/v1/responses", "tokenwire.end"])
        .await;
}

#[tokio::test]
async fn client_decides_whether_its_trace_is_recorded_and_the_upstream_is_told() {
    let collector = Collector::start(Takes::Exports).await;
    let world = start(|config| traced(config, &collector, 1.0));
    let ask = async |parent: &str| {
        let post = world.post("/v1/chat/completions", &chat("tokens=1"));
        let post = post
            .header("traceparent", parent)
            .header("tracestate", "a=1");
        assert_eq!(post.answer().await.status, 200);
        sent_up(&world)
    };
    let unrecorded = PARENT.replace("-01", "-00").replace("0af7", "eeee");
    let (parent, state) = ask(&unrecorded).await;
    assert_eq!(parent.as_deref(), Some(unrecorded.as_str()));
    assert_eq!(state.as_deref(), Some("a=1"));
    let (parent, state) = ask(PARENT).await;
    let parent = parent.unwrap();
    assert!(
        parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-01"),
        "{parent}"
    );
    assert_ne!(parent, PARENT);
    assert_eq!(state.as_deref(), Some("a=1"));
    // A trace begins where there is no valid one.
    let (parent, state) = ask("00-1").await;
    let parent = parent.unwrap();
    assert!(
        parent.starts_with("00-") && parent.ends_with("-01"),
        "{parent}"
    );
    assert!(!parent.contains(TRACE), "{parent}");
    assert_eq!(state, None);
    collector
        .until("three spans each of two requests", |exports| {
            let all = of(exports, "/v1/traces");
            memchr::memmem::find_iter(&all, "tokenwire.request_id").count() == 2
                && memchr::memmem::find_iter(&all, "tokenwire.end").count() == 2
        })
        .await;
    let all = of(&collector.exports.lock(), "/v1/traces");
    assert_eq!(memchr::memmem::find_iter(&all, &hex(TRACE)).count(), 3);
}

#[tokio::test]
async fn ratio_decides_over_traces_that_begin_here() {
    let collector = Collector::start(Takes::Exports).await;
    let world = start(|config| traced(config, &collector, 0.25));
    let (mut recorded, total) = (0, 200);
    for _ in 0..total {
        let post = world.post("/v1/chat/completions", &chat("tokens=1"));
        assert_eq!(post.answer().await.status, 200);
        recorded += usize::from(sent_up(&world).0.unwrap().ends_with("-01"));
    }
    // Outside of these bounds once in a billion runs.
    assert!((10..=95).contains(&recorded), "{recorded}");
}

#[tokio::test]
async fn request_generation_and_attempts_are_spans_of_one_trace_without_content() {
    const SECRET: &str = "MarkedContent";
    let collector = Collector::start(Takes::Exports).await;
    let world = start(|config| {
        traced(config, &collector, 1.0);
        let headers = &mut config.telemetry.otlp.headers;
        headers.insert("authorization".to_owned(), "Basic a b".to_owned().into());
        config.retry.backoff = Duration::ZERO;
    });
    let steering = "[[fault=status,code=500,times=1,id=a,tokens=3]]";
    let body = json!({
        "model": "simulator", "stream": true, "instructions": SECRET, "metadata": {"a": SECRET},
        "input": format!("{SECRET} {steering}"),
    });
    let path = format!("/v1/responses?x={SECRET}");
    let post = world.post(&path, &body).header("traceparent", PARENT);
    let answer = post.header("x-other", SECRET).answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let attempts = world.simulator.requests().len();
    collector
        .until_spans_say(&["tokenwire.first_token", "http.route", "gen_ai.response.id"])
        .await;
    let exports = collector.exports.lock().clone();
    for export in &exports {
        assert!(!contains(&export.body, SECRET));
        assert!(
            export.head.contains("content-type: application/x-protobuf"),
            "{}",
            export.head
        );
        assert!(
            export.head.contains("authorization: basic a b"),
            "{}",
            export.head
        );
    }
    let Some(decoded) = decode(&exports, "/v1/traces") else {
        return;
    };
    let spans = spans(&decoded);
    let trace = STANDARD.encode(hex(TRACE));
    assert!(
        spans.iter().all(|span| span.text("traceId") == trace),
        "{spans:?}"
    );
    let find = |name: &str| {
        spans
            .iter()
            .filter(|span| span.text("name") == name)
            .collect::<Vec<_>>()
    };
    let [server] = find("POST /v1/responses")[..] else {
        panic!("{spans:?}");
    };
    let [generation] = find("chat simulator")[..] else {
        panic!("{spans:?}");
    };
    let tries = find("POST");
    assert_eq!(
        (tries.len(), spans.len()),
        (attempts, attempts + 2),
        "{spans:?}"
    );
    assert_eq!(
        server.text("parentSpanId"),
        STANDARD.encode(hex("b7ad6b7169203331"))
    );
    assert_eq!(server.text("kind"), "SPAN_KIND_SERVER");
    assert_eq!(server.attribute("http.response.status_code"), "200");
    assert_eq!(server.attribute("url.path"), "/v1/responses");
    let request_id = answer.header("x-request-id").unwrap();
    assert_eq!(server.attribute("tokenwire.request_id"), request_id);
    assert_eq!(generation.text("parentSpanId"), server.text("spanId"));
    assert_eq!(generation.attribute("gen_ai.operation.name"), "chat");
    assert_eq!(generation.attribute("gen_ai.response.id"), answer.id());
    assert_eq!(generation.attribute("gen_ai.usage.output_tokens"), "3");
    assert_eq!(generation.attribute("tokenwire.status"), "completed");
    for tried in &tries {
        assert_eq!(tried.text("parentSpanId"), generation.text("spanId"));
        assert_eq!(tried.text("kind"), "SPAN_KIND_CLIENT");
        assert_eq!(tried.attribute("server.address"), "127.0.0.1");
        assert_eq!(tried.attribute("tokenwire.upstream"), "upstream");
        assert_eq!(tried.events().last(), Some(&"tokenwire.end"));
    }
    let answered: Vec<_> = tries
        .iter()
        .filter(|span| span.events().len() == 2)
        .collect();
    assert_eq!(answered.len(), 1, "{tries:?}");
    assert_eq!(answered[0].attribute("http.response.status_code"), "200");
    let refused = tries
        .iter()
        .filter(|span| span.attribute("error.type") == "500")
        .count();
    assert_eq!(refused, attempts - 1);
    let first = &decoded[0]["resourceSpans"][0];
    assert_eq!(
        first["schemaUrl"],
        "https://opentelemetry.io/schemas/1.37.0"
    );
    let times = [server, generation, answered[0]].map(|span| {
        let time = |name| span.text(name).parse::<u64>().unwrap();
        (time("startTimeUnixNano"), time("endTimeUnixNano"))
    });
    assert!(times.iter().all(|(start, end)| start <= end), "{times:?}");
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let age = now - u128::from(times[0].0);
    assert!(age < Duration::from_secs(600).as_nanos(), "{age}");
}

fn hex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[tokio::test]
async fn collector_that_hangs_costs_spans_and_nothing_else() {
    let collector = Collector::start(Takes::Nothing).await;
    let world = start(|config| {
        traced(config, &collector, 1.0);
        config.telemetry.otlp.metrics = true;
        config.telemetry.otlp.timeout = Duration::from_millis(100);
    });
    let ask = async || {
        let post = world.post("/v1/chat/completions", &chat("tokens=1"));
        assert_eq!(post.answer().await.status, 200);
    };
    ask().await;
    collector
        .until("an export", |exports| !exports.is_empty())
        .await;
    // The export hangs, and requests are answered.
    for _ in 0..20 {
        ask().await;
    }
    let count = async |name: &str| -> u64 {
        let page = world.get("/metrics").answer().await.text().to_owned();
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    eventually("failed exports to be counted", async || {
        count("tokenwire_otlp_spans_total{result=\"failed\"}").await > 0
            && count("tokenwire_otlp_metrics_exports_total{result=\"failed\"}").await > 0
    })
    .await;
    assert_eq!(
        count("tokenwire_otlp_spans_total{result=\"sent\"}").await,
        0
    );
    ask().await;
}

#[tokio::test]
async fn export_is_repeated_until_the_collector_takes_it() {
    let collector = Collector::start(Takes::After(2)).await;
    let world = start(|config| traced(config, &collector, 1.0));
    let post = world.post("/v1/chat/completions", &chat("tokens=1"));
    assert_eq!(post.answer().await.status, 200);
    collector
        .until("three attempts", |exports| exports.len() >= 3)
        .await;
    let exports = collector.exports.lock().clone();
    assert_eq!(exports[0].body, exports[1].body);
    assert_eq!(exports[0].body, exports[2].body);
    eventually("sent spans to be counted", async || {
        let page = world.get("/metrics").answer().await.text().to_owned();
        page.contains("tokenwire_otlp_spans_total{result=\"sent\"} 3")
    })
    .await;
}

#[tokio::test]
async fn spans_are_sent_before_the_process_ends() {
    let collector = Collector::start(Takes::Exports).await;
    let gateway = Process::start(
        &format!(
            "telemetry: {{otlp: {{endpoint: '{}', traces: 1}}}}",
            collector.url()
        ),
        &[],
    );
    let post =
        Request::new(gateway.address, "POST", "/v1/streams").body("{\"input\": \"[[tokens=1]]\"}");
    let answer = post.answer().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    gateway.terminate();
    let (ended_well, output) = tokio::task::spawn_blocking(|| gateway.output())
        .await
        .unwrap();
    assert!(ended_well, "{output}");
    let all = of(&collector.exports.lock(), "/v1/traces");
    for text in ["/v1/streams", "gen_ai.response.id", "tokenwire.end"] {
        assert!(contains(&all, text), "{text}");
    }
}

#[tokio::test]
async fn metrics_are_sent_under_their_own_names_and_those_of_the_conventions() {
    for (opt_in, present, absent) in [
        (
            Vec::new(),
            [
                "gen_ai.client.token.usage",
                "gen_ai.client.operation.duration",
            ],
            "gen_ai.client.inference.",
        ),
        (
            vec![OptIn::GenAiLatestExperimental],
            [
                "gen_ai.client.inference.usage.output_tokens",
                "gen_ai.client.inference.duration",
            ],
            "gen_ai.client.token.usage",
        ),
    ] {
        let is_released = opt_in.is_empty();
        let collector = Collector::start(Takes::Exports).await;
        let world = start(|config| {
            let otlp = &mut config.telemetry.otlp;
            otlp.endpoint = Some(collector.url());
            otlp.metrics = true;
            otlp.interval = Duration::from_millis(100);
            otlp.opt_in = opt_in;
        });
        let post = world.post("/v1/responses", &response("tokens=7"));
        assert_eq!(post.answer().await.status, 200);
        world.idle().await;
        // One export may be under way that was begun before the generation ended.
        let before = collector.exports.lock().len();
        let mut last = Vec::new();
        collector
            .until("metrics of the generation", |exports| {
                last = exports
                    .get(before + 1..)
                    .and_then(|exports| exports.last())
                    .map(|export| export.body.clone())
                    .unwrap_or_default();
                present.iter().all(|name| contains(&last, name))
            })
            .await;
        assert!(contains(&last, "tokenwire_generations_started"));
        assert!(!contains(&last, absent));
        assert!(of(&collector.exports.lock(), "/v1/traces").is_empty());
        let export = Export {
            path: "/v1/metrics".to_owned(),
            head: String::new(),
            body: last,
        };
        let Some(decoded) = decode(&[export], "/v1/metrics") else {
            continue;
        };
        let metrics = &decoded[0]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"];
        let metrics = metrics.as_array().unwrap();
        let find = |name: &str| {
            let found = metrics.iter().find(|metric| metric["name"] == name);
            found.unwrap_or_else(|| panic!("no {name}"))
        };
        let page = world.get("/metrics").answer().await.text().to_owned();
        let exposed = page
            .lines()
            .filter(|line| line.starts_with("# TYPE "))
            .count();
        assert!(
            metrics.len() + 5 >= exposed,
            "{} of {exposed}",
            metrics.len()
        );
        let started = find("tokenwire_generations_started");
        assert_eq!(started["sum"]["isMonotonic"], true);
        let points = started["sum"]["dataPoints"].as_array().unwrap();
        let is_response = |point: &&Value| point["attributes"].to_string().contains("responses");
        assert_eq!(points.iter().find(is_response).unwrap()["asInt"], "1");
        let first = &find("tokenwire_first_token_seconds")["histogram"]["dataPoints"][0];
        assert_eq!(first["count"], "1");
        assert_eq!(
            first["bucketCounts"].as_array().unwrap().len(),
            first["explicitBounds"].as_array().unwrap().len() + 1
        );
        let tokens = if is_released {
            let points = &find(present[0])["histogram"]["dataPoints"];
            let mut points = points.as_array().unwrap().iter();
            let is_output = |point: &&Value| point["attributes"].to_string().contains("output");
            points.find(is_output).unwrap()["sum"].as_f64().unwrap()
        } else {
            let point = &find(present[0])["sum"]["dataPoints"][0];
            point["asInt"].as_str().unwrap().parse().unwrap()
        };
        assert_eq!(tokens, 7.0);
    }
}

/// Starts a gateway whose upstream cannot be reached, asks it, and returns the request id, the
/// generation's id and the log.
async fn log_of_a_failure(format: &str) -> (String, String, String) {
    let config = format!(
        "default_model: m\nretry: {{attempts: 0}}\nlog: {{format: {format}, filter: 'info,tokenwire=debug'}}\n\
         upstreams: [{{name: away, base_url: 'http://127.0.0.1:1/v1'}}]\n"
    );
    let gateway = Process::start(&config, &[]);
    let post = Request::new(gateway.address, "POST", "/v1/responses")
        .header("content-type", "application/json")
        .header("traceparent", PARENT)
        .body("{\"input\": \"MarkedContent\", \"stream\": true}");
    let answer = post.answer().await;
    let request = answer.header("x-request-id").unwrap().to_owned();
    let generation = answer.id().to_owned();
    gateway.terminate();
    let (_, log) = tokio::task::spawn_blocking(|| gateway.output())
        .await
        .unwrap();
    assert!(!log.contains("MarkedContent"), "{log}");
    (request, generation, log)
}

#[tokio::test]
async fn json_lines_of_a_request_have_its_ids() {
    let (request, generation, log) = log_of_a_failure("json").await;
    let lines: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let find = |message: &str| {
        let found = lines
            .iter()
            .find(|line| line["fields"]["message"] == message);
        found.unwrap_or_else(|| panic!("no {message:?}: {log}"))
    };
    for message in [
        "request to the upstream failed",
        "generation failed",
        "answered",
    ] {
        let line = find(message);
        assert_eq!(line["request_id"], *request, "{line}");
        assert_eq!(line["trace_id"], TRACE, "{line}");
        assert_eq!(line["generation_id"], *generation, "{line}");
    }
}

#[tokio::test]
async fn text_lines_of_a_request_have_its_ids() {
    let (request, generation, log) = log_of_a_failure("text").await;
    for message in [
        "request to the upstream failed",
        "generation failed",
        "answered",
    ] {
        let line = log.lines().find(|line| line.contains(message));
        let line = line.unwrap_or_else(|| panic!("no {message:?}: {log}"));
        let ids = format!("request_id={request} trace_id={TRACE}");
        assert!(line.ends_with(&ids), "{line}");
        assert_eq!(line.matches(&generation).count(), 1, "{line}");
    }
}

#[tokio::test]
async fn lanes_of_a_socket_belong_to_the_trace_of_its_upgrade() {
    let collector = Collector::start(Takes::Exports).await;
    let world = start(|config| traced(config, &collector, 1.0));
    let mut socket = world.socket().await;
    for _ in 0..2 {
        socket
            .send(json!({"type": "response.create", "input": "[[tokens=1]]"}))
            .await;
        socket.until_end().await;
    }
    let requests = world.simulator.requests();
    let traces: Vec<_> = requests
        .iter()
        .map(|request| {
            let mut headers = request.headers.iter();
            let found = headers.find(|(name, _)| name == "traceparent").unwrap();
            found.1.split('-').nth(1).unwrap().to_owned()
        })
        .collect();
    assert_eq!(traces.len(), 2);
    assert_eq!(traces[0], traces[1]);
    drop(socket);
    // The span of the upgrade ends with the socket.
    collector
        .until_spans_say(&["GET /v1/ws", "chat simulator"])
        .await;
}
