//! The files of a store.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;
use tokenwire_core::log::StoreError;

use crate::frame::{self, FILE_HEAD, FileHead, HEAD, Head, Kind, Salt};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FileKind {
    /// Running logs.
    Journal,
    /// Ended logs.
    Logs,
    /// Response objects.
    Objects,
    /// Ids of deleted logs.
    Deleted,
    /// Small records.
    Entries,
}

/// Counts what the disk has answered, so that one that hangs is told from one that is slow.
pub(crate) type Answers = Arc<AtomicUsize>;

/// Bytes of one read of a file that is read as a whole.
const READ_BYTES: usize = 1 << 20;

/// The number of a file in this process.
pub(crate) type FileId = u32;

/// A file of this process, or of one before it.
#[derive(Debug)]
pub(crate) struct StoreFile {
    pub(crate) id: FileId,
    pub(crate) kind: FileKind,
    pub(crate) path: PathBuf,
    /// `None` if it is opened for each operation.
    file: RwLock<Option<File>>,
    /// Where its checksums begin.
    pub(crate) salt: Salt,
    /// Bytes that are written.
    pub(crate) length: AtomicU64,
    /// Bytes that the last sync has made durable.
    pub(crate) durable: AtomicU64,
    /// When the newest log in it ended, in Unix seconds.
    pub(crate) newest: AtomicU64,
    /// Whether something is written that is not synced.
    pub(crate) dirty: AtomicBool,
    /// Whether its name is not synced.
    pub(crate) is_new: AtomicBool,
    /// Whether a sync failed. Nothing more is written to it.
    pub(crate) failed: AtomicBool,
    answers: Answers,
}

/// The place of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: FileId,
    pub(crate) offset: u32,
}

// === impl FileKind ===

impl FileKind {
    /// The first part of the names of such files.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Journal => "journal-",
            Self::Logs => "logs-",
            Self::Objects => "objects-",
            Self::Deleted => "deleted-",
            Self::Entries => "entries-",
        }
    }

    /// Returns whether such files hold ended logs or their objects.
    pub(crate) fn is_kept(self) -> bool {
        matches!(self, Self::Logs | Self::Objects)
    }

    /// Returns the kind and the number of a file name.
    pub(crate) fn of(name: &str) -> Option<(Self, u64)> {
        let kinds = [
            Self::Journal,
            Self::Logs,
            Self::Objects,
            Self::Deleted,
            Self::Entries,
        ];
        kinds.into_iter().find_map(|kind| {
            let number = name.strip_prefix(kind.prefix())?;
            Some((kind, number.parse().ok()?))
        })
    }
}

// === impl StoreFile ===

