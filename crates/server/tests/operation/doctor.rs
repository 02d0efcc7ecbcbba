//! `tokenwire doctor`: what it finds, what it says to do, and its exit status.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::process::Process;
use crate::support::tls::Pair;
use crate::support::{Request, eventually, start};
use tokenwire_simulator::{Options, Pace, Simulator};
use tokenwire_testkit::free_port;

/// What the doctor said, and whether it found nothing to mend.
struct Said {
    text: String,
    is_fine: bool,
}

impl Said {
    /// Asserts that a line says `found`, and that the next one says what to do.
    #[track_caller]
    fn says(&self, level: &str, found: &str, remedy: &str) {
        let mut lines = self.text.lines().map(str::trim_start);
        let line = lines.find(|line| line.starts_with(level) && line.contains(found));
        assert!(line.is_some(), "no {level} {found:?} in\n{}", self.text);
        let next = lines.next().unwrap_or_default();
        assert!(next.contains(remedy), "{remedy:?} is not in {next:?}");
    }
}

/// Runs the doctor over this configuration.
fn examine(config: &str, args: &[&str]) -> Said {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("tokenwire.yaml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenwire"));
    command.args(["--port", "0", "--config"]).arg(&path);
    command.arg("doctor").args(args).current_dir(folder.path());
    for name in ["OPENAI_API_KEY", "OPENAI_BASE_URL", "RUST_LOG"] {
        command.env_remove(name);
    }
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    Said {
        text: String::from_utf8(output.stdout).unwrap(),
        is_fine: output.status.success(),
    }
}

fn over(base_url: &str, more: &str) -> String {
    format!("upstreams:\n  - name: models\n    base_url: {base_url}\n{more}")
}

#[test]
fn files_of_the_certificate_are_checked() {
    let (pair, other, expired) = (Pair::new(), Pair::new(), Pair::expired());
    let lines = |cert: &str, key: &str| format!("server:\n  tls: {{cert: {cert}, key: {key}}}\n");
    let said = examine(&lines(&pair.cert(), &pair.key()), &[]);
    assert!(
        said.text.contains("fits its key and is valid until 20"),
        "{}",
        said.text
    );
    let said = examine(&lines(&expired.cert(), &expired.key()), &[]);
    said.says("warn", "expired at 20", "Renew it");
    let said = examine(&lines(&pair.cert(), &other.key()), &[]);
    said.says(
        "FAIL",
        "is not the key of the certificate",
        "the same certificate",
    );
    assert!(!said.is_fine);
}

/// A server that gives every request this answer.
fn answering(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let Ok(mut socket) = socket else { return };
            let _ = socket.read(&mut [0; 4096]);
            let head = format!("HTTP/1.1 {answer}");
            let _ = socket.write_all(head.as_bytes());
        }
    });
    address
}

#[tokio::test]
async fn gateway_that_can_run_is_fine() {
    let world = start(|_| {});
    let store = tempfile::TempDir::new().unwrap();
    let path = store.path().join("streams").display().to_string();
    let more = format!("    models: [simulator]\nstore:\n  kind: disk\n  path: {path}\n");
    let said = examine(&over(&world.simulator.base_url(), &more), &[]);
    assert!(said.is_fine, "{}", said.text);
    for line in [
        "tokenwire.yaml can be used",
        "only this machine reaches the gateway",
        "127.0.0.1 port 0 is free",
        "answers, ",
        "can be created",
        "The gateway can run.",
    ] {
        assert!(
            said.text.contains(line),
            "{line:?} is not in\n{}",
            said.text
        );
    }
    assert!(!Path::new(&path).exists(), "the doctor made the folder");
}

#[test]
fn configuration_with_mistakes_is_named_with_each_of_them() {
    let said = examine("server:\n  prot: 1\nlimits:\n  body: soon\n", &[]);
    assert!(!said.is_fine);
    said.says(
        "FAIL",
        "`server.prot` is not a known key",
        "tokenwire --check",
    );
    said.says("FAIL", "`limits.body` is \"soon\"", "tokenwire --check");
    assert!(said.text.contains("To be mended: 2."), "{}", said.text);
}

