//! The changes that the writer makes.

use std::sync::Arc;

use bytes::Bytes;
use tokenwire_core::log::{Appended, Blocks, Epoch, LogHeader, StoreError};
use tokenwire_core::model::id::GenerationId;
use tokenwire_core::model::record::RecordBatch;
use tokio::sync::oneshot;

use crate::index::Merged;
use crate::recovery::Recovered;
use crate::store_file::StoreFile;

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// A change.
#[derive(Debug)]
pub(crate) enum Command {
    Create(Arc<LogHeader>, Reply<Epoch>),
    Append(Blocks, oneshot::Sender<Appended>),
    Seal(Box<Seal>, Reply<()>),
    Adopt(GenerationId, Reply<Epoch>),
    Delete(GenerationId, Reply<()>),
    /// Keeps the objects of these logs from now on.
    Renew(Vec<GenerationId>),
    /// Writes the small records that changed. An answer is sent where one waits for it.
    Entries(Option<Reply<()>>),
    /// Adds what an earlier process left.
    TakeOver(Box<Recovered>, std::sync::mpsc::SyncSender<Merged>),
    /// A file could not be synced: what it holds may be lost.
    Lost(Arc<StoreFile>),
}

/// The end of a log.
#[derive(Debug)]
pub(crate) struct Seal {
    pub(crate) id: GenerationId,
    pub(crate) epoch: Epoch,
    pub(crate) block: RecordBatch,
    pub(crate) object: Option<Bytes>,
    /// The version that the log has from now on. The block has all of its records then.
    pub(crate) version: Option<u8>,
}
