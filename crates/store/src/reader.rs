//! The threads that read: what is stored, without waiting for a write or a sync.

use std::sync::Arc;

use bytes::Bytes;
use tokenwire_core::log::{StoreError, StoredLog};
use tokenwire_core::model::id::{GenerationId, Owner, Seq};
use tokenwire_core::model::record::RecordBatch;

use crate::entry_body::{self, LogHead, ObjectHead};
use crate::frame::{HEAD, Kind};
use crate::index::{Entry, IdKey, Index, KeptLog, key_hash};
use crate::queue::Received;
use crate::shared::Shared;
use crate::store_file::{Place, StoreFile};

/// A frame of records, to be read.
struct Piece {
    file: Arc<StoreFile>,
    offset: u64,
    length: usize,
}

/// Reads until the store is closed.
pub(crate) fn run(shared: &Shared) {
    while let Received::Item(job, permit) = shared.reads.receive(None) {
        job(shared);
        drop(permit);
    }
}

/// Reads what is kept of a log as [`LogHead`], and where its frames of records begin.
pub(crate) fn log_head(file: &StoreFile, place: Place) -> Result<(LogHead, u64), StoreError> {
    let offset = u64::from(place.offset);
    let bytes = file.frame_at(offset, Kind::Log)?;
    Ok((
        entry_body::decode(&bytes)?,
        offset + (HEAD + bytes.len()) as u64,
    ))
}

/// Reads the head of an object, and where the object's frame begins.
pub(crate) fn object_head(file: &StoreFile, place: Place) -> Result<(ObjectHead, u64), StoreError> {
    let offset = u64::from(place.offset);
    let bytes = file.frame_at(offset, Kind::Object)?;
    Ok((
        entry_body::decode(&bytes)?,
        offset + (HEAD + bytes.len()) as u64,
    ))
}

/// Retries once: a log may be written elsewhere while it is read.
fn twice<T>(read: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
    match read() {
        Err(StoreError::NotFound) => read(),
        result => result,
    }
}

impl Shared {
    fn kept_log(&self, kept: KeptLog) -> Result<StoredLog, StoreError> {
        let (header, epoch_ends, end) = match (kept.log, kept.object) {
            (Some(place), _) => {
                let (head, _) = log_head(&*self.file(place)?, place)?;
                let end = head.end();
                (head.header, head.epoch_ends, end)
            }
            (None, Some(place)) => {
                let (head, _) = object_head(&*self.file(place)?, place)?;
                (head.header, head.epoch_ends, Seq(head.end))
            }
            (None, None) => return Err(StoreError::NotFound),
        };
        Ok(StoredLog {
            header: Arc::new(entry_body::header(&header, self.options.formats.read)?),
            epoch_ends: epoch_ends.into_iter().map(Seq).collect(),
            end,
            sealed: true,
        })
    }

    fn file(&self, place: Place) -> Result<Arc<StoreFile>, StoreError> {
        self.index.lock().file(place.file)
    }

    /// Returns what is stored of a log.
    pub(crate) fn stored(&self, id: &GenerationId) -> Result<StoredLog, StoreError> {
        twice(|| {
            let kept = {
                let index = self.index.lock();
                match index.get(index.key(id))? {
                    Entry::Running(log) => {
                        return Ok(StoredLog {
                            header: log.header.clone(),
                            epoch_ends: log.epoch_ends.clone(),
                            end: log.end,
                            sealed: false,
                        });
                    }
                    Entry::Kept(kept) => *kept,
                }
            };
            self.kept_log(kept)
        })
    }

    /// Returns records, as [`LogStore::read`](tokenwire_core::log::LogStore::read) says.
    pub(crate) fn records(
        &self,
        id: &GenerationId,
        from: Seq,
        max_bytes: usize,
    ) -> Result<RecordBatch, StoreError> {
        twice(|| {
            let (pieces, end) = self.pieces(id, from, max_bytes)?;
            let mut batch = RecordBatch::default();
            batch.restart(end);
            for piece in pieces {
                let bytes = piece
                    .file
                    .frame(piece.offset, piece.length, Kind::Records)?;
                let (first, records) = entry_body::records(&bytes)?;
                let records = RecordBatch::parse(first, records.to_vec())?;
                for record in records.iter().filter(|record| record.next_seq() > from) {
                    if batch.is_empty() {
                        batch.restart(record.start_seq());
                    }
                    batch.skip(record.skip);
                    batch.push(record.events, record.payload);
                    if batch.byte_len() >= max_bytes {
                        return Ok(batch);
                    }
                }
            }
            Ok(batch)
        })
    }

