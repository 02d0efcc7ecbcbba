//! The folder of one start of the process, which it holds by a lock.
//!
//! The kernel frees the lock when the process ends, also by `kill -9`. No clock is involved.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tokenwire_core::log::Formats;
use tokenwire_core::model::id::Tag;

/// The file that is locked. It says which version of the format the folder has.
const LOCK: &str = "lock";
/// The first words of the lock file.
const NAME: &str = "tokenwire-store";
/// The version that is written.
pub(crate) const VERSION: u32 = 1;
/// The names of the files by which other processes reach this one begin with it. They are no
/// records.
const PEER: &str = "peer.";
/// Says which versions of logs the process that holds the folder reads and writes: the highest that
/// it reads, a space, and the lowest that it writes.
const FORMATS: &str = "peer.formats";
/// Folders that are not complete yet.
const NEW: &str = ".new-";

/// A folder whose lock is held.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    /// Locked until it is closed.
    _lock: File,
}

/// What became of an attempt to take a folder.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is ours now.
    Free(Folder),
    /// A process that runs has it.
    Locked,
    /// It is not a folder of this program, or has another version.
    Foreign,
}

impl Folder {
    /// Creates and locks a folder below `root`, which is created as well.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn create(root: &Path, formats: Formats) -> io::Result<Self> {
        create_root(root)?;
        let name = name(&Tag::random());
        let (new, path) = (root.join(format!("{NEW}{name}")), root.join(&name));
        let created = Self::create_at(&new, &path, formats);
        if created.is_err() {
            // A start that is tried again and again must not leave a folder each time.
            let _ = fs::remove_dir_all(&new);
        }
        let lock = created?;
        sync(root)?;
        Ok(Self { path, _lock: lock })
    }

    /// Creates a folder as `new`, and gives it its name once it is complete. Returns its lock.
    fn create_at(new: &Path, path: &Path, formats: Formats) -> io::Result<File> {
        directory(new)?;
        let mut lock = create(&new.join(LOCK))?;
        writeln!(lock, "{NAME} {VERSION}")?;
        lock.try_lock()?;
        lock.sync_all()?;
        writeln!(create(&new.join(FORMATS))?, "{}", announcement(formats))?;
        sync(new)?;
        // Other processes see it only once it is locked.
        fs::rename(new, path)?;
        Ok(lock)
    }

    /// Takes a folder that an earlier process left.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn take(path: &Path) -> io::Result<Taken> {
        let lock = match OpenOptions::new()
            .read(true)
            .write(true)
            .open(path.join(LOCK))
        {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Taken::Foreign),
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(Taken::Locked),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        let mut text = String::new();
        (&lock).take(64).read_to_string(&mut text)?;
        if text.trim_end() != format!("{NAME} {VERSION}") {
            return Ok(Taken::Foreign);
        }
        Ok(Taken::Free(Self {
            path: path.to_owned(),
            _lock: lock,
        }))
    }

    /// Announces what the process reads and writes that holds this folder now.
    pub(crate) fn announce(&self, formats: Formats) {
        let path = self.path.join(FORMATS);
        if announced(&self.path) == formats && path.exists() {
            return;
        }
        // A folder without it is that of a process that reads the first version only.
        let _ = fs::remove_file(&path);
        if let Ok(mut file) = create(&path) {
            let _ = writeln!(file, "{}", announcement(formats));
        }
    }

    /// Returns the folders below `root`, ours and others'.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn list(root: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if !hidden && entry.file_type()?.is_dir() {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    }

    /// Removes the folder if no file of records is left in it.
    pub(crate) fn remove_if_empty(&self) -> bool {
        let others = fs::read_dir(&self.path).map(|entries| {
            let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
            names
                .filter(|name| name != LOCK && !is_of_peer(name))
                .count()
        });
        if !matches!(others, Ok(0)) {
            return false;
        }
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| is_of_peer(&entry.file_name())) {
            let _ = fs::remove_file(entry.path());
        }
        let _ = fs::remove_file(self.path.join(LOCK));
        fs::remove_dir(&self.path).is_ok()
    }
}

/// Returns the name of a folder. Names of later starts are greater, if the clock is right.
fn name(tag: &Tag) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.map_or(0, |since| since.as_millis());
    format!("{millis:012x}-{tag}")
}

/// Returns the tag in the name of a folder.
pub(crate) fn tag(path: &Path) -> Option<Tag> {
    let (_, tag) = path.file_name()?.to_str()?.split_once('-')?;
    tag.parse().ok()
}

fn announcement(formats: Formats) -> String {
    format!("{} {}", formats.read, formats.write)
}

/// Returns what the process that holds a folder reads and writes.
pub(crate) fn announced(path: &Path) -> Formats {
    let formats = || {
        let text = fs::read_to_string(path.join(FORMATS)).ok()?;
        let (read, write) = text.trim_end().split_once(' ')?;
        Some(Formats {
            read: read.parse().ok()?,
            write: write.parse().ok()?,
        })
    };
    formats().unwrap_or(Formats::FIRST)
}

fn is_of_peer(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(PEER.as_bytes())
}

/// Creates the folder of all folders, whose name is then durable.
fn create_root(root: &Path) -> io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    directory(root)?;
    // Those above it may belong to others, who have made their names durable.
    for parent in root.ancestors().skip(1) {
        let parent = if parent.as_os_str().is_empty() {
            Path::new(".")
        } else {
            parent
        };
        let _ = sync(parent);
    }
    Ok(())
}

/// Creates a folder that only its owner can read.
fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Creates a file that only its owner can read.
///
/// # Errors
/// Those of the file system; also if there is such a file.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Makes the names in a folder durable.
///
/// # Errors
/// Those of the file system.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
