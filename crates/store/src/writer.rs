//! The thread that writes: it makes every change, one after another.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokenwire_core::log::{Block, Blocks, Epoch, LogHeader, StoreError};
use tokenwire_core::model::id::{GenerationId, Seq};

use crate::command::{Command, Seal};
use crate::entry_body::{self, EntryBody, LogHead, ObjectHead, WholeLog, now};
use crate::folder::Folder;
use crate::frame::{self, Kind};
use crate::index::{Chunk, Entry, IdKey, KeptLog, RunningLog};
use crate::listing::{self, Listed};
use crate::output::Output;
use crate::queue::{Received, after};
use crate::reader::{log_head, object_head, whole};
use crate::recovery::Recovered;
use crate::shared::Shared;
use crate::store_file::{FileId, FileKind, Place, StoreFile};
use crate::syncer::remove;

/// How often files are rotated and removed.
const TICK: Duration = Duration::from_secs(1);
/// The parts of its retention that a kept file spans.
const SPANS: u32 = 8;
/// The longest time that a kept file spans.
const LONGEST_SPAN: Duration = Duration::from_secs(60 * 60);
/// Bytes of small records from which on those that are replaced are left behind.
const ENTRY_BYTES: u64 = 1 << 20;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    journal: Output,
    logs: Output,
    objects: Output,
    deleted: Output,
    entries: Output,
    /// Folders of earlier processes that still hold files.
    old: Vec<Folder>,
    next_number: u32,
    buffer: Vec<u8>,
    next_tick: Instant,
}

/// A block in the buffer.
struct Staged {
    /// Its place in the answer.
    index: usize,
    key: IdKey,
    offset: usize,
    length: u32,
    next: Seq,
}