#[test]
fn upstreams_that_cannot_be_asked_are_told_apart() {
    let closed = free_port();
    let status = |line| format!("http://{}/v1", answering(line));
    let with_key = "    api_key: sk-secret-of-the-test\n";
    let plain = answering("200 OK\r\ncontent-length: 0\r\n\r\n");
    for (url, more, found, remedy) in [
        (
            format!("http://127.0.0.1:{closed}/v1"),
            "",
            "refused",
            "Start the model server",
        ),
        (
            "http://nothing.invalid/v1".to_owned(),
            "",
            "cannot be resolved",
            "DNS",
        ),
        (format!("https://{plain}/v1"), "", "127.0.0.1", "http://"),
        (
            status("401 Unauthorized\r\ncontent-length: 0\r\n\r\n"),
            with_key,
            "refuses the api_key (401)",
            "upstreams[0].api_key",
        ),
        (
            status("401 Unauthorized\r\ncontent-length: 0\r\n\r\n"),
            "",
            "wants a credential",
            "TOKENWIRE_UPSTREAMS__0__API_KEY",
        ),
        (
            status("308 Permanent Redirect\r\nlocation: /v2\r\ncontent-length: 0\r\n\r\n"),
            "",
            "redirects (308)",
            "upstreams[0].base_url",
        ),
        (
            status("503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"),
            "",
            "answers with 503",
            "model server",
        ),
    ] {
        let said = examine(&over(&url, more), &[]);
        assert!(!said.is_fine, "{url}: {}", said.text);
        said.says("FAIL", found, remedy);
        assert!(!said.text.contains("sk-secret"), "{}", said.text);
    }
    for (url, more, found, remedy) in [
        (
            status("404 Not Found\r\ncontent-length: 0\r\n\r\n"),
            "",
            "no list of models (404 for /v1/models)",
            "/v1",
        ),
        (
            status("200 OK\r\ncontent-length: 25\r\n\r\n{\"data\":[{\"id\":\"other\"}]}"),
            "    models: [mine]\n",
            "does not list: mine",
            "upstreams[0].models",
        ),
    ] {
        let said = examine(&over(&url, more), &[]);
        assert!(said.is_fine, "{url}: {}", said.text);
        said.says("warn", found, remedy);
    }
}

#[tokio::test]
async fn certificate_of_an_unknown_authority_is_named() {
    let folder = tempfile::TempDir::new().unwrap();
    let (key, certificate) = (
        folder.path().join("key.pem"),
        folder.path().join("cert.pem"),
    );
    let mut openssl = Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
    ]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=localhost"]);
    openssl.args(["-addext", "subjectAltName=DNS:localhost", "-keyout"]);
    openssl.arg(&key).arg("-out").arg(&certificate);
    assert!(openssl.output().unwrap().status.success());
    let port = free_port();
    let site = format!(
        "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {}; ssl_certificate_key {}; return 200 ok; }}",
        certificate.display(),
        key.display()
    );
    let _nginx = Nginx::start(port, &site).await;
    let said = examine(&over(&format!("https://localhost:{port}/v1"), ""), &[]);
    assert!(!said.is_fine);
    said.says("FAIL", "certificate", "ca-certificates");
}

#[test]
fn store_that_cannot_be_used_is_named() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let disk = |path: &Path| format!("store:\n  kind: disk\n  path: {}\n", path.display());
    let said = examine(&disk(&file), &[]);
    assert!(!said.is_fine);
    said.says("FAIL", "cannot be used", "folder");
    let said = examine(&disk(Path::new("/proc/tokenwire")), &[]);
    assert!(!said.is_fine);
    said.says("FAIL", "/proc/tokenwire cannot be used", "folder");
    let said = examine(&disk(folder.path()), &[]);
    assert!(said.is_fine, "{}", said.text);
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 1, "the doctor left a file");
}

#[test]
fn redis_that_does_not_answer_is_named_without_its_password() {
    let port = free_port();
    let secret = "s".repeat(32);
    let config = format!(
        "cluster:\n  url: redis://:hidden-word@127.0.0.1:{port}/0\n  listen: 127.0.0.1:0\n  secret: {secret}\n"
    );
    let said = examine(&config, &[]);
    assert!(!said.is_fine, "{}", said.text);
    said.says("FAIL", "Redis cannot be reached", "cluster.url");
    assert!(!said.text.contains("hidden-word"), "{}", said.text);
}

#[test]
fn gateway_that_others_reach_without_a_credential_is_a_warning() {
    let public = "server:\n  allowed_hosts: [chat.example.com]\n";
    let upstream = over(
        "http://127.0.0.1:1/v1",
        "    api_key: sk-secret-of-the-test\n",
    );
    let open = format!("{upstream}{public}auth:\n  anonymous: true\n");
    let said = examine(&open, &[]);
    said.says("warn", "public without credentials", "auth.keys_file");
    let said = examine(&format!("{upstream}{public}"), &[]);
    said.says("warn", "auth has no keys", "tokenwire key new");
    let said = examine(&format!("{public}auth:\n  keys_file: keys.yaml\n"), &[]);
    assert!(said.text.contains("clients need a key"), "{}", said.text);
}

