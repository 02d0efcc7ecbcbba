//! What lies in a kept file, without a look at each log.
//!
//! A kept file lists its logs or objects each time there are some more, and ends with a footer that
//! says where the last list lies. Each list says where the one before it lies. A file whose process
//! was killed has no footer: it is read head by head.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use tokenwire_core::log::{LogHeader, StoreError};
use tokenwire_core::model::id::GenerationId;

use crate::entry_body::{self, LogHead, ObjectHead, dated};
use crate::frame::{self, FILE_HEAD, Found, Frames, HEAD, Kind};
use crate::index::{KeyHash, header_key};
use crate::store_file::{StoreFile, failed};

/// Logs or objects of one list.
pub(crate) const LISTED: usize = 256;

/// What ended within this many seconds before a file was last written may have been lost with power,
/// though its head is there: blocks become durable in any order.
const RECENT: u64 = 30;

/// Bytes of the frame at the end of a kept file.
const FOOTER: usize = HEAD + 4;

/// A log or an object of a kept file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) id: GenerationId,
    /// Stands for the owner and the idempotency key, if it had one.
    pub(crate) keyed: Option<KeyHash>,
    /// Where its head lies.
    pub(crate) offset: u32,
}

/// The body of a list.
#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    /// Where the list before lies; 0 if this is the first.
    before: u32,
    items: Vec<Listed>,
}

// === impl Listed ===

impl Listed {
    pub(crate) fn new(header: &LogHeader, offset: u32) -> Self {
        Self {
            id: header.meta.id.clone(),
            keyed: header_key(header),
            offset,
        }
    }
}

/// Appends a list. Returns whether it fits.
pub(crate) fn push_listing(out: &mut Vec<u8>, before: u32, items: Vec<Listed>) -> bool {
    let listing = Listing { before, items };
    frame::push(out, Kind::Listing, 0, |out| {
        entry_body::encode(&listing, out)
    })
}

/// Appends the footer of a file whose last list lies at this offset.
pub(crate) fn push_footer(out: &mut Vec<u8>, last: u32) {
    frame::push(out, Kind::Footer, 0, |out| {
        out.extend_from_slice(&last.to_le_bytes());
    });
}

/// Calls `f` with what lies in a kept file, as far as it can be read, oldest first. A file can hold
/// very many logs, so `f` gets at most [`LISTED`] at a time.
pub(crate) fn each_part(file: &StoreFile, mut f: impl FnMut(&[Listed])) {
    match lists(file) {
        Ok(Some(offsets)) => {
            let newest = offsets.first().copied();
            for offset in offsets.into_iter().rev() {
                match list(file, offset) {
                    Ok(mut listing) => {
                        if newest == Some(offset) {
                            let is_there = |listed: &Listed| {
                                let found = step(file, u64::from(listed.offset));
                                matches!(found, Ok(Some((Some(_), _))))
                            };
                            listing.items.retain(is_there);
                        }
                        f(&listing.items);
                    }
                    Err(error) => {
                        tracing::error!(%error, path = %file.path.display(), "a list of a kept file cannot be read");
                    }
                }
            }
        }
        Ok(None) => walk(file, f),
        Err(error) => {
            tracing::error!(%error, path = %file.path.display(), "a list of a kept file is damaged");
            walk(file, f);
        }
    }
}

/// Returns where the lists lie, newest first. `None` if the file has no footer.
fn lists(file: &StoreFile) -> Result<Option<Vec<u32>>, StoreError> {
    let Some(at) = file.len().checked_sub(FOOTER as u64) else {
        return Ok(None);
    };
    let Ok(footer) = file.frame(at, FOOTER, Kind::Footer) else {
        return Ok(None);
    };
    let mut next = u32::from_le_bytes(*footer.first_chunk().ok_or(StoreError::Corrupt)?);
    let mut offsets = Vec::new();
    while next > 0 {
        offsets.push(next);
        let before = list(file, next)?.before;
        if before >= next {
            return Err(StoreError::Corrupt);
        }
        next = before;
    }
    Ok(Some(offsets))
}

