//! Whether the folder of the store can be used.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::report::Report;
use crate::config::Config;
use crate::config::schema::StoreKind;
use crate::config::units::size;
use crate::time_limit::{START, within};

const SUBJECT: &str = "store";
/// Less room than this is soon used up.
const LITTLE: u64 = 1 << 30;
/// Types of file systems that are not on a local disk: NFS, SMB, CIFS, SMB2, 9P, Ceph, FUSE.
const REMOTE: [u64; 7] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x00c3_6400,
    0x6573_5546,
];

pub(super) fn check(config: &Config, report: &mut Report) {
    let store = &config.store;
    let (StoreKind::Disk, Some(path)) = (store.kind, &store.path) else {
        return report.fine(SUBJECT, "memory: streams end with the process");
    };
    let path = PathBuf::from(path);
    let shown = path.display().to_string();
    let existing = nearest(&path);
    let tried = {
        let existing = existing.clone();
        within(START, move || try_folder(&existing))
    };
    if let Err(error) = tried {
        let remedy = match error.kind() {
            ErrorKind::PermissionDenied => format!(
                "Give the folder to the user of the gateway: chown -R <user> {shown}; chmod 700 {shown}"
            ),
            ErrorKind::StorageFull => "Make room on the disk.".to_owned(),
            ErrorKind::ReadOnlyFilesystem => {
                "Mount it writable; in a container, mount a volume there.".to_owned()
            }
            ErrorKind::TimedOut => "The disk hangs: look at `dmesg`.".to_owned(),
            ErrorKind::NotADirectory => "Set store.path to a folder.".to_owned(),
            _ => {
                "Set store.path to a folder on a local disk that the gateway may write.".to_owned()
            }
        };
        return report.fail(SUBJECT, format!("{shown} cannot be used: {error}"), remedy);
    }
    if existing == path {
        report.fine(SUBJECT, format!("{shown} can be written and locked"));
    } else {
        report.fine(SUBJECT, format!("{shown} can be created"));
    }
    check_room(&existing, store.max_bytes as u64, report);
    check_kind(&existing, report);
}

/// Returns the folder, or the nearest one above it that exists.
fn nearest(path: &Path) -> PathBuf {
    let exists = |path: &&Path| path.as_os_str().is_empty() || path.exists();
    match path.ancestors().find(exists) {
        Some(found) if !found.as_os_str().is_empty() => found.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Writes, syncs and locks a file, which is removed again.
fn try_folder(folder: &Path) -> io::Result<()> {
    if !fs::metadata(folder)?.is_dir() {
        return Err(ErrorKind::NotADirectory.into());
    }
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    let result = try_file(&path);
    let _ = fs::remove_file(&path);
    result
}

fn try_file(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(b"tokenwire doctor\n")?;
    file.sync_all()?;
    file.try_lock().map_err(io::Error::from)
}

fn check_room(folder: &Path, max_bytes: u64, report: &mut Report) {
    let Ok(room) = rustix::fs::statvfs(folder) else {
        return;
    };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    // Whole MiB.
    let shown = size::format(usize::try_from(free >> 20 << 20).unwrap_or(usize::MAX));
    if free < LITTLE {
        report.warn(
            SUBJECT,
            format!("only {shown} are free"),
            "Make room, or set store.max_bytes: once the disk is full, streams run on but are not stored.",
        );
    } else if max_bytes > free {
        report.warn(
            SUBJECT,
            format!("{shown} are free, less than store.max_bytes"),
            "Lower store.max_bytes, unless the store fills a part of it already.",
        );
    }
}

fn check_kind(folder: &Path, report: &mut Report) {
    let Ok(system) = rustix::fs::statfs(folder) else {
        return;
    };
    // Its type is an integer whose width depends on the machine.
    let kind = system.f_type as u64 & 0xffff_ffff;
    if REMOTE.contains(&kind) {
        report.warn(
            SUBJECT,
            "the folder is on a network file system, whose locks and syncs are not reliable",
            "Use a local disk. Several machines share streams through cluster.url.",
        );
    }
}
