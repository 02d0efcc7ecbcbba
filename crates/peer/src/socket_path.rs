//! Paths of Unix sockets, which the system limits to 107 bytes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

/// The longest path that is used as it is, in bytes.
const SHORT: usize = 100;

/// A path that is short enough for the address of a Unix socket.
#[derive(Debug)]
pub(crate) struct SocketPath {
    path: PathBuf,
    /// Open while the path goes through it.
    _folder: Option<File>,
}

impl SocketPath {
    /// Returns another path of the same file where this one is too long.
    ///
    /// # Errors
    /// The folder cannot be opened.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if path.as_os_str().len() <= SHORT {
            return Ok(Self {
                path: path.to_owned(),
                _folder: None,
            });
        }
        let folder = File::open(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        Ok(Self {
            path,
            _folder: Some(folder),
        })
    }

    pub(crate) fn as_path(&self) -> &Path {
        &self.path
    }
}
