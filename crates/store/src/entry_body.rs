//! What the bodies of frames hold.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokenwire_core::log::{LogHeader, StoreError};
use tokenwire_core::model::id::Seq;
use tokenwire_core::model::record::RecordBatch;

use crate::frame::{self, HEAD, Kind};

/// Most bytes of records of one frame of a log that is written as a whole, beside its last record.
const CHUNK: usize = 64 * 1024;

/// The first frame of a log. In a journal frames of records may follow beyond those that it lists.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct LogHead {
    /// The encoded [`LogHeader`].
    #[serde(with = "serde_bytes")]
    pub(crate) header: Vec<u8>,
    /// Where each earlier epoch ended.
    pub(crate) epoch_ends: Vec<u64>,
    /// When it ended, in Unix seconds; `None` while it runs.
    pub(crate) ended_at: Option<u64>,
    /// The frames of records behind this one: the end of the last record, and the frame's length.
    pub(crate) chunks: Vec<(u64, u32)>,
}

/// The frame before a response object.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ObjectHead {
    /// The encoded [`LogHeader`].
    #[serde(with = "serde_bytes")]
    pub(crate) header: Vec<u8>,
    /// Where each earlier epoch of its log ended.
    pub(crate) epoch_ends: Vec<u64>,
    /// The end of its log.
    pub(crate) end: u64,
    /// When it ended, in Unix seconds.
    pub(crate) ended_at: u64,
    /// Length of the frame with the object.
    pub(crate) length: u32,
}

/// A small record that was written, or removed if it has no value.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EntryBody {
    pub(crate) key: String,
    pub(crate) value: Option<serde_bytes::ByteBuf>,
}

/// Appends the postcard form of a body.
pub(crate) fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    let bytes = std::mem::take(out);
    // Serializing plain data into a Vec cannot fail.
    *out = postcard::to_extend(value, bytes).unwrap_or_default();
}

/// Reads the postcard form of a body.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub(crate) fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, StoreError> {
    postcard::from_bytes(body).map_err(|_| StoreError::Corrupt)
}

/// Appends a frame of records that follow the number before `first`.
pub(crate) fn push_records(out: &mut Vec<u8>, log: u32, first: Seq, records: &[u8]) -> bool {
    frame::push(out, Kind::Records, log, |out| {
        encode(&first.0, out);
        out.extend_from_slice(records);
    })
}

/// Decodes the header of a log. `read` is the highest version that is read.
///
/// # Errors
/// [`StoreError::UnknownVersion`] for a later one, [`StoreError::Corrupt`] if it is damaged.
pub(crate) fn header(bytes: &[u8], read: u8) -> Result<LogHeader, StoreError> {
    match LogHeader::decode(bytes)? {
        header if header.version <= read => Ok(header),
        header => Err(StoreError::UnknownVersion {
            found: header.version,
        }),
    }
}

/// Returns the number at which a frame's records begin, and the records.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub(crate) fn records(body: &[u8]) -> Result<(Seq, &[u8]), StoreError> {
    let (first, records) = postcard::take_from_bytes(body).map_err(|_| StoreError::Corrupt)?;
    Ok((Seq(first), records))
}

/// A log that is to be written as a whole: the records that earlier frames hold, joined to chunks.
#[derive(Debug, Default)]
pub(crate) struct WholeLog {
    /// The frames of records.
    frames: Vec<u8>,
    chunks: Vec<(u64, u32)>,
    /// Records that wait for their chunk to be full, after this number.
    waiting: Vec<u8>,
    first: Seq,
    next: Seq,
}

impl WholeLog {
    /// Returns the log that consists of these records.
    pub(crate) fn of(batch: &RecordBatch) -> Self {
        let mut whole = Self::default();
        let mut records = batch.iter();
        let mut before = records.rest();
        while records.next().is_some() {
            let length = before.len() - records.rest().len();
            whole.add(0, &before[..length], records.end_seq());
            before = records.rest();
        }
        whole
    }

    /// Adds records that end at `next`. They follow those before.
    pub(crate) fn add(&mut self, log: u32, records: &[u8], next: Seq) {
        if records.is_empty() {
            return;
        }
        if !self.waiting.is_empty() && self.waiting.len() + records.len() > CHUNK {
            self.close(log);
        }
        self.waiting.extend_from_slice(records);
        self.next = next;
    }

    fn close(&mut self, log: u32) {
        if self.waiting.is_empty() {
            return;
        }
        let start = self.frames.len();
        // A record is smaller than a log, which is smaller than a frame.
        if push_records(&mut self.frames, log, self.first, &self.waiting) {
            let length = (self.frames.len() - start) as u32;
            self.chunks.push((self.next.0, length));
        }
        self.first = self.next;
        self.waiting.clear();
    }

    /// Appends the head and the frames of records. Returns the end of each frame's records, and
    /// where it lies in `out`.
    pub(crate) fn write(
        mut self,
        out: &mut Vec<u8>,
        log: u32,
        head: LogHead,
    ) -> Option<Vec<(Seq, usize, u32)>> {
        self.close(log);
        let head = LogHead {
            chunks: self.chunks,
            ..head
        };
        if !frame::push(out, Kind::Log, log, |out| encode(&head, out)) {
            return None;
        }
        let mut offset = out.len();
        let placed = head.chunks.iter().map(|(next, length)| {
            let at = offset;
            offset += *length as usize;
            (Seq(*next), at, *length)
        });
        let placed = placed.collect();
        out.extend_from_slice(&self.frames);
        Some(placed)
    }
}

impl LogHead {
    /// As [`header`].
    ///
    /// # Errors
    /// As [`header`].
    pub(crate) fn header(&self, read: u8) -> Result<LogHeader, StoreError> {
        header(&self.header, read)
    }

    /// The end of the log as this frame knows it.
    pub(crate) fn end(&self) -> Seq {
        Seq(self.chunks.last().map_or(0, |(next, _)| *next))
    }

    /// Bytes of the frames that it lists.
    pub(crate) fn chunks_len(&self) -> u64 {
        self.chunks
            .iter()
            .map(|(_, length)| u64::from(*length))
            .sum()
    }

    /// Whether all lengths are those of frames.
    pub(crate) fn is_plausible(&self) -> bool {
        self.chunks
            .iter()
            .all(|(_, length)| *length as usize > HEAD)
    }
}

/// Returns the Unix time in seconds, as it was when the process began plus the time since then: a
/// clock that is set meanwhile makes nothing older or younger.
pub(crate) fn now() -> u64 {
    static BEGIN: OnceLock<(Instant, u64)> = OnceLock::new();
    let (begin, at) = BEGIN.get_or_init(|| (Instant::now(), unix(SystemTime::now())));
    at + begin.elapsed().as_secs()
}

/// Returns [`now`] less the age of something that the file system or another process has dated. What
/// is dated in the future, as after the clock was set back, has no age.
pub(crate) fn dated(time: u64) -> u64 {
    now().saturating_sub(unix(SystemTime::now()).saturating_sub(time))
}

/// Returns a time in Unix seconds.
pub(crate) fn unix(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
