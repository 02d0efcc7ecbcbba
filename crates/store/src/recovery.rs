//! Reading what earlier processes left.
//!
//! Each folder whose lock is free is taken. Its kept files are used where they are. Logs that ran
//! are found in its journal, up to their last good frame.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokenwire_core::log::StoreError;
use tokenwire_core::model::id::{GenerationId, Seq};
use tokenwire_core::model::record::RecordBatch;

use bytes::Bytes;

use crate::entry_body::{self, EntryBody, LogHead, dated, now, unix};
use crate::folder::{Folder, Taken, announced};
use crate::frame::{FILE_HEAD, FileHead, Found, Frames, Head, Kind};
use crate::index::{Chunk, Entry, IdKey, Index, KeptLog, RunningLog};
use crate::listing::{Listed, each_part};
use crate::options::DiskOptions;
use crate::store_file::{Answers, FileId, FileKind, Place, StoreFile};

/// Seconds after which the system has written what no process has synced.
const UNSYNCED: u64 = 60;
/// A log that ended this long before the last one that its process ended was written to a kept file
/// that was synced.
const SETTLED: u64 = 60;
/// Folders that cannot be read of which each is reported.
const REPORTED: usize = 10;

/// What earlier processes left.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) index: Index,
    /// The folders, whose locks are held.
    pub(crate) folders: Vec<Folder>,
    pub(crate) next_file: FileId,
    pub(crate) answers: Answers,
    /// Files that may not be durable.
    pub(crate) unsynced: Vec<Arc<StoreFile>>,
    /// Folders that cannot be read.
    pub(crate) unreadable: usize,
    /// The highest version of logs that all processes read whose folders are locked.
    pub(crate) others_read: Option<u8>,
    /// Running logs of which only the first part of a copy was found.
    pub(crate) partial: HashSet<IdKey>,
}

/// A log of a journal, while it is read.
struct JournalLog {
    log: RunningLog,
    /// Where the copy of the log ends that it was begun with, if not all of that was found yet.
    missing: Option<CopyEnd>,
    /// A later copy of the log, of which not all was found yet.
    copy: Option<(RunningLog, CopyEnd)>,
    /// When it ended, if the journal says so.
    ended: Option<u64>,
}

/// Where the last frame of a log ends that was written again as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
struct CopyEnd {
    file: FileId,
    offset: u64,
}

/// Takes all folders that no process holds, and reads them.
///
/// # Errors
/// If the folder of all folders cannot be listed.
pub(crate) fn recover(options: &DiskOptions, answers: &Answers) -> io::Result<Recovered> {
    let mut recovered = Recovered {
        next_file: 1,
        answers: answers.clone(),
        ..Recovered::default()
    };
    for path in Folder::list(&options.path)? {
        answers.fetch_add(1, Ordering::Relaxed);
        match Folder::take(&path) {
            Ok(Taken::Free(folder)) => {
                // One in which nothing is left needs no place among those that are held.
                if recovered.folder(&folder, options) && !folder.remove_if_empty() {
                    folder.announce(options.formats);
                    recovered.folders.push(folder);
                }
            }
            Ok(Taken::Locked) => {
                let read = announced(&path).read;
                let others = recovered.others_read.get_or_insert(read);
                *others = read.min(*others);
            }
            Ok(Taken::Foreign) => {
                tracing::warn!(path = %path.display(), "left alone: not a folder of this version");
            }
            Err(error) => recovered.cannot_read(&path, &error),
        }
    }
    if recovered.unreadable > REPORTED {
        let folders = recovered.unreadable;
        tracing::error!(folders, "so many folders of the store cannot be read");
    }
    Ok(recovered)
}

impl Recovered {
    /// Reports a folder that cannot be read, unless there are many.
    fn cannot_read(&mut self, path: &Path, error: &io::Error) {
        self.unreadable += 1;
        if self.unreadable <= REPORTED {
            tracing::error!(%error, path = %path.display(), "a folder of the store cannot be read");
        }
    }

    /// Reads a folder. Returns false if it has files that this version does not know.
    pub(crate) fn folder(&mut self, folder: &Folder, options: &DiskOptions) -> bool {
        let files = match self.files(&folder.path) {
            Ok(Some(files)) => files,
            Ok(None) => return false,
            Err(error) => {
                self.cannot_read(&folder.path, &error);
                return false;
            }
        };
        for file in &files {
            self.index.files.insert(file.id, file.clone());
        }
        let of = |kind| files.iter().filter(move |file| file.kind == kind);
        of(FileKind::Deleted).for_each(|file| self.deleted(file));
        of(FileKind::Entries).for_each(|file| self.entries(file));
        of(FileKind::Objects).for_each(|file| self.kept(file));
        of(FileKind::Logs).for_each(|file| self.kept(file));
        let mut journal = Journal::default();
        for file in of(FileKind::Journal) {
            journal.read(file, &self.index, options.formats.read);
        }
        if !journal.later.is_empty() {
            let (logs, path) = (journal.later.len(), folder.path.display());
            tracing::warn!(logs, %path, "running logs of a later version are left alone");
        }
        for file in journal.later.values().flatten() {
            self.index.keep_file(*file);
        }
        for (_, log) in journal.logs {
            self.running(log, journal.last_end, options);
        }
        for file in &files {
            file.close();
        }
        true
    }

