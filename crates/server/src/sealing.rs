//! The key that seals reasoning for clients and marks the accounts that reasoning belongs to.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rand::RngCore as _;
use tokenwire_core::model::secret::Secret;

use crate::config::schema::{Config, StoreKind};
use crate::time_limit::{START, within};

/// The file in the store's folder that holds the key.
const FILE: &str = "sealing.key";

/// Bytes of a key.
const LENGTH: usize = 32;

/// Returns the configured key, else the one that is kept in the store's folder, else a new one for
/// this process.
pub(crate) fn secret(config: &Config) -> Secret {
    if let Some(key) = &config.streams.sealing_key {
        return Secret::new(key.expose().as_bytes());
    }
    let path = match (config.store.kind, &config.store.path) {
        (StoreKind::Disk, Some(path)) => path,
        _ => return Secret::random(),
    };
    let folder = PathBuf::from(path);
    match within(START, move || kept_secret(&folder)) {
        Ok(key) => Secret::new(&key),
        Err(error) => {
            tracing::warn!(%error, "the sealing key cannot be kept in the store: it changes with each start");
            Secret::random()
        }
    }
}

fn kept_secret(folder: &Path) -> io::Result<Vec<u8>> {
    kept(folder, FILE, || {
        let mut key = vec![0; LENGTH];
        rand::rng().fill_bytes(&mut key);
        key
    })
}

/// Returns the key in this file of the folder. Makes one if there is none. All keys that `make` makes
/// have the same length.
pub(crate) fn kept(folder: &Path, name: &str, make: fn() -> Vec<u8>) -> io::Result<Vec<u8>> {
    let path = folder.join(name);
    let made = make();
    if !path.exists() {
        // Linked once it is complete: several processes may start at a time.
        let part = folder.join(format!("{name}.{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(&made)?;
        file.sync_all()?;
        let linked = fs::hard_link(&part, &path);
        fs::remove_file(&part)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let key = fs::read(&path)?;
    if key.len() == made.len() {
        Ok(key)
    } else {
        let message = format!("{} does not hold a key", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidData, message))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn key_is_made_once_and_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let key = kept_secret(folder.path()).unwrap();
        assert_eq!(kept_secret(folder.path()).unwrap(), key);
        let file = folder.path().join(FILE);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(&file, "short").unwrap();
        assert!(kept_secret(folder.path()).is_err());
    }
}
