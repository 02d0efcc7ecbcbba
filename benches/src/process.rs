//! The processes that the bench starts, and their CPU time and memory.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use thiserror::Error;

/// How long a process may take to start serving, and to end after SIGTERM.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub(crate) enum ProcessError {
    #[error("failed to start {program}: {source}; {remedy}")]
    Start {
        program: String,
        source: io::Error,
        remedy: String,
    },
    #[error("{program} ended with {status} before it served; the end of its log {log}: {words}")]
    Ended {
        program: String,
        status: String,
        log: PathBuf,
        words: String,
    },
    #[error("{program} did not serve on {address} within 120 s; its output is in {log}")]
    Silent {
        program: String,
        address: SocketAddr,
        log: PathBuf,
    },
    #[error("failed to read /proc for process {pid}: {source}; is it still running?")]
    Proc { pid: u32, source: io::Error },
    #[error("failed to {what}: {source}")]
    Limit {
        what: &'static str,
        source: io::Error,
    },
}

/// A process and all processes that it started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessTree {
    root: u32,
}

/// CPU time used so far by a process tree, and its memory now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// CPU time in ns, user and system, by the scheduler's count of the running threads.
    pub(crate) cpu: u64,
    /// Time in ns in which threads were ready to run but had no core.
    pub(crate) waited: u64,
    /// CPU time in ns by ticks of 10 ms, with the threads that have ended.
    pub(crate) cpu_ticks: u64,
    /// The share of `cpu_ticks` spent in user mode, in ns.
    pub(crate) user: u64,
    /// Resident and proportional set size in bytes.
    pub(crate) rss: u64,
    pub(crate) pss: u64,
}

/// A child process. When this is dropped, it and its children get SIGTERM, then SIGKILL.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    program: String,
    log: PathBuf,
}

// === impl Running ===

impl Running {
    /// Starts `command` on `cores` with its output in `log`.
    pub(crate) fn start(
        mut command: Command,
        log: PathBuf,
        cores: Option<&[usize]>,
        remedy: &str,
    ) -> Result<Self, ProcessError> {
        let program = Path::new(command.get_program())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let failed = |source| ProcessError::Start {
            program: program.clone(),
            source,
            remedy: remedy.to_owned(),
        };
        let out = File::create(&log).map_err(failed)?;
        let err = out.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // A child inherits the affinity of the thread that starts it, so all its threads run on
        // these cores from the start.
        let before =
            rustix::thread::sched_getaffinity(None).map_err(|errno| failed(errno.into()))?;
        if let Some(cores) = cores {
            pin(cores)?;
        }
        let child = command.spawn();
        if cores.is_some() {
            sched_setaffinity(None, &before).map_err(|errno| failed(errno.into()))?;
        }
        Ok(Self {
            child: child.map_err(failed)?,
            program,
            log,
        })
    }

    pub(crate) fn tree(&self) -> ProcessTree {
        ProcessTree {
            root: self.child.id(),
        }
    }