impl StoreFile {
    /// Creates a file in this folder, with the first bytes of every file.
    pub(crate) fn create(folder: &Path, kind: FileKind, id: FileId) -> io::Result<Arc<Self>> {
        let path = folder.join(format!("{}{id:06}", kind.prefix()));
        let file = crate::folder::create(&path)?;
        let salt = Salt::random();
        if let Err(error) = file.write_all_at(&salt.file_head(), 0) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Arc::new(Self {
            id,
            kind,
            path,
            file: RwLock::new(Some(file)),
            salt,
            length: AtomicU64::new(FILE_HEAD as u64),
            durable: AtomicU64::new(0),
            newest: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            is_new: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            answers: Answers::default(),
        }))
    }

    /// Opens a file of an earlier process. Returns what its first bytes say if it cannot be read.
    pub(crate) fn open(
        path: &Path,
        kind: FileKind,
        id: FileId,
        answers: Answers,
    ) -> io::Result<Result<Arc<Self>, FileHead>> {
        let file = File::open(path)?;
        answers.fetch_add(1, Ordering::Relaxed);
        let length = file.metadata()?.len();
        let mut head = Vec::with_capacity(FILE_HEAD);
        (&file).take(FILE_HEAD as u64).read_to_end(&mut head)?;
        let salt = match FileHead::parse(&head) {
            FileHead::Known(salt) => salt,
            other => return Ok(Err(other)),
        };
        Ok(Ok(Arc::new(Self {
            id,
            kind,
            path: path.to_owned(),
            file: RwLock::new(Some(file)),
            salt,
            length: AtomicU64::new(length),
            durable: AtomicU64::new(length),
            newest: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            is_new: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            answers,
        })))
    }

    /// Closes the file until it is used. A process may have very many files of earlier ones.
    pub(crate) fn close(&self) {
        *self.file.write() = None;
    }

    fn with<T>(&self, f: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        match &*self.file.read() {
            Some(file) => f(file),
            None => f(&File::open(&self.path)?),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Appends frames, with their checksums. What a failed write left behind is cut off; if that
    /// fails as well, the file takes no more.
    pub(crate) fn append(&self, bytes: &mut [u8]) -> io::Result<u64> {
        frame::seal(bytes, self.salt);
        let offset = self.len();
        self.with(|file| {
            let written = file.write_all_at(bytes, offset);
            if written.is_err() && file.set_len(offset).is_err() {
                self.failed.store(true, Ordering::Release);
            }
            written
        })?;
        self.length
            .store(offset + bytes.len() as u64, Ordering::Release);
        Ok(offset)
    }

    /// Makes what is written durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let length = self.len();
        match self.with(File::sync_data) {
            // It was removed: one that is open can be synced.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            synced => synced?,
        }
        self.durable.store(length, Ordering::Release);
        if self.is_new.swap(false, Ordering::AcqRel)
            && let Some(folder) = self.path.parent()
        {
            crate::folder::sync(folder)?;
        }
        Ok(())
    }

    /// Reads all of it.
    pub(crate) fn read_all(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len()).unwrap_or(0)];
        let mut offset = 0;
        for part in bytes.chunks_mut(READ_BYTES) {
            self.read(part, offset)?;
            offset += part.len() as u64;
        }
        Ok(bytes)
    }

    fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|file| file.read_exact_at(bytes, offset))?;
        self.answers.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Reads the head of the frame at this offset. `None` if there is none.
    pub(crate) fn head(&self, offset: u64) -> io::Result<Option<Head>> {
        if offset + HEAD as u64 > self.len() {
            return Ok(None);
        }
        let mut bytes = [0; HEAD];
        self.read(&mut bytes, offset)?;
        Ok(Head::parse(&bytes, self.salt)
            .filter(|head| offset + head.frame_len() as u64 <= self.len()))
    }

    /// Reads a frame of this length and returns its body.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] and [`StoreError::Unavailable`].
    pub(crate) fn frame(
        &self,
        offset: u64,
        length: usize,
        kind: Kind,
    ) -> Result<Bytes, StoreError> {
        let end = offset.checked_add(length as u64);
        if length < HEAD || end.is_none_or(|end| end > self.len()) {
            return Err(StoreError::Corrupt);
        }
        let mut bytes = vec![0; length];
        self.read(&mut bytes, offset).map_err(failed)?;
        if frame::body(&bytes, kind, self.salt).is_none() {
            return Err(StoreError::Corrupt);
        }
        Ok(Bytes::from(bytes).slice(HEAD..))
    }

    /// Returns whether this part of the file consists of frames that are not damaged.
    pub(crate) fn has_frames(&self, mut offset: u64, end: u64) -> bool {
        while offset < end {
            let Ok(Some(head)) = self.head(offset) else {
                return false;
            };
            if self.frame(offset, head.frame_len(), head.kind).is_err() {
                return false;
            }
            offset += head.frame_len() as u64;
        }
        offset == end
    }

    /// Reads the frame at this offset, whose length its head tells.
    ///
    /// # Errors
    /// As [`StoreFile::frame`].
    pub(crate) fn frame_at(&self, offset: u64, kind: Kind) -> Result<Bytes, StoreError> {
        let head = self.head(offset).map_err(failed)?;
        let head = head.ok_or(StoreError::Corrupt)?;
        self.frame(offset, head.frame_len(), kind)
    }
}

/// The error of an operation on a file.
pub(crate) fn failed(error: io::Error) -> StoreError {
    StoreError::Unavailable(error.to_string().into())
}