fn list(file: &StoreFile, offset: u32) -> Result<Listing, StoreError> {
    entry_body::decode(&file.frame_at(u64::from(offset), Kind::Listing)?)
}

/// What was found in a file without lists, until there is enough for a part.
struct Part<F> {
    items: Vec<Listed>,
    f: F,
}

impl<F: FnMut(&[Listed])> Part<F> {
    fn add(&mut self, listed: Option<Listed>) {
        self.items.extend(listed);
        if self.items.len() >= LISTED {
            self.end();
        }
    }

    fn end(&mut self) {
        if !self.items.is_empty() {
            (self.f)(&self.items);
            self.items.clear();
        }
    }
}

/// Reads the heads of a file's logs or objects. Their bytes are checked when they are read, those of
/// the last ones here.
fn walk(file: &StoreFile, f: impl FnMut(&[Listed])) {
    let mut part = Part {
        items: Vec::new(),
        f,
    };
    let mut offset = FILE_HEAD as u64;
    while offset < file.len() {
        match step(file, offset) {
            Ok(Some((found, next))) => {
                part.add(found);
                offset = next;
            }
            // Torn: a whole frame would end within the file.
            Ok(None) if file.head(offset).is_ok_and(|head| head.is_some()) => break,
            Ok(None) | Err(_) => {
                after_damage(file, offset, &mut part);
                break;
            }
        }
    }
    part.end();
}

/// Returns the log or the object at this offset, and where the next frame begins. `None` if the file
/// ends before it does.
fn step(file: &StoreFile, offset: u64) -> Result<Option<(Option<Listed>, u64)>, StoreError> {
    let head = file.head(offset).map_err(failed)?;
    let head = head.ok_or(StoreError::Corrupt)?;
    let after = offset + head.frame_len() as u64;
    let (header, rest, ended_at) = match head.kind {
        Kind::Log => {
            let bytes = file.frame(offset, head.frame_len(), head.kind)?;
            let log: LogHead = entry_body::decode(&bytes)?;
            if !log.is_plausible() {
                return Err(StoreError::Corrupt);
            }
            let (rest, ended_at) = (log.chunks_len(), log.ended_at.unwrap_or_default());
            (LogHeader::decode(&log.header), rest, ended_at)
        }
        Kind::Object => {
            let bytes = file.frame(offset, head.frame_len(), head.kind)?;
            let object: ObjectHead = entry_body::decode(&bytes)?;
            let rest = u64::from(object.length);
            (LogHeader::decode(&object.header), rest, object.ended_at)
        }
        _ => return Ok(Some((None, after))),
    };
    let next = after + rest;
    if next > file.len() {
        return Ok(None);
    }
    let offset = u32::try_from(offset).map_err(|_| StoreError::Corrupt)?;
    if dated(ended_at) + RECENT >= file.newest.load(Ordering::Relaxed)
        && !file.has_frames(after, next)
    {
        tracing::error!(path = %file.path.display(), offset, "an ended stream was not written as a whole");
        return Ok(Some((None, next)));
    }
    let listed = match header.map_err(StoreError::from) {
        Ok(header) => Some(Listed::new(&header, offset)),
        // A log of a later version is left alone.
        Err(StoreError::UnknownVersion { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(Some((listed, next)))
}

/// Reads the rest of a damaged file: looks for whole frames after the damage.
fn after_damage(file: &StoreFile, offset: u64, part: &mut Part<impl FnMut(&[Listed])>) {
    tracing::error!(path = %file.path.display(), offset, "a kept file is damaged");
    let Ok(bytes) = file.read_all() else {
        return;
    };
    let offset = usize::try_from(offset).unwrap_or(bytes.len());
    for found in Frames::new(&bytes, offset, file.salt) {
        if let Found::Frame(offset, head, _) = found
            && matches!(head.kind, Kind::Log | Kind::Object)
            && let Ok(Some((found, _))) = step(file, offset as u64)
        {
            part.add(found);
        }
    }
}
