//! Hands the listening sockets of a running gateway to its successor.
//!
//! A gateway that is started on the address of a running one, with the same `store.path`, takes its
//! listening sockets over. No connection that waits in the kernel's queue is reset, since the
//! sockets themselves stay open.
//!
//! ```text
//!   successor                                    predecessor
//!   opens its store, recovers
//!   ── Hello: versions ─────────────────────────▶
//!   ◀───────────── Offer: versions, the sockets ──  both have them
//!   starts to accept
//!   ── Ready ───────────────────────────────────▶  stops accepting
//!   ◀──────────────────────────────── Draining ──  drains and exits
//! ```
//!
//! A successor that fails before `Ready` changes nothing: the predecessor goes on. The messages are
//! lines of JSON over a Unix socket beside the store, which only the same user may open. Their
//! unknown members are ignored, so that other versions understand them.

mod channel;
mod message;
mod predecessor;
mod successor;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokenwire_peer::VERSION;

use message::Versions;
pub(crate) use predecessor::{Handover, TakeoverSocket};
pub(crate) use successor::{Predecessor, TakeoverError};

/// The versions of the internal protocol by which this process reads the streams of another one,
/// and has its own read.
const READS: Option<Versions> = Some(Versions {
    min: VERSION as u32,
    max: VERSION as u32,
});

/// The time within which the other side must answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The time within which a successor must serve once it has the sockets.
const START: Duration = Duration::from_secs(8);

/// The longest path of the address of a Unix socket, in bytes, with some room for a file's name.
const SHORT: usize = 64;

/// The folder of the store by a path that is short enough for the address of a Unix socket.
#[derive(Debug)]
struct Beside {
    path: PathBuf,
    /// Open while the path goes through it.
    _folder: Option<File>,
}

impl Beside {
    fn new(store: &Path) -> io::Result<Self> {
        if store.as_os_str().len() <= SHORT {
            return Ok(Self {
                path: store.to_owned(),
                _folder: None,
            });
        }
        let folder = File::open(store)?;
        Ok(Self {
            path: PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())),
            _folder: Some(folder),
        })
    }

    /// Returns where the gateway that listens on this port can be asked for its sockets.
    fn socket(&self, port: u16) -> PathBuf {
        self.path.join(format!("takeover-{port}.sock"))
    }
}
