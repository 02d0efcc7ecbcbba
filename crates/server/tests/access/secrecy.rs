//! Keys and message contents never reach a log line, an error or a list, not even at level `trace`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::process::Process;
use crate::support::websocket::Socket;
use crate::support::{Request, with};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tokenwire_simulator::{Options, Pace, Simulator};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const KEY: &str = "sk-Kq7ZsecretKEY0123456789abcdefWXYZ";
const CLIENT_KEY: &str = "sk-client-9f8e7d6c5b4a";
const PROMPT: &str = "the-crimson-walrus-of-Avignon";

/// Returns the forms of the secrets that the output contains.
fn traces(output: &str) -> Vec<String> {
    let pieces = [
        KEY,
        &KEY[..12],
        &KEY[KEY.len() - 12..],
        CLIENT_KEY,
        PROMPT,
        "crimson",
        "walrus",
    ];
    output
        .lines()
        .filter(|line| pieces.iter().any(|piece| line.contains(piece)))
        .map(|line| line.chars().take(400).collect())
        .collect()
}

#[tokio::test]
async fn logs_and_errors_contain_no_key_and_no_prompt() {
    let simulator = Simulator::start(Options {
        pace: Pace::INSTANT,
        required_key: Some(KEY.to_owned()),
        ..Options::default()
    })
    .unwrap();
    let strict = Simulator::start(Options {
        pace: Pace::INSTANT,
        required_key: Some("another".to_owned()),
        ..Options::default()
    })
    .unwrap();
    let config = format!(
        "default_model: simulator\nlog:\n  filter: trace\nupstreams:\n  - name: good\n    base_url: {}\n    api_key: {KEY}\n    models: [simulator]\n  \
         - name: refusing\n    base_url: {}\n    api_key: {KEY}\n    models: [refused]\n  \
         - name: nowhere\n    base_url: http://127.0.0.1:1/v1\n    api_key: {KEY}\n    models: [unreachable]\n",
        simulator.base_url(),
        strict.base_url()
    );
    let gateway = Process::start(&config, &[("RUST_LOG", "trace")]);
    let get = |path: &str| {
        Request::new(gateway.address, "GET", path)
            .header("authorization", &format!("Bearer {CLIENT_KEY}"))
    };
    let post = |path: &str, body: String| {
        Request::new(gateway.address, "POST", path)
            .header("content-type", "application/json")
            .header("authorization", &format!("Bearer {CLIENT_KEY}"))
            .body(body)
    };
    // The model's text may quote the prompt. Nothing else may.
    let mut said = Vec::new();
    for path in [
        "/v1/models",
        "/healthz",
        "/readyz",
        "/",
        "/nowhere",
        "/v1/models/none",
    ] {
        said.push(get(path).answer().await.text());
    }
    for model in ["refused", "unreachable", "unknown-model"] {
        for stream in [true, false] {
            let members = json!({"model": model, "stream": stream});
            let chat = with(
                json!({"messages": [{"role": "user", "content": PROMPT}]}),
                members.clone(),
            );
            let responses = with(json!({"input": PROMPT, "instructions": PROMPT}), members);
            for (path, body) in [
                ("/v1/chat/completions", chat),
                ("/v1/responses", responses.clone()),
                ("/v1/streams", responses),
            ] {
                said.push(
                    post(path, body.to_string())
                        .answer()
                        .await
                        .text()
                        .replace(&format!("\"instructions\":\"{PROMPT}\""), ""),
                );
            }
        }
    }
    for broken in [
        format!("{{\"input\":\"{PROMPT}\""),
        format!("{{\"input\":[{{\"role\":\"user\",\"content\":{{\"{PROMPT}\":1}}}}]}}"),
        format!("\"{PROMPT}\""),
    ] {
        for path in ["/v1/chat/completions", "/v1/responses", "/v1/streams"] {
            said.push(post(path, broken.clone()).answer().await.text());
        }
    }
    let mut ids = Vec::new();
    for steering in [
        "tokens=3",
        "fault=cut",
        "fault=malformed",
        "fault=bad_utf8",
        "fault=error",
        "fault=json_error",
        "fault=status code=400",
        "",
    ] {
        let input = format!("{PROMPT} [[{steering}]]");
        let chat = json!({"stream": true, "messages": [{"role": "system", "content": PROMPT}, {"role": "user", "content": input}]});
        assert_eq!(
            post("/v1/chat/completions", chat.to_string())
                .answer()
                .await
                .status
                % 100,
            0
        );
        let answer = post(
            "/v1/responses",
            json!({"stream": true, "input": input, "idempotency_key": PROMPT}).to_string(),
        )
        .answer()
        .await;
        ids.push(answer.header("location").unwrap_or_default().to_owned());
        post(
            "/v1/streams?dialect=text",
            json!({"input": input}).to_string(),
        )
        .answer()
        .await;
        get(&format!(
            "/v1/streams?input={}",
            crate::support::encode(&input)
        ))
        .answer()
        .await;
        let mut socket = Socket::connect(gateway.address, "/v1/ws").await;
        socket
            .create(
                steering,
                json!({"instructions": PROMPT, "metadata": {"k": PROMPT}}),
            )
            .await;
        socket.until_end().await;
    }
    for location in ids.iter().filter(|location| !location.is_empty()) {
        get(location).header("last-event-id", PROMPT).answer().await;
        Request::new(
            gateway.address,
            "DELETE",
            &location.replace("streams", "responses"),
        )
        .answer()
        .await;
    }
    assert!(simulator.stats().requests > 20);
    assert!(strict.stats().requests > 0);
    gateway.terminate();
    let (_, output) = tokio::task::spawn_blocking(move || gateway.output())
        .await
        .unwrap();
    assert!(output.contains("TRACE"), "the log level is not trace");
    let shown = traces(&output);
    assert!(
        shown.is_empty(),
        "{} lines of the log show a secret:\n{}",
        shown.len(),
        shown.join("\n")
    );
    let shown = traces(&said.join("\n"));
    assert!(
        shown.is_empty(),
        "answers show a secret:\n{}",
        shown.join("\n")
    );
}

