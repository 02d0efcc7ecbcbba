//! The store of the logs: opened before the gateway listens, and looked after while it serves.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::block_on;
use futures::future::BoxFuture;
use tokenwire_core::engine::SharedEngine;
use tokenwire_core::generation::Generation;
use tokenwire_core::log::StoreError;
use tokenwire_core::model::id::GenerationId;
use tokenwire_core::model::usage::TokenUsage;
use tokenwire_store::{DiskOptions, DiskStore, OpenError};
use tokenwire_webhooks::{DeliveryRecords, Webhooks};
use tokio::task::unconstrained;

use crate::config::schema::{Config, StoreKind};
use crate::limits::{Limits, Unsettled, UsageRecords};

/// The pause before those answers go on that need a worker.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// The longest pause between two attempts to end the logs of an earlier process.
const RETRY: Duration = Duration::from_secs(1);

/// Opens the store that is configured, if logs are to outlive the process. Reads what earlier
/// processes left, and blocks until that is done.
///
/// # Errors
/// [`OpenError`] if its folder cannot be used.
pub(crate) fn open(config: &Config) -> Result<Option<Arc<DiskStore>>, OpenError> {
    let store = &config.store;
    let path = match (store.kind, &store.path) {
        (StoreKind::Disk, Some(path)) => path,
        _ => return Ok(None),
    };
    let store = DiskStore::open(DiskOptions {
        sync: store.sync,
        max_bytes: store.max_bytes as u64,
        retain_logs: config.streams.retain_events,
        retain_objects: config.retain_responses(),
        ..DiskOptions::new(path)
    })?;
    Ok(Some(Arc::new(store)))
}

/// Returns what keeps the webhooks that are owed on the disk.
pub(crate) fn own_deliveries(store: &Arc<DiskStore>) -> Arc<dyn DeliveryRecords> {
    Arc::new(StoredDeliveries(store.clone()))
}

/// Ends the generations that ran when their process died, before clients can ask for them, and goes
/// on with the webhooks that it owed. Returns the generations that could not be ended now.
pub(crate) fn recover(
    store: Option<&Arc<DiskStore>>,
    records: Arc<dyn DeliveryRecords>,
    engine: &SharedEngine,
    webhooks: &Webhooks,
) -> Vec<GenerationId> {
    let mut ids = store.map(|store| store.unfinished()).unwrap_or_default();
    if !ids.is_empty() {
        tracing::info!(
            count = ids.len(),
            "ending the streams of an earlier process"
        );
    }
    ids.extend(webhooks.keep_in(records));
    // Nothing else runs on this thread yet. The store's own threads do the work. A task that has used
    // up its budget would wait for the runtime, which this blocks.
    block_on(unconstrained(async {
        let durable = store.filter(|_| !ids.is_empty());
        let rest = end_each(ids, engine, webhooks).await;
        // A loss of power must not take an ending that a client has seen: its numbers would be given
        // to another one.
        if let Some(store) = durable
            && let Err(error) = store.sync().await
        {
            tracing::warn!(%error, "the ends of lost streams may not be durable yet");
        }
        rest
    }))
}

/// Goes on with the webhooks that are among these small records of another process. Returns the
/// generations whose end is to be reported.
pub(crate) fn owed(entries: Vec<(String, bytes::Bytes)>, webhooks: &Webhooks) -> Vec<GenerationId> {
    webhooks.take_over(deliveries(entries))
}

/// Tries again to end what could not be ended at the start.
pub(crate) async fn recover_rest(
    mut rest: Vec<GenerationId>,
    engine: SharedEngine,
    webhooks: Webhooks,
) {
    let mut pause = FIRST_RETRY;
    while !rest.is_empty() {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY);
        rest = end_each(rest, &engine, &webhooks).await;
    }
}

pub(crate) async fn end_each(
    ids: Vec<GenerationId>,
    engine: &SharedEngine,
    webhooks: &Webhooks,
) -> Vec<GenerationId> {
    let mut rest = Vec::new();
    for id in ids {
        match engine.adopt(&id).await {
            Ok(generation) if generation.is_over() => webhooks.ended(&generation),
            Ok(generation) => report_later(generation, webhooks.clone()),
            Err(StoreError::Unavailable(error)) => {
                tracing::debug!(generation = %id, %error, "a lost stream cannot be ended now");
                rest.push(id);
            }
            Err(error) => {
                webhooks.forget(&id);
                if !error.is_gone() {
                    tracing::error!(generation = %id, %error, "a lost stream cannot be ended");
                }
            }
        }
    }
    rest
}

