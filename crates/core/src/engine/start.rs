//! Starting a generation.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::sleep;

use super::admission::shutting_down;
use super::directory::{Claim, Directory, Part};
use super::end_notifier::{OnEndGuard, on_end};
use super::fingerprint::{Fingerprint, fingerprint};
use super::follower::Follower;
use super::meter::MeteredStart;
use super::observer::{Observation, Observers};
use super::plan::Plan;
use super::reuse::{Freshness, Leader, Reused, Role};
use super::silence::Silence;
use super::{Engine, KeyClaimed, SessionResponses, StartRequest, lost_stream};
use crate::generation::{Generation, Holdings, ReaderGuard, Source, Writer, drive};
use crate::log::{HEADER_VERSION, IdempotencyKey, LogHeader, LogTail};
use crate::model::account::AccountKind;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::event::EventKind;
use crate::model::id::{GenerationId, Owner};
use crate::model::include::Include;
use crate::model::log_scope::LogScope;
use crate::model::snapshot::Api;
use crate::request::StreamRequest;
use crate::upstream::translate::RecordWriter;
use crate::upstream::{Asked, Upstream, UpstreamRequest};

/// How often a key is claimed whose earlier claims do not hold any more.
const CLAIMS: usize = 4;
/// How often another process is asked for a generation that it may have claimed a key for.
const ATTEMPTS: usize = 2;
/// The pause between two of these attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// A generation that was started, or that an earlier request with the same key started.
#[derive(Debug)]
pub struct Started {
    /// Counts the caller as a reader. A generation without readers is cancelled after its grace.
    pub guard: ReaderGuard,
    /// Whether this request started it.
    pub fresh: bool,
    /// Whether it shares another's answer; `None` where answers are not shared, or where it was
    /// started earlier.
    pub reused: Option<Reused>,
    /// What the request asks to be shown.
    pub include: Include,
    /// The types of the tools that were left out, since the upstream cannot run them.
    pub dropped_tools: Vec<String>,
}

/// Where a generation's answer comes from.
struct AnswerSource {
    upstream: Arc<dyn Upstream>,
    /// Its slot, if others may follow it.
    leader: Option<Leader>,
    reused: Option<Reused>,
    /// Whether the upstream is asked.
    asked: Arc<AtomicBool>,
}

impl AnswerSource {
    /// An answer without output, for which no upstream is asked.
    fn silent() -> Self {
        Self {
            upstream: Arc::new(Silence),
            leader: None,
            reused: None,
            asked: Arc::new(AtomicBool::new(false)),
        }
    }
}

/// What is known of the idempotency key of a request.
enum Keyed {
    /// It started this generation, and the request repeats that.
    Started(Arc<Generation>),
    /// It may start one. The claim of an earlier one does not hold any more.
    Free { stale: Option<GenerationId> },
}

/// Attaches a request that repeats an earlier one.
fn repeated(generation: &Arc<Generation>, include: Include) -> Started {
    Started {
        guard: generation.attach(),
        fresh: false,
        reused: None,
        include,
        dropped_tools: Vec::new(),
    }
}

fn starting() -> ApiError {
    ApiError::new(
        ErrorCode::Overloaded,
        "Other requests with this idempotency key are just being started.",
    )
    .retry_after(Duration::from_secs(1))
}

/// Returns what a meter has to know of a start.
fn metered_start(plan: &Plan) -> MeteredStart<'_> {
    let request = &plan.work.request;
    MeteredStart {
        model: &request.model,
        body: if plan.silent { &[] } else { &request.body },
        choices: if plan.silent { 0 } else { plan.work.choices },
        max_output: plan.max_output,
    }
}

/// Returns what a request asks to be shown.
fn include_of(body: &StreamRequest) -> Include {
    match body {
        StreamRequest::Responses(responses) => responses.include(),
        StreamRequest::Chat(_) | StreamRequest::Canonical(_) => Include::default(),
    }
}