const GATEWAY_KEY: &str = "sk-tw-MarkedGatewayKey0123456789";
const OWN_KEY: &str = "sk-own-MarkedUpstreamKey0123456789";
const WEBHOOK_SECRET: &str = "whsec_TWFya2VkV2ViaG9va1NlY3JldDAxMjM0NTY3";
const TICKET_SECRET: &str = "MarkedTicketSecret-0123456789-0123456789";
const TOKEN_SECRET: &[u8] = b"MarkedTokenSecret-0123456789-0123456789";
const HOST: &str = "chat.example.com";

/// Parts of credentials that may stand nowhere. The last three are how header and claims of a token
/// begin; the `eyJ` that all of it begins with occurs in random ids.
const MARKS: [&str; 9] = [
    "Marked",
    "TWFya2Vk",
    "tkt_",
    "__Host-",
    "sk-tw-",
    "whsec_",
    "eyJhbGciOi",
    "eyJhdWQiOi",
    "eyJpc3MiOi",
];

/// Returns a token of the issuer in the configuration.
fn token() -> String {
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let claims = json!({
        "iss": "https://login.example.com", "aud": "gateway", "sub": "ann", "exp": now.as_secs() + 600,
    });
    let header = json!({"alg": "HS256", "kid": "one"});
    let [header, claims] = [header, claims].map(|part| encoded(part.to_string().as_bytes()));
    let signed = format!("{header}.{claims}");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, TOKEN_SECRET);
    let signature = ring::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", encoded(signature.as_ref()))
}

fn marked(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| MARKS.iter().any(|mark| line.contains(mark)))
        .map(|line| line.chars().take(400).collect())
        .collect()
}

