//! A disk that hangs, is slow, is full, fails and loses power, when the test says so.
//!
//! It is a file system in memory, mounted through FUSE, so a real process can use it. A hang does not
//! keep a process from being killed: nothing of its requests has been taken from the kernel's queue.

mod mount;
mod tree;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption, Session};
use parking_lot::{Condvar, Mutex};

pub use fuser::Errno;
use mount::Mounted;
use tree::Tree;

/// A name that the test asks for to stop the disk.
const GATE: &str = ".gate";

/// What a process asks of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskOperation {
    /// Looks up a name, or the properties of a file.
    Look,
    /// Lists a folder.
    List,
    /// Creates a file, a folder or a socket.
    Create,
    /// Opens a file.
    Open,
    /// Reads a part of a file.
    Read,
    /// Writes a part of a file.
    Write,
    /// Changes the length, the mode or the times of a file.
    Change,
    /// Makes a file or a folder durable.
    Sync,
    /// Renames a file or a folder.
    Rename,
    /// Removes a file or a folder.
    Remove,
}

/// A disk with faults, mounted until it is dropped.
pub struct FaultyDisk {
    path: PathBuf,
    shared: Arc<Shared>,
    /// `None` once it is unmounted.
    session: Option<BackgroundSession>,
}

/// What the mounted file system and the test share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    tree: Tree,
    faults: HashMap<DiskOperation, Failure>,
    calls: HashMap<DiskOperation, usize>,
    /// Most bytes of all files.
    capacity: usize,
    /// Most bytes of one write.
    longest_write: usize,
    /// Bytes per second; 0 is without a limit.
    rate: u64,
    hangs: bool,
    /// Whether the request that stops the disk has arrived.
    has_stopped: bool,
}

/// The error of the next calls.
struct Failure {
    errno: Errno,
    left: usize,
}

impl fmt::Debug for FaultyDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDisk")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl FaultyDisk {
    /// Mounts an empty disk at this folder, which is created. Returns `None` where this process must
    /// not mount, and says so on stderr.
    ///
    /// # Panics
    /// If FUSE is there but the disk cannot be mounted.
    #[must_use]
    #[allow(clippy::print_stderr, reason = "reports what is skipped")]
    pub fn mount(path: &Path) -> Option<Self> {
        let opened = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse");
        if let Err(error) = opened {
            eprintln!("skipped: cannot use /dev/fuse: {error}");
            return None;
        }
        fs::create_dir_all(path).expect("a folder to mount at");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                tree: Tree::new(),
                faults: HashMap::new(),
                calls: HashMap::new(),
                capacity: usize::MAX,
                longest_write: usize::MAX,
                rate: 0,
                hangs: false,
                has_stopped: false,
            }),
            changed: Condvar::new(),
        });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faulty-disk".to_owned())];
        let session = match Session::new(Mounted(shared.clone()), path, &config) {
            Ok(session) => session,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                eprintln!("skipped: this process must not mount: {error}");
                return None;
            }
            Err(error) => panic!("a disk cannot be mounted: {error}"),
        };
        let session = session.spawn().expect("a thread");
        Some(Self {
            path: path.to_owned(),
            shared,
            session: Some(session),
        })
    }

    /// Returns where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stops the disk: every call waits until [`resume`](Self::resume). Returns once that is so.
    /// A process that changes the uppermost folder meanwhile cannot be killed: use one below it.
    pub fn hang(&self) {
        {
            let mut state = self.shared.state.lock();
            state.hangs = true;
            state.has_stopped = false;
        }
        // Held by the file system in place of a request of a process under test, which could not be
        // killed while its request is held.
        let gate = self.path.join(GATE);
        std::thread::spawn(move || drop(fs::metadata(gate)));
        let mut state = self.shared.state.lock();
        while !state.has_stopped {
            self.shared.changed.wait(&mut state);
        }
    }

    /// Ends a hang.
    pub fn resume(&self) {
        self.shared.state.lock().hangs = false;
        self.shared.changed.notify_all();
    }

    /// Makes reads and writes take their time.
    pub fn limit_rate(&self, bytes_per_second: u64) {
        self.shared.state.lock().rate = bytes_per_second;
    }

    /// Sets the most bytes of all files. A write that does not fit is shortened, or fails.
    pub fn limit_bytes(&self, capacity: usize) {
        self.shared.state.lock().capacity = capacity;
    }

    /// Shortens longer writes.
    pub fn limit_write(&self, bytes: usize) {
        self.shared.state.lock().longest_write = bytes;
    }

    /// Makes all further calls of this operation fail.
    pub fn fail(&self, operation: DiskOperation, errno: Errno) {
        self.fail_next(operation, errno, usize::MAX);
    }

    /// Makes this number of calls of an operation fail.
    pub fn fail_next(&self, operation: DiskOperation, errno: Errno, calls: usize) {
        let failure = Failure { errno, left: calls };
        self.shared.state.lock().faults.insert(operation, failure);
    }

    /// Ends all faults but a hang.
    pub fn heal(&self) {
        let mut state = self.shared.state.lock();
        state.faults.clear();
        state.capacity = usize::MAX;
        state.longest_write = usize::MAX;
        state.rate = 0;
    }

    /// Loses all that no sync has made durable. No process may use the disk.
    pub fn lose_power(&self) {
        self.shared.state.lock().tree.lose_power();
    }

    /// Returns how often this operation was asked for.
    #[must_use]
    pub fn calls(&self, operation: DiskOperation) -> usize {
        let state = self.shared.state.lock();
        state.calls.get(&operation).copied().unwrap_or_default()
    }

    /// Returns the bytes of all files, also while the disk hangs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shared.state.lock().tree.bytes()
    }

    /// Returns the paths of all files below the disk, also while it hangs.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        self.shared.state.lock().tree.files()
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        self.heal();
        self.resume();
        let Some(session) = self.session.take() else {
            return;
        };
        if session.umount_and_join().is_err() {
            // A process of a test that failed still has it.
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
    }
}

impl Shared {
    /// Begins a call: waits while the disk hangs, and returns the error that the call is to have.
    fn begin(&self, operation: DiskOperation, is_gate: bool) -> Result<(), Errno> {
        let mut state = self.state.lock();
        // There is one thread, which serves nothing else meanwhile.
        while is_gate && state.hangs {
            state.has_stopped = true;
            self.changed.notify_all();
            self.changed.wait(&mut state);
        }
        *state.calls.entry(operation).or_default() += 1;
        match state.faults.get_mut(&operation) {
            Some(failure) if failure.left > 0 => {
                failure.left -= 1;
                Err(failure.errno)
            }
            _ => Ok(()),
        }
    }

    /// Waits as long as this number of bytes takes.
    fn transfer(&self, bytes: usize, begun: Instant) {
        let rate = self.state.lock().rate;
        if rate > 0 {
            let time = Duration::from_secs_f64(bytes as f64 / rate as f64);
            std::thread::sleep(time.saturating_sub(begun.elapsed()));
        }
    }
}