/// What of a block is new.
enum Checked<'a> {
    /// The log has all of it and ends here.
    Stored(Seq),
    /// This part, for the running log with this number.
    New(Block<'a>, u32),
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, old: Vec<Folder>) -> Self {
        let options = &shared.options;
        let span = |retained: Duration| (retained / SPANS).clamp(TICK, LONGEST_SPAN);
        Self {
            journal: Output::new(FileKind::Journal, Duration::MAX),
            logs: Output::new(FileKind::Logs, span(options.retain_logs)),
            objects: Output::new(FileKind::Objects, span(options.retain_objects)),
            deleted: Output::new(FileKind::Deleted, LONGEST_SPAN),
            entries: Output::new(FileKind::Entries, Duration::MAX),
            old,
            next_number: 1,
            buffer: Vec::new(),
            // What earlier processes left is tidied up at once.
            next_tick: Instant::now(),
            shared,
        }
    }

    /// Makes changes until the store is closed.
    pub(crate) fn run(mut self) {
        loop {
            let received = self.shared.commands.receive(Some(self.next_tick));
            match received {
                Received::Item(command, permit) => {
                    self.make(command);
                    drop(permit);
                }
                Received::Nothing => {}
                Received::Closed => break,
            }
            self.compact();
            if Instant::now() >= self.next_tick {
                self.next_tick = after(TICK);
                self.tick();
            }
        }
        // The next process reads what lies in them from their footers.
        self.logs.close(&self.shared);
        self.objects.close(&self.shared);
        self.shared.syncer.close();
    }

    /// Makes the changes that wait.
    pub(crate) fn work(&mut self) {
        while let Some((command, permit)) = self.shared.commands.try_receive() {
            self.make(command);
            drop(permit);
            self.compact();
        }
    }

    fn make(&mut self, command: Command) {
        match command {
            Command::Create(header, reply) => {
                let _ = reply.send(self.create(header));
            }
            Command::Append(blocks, reply) => {
                let results = self.append(&blocks);
                let _ = reply.send((blocks, results));
            }
            Command::Seal(seal, reply) => {
                let _ = reply.send(self.seal(*seal));
            }
            Command::Adopt(id, reply) => {
                let _ = reply.send(self.adopt(&id));
            }
            Command::Delete(id, reply) => match self.delete(&id) {
                // Durable before the answer.
                Ok(file) => self.shared.syncer.sync_now(file, reply),
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            },
            Command::Renew(ids) => {
                for id in ids {
                    if let Err(error) = self.renew(&id) {
                        tracing::debug!(generation = %id, %error, "an object could not be renewed");
                    }
                }
            }
            Command::Entries(reply) => {
                let written = self.write_entries();
                if let Some(reply) = reply {
                    let _ = reply.send(written);
                }
            }
            Command::TakeOver(recovered, reply) => {
                let Recovered {
                    index,
                    folders,
                    unsynced,
                    ..
                } = *recovered;
                self.shared.syncer.mark_earlier(unsynced);
                let bytes: u64 = index.files.values().map(|file| file.len()).sum();
                self.shared.health.bytes.fetch_add(bytes, Ordering::Relaxed);
                let merged = self.shared.index.lock().merge(index);
                self.old.extend(folders);
                let _ = reply.send(merged);
                let _ = self.write_entries();
            }
            Command::Lost(file) => self.lost(&file),
        }
    }

    fn create(&mut self, header: Arc<LogHeader>) -> Result<Epoch, StoreError> {
        let encoded = header.encode();
        let key = {
            let index = self.shared.index.lock();
            let key = index.key(&header.meta.id);
            match index.get(key) {
                Ok(Entry::Running(log))
                    if log.epoch_ends.is_empty() && log.header.encode() == encoded =>
                {
                    return Ok(Epoch::FIRST);
                }
                Ok(_) => return Err(StoreError::Exists),
                Err(StoreError::NotFound) => {}
                Err(error) => return Err(error),
            }
            key
        };
        let number = self.number();
        let head = LogHead {
            header: encoded,
            ..LogHead::default()
        };
        self.buffer.clear();
        if !frame::push(&mut self.buffer, Kind::Log, number, |out| {
            entry_body::encode(&head, out);
        }) {
            return Err(StoreError::Corrupt);
        }
        let place = self.journal.append(&self.shared, &mut self.buffer)?;
        let mut log = RunningLog::new(header, number);
        log.pinned.push(place.file);
        self.shared.index.lock().insert_running(key, log);
        Ok(Epoch::FIRST)
    }

    fn number(&mut self) -> u32 {
        let number = self.next_number;
        // 0 is no number.
        self.next_number = number.checked_add(1).unwrap_or(1);
        number
    }

    /// Writes what is new of the blocks with one write.
    fn append(&mut self, blocks: &Blocks) -> Vec<Result<Seq, StoreError>> {
        let mut results = Vec::with_capacity(blocks.len());
        let mut staged: Vec<Staged> = Vec::with_capacity(blocks.len());
        let mut logs = HashSet::with_capacity(blocks.len());
        self.buffer.clear();
        for (number, block) in blocks.iter().enumerate() {
            let key = self.shared.index.lock().key(block.id);
            if logs.contains(&key) {
                // This block builds on one that is not written yet.
                self.flush(&mut staged, &mut results);
                logs.clear();
            }
            let result = match self.check(key, block) {
                Ok(Checked::Stored(end)) => Ok(end),
                Ok(Checked::New(new, log)) => {
                    logs.insert(key);
                    let log = if log == 0 { self.settle(key) } else { Ok(log) };
                    log.and_then(|log| self.stage(number, key, new, log, &mut staged))
                }
                Err(error) => Err(error),
            };
            results.push(result);
        }
        self.flush(&mut staged, &mut results);
        self.buffer.shrink_to(1 << 20);
        results
    }

    fn stage(
        &mut self,
        index: usize,
        key: IdKey,
        block: Block<'_>,
        log: u32,
        staged: &mut Vec<Staged>,
    ) -> Result<Seq, StoreError> {
        let offset = self.buffer.len();
        if !entry_body::push_records(&mut self.buffer, log, block.first, block.bytes) {
            return Err(StoreError::Corrupt);
        }
        staged.push(Staged {
            index,
            key,
            offset,
            length: (self.buffer.len() - offset) as u32,
            next: block.next,
        });
        Ok(block.next)
    }

    /// Writes the buffer. The results of its blocks are errors if that fails.
    fn flush(&mut self, staged: &mut Vec<Staged>, results: &mut [Result<Seq, StoreError>]) {
        if staged.is_empty() {
            return;
        }
        match self.journal.append(&self.shared, &mut self.buffer) {
            Ok(place) => {
                let mut index = self.shared.index.lock();
                for staged in staged.iter() {
                    let offset = place.offset + staged.offset as u32;
                    let chunk = Chunk {
                        place: Place { offset, ..place },
                        length: staged.length,
                        next: staged.next,
                    };
                    index.extend(staged.key, chunk);
                }
            }
            Err(error) => {
                for staged in staged.iter() {
                    results[staged.index] = Err(error.clone());
                }
            }
        }
        self.buffer.clear();
        staged.clear();
    }

    /// Returns what is new of a block.
    fn check<'a>(&self, key: IdKey, block: Block<'a>) -> Result<Checked<'a>, StoreError> {
        let (epoch, end, number) = {
            let index = self.shared.index.lock();
            match index.get(key)? {
                Entry::Running(log) => (log.epoch(), log.end, Some(log.number)),
                Entry::Kept(kept) => {
                    let kept = *kept;
                    drop(index);
                    let (epoch, end) = self.ended(kept)?;
                    (epoch, end, None)
                }
            }
        };
        if block.epoch != epoch {
            return Err(StoreError::Fenced {
                held: block.epoch,
                current: epoch,
            });
        }
        block.check()?;
        let new = block.after(end)?;
        match number {
            _ if new.bytes.is_empty() => Ok(Checked::Stored(end)),
            None => Err(StoreError::Sealed),
            Some(number) => Ok(Checked::New(new, number)),
        }
    }

    /// Returns the last epoch and the end of a log that has ended.
    fn ended(&self, kept: KeptLog) -> Result<(Epoch, Seq), StoreError> {
        let file = |place: Place| self.shared.index.lock().file(place.file);
        let (epochs, end) = match (kept.log, kept.object) {
            (Some(place), _) => {
                let (head, _) = log_head(&*file(place)?, place)?;
                (head.epoch_ends.len(), head.end())
            }
            (None, Some(place)) => {
                let (head, _) = object_head(&*file(place)?, place)?;
                (head.epoch_ends.len(), Seq(head.end))
            }
            (None, None) => return Err(StoreError::NotFound),
        };
        Ok((Epoch(epochs as u64 + 1), end))
    }

    /// Writes the object and the log to the kept files.
    fn seal(&mut self, seal: Seal) -> Result<(), StoreError> {
        let Seal {
            id,
            epoch,
            block: last,
            object,
            version,
        } = seal;
        let block = Block {
            id: &id,
            epoch,
            first: last.first_seq(),
            next: last.end_seq(),
            bytes: last.as_block(),
        };
        let key = self.shared.index.lock().key(&id);
        let (new, number) = match self.check(key, block)? {
            Checked::Stored(end) if end > block.next => {
                // The log goes on after this block.
                return Err(StoreError::Gap {
                    expected: end,
                    found: block.next,
                });
            }
            Checked::Stored(_) => (&[][..], None),
            Checked::New(new, number) => (new.bytes, Some(number)),
        };
        let (header, epoch_ends, number) = {
            let mut index = self.shared.index.lock();
            match (index.running_mut(key), number) {
                (Some(log), number) => (
                    log.header.clone(),
                    log.epoch_ends.clone(),
                    number.unwrap_or(log.number),
                ),
                // It has ended already, with the same block.
                (None, _) => return Ok(()),
            }
        };
        let header = match version.filter(|_| block.first == Seq(0)) {
            Some(version) => Arc::new(LogHeader {
                version,
                ..LogHeader::clone(&header)
            }),
            None => header,
        };
        let whole = if block.first == Seq(0) {
            WholeLog::of(&last)
        } else {
            match whole(&self.shared, key, 0) {
                Ok(mut whole) => {
                    whole.add(0, new, block.next);
                    whole
                }
                Err(error) => return Err(self.give_up(key, error)),
            }
        };
        let head = LogHead {
            header: header.encode(),
            epoch_ends: epoch_ends.iter().map(|end| end.0).collect(),
            ended_at: Some(now()),
            chunks: Vec::new(),
        };
        // The object first: without the log it is not taken for an end.
        let object = match object {
            Some(object) => Some(self.write_object(&header, &head, block.next, &object)?),
            None => None,
        };
        self.buffer.clear();
        if whole.write(&mut self.buffer, 0, head).is_none() {
            return Err(StoreError::Corrupt);
        }
        let log = self.logs.append(&self.shared, &mut self.buffer)?;
        self.logs
            .note(&self.shared, Listed::new(&header, log.offset));
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        self.note_ended(number);
        let kept = KeptLog {
            log: Some(log),
            object,
        };
        self.shared.index.lock().keep(key, kept);
        Ok(())
    }

    fn write_object(
        &mut self,
        header: &LogHeader,
        head: &LogHead,
        end: Seq,
        object: &[u8],
    ) -> Result<Place, StoreError> {
        let mut bytes = Vec::with_capacity(object.len() + frame::HEAD);
        if !frame::push(&mut bytes, Kind::Bytes, 0, |out| {
            out.extend_from_slice(object);
        }) {
            return Err(StoreError::Corrupt);
        }
        let head = ObjectHead {
            header: head.header.clone(),
            epoch_ends: head.epoch_ends.clone(),
            end: end.0,
            ended_at: head.ended_at.unwrap_or_default(),
            length: bytes.len() as u32,
        };
        self.buffer.clear();
        if !frame::push(&mut self.buffer, Kind::Object, 0, |out| {
            entry_body::encode(&head, out);
        }) {
            return Err(StoreError::Corrupt);
        }
        self.buffer.extend_from_slice(&bytes);
        let place = self.objects.append(&self.shared, &mut self.buffer)?;
        self.objects
            .note(&self.shared, Listed::new(header, place.offset));
        Ok(place)
    }

    /// Writes an object again, if the file that has it would be removed early. Its time begins anew.
    fn renew(&mut self, id: &GenerationId) -> Result<(), StoreError> {
        let (key, place, file) = {
            let index = self.shared.index.lock();
            let key = index.key(id);
            match index.get(key)? {
                Entry::Kept(KeptLog {
                    object: Some(place),
                    ..
                }) => (key, *place, index.file(place.file)?),
                _ => return Ok(()),
            }
        };
        let fresh = self.shared.options.retain_objects / SPANS;
        if file.newest.load(Ordering::Relaxed) + fresh.as_secs() >= now() {
            return Ok(());
        }
        let renewed = self.move_object(&file, place)?;
        if let Some(Entry::Kept(kept)) = self.shared.index.lock().logs.get_mut(&key) {
            kept.object = Some(renewed);
        }
        Ok(())
    }

    /// Notes in the journal that a log is not running any more. The kept files and the deletions say
    /// so as well.
    fn note_ended(&mut self, number: u32) {
        if number == 0 {
            return;
        }
        let mut bytes = Vec::new();
        frame::push(&mut bytes, Kind::Ended, number, |out| {
            entry_body::encode(&now(), out);
        });
        let _ = self.journal.append(&self.shared, &mut bytes);
    }

    /// Forgets a running log whose stored records cannot be read: its writer stores them again.
    fn give_up(&self, key: IdKey, error: StoreError) -> StoreError {
        if error != StoreError::Corrupt {
            return error;
        }
        self.shared.index.lock().take_running(key);
        StoreError::NotFound
    }

    fn adopt(&mut self, id: &GenerationId) -> Result<Epoch, StoreError> {
        let (key, epoch_ends) = {
            let index = self.shared.index.lock();
            let key = index.key(id);
            match index.get(key)? {
                Entry::Running(log) => {
                    let mut ends = log.epoch_ends.clone();
                    ends.push(log.end);
                    (key, ends)
                }
                Entry::Kept(_) => return Err(StoreError::Sealed),
            }
        };
        self.rewrite(key, Some(epoch_ends.clone()))?;
        Ok(Epoch(epoch_ends.len() as u64 + 1))
    }

    /// Brings a log of an earlier process to this one's journal. Returns its number there.
    fn settle(&mut self, key: IdKey) -> Result<u32, StoreError> {
        // The blocks before it in the buffer stay where they are: this has a buffer of its own.
        let before = std::mem::take(&mut self.buffer);
        let settled = self.rewrite(key, None);
        self.buffer = before;
        settled
    }

    /// Writes all of a running log to the end of the journal, with these epochs.
    fn rewrite(&mut self, key: IdKey, epoch_ends: Option<Vec<Seq>>) -> Result<u32, StoreError> {
        let (header, current, number, join_at) = {
            let mut index = self.shared.index.lock();
            let log = index.running_mut(key).ok_or(StoreError::NotFound)?;
            let (header, ends) = (log.header.clone(), log.epoch_ends.clone());
            (header, ends, log.number, log.join_at)
        };
        let number = if number == 0 { self.number() } else { number };
        let epoch_ends = epoch_ends.unwrap_or(current);
        let whole = match whole(&self.shared, key, number) {
            Ok(whole) => whole,
            Err(error) => return Err(self.give_up(key, error)),
        };
        let head = LogHead {
            header: header.encode(),
            epoch_ends: epoch_ends.iter().map(|end| end.0).collect(),
            ..LogHead::default()
        };
        self.buffer.clear();
        let chunks = whole.write(&mut self.buffer, number, head);
        let chunks = chunks.ok_or(StoreError::Corrupt)?;
        let place = self.journal.append(&self.shared, &mut self.buffer)?;
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        let chunk = |(next, offset, length): (Seq, usize, u32)| Chunk {
            place: Place {
                offset: place.offset + offset as u32,
                ..place
            },
            length,
            next,
        };
        let mut log = RunningLog::new(header, number);
        log.join_at = join_at;
        log.epoch_ends = epoch_ends;
        log.chunks = chunks.into_iter().map(chunk).collect();
        log.end = log.chunks.last().map_or(Seq(0), |chunk| chunk.next);
        log.pinned.push(place.file);
        let mut index = self.shared.index.lock();
        index.take_running(key);
        index.insert_running(key, log);
        Ok(number)
    }

    /// Removes a log. Returns the file that says so, which is to be synced.
    fn delete(&mut self, id: &GenerationId) -> Result<Arc<StoreFile>, StoreError> {
        self.buffer.clear();
        frame::push(&mut self.buffer, Kind::Deleted, 0, |out| {
            out.extend_from_slice(id.as_str().as_bytes());
        });
        let place = self.deleted.append(&self.shared, &mut self.buffer)?;
        let (running, file) = {
            let mut index = self.shared.index.lock();
            let key = index.key(id);
            (index.delete(key), index.file(place.file))
        };
        if let Some(number) = running {
            // Outlives the file of deletions, as the journal's records may.
            self.note_ended(number);
        }
        file
    }

    /// Writes the small records that changed. Those that cannot be written are tried again.
    fn write_entries(&mut self) -> Result<(), StoreError> {
        let changed = {
            let mut index = self.shared.index.lock();
            std::mem::take(&mut index.changed)
        };
        if changed.is_empty() {
            return Ok(());
        }
        self.buffer.clear();
        {
            let index = self.shared.index.lock();
            for key in &changed {
                let value = index.entries.get(key);
                let value = value.map(|value| serde_bytes::ByteBuf::from(value.to_vec()));
                let key = key.clone();
                let entry = EntryBody { key, value };
                frame::push(&mut self.buffer, Kind::Entry, 0, |out| {
                    entry_body::encode(&entry, out);
                });
            }
        }
        let written = self.entries.append(&self.shared, &mut self.buffer);
        if written.is_err() {
            self.shared.index.lock().changed.extend(changed);
        }
        written.map(|_| ())
    }

    /// Writes what is in a file that could not be synced to another one. The system has its contents
    /// in memory, most likely.
    fn lost(&mut self, file: &Arc<StoreFile>) {
        match file.kind {
            FileKind::Journal => self.rescue_running(file),
            FileKind::Logs | FileKind::Objects => self.rescue_kept(file),
            FileKind::Entries => {
                let mut index = self.shared.index.lock();
                let keys: Vec<_> = index.entries.keys().cloned().collect();
                index.changed.extend(keys);
                drop(index);
                let _ = self.write_entries();
            }
            // Each deletion was synced before it was answered, or is not answered.
            FileKind::Deleted => {}
        }
        self.shared.syncer.rewritten();
    }

    /// Writes the running logs of a journal file again. Those that cannot be read are dropped: their
    /// writers store them again.
    fn rescue_running(&mut self, file: &StoreFile) {
        let pinning = self.pinning(file.id);
        for key in pinning {
            if self.rewrite(key, None).is_err() {
                self.shared.index.lock().take_running(key);
            }
        }
    }

    /// Writes the logs or objects of a kept file again.
    fn rescue_kept(&mut self, file: &Arc<StoreFile>) {
        listing::each_part(file, |part| {
            for listed in part {
                self.rescue(file, listed);
            }
        });
    }

    fn rescue(&mut self, file: &StoreFile, listed: &Listed) {
        let place = Place {
            file: file.id,
            offset: listed.offset,
        };
        let key = self.shared.index.lock().key(&listed.id);
        let kept = match self.shared.index.lock().logs.get(&key) {
            Some(Entry::Kept(kept)) => *kept,
            _ => return,
        };
        let moved = if kept.log == Some(place) {
            self.move_log(file, place).map(|log| KeptLog {
                log: Some(log),
                ..kept
            })
        } else if kept.object == Some(place) {
            self.move_object(file, place).map(|object| KeptLog {
                object: Some(object),
                ..kept
            })
        } else {
            return;
        };
        match moved {
            Ok(moved) => self.shared.index.lock().keep(key, moved),
            Err(error) => {
                tracing::error!(generation = %listed.id, %error, "an ended stream may be lost with a loss of power");
            }
        }
    }

    /// Writes an ended log again. Returns where it lies now.
    fn move_log(&mut self, file: &StoreFile, place: Place) -> Result<Place, StoreError> {
        let (head, mut offset) = log_head(file, place)?;
        let mut whole = WholeLog::default();
        for (next, length) in &head.chunks {
            let bytes = file.frame(offset, *length as usize, Kind::Records)?;
            let (_, records) = entry_body::records(&bytes)?;
            whole.add(0, records, Seq(*next));
            offset += u64::from(*length);
        }
        let header = head.header(u8::MAX)?;
        self.buffer.clear();
        if whole.write(&mut self.buffer, 0, head).is_none() {
            return Err(StoreError::Corrupt);
        }
        let moved = self.logs.append(&self.shared, &mut self.buffer)?;
        self.logs
            .note(&self.shared, Listed::new(&header, moved.offset));
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        Ok(moved)
    }

    /// Writes an object again. Returns where it lies now.
    fn move_object(&mut self, file: &StoreFile, place: Place) -> Result<Place, StoreError> {
        let (head, offset) = object_head(file, place)?;
        let object = file.frame(offset, head.length as usize, Kind::Bytes)?;
        let header = LogHeader::decode(&head.header)?;
        let log = LogHead {
            header: head.header,
            epoch_ends: head.epoch_ends,
            ended_at: Some(head.ended_at),
            chunks: Vec::new(),
        };
        self.write_object(&header, &log, Seq(head.end), &object)
    }

    /// Returns the running logs that have something in this file.
    fn pinning(&self, file: FileId) -> Vec<IdKey> {
        let index = self.shared.index.lock();
        let pins = |key: &&IdKey| matches!(index.logs.get(key), Some(Entry::Running(log)) if log.pinned.contains(&file));
        let pinning = index.running.iter().filter(pins).copied().collect();
        index.in_order(pinning)
    }

    /// Writes logs again that pin the oldest of too many journal files.
    fn compact(&mut self) {
        let oldest = {
            let index = self.shared.index.lock();
            let journals = index
                .files
                .values()
                .filter(|file| file.kind == FileKind::Journal && !index.is_left_alone(file.id));
            let ids: Vec<_> = journals.map(|file| file.id).collect();
            let too_many = ids.len() > self.shared.options.journal_files;
            ids.into_iter().min().filter(|_| too_many)
        };
        let Some(oldest) = oldest else {
            return;
        };
        for key in self.pinning(oldest) {
            if self.rewrite(key, None).is_err() {
                // Tried again with the next change.
                return;
            }
        }
        self.drop_journals();
    }

    /// Writes logs again that consist of many small frames.
    fn join_frames(&mut self) {
        let long: Vec<IdKey> = {
            let index = self.shared.index.lock();
            let long = |key: &&IdKey| matches!(index.logs.get(key), Some(Entry::Running(log)) if log.chunks.len() > log.join_at);
            let long = index.running.iter().filter(long).copied().collect();
            index.in_order(long)
        };
        for key in long {
            if self.rewrite(key, None).is_err() {
                return;
            }
            if let Some(log) = self.shared.index.lock().running_mut(key) {
                // All rewrites of a log together take no more than twice its bytes.
                log.join_at *= 2;
            }
        }
    }

    /// Removes journal files that no running log needs.
    fn drop_journals(&mut self) {
        let mut index = self.shared.index.lock();
        let unused: Vec<_> = index
            .files
            .values()
            .filter(|file| file.kind == FileKind::Journal && !index.is_pinned(file.id))
            .filter(|file| !self.journal.is_open(file))
            .cloned()
            .collect();
        for file in unused {
            index.files.remove(&file.id);
            self.shared.syncer.doom(file);
        }
    }

    /// Rotates files by time, and removes those that have been kept long enough.
    pub(crate) fn tick(&mut self) {
        for output in [
            &mut self.journal,
            &mut self.logs,
            &mut self.objects,
            &mut self.deleted,
            &mut self.entries,
        ] {
            output.rotate(&self.shared);
        }
        let _ = self.write_entries();
        self.join_frames();
        self.drop_journals();
        self.shrink_entries();
        let options = &self.shared.options;
        let longest = options.retain_logs.max(options.retain_objects) + 2 * LONGEST_SPAN;
        let now = now();
        let due = |file: &StoreFile| {
            let retained = match file.kind {
                FileKind::Logs => options.retain_logs,
                // Those that are not renewed yet are kept for as long as if they were.
                FileKind::Objects => options.retain_objects + options.retain_objects / SPANS,
                FileKind::Deleted => longest,
                FileKind::Journal | FileKind::Entries => return false,
            };
            file.newest.load(Ordering::Relaxed) + retained.as_secs() < now
        };
        let open = [&self.logs, &self.objects, &self.deleted];
        let expired: Vec<_> = {
            let index = self.shared.index.lock();
            let files = index.files.values().filter(|file| due(file));
            files
                .filter(|file| !open.iter().any(|output| output.is_open(file)))
                .cloned()
                .collect()
        };
        for file in &expired {
            self.shared.forget_file(file);
            remove(file, &self.shared.health);
        }
        self.old.retain(|folder| !folder.remove_if_empty());
    }

    /// Writes the small records again, without those that were replaced.
    fn shrink_entries(&mut self) {
        let (files, live, entries) = {
            let index = self.shared.index.lock();
            let files = index
                .files
                .values()
                .filter(|file| file.kind == FileKind::Entries);
            let files: Vec<_> = files.cloned().collect();
            let written: u64 = files.iter().map(|file| file.len()).sum();
            let size = |(key, value): (&String, &Bytes)| (key.len() + value.len() + 32) as u64;
            let live: u64 = index.entries.iter().map(size).sum();
            let foreign = files
                .iter()
                .any(|file| !file.path.starts_with(&self.shared.folder.path));
            if !foreign && (written < ENTRY_BYTES || written < 4 * live) {
                return;
            }
            (files, live, index.entries.clone())
        };
        let mut bytes = Vec::with_capacity(live as usize);
        for (key, value) in entries {
            let entry = EntryBody {
                key,
                value: Some(serde_bytes::ByteBuf::from(value.to_vec())),
            };
            frame::push(&mut bytes, Kind::Entry, 0, |out| {
                entry_body::encode(&entry, out)
            });
        }
        let span = Duration::MAX;
        self.entries = Output::new(FileKind::Entries, span);
        if !bytes.is_empty() && self.entries.append(&self.shared, &mut bytes).is_err() {
            return;
        }
        for file in files {
            self.shared.index.lock().files.remove(&file.id);
            self.shared.syncer.doom(file);
        }
    }
}