/// A line to an upstream that keeps what is sent to it. The simulator's own record leaves credentials
/// out.
struct Tap {
    address: SocketAddr,
    sent: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    async fn before(upstream: &str) -> Self {
        let upstream = upstream
            .trim_start_matches("http://")
            .trim_end_matches("/v1")
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let kept = sent.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, kept) = (upstream.clone(), kept.clone());
                tokio::spawn(async move {
                    let (mut from, mut to) = client.into_split();
                    let (mut back, mut onward) =
                        TcpStream::connect(upstream).await.unwrap().into_split();
                    tokio::spawn(async move { tokio::io::copy(&mut back, &mut to).await });
                    let mut buffer = [0; 16 * 1024];
                    while let Ok(length @ 1..) = from.read(&mut buffer).await {
                        kept.lock().unwrap().extend_from_slice(&buffer[..length]);
                        if onward.write_all(&buffer[..length]).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, sent }
    }

    /// Returns what was sent, as text.
    fn sent(&self) -> String {
        String::from_utf8_lossy(&self.sent.lock().unwrap()).into_owned()
    }
}

/// Every route, with a body where it takes one. `ID` stands for a response.
const ROUTES: &[(&str, &str, bool)] = &[
    ("POST", "/v1/chat/completions", true),
    ("POST", "/v1/responses", true),
    ("POST", "/v1/responses/input_tokens", true),
    ("POST", "/v1/responses/compact", true),
    ("GET", "/v1/responses/ID", false),
    ("HEAD", "/v1/responses/ID", false),
    ("GET", "/v1/responses/ID?stream=true", false),
    ("POST", "/v1/responses/ID/cancel", false),
    ("GET", "/v1/responses/ID/input_items", false),
    ("POST", "/v1/streams", true),
    ("GET", "/v1/streams?input=hello", false),
    ("GET", "/v1/streams/ID", false),
    ("GET", "/v1/streams/none", false),
    ("GET", "/v1/ws", false),
    ("POST", "/v1/tickets", true),
    ("POST", "/v1/tickets/revoke", true),
    ("GET", "/v1/usage", false),
    ("GET", "/v1/models", false),
    ("GET", "/v1/models/none", false),
    ("GET", "/v1/webhooks/deliveries", false),
    ("POST", "/v1/webhooks/deliveries/x/retry", false),
    ("POST", "/v1/embeddings", true),
    ("GET", "/metrics", false),
    ("GET", "/readyz", false),
    ("GET", "/nowhere", false),
    ("GET", "/", false),
    ("GET", "/docs", false),
    ("DELETE", "/v1/responses/ID", false),
];

#[tokio::test]
async fn no_credential_of_a_client_leaves_the_gateway() {
    let simulator = Simulator::start(Options {
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap();
    let tap = Tap::before(&simulator.base_url()).await;
    let key = URL_SAFE_NO_PAD.encode(TOKEN_SECRET);
    let jwks = json!({"keys": [{"kty": "oct", "kid": "one", "k": key}]});
    let config = format!(
        "server: {{public_url: 'https://{HOST}'}}\ndefault_model: simulator\n\
         auth:\n  keys: [{{owner: alice, key: {GATEWAY_KEY}, role: operator}}]\n  tickets: {{secret: {TICKET_SECRET}}}\n\
         \u{20} jwt: [{{name: corp, issuer: 'https://login.example.com', audience: gateway, algorithms: [HS256], jwks: '{jwks}'}}]\n\
         webhooks: {{secret: {WEBHOOK_SECRET}, allow_private: true}}\n\
         forward_headers: [x-api-key, api-key, x-upstream-authorization, traceparent]\n\
         upstreams:\n  - {{name: one, base_url: '{}', accept_client_key: true}}\n",
        format_args!("http://{}/v1", tap.address)
    );
    let gateway = Process::start(&config, &[("RUST_LOG", "trace")]);
    let send = |method: &str, path: &str| {
        Request::new(gateway.address, method, path)
            .header("host", HOST)
            .header("x-upstream-authorization", &format!("Bearer {OWN_KEY}"))
            .header(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
    };
    let ask = |body: serde_json::Value| {
        send("POST", "/v1/tickets")
            .header("authorization", &format!("Bearer {GATEWAY_KEY}"))
            .header("content-type", "application/json")
            .body(body.to_string())
    };
    let ticket = async |body: serde_json::Value| {
        let answer = ask(body).answer().await;
        let made = answer.json()["ticket"].as_str().map(str::to_owned);
        made.unwrap_or_else(|| panic!("{}", answer.text()))
    };
    let body = json!({
        "model": "simulator", "input": "[[tokens=2]]", "background": true,
        "webhook": {"url": "http://127.0.0.1:1/hook", "secret": WEBHOOK_SECRET}
    });
    let plain = json!({"model": "simulator", "input": "[[tokens=2]]", "messages": [{"role": "user", "content": "x"}]});
    let begin = async || {
        let started = send("POST", "/v1/responses")
            .header("x-api-key", GATEWAY_KEY)
            .header("content-type", "application/json")
            .body(body.to_string());
        started.answer().await.id().to_owned()
    };
    let cookie = ask(json!({"cookie": true, "may": ["read", "start", "cancel"]}))
        .answer()
        .await;
    let cookie = cookie.header("set-cookie").unwrap().to_owned();
    assert!(
        cookie.ends_with("Path=/; Secure; HttpOnly; SameSite=Strict"),
        "{cookie}"
    );
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let mut said = Vec::new();
    for (method, path, has_body) in ROUTES {
        let id = begin().await;
        let path = path.replace("ID", &id);
        let separator = if path.contains('?') { '&' } else { '?' };
        let by_ticket = |ticket: &str| send(method, &format!("{path}{separator}ticket={ticket}"));
        let reads = ticket(json!({"stream": id, "may": ["read", "cancel"]})).await;
        let starts = ticket(json!({"may": ["start"]})).await;
        let requests = [
            send(method, &path).header("authorization", &format!("Bearer {GATEWAY_KEY}")),
            send(method, &path).header("x-api-key", GATEWAY_KEY),
            send(method, &path).header("api-key", &format!("{GATEWAY_KEY}-wrong")),
            send(method, &path).header("authorization", &format!("Bearer {}", token())),
            send(method, &path).header("x-api-key", &format!("{}x", token())),
            send(method, &path)
                .header("authorization", &format!("Bearer {GATEWAY_KEY}"))
                .header("x-api-key", "sk-tw-Marked"),
            send(method, &path)
                .header("cookie", &cookie)
                .header("sec-fetch-site", "same-origin"),
            send(method, &path).header("cookie", "__Host-tokenwire=tkt_Marked"),
            by_ticket(&reads),
            by_ticket(&starts),
            by_ticket("tkt_Marked"),
            by_ticket(&format!("{reads}Marked")),
        ];
        for request in requests {
            let request = match has_body {
                true => request
                    .header("content-type", "application/json")
                    .body(plain.to_string()),
                false => request,
            };
            let mut exchange = request.send().await;
            if path == "/" || path == "/docs" {
                let policy = exchange.header("referrer-policy").await;
                assert_eq!(policy.as_deref(), Some("no-referrer"), "{path}");
                continue;
            }
            if *method == "HEAD" {
                exchange.status().await;
                continue;
            }
            said.push(exchange.answer().await.text());
        }
    }
    let revoked = ticket(json!({})).await;
    for body in [
        json!({"ticket": revoked}),
        json!({"ticket": "tkt_Marked"}),
        json!({"tickets": GATEWAY_KEY}),
        json!({"key": GATEWAY_KEY}),
        json!({"owner": format!("{GATEWAY_KEY} x")}),
    ] {
        let revoke = send("POST", "/v1/tickets/revoke")
            .header("authorization", &format!("Bearer {GATEWAY_KEY}"))
            .header("content-type", "application/json")
            .body(body.to_string());
        said.push(revoke.answer().await.text());
    }
    for protocols in [
        format!("tokenwire.v1, tokenwire-ticket.{}", ticket(json!({})).await),
        "tokenwire.v1, tokenwire-ticket.tkt_Marked".to_owned(),
        "tokenwire-ticket.tkt_Marked".to_owned(),
    ] {
        let headers = [("sec-websocket-protocol", &*protocols)];
        let mut socket =
            crate::support::websocket::RawSocket::connect(gateway.address, "/v1/ws", &headers)
                .await;
        said.push(socket.head.clone());
        for ticket in ["tkt_Marked".to_owned(), ticket(json!({})).await] {
            let message = json!({"type": "tokenwire:auth", "ticket": ticket}).to_string();
            let frame = crate::support::websocket::frame(0x81, message.as_bytes());
            if socket.head.contains("101") && socket.send(&frame).await {
                let ping = json!({"type": "tokenwire:ping"}).to_string();
                let frame = crate::support::websocket::frame(0x81, ping.as_bytes());
                if socket.send(&frame).await
                    && let Some((_, bytes)) = socket.frame().await
                {
                    said.push(String::from_utf8_lossy(&bytes).into_owned());
                }
            }
        }
    }
    // The client's own key for the upstream goes there, in that place only.
    let sent = tap.sent();
    let own = format!("authorization: Bearer {OWN_KEY}");
    let others = sent.lines().filter(|line| !line.eq_ignore_ascii_case(&own));
    let others: Vec<&str> = others.collect();
    assert!(sent.lines().count() > others.len(), "{sent}");
    let shown = marked(&others.join("\n"));
    assert!(
        shown.is_empty(),
        "the upstream saw it:\n{}",
        shown.join("\n")
    );
    assert!(simulator.stats().requests > 20);
    gateway.terminate();
    let (_, output) = tokio::task::spawn_blocking(move || gateway.output())
        .await
        .unwrap();
    assert!(output.contains("TRACE"), "the log level is not trace");
    let shown = marked(&output);
    assert!(shown.is_empty(), "the log shows it:\n{}", shown.join("\n"));
    let shown = marked(&said.join("\n"));
    assert!(shown.is_empty(), "answers show it:\n{}", shown.join("\n"));
}
