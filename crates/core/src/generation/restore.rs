//! A generation of a stored log, in a process that did not write it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::response_head::ended_before_head;
use super::{Generation, Holdings, Writer, log_version};
use crate::dialect::known_template;
use crate::log::{
    Epoch, LogHeader, LogLimits, LogStore, LogTail, ReadPosition, StoreError, StoredLog,
};
use crate::model::account::{Account, AccountKind};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::{Ending, EventKind, Failure, Outcome};
use crate::model::folded_json::FoldedJson;
use crate::model::id::{GenerationId, Seq};
use crate::model::json::Members;
use crate::model::record::{Content, KnownTemplate, RecordBatch, RecordRef};
use crate::model::snapshot::Snapshot;
use crate::upstream::{OpenError, UpstreamHead};

/// Bytes that one read takes from a store.
const READ_BYTES: usize = 256 * 1024;

/// The finish and usage chunks that are made from a terminal event take these numbers.
const TERMINAL_SKIP: u64 = 2;

impl Generation {
    /// Reads a stored log as a whole and returns its generation, which has no writer. It renders as
    /// the one that wrote the log did. `account` counts what it holds.
    ///
    /// Of the upstream's response only the body is stored, so the restored one has no headers.
    ///
    /// # Errors
    /// As [`LogStore::open`] and [`LogStore::read`]; [`StoreError::Corrupt`] if a record cannot be
    /// decoded or numbers are missing.
    pub async fn restore(
        store: &dyn LogStore,
        id: &GenerationId,
        account: Account,
    ) -> Result<Arc<Self>, StoreError> {
        Self::restore_with(store, id, account, None, Duration::ZERO).await
    }

    /// As [`Generation::restore`], of a log that a writer goes on with, up to these limits.
    pub(crate) async fn restore_running(
        store: &dyn LogStore,
        id: &GenerationId,
        account: Account,
        limits: LogLimits,
        grace: Duration,
    ) -> Result<Arc<Self>, StoreError> {
        Self::restore_with(store, id, account, Some(limits), grace).await
    }

    async fn restore_with(
        store: &dyn LogStore,
        id: &GenerationId,
        account: Account,
        limits: Option<LogLimits>,
        grace: Duration,
    ) -> Result<Arc<Self>, StoreError> {
        let stored = store.open(id).await?;
        let log = LogTail::restored(stored.epoch_ends.clone(), limits, account.clone());
        let mut folder = Folder::new(&stored);
        let mut snapshot = Snapshot::default();
        // The log may go on while it is read. What is newer than the opened state is left out.
        while folder.end < stored.end {
            let batch = match store.read(id, folder.end, READ_BYTES).await {
                Err(StoreError::Expired) => {
                    return Self::restore_object(store, stored, account).await;
                }
                read => read?,
            };
            if batch.is_empty() || batch.first_seq() != folder.end {
                return Err(StoreError::Corrupt);
            }
            let batch = log_version::kept(&stored.header, &batch)?.unwrap_or(batch);
            batch
                .iter()
                .try_for_each(|record| folder.fold(&mut snapshot, record))?;
            log.load(&batch);
        }
        if stored.sealed {
            let mut nothing = RecordBatch::default();
            nothing.restart(folder.end);
            let sealed = log.seal(log.epoch(), &nothing);
            sealed.map_err(|_| StoreError::Corrupt)?;
        }
        let holdings = Holdings::new(
            account.charge(AccountKind::Inputs, 0),
            account.charge(AccountKind::Reserved, 0),
        );
        let header = stored.header.clone();
        let generation = Self::new(header, Arc::new(log), grace, holdings);
        if let Some(head) = response_head(&snapshot) {
            generation.response_head.set(head);
        }
        *generation.templates.write() = Some(folder.templates);
        *generation.snapshot.lock() = snapshot.into();
        generation.count_object();
        Ok(generation)
    }

    /// Makes a generation of a response object whose records are not kept any more.
    async fn restore_object(
        store: &dyn LogStore,
        stored: StoredLog,
        account: Account,
    ) -> Result<Arc<Self>, StoreError> {
        let object = store.object(&stored.header.meta.id).await?;
        Self::of_object(stored, object.ok_or(StoreError::NotFound)?, account)
    }

    /// As [`Generation::restore`], of the response object alone.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if the object is not UTF-8.
    pub(crate) fn of_object(
        stored: StoredLog,
        object: Bytes,
        account: Account,
    ) -> Result<Arc<Self>, StoreError> {
        let object = String::from_utf8(object.into());
        let outcome = outcome_of(object.map_err(|_| StoreError::Corrupt)?, &stored.header);
        let log = LogTail::restored(stored.epoch_ends, None, account.clone());
        log.expire();
        let holdings = Holdings::new(
            account.charge(AccountKind::Inputs, 0),
            account.charge(AccountKind::Reserved, 0),
        );
        let generation = Self::new(stored.header, Arc::new(log), Duration::ZERO, holdings);
        let head = match &outcome.ending {
            Ending::Failed(failure) => Err(OpenError::Failed(ApiError::from(failure))),
            _ => Ok(UpstreamHead::default()),
        };
        generation.response_head.set(head);
        {
            let mut snapshot = generation.snapshot.lock();
            snapshot.apply(Seq(0), EventKind::Created);
            snapshot.apply(Seq(1), EventKind::InProgress);
            let last = Seq(stored.end.0.saturating_sub(1));
            snapshot.apply(last, EventKind::End(outcome));
        }
        generation.count_object();
        Ok(generation)
    }

