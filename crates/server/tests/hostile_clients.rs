//! Clients that send slowly, open too many connections, or exhaust the process's resources.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use support::{Request, chat};

/// A gateway process whose standard error is not read.
struct Unread {
    child: Child,
    address: SocketAddr,
}

impl Unread {
    fn start(config: &str) -> Self {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("tokenwire.yaml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tokenwire"))
            .args(["--port", "0", "--config"])
            .arg(&path)
            .env_remove("RUST_LOG")
            .env_remove("OPENAI_API_KEY")
            .env_remove("OPENAI_BASE_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.split_whitespace().next_back().unwrap();
        Self {
            address: address.parse().unwrap(),
            child,
        }
    }

    fn terminate(&self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === logging ===

#[tokio::test]
async fn unread_log_pipe_does_not_stop_the_gateway() {
    // Every request logs at level debug, and fails.
    let config = "default_model: m\nlog:\n  filter: debug\nretry:\n  attempts: 0\nbreaker:\n  failures: 0\nupstreams:\n  - name: nowhere\n    base_url: http://127.0.0.1:1/v1\n";
    let mut gateway = Unread::start(config);
    for _ in 0..20 {
        let requests = (0..100).map(|_| async {
            Request::new(gateway.address, "POST", "/v1/chat/completions")
                .header("content-type", "application/json")
                .body(chat("").to_string())
                .answer()
                .await
                .status
        });
        let statuses = futures::future::join_all(requests).await;
        assert!(statuses.iter().all(|status| *status == 502), "{statuses:?}");
    }
    let metrics = Request::new(gateway.address, "GET", "/metrics")
        .answer()
        .await
        .text();
    let dropped: u64 = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tokenwire_log_lines_dropped_total "))
        .unwrap()
        .parse()
        .unwrap();
    gateway.terminate();
    let mut stderr = gateway.child.stderr.take().unwrap();
    // The process ends although the pipe is full.
    let ended = tokio::task::spawn_blocking(move || {
        let status = gateway.child.wait().unwrap();
        drop(gateway);
        status
    });
    let status = support::patiently("the end of the process", ended)
        .await
        .unwrap();
    assert!(status.success(), "{status}");
    let mut log = Vec::new();
    stderr.read_to_end(&mut log).unwrap();
    let lines = log.split(|byte| *byte == b'\n').count();
    assert!(lines > 100, "{lines} lines were written, {dropped} dropped");
}
