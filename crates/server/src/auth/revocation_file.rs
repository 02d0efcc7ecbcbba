//! The list of what is revoked, in the folder of the store: `.tickets/revoked`, one line for each
//! entry. Lines are appended in one write each, so that several processes can.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::line_file::append_line;
use super::revocation_list::{Entry, RevocationList};
use super::ticket_uses::FOLDER;

/// Returns the file in the folder of a store.
pub(super) fn path(store: &Path) -> PathBuf {
    store.join(FOLDER).join("revoked")
}

/// Appends an entry.
pub(super) fn add(path: &Path, entry: &Entry) -> io::Result<()> {
    let Entry { field, value } = entry;
    append_line(path, &format!("{field} {value}"))?.sync_data()
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
