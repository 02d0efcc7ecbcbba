//! A disk store without threads, for simulations: its callers do the work, and its disk can lose power.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::command::Command;
use crate::disk_store::{DiskStore, OpenError};
use crate::options::DiskOptions;
use crate::store_file::Answers;

impl DiskStore {
    /// Opens a store without threads: its operations are done when they are asked for. In a
    /// simulation nothing else may run beside it.
    ///
    /// # Errors
    /// Those of the file system.
    #[doc(hidden)]
    pub fn open_inline(options: &DiskOptions) -> Result<Self, OpenError> {
        let recovered = Self::recovered(options, &Answers::default());
        let (shared, writer) = recovered.map_err(|source| OpenError {
            path: options.path.display().to_string(),
            source,
        })?;
        Ok(Self {
            shared,
            threads: Mutex::default(),
            inline: Some(Box::new(Mutex::new(writer))),
        })
    }

    /// Does what was asked for, if the store has no threads.
    pub(crate) fn work(&self) {
        let Some(writer) = &self.inline else {
            return;
        };
        let shared = &self.shared;
        let lost = |file| shared.commands.send_now(Command::Lost(file));
        writer.lock().work();
        shared.syncer.answer(&shared.health, lost);
        // Files that could not be synced.
        writer.lock().work();
        while let Some((job, permit)) = shared.reads.try_receive() {
            job(shared);
            drop(permit);
        }
    }

    /// Does what the threads do each second, if the store has none.
    #[doc(hidden)]
    pub fn turn(&self) {
        let Some(writer) = &self.inline else {
            return;
        };
        let shared = &self.shared;
        writer.lock().tick();
        let lost = |file| shared.commands.send_now(Command::Lost(file));
        let _ = shared.syncer.round(&shared.health, lost);
        while shared.syncer.sync_earlier(&shared.health, &lost) {}
        self.work();
    }

    /// Leaves the files of this process as a loss of power may: of what was written since the last
    /// sync a part is there, or nothing. `draw` returns a number up to its argument. Nothing may use
    /// the store from then on.
    ///
    /// # Errors
    /// Those of the file system.
    #[doc(hidden)]
    pub fn lose_power(&self, mut draw: impl FnMut(u64) -> u64) -> io::Result<()> {
        let mut files: Vec<_> = self.shared.index.lock().files.values().cloned().collect();
        files.sort_by_key(|file| file.id);
        for file in files {
            let (durable, length) = (file.durable.load(Ordering::Acquire), file.len());
            if file.is_new.load(Ordering::Acquire) && draw(1) == 0 {
                std::fs::remove_file(&file.path)?;
            } else if durable < length {
                let left = durable + draw(length - durable);
                let open = std::fs::File::options().write(true).open(&file.path)?;
                open.set_len(left)?;
                // The length may be durable before the blocks are, and the blocks may be others.
                if draw(3) == 0 {
                    open.set_len(length)?;
                    let at = durable + draw(length - durable - 1);
                    open.write_at(&[draw(255) as u8], at)?;
                }
            }
        }
        Ok(())
    }
}
