//! A gateway as a process on a disk that hangs, is slow, fails, or loses power. Where the test may
//! not mount a disk it reports that it was skipped.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::process::{Process, resident};
use crate::support::{End, Request, eventually, get, patiently, post, response, stored, with};
use serde_json::json;
use tokenwire_simulator::{Options, Pace, Simulator};
use tokenwire_testkit::disk::{DiskOperation, Errno, FaultyDisk};
use tokio::task::JoinSet;

/// What changes a disk.
const CHANGES: [DiskOperation; 6] = [
    DiskOperation::Create,
    DiskOperation::Write,
    DiskOperation::Change,
    DiskOperation::Sync,
    DiskOperation::Rename,
    DiskOperation::Remove,
];

/// A simulator and a disk, which outlive the gateways.
struct World {
    simulator: Simulator,
    disk: FaultyDisk,
    _folder: tempfile::TempDir,
}

impl World {
    fn new() -> Option<Self> {
        let folder = tempfile::TempDir::new().unwrap();
        let disk = FaultyDisk::mount(&folder.path().join("disk"))?;
        let simulator = Simulator::start(Options {
            pace: Pace::INSTANT,
            ..Options::default()
        });
        Some(Self {
            simulator: simulator.unwrap(),
            disk,
            _folder: folder,
        })
    }

    fn config(&self, more: &str) -> String {
        format!(
            "default_model: simulator\nserver:\n  shutdown_timeout: 2s\nstore:\n  kind: disk\n  sync: 100ms\n  path: {}\nupstreams:\n  - name: simulator\n    base_url: {}\n{more}",
            self.disk.path().join("store").display(),
            self.simulator.base_url()
        )
    }

    /// Starts a gateway. The one before is gone.
    async fn start(&self, more: &str) -> Process {
        let config = self.config(more);
        let start = move || Process::start(&config, &[]);
        tokio::task::spawn_blocking(start).await.unwrap()
    }
}

/// Runs streams beside one another. Each must be whole. Returns their ids and bodies.
async fn run(gateway: &Process, count: usize, steering: &str) -> Vec<(String, String)> {
    let mut running = JoinSet::new();
    for number in 0..count {
        let members = json!({"metadata": {"number": number.to_string()}});
        let request = post(gateway, "/v1/streams", &with(response(steering), members));
        running.spawn(async move { request.answer().await });
    }
    let mut all = Vec::new();
    while let Some(answer) = patiently("the streams", running.join_next()).await {
        let answer = answer.unwrap();
        assert_eq!((answer.status, answer.end), (200, End::Whole));
        let last = answer.events().pop().unwrap();
        assert_eq!(last.kind(), "response.completed");
        all.push((answer.id().to_owned(), answer.text().to_owned()));
    }
    all
}

/// Waits until `/readyz` says this of the store.
async fn store_is(gateway: &Process, state: &str) {
    eventually(state, async || {
        let answer = get(gateway, "/readyz").await;
        assert_eq!(answer.status, 200, "streams run on");
        answer.json()["store"] == state
    })
    .await;
}

/// Reads streams again.
async fn expect(gateway: &Process, streams: &[(String, String)]) {
    for (id, before) in streams {
        let again = get(gateway, &format!("/v1/streams/{id}")).await;
        assert!(again.text() == *before, "{id} is read as it was written");
    }
}

/// Waits until what was stored is durable: two rounds of syncs end.
async fn all_synced(gateway: &Process, world: &World) {
    let synced = world.disk.calls(DiskOperation::Sync);
    eventually("syncs", async || {
        run(gateway, 1, "tokens=1").await;
        world.disk.calls(DiskOperation::Sync) >= synced + 8
    })
    .await;
}

/// Waits for the exit. Returns how long it took, and what the process said.
async fn exit(gateway: Process) -> (Duration, String) {
    let begun = Instant::now();
    gateway.terminate();
    let output = tokio::task::spawn_blocking(move || gateway.output());
    let (_, output) = patiently("the exit", output).await.unwrap();
    (begun.elapsed(), output)
}