    /// Ends a restored generation whose writer is lost: closes what is open and appends
    /// `response.failed` with this error, in the epoch that the store has given. Returns these
    /// records, which the store does not have yet.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if the log has another epoch by now; [`StoreError::Sealed`] if it has
    /// ended.
    pub(crate) fn end_adopted(
        self: &Arc<Self>,
        epoch: Epoch,
        error: &ApiError,
    ) -> Result<RecordBatch, StoreError> {
        let (held, current) = (epoch, self.log.epoch());
        if held != current {
            return Err(StoreError::Fenced { held, current });
        }
        let stored = self.log.committed();
        Writer::in_epoch(self.clone(), epoch).seal_abruptly(error);
        let mut ending = RecordBatch::default();
        let read = self
            .log
            .read(&mut ReadPosition::at(stored), usize::MAX, &mut ending);
        read.map_err(|_| StoreError::Deleted)?;
        if ending.is_empty() {
            return Err(StoreError::Sealed);
        }
        self.log.commit(ending.end_seq());
        Ok(ending)
    }
}

/// Returns the outcome that a stored response object tells.
fn outcome_of(object: String, header: &LogHeader) -> Outcome {
    let members: Members<'_> = serde_json::from_str(&object).unwrap_or_default();
    let text = |of: &Members<'_>, name: &str| of.text(name).map(Cow::into_owned);
    let ending = match members.text("status").as_deref() {
        Some("completed") => Ending::Completed,
        Some("cancelled") => Ending::Cancelled,
        Some("incomplete") => {
            let details = members.object("incomplete_details").unwrap_or_default();
            let reason = text(&details, "reason");
            Ending::Incomplete {
                reason: reason.unwrap_or_else(|| "max_output_tokens".to_owned()),
            }
        }
        _ => {
            let error = members.object("error").unwrap_or_default();
            let message = text(&error, "message").unwrap_or_default();
            let internal = Failure::from(&ApiError::new(ErrorCode::InternalError, message));
            Ending::Failed(Failure {
                code: text(&error, "code").unwrap_or(internal.code),
                kind: text(&error, "type").unwrap_or(internal.kind),
                ..internal
            })
        }
    };
    let usage = members.get("usage").map(|usage| usage.get().to_owned());
    Outcome {
        ending,
        at: members
            .number("completed_at")
            .unwrap_or(header.meta.created_at),
        usage: usage.filter(|usage| usage != "null"),
        relayed: Some(FoldedJson::plain(object)),
    }
}

/// Folds the records of a stored log.
pub(super) struct Folder {
    id: GenerationId,
    pub(super) epoch_ends: Vec<Seq>,
    pub(super) templates: Vec<Arc<KnownTemplate>>,
    /// The number after the last event.
    pub(super) end: Seq,
}

impl Folder {
    pub(super) fn new(stored: &StoredLog) -> Self {
        Self {
            id: stored.header.meta.id.clone(),
            epoch_ends: stored.epoch_ends.clone(),
            templates: Vec::new(),
            end: Seq(0),
        }
    }

    pub(super) fn fold(
        &mut self,
        snapshot: &mut Snapshot,
        record: RecordRef<'_>,
    ) -> Result<(), StoreError> {
        let content = Content::decode(record.payload)?;
        self.check_hole(record.first_seq, &content)?;
        if let Some((number, template)) = Content::template(record.payload)? {
            if number != self.templates.len() {
                return Err(StoreError::Corrupt);
            }
            let head = snapshot.head(template.target.item);
            let known = known_template(&self.id, head, template);
            self.templates.push(Arc::new(known));
        }
        match content {
            Content::Delta { template, holes } => {
                let known = self.templates.get(template).ok_or(StoreError::Corrupt)?;
                let text = holes.text(&known.template).ok_or(StoreError::Corrupt)?;
                let text = std::str::from_utf8(text).map_err(|_| StoreError::Corrupt)?;
                snapshot.apply_deltas(record.first_seq, 1, known.template.target, text);
            }
            Content::Full(full) => (record.first_seq.0..)
                .zip(full.events)
                .for_each(|(seq, event)| snapshot.apply(Seq(seq), event)),
        }
        self.end = record.next_seq();
        Ok(())
    }

    /// Checks that numbers are missing before an epoch and before the terminal event only.
    fn check_hole(&self, first: Seq, content: &Content<'_>) -> Result<(), StoreError> {
        if first == self.end {
            return Ok(());
        }
        let epochs = self.epoch_ends.iter().zip(2..);
        let is_epoch = epochs
            .filter(|(end, _)| **end == self.end)
            .any(|(_, epoch)| first == Epoch(epoch).first_seq());
        let is_terminal = matches!(content, Content::Full(full)
            if matches!(full.events.last(), Some(EventKind::End(_))));
        if is_epoch || is_terminal && first.0 == self.end.0 + TERMINAL_SKIP {
            Ok(())
        } else {
            Err(StoreError::Corrupt)
        }
    }
}

/// Returns the result that the upstream's head had, if it is known.
pub(super) fn response_head(snapshot: &Snapshot) -> Option<Result<UpstreamHead, OpenError>> {
    if snapshot.has_begun() {
        return Some(Ok(UpstreamHead::default()));
    }
    let error = match &snapshot.outcome()?.ending {
        Ending::Failed(failure) => OpenError::Failed(ApiError::from(failure)),
        _ => ended_before_head(),
    };
    Some(Err(error))
}
