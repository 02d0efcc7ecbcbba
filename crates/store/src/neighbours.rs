//! Other processes on the same path: those that run, and the folders of those that have ended
//! since this one started.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::{fs, path::Path};

use bytes::Bytes;
use tokenwire_core::model::id::{GenerationId, Tag};

use crate::command::Command;
use crate::disk_store::DiskStore;
use crate::folder::{Folder, Taken, announced, tag};
use crate::index::Merged;
use crate::recovery::Recovered;
use crate::store_file::FileKind;

/// What was found beside the store's own folder.
#[derive(Debug, Default)]
pub struct Neighbours {
    /// Folders that a running process holds.
    pub running: Vec<Neighbour>,
    /// Folders that this process has taken now.
    pub taken: Vec<Tag>,
    /// The logs in those that have not ended: each is to be adopted.
    pub unfinished: Vec<GenerationId>,
    /// The small records in those.
    pub entries: Vec<(String, Bytes)>,
}

/// A folder that another process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The name of the process that made it. An earlier one may have, which the holder took over.
    pub tag: Tag,
    /// The folder.
    pub path: PathBuf,
}

impl DiskStore {
    /// Returns the name of this start of the process, with which the ids of its generations begin.
    #[must_use]
    pub fn tag(&self) -> Tag {
        tag(self.path()).unwrap_or_else(Tag::random)
    }

    /// Returns the folder of this process. Other files than the store's may be in it if their names
    /// begin with `peer.`. They are removed with the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.folder.path
    }

    /// Returns the names of the processes whose folders this one has taken.
    #[must_use]
    pub fn taken_tags(&self) -> Vec<Tag> {
        let taken = self.shared.taken.lock();
        taken.iter().filter_map(|path| tag(path)).collect()
    }

    /// Returns true if this process has taken the folder of the process of this name.
    #[must_use]
    pub fn has_taken(&self, name: &Tag) -> bool {
        let taken = self.shared.taken.lock();
        taken.iter().any(|path| tag(path).as_ref() == Some(name))
    }

    /// Leaves the folders of processes that end from now on to others: this one stops.
    pub fn leave_folders(&self) {
        self.shared.leaves_folders.store(true, Ordering::Release);
    }

    /// Looks at the folders of other processes, and takes those that none holds any more: what is
    /// in them is this store's when this returns. Blocks until then.
    ///
    /// # Errors
    /// If the folders cannot be listed.
    pub fn neighbours(&self) -> io::Result<Neighbours> {
        let mut found = Neighbours::default();
        // Their sockets go once this process answers for them.
        for path in self.shared.taken.lock().iter() {
            let _ = fs::remove_file(path.join("peer.sock"));
        }
        let mut others_read = u8::MAX;
        for path in Folder::list(&self.shared.options.path)? {
            if path == self.shared.folder.path || self.shared.taken.lock().contains(&path) {
                continue;
            }
            let Some(tag) = tag(&path) else {
                continue;
            };
            match Folder::take(&path) {
                Ok(Taken::Free(_)) if self.shared.leaves_folders.load(Ordering::Acquire) => {}
                Ok(Taken::Free(folder)) => {
                    tracing::info!(%tag, "taking over what a process left");
                    let merged = self.take_over(folder);
                    found.unfinished.extend(merged.unfinished);
                    found.entries.extend(merged.entries);
                    self.shared.taken.lock().insert(path);
                    found.taken.push(tag);
                }
                Ok(Taken::Locked) => {
                    others_read = others_read.min(announced(&path).read);
                    found.running.push(Neighbour { tag, path });
                }
                Ok(Taken::Foreign) => {}
                Err(error) => {
                    tracing::debug!(%error, path = %path.display(), "a folder cannot be read");
                }
            }
        }
        self.shared.note_others(others_read);
        Ok(found)
    }

    fn take_over(&self, folder: Folder) -> Merged {
        let files = fs::read_dir(&folder.path).into_iter().flatten().flatten();
        let is_file = |entry: &fs::DirEntry| entry.file_name().to_str().and_then(FileKind::of);
        let count = files.filter(|entry| is_file(entry).is_some()).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let mut recovered = Recovered {
            index: self.shared.index.lock().sibling(),
            folders: Vec::new(),
            next_file: self.shared.next_file.fetch_add(count, Ordering::Relaxed),
            ..Recovered::default()
        };
        if !recovered.folder(&folder, &self.shared.options) {
            // It is left to a process of its version, and not looked at again.
            return Merged::default();
        }
        folder.announce(self.shared.options.formats);
        recovered.folders.push(folder);
        let (reply, answer) = sync_channel(1);
        let take = Command::TakeOver(Box::new(recovered), reply);
        self.shared.commands.send_now(take);
        self.work();
        answer.recv().unwrap_or_default()
    }
}
