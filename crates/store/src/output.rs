//! The file that the writer appends to, of each kind.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokenwire_core::log::StoreError;

use crate::entry_body::now;
use crate::frame::FILE_HEAD;
use crate::health::Thread;
use crate::listing::{LISTED, Listed, push_footer, push_listing};
use crate::shared::Shared;
use crate::store_file::{FileKind, Place, StoreFile, failed};
use crate::syncer::remove;

/// The files of one kind, of which the last one is written.
#[derive(Debug)]
pub(crate) struct Output {
    kind: FileKind,
    open: Option<(Arc<StoreFile>, Instant)>,
    /// What was written since the last list of a kept file.
    listed: Vec<Listed>,
    /// Where the last list lies; 0 if there is none.
    listing: u32,
    /// The time after which another file is begun.
    span: Duration,
}

impl Output {
    pub(crate) fn new(kind: FileKind, span: Duration) -> Self {
        Self {
            kind,
            open: None,
            listed: Vec::new(),
            listing: 0,
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
    pub(crate) fn rotate(&mut self, shared: &Shared) {
        let due = |(file, since): &(Arc<StoreFile>, Instant)| {
            since.elapsed() >= self.span || file.failed.load(Ordering::Acquire)
        };
        if self.open.as_ref().is_some_and(due) {
            self.close(shared);
        }
    }

    /// Ends the file. A kept one gets its footer, without which it is read as after a crash.
    pub(crate) fn close(&mut self, shared: &Shared) {
        self.list(shared);
        let (listing, listed) = (
            std::mem::take(&mut self.listing),
            !std::mem::take(&mut self.listed).is_empty(),
        );
        let Some((file, _)) = self.open.take() else {
            return;
        };
        if listing == 0 || listed || file.failed.load(Ordering::Acquire) {
            return;
        }
        let mut bytes = Vec::new();
        push_footer(&mut bytes, listing);
        let _ = append(shared, &file, &mut bytes);
    }

    /// Notes what was written to a kept file.
    pub(crate) fn note(&mut self, shared: &Shared, listed: Listed) {
        self.listed.push(listed);
        if self.listed.len() >= LISTED {
            self.list(shared);
        }
    }

    /// Writes what was noted. It is tried again with more if that fails.
    fn list(&mut self, shared: &Shared) {
        let Some((file, _)) = self.open.as_ref().filter(|_| !self.listed.is_empty()) else {
            return;
        };
        let mut bytes = Vec::new();
        if file.failed.load(Ordering::Acquire)
            || !push_listing(&mut bytes, self.listing, self.listed.clone())
        {
            return;
        }
        if let Ok(place) = append(shared, file, &mut bytes) {
            self.listing = place.offset;
            self.listed.clear();
        }
    }

    /// Appends bytes in one write and returns where they begin. Nothing is left of them after a
    /// failure.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub(crate) fn append(
        &mut self,
        shared: &Shared,
        bytes: &mut [u8],
    ) -> Result<Place, StoreError> {
        let max = shared.options.file_bytes;
        let full = |file: &StoreFile| {
            file.failed.load(Ordering::Acquire)
                || file.len() > FILE_HEAD as u64 && file.len() + bytes.len() as u64 > max
        };
        if self.open.as_ref().is_some_and(|(file, _)| full(file)) {
            self.close(shared);
        }
        match self.file(shared, bytes.len() as u64) {
            Ok(file) => append(shared, &file, bytes),
            Err(error) => Err(failure(shared, error)),
        }
    }

    /// Returns the file that is written, with room for this many bytes below the bound.
    fn file(&mut self, shared: &Shared, bytes: u64) -> io::Result<Arc<StoreFile>> {
        make_room(shared, bytes)?;
        // The room may be that of the open file.
        let usable = |(file, _): &&(Arc<StoreFile>, Instant)| !file.failed.load(Ordering::Acquire);
        if let Some((file, _)) = self.open.as_ref().filter(usable) {
            return Ok(file.clone());
        }
        self.close(shared);
        let id = shared.next_file.fetch_add(1, Ordering::Relaxed);
        let create = || StoreFile::create(&shared.folder.path, self.kind, id);
        let file = shared.health.busy(Thread::Writer, create)?;
        let length = FILE_HEAD as u64;
        shared.health.bytes.fetch_add(length, Ordering::Relaxed);
        shared.index.lock().files.insert(id, file.clone());
        self.open = Some((file.clone(), Instant::now()));
        Ok(file)
    }
}

/// Appends frames to a file and returns where they begin.
fn append(shared: &Shared, file: &Arc<StoreFile>, bytes: &mut [u8]) -> Result<Place, StoreError> {
    let write = || file.append(bytes);
    let written = shared.health.busy(Thread::Writer, write);
    let offset = written.and_then(|offset| {
        file.newest.fetch_max(now(), Ordering::Relaxed);
        shared.syncer.mark(file);
        u32::try_from(offset).map_err(|_| ErrorKind::FileTooLarge.into())
    });
    let offset = offset.map_err(|error| failure(shared, error))?;
    shared.health.note(&Ok(bytes.len() as u64), false);
    Ok(Place {
        file: file.id,
        offset,
    })
}

/// Notes that a write failed.
fn failure(shared: &Shared, error: io::Error) -> StoreError {
    let no_room = is_no_room(&error);
    let error = failed(error);
    shared.health.note(&Err(error.clone()), no_room);
    error
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
            let kept = index.files.values();
            let kept = kept.filter(|file| file.kind.is_kept() && file.len() > FILE_HEAD as u64);
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
        shared.forget_file(&oldest);
        remove(&oldest, &shared.health);
    }
    Ok(())
}
