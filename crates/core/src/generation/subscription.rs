//! A reader: a cursor into a generation's log, rendered in one dialect and framing.
//!
//! Nothing is queued for a reader. Each poll returns the records after its cursor, up to 64 KiB, as
//! one buffer that can be sent in one write. A record that is larger is returned in pieces, which it
//! shares with the log, the snapshot and the readers that send it at the same time.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::control::ReaderGuard;
use super::large_record::{LargeReader, LargeRecord};
use super::reader_buffers::{FrameBuffer, ReaderBuffers, with_buffers};
use super::render_cache::RenderEntry;
use super::shared_pieces::SharedPieces;
use super::{Generation, READ_BYTES};
use crate::dialect::{Dialect, Framing, RenderKey, Rendered, Renderer};
use crate::log::{LogReader, ReadError};
use crate::model::account::{AccountKind, Charge};
use crate::model::id::Seq;
use crate::model::include::Include;
use crate::model::record::{BatchPosition, CorruptRecord, RecordBatch, Records};

/// The size at which one poll stops adding records.
const POLL_BYTES: usize = 64 * 1024;
/// Frames that a poll returned are counted from this size on.
const COUNT_FROM: usize = 4 * 1024;
/// Bytes of records that one poll reads without a frame for the reader. Then others run.
const SILENT_BYTES: usize = 256 * 1024;
/// Bytes that a reader gets without a pause. Then others run: a socket's buffer may take some MiB,
/// whose rendering takes as many milliseconds.
const TURN_BYTES: usize = 256 * 1024;

/// Why a reader stops before the end of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// The log was deleted, or removed under memory pressure.
    #[error("the log has expired")]
    Expired,
    /// The node that wrote the log is lost, with what was not stored.
    #[error("the node that wrote it is lost")]
    ProducerLost,
    /// The process that wrote the log lost events that the reader has seen.
    #[error("the position was lost with the process that wrote it")]
    Lost,
    /// The generation failed or was cancelled, and the dialect can show that only by breaking off.
    #[error("the generation failed or was cancelled")]
    BrokenOff,
    /// A record could not be decoded.
    #[error("a stored record is damaged")]
    Corrupt,
}

/// Whether a subscription has reached the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfStream {
    /// More may follow.
    Open,
    /// Everything was returned.
    Reached,
}

/// A reader of one generation.
#[derive(Debug)]
pub struct Subscription {
    guard: ReaderGuard,
    reader: LogReader,
    renderer: Renderer,
    /// Records that were read and are not rendered yet.
    batch: RecordBatch,
    /// The first of them.
    at: BatchPosition,
    from: Seq,
    /// Whether it has read nothing yet. Its position may be one that a writer lost.
    unplaced: bool,
    end: EndOfStream,
    failed: Option<SubscriptionError>,
    /// Counts the frames of the last poll until the next one: the reader is writing them.
    charge: Option<Charge>,
    /// A record that is returned in pieces.
    large: Option<Box<LargeReader>>,
    /// Bytes that were returned without a pause, as far as they are counted.
    turn: usize,
}

impl Subscription {
    /// Reads from the event `from` on. Takes over a guard, so that the generation is never without
    /// a reader in between.
    #[must_use]
    pub fn new(guard: ReaderGuard, from: Seq, dialect: Dialect, framing: Arc<dyn Framing>) -> Self {
        let renderer = Renderer::new(dialect, framing);
        let start = renderer.start(&**guard.generation(), from);
        let reader = LogReader::new(guard.generation().log().clone(), start);
        Self {
            guard,
            reader,
            renderer,
            batch: RecordBatch::default(),
            at: BatchPosition::default(),
            from,
            unplaced: true,
            end: EndOfStream::Open,
            failed: None,
            charge: None,
            large: None,
            turn: 0,
        }
    }

    /// Sets what the reader's own request asks to be shown. Default: nothing beyond the default.
    #[must_use]
    pub fn including(mut self, include: Include) -> Self {
        self.renderer.set_include(include);
        self
    }

    /// Notes that the framing's output has changed, as when a client begins to take `tokenwire:` events.
    pub fn framing_changed(&mut self) {
        self.renderer.framing_changed();
    }

    /// The generation that is read.
    #[must_use]
    pub fn generation(&self) -> &Arc<Generation> {
        self.guard.generation()
    }

