//! What is asked and answered once both sides have proven the secret.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokenwire_core::engine::ReadControl;
use tokenwire_core::log::{LogHeader, StoredLog};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::record::RecordBatch;
use tokio::io::AsyncWrite;

use crate::frame::{FrameError, write_frame};

/// The longest request, and the longest message during a stream.
pub(crate) const REQUEST_BYTES: usize = 16 * 1024;
/// The longest answer: the records of a whole log, which may be one.
pub(crate) const ANSWER_BYTES: usize = 256 << 20;

const REQUEST: u8 = 16;
const CONTROL: u8 = 17;
const ANSWER: u8 = 32;
const RECORDS: u8 = 33;
/// What both sides send when there is nothing else.
pub(crate) const HEARTBEAT: u8 = 48;

/// What a connection is for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Read a log from this number on.
    Open { id: GenerationId, from: u64 },
    /// Say whether there is such a generation.
    Has { id: GenerationId },
    /// Say what a request under this key started. The owner is its name, or none.
    Key { owner: Option<String>, key: String },
    /// Stop and forget a generation.
    Delete { id: GenerationId },
}

/// What another process knows of an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyAnswer {
    /// Nothing.
    Unknown,
    /// A request under the key is just being started.
    Starting,
    /// It started this generation.
    Known(GenerationId),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The log, whose records follow, or its response object, after which nothing does.
    Log {
        header: ByteBuf,
        epoch_ends: Vec<u64>,
        end: u64,
        sealed: bool,
        object: Option<ByteBuf>,
    },
    /// The log has ended.
    Sealed,
    /// There is no such generation, or its log is gone now.
    Gone,
    /// Whether there is such a generation.
    Has(bool),
    /// What is known of the key.
    Key(KeyAnswer),
    /// Done.
    Done,
    /// It cannot be done now.
    Failed,
}

#[derive(Serialize, Deserialize)]
struct Control {
    held: bool,
    cancelled: bool,
}

/// What arrives during a stream.
#[derive(Debug)]
pub(crate) enum Arrived {
    Answer(Answer),
    Records(RecordBatch),
    Heartbeat,
}

fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    postcard::to_stdvec(message).map_err(|_| FrameError::Malformed)
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::Malformed),
    }
}

impl Request {
    pub(crate) async fn write<W: AsyncWrite + Unpin>(&self, to: &mut W) -> Result<(), FrameError> {
        write_frame(to, REQUEST, &encode(self)?).await
    }

    pub(crate) fn read(kind: u8, body: &[u8]) -> Result<Self, FrameError> {
        if kind != REQUEST {
            return Err(FrameError::Malformed);
        }
        let request = decode(body)?;
        // An id is checked where it is parsed, which decoding is not.
        let (Self::Open { id, .. } | Self::Has { id } | Self::Delete { id }) = &request else {
            return Ok(request);
        };
        match id.as_str().parse::<GenerationId>() {
            Ok(_) => Ok(request),
            Err(_) => Err(FrameError::Malformed),
        }
    }
}

pub(crate) fn owner_name(owner: &Owner) -> Option<String> {
    match owner {
        Owner::Anonymous => None,
        Owner::Named(name) => Some(name.to_string()),
    }
}

pub(crate) fn owner_of(name: Option<String>) -> Owner {
    name.map_or(Owner::Anonymous, |name| Owner::Named(name.into()))
}

pub(crate) async fn write_control<W: AsyncWrite + Unpin>(
    to: &mut W,
    control: ReadControl,
) -> Result<(), FrameError> {
    let ReadControl { held, cancelled } = control;
    write_frame(to, CONTROL, &encode(&Control { held, cancelled })?).await
}

/// Reads what the reader of a stream sends. `None` is a heartbeat.
pub(crate) fn read_control(kind: u8, body: &[u8]) -> Result<Option<ReadControl>, FrameError> {
    match kind {
        HEARTBEAT => Ok(None),
        CONTROL => {
            let Control { held, cancelled } = decode(body)?;
            Ok(Some(ReadControl { held, cancelled }))
        }
        _ => Err(FrameError::Malformed),
    }
}

impl Answer {
    pub(crate) async fn write<W: AsyncWrite + Unpin>(&self, to: &mut W) -> Result<(), FrameError> {
        write_frame(to, ANSWER, &encode(self)?).await
    }

    pub(crate) fn read(kind: u8, body: &[u8]) -> Result<Self, FrameError> {
        if kind == ANSWER {
            decode(body)
        } else {
            Err(FrameError::Malformed)
        }
    }

    /// The answer with a log whose records are sent in the form of this version.
    pub(crate) fn log(stored: &StoredLog, version: u8, object: Option<&[u8]>) -> Self {
        Self::Log {
            header: ByteBuf::from(stored.header.encode_as(version)),
            epoch_ends: stored.epoch_ends.iter().map(|end| end.0).collect(),
            end: stored.end.0,
            sealed: stored.sealed,
            object: object.map(ByteBuf::from),
        }
    }

    /// Returns the log that is answered, and its object.
    pub(crate) fn into_log(self) -> Result<(StoredLog, Option<Vec<u8>>), FrameError> {
        let Self::Log {
            header,
            epoch_ends,
            end,
            sealed,
            object,
        } = self
        else {
            return Err(FrameError::Malformed);
        };
        let header = LogHeader::decode(&header).map_err(|_| FrameError::Malformed)?;
        let stored = StoredLog {
            header: header.into(),
            epoch_ends: epoch_ends.into_iter().map(Seq).collect(),
            end: Seq(end),
            sealed,
        };
        Ok((stored, object.map(ByteBuf::into_vec)))
    }
}

/// Writes records: the number before the first one, and the block as the log has it.
pub(crate) async fn write_records<W: AsyncWrite + Unpin>(
    to: &mut W,
    batch: &RecordBatch,
) -> Result<(), FrameError> {
    let mut body = Vec::with_capacity(8 + batch.byte_len());
    body.extend_from_slice(&batch.first_seq().0.to_le_bytes());
    body.extend_from_slice(batch.as_block());
    write_frame(to, RECORDS, &body).await
}

impl Arrived {
    pub(crate) fn read(kind: u8, body: &[u8]) -> Result<Self, FrameError> {
        match kind {
            HEARTBEAT => Ok(Self::Heartbeat),
            RECORDS => {
                let (first, block) = body.split_first_chunk().ok_or(FrameError::Malformed)?;
                let first = Seq(u64::from_le_bytes(*first));
                let batch = RecordBatch::parse(first, block.to_vec());
                Ok(Self::Records(batch.map_err(|_| FrameError::Malformed)?))
            }
            _ => Answer::read(kind, body).map(Self::Answer),
        }
    }
}

/// Decodes a frame as each of the messages that it may be. For fuzzing.
#[doc(hidden)]
pub fn try_decode(kind: u8, body: &[u8]) {
    let _ = Request::read(kind, body);
    let _ = read_control(kind, body);
    if let Ok(Arrived::Answer(answer)) = Arrived::read(kind, body) {
        let _ = answer.into_log();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_id_is_refused() {
        let body = encode(&("not an id", 7_u64)).unwrap();
        let request = [&[0][..], &body].concat();
        assert!(Request::read(REQUEST, &request).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_messages_never_panic(
            kind: u8,
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            for kind in [kind, REQUEST, CONTROL, ANSWER, RECORDS] {
                try_decode(kind, &body);
            }
        }
    }
}