    /// Returns the frames with at least `max_bytes` of records from this number on, and the log's
    /// end.
    fn pieces(
        &self,
        id: &GenerationId,
        from: Seq,
        max_bytes: usize,
    ) -> Result<(Vec<Piece>, Seq), StoreError> {
        let mut pieces = Vec::new();
        // The first one may hold earlier records only in part.
        let mut rest = max_bytes.saturating_add(1);
        let (file, place) = {
            let index = self.index.lock();
            match index.get(index.key(id))? {
                Entry::Running(log) => {
                    let start = log.chunks.partition_point(|chunk| chunk.next <= from);
                    for (number, chunk) in log.chunks[start..].iter().enumerate() {
                        if rest == 0 {
                            break;
                        }
                        if number > 0 {
                            rest = rest.saturating_sub(chunk.length as usize);
                        }
                        pieces.push(Piece {
                            file: index.file(chunk.place.file)?,
                            offset: u64::from(chunk.place.offset),
                            length: chunk.length as usize,
                        });
                    }
                    return Ok((pieces, log.end));
                }
                Entry::Kept(kept) => {
                    let place = kept.log.ok_or(StoreError::Expired)?;
                    (index.file(place.file)?, place)
                }
            }
        };
        let (head, mut offset) = log_head(&file, place)?;
        for (next, length) in &head.chunks {
            if Seq(*next) > from && rest > 0 {
                if !pieces.is_empty() {
                    rest = rest.saturating_sub(*length as usize);
                }
                pieces.push(Piece {
                    file: file.clone(),
                    offset,
                    length: *length as usize,
                });
            }
            offset += u64::from(*length);
        }
        Ok((pieces, head.end()))
    }

    /// Returns the response object of a log, if it has one.
    pub(crate) fn object(&self, id: &GenerationId) -> Result<Option<Bytes>, StoreError> {
        let place = {
            let index = self.index.lock();
            match index.get(index.key(id))? {
                Entry::Running(_) => return Ok(None),
                Entry::Kept(kept) => kept.object,
            }
        };
        let Some(place) = place else {
            return Ok(None);
        };
        let file = self.file(place)?;
        let (head, offset) = object_head(&file, place)?;
        file.frame(offset, head.length as usize, Kind::Bytes)
            .map(Some)
    }

    /// Returns the log that was started under this idempotency key.
    pub(crate) fn keyed(
        &self,
        owner: &Owner,
        key: &str,
    ) -> Result<Option<GenerationId>, StoreError> {
        let header = {
            let index = self.index.lock();
            let Some(id) = index.keys.get(&key_hash(owner, key)) else {
                return Ok(None);
            };
            match index.logs.get(id) {
                Some(Entry::Running(log)) => log.header.clone(),
                Some(Entry::Kept(kept)) => {
                    let kept = *kept;
                    drop(index);
                    match self.kept_log(kept) {
                        Ok(stored) => stored.header,
                        Err(error) if error.is_gone() => return Ok(None),
                        Err(error) => return Err(error),
                    }
                }
                None => return Ok(None),
            }
        };
        let same = header.meta.owner == *owner
            && header
                .idempotency
                .as_ref()
                .is_some_and(|keyed| *keyed.key == *key);
        Ok(same.then(|| header.meta.id.clone()))
    }
}

/// Returns all records of a running log, joined.
pub(crate) fn whole(
    shared: &Shared,
    key: IdKey,
    number: u32,
) -> Result<entry_body::WholeLog, StoreError> {
    let pieces: Vec<_> = {
        let index = shared.index.lock();
        let Entry::Running(log) = index.get(key)? else {
            return Err(StoreError::Sealed);
        };
        pieces_of(&index, log)?
    };
    let mut whole = entry_body::WholeLog::default();
    for (piece, next) in pieces {
        let bytes = piece
            .file
            .frame(piece.offset, piece.length, Kind::Records)?;
        let (_, records) = entry_body::records(&bytes)?;
        whole.add(number, records, next);
    }
    Ok(whole)
}

fn pieces_of(
    index: &Index,
    log: &crate::index::RunningLog,
) -> Result<Vec<(Piece, Seq)>, StoreError> {
    let piece = |chunk: &crate::index::Chunk| {
        let piece = Piece {
            file: index.file(chunk.place.file)?,
            offset: u64::from(chunk.place.offset),
            length: chunk.length as usize,
        };
        Ok((piece, chunk.next))
    };
    log.chunks.iter().map(piece).collect()
}
