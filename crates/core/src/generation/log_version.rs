//! Records in the form of older log versions.
//!
//! A generation keeps its records as the newest version has them. In a log of version 1 the closing
//! events and terminal objects of a Responses upstream are stored as they are. Later versions
//! [fold](crate::model::folded_json) them. Records keep their numbers in both.

use super::Generation;
use crate::log::{BlockRange, HEADER_VERSION, LogHeader, ReadError};
use crate::model::event::{EventKind, Outcome, Relayed};
use crate::model::folded_json::{FoldedJson, has_marks_in};
use crate::model::id::Seq;
use crate::model::record::{Content, CorruptRecord, RecordBatch, Records};
use crate::model::snapshot::{Api, Snapshot};

/// Bytes that one read takes from a log.
const READ_BYTES: usize = 256 * 1024;

/// Returns whether the records of this log are stored in another form than they are kept.
fn is_unfolded(header: &LogHeader, version: u8) -> bool {
    header.meta.api == Api::Responses && version < HEADER_VERSION
}

/// Returns records of a log that has this header in the form in which they are kept. `None` if they
/// are in it already.
///
/// # Errors
/// [`CorruptRecord`].
pub(super) fn kept(
    header: &LogHeader,
    stored: &RecordBatch,
) -> Result<Option<RecordBatch>, CorruptRecord> {
    if !is_unfolded(header, header.version) || !has_marks_in(stored.as_block()) {
        return Ok(None);
    }
    let escape = |json: &str| FoldedJson::plain(json.to_owned());
    with_json(stored.first_seq(), stored.iter(), escape).map(Some)
}

/// Returns records with the texts that they refer to.
fn unfolded(
    snapshot: &Snapshot,
    first: Seq,
    records: Records<'_>,
) -> Result<RecordBatch, CorruptRecord> {
    with_json(first, records, |json| {
        let mut whole = Vec::with_capacity(json.len());
        snapshot.write_folded(json, &mut whole);
        FoldedJson::of_folded(String::from_utf8(whole).unwrap_or_default())
    })
}

/// Returns records in the form of logs of this version. `None` if it is the one that they are in.
/// The snapshot has all texts that they refer to.
pub(super) fn older(
    header: &LogHeader,
    version: u8,
    snapshot: &Snapshot,
    records: &RecordBatch,
) -> Option<RecordBatch> {
    if !is_unfolded(header, version) || !has_marks_in(records.as_block()) {
        return None;
    }
    unfolded(snapshot, records.first_seq(), records.iter()).ok()
}

/// Returns records in which `convert` has replaced the JSON of closing events and terminal objects.
fn with_json(
    first: Seq,
    mut records: Records<'_>,
    convert: impl Fn(&str) -> FoldedJson,
) -> Result<RecordBatch, CorruptRecord> {
    let mut batch = RecordBatch::default();
    batch.restart(first);
    while let Some(record) = records.step() {
        let record = record?;
        batch.skip(record.skip);
        if !has_marks_in(record.payload) {
            batch.push(record.events, record.payload);
            continue;
        }
        match Content::decode(record.payload)? {
            Content::Delta { .. } => batch.push(record.events, record.payload),
            Content::Full(mut full) => {
                for event in &mut full.events {
                    match event {
                        EventKind::Relayed(relayed) if relayed.is_closing() => {
                            let Relayed { json, .. } = relayed;
                            *json = convert(json).into_string();
                        }
                        EventKind::End(Outcome {
                            relayed: Some(object),
                            ..
                        }) => *object = convert(object.as_str()),
                        _ => {}
                    }
                }
                batch.push_full(&full);
            }
        }
    }
    Ok(batch)
}

impl Generation {
    /// Returns records of this generation in the form of logs of this version. `None` if it is the
    /// one that they are in.
    #[must_use]
    pub fn in_version(&self, version: u8, records: &RecordBatch) -> Option<RecordBatch> {
        older(&self.header, version, &self.snapshot(), records)
    }

    /// Appends framed records to `out` in the form of logs of this version. Otherwise as
    /// [`LogTail::read_block`](crate::log::LogTail::read_block).
    ///
    /// # Errors
    /// [`ReadError::Expired`] once the records are gone.
    pub(crate) fn read_block_in(
        &self,
        version: u8,
        from: Seq,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<BlockRange, ReadError> {
        let start = out.len();
        let range = self.log.read_block(from, max_bytes, out)?;
        if is_unfolded(&self.header, version) && has_marks_in(&out[start..]) {
            let snapshot = self.snapshot();
            let records = Records::new(range.first, &out[start..]);
            if let Ok(older) = unfolded(&snapshot, range.first, records) {
                out.truncate(start);
                out.extend_from_slice(older.as_block());
            }
        }
        Ok(range)
    }

    /// Returns all records in the form of logs of version `wanted`, if a log of version `stored` has
    /// them in a newer one.
    pub(crate) fn older_form(&self, stored: u8, wanted: u8) -> Option<RecordBatch> {
        if wanted >= stored || !is_unfolded(&self.header, wanted) {
            return None;
        }
        let end = self.log.end().ok()?.next;
        let (mut bytes, mut next) = (Vec::new(), Seq(0));
        while next < end {
            // Some at a time, as the tail is locked meanwhile.
            let range = self.read_block_in(wanted, next, READ_BYTES, &mut bytes);
            next = range.ok().filter(|range| !range.is_empty())?.next;
        }
        RecordBatch::parse(Seq(0), bytes).ok()
    }
}
