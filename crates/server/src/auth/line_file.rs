//! Files of lines that several processes append to.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Appends a line with one write. Makes the file, and the folder that it is in. Only the owner can
/// read both.
pub(super) fn append_line(path: &Path, line: &str) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        let made = DirBuilder::new().mode(0o700).create(folder);
        made.or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(error),
        })?;
    }
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    // A line that a crash has cut is closed by the break before this one.
    file.write_all(format!("\n{line}\n").as_bytes())?;
    Ok(file)
}
