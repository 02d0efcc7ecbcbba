//! The store in memory: for one process, and as the model that other stores are compared with.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, ready};
use parking_lot::Mutex;

use super::Epoch;
use super::block::{Block, Blocks};
use super::header::LogHeader;
use super::store::{Appended, LogStore, StoreFuture, StoredLog};
use super::store_error::StoreError;
use crate::model::id::{GenerationId, Seq};
use crate::model::record::{RecordBatch, Records};

/// Ids of deleted logs that are remembered. A late append to an older one finds no log.
const TOMBSTONES: usize = 1 << 16;

/// Logs as blocks and objects as bytes, up to a number of bytes. When it is full, what needs room
/// is refused as [`StoreError::Unavailable`] until logs are deleted.
pub struct MemoryStore {
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    logs: HashMap<GenerationId, Log>,
    deleted: HashSet<GenerationId>,
    /// The same ids, oldest first.
    deletions: VecDeque<GenerationId>,
    used: usize,
}

/// A log in its stored form.
struct Log {
    header: Vec<u8>,
    epoch_ends: Vec<Seq>,
    blocks: Vec<StoredBlock>,
    end: Seq,
    sealed: bool,
    object: Option<Bytes>,
}

struct StoredBlock {
    first: Seq,
    next: Seq,
    bytes: Box<[u8]>,
}

impl fmt::Debug for MemoryStore {
    /// Omits the logs, which are contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

// === impl MemoryStore ===

impl MemoryStore {
    /// Creates an empty store for this many bytes of headers, blocks and objects.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            state: Mutex::default(),
        }
    }

    /// Returns the bytes of headers, blocks and objects.
    #[must_use]
    pub fn used(&self) -> usize {
        self.state.lock().used
    }

    fn create_now(&self, header: &LogHeader) -> Result<Epoch, StoreError> {
        let mut state = self.state.lock();
        let id = &header.meta.id;
        let encoded = header.encode();
        match state.log(id) {
            Ok(log) if log.header == encoded && log.epoch_ends.is_empty() => {
                return Ok(log.epoch());
            }
            Ok(_) => return Err(StoreError::Exists),
            Err(StoreError::NotFound) => {}
            Err(error) => return Err(error),
        }
        state.reserve(encoded.len(), self.max_bytes)?;
        let log = Log {
            header: encoded,
            epoch_ends: Vec::new(),
            blocks: Vec::new(),
            end: Seq(0),
            sealed: false,
            object: None,
        };
        let epoch = log.epoch();
        state.logs.insert(id.clone(), log);
        Ok(epoch)
    }

    fn append_now(&self, block: Block<'_>) -> Result<Seq, StoreError> {
        self.state.lock().append(block, self.max_bytes)
    }

    fn seal_now(
        &self,
        id: &GenerationId,
        epoch: Epoch,
        block: &RecordBatch,
        object: Option<Bytes>,
    ) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let block = Block {
            id,
            epoch,
            first: block.first_seq(),
            next: block.end_seq(),
            bytes: block.as_block(),
        };
        // Room for both is made sure first, so that a seal happens as a whole or not at all.
        let size = object.as_ref().map_or(0, Bytes::len);
        state.log(id)?;
        if state.used + block.bytes.len() + size > self.max_bytes {
            return Err(full());
        }
        let end = state.append(block, self.max_bytes)?;
        let log = state.log_mut(id)?;
        if end > block.next {
            // The log goes on after this block.
            return Err(StoreError::Gap {
                expected: end,
                found: block.next,
            });
        }
        if !log.sealed {
            log.sealed = true;
            log.object = object;
            state.used += size;
        }
        Ok(())
    }
}

fn full() -> StoreError {
    StoreError::Unavailable("the store in memory is full".into())
}

impl LogStore for MemoryStore {
    fn create(&self, header: Arc<LogHeader>) -> StoreFuture<'_, Epoch> {
        ready(self.create_now(&header)).boxed()
    }

    fn append(&self, blocks: Blocks) -> BoxFuture<'_, Appended> {
        let results = blocks.iter().map(|block| self.append_now(block)).collect();
        ready((blocks, results)).boxed()
    }

    fn seal<'a>(
        &'a self,
        id: &'a GenerationId,
        epoch: Epoch,
        block: RecordBatch,
        object: Option<Bytes>,
    ) -> StoreFuture<'a, ()> {
        ready(self.seal_now(id, epoch, &block, object)).boxed()
    }

    fn open<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, StoredLog> {
        ready(self.state.lock().log(id).and_then(Log::stored)).boxed()
    }

    fn read<'a>(
        &'a self,
        id: &'a GenerationId,
        from: Seq,
        max_bytes: usize,
    ) -> StoreFuture<'a, RecordBatch> {
        let state = self.state.lock();
        let batch = state.log(id).and_then(|log| log.read(from, max_bytes));
        ready(batch).boxed()
    }

    fn object<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Option<Bytes>> {
        let object = self.state.lock().log(id).map(|log| log.object.clone());
        ready(object).boxed()
    }

    fn adopt<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, Epoch> {
        let mut state = self.state.lock();
        let epoch = state.log_mut(id).and_then(Log::adopt);
        ready(epoch).boxed()
    }

    fn delete<'a>(&'a self, id: &'a GenerationId) -> StoreFuture<'a, ()> {
        self.state.lock().delete(id);
        ready(Ok(())).boxed()
    }
}

