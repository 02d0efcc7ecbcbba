//! What the engines of all workers share about generations: who is known, how many may run, and
//! what is kept.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::admission::{Admission, Permit};
use super::directory::{Directory, KeyClaim};
use super::located::{GenerationSource, StoredGeneration};
use super::retention::Retention;
use super::stored_source::{no_answer, unreadable};
use crate::generation::Generation;
use crate::log::MemoryAccount;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::id::GenerationId;

/// The time in which a stored generation must have been read.
const RESTORE: Duration = Duration::from_secs(30);

/// The generations of all workers.
#[derive(Debug)]
pub struct Registry {
    pub(super) directory: Arc<Directory>,
    pub(super) admission: Admission,
    pub(super) retention: Retention,
    account: MemoryAccount,
}

/// A generation that is being written. Dropping it records its end in the registry.
#[derive(Debug)]
pub(super) struct Running {
    registry: Arc<Registry>,
    id: GenerationId,
    _permit: Permit,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.registry.note_end(&self.id);
    }
}

impl Registry {
    /// Returns an empty registry. `account` counts the bytes of the logs, and `source` knows of
    /// generations that are not in this process.
    #[must_use]
    pub fn new(
        retention: Retention,
        account: MemoryAccount,
        source: Option<Arc<dyn GenerationSource>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            directory: Arc::new(Directory::new(source)),
            admission: Admission::new(retention.max_open),
            retention,
            account,
        })
    }

    /// Number of generations that run now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.admission.open()
    }

    /// Number of generations that can be asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.directory.len()
    }

    /// Whether no generation can be asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held by logs.
    #[must_use]
    pub fn log_bytes(&self) -> usize {
        self.account.used()
    }

    /// Bytes held by logs and response objects.
    #[must_use]
    pub fn used(&self) -> usize {
        self.account.used() + self.directory.object_bytes()
    }

    /// Refuses new generations from now on.
    pub fn close(&self) {
        self.admission.close();
    }

    /// Whether new generations are refused because the gateway shuts down.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.admission.is_closed()
    }

    /// Waits until the gateway begins to shut down.
    pub async fn closing(&self) {
        self.admission.closing().await;
    }

    /// Ends every running generation with the failure `shutting_down`. The terminal events follow at
    /// once.
    pub fn stop_running(&self) {
        let running = self.directory.running();
        running.iter().for_each(|generation| generation.shut_down());
    }

    /// Admits one more generation. Under memory pressure the oldest ended ones make room for it.
    pub(super) fn admit(&self) -> Result<Permit, ApiError> {
        let permit = self.admission.permit()?;
        if self.used() >= self.retention.max_memory {
            self.relieve();
            if self.used() >= self.retention.max_memory {
                let error = ApiError::new(
                    ErrorCode::Overloaded,
                    "The memory for streams is used up by those that are running.",
                );
                return Err(error.retry_after(Duration::from_secs(1)));
            }
        }
        Ok(permit)
    }

    pub(super) fn insert(
        self: &Arc<Self>,
        generation: Arc<Generation>,
        permit: Permit,
        claim: Option<KeyClaim>,
    ) -> Running {
        let id = generation.meta().id.clone();
        let predecessor = generation.header().predecessor.as_ref();
        self.directory.renew_chain(predecessor, Instant::now());
        self.directory.insert(generation, claim);
        Running {
            registry: self.clone(),
            id,
            _permit: permit,
        }
    }

    /// Returns the generation that a store has, or `None` if it was deleted by now. It is kept as one
    /// that ends now.
    pub(super) async fn restore(
        &self,
        stored: StoredGeneration,
    ) -> Result<Option<Arc<Generation>>, ApiError> {
        let StoredGeneration { store, header } = stored;
        let id = &header.meta.id;
        let restored = Generation::restore(&*store, id, self.account.clone());
        let restored = timeout(RESTORE, restored).await;
        let generation = match restored.unwrap_or_else(|_| Err(no_answer())) {
            Ok(generation) => generation,
            Err(error) if error.is_gone() => return Ok(None),
            Err(error) => return Err(unreadable(id, &error)),
        };
        let known = self.directory.insert_stored(generation, Instant::now());
        // It may have been deleted while it was read.
        let opened = timeout(RESTORE, store.open(id)).await;
        if matches!(opened, Ok(Err(error)) if error.is_gone()) {
            self.forget(id);
            return Ok(None);
        }
        self.relieve();
        Ok(Some(known))
    }

    /// Forgets a generation and what it holds.
    pub(super) fn forget(&self, id: &GenerationId) {
        if let Some(generation) = self.directory.remove(id) {
            generation.log().expire();
        }
    }

    fn note_end(&self, id: &GenerationId) {
        let now = Instant::now();
        // The turn is kept from now on, and what it builds on for as long.
        let predecessor = self.directory.note_end(id, now);
        self.directory.renew_chain(predecessor.as_ref(), now);
        self.sweep(now);
    }

    /// Drops logs and response objects that have been kept long enough, and the oldest ones while
    /// the memory bound is exceeded. Called at every end, at a start that needs memory, and
    /// periodically, so that an idle process shrinks as well.
    pub fn sweep(&self, now: Instant) {
        let expired = self.directory.take_due(&self.retention, now);
        // Expiry wakes readers, so it runs without the directory's lock.
        expired
            .iter()
            .for_each(|generation| generation.log().expire());
        self.relieve();
    }

    /// Drops the oldest ended generations, of each the log first, until the bound holds.
    fn relieve(&self) {
        while self.used() > self.retention.max_memory {
            let Some(oldest) = self.directory.take_oldest() else {
                return;
            };
            tracing::warn!(generation = %oldest.meta().id, "dropped under memory pressure");
            oldest.log().expire();
        }
    }
}
