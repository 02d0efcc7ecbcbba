//! Host and origin rules, from outside: what a page of another site, or of a name that was made to
//! resolve to this machine, can and cannot do.

use crate::support::websocket::RawSocket;
use crate::support::{Answer, Request, World, response, start};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const STEERED: &str = "/v1/streams?input=%5B%5Btokens%3D1%5D%5D";

fn with(mut request: Request, headers: &[(&str, &str)]) -> Request {
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request
}

async fn get(world: &World, path: &str, headers: &[(&str, &str)]) -> Answer {
    with(world.get(path), headers).answer().await
}

fn code(answer: &Answer) -> String {
    answer.json()["error"]["code"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Sends these bytes and returns everything that comes back until the end.
async fn raw(world: &World, bytes: &str) -> String {
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    crate::support::patiently("the answer", socket.read_to_end(&mut answer))
        .await
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

// === hosts ===

#[tokio::test]
async fn foreign_hosts_are_refused_on_every_route() {
    let world = start(|_| {});
    let rebound = ("host", "evil.example:3000");
    let own_origin = ("origin", "http://evil.example:3000");
    for (method, path) in [
        ("GET", STEERED),
        ("GET", "/v1/%73treams?input=x"),
        ("POST", "/v1/streams"),
        ("POST", "/v1/responses"),
        ("GET", "/v1/streams/resp_AAAAAAAAAAAAAAAAAAAAAAAA"),
        ("GET", "/v1/responses/resp_AAAAAAAAAAAAAAAAAAAAAAAA"),
        ("DELETE", "/v1/responses/resp_AAAAAAAAAAAAAAAAAAAAAAAA"),
        ("GET", "/v1/models"),
        ("GET", "/v1/webhooks/deliveries"),
        ("GET", "/metrics"),
        ("GET", "/"),
        ("GET", "/docs"),
        ("GET", "/nowhere"),
        ("OPTIONS", "/v1/responses"),
    ] {
        for headers in [&[rebound][..], &[rebound, own_origin]] {
            let answer = with(Request::new(world.address, method, path), headers)
                .answer()
                .await;
            assert_eq!(answer.status, 403, "{method} {path}: {}", answer.text());
            assert_eq!(code(&answer), "host_not_allowed", "{method} {path}");
            assert!(
                answer.text().contains("server.allowed_hosts"),
                "{}",
                answer.text()
            );
            assert!(answer.text().contains("evil.example:3000"));
        }
    }
    let upgrade = "GET /v1/ws HTTP/1.1\r\nhost: evil.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut socket = TcpStream::connect(world.address).await.unwrap();
    socket.write_all(upgrade.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    crate::support::patiently("the status", socket.read_exact(&mut status))
        .await
        .unwrap();
    assert_eq!(&status, b"HTTP/1.1 403");
    assert_eq!(world.simulator.stats().requests, 0);
}

#[tokio::test]
async fn hosts_that_no_public_name_resolves_to_are_served() {
    let world = start(|config| config.server.allowed_hosts = vec!["chat.example.com".to_owned()]);
    for host in [
        "127.0.0.1:3000",
        "192.168.1.5",
        "[::1]:3000",
        "localhost:3000",
        "app.localhost",
        "host.docker.internal:3000",
        "gateway",
        "printer.local",
        "chat.example.com",
        "chat.example.com:8080",
    ] {
        let answer = get(&world, "/v1/models", &[("host", host)]).await;
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    }
    for host in ["example.com", "www.chat.example.com", "10.0.0.1.nip.io"] {
        let answer = get(&world, "/v1/models", &[("host", host)]).await;
        assert_eq!(
            (answer.status, code(&answer).as_str()),
            (403, "host_not_allowed"),
            "{host}"
        );
    }
}

#[tokio::test]
async fn health_checks_are_answered_under_any_host_with_the_status_only() {
    let world = start(|_| {});
    for path in ["/healthz", "/health", "/readyz"] {
        let answer = get(&world, path, &[("host", "pod.example.com")]).await;
        assert_eq!(answer.status, 200, "{path}");
        let body = answer.json();
        let members: Vec<_> = body.as_object().unwrap().keys().collect();
        assert_eq!(members, ["status"], "{path}");
    }
    let own = get(&world, "/readyz", &[]).await.json();
    assert!(own["upstreams"].is_array(), "{own}");
}

#[tokio::test]
async fn http_1_0_without_a_host_is_served() {
    let world = start(|_| {});
    let answer = raw(&world, "GET /v1/models HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[tokio::test]
async fn an_absolute_target_and_repeated_hosts_are_checked_too() {
    let world = start(|_| {});
    for head in [
        "GET http://evil.example/v1/models HTTP/1.1\r\nhost: localhost\r\n",
        "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n",
    ] {
        let answer = raw(&world, &format!("{head}connection: close\r\n\r\n")).await;
        let is_refused = answer.contains("host_not_allowed") || answer.starts_with("HTTP/1.1 400");
        assert!(is_refused, "{answer}");
    }
}

#[tokio::test]
async fn forwarded_headers_count_only_from_trusted_proxies() {
    let forwarded = [("host", "localhost"), ("x-forwarded-host", "evil.example")];
    let open = start(|_| {});
    assert_eq!(get(&open, "/v1/models", &forwarded).await.status, 200);
    let behind = start(|config| {
        config.server.trusted_proxies = vec!["127.0.0.0/8".to_owned()];
        config.server.allowed_hosts = vec!["chat.example.com".to_owned()];
    });
    let answer = get(&behind, "/v1/models", &forwarded).await;
    assert_eq!(code(&answer), "host_not_allowed");
    // The proxy says by which scheme, host and port the client came.
    for (proto, origin, expected) in [
        ("https", "https://chat.example.com", 200),
        ("https", "http://chat.example.com", 403),
        ("http", "http://chat.example.com", 200),
    ] {
        let headers = [
            ("host", "gateway:3000"),
            ("x-forwarded-host", "chat.example.com"),
            ("x-forwarded-proto", proto),
            ("origin", origin),
        ];
        let request = behind.post("/v1/responses", &response("tokens=1"));
        let answer = with(request, &headers).answer().await;
        assert_eq!(
            answer.status,
            expected,
            "{proto} {origin}: {}",
            answer.text()
        );
    }
}

// === origins ===

#[tokio::test]
async fn own_pages_behind_a_proxy_are_known_by_the_listed_name_or_the_public_url() {
    let ask = async |world: &World, host: &str, origin: &str| {
        let request = world.post("/v1/responses", &response("tokens=1"));
        with(request, &[("host", host), ("origin", origin)])
            .answer()
            .await
            .status
    };
    let listed = start(|config| config.server.allowed_hosts = vec!["chat.example.com".to_owned()]);
    let host = "chat.example.com";
    assert_eq!(ask(&listed, host, "https://chat.example.com").await, 200);
    assert_eq!(
        ask(&listed, host, "https://chat.example.com:8443").await,
        403
    );
    assert_eq!(ask(&listed, host, "https://evil.example").await, 403);
    let public =
        start(|config| config.server.public_url = Some("https://chat.example.com".to_owned()));
    assert_eq!(ask(&public, host, "https://chat.example.com").await, 200);
    assert_eq!(ask(&public, host, "http://chat.example.com").await, 403);
    // nginx passes its upstream's name unless told otherwise.
    assert_eq!(
        ask(&public, "127.0.0.1:3000", "https://chat.example.com").await,
        200
    );
}

#[tokio::test]
async fn origin_patterns_match_one_label() {
    let world =
        start(|config| config.server.allowed_origins = vec!["https://*.example.com".to_owned()]);
    for (origin, expected) in [
        ("https://a.example.com", 200),
        ("https://example.com", 403),
        ("https://a.b.example.com", 403),
        ("http://a.example.com", 403),
        ("https://a.example.com.evil.example", 403),
    ] {
        let request = world.post("/v1/responses", &response("tokens=1"));
        let answer = request.header("origin", origin).answer().await;
        assert_eq!(answer.status, expected, "{origin}");
        let allowed = answer.header("access-control-allow-origin");
        assert_eq!(allowed, (expected == 200).then_some(origin));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
    }
}

#[tokio::test]
async fn simple_requests_with_a_foreign_origin_are_refused() {
    let world = start(|_| {});
    for origin in ["https://evil.example", "null", "file://"] {
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
        ] {
            let request = Request::new(world.address, "POST", "/v1/streams")
                .header("content-type", kind)
                .header("origin", origin)
                .body(response("tokens=1").to_string());
            let answer = request.answer().await;
            assert_eq!(
                (answer.status, code(&answer).as_str()),
                (403, "origin_forbidden")
            );
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
        let socket = RawSocket::connect(world.address, "/v1/ws", &[("origin", origin)]).await;
        assert!(socket.head.starts_with("HTTP/1.1 403"), "{}", socket.head);
    }
    let dev = [
        ("origin", "http://localhost:5173"),
        ("sec-fetch-site", "same-site"),
    ];
    let socket = RawSocket::connect(world.address, "/v1/ws", &dev).await;
    assert!(socket.head.starts_with("HTTP/1.1 101"), "{}", socket.head);
    assert_eq!(world.simulator.stats().requests, 0);
}

#[tokio::test]
async fn gets_start_only_where_no_foreign_page_can_have_sent_them() {
    let world = start(|_| {});
    let table: [(&[(&str, &str)], u16); 14] = [
        // curl and programs.
        (&[("host", "localhost:3000")], 200),
        (&[("host", "127.0.0.1:3000")], 200),
        (&[("host", "192.168.1.5:3000")], 403),
        (&[("host", "host.docker.internal:3000")], 403),
        (
            &[("host", "localhost"), ("x-forwarded-for", "192.168.1.7")],
            403,
        ),
        // The chat page, a development server, a typed address.
        (
            &[
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-mode", "cors"),
            ],
            200,
        ),
        (
            &[
                ("origin", "http://localhost:5173"),
                ("sec-fetch-site", "same-site"),
            ],
            200,
        ),
        (
            &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
            200,
        ),
        // Links, images and prefetches of other pages.
        (
            &[
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
            ],
            403,
        ),
        (
            &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors")],
            403,
        ),
        (
            &[
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-mode", "no-cors"),
            ],
            403,
        ),
        (
            &[("sec-fetch-site", "none"), ("sec-fetch-mode", "no-cors")],
            403,
        ),
        (
            &[
                ("sec-fetch-site", "none"),
                ("sec-fetch-mode", "navigate"),
                ("sec-purpose", "prefetch;prerender"),
            ],
            403,
        ),
        (&[("origin", "https://evil.example")], 403),
    ];
    for path in [STEERED, "/v1/%73treams?input=%5B%5Btokens%3D1%5D%5D"] {
        for (headers, expected) in table {
            let answer = get(&world, path, headers).await;
            assert_eq!(
                answer.status,
                expected,
                "{path} {headers:?}: {}",
                answer.text()
            );
            if expected == 403 {
                assert_eq!(code(&answer), "origin_forbidden", "{headers:?}");
            }
        }
    }
    assert_eq!(world.simulator.stats().requests, 2 * 5);
    let open = start(|config| config.server.allow_get_start = true);
    let lan = [("host", "192.168.1.5:3000")];
    assert_eq!(get(&open, STEERED, &lan).await.status, 200);
}

#[tokio::test]
async fn streams_are_not_read_by_other_sites() {
    let world = start(|_| {});
    let id = get(&world, STEERED, &[]).await.id().to_owned();
    let cursor = format!("{id}.0");
    for site in ["cross-site", "same-site"] {
        for path in [
            format!("/v1/streams/{id}"),
            format!("/v1/%73treams/{id}"),
            format!("/v1/responses/{id}?stream=true"),
        ] {
            let answer = get(&world, &path, &[("sec-fetch-site", site)]).await;
            assert_eq!(
                (answer.status, code(&answer).as_str()),
                (403, "origin_forbidden")
            );
        }
        let resumed = [("sec-fetch-site", site), ("last-event-id", cursor.as_str())];
        assert_eq!(get(&world, "/v1/streams", &resumed).await.status, 403);
    }
    // An image may read, since it shows nothing, but not start.
    let image = [
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "no-cors"),
    ];
    assert_eq!(
        get(&world, &format!("/v1/streams/{id}"), &image)
            .await
            .status,
        200
    );
    // A resume from another machine is no start.
    let lan = [
        ("host", "192.168.1.5:3000"),
        ("last-event-id", cursor.as_str()),
    ];
    assert_eq!(get(&world, "/v1/streams", &lan).await.status, 200);
}

#[tokio::test]
async fn preflights_and_errors_carry_the_cors_headers() {
    let world = start(|_| {});
    let origin = "http://localhost:5173";
    let preflight = Request::new(world.address, "OPTIONS", "/v1/responses")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "x-anything, authorization",
        );
    let answer = preflight.answer().await;
    assert_eq!(answer.status, 204);
    assert_eq!(
        answer.header("access-control-allow-headers"),
        Some("x-anything, authorization")
    );
    for request in [
        world.get("/nowhere"),
        world.post("/v1/responses", &json!({})),
        Request::new(world.address, "PUT", "/v1/models"),
        world.get("/v1/responses/resp_AAAAAAAAAAAAAAAAAAAAAAAA"),
    ] {
        let answer = request.header("origin", origin).answer().await;
        assert!(answer.status >= 400);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in [
            "Location",
            "X-Request-Id",
            "Server-Timing",
            "x-ratelimit-remaining-tokens",
        ] {
            assert!(exposed.contains(name), "{name} in {exposed}");
        }
    }
}