    /// Waits until `ready` returns true; it is called every 20 ms.
    pub(crate) fn wait_until(
        &mut self,
        address: SocketAddr,
        ready: impl Fn(SocketAddr) -> bool,
    ) -> Result<(), ProcessError> {
        let began = Instant::now();
        while !ready(address) {
            if let Ok(Some(status)) = self.child.try_wait() {
                let text = fs::read_to_string(&self.log).unwrap_or_default();
                let words = text
                    .lines()
                    .rev()
                    .take(3)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .collect::<Vec<_>>();
                return Err(ProcessError::Ended {
                    program: self.program.clone(),
                    status: status.to_string(),
                    log: self.log.clone(),
                    words: words.join(" / "),
                });
            }
            if began.elapsed() > START_LIMIT {
                return Err(ProcessError::Silent {
                    program: self.program.clone(),
                    address,
                    log: self.log.clone(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let family = self.tree().family();
        signal(self.child.id(), Signal::TERM);
        let began = Instant::now();
        while began.elapsed() < STOP_LIMIT {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // The child is not reaped yet, so its pid is not reused. Its own children can outlive it,
        // as an nginx worker does when its master is killed.
        let _ = self.child.kill();
        for (pid, started) in family
            .into_iter()
            .filter(|(pid, _)| *pid != self.child.id())
        {
            // A pid can be reused; the pid with its start time cannot.
            if stat(pid).is_ok_and(|now| now.started == started) {
                signal(pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Returns whether `address` accepts connections.
pub(crate) fn accepts(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
}

/// Returns a port that was free just now.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

// === impl ProcessTree ===

impl ProcessTree {
    pub(crate) fn of(pid: u32) -> Self {
        Self { root: pid }
    }

    /// Returns the root and all its descendants.
    fn pids(&self) -> Vec<u32> {
        let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|pid: u32| Some((pid, stat(pid).ok()?.parent)))
            .collect();
        let mut tree = vec![self.root];
        let mut at = 0;
        while let Some(&parent) = tree.get(at) {
            tree.extend(
                parents
                    .iter()
                    .filter(|(_, of)| *of == parent)
                    .map(|(pid, _)| *pid),
            );
            at += 1;
        }
        tree
    }

    /// Returns each of [`Self::pids`] with its start time.
    fn family(&self) -> Vec<(u32, u64)> {
        self.pids()
            .into_iter()
            .filter_map(|pid| Some((pid, stat(pid).ok()?.started)))
            .collect()
    }

    pub(crate) fn usage(&self) -> Result<Usage, ProcessError> {
        let mut usage = Usage::default();
        for pid in self.pids() {
            match usage.add(pid) {
                // A child may end at any time.
                Err(_) if pid != self.root => {}
                other => other.map_err(|source| ProcessError::Proc { pid, source })?,
            }
        }
        Ok(usage)
    }
}

// === impl Usage ===

impl Usage {
    /// Adds the usage of one process, or nothing if it has ended.
    fn add(&mut self, pid: u32) -> io::Result<()> {
        let stat = stat(pid)?;
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
        let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        self.user += stat.user;
        self.cpu_ticks += stat.user + stat.system;
        for task in tasks.flatten() {
            // A thread may end between the listing and the read.
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let mut words = text.split(' ').map(|word| word.parse::<u64>().unwrap_or(0));
            self.cpu += words.next().unwrap_or(0);
            self.waited += words.next().unwrap_or(0);
        }
        for line in memory.lines() {
            let bytes = line
                .split_whitespace()
                .nth(1)
                .and_then(|word| word.parse::<u64>().ok())
                .unwrap_or(0)
                * 1024;
            if line.starts_with("Rss:") {
                self.rss += bytes;
            } else if line.starts_with("Pss:") {
                self.pss += bytes;
            }
        }
        Ok(())
    }

    /// Returns the CPU time in ns between two readings. The scheduler's count is exact but loses
    /// threads that have ended. If the ticks are clearly higher, they are used instead.
    pub(crate) fn cpu_since(&self, before: &Self) -> u64 {
        const TICK_ERROR: u64 = 30_000_000;
        let exact = self.cpu.saturating_sub(before.cpu);
        let ticks = self.cpu_ticks.saturating_sub(before.cpu_ticks);
        if ticks > exact + TICK_ERROR {
            ticks
        } else {
            exact
        }
    }

    /// Returns the share of user mode in the CPU time since `before`, 0 to 1.
    pub(crate) fn user_share_since(&self, before: &Self) -> f64 {
        let all = self.cpu_ticks.saturating_sub(before.cpu_ticks);
        if all == 0 {
            0.0
        } else {
            self.user.saturating_sub(before.user) as f64 / all as f64
        }
    }
}

struct Stat {
    parent: u32,
    user: u64,
    system: u64,
    /// Start time in ticks since boot.
    started: u64,
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in brackets, which may contain spaces and brackets.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |index: usize| {
        rest.split_whitespace()
            .nth(index)
            .and_then(|word| word.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    Ok(Stat {
        parent: u32::try_from(field(1)).unwrap_or(0),
        user: field(11) * tick,
        system: field(12) * tick,
        started: field(19),
    })
}

// === the machine ===

/// Pins this thread, and the processes that it starts, to these cores.
pub(crate) fn pin(cores: &[usize]) -> Result<(), ProcessError> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core);
    }
    sched_setaffinity(None, &set).map_err(|errno| ProcessError::Limit {
        what: "pin to a core (try --no-pin)",
        source: errno.into(),
    })
}

/// Returns the cores that this process may use.
pub(crate) fn cores() -> Vec<usize> {
    rustix::thread::sched_getaffinity(None)
        .map(|set| {
            (0..CpuSet::MAX_CPU)
                .filter(|core| set.is_set(*core))
                .collect()
        })
        .unwrap_or_default()
}

/// Raises the soft limit of open files for this process and its children to the hard limit. Returns
/// the new limit.
pub(crate) fn raise_open_files() -> Result<u64, ProcessError> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .map_err(|errno| ProcessError::Limit {
        what: "raise the limit of open files",
        source: errno.into(),
    })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Makes the kernel's table of descriptors large enough for `count`. Growing it later, with several
/// threads, would stall all streams for 5 to 20 ms (`synchronize_rcu` in `expand_fdtable`).
pub(crate) fn reserve_open_files(count: u64) {
    let highest = i32::try_from(count.min(1 << 16).saturating_sub(1)).unwrap_or(i32::MAX);
    // The copy is closed at once; the table stays.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), highest);
}

/// Returns the name of the processor and the version of the kernel.
pub(crate) fn machine() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, name)| name.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let count = processor
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    format!("{model}, {count} cores, Linux {}", kernel.trim())
}

/// Returns the cargo profile that this program was built with. cargo names the folder of the
/// binaries after it.
pub(crate) fn profile() -> String {
    let folder = std::env::current_exe().ok().and_then(|program| {
        let folder = program.parent()?.file_name()?;
        Some(folder.to_string_lossy().into_owned())
    });
    match folder.as_deref() {
        None | Some("debug" | "deps") => "dev".to_owned(),
        Some(profile) => profile.to_owned(),
    }
}

/// Returns the CPU time in ns of the calling thread, which is the load side.
pub(crate) fn own_cpu() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}