/// Returns the response that a request on a socket continues.
fn continued(request: &StartRequest) -> Option<(SessionResponses, String)> {
    match &request.body {
        StreamRequest::Responses(responses) => {
            Some((request.session.clone()?, responses.previous_response_id()?))
        }
        StreamRequest::Chat(_) | StreamRequest::Canonical(_) => None,
    }
}

impl Engine {
    /// Starts a generation, or attaches to the one that the same key started. Spawns the task that
    /// asks the upstream on this runtime. `response.created` is in the log when this returns. It
    /// waits only for earlier turns that are not in this process, and with a store for the header of
    /// a request that is keyed or runs in the background: its upstream is asked only once that is
    /// stored.
    ///
    /// # Errors
    /// A fault of the request, or the reason why nothing can be started now:
    /// [`ErrorCode::StoreUnavailable`] if the store does not take the header in time.
    pub async fn start(&self, request: StartRequest) -> Result<Started, ApiError> {
        let mut on_end = on_end(self.end_notifier.as_ref(), &request)?;
        let mut idempotency = None;
        let mut stale = None;
        let claim = match &request.idempotency_key {
            None => None,
            Some(key) => {
                let fingerprint = fingerprint(&request);
                idempotency = Some(IdempotencyKey {
                    key: key.as_str().into(),
                    fingerprint,
                });
                let directory = &self.registry.directory;
                match directory.claim(&request.owner, key, fingerprint)? {
                    Claim::Taken(generation) => {
                        let generation = Box::pin(self.read_back(generation)).await;
                        return Ok(repeated(&generation, include_of(&request.body)));
                    }
                    Claim::Free(claim) => {
                        let keyed = Box::pin(self.keyed(&request.owner, key, fingerprint));
                        match keyed.await? {
                            Keyed::Started(generation) => {
                                return Ok(repeated(&generation, include_of(&request.body)));
                            }
                            Keyed::Free { stale: found } => stale = found,
                        }
                        Some(claim)
                    }
                }
            }
        };
        // A drain waits for each start that is not refused here: the tracker counts the token in the
        // state that it looks at.
        let in_flight = self.tasks.token();
        if self.tasks.is_closed() {
            return Err(shutting_down());
        }
        let permit = self.registry.admit()?;
        let mut inputs = self.account.try_start(request.body.memory_size())?;
        let typical = self.account.typical();
        let reserved = self.account.try_charge(AccountKind::Reserved, typical)?;
        let freshness = request.freshness;
        let asked_in = match &request.body {
            StreamRequest::Chat(_) => Api::Chat,
            // The events of a response are the canonical ones.
            StreamRequest::Responses(_) | StreamRequest::Canonical(_) => Api::Responses,
        };
        let session = request.session.clone();
        let continues = continued(&request);
        let meter = request.meter.clone();
        let trace = request.trace.clone();
        let mut plan = match self.plan(request, &mut inputs).await {
            Ok(plan) => plan,
            Err(error) => {
                // One that still runs can be continued later.
                let unusable = ErrorCode::PreviousResponseUnusable.as_str();
                if let Some((session, previous)) = &continues
                    && error.code.as_deref() != Some(unusable)
                {
                    session.forget(previous);
                }
                return Err(error);
            }
        };
        let metered = match &meter {
            Some(meter) => {
                let admission = meter.admit(&metered_start(&plan));
                Some(admission.decided().await?)
            }
            None => None,
        };
        let header = Arc::new(LogHeader {
            version: (self.persistence.as_ref())
                .map_or(HEADER_VERSION, |persistence| persistence.store().version()),
            idempotency,
            ..plan.header
        });
        let stored = match &self.persistence {
            Some(persistence) => {
                let first = header.idempotency.is_some() || header.meta.background;
                Some(persistence.begin(&header, first).await?)
            }
            None => None,
        };
        let replicated = match &self.replica {
            Some(replica) => replica.begin(&header).await?,
            None => None,
        };
        // The header is stored by now, and the upstream is not asked yet.
        if header.idempotency.is_some() {
            let claimed = Box::pin(self.claim_elsewhere(&header, stale));
            if let Some(generation) = claimed.await? {
                return Ok(repeated(&generation, plan.include));
            }
        }
        // No client hears of a generation whose end may go unreported.
        if let Some(kept) = on_end
            .as_mut()
            .and_then(|on_end| on_end.start(&header.meta.id))
        {
            kept.await;
        }
        if let Some(session) = session.filter(|_| !header.meta.store) {
            session.note(&header.meta.id);
        }
        let trace = trace.map(|trace| trace.of_generation(&header.meta.id));
        LogScope::note_generation(&header.meta.id);
        plan.work.request.trace.clone_from(&trace);
        let log = Arc::new(LogTail::new(self.log_limits, self.account.clone()));
        let holdings = Holdings::new(inputs, reserved);
        let generation = Generation::new(header, log, self.grace, holdings);
        // Attached before the task runs, so that the generation never has zero readers before the
        // first one reads.
        let guard = generation.attach();
        let mut writer = Writer::new(generation.clone());
        let mut asked = Asked::default();
        if let Some(metered) = &metered {
            asked = Asked::counted();
            plan.work.request.asked = asked.clone();
            writer.meter_output(metered.clone());
        }
        if let Some(watch) = &self.watch {
            writer.watch_for(watch.clone());
        }
        if let Some(stored) = stored {
            stored.attach(&mut writer);
        }
        if let Some(replicated) = replicated {
            replicated.attach(&mut writer);
        }
        let mut records = RecordWriter::new();
        records.event(EventKind::Created);
        if generation.meta().background || plan.queued {
            records.event(EventKind::Queued);
        }
        records.record(None);
        writer.append(&mut records).map_err(|error| {
            tracing::error!(%error, "a new log refused its first record");
            ApiError::new(ErrorCode::InternalError, "The stream could not be started.")
        })?;
        if let Some((session, previous)) = &continues {
            session.note_continuation(previous, &generation);
        }
        let on_end_guard = OnEndGuard::new(generation.clone(), on_end);
        let running = self.registry.insert(generation.clone(), permit, claim);
        let AnswerSource {
            upstream,
            leader,
            reused,
            asked: from_upstream,
        } = if plan.silent {
            AnswerSource::silent()
        } else {
            self.answer_source(&generation, &plan.work.request, freshness)
        };
        generation.runs_here();
        if let Some(metered) = &metered {
            metered.started(&generation);
        }
        let observers = Observers {
            observer: self.observer.clone(),
            metered,
            asked,
            trace: trace.as_ref().map(|trace| trace.context.clone()),
        };
        let observation = observers.is_any().then(|| {
            Observation::begin(
                observers,
                generation,
                asked_in,
                reused,
                plan.work.request.endpoint,
                from_upstream,
            )
        });
        let stores = self.held_stores();
        let scope = trace.map(|trace| LogScope::of(&trace.context));
        let source = Box::new(Source::Asked(plan.work));
        // Boxed: it takes some KiB, and is moved several times on its way into a task.
        self.tasks.spawn(Box::pin(LogScope::run(scope, async move {
            let finished = drive(&mut writer, &mut records, upstream, source).await;
            drop((writer, records));
            // Dropped here, or with the task if it ends early: that tells the registry and the others
            // of the end.
            drop((leader, observation, running, stores));
            // After the registry: the hook must find the object as it is at its end.
            drop(on_end_guard);
            if let Some(rest) = finished {
                rest.await;
            }
        })));
        drop(in_flight);
        Ok(Started {
            guard,
            fresh: true,
            reused,
            include: plan.include,
            dropped_tools: plan.dropped_tools,
        })
    }