    /// Opens the files of a folder, oldest first. `None` if one of them is of another version.
    fn files(&mut self, path: &Path) -> io::Result<Option<Vec<Arc<StoreFile>>>> {
        let mut named = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some((kind, number)) = name.to_str().and_then(FileKind::of) {
                named.push((number, kind, entry.path()));
            }
        }
        named.sort_by_key(|(number, _, _)| *number);
        let mut files = Vec::with_capacity(named.len());
        let mut torn = Vec::new();
        for (_, kind, path) in named {
            let id = self.next_file;
            self.next_file += 1;
            let file = match StoreFile::open(&path, kind, id, self.answers.clone())? {
                Ok(file) => file,
                Err(FileHead::Foreign) => {
                    tracing::warn!(path = %path.display(), "left alone: not a file of this version");
                    return Ok(None);
                }
                // The process was killed, or power was lost, before there was anything in it.
                Err(FileHead::Torn) => {
                    torn.push(path);
                    continue;
                }
                Err(_) => {
                    tracing::error!(path = %path.display(), "left alone: the file is damaged");
                    continue;
                }
            };
            let modified = dated(unix(fs::metadata(&path)?.modified()?));
            file.newest.store(modified, Ordering::Relaxed);
            // A process that was killed may not have synced it.
            if modified + UNSYNCED >= now() {
                self.unsynced.push(file.clone());
            }
            files.push(file);
        }
        for path in torn {
            let _ = fs::remove_file(path);
        }
        Ok(Some(files))
    }

    fn deleted(&mut self, file: &StoreFile) {
        each_frame(file, |_, head, body| {
            let id = std::str::from_utf8(body).ok();
            let id: Option<GenerationId> = id.and_then(|id| id.parse().ok());
            if let Some(id) = id.filter(|_| head.kind == Kind::Deleted) {
                let key = self.index.key(&id);
                self.index.delete(key);
            }
        });
    }

    fn entries(&mut self, file: &StoreFile) {
        each_frame(file, |_, head, body| {
            if head.kind != Kind::Entry {
                return;
            }
            match entry_body::decode::<EntryBody>(body) {
                Ok(EntryBody {
                    key,
                    value: Some(value),
                }) => {
                    self.index
                        .entries
                        .insert(key, Bytes::from(value.into_vec()));
                }
                Ok(EntryBody { key, value: None }) => {
                    self.index.entries.remove(&key);
                }
                Err(_) => {}
            }
        });
    }

    /// Notes what lies in a kept file.
    fn kept(&mut self, file: &StoreFile) {
        each_part(file, |part| {
            for Listed { id, keyed, offset } in part {
                let key = self.index.key(id);
                if self.index.is_deleted(key) {
                    continue;
                }
                if let Some(keyed) = *keyed {
                    self.index.keys.insert(keyed, key);
                }
                let place = Place {
                    file: file.id,
                    offset: *offset,
                };
                self.note_kept(key, file.kind, place);
            }
        });
    }

    fn note_kept(&mut self, key: IdKey, kind: FileKind, place: Place) {
        let mut kept = match self.index.logs.get(&key) {
            Some(Entry::Kept(kept)) => *kept,
            Some(Entry::Running(_)) if kind == FileKind::Objects => return,
            _ => KeptLog::default(),
        };
        match kind {
            FileKind::Logs => kept.log = Some(place),
            _ => kept.object = Some(place),
        }
        self.index.keep(key, kept);
    }

    /// Adds a log of a journal, unless it has ended. One whose end is lost, as after a loss of power,
    /// has to be ended again. `last_end` is when the last one of its process ended.
    fn running(&mut self, found: JournalLog, last_end: Option<u64>, options: &DiskOptions) {
        let is_partial = found.missing.is_some();
        let JournalLog { log, ended, .. } = found;
        let key = self.index.key(&log.header.meta.id);
        if self.index.is_deleted(key) {
            return;
        }
        let retained = if log.header.meta.store {
            options.retain_logs.max(options.retain_objects)
        } else {
            options.retain_logs
        };
        let removed = ended.is_some_and(|ended| {
            let settled = last_end.is_some_and(|last| ended + SETTLED < last);
            settled || dated(ended) + retained.as_secs() < now()
        });
        match self.index.logs.get(&key) {
            // What it ended with is kept; an object alone does not say that it ended.
            Some(Entry::Kept(kept)) if kept.log.is_some() || ended.is_some() => return,
            Some(Entry::Running(other)) => {
                // What a copy was made of is kept until the copy is durable.
                let progress = |log: &RunningLog| (log.epoch_ends.len(), log.end);
                let other = (!self.partial.contains(&key), progress(other));
                if other >= (!is_partial, progress(&log)) {
                    return;
                }
                self.index.take_running(key);
            }
            None if removed => return,
            _ => {}
        }
        if is_partial {
            self.partial.insert(key);
        } else {
            self.partial.remove(&key);
        }
        self.index.insert_running(key, log);
    }
}

