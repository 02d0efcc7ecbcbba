//! Upstreams with an authority of their own, which want a certificate; headers and the header of the
//! key.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::support::process::Process;
use crate::support::{Gateway, Request, chat, eventually, over};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use tempfile::TempDir;
use tokenwire::config::schema::{Api, Config, UpstreamTls};
use tokenwire::gateway::Gateway as Server;
use tokenwire_simulator::{Options, Pace, Simulator};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Certificates, made by the program `openssl`.
struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let this = Self {
            folder: TempDir::new().unwrap(),
        };
        let subject = ["-subj", "/CN=Test authority"];
        let own = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ];
        let files = [
            "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
        ];
        this.openssl(&[&own[..], &files, &subject].concat());
        this
    }

    /// Makes a certificate that it signs, for a server on loopback and for clients.
    fn sign(&self, name: &str) {
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        let subject = format!("/CN={name}");
        let own = [
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ];
        self.openssl(
            &[
                &own[..],
                &["-keyout", &key, "-out", &request, "-subj", &subject],
            ]
            .concat(),
        );
        let names = self.path("names");
        let usage =
            "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth";
        fs::write(names, usage).unwrap();
        let pem = format!("{name}.pem");
        let signed = ["x509", "-req", "-in", &request, "-out", &pem, "-days", "2"];
        let by = [
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-extfile",
            "names",
        ];
        self.openssl(&[&signed[..], &by].concat());
    }

    fn openssl(&self, args: &[&str]) {
        let mut command = Command::new("openssl");
        let output = command.args(args).current_dir(self.folder.path()).output();
        let output = output.expect("openssl can be started: is the package openssl installed?");
        assert!(output.status.success(), "{output:?}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

/// Serves `target` over TLS with the certificate `server`, for clients that show one of `clients`.
async fn tls_in_front(server: &Authority, clients: &Authority, target: SocketAddr) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in certificates(&clients.path("ca.pem")) {
        roots.add(authority).unwrap();
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            certificates(&server.path("server.pem")),
            PrivateKeyDer::from_pem_file(server.path("server.key")).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut secured = acceptor.accept(socket).await?;
                let mut plain = TcpStream::connect(target).await?;
                tokio::io::copy_bidirectional(&mut secured, &mut plain).await
            });
        }
    });
    address
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn simulator() -> Simulator {
    Simulator::start(Options {
        pace: Pace::INSTANT,
        ..Options::default()
    })
    .unwrap()
}

