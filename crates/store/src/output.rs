//! The file that the writer appends to, of each kind.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokenwire_core::log::StoreError;

use crate::body::now;
use crate::files::{FileKind, Place, StoreFile, failed};
use crate::frame::MAGIC;
use crate::health::Thread;
use crate::shared::Shared;
use crate::syncer::remove;

/// The files of one kind, of which the last one is written.
#[derive(Debug)]
pub(crate) struct Output {
    kind: FileKind,
    open: Option<(Arc<StoreFile>, Instant)>,
    /// The time after which another file is begun.
    span: Duration,
}

impl Output {
    pub(crate) fn new(kind: FileKind, span: Duration) -> Self {
        Self {
            kind,
            open: None,
            span,
        }
    }

    /// Returns whether this file is the one that is written.
    pub(crate) fn is_open(&self, file: &StoreFile) -> bool {
        self.open
            .as_ref()
            .is_some_and(|(open, _)| open.id == file.id)
    }

    /// Closes the file if it has been written for long enough, or cannot be synced.
    pub(crate) fn rotate(&mut self) {
        let due = |(file, since): &(Arc<StoreFile>, Instant)| {
            since.elapsed() >= self.span || file.failed.load(Ordering::Acquire)
        };
        if self.open.as_ref().is_some_and(due) {
            self.open = None;
        }
    }

    /// Appends bytes in one write and returns where they begin. Nothing is left of them after a
    /// failure.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub(crate) fn append(&mut self, shared: &Shared, bytes: &[u8]) -> Result<Place, StoreError> {
        let max = shared.options.file_bytes;
        let full = |file: &StoreFile| {
            file.failed.load(Ordering::Acquire)
                || file.len() > MAGIC.len() as u64 && file.len() + bytes.len() as u64 > max
        };
        if self.open.as_ref().is_some_and(|(file, _)| full(file)) {
            self.open = None;
        }
        let result = self.write(shared, bytes);
        let no_room = result.as_ref().is_err_and(is_no_room);
        let result = result.map_err(failed);
        shared
            .health
            .note(&result.clone().map(|_| bytes.len() as u64), no_room);
        result
    }

    fn write(&mut self, shared: &Shared, bytes: &[u8]) -> io::Result<Place> {
        make_room(shared, bytes.len() as u64)?;
        let file = match &self.open {
            Some((file, _)) => file.clone(),
            None => {
                let id = shared.next_file.fetch_add(1, Ordering::Relaxed);
                let create = || StoreFile::create(&shared.folder.path, self.kind, id);
                let file = shared.health.busy(Thread::Writer, create)?;
                let length = MAGIC.len() as u64;
                shared.health.bytes.fetch_add(length, Ordering::Relaxed);
                shared.index.lock().files.insert(id, file.clone());
                self.open = Some((file.clone(), Instant::now()));
                file
            }
        };
        let offset = shared.health.busy(Thread::Writer, || file.append(bytes))?;
        file.newest.fetch_max(now(), Ordering::Relaxed);
        shared.syncer.mark(&file);
        Ok(Place {
            file: file.id,
            offset: u32::try_from(offset).map_err(|_| ErrorKind::FileTooLarge)?,
        })
    }
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// Removes the oldest kept files while `bytes` more would exceed the bound.
fn make_room(shared: &Shared, bytes: u64) -> io::Result<()> {
    let max = shared.options.max_bytes;
    while max > 0 && shared.health.bytes.load(Ordering::Relaxed) + bytes > max {
        let oldest = {
            let index = shared.index.lock();
            let kept = index.files.values().filter(|file| {
                matches!(file.kind, FileKind::Logs | FileKind::Objects)
                    && file.len() > MAGIC.len() as u64
            });
            let oldest = kept.min_by_key(|file| (file.newest.load(Ordering::Relaxed), file.id));
            oldest.cloned()
        };
        let Some(oldest) = oldest else {
            let full = io::Error::new(ErrorKind::StorageFull, "store.max_bytes is reached");
            return Err(full);
        };
        tracing::warn!(path = %oldest.path.display(), "removed before its time: the store is full");
        // Were it the open one, the next write begins another.
        oldest.failed.store(true, Ordering::Release);
        shared.index.lock().forget_file(oldest.id);
        remove(&oldest, &shared.health);
    }
    Ok(())
}