/// Calls `f` with the good frames of a file.
fn each_frame(file: &StoreFile, mut f: impl FnMut(usize, &Head, &[u8])) {
    let bytes = match file.read_all() {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::error!(%error, path = %file.path.display(), "a file of the store cannot be read");
            return;
        }
    };
    for found in Frames::new(&bytes, FILE_HEAD, file.salt) {
        match found {
            Found::Frame(offset, head, body) => f(offset, &head, body),
            Found::Damaged(offset, _) | Found::Skipped(offset) => {
                tracing::error!(path = %file.path.display(), offset, "a frame is damaged");
            }
        }
    }
}

/// What the journal files of a folder hold.
#[derive(Default)]
struct Journal {
    logs: HashMap<u32, JournalLog>,
    /// The files with something of running logs of later versions, by their numbers.
    later: HashMap<u32, BTreeSet<FileId>>,
    /// When the last log ended.
    last_end: Option<u64>,
}

impl Journal {
    /// Reads the logs of a file, without those that the kept files have or that were deleted. Later files
    /// go on with the logs of earlier ones. `read` is the highest version that is read.
    fn read(&mut self, file: &StoreFile, index: &Index, read: u8) {
        let Self {
            logs,
            later,
            last_end,
        } = self;
        each_frame(file, |offset, head, body| {
            let Ok(place) = u32::try_from(offset) else {
                return;
            };
            let place = Place {
                file: file.id,
                offset: place,
            };
            match head.kind {
                Kind::Log => {
                    let Ok(log) = entry_body::decode::<LogHead>(body) else {
                        return;
                    };
                    let copied = log.chunks_len();
                    let end = CopyEnd {
                        file: file.id,
                        offset: (offset + head.frame_len()) as u64 + copied,
                    };
                    later.remove(&head.log);
                    match log.header(read) {
                        Ok(header) if index.has_ended(&header.meta.id) => {
                            logs.remove(&head.log);
                        }
                        Ok(header) => {
                            let mut running = RunningLog::new(Arc::new(header), 0);
                            running.epoch_ends = log.epoch_ends.into_iter().map(Seq).collect();
                            running.pinned.push(file.id);
                            match logs.get_mut(&head.log) {
                                // Power may be lost before all of the copy is durable.
                                Some(known) if copied > 0 => known.copy = Some((running, end)),
                                _ => {
                                    let found = JournalLog {
                                        log: running,
                                        missing: (copied > 0).then_some(end),
                                        copy: None,
                                        ended: None,
                                    };
                                    logs.insert(head.log, found);
                                }
                            }
                        }
                        Err(StoreError::UnknownVersion { .. }) => {
                            logs.remove(&head.log);
                            later.insert(head.log, BTreeSet::from([file.id]));
                        }
                        Err(error) => {
                            tracing::error!(%error, path = %file.path.display(), "a log cannot be recovered");
                            logs.remove(&head.log);
                        }
                    }
                }
                Kind::Records => {
                    if let Some(found) = logs.get_mut(&head.log) {
                        found.extend(body, place, head.frame_len());
                    } else if let Some(files) = later.get_mut(&head.log) {
                        files.insert(file.id);
                    }
                }
                Kind::Ended => {
                    let ended: Option<u64> = entry_body::decode(body).ok();
                    *last_end = ended.max(*last_end);
                    later.remove(&head.log);
                    if let Some(found) = logs.get_mut(&head.log) {
                        found.ended = ended;
                    }
                }
                Kind::Object
                | Kind::Bytes
                | Kind::Deleted
                | Kind::Entry
                | Kind::Listing
                | Kind::Footer => {}
            }
        });
    }
}

impl JournalLog {
    /// Adds a frame.
    fn extend(&mut self, body: &[u8], place: Place, length: usize) {
        let end = CopyEnd {
            file: place.file,
            offset: u64::from(place.offset) + length as u64,
        };
        if extend(&mut self.log, body, place, length) && self.missing == Some(end) {
            self.missing = None;
        }
        if let Some((mut log, copy_end)) = self.copy.take() {
            if extend(&mut log, body, place, length) && copy_end == end {
                (self.log, self.missing) = (log, None);
            } else {
                self.copy = Some((log, copy_end));
            }
        }
    }
}

/// Adds a frame to a log, if it follows the one before. After a damaged frame none does. Returns
/// whether it was added.
fn extend(log: &mut RunningLog, body: &[u8], place: Place, length: usize) -> bool {
    let Ok((first, records)) = entry_body::records(body) else {
        return false;
    };
    if first != log.end {
        return false;
    }
    let Ok(batch) = RecordBatch::parse(first, records.to_vec()) else {
        return false;
    };
    log.end = batch.end_seq();
    log.chunks.push(Chunk {
        place,
        length: length as u32,
        next: log.end,
    });
    if log.pinned.last() != Some(&place.file) {
        log.pinned.push(place.file);
    }
    true
}