    /// Looks for the generation that the store or another process knows by a request's key, which
    /// this process has claimed.
    async fn keyed(
        &self,
        owner: &Owner,
        key: &str,
        fingerprint: Fingerprint,
    ) -> Result<Keyed, ApiError> {
        let stored = match &self.persistence {
            Some(persistence) => persistence.keyed(owner, key).await?,
            None => None,
        };
        let id = match stored {
            Some(id) => id,
            // This process has claimed the key by now. Of two that ask each other one at least
            // finds the other's claim.
            None => match self.registry.directory.keyed_elsewhere(owner, key).await? {
                Some(id) => id,
                None => return Ok(Keyed::Free { stale: None }),
            },
        };
        self.started_under(id, owner, fingerprint).await
    }

    /// Claims the key of a generation that starts now, among all nodes. Returns the generation that
    /// another one has started under it in the meantime.
    async fn claim_elsewhere(
        &self,
        header: &LogHeader,
        mut stale: Option<GenerationId>,
    ) -> Result<Option<Arc<Generation>>, ApiError> {
        let (owner, Some(keyed)) = (&header.meta.owner, &header.idempotency) else {
            return Ok(None);
        };
        let claim = KeyClaimed {
            owner,
            key: &keyed.key,
            fingerprint: &keyed.fingerprint,
            id: &header.meta.id,
        };
        let directory = &self.registry.directory;
        for _ in 0..CLAIMS {
            let Some(id) = directory.claim_elsewhere(claim, stale.as_ref()).await? else {
                return Ok(None);
            };
            match self.started_under(id, owner, keyed.fingerprint).await? {
                Keyed::Started(generation) => return Ok(Some(generation)),
                Keyed::Free { stale: found } => stale = found,
            }
        }
        Err(starting())
    }