#[test]
fn port_of_another_program_is_told_from_that_of_a_gateway() {
    let other = answering("200 OK\r\ncontent-length: 2\r\n\r\nhi");
    let on = |port: u16| {
        let folder = tempfile::TempDir::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenwire"));
        command.args(["--simulator", "--port", &port.to_string(), "doctor"]);
        let output = command.current_dir(folder.path()).output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (is_fine, text) = on(other.port());
    assert!(!is_fine);
    assert!(
        text.contains("another program uses 127.0.0.1 port"),
        "{text}"
    );
    let gateway = Process::start("", &[]);
    let (is_fine, text) = on(gateway.address.port());
    assert!(is_fine, "{text}");
    assert!(text.contains("a gateway serves 127.0.0.1 port"), "{text}");
}

#[test]
fn help_tells_what_is_checked_and_the_exit_status() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenwire"));
    let output = command.args(["doctor", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    for part in [
        "--url",
        "--key",
        "upstreams",
        "store",
        "proxy",
        "Exit status",
    ] {
        assert!(help.contains(part), "{part} is not in\n{help}");
    }
}

// === the proxy in front ===

/// nginx, which ends when it is dropped.
struct Nginx {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Nginx {
    /// Starts it with these servers, and waits until it listens on `port`.
    async fn start(port: u16, servers: &str) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let place = folder.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {place}/{kind}; "))
            .concat();
        let user = match rustix::process::getuid().is_root() {
            true => "user root; ",
            false => "",
        };
        let text = format!(
            "daemon off; pid {place}/nginx.pid; error_log stderr crit; worker_processes 1; {user}\
             events {{}} http {{ access_log off; {temporary} {servers} }}"
        );
        let path = folder.path().join("nginx.conf");
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(folder.path())
            .args(["-e", "stderr", "-c"]);
        let child = command.arg(&path).stderr(Stdio::null()).spawn().unwrap();
        eventually("nginx", async || {
            let address = (Ipv4Addr::LOCALHOST, port);
            tokio::net::TcpStream::connect(address).await.is_ok()
        })
        .await;
        Self {
            child,
            _folder: folder,
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master process ends its worker when it is told, not when it is killed.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Examines a gateway behind nginx with these lines in its location.
async fn through(location: &str) -> Said {
    // Its answers take as long as those of a small model.
    let simulator = Simulator::start(Options::default()).unwrap();
    let gateway = Process::start(
        &over(&simulator.base_url(), "default_model: simulator\n"),
        &[],
    );
    let port = free_port();
    let site = format!(
        "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{}; {location} }} }}",
        gateway.address
    );
    let _nginx = Nginx::start(port, &site).await;
    let url = format!("http://127.0.0.1:{port}");
    let config = over(&simulator.base_url(), "");
    let examined = tokio::task::spawn_blocking(move || examine(&config, &["--url", &url]));
    examined.await.unwrap()
}

const UPGRADES: &str = "proxy_set_header Host $http_host; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;";

#[tokio::test]
async fn proxy_that_passes_everything_on_is_fine() {
    let said = through(&format!("proxy_buffering off; {UPGRADES}")).await;
    assert!(said.is_fine, "{}", said.text);
    assert!(said.text.contains("arrive piece by piece"), "{}", said.text);
    assert!(said.text.contains("upgrades pass"), "{}", said.text);
}

#[tokio::test]
async fn proxy_that_buffers_is_named() {
    // nginx fills its buffers where it asks over HTTP/1.0, which is its default.
    let buffers = "proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;";
    let said = through(&format!("{buffers} proxy_set_header Host $http_host;")).await;
    assert!(!said.is_fine, "{}", said.text);
    said.says("FAIL", "the proxy buffers", "proxy_buffering off");
}

#[tokio::test]
async fn proxy_that_compresses_is_named() {
    let compresses = "gzip on; gzip_types *; gzip_proxied any; gzip_min_length 0;";
    let said = through(&format!("{compresses} {UPGRADES}")).await;
    assert!(!said.is_fine, "{}", said.text);
    said.says("FAIL", "the proxy compresses streams (gzip)", "gzip off");
}

#[tokio::test]
async fn proxy_that_drops_upgrades_is_named() {
    let said =
        through("proxy_buffering off; proxy_http_version 1.1; proxy_set_header Host $http_host;")
            .await;
    assert!(!said.is_fine, "{}", said.text);
    said.says("FAIL", "an upgrade is answered with", "Upgrade");
}

#[tokio::test]
async fn proxy_that_passes_another_host_or_has_no_gateway_is_named() {
    let said = through("proxy_set_header Host chat.example.com;").await;
    said.says("FAIL", "host_not_allowed", "server.public_url");
    let gone = format!("http://127.0.0.1:{}", free_port());
    let said = tokio::task::spawn_blocking(move || examine("", &["--url", &gone]));
    said.await
        .unwrap()
        .says("FAIL", "cannot be reached", "proxy");
}

#[tokio::test]
async fn key_is_needed_where_the_gateway_needs_one() {
    const KEY: &str = "sk-tw-alice-alice-alice-alice";
    let simulator = Simulator::start(Options {
        pace: Pace::INSTANT,
        ..Options::default()
    });
    let simulator = simulator.unwrap();
    let keys = format!("default_model: simulator\nauth:\n  keys: [{{owner: alice, key: {KEY}}}]\n");
    let gateway = Process::start(&over(&simulator.base_url(), &keys), &[]);
    let url = format!("http://{}", gateway.address);
    let ready = Request::new(gateway.address, "GET", "/readyz");
    assert_eq!(ready.answer().await.status, 200);
    let said = tokio::task::spawn_blocking(move || {
        [&["--url", &url][..], &["--url", &url, "--key", KEY]].map(|args| examine("", args))
    });
    let [without, with] = said.await.unwrap();
    without.says("FAIL", "invalid_api_key", "--key");
    assert!(with.is_fine, "{}", with.text);
    assert!(with.text.contains("a stream arrives"), "{}", with.text);
    assert!(!with.text.contains(KEY));
}
