//! A Redis Cluster, and a master that a Sentinel watches, as child processes.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{RedisServer, free_port};

/// The slots of a Redis Cluster.
const SLOTS: u32 = 16384;
/// How long the servers have to find each other.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks at a server.
const PAUSE: Duration = Duration::from_millis(20);

/// A Redis Cluster of three masters without replicas. It is killed when this is dropped.
///
/// Needs the program `redis-server`, as in Debian's package of that name.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

/// A Redis master, its replica, and a Sentinel that watches both. They are killed when this is dropped.
///
/// Needs the programs `redis-server` and `redis-sentinel`, as in Debian's packages of these names.
#[derive(Debug)]
pub struct WatchedRedis {
    master: RedisServer,
    replica: RedisServer,
    sentinel: Child,
    port: u16,
    _folder: TempDir,
}

/// Looks until something is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(PAUSE);
    }
}

// === impl RedisCluster ===

impl RedisCluster {
    /// Starts an empty cluster.
    #[must_use]
    pub fn start() -> Self {
        let node = || {
            // The default is the port and 10000, which may be too high.
            let bus = free_port().to_string();
            RedisServer::start_with(&[
                ("cluster-enabled", "yes"),
                ("cluster-port", &bus),
                ("cluster-node-timeout", "2000"),
            ])
        };
        let nodes = vec![node(), node(), node()];
        let count = u32::try_from(nodes.len()).expect("a few nodes");
        for (at, node) in (0..count).zip(&nodes) {
            let (first, next) = (SLOTS * at / count, SLOTS * (at + 1) / count);
            let (first, last) = (first.to_string(), (next - 1).to_string());
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            // Nodes need different epochs.
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
        let (first, others) = nodes.split_first().expect("a node");
        for other in others {
            let bus = other.setting("cluster-port").expect("a port");
            let port = other.address().port().to_string();
            first.command(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]);
        }
        until("the cluster", || {
            nodes.iter().all(|node| {
                let info = node.command(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
        });
        Self { nodes }
    }

    /// Returns its URL, which names two of its nodes.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<String> = self
            .nodes
            .iter()
            .take(2)
            .map(|node| node.address().to_string())
            .collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// Returns its nodes.
    #[must_use]
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }
}

// === impl WatchedRedis ===

impl WatchedRedis {
    /// Starts an empty master, and waits until its replica and its Sentinel know it.
    #[must_use]
    pub fn start() -> Self {
        let master = RedisServer::start();
        let port = master.address().port().to_string();
        let replica = RedisServer::start_with(&[("replicaof", &format!("127.0.0.1 {port}"))]);
        until("the replica", || {
            let info = replica.command(&["INFO", "replication"]);
            info.contains("master_link_status:up")
        });
        let folder = TempDir::new().expect("a folder");
        let own = free_port();
        let config = format!(
            "port {own}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        );
        let path = folder.path().join("sentinel.conf");
        std::fs::write(&path, config).expect("a file");
        let mut child = Command::new("redis-sentinel")
            .arg(&path)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-sentinel can be started: is the package redis-sentinel installed?");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        // It writes that once it knows the replica, which it asks the master for.
        while !line.contains("+slave slave") {
            line.clear();
            let read = output.read_line(&mut line).expect("its output");
            assert!(read > 0, "redis-sentinel ended");
        }
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self {
            master,
            replica,
            sentinel: child,
            port: own,
            _folder: folder,
        }
    }

    /// Returns its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/main", self.port)
    }

    /// Returns the server that is the master at the start.
    #[must_use]
    pub fn master(&self) -> &RedisServer {
        &self.master
    }

    /// Kills the master, and waits until the Sentinel has made a master of the replica.
    pub fn fail_over(&mut self) {
        self.master.kill();
        until("the failover", || {
            let info = self.replica.try_command(&["INFO", "replication"]);
            info.is_ok_and(|info| info.contains("role:master"))
        });
    }
}

impl Drop for WatchedRedis {
    fn drop(&mut self) {
        let _ = self.sentinel.kill();
        let _ = self.sentinel.wait();
    }
}