// === impl State ===

impl State {
    fn missing(&self, id: &GenerationId) -> StoreError {
        if self.deleted.contains(id) {
            StoreError::Deleted
        } else {
            StoreError::NotFound
        }
    }

    fn log(&self, id: &GenerationId) -> Result<&Log, StoreError> {
        self.logs.get(id).ok_or_else(|| self.missing(id))
    }

    fn log_mut(&mut self, id: &GenerationId) -> Result<&mut Log, StoreError> {
        let missing = self.missing(id);
        self.logs.get_mut(id).ok_or(missing)
    }

    fn reserve(&mut self, size: usize, max_bytes: usize) -> Result<(), StoreError> {
        if self.used + size > max_bytes {
            return Err(full());
        }
        self.used += size;
        Ok(())
    }

    /// Appends what the log does not have of a block. Returns the log's end.
    fn append(&mut self, block: Block<'_>, max_bytes: usize) -> Result<Seq, StoreError> {
        let log = self.log(block.id)?;
        if block.epoch != log.epoch() {
            return Err(StoreError::Fenced {
                held: block.epoch,
                current: log.epoch(),
            });
        }
        block.check()?;
        let new = block.after(log.end)?;
        if new.bytes.is_empty() {
            return Ok(log.end);
        }
        if log.sealed {
            return Err(StoreError::Sealed);
        }
        self.reserve(new.bytes.len(), max_bytes)?;
        let log = self.log_mut(block.id)?;
        log.end = new.next;
        log.blocks.push(StoredBlock {
            first: new.first,
            next: new.next,
            bytes: new.bytes.into(),
        });
        Ok(log.end)
    }

    fn delete(&mut self, id: &GenerationId) {
        if let Some(log) = self.logs.remove(id) {
            self.used -= log.size();
        }
        if self.deleted.insert(id.clone()) {
            self.deletions.push_back(id.clone());
        }
        if self.deletions.len() > TOMBSTONES
            && let Some(oldest) = self.deletions.pop_front()
        {
            self.deleted.remove(&oldest);
        }
    }
}

// === impl Log ===

impl Log {
    fn epoch(&self) -> Epoch {
        Epoch(self.epoch_ends.len() as u64 + 1)
    }

    fn size(&self) -> usize {
        let blocks: usize = self.blocks.iter().map(|block| block.bytes.len()).sum();
        self.header.len() + blocks + self.object.as_ref().map_or(0, Bytes::len)
    }

    fn stored(&self) -> Result<StoredLog, StoreError> {
        Ok(StoredLog {
            header: Arc::new(LogHeader::decode(&self.header)?),
            epoch_ends: self.epoch_ends.clone(),
            end: self.end,
            sealed: self.sealed,
        })
    }

    fn adopt(&mut self) -> Result<Epoch, StoreError> {
        if self.sealed {
            return Err(StoreError::Sealed);
        }
        self.epoch_ends.push(self.end);
        Ok(self.epoch())
    }

    fn read(&self, from: Seq, max_bytes: usize) -> Result<RecordBatch, StoreError> {
        let mut batch = RecordBatch::default();
        batch.restart(self.end);
        let start = self.blocks.partition_point(|block| block.next <= from);
        for block in &self.blocks[start..] {
            let mut records = Records::new(block.first, &block.bytes);
            loop {
                let (first, before) = (records.end_seq(), records.rest());
                let Some(record) = records.step() else { break };
                if record?.next_seq() <= from {
                    continue;
                }
                if batch.is_empty() {
                    batch.restart(first);
                }
                let length = before.len() - records.rest().len();
                batch.extend_framed(&before[..length], records.end_seq());
                if batch.byte_len() >= max_bytes {
                    return Ok(batch);
                }
            }
        }
        Ok(batch)
    }
}