    /// Says whether the generation that was started under a key still has it.
    async fn started_under(
        &self,
        id: GenerationId,
        owner: &Owner,
        fingerprint: Fingerprint,
    ) -> Result<Keyed, ApiError> {
        let not_found = ErrorCode::NotFound.as_str();
        let mut attempts = 0;
        loop {
            match self.find_or_lost(&id, owner, Part::Log).await {
                Ok(Some(generation)) => {
                    let repeats = Directory::repeats(&generation, fingerprint)?;
                    return Ok(if repeats {
                        Keyed::Started(generation)
                    } else {
                        Keyed::Free { stale: Some(id) }
                    });
                }
                // Its upstream may have been asked.
                Ok(None) => return Err(lost_stream::producer_lost(&id)),
                Err(error) if error.code.as_deref() == Some(not_found) => {
                    // Another process may have claimed the key for it just now.
                    if id.tag().is_none() || attempts == ATTEMPTS {
                        return Ok(Keyed::Free { stale: Some(id) });
                    }
                }
                Err(error) => return Err(error),
            }
            attempts += 1;
            sleep(PAUSE).await;
        }
    }

    /// Returns a generation that an earlier request started, with its records if a store has those.
    async fn read_back(&self, generation: Arc<Generation>) -> Arc<Generation> {
        let meta = generation.meta();
        let found = self.find_or_lost(&meta.id, &meta.owner, Part::Log).await;
        found.ok().flatten().unwrap_or(generation)
    }

    /// Decides whether the upstream is asked or another generation is followed.
    fn answer_source(
        &self,
        generation: &Arc<Generation>,
        request: &UpstreamRequest,
        freshness: Freshness,
    ) -> AnswerSource {
        let from_upstream = |leader, reused| AnswerSource {
            upstream: self.upstream.clone(),
            leader,
            reused,
            asked: Arc::new(AtomicBool::new(true)),
        };
        let Some(reuse) = &self.reuse else {
            return from_upstream(None, None);
        };
        let (role, reused, lookup) = reuse.join(request, generation, freshness);
        match (role, lookup) {
            (Role::Follower(follower_guard, phase), Some(lookup)) => {
                let asked = Arc::new(AtomicBool::new(false));
                let follower = Follower::new(
                    self.upstream.clone(),
                    generation.clone(),
                    lookup,
                    follower_guard,
                    phase,
                    asked.clone(),
                );
                AnswerSource {
                    upstream: Arc::new(follower),
                    leader: None,
                    reused: Some(reused),
                    asked,
                }
            }
            (Role::Leader(leader), _) => from_upstream(Some(leader), Some(reused)),
            (Role::Independent | Role::Follower(..), _) => from_upstream(None, Some(reused)),
        }
    }
}