    /// The dialect of the frames.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.renderer.dialect()
    }

    /// Whether everything was returned.
    #[must_use]
    pub fn end(&self) -> EndOfStream {
        if self.large.is_some() {
            return EndOfStream::Open;
        }
        self.end
    }

    /// Whether the last poll returned whole frames.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.large.is_none()
    }

    /// Takes the rest of a frame of which the last poll returned only a piece, for a transport that
    /// may send nothing else before it has ended. Otherwise the next poll returns the next piece.
    pub fn take_unfinished(&mut self) -> Option<SharedPieces> {
        self.large
            .as_mut()?
            .take_unfinished(self.guard.generation())
    }

    /// Returns the events after the cursor as frames. A large frame is returned in pieces, one after
    /// the other. `Ready(None)` is the end.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, SubscriptionError>>> {
        if let Some(charge) = self.charge.take() {
            self.turn += charge.bytes();
        }
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.large.is_some()
            && let Some(piece) = self.next_piece()
        {
            return Poll::Ready(Some(Ok(piece)));
        }
        with_buffers(|buffers| {
            self.borrow(buffers);
            let polled = self.poll_records(cx, &mut buffers.frames);
            self.give_back(buffers);
            polled
        })
    }

    /// Takes the thread's buffers for a poll.
    fn borrow(&mut self, buffers: &mut ReaderBuffers) {
        self.renderer.swap_scratch(&mut buffers.payload);
        // Records that the last poll left are this reader's own.
        if self.batch.is_end(self.at) {
            self.batch.swap_memory(&mut buffers.records);
        }
    }

    /// Gives the buffers back, but for records that are not rendered yet. A reader that waits has
    /// none.
    fn give_back(&mut self, buffers: &mut ReaderBuffers) {
        self.renderer.swap_scratch(&mut buffers.payload);
        if self.batch.is_end(self.at) {
            let next = self.batch.end_seq();
            self.batch.restart(next);
            self.at = self.batch.start();
            buffers.keep_records(self.batch.take_memory());
        }
        buffers.trim();
    }

    fn poll_records(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut FrameBuffer,
    ) -> Poll<Option<Result<Bytes, SubscriptionError>>> {
        let mut silent = 0;
        loop {
            if let Some(error) = self.failed.take() {
                self.end = EndOfStream::Reached;
                return Poll::Ready(Some(Err(error)));
            }
            if self.end == EndOfStream::Reached {
                return Poll::Ready(None);
            }
            if self.batch.is_end(self.at) {
                if silent >= SILENT_BYTES {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if self.unplaced && self.is_lost() {
                    match self.reset() {
                        Some(reset) => return Poll::Ready(Some(Ok(reset))),
                        None => continue,
                    }
                }
                let poll = self.reader.poll_copy(cx, READ_BYTES, &mut self.batch);
                if poll.is_ready() {
                    self.at = self.batch.start();
                }
                match poll {
                    Poll::Pending => {
                        self.turn = 0;
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(ReadError::Expired | ReadError::PastHead)) => {
                        self.failed = Some(if self.generation().is_lost_with_its_node() {
                            SubscriptionError::ProducerLost
                        } else {
                            SubscriptionError::Expired
                        });
                        continue;
                    }
                    Poll::Ready(Ok(read)) if self.batch.is_empty() && read.large.is_none() => {
                        if self.from > read.end.next {
                            // It waited past the head, and the log ended before its event came. It
                            // is shown the terminal event.
                            self.from = Seq(read.end.next.0.saturating_sub(1));
                            self.reader.seek(self.from);
                        } else {
                            self.end = EndOfStream::Reached;
                        }
                        continue;
                    }
                    Poll::Ready(Ok(read)) => {
                        if self.unplaced && self.batch.end_seq() > self.from {
                            // The next epoch may have begun since the position was looked at.
                            if self.is_lost() {
                                self.reader.seek(self.from);
                                self.batch.restart(self.from);
                                self.at = self.batch.start();
                                continue;
                            }
                            self.unplaced = false;
                        }
                        if let Some(large) = read.large {
                            silent += large.len();
                            match self.begin_shared(large) {
                                Some(piece) => return Poll::Ready(Some(Ok(piece))),
                                None => continue,
                            }
                        }
                    }
                }
                silent += self.batch.byte_len();
            }
            let bytes = self.render(frames);
            if !bytes.is_empty() {
                if bytes.len() >= COUNT_FROM {
                    let held = bytes.len() + self.batch.byte_len();
                    let account = self.guard.generation().account();
                    self.charge = Some(account.charge(AccountKind::Frames, held));
                }
                return Poll::Ready(Some(Ok(bytes)));
            }
            if let Some(piece) = self.next_piece() {
                return Poll::Ready(Some(Ok(piece)));
            }
        }
    }

    /// Whether the reader has seen events that a writer lost.
    fn is_lost(&self) -> bool {
        let after = self.from.0.checked_sub(1).map(Seq);
        after.is_some_and(|after| self.generation().is_lost(after))
    }

    /// Moves a reader whose position was lost to where the log goes on. Returns `tokenwire:reset`
    /// for it; a reader that takes none goes on only if it lacks nothing but the ending.
    fn reset(&mut self) -> Option<Bytes> {
        self.unplaced = false;
        let generation = self.guard.generation().clone();
        if !self.renderer.shows_extensions() {
            let after = Seq(self.from.0.saturating_sub(1));
            if !generation.only_ending_follows(after) {
                self.failed = Some(SubscriptionError::Lost);
            }
            return None;
        }
        let (seq, event) = generation.reset_pieces(self.renderer.include());
        self.from = seq.next();
        self.reader
            .seek(self.renderer.start(&*generation, self.from));
        let frames = self.renderer.reset(&generation.meta().id, seq, event);
        let rendered = (frames, Rendered::Open);
        self.begin(Ok(LargeRecord::new(seq, rendered, generation.account())));
        self.next_piece()
    }

    /// Returns the records that were read as frames, from the cache or newly encoded.
    fn render(&mut self, frames: &mut FrameBuffer) -> Bytes {
        let generation = self.guard.generation().clone();
        let Some((record, _)) = self.batch.record_at(self.at) else {
            self.failed = Some(SubscriptionError::Corrupt);
            return Bytes::new();
        };
        let first = record.first_seq;
        // Frames may have numbers that the record skips.
        let key = self.key().filter(|_| self.from <= record.start_seq());
        // An entry that goes further than this reader has read would be returned, and its end read
        // again.
        let read = self.batch.end_seq();
        if let Some(entry) = key
            .and_then(|key| generation.render_cache().get(key, first))
            .filter(|entry| entry.next <= read)
        {
            if entry.next == read {
                // The readers at the tail, which share the frames of one token, are all here.
                self.at = self.batch.end();
            }
            while let Some((record, after)) = self.batch.record_at(self.at)
                && record.first_seq < entry.next
            {
                self.at = after;
            }
            self.note(entry.rendered);
            return entry.bytes;
        }
        let mut next = first;
        let out = frames.begin();
        let mut rendered = Rendered::Open;
        while let Some((record, after)) = self.batch.record_at(self.at) {
            match self.renderer.render(&*generation, record, self.from, out) {
                Ok(Rendered::Large) if next == first => {
                    let large = LargeRecord::render(
                        &mut self.renderer,
                        &generation,
                        record,
                        None,
                        self.from,
                        key,
                    );
                    self.at = after;
                    self.begin(large);
                    return Bytes::new();
                }
                // It is returned by the next poll.
                Ok(Rendered::Large) => break,
                Ok(outcome) => rendered = outcome,
                Err(_) => {
                    self.at = after;
                    self.failed = Some(SubscriptionError::Corrupt);
                    return frames.take();
                }
            }
            self.at = after;
            next = record.next_seq();
            if out.len() >= POLL_BYTES || rendered != Rendered::Open {
                break;
            }
        }
        self.note(rendered);
        let bytes = frames.take();
        if let Some(key) = key {
            let entry = RenderEntry {
                key,
                first,
                next,
                bytes: bytes.clone(),
                rendered,
            };
            generation.render_cache().put(entry, generation.account());
        }
        bytes
    }

    /// Begins a record that the log shares, and returns the first piece.
    fn begin_shared(&mut self, framed: Bytes) -> Option<Bytes> {
        let Some(record) = Records::new(self.batch.first_seq(), &framed).next() else {
            self.failed = Some(SubscriptionError::Corrupt);
            return None;
        };
        let key = self.key().filter(|_| self.from <= record.start_seq());
        let source = Some(&framed);
        let large = LargeRecord::render(
            &mut self.renderer,
            self.guard.generation(),
            record,
            source,
            self.from,
            key,
        );
        self.begin(large);
        self.next_piece()
    }

    fn begin(&mut self, large: Result<Arc<LargeRecord>, CorruptRecord>) {
        match large {
            Ok(record) => {
                self.note(record.rendered);
                self.large = Some(Box::new(LargeReader::new(record)));
            }
            Err(CorruptRecord) => self.failed = Some(SubscriptionError::Corrupt),
        }
    }

    /// Returns the next piece of a large record, and counts it.
    fn next_piece(&mut self) -> Option<Bytes> {
        let large = self.large.as_mut()?;
        let piece = large.next();
        if large.is_done() {
            self.large = None;
        }
        let held = piece.as_ref()?.len() + self.batch.byte_len();
        let account = self.guard.generation().account();
        self.charge = Some(account.charge(AccountKind::Frames, held));
        piece
    }

    /// The cache key, if there are other readers.
    fn key(&self) -> Option<RenderKey> {
        if self.guard.generation().readers() < 2 {
            return None;
        }
        let framing = self.renderer.share_key()?;
        Some((self.renderer.dialect(), framing, self.renderer.include()))
    }

    fn note(&mut self, rendered: Rendered) {
        match rendered {
            Rendered::Open | Rendered::Large => {}
            Rendered::Ended => self.end = EndOfStream::Reached,
            Rendered::BrokenOff => self.failed = Some(SubscriptionError::BrokenOff),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;
    use futures::task::noop_waker;

    use super::*;
    use crate::dialect::Frame;
    use crate::generation::fixture::{generation, meta};
    use crate::generation::writer::Writer;
    use crate::model::event::EventKind;
    use crate::model::id::GenerationId;
    use crate::upstream::translate::RecordWriter;

    /// Writes each payload several times, so that a poll renders only a part of what it read.
    #[derive(Debug)]
    struct Repeated;

    impl Framing for Repeated {
        fn frame(&self, _: &GenerationId, frame: &Frame<'_>, out: &mut BytesMut) {
            out.extend_from_slice(&frame.data.repeat(8));
        }

        fn shows_extensions(&self) -> bool {
            false
        }

        fn sends_done(&self, _: Dialect) -> bool {
            false
        }

        fn share_key(&self) -> Option<&'static str> {
            None
        }
    }

    #[test]
    fn readers_in_turn_get_everything_and_hold_no_memory_while_they_wait() {
        let mut writer = Writer::new(generation(meta(), Duration::ZERO));
        let mut records = RecordWriter::new();
        let mut expected = Vec::new();
        for number in 0..20_000 {
            let chunk = format!(r#"{{"number":{number}}}"#);
            expected.extend_from_slice(chunk.repeat(8).as_bytes());
            records.event(EventKind::Chunk);
            records.record(Some(chunk.as_bytes()));
        }
        writer.append(&mut records).expect("the log is open");
        let read = || {
            let guard = writer.generation().attach();
            Subscription::new(guard, Seq(0), Dialect::Chat, Arc::new(Repeated))
        };
        let mut readers = [(read(), Vec::new()), (read(), Vec::new())];
        let waker = noop_waker();
        let mut polls = 0;
        while readers.iter().any(|(_, seen)| seen.len() < expected.len()) {
            // A reader of a long log pauses between two polls.
            polls += 1;
            assert!(polls < 1000, "they do not go on");
            for (reader, seen) in &mut readers {
                // Twice as many polls for the first one: they leave off at different places.
                let polls = 2 - usize::from(seen.is_empty());
                for _ in 0..polls {
                    let polled = reader.poll_next(&mut Context::from_waker(&waker));
                    if let Poll::Ready(Some(Ok(frames))) = polled {
                        seen.extend_from_slice(&frames);
                    }
                }
            }
        }
        for (reader, seen) in &mut readers {
            assert!(*seen == expected, "it got something else");
            let polled = reader.poll_next(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            assert!(!reader.batch.has_memory(), "it holds memory");
        }
    }
}
