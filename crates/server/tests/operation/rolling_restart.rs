//! A rolling restart on one machine: each new process takes the port over while streams run and
//! connections are opened, and no client notices.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::paced_reader::{KINDS, Progress, read};
use crate::support::process::Process;
use crate::support::{End, Request, eventually, patiently};
use tokenwire_simulator::{Options, Pace, Simulator};
use tokenwire_testkit::free_port;
use tokio::task::JoinSet;

/// Streams of each kind that run at a restart. `RESTART_STREAMS` is another number.
const STREAMS: usize = 10;

/// Restarts in a row.
const RESTARTS: usize = 5;

/// Runs the same number of streams of both kinds in each of the official SDKs that
/// `RESTART_PYTHON` and `RESTART_NODE` name. Returns how many streams that are.
fn run_sdks(
    address: SocketAddr,
    count: usize,
    progress: &Arc<Progress>,
    running: &mut JoinSet<()>,
) -> usize {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/restart/sdk.py");
    let module = std::env::var("RESTART_NODE_MODULE").unwrap_or_default();
    let mut streams = 0;
    for (program, script) in [("RESTART_PYTHON", python), ("RESTART_NODE", &module)] {
        let Some(program) = std::env::var_os(program) else {
            continue;
        };
        let mut command = Command::new(program);
        command
            .args([script, &format!("http://{address}/v1"), &count.to_string()])
            .stdout(Stdio::piped());
        let progress = progress.clone();
        running.spawn_blocking(move || {
            let mut sdk = command.spawn().unwrap();
            let lines = BufReader::new(sdk.stdout.take().unwrap()).lines();
            for line in lines {
                assert_eq!(line.unwrap(), "begun");
                progress.begun.fetch_add(1, Ordering::SeqCst);
            }
            assert!(sdk.wait().unwrap().success(), "an SDK saw an error");
        });
        streams += 2 * count;
    }
    streams
}

/// Opens one connection after the other, until it is told to stop. Returns how many.
async fn knock(address: SocketAddr, stop: Arc<AtomicBool>) -> usize {
    let mut answered = 0;
    while !stop.load(Ordering::SeqCst) {
        let answer = Request::new(address, "GET", "/healthz").answer().await;
        assert_eq!((answer.status, answer.end), (200, End::Whole));
        answered += 1;
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_in_a_row_reset_no_connection_and_lose_no_token() {
    let simulator = Simulator::start(Options {
        pace: Pace::INSTANT,
        ..Options::default()
    });
    let simulator = simulator.unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let config = format!(
        "default_model: simulator\nstore:\n  kind: disk\n  path: {}\nupstreams:\n  - name: simulator\n    base_url: {}\n",
        folder.path().display(),
        simulator.base_url()
    );
    let start = async || {
        let config = config.clone();
        let start = move || Process::start_on(address.port(), &config);
        tokio::task::spawn_blocking(start).await.unwrap()
    };
    let mut gateway = start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut knocking = JoinSet::new();
    for _ in 0..4 {
        knocking.spawn(knock(address, stop.clone()));
    }
    let mut streams = JoinSet::new();
    let mut exits = JoinSet::new();
    let progress = Arc::new(Progress::default());
    let count = std::env::var("RESTART_STREAMS").ok();
    let count = count.map_or(STREAMS, |count| count.parse().unwrap());
    let mut all = 0;
    for _ in 0..RESTARTS {
        for kind in KINDS {
            for _ in 0..count {
                streams.spawn(read(address, kind, progress.clone()));
            }
        }
        all += count * KINDS.len();
        all += run_sdks(address, count, &progress, &mut streams);
        let begun = async || {
            if let Some(ended) = streams.try_join_next() {
                ended.unwrap();
            }
            progress.begun.load(Ordering::SeqCst) == all
        };
        eventually("the first tokens", begun).await;
        let old = std::mem::replace(&mut gateway, start().await);
        exits.spawn_blocking(move || old.output());
    }
    while let Some(read) = patiently("the streams", streams.join_next()).await {
        read.unwrap();
    }
    while let Some(exit) = patiently("the exits", exits.join_next()).await {
        let (success, output) = exit.unwrap();
        assert!(success, "{output}");
    }
    stop.store(true, Ordering::SeqCst);
    let mut answered = 0;
    while let Some(knocked) = knocking.join_next().await {
        answered += knocked.unwrap();
    }
    assert!(answered > 100, "only {answered} connections were tried");
    let stats = simulator.stats();
    let asked = u64::try_from(all).unwrap();
    assert_eq!(
        (stats.chat_completions + stats.responses, stats.aborted),
        (asked, 0)
    );
    // Each of those that can was told to, once at least.
    assert!(progress.resumed.load(Ordering::SeqCst) >= 2 * count);
}