/// Starts a stream that stalls after some tokens, and waits until it shows them. Returns its id.
async fn stalled(gateway: &Process) -> String {
    let body = response("tokens=100 text=count fault=stall after=40");
    let mut stream = post(gateway, "/v1/streams", &body).send().await;
    stream.until("\" t30\"").await;
    let seen = String::from_utf8_lossy(&stream.body).into_owned();
    let last = seen.lines().find_map(|line| line.strip_prefix("id: "));
    let (id, _) = last.unwrap().split_once('.').unwrap();
    id.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_that_hangs_delays_no_stream_and_gets_everything_later() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("").await;
    let paced = "tokens=20 tbt=20ms text=count";
    let begun = Instant::now();
    let mut all = run(&gateway, 8, paced).await;
    let usual = begun.elapsed();
    stored(&gateway, 8).await;
    world.disk.hang();
    let begun = Instant::now();
    all.extend(run(&gateway, 8, paced).await);
    let delayed = begun.elapsed();
    assert!(
        delayed < usual * 3 / 2 + Duration::from_millis(500),
        "{delayed:?} instead of {usual:?}"
    );
    store_is(&gateway, "hanging").await;
    assert!(
        get(&gateway, "/metrics")
            .await
            .text()
            .contains("tokenwire_store_up 0")
    );
    // What must be stored first is refused, not kept waiting.
    let keyed = post(&gateway, "/v1/streams", &response("tokens=2")).header("idempotency-key", "a");
    let refused = keyed.answer().await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "store_unavailable");
    expect(&gateway, &all).await;
    world.disk.resume();
    stored(&gateway, 16).await;
    store_is(&gateway, "ready").await;
    drop(gateway);
    let gateway = world.start("").await;
    expect(&gateway, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_that_hangs_costs_no_memory() {
    let Some(world) = World::new() else { return };
    // Half of it holds logs of ended streams.
    let gateway = world.start("streams:\n  max_memory: 48MiB\n").await;
    let long = "tokens=8000 text=count";
    world.disk.hang();
    let mut resident_at = Vec::new();
    // Each round has some 12 MB of logs that the disk does not take.
    for _ in 0..5 {
        for _ in 0..10 {
            run(&gateway, 8, long).await;
        }
        resident_at.push(resident(gateway.id()).unwrap());
    }
    store_is(&gateway, "hanging").await;
    // The allocator gives freed memory back when it likes to.
    let full = resident_at[0].max(resident_at[1]);
    assert!(resident_at[4] < full + (20 << 20), "{resident_at:?}");
    world.disk.resume();
    store_is(&gateway, "ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_that_hangs_does_not_delay_the_exit() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("").await;
    run(&gateway, 2, "tokens=5").await;
    stalled(&gateway).await;
    world.disk.hang();
    run(&gateway, 2, "tokens=5").await;
    store_is(&gateway, "hanging").await;
    let (time, output) = exit(gateway).await;
    // The timeout of the shutdown, the last records of streams, and those of other processes.
    assert!(
        time < Duration::from_secs(2 + 1 + 5 + 4),
        "{time:?}: {output}"
    );
    assert!(output.contains("could not be stored in time"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_that_hangs_is_an_error_of_the_start() {
    let Some(world) = World::new() else { return };
    let config = world.config("");
    std::fs::create_dir(world.disk.path().join("store")).unwrap();
    world.disk.hang();
    let refused = tokio::task::spawn_blocking(move || Process::fail_on(0, &config));
    let refused = patiently("the error", refused).await.unwrap();
    assert!(
        refused.contains("store.path") && refused.contains("the disk has not answered for 20s"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_on_a_disk_that_hangs_can_be_terminated() {
    let Some(world) = World::new() else { return };
    std::fs::create_dir(world.disk.path().join("store")).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("tokenwire.yaml");
    std::fs::write(&path, world.config("")).unwrap();
    world.disk.hang();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_tokenwire"))
        .args(["--port", "0", "--config"])
        .arg(&path)
        .spawn()
        .unwrap();
    let tasks = format!("/proc/{}/task", child.id());
    let opens = async || {
        let tasks = std::fs::read_dir(&tasks).unwrap().flatten();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        tasks
            .into_iter()
            .any(|task| name(task).is_ok_and(|name| name.trim() == "store-opener"))
    };
    eventually("the thread that opens the store", opens).await;
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    let exit = tokio::task::spawn_blocking(move || child.wait());
    patiently("the exit", exit).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disk_loses_nothing_and_catches_up() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("streams:\n  max_memory: 64MiB\n").await;
    world.disk.limit_rate(1 << 20);
    let mut all = Vec::new();
    for _ in 0..4 {
        all.extend(run(&gateway, 4, "tokens=20000 text=count").await);
    }
    assert!(resident(gateway.id()).unwrap() < 200 << 20);
    stored(&gateway, all.len()).await;
    let written = world.disk.bytes();
    assert!(written > 4 << 20, "only {written} bytes were to be written");
    drop(gateway);
    // It reads what the other one left, which takes its time.
    let gateway = world.start("").await;
    world.disk.heal();
    expect(&gateway, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_sync_may_have_lost_is_written_again() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("").await;
    let running = stalled(&gateway).await;
    let mut ended = run(&gateway, 3, "tokens=20 text=count").await;
    stored(&gateway, 3).await;
    // The next syncs of the journal and the kept files fail, and the system forgets their contents.
    let before = world.disk.calls(DiskOperation::Sync);
    world.disk.fail(DiskOperation::Sync, Errno::EIO);
    ended.extend(run(&gateway, 3, "tokens=20 text=count").await);
    stored(&gateway, 6).await;
    store_is(&gateway, "failing").await;
    eventually("failed syncs", async || {
        world.disk.calls(DiskOperation::Sync) >= before + 3
    })
    .await;
    world.disk.heal();
    ended.extend(run(&gateway, 1, "tokens=20 text=count").await);
    stored(&gateway, 7).await;
    store_is(&gateway, "ready").await;
    all_synced(&gateway, &world).await;
    drop(gateway);
    world.disk.lose_power();
    let gateway = world.start("").await;
    expect(&gateway, &ended).await;
    let lost = get(&gateway, &format!("/v1/responses/{running}")).await;
    assert_eq!(
        lost.json()["error"]["code"],
        "producer_lost",
        "{}",
        lost.text()
    );
    let text = lost.json()["output"][0]["content"][0]["text"].to_string();
    assert!(text.contains(" t39"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_power_takes_no_more_than_the_last_sync() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("").await;
    let first = run(&gateway, 4, "tokens=20 text=count").await;
    let deleted = run(&gateway, 1, "tokens=20 text=count").await.remove(0).0;
    stored(&gateway, 5).await;
    all_synced(&gateway, &world).await;
    let path = format!("/v1/responses/{deleted}");
    let answer = Request::new(gateway.address, "DELETE", &path)
        .answer()
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    drop(gateway);
    world.disk.lose_power();
    let gateway = world.start("").await;
    expect(&gateway, &first).await;
    assert_eq!(get(&gateway, &path).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_that_becomes_read_only_gets_everything_once_it_is_writable() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("").await;
    let mut all = run(&gateway, 4, "tokens=20 text=count").await;
    stored(&gateway, 4).await;
    // As the system does after an error of the file system. Open files become read-only, too.
    for change in CHANGES {
        world.disk.fail(change, Errno::EROFS);
    }
    all.extend(run(&gateway, 4, "tokens=20 text=count").await);
    store_is(&gateway, "failing").await;
    expect(&gateway, &all).await;
    let path = format!("/v1/responses/{}", all[0].0);
    let refused = Request::new(gateway.address, "DELETE", &path)
        .answer()
        .await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    world.disk.heal();
    stored(&gateway, 8).await;
    store_is(&gateway, "ready").await;
    drop(gateway);
    let gateway = world.start("").await;
    expect(&gateway, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_with_short_writes_gets_everything_once_there_is_room() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("").await;
    let mut all = run(&gateway, 2, "tokens=50 text=count").await;
    stored(&gateway, 2).await;
    world.disk.limit_write(100);
    all.extend(run(&gateway, 2, "tokens=50 text=count").await);
    stored(&gateway, 4).await;
    // Room for a part of what follows.
    world.disk.limit_bytes(world.disk.bytes() + 1000);
    all.extend(run(&gateway, 6, "tokens=50 text=count").await);
    store_is(&gateway, "full").await;
    world.disk.fail_next(DiskOperation::Write, Errno::EINTR, 3);
    world.disk.limit_bytes(usize::MAX);
    stored(&gateway, 10).await;
    store_is(&gateway, "ready").await;
    drop(gateway);
    world.disk.heal();
    let gateway = world.start("").await;
    expect(&gateway, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_without_room_is_refused_and_durable_once_it_is_answered() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("").await;
    let mut all = run(&gateway, 2, "tokens=20 text=count").await;
    stored(&gateway, 2).await;
    let (id, _) = all[0].clone();
    let path = format!("/v1/responses/{id}");
    let delete = async |gateway: &Process| {
        let delete = Request::new(gateway.address, "DELETE", &path);
        delete.answer().await
    };
    // The first tombstone of a process needs a file. This has room for the file and a part of it.
    for room in [0, 10, 40] {
        world.disk.limit_bytes(world.disk.bytes() + room);
        let refused = delete(&gateway).await;
        assert_eq!(refused.status, 503, "{room}: {}", refused.text());
        assert_eq!(refused.json()["error"]["code"], "store_unavailable");
        world.disk.limit_bytes(usize::MAX);
    }
    // So is one that cannot be synced.
    world.disk.fail(DiskOperation::Sync, Errno::EIO);
    let refused = delete(&gateway).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    world.disk.heal();
    all_synced(&gateway, &world).await;
    let deleted = delete(&gateway).await;
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    drop(gateway);
    world.disk.lose_power();
    let gateway = world.start("").await;
    assert_eq!(get(&gateway, &path).await.status, 404);
    all.remove(0);
    expect(&gateway, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_that_was_refused_leaves_the_stream_on_the_disk() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("").await;
    let all = run(&gateway, 2, "tokens=20 text=count").await;
    stored(&gateway, 2).await;
    world.disk.limit_bytes(world.disk.bytes());
    let path = format!("/v1/responses/{}", all[0].0);
    let refused = Request::new(gateway.address, "DELETE", &path)
        .answer()
        .await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    drop(gateway);
    world.disk.heal();
    let gateway = world.start("").await;
    expect(&gateway, &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_that_cannot_rename_its_folder_says_so_and_leaves_nothing() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("").await;
    let all = run(&gateway, 2, "tokens=20 text=count").await;
    stored(&gateway, 2).await;
    drop(gateway);
    world.disk.fail(DiskOperation::Rename, Errno::EIO);
    for _ in 0..3 {
        let config = world.config("");
        let refused = tokio::task::spawn_blocking(move || Process::fail_on(0, &config));
        let refused = patiently("the error", refused).await.unwrap();
        assert!(refused.contains("store.path"), "{refused}");
    }
    world.disk.heal();
    let store = world.disk.path().join("store");
    let names = std::fs::read_dir(&store).unwrap().flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    let is_new = |name: &std::ffi::OsString| name.as_encoded_bytes().starts_with(b".new-");
    assert!(!names.iter().any(is_new), "{names:?}");
    assert_eq!(folders(&store).len(), 1, "{names:?}");
    let gateway = world.start("").await;
    expect(&gateway, &all).await;
}

/// Returns the folders of processes below a store.
fn folders(store: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(store).unwrap().flatten();
    let mut folders: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folder_that_is_deleted_under_the_process_stops_no_stream() {
    let Some(world) = World::new() else { return };
    let gateway = world.start("").await;
    let store = world.disk.path().join("store");
    let mut all = run(&gateway, 2, "tokens=20 text=count").await;
    stored(&gateway, 2).await;
    for folder in folders(&store) {
        std::fs::remove_dir_all(folder).unwrap();
    }
    all.extend(run(&gateway, 2, "tokens=20 text=count").await);
    expect(&gateway, &all).await;
    let (time, output) = exit(gateway).await;
    assert!(time < Duration::from_secs(12), "{time:?}: {output}");
    let gateway = world.start("").await;
    let later = run(&gateway, 2, "tokens=20 text=count").await;
    expect(&gateway, &later).await;
}
