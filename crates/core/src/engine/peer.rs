//! Other processes, of which this one reads generations.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};

use crate::log::StoredLog;
use crate::model::id::{GenerationId, Seq};
use crate::model::record::RecordBatch;

/// Another process that is alive and has generations.
pub trait Peer: Send + Sync + fmt::Debug {
    /// Returns its name, for messages.
    fn name(&self) -> &str;

    /// Opens a generation's log, to be read from this number on.
    ///
    /// # Errors
    /// [`PeerError::Gone`] if it has none of this id.
    fn open<'a>(
        &'a self,
        id: &'a GenerationId,
        from: Seq,
    ) -> BoxFuture<'a, Result<RemoteLog, PeerError>>;
}

/// A log of another process, which is being read.
#[derive(Debug)]
pub struct RemoteLog {
    /// What the other process had of the log when it was opened.
    pub stored: StoredLog,
    /// The response object, if the records are not kept any more. Nothing follows it.
    pub object: Option<Bytes>,
    /// The records, in order. The channel is bounded: a reader that does not keep up stops the
    /// connection. It ends without [`RemotePart::Sealed`] if the connection is lost.
    pub parts: mpsc::Receiver<RemotePart>,
    /// Tells the other process what is wanted.
    pub control: watch::Sender<ReadControl>,
}

/// A part of a log.
#[derive(Debug)]
pub enum RemotePart {
    /// Records that follow the ones before.
    Records(RecordBatch),
    /// The log has ended. Nothing follows.
    Sealed,
    /// The log was deleted, or removed under memory pressure. Nothing follows.
    Gone,
}

/// What the process that reads a log wants of the one that writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadControl {
    /// There are readers: the generation is not abandoned.
    pub held: bool,
    /// A client cancelled it.
    pub cancelled: bool,
}

/// Why another process did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It has no such generation.
    #[error("it has no such generation")]
    Gone,
    /// It does not answer, or what it sends cannot be read.
    #[error("it cannot be reached: {0}")]
    Unreachable(Cow<'static, str>),
}
