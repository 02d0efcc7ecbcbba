//! Taking over the logs of writers that are lost.

use std::sync::Arc;

use tokio::time::Instant;

use super::{SharedEngine, lost_stream};
use crate::generation::Generation;
use crate::log::StoreError;
use crate::model::id::GenerationId;
use crate::model::include::Form;

impl SharedEngine {
    /// Takes over a stored log whose writer is lost_stream, and ends it in the next epoch: closes what is
    /// open and appends `response.failed` with `producer_lost`. Its readers then get what the
    /// [resume table](super::resume) says. The ending is stored when this returns.
    ///
    /// A log that has ended is only read. A generation that this process has is returned as it is.
    /// The caller makes sure that the writer is lost_stream: one that is alive is fenced, and its readers
    /// are cut off.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] if another process adopted it at the same time,
    /// [`StoreError::NotFound`] and [`StoreError::Deleted`] if there is no such log,
    /// [`StoreError::Corrupt`] and [`StoreError::UnknownVersion`] if it cannot be read. After
    /// [`StoreError::Unavailable`] it may be called again.
    pub async fn adopt(&self, id: &GenerationId) -> Result<Arc<Generation>, StoreError> {
        let store = self.store.as_ref().ok_or(StoreError::NotFound)?;
        if let Some(local) = self.registry.directory.with_log(id) {
            if !local.is_remote() {
                return Ok(local);
            }
            if let Some(local) = self.handed_over(local).await {
                return Ok(local);
            }
        }
        let adopted = match store.adopt(id).await {
            Ok(epoch) => Some(epoch),
            Err(StoreError::Sealed) => None,
            Err(error) => return Err(error),
        };
        let account = self.account.clone();
        let generation = Generation::restore(&**store, id, account).await?;
        if let Some(epoch) = adopted {
            let ending = generation.end_adopted(epoch, &lost_stream::writer_lost(id))?;
            let object = generation
                .meta()
                .store
                .then(|| generation.response_in(Form::Kept));
            let object = object.map(Into::into);
            let version = store.version();
            match generation.older_form(generation.header().version, version) {
                Some(whole) => store.seal_in(version, id, epoch, whole, object).await?,
                None => store.seal(id, epoch, ending, object).await?,
            }
            tracing::info!(generation = %id, ?epoch, "ended the log of a lost writer");
        }
        let directory = &self.registry.directory;
        Ok(directory.insert_stored(generation, Instant::now()))
    }
}
