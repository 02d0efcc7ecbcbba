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
    /// Most bytes of all logs and response objects together.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Oldest {
    /// The log of this generation.
    Log(GenerationId),
    /// All of this generation: its log is gone already.
    Object(GenerationId),
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

    /// The oldest log, or the oldest object if its log is gone and no log is older.
    ///
    /// If all logs went before any object, the objects, which stay for a day, would in the end
    /// leave no room for the logs of recent answers.
    pub(super) fn oldest(&self) -> Option<Oldest> {
        let object = self.objects.first()?;
        Some(match self.logs.first() {
            Some(log) if log <= object => Oldest::Log(log.1.clone()),
            _ => Oldest::Object(object.1.clone()),
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
