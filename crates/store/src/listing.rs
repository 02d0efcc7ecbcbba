//! What lies in a kept file, without a look at each log.
//!
//! A kept file lists its logs or objects each time there are some more, and ends with a footer that
//! says where the last list lies. Each list says where the one before it lies. A file whose process
//! was killed has no footer: it is read head by head.

use serde::{Deserialize, Serialize};
use tokenwire_core::log::{LogHeader, StoreError};
use tokenwire_core::model::id::GenerationId;

use crate::body::{self, LogHead, ObjectHead};
use crate::files::{StoreFile, failed};
use crate::frame::{self, FILE_HEAD, Found, Frames, HEAD, Kind};
use crate::index::{KeyHash, header_key};

/// Logs or objects of one list.
pub(crate) const LISTED: usize = 256;

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
    frame::push(out, Kind::Listing, 0, |out| body::encode(&listing, out))
}

/// Appends the footer of a file whose last list lies at this offset.
pub(crate) fn push_footer(out: &mut Vec<u8>, last: u32) {
    frame::push(out, Kind::Footer, 0, |out| {
        out.extend_from_slice(&last.to_le_bytes());
    });
}

/// Returns what lies in a kept file, as far as it can be read.
pub(crate) fn contents(file: &StoreFile) -> Vec<Listed> {
    match from_footer(file) {
        Ok(Some(listed)) => listed,
        Ok(None) => walk(file),
        Err(error) => {
            tracing::error!(%error, path = %file.path.display(), "a list of a kept file is damaged");
            walk(file)
        }
    }
}

/// Follows the lists from the file's end. `None` if it has no footer.
fn from_footer(file: &StoreFile) -> Result<Option<Vec<Listed>>, StoreError> {
    let Some(at) = file.len().checked_sub(FOOTER as u64) else {
        return Ok(None);
    };
    let Ok(footer) = file.frame(at, FOOTER, Kind::Footer) else {
        return Ok(None);
    };
    let mut last = u32::from_le_bytes(*footer.first_chunk().ok_or(StoreError::Corrupt)?);
    let mut listed = Vec::new();
    while last > 0 {
        let list = file.frame_at(u64::from(last), Kind::Listing)?;
        let Listing { before, items } = body::decode(&list)?;
        if before >= last {
            return Err(StoreError::Corrupt);
        }
        last = before;
        // The newest first, until all are there.
        listed.extend(items.into_iter().rev());
    }
    listed.reverse();
    Ok(Some(listed))
}

/// Reads the heads of a file's logs or objects. Their bytes are checked when they are read.
fn walk(file: &StoreFile) -> Vec<Listed> {
    let mut listed = Vec::new();
    let mut offset = FILE_HEAD as u64;
    while offset < file.len() {
        match step(file, offset) {
            Ok(Some((found, next))) => {
                listed.extend(found);
                offset = next;
            }
            // Torn: a whole frame would end within the file.
            Ok(None) if file.head(offset).is_ok_and(|head| head.is_some()) => break,
            Ok(None) | Err(_) => {
                after_damage(file, offset, &mut listed);
                break;
            }
        }
    }
    listed
}

/// Returns the log or the object at this offset, and where the next frame begins. `None` if the file
/// ends before it does.
fn step(file: &StoreFile, offset: u64) -> Result<Option<(Option<Listed>, u64)>, StoreError> {
    let head = file.head(offset).map_err(failed)?;
    let head = head.ok_or(StoreError::Corrupt)?;
    let after = offset + head.frame_len() as u64;
    let (header, rest) = match head.kind {
        Kind::Log => {
            let bytes = file.frame(offset, head.frame_len(), head.kind)?;
            let log: LogHead = body::decode(&bytes)?;
            if !log.is_plausible() {
                return Err(StoreError::Corrupt);
            }
            (log.header()?, log.chunks_len())
        }
        Kind::Object => {
            let bytes = file.frame(offset, head.frame_len(), head.kind)?;
            let object: ObjectHead = body::decode(&bytes)?;
            let header = LogHeader::decode(&object.header)?;
            (header, u64::from(object.length))
        }
        _ => return Ok(Some((None, after))),
    };
    let next = after + rest;
    if next > file.len() {
        return Ok(None);
    }
    let offset = u32::try_from(offset).map_err(|_| StoreError::Corrupt)?;
    Ok(Some((Some(Listed::new(&header, offset)), next)))
}

/// Reads the rest of a damaged file: looks for whole frames after the damage.
fn after_damage(file: &StoreFile, offset: u64, listed: &mut Vec<Listed>) {
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
            listed.extend(found);
        }
    }
}