fn address_of(simulator: &Simulator) -> SocketAddr {
    let url = simulator.base_url();
    url.trim_start_matches("http://")
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

fn shows(authority: &Authority, ca: bool, client: Option<&str>) -> UpstreamTls {
    UpstreamTls {
        ca: ca.then(|| authority.text("ca.pem")),
        cert: client.map(|name| authority.text(&format!("{name}.pem"))),
        key: client.map(|name| authority.text(&format!("{name}.key"))),
    }
}

async fn ask(gateway: &Gateway) -> (u16, String) {
    let post = gateway.post("/v1/chat/completions", &chat("tokens=2"));
    let answer = post.answer().await;
    (answer.status, answer.text().to_owned())
}

#[tokio::test]
async fn upstream_with_its_own_authority_gets_the_certificate_that_it_wants() {
    let authority = Authority::new();
    authority.sign("server");
    authority.sign("client");
    let foreign = Authority::new();
    foreign.sign("client");
    let simulator = simulator();
    let address = tls_in_front(&authority, &authority, address_of(&simulator)).await;
    let url = format!("https://{address}/v1");
    let gateway = |tls: UpstreamTls| {
        over(&url, Api::Chat, |config| {
            config.upstreams[0].tls = tls;
            config.retry.attempts = 0;
        })
    };
    let (status, text) = ask(&gateway(shows(&authority, true, Some("client")))).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    // Without the authority, without the certificate, and with that of another authority.
    let mixed = UpstreamTls {
        ca: Some(authority.text("ca.pem")),
        ..shows(&foreign, false, Some("client"))
    };
    for tls in [
        shows(&authority, false, Some("client")),
        shows(&authority, true, None),
        shows(&foreign, true, Some("client")),
        mixed,
    ] {
        let (status, text) = ask(&gateway(tls.clone())).await;
        assert_eq!(status, 502, "{tls:?}: {text}");
        assert!(!text.contains(&url), "{text}");
    }
    assert_eq!(simulator.requests().len(), 1);
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_remedy() {
    let authority = Authority::new();
    authority.sign("client");
    authority.sign("other");
    fs::write(authority.path("no.pem"), "no PEM").unwrap();
    let check = |tls: UpstreamTls, texts: &[&str]| {
        let mut config = Config::default();
        config.server.port = 0;
        config.upstreams = vec![Default::default()];
        config.upstreams[0].name = "internal".to_owned();
        config.upstreams[0].base_url = "https://127.0.0.1:1/v1".to_owned();
        config.upstreams[0].tls = tls;
        let bound = actix_web::rt::System::new().block_on(async { Server::bind(config).map(drop) });
        let error = bound.unwrap_err().to_string();
        for text in texts.iter().chain(&["upstream 'internal'"]) {
            assert!(error.contains(text), "{error} lacks {text:?}");
        }
    };
    let good = shows(&authority, true, Some("client"));
    let with_ca = |path: String| UpstreamTls {
        ca: Some(path),
        ..good.clone()
    };
    let missing = authority.text("missing.pem");
    check(
        with_ca(missing.clone()),
        &["tls.ca", &missing, "No such file", "name a PEM file"],
    );
    let folder = authority.folder.path().display().to_string();
    check(with_ca(folder.clone()), &["tls.ca", &folder, "not a file"]);
    let no_pem = authority.text("no.pem");
    check(
        with_ca(no_pem.clone()),
        &["tls.ca", &no_pem, "BEGIN CERTIFICATE"],
    );
    let with_key = |path: String| UpstreamTls {
        key: Some(path),
        ..good.clone()
    };
    check(
        with_key(no_pem.clone()),
        &["tls.key", &no_pem, "PRIVATE KEY"],
    );
    let other = authority.text("other.key");
    check(
        with_key(other.clone()),
        &["tls.key", &other, "not the key of"],
    );
    let certificate = UpstreamTls {
        cert: Some(no_pem.clone()),
        ..good.clone()
    };
    check(certificate, &["tls.cert", &no_pem, "BEGIN CERTIFICATE"]);
}

#[tokio::test]
async fn renewed_files_are_followed_and_bad_ones_change_nothing() {
    let (first, second) = (Authority::new(), Authority::new());
    for authority in [&first, &second] {
        authority.sign("server");
        authority.sign("client");
    }
    let simulator = simulator();
    let target = address_of(&simulator);
    let (old, new) = (
        tls_in_front(&first, &first, target).await,
        tls_in_front(&second, &second, target).await,
    );
    let folder = TempDir::new().unwrap();
    let install = |authority: &Authority| {
        for name in ["ca.pem", "client.pem", "client.key"] {
            let part = folder.path().join("part");
            fs::copy(authority.path(name), &part).unwrap();
            fs::rename(part, folder.path().join(name)).unwrap();
        }
    };
    install(&first);
    let path = folder.path().display();
    let upstream = |name: &str, address: SocketAddr| {
        format!(
            "{{name: {name}, base_url: 'https://{address}/v1', models: [{name}], \
             tls: {{ca: {path}/ca.pem, cert: {path}/client.pem, key: {path}/client.key}}}}"
        )
    };
    let upstreams = [upstream("old", old), upstream("new", new)].join(", ");
    let config =
        format!("retry: {{attempts: 0}}\nbreaker: {{failures: 0}}\nupstreams: [{upstreams}]\n");
    let gateway = Process::start(&config, &[]);
    let status = async |model: &str| {
        let body =
            json!({"model": model, "messages": [{"role": "user", "content": "[[tokens=1]]"}]});
        let post = Request::new(gateway.address, "POST", "/v1/chat/completions");
        let post = post
            .header("content-type", "application/json")
            .body(body.to_string());
        post.answer().await.status
    };
    assert_eq!((status("old").await, status("new").await), (200, 502));
    // A key that is not that of the certificate: nothing changes.
    let part = folder.path().join("part");
    fs::copy(second.path("client.key"), &part).unwrap();
    fs::rename(part, folder.path().join("client.key")).unwrap();
    eventually("the refusal of the wrong key", async || {
        let page = Request::new(gateway.address, "GET", "/metrics")
            .answer()
            .await;
        page.text()
            .contains("tokenwire_config_reloads_total{result=\"refused\"} 1")
    })
    .await;
    assert_eq!((status("old").await, status("new").await), (200, 502));
    install(&second);
    eventually("the new certificates", async || status("new").await == 200).await;
    assert_eq!(status("old").await, 502);
    gateway.terminate();
    let (_, log) = tokio::task::spawn_blocking(|| gateway.output())
        .await
        .unwrap();
    assert!(log.contains("client.key is not the key of"), "{log}");
}

#[tokio::test]
async fn key_and_headers_go_where_the_upstream_wants_them() {
    let simulator = simulator();
    let gateway = over(&simulator.base_url(), Api::Chat, |config| {
        config.forward_headers.0.push("x-team".to_owned());
        let upstream = &mut config.upstreams[0];
        upstream.api_key = Some("azure-key".to_owned().into());
        upstream.key_header = "Api-Key".to_owned();
        for (name, value) in [("X-Team", "models"), ("openai-project", "two words")] {
            upstream
                .headers
                .insert(name.to_owned(), value.to_owned().into());
        }
    });
    let post = gateway.post("/v1/chat/completions", &chat("tokens=1"));
    let answer = post.header("x-team", "of the client").answer().await;
    assert_eq!(answer.status, 200);
    let request = simulator.requests().pop().unwrap();
    let value = |wanted: &str| {
        let headers = request.headers.iter();
        let found: Vec<_> = headers.filter(|(name, _)| name == wanted).collect();
        assert!(found.len() <= 1, "{found:?}");
        found.first().map(|(_, value)| value.as_str())
    };
    assert_eq!(value("x-team"), Some("models"));
    assert_eq!(value("openai-project"), Some("two words"));
    assert_eq!(value("api-key"), Some("[redacted]"));
    assert!(!request.authorized);
}
