//! Buffers that the readers of a thread use in turn.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};

/// Frames up to this size are copied into memory of their own size; beyond it the buffer itself is
/// passed on.
const COPIED_BYTES: usize = 16 * 1024;
/// Room that a poll has without growing the buffer of frames.
const FRAMES_BYTES: usize = 4096;
/// The most that is kept of each buffer.
const KEPT_BYTES: usize = 256 * 1024;

/// What a poll of a reader needs and a waiting reader does not. Shared, it is in the processor's
/// cache with each token, where buffers of each reader would not be.
#[derive(Debug, Default)]
pub(super) struct ReaderBuffers {
    /// Records that were read.
    pub(super) records: Vec<u8>,
    /// The payload of one frame.
    pub(super) payload: Vec<u8>,
    pub(super) frames: FrameBuffer,
}

/// Frames as they are rendered.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer(BytesMut);

thread_local! {
    static BUFFERS: RefCell<ReaderBuffers> = RefCell::default();
}

/// Lends this thread's buffers. `f` must not poll a reader.
pub(super) fn with_buffers<T>(f: impl FnOnce(&mut ReaderBuffers) -> T) -> T {
    BUFFERS.with_borrow_mut(f)
}

impl ReaderBuffers {
    /// Takes the memory of records back, or that of a reader which had records of its own for a while.
    pub(super) fn keep_records(&mut self, memory: Vec<u8>) {
        if memory.capacity() > self.records.capacity() {
            self.records = memory;
        }
    }

    /// Frees what an unusual poll took.
    pub(super) fn trim(&mut self) {
        for buffer in [&mut self.records, &mut self.payload] {
            if buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        if self.frames.0.capacity() > KEPT_BYTES {
            self.frames.0 = BytesMut::new();
        }
    }
}

impl FrameBuffer {
    /// Returns the empty buffer.
    pub(super) fn begin(&mut self) -> &mut BytesMut {
        self.0.clear();
        // Frames that were passed on are mostly written by now, and their memory is free again.
        if !self.0.try_reclaim(KEPT_BYTES / 4) {
            self.0.reserve(FRAMES_BYTES);
        }
        &mut self.0
    }

    /// Takes what was written since [`FrameBuffer::begin`]. A few frames that wait long, such as
    /// those of one token in a cache, do not hold the whole buffer.
    pub(super) fn take(&mut self) -> Bytes {
        if self.0.len() > COPIED_BYTES {
            return self.0.split().freeze();
        }
        let frames = Bytes::copy_from_slice(&self.0);
        self.0.clear();
        frames
    }
}
