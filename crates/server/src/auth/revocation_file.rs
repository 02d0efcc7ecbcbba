//! The list of what is revoked, in the folder of the store: `.tickets/revoked`, one line for each
//! entry. Lines are appended in one write each, so that several processes can.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::revocation_list::{Entry, RevocationList};
use super::ticket_uses::FOLDER;

/// Returns the file in the folder of a store.
pub(super) fn path(store: &Path) -> PathBuf {
    store.join(FOLDER).join("revoked")
}

/// Appends an entry.
pub(super) fn add(path: &Path, entry: &Entry) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        let made = fs::DirBuilder::new().mode(0o700).create(folder);
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
    let Entry { field, value } = entry;
    file.write_all(format!("\n{field} {value}\n").as_bytes())?;
    file.sync_data()
}

/// Reads the list if the file is longer than it was. Returns its length beside it.
pub(super) fn read(path: &Path, seen: Option<u64>) -> io::Result<Option<(u64, RevocationList)>> {
    let text = match fs::metadata(path) {
        Ok(known) if seen == Some(known.len()) => return Ok(None),
        Ok(_) => fs::read_to_string(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let entries = lines.filter_map(|(field, value)| Some((field.to_owned(), value.parse().ok()?)));
    Ok(Some((text.len() as u64, entries.collect())))
}
