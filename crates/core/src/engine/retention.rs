//! Retention: how long ended generations are kept, and which go first when memory is short.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::id::GenerationId;

/// How long generations are kept, and how much they may hold.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// How long a log stays after its end.
    pub events: Duration,
    /// How long the response object stays after its end.
    pub responses: Duration,
    /// Most bytes of all requests and answers together, as the account counts them.
    pub max_memory: usize,
    /// Most generations that run at the same time.
    pub max_open: usize,
}

/// What is kept of ended generations, by age.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Those whose log is kept, oldest end first.
    logs: BTreeSet<(Instant, GenerationId)>,
    /// Those whose response object is kept, oldest first: by their end, or by the last turn that
    /// builds on them.
    objects: BTreeSet<(Instant, GenerationId)>,
}

/// What goes first when memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Oldest<'a> {
    /// The log of this generation.
    Log(&'a GenerationId),
    /// The rest of this generation.
    Object(&'a GenerationId),
}

// === impl Kept ===

impl Kept {
    /// Adds a generation that ended at this time.
    pub(super) fn insert(&mut self, ended: Instant, id: &GenerationId) {
        self.logs.insert((ended, id.clone()));
        self.objects.insert((ended, id.clone()));
    }

    /// Forgets the log of a generation.
    pub(super) fn remove_log(&mut self, ended: Instant, id: &GenerationId) {
        self.logs.remove(&(ended, id.clone()));
    }

    /// Forgets the object of a generation that is kept since this time.
    pub(super) fn remove_object(&mut self, since: Instant, id: &GenerationId) {
        self.objects.remove(&(since, id.clone()));
    }

    /// Keeps an object from now on, as if the generation had just ended.
    pub(super) fn renew_object(&mut self, since: Instant, now: Instant, id: &GenerationId) {
        if self.objects.remove(&(since, id.clone())) {
            self.objects.insert((now, id.clone()));
        }
    }

    /// The generations whose log has been kept for this long, oldest first.
    pub(super) fn logs_due(
        &self,
        now: Instant,
        kept: Duration,
    ) -> impl Iterator<Item = &GenerationId> {
        due(&self.logs, now, kept)
    }

    /// The generations whose object has been kept for this long, oldest first.
    pub(super) fn objects_due(
        &self,
        now: Instant,
        kept: Duration,
    ) -> impl Iterator<Item = &GenerationId> {
        due(&self.objects, now, kept)
    }

    /// What goes first when memory is short, oldest first: logs by their end, objects by the
    /// begin of their retention. A generation's log goes before its object.
    ///
    /// If all logs went before any object, the objects, which stay for a day, would in the end
    /// leave no room for the logs of recent answers.
    pub(super) fn oldest(&self) -> impl Iterator<Item = Oldest<'_>> {
        let mut logs = self.logs.iter().peekable();
        let mut objects = self.objects.iter().peekable();
        std::iter::from_fn(move || {
            let log_first = match (logs.peek(), objects.peek()) {
                (Some(log), Some(object)) => log <= object,
                (log, _) => log.is_some(),
            };
            if log_first {
                logs.next().map(|log| Oldest::Log(&log.1))
            } else {
                objects.next().map(|object| Oldest::Object(&object.1))
            }
        })
    }
}

fn due(
    list: &BTreeSet<(Instant, GenerationId)>,
    now: Instant,
    kept: Duration,
) -> impl Iterator<Item = &GenerationId> {
    list.iter()
        .take_while(move |(since, _)| now.duration_since(*since) >= kept)
        .map(|(_, id)| id)
}