/// Reports the end of a generation to its webhook that goes on with its upstream.
pub(crate) fn report_later(generation: Arc<Generation>, webhooks: Webhooks) {
    tokio::spawn(async move {
        generation.ended().await;
        webhooks.ended(&generation);
    });
}

/// Goes on with the usage that earlier processes have counted, and keeps that of this one. To be
/// called after [`recover`]. Returns the answers that could not be settled now.
pub(crate) fn recover_usage(
    store: &Arc<DiskStore>,
    engine: &SharedEngine,
    limits: &Limits,
) -> Vec<Unsettled> {
    let earlier = store.entries(USAGE);
    limits.keep_in(Arc::new(StoredUsage(store.clone())), store.tag().as_str());
    let lost = limits.take_over(&earlier);
    // As in `recover`.
    block_on(unconstrained(settle_lost(lost, engine, limits)))
}

/// Settles answers of lost processes until none is left.
pub(crate) async fn settle_rest(mut rest: Vec<Unsettled>, engine: &SharedEngine, limits: &Limits) {
    while !rest.is_empty() {
        tokio::time::sleep(RETRY).await;
        rest = settle_lost(rest, engine, limits).await;
    }
}

/// Settles answers whose processes died: by the usage that the upstream had reported, else by an
/// estimate. Returns those that have not ended, since their upstream goes on with them, and those that
/// cannot be read now.
pub(crate) async fn settle_lost(
    lost: Vec<Unsettled>,
    engine: &SharedEngine,
    limits: &Limits,
) -> Vec<Unsettled> {
    let mut rest = Vec::new();
    for answer in lost {
        let found = match answer.id.parse::<GenerationId>() {
            Ok(id) => match engine.adopt(&id).await {
                Ok(found) if !found.is_over() => {
                    rest.push(answer);
                    continue;
                }
                Ok(found) => Some(found),
                Err(error) if error.is_retryable() => {
                    rest.push(answer);
                    continue;
                }
                // It was not stored, or is gone.
                Err(_) => None,
            },
            // Only its request is known.
            Err(_) => None,
        };
        let (usage, output) = found.map_or((None, 0), |generation| {
            let outcome = generation.outcome();
            let usage = outcome.and_then(|outcome| TokenUsage::parse(outcome.usage.as_deref()?));
            (usage, generation.estimated_tokens())
        });
        limits.settle_lost(&answer, usage, output);
    }
    rest
}

/// The prefix of the records of usage.
const USAGE: &str = "usage/";

/// Usage, as small records of the store.
#[derive(Debug)]
struct StoredUsage(Arc<DiskStore>);

impl UsageRecords for StoredUsage {
    fn set(&self, key: String, value: Option<Vec<u8>>) {
        self.0.set(key, value.map(Into::into));
    }
}

/// The prefix of the records of webhooks.
const DELIVERIES: &str = "webhook/";

/// Webhooks that are owed, as small records of the store.
#[derive(Debug)]
struct StoredDeliveries(Arc<DiskStore>);

impl DeliveryRecords for StoredDeliveries {
    fn set(&self, key: &str, value: Option<Vec<u8>>) {
        self.0
            .set(format!("{DELIVERIES}{key}"), value.map(Into::into));
    }

    fn kept<'a>(&'a self, key: &'a str) -> BoxFuture<'a, ()> {
        async move {
            if let Err(error) = self.0.entries_written().await {
                tracing::warn!(delivery = %key, %error, "a webhook is not stored yet");
            }
        }
        .boxed()
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let value = self.0.entry(&format!("{DELIVERIES}{key}"));
        value.map(|value| value.to_vec())
    }

    fn list(&self) -> Vec<(String, Vec<u8>)> {
        deliveries(self.0.entries(DELIVERIES))
    }
}

fn deliveries(entries: Vec<(String, bytes::Bytes)>) -> Vec<(String, Vec<u8>)> {
    let entry = |(key, value): (String, bytes::Bytes)| {
        let key = key.strip_prefix(DELIVERIES)?.to_owned();
        Some((key, value.to_vec()))
    };
    entries.into_iter().filter_map(entry).collect()
}
