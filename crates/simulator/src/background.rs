//! Responses that go on in the background, so that they can be read again and cancelled.
//!
//! An answer follows from its plan and its schedule. So nothing runs between two reads: a read plays
//! the transcript from its beginning, where what is past is due at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::body::{Director, Step};
use crate::fault::{Fault, FaultKind};
use crate::player::{Player, Schedule};
use crate::responses::{Events, Outline};
use crate::steering::Again;
use crate::transcript::Transcript;

/// Responses that are kept. The oldest go first.
const KEPT: usize = 4096;
/// How late a slow head is.
const SLOW: Duration = Duration::from_secs(1);
/// Tokens between two cuts.
const CUT_EVERY: u64 = 5;
/// Reads that are cut.
const CUTS: u64 = 4;
/// Reads that are refused.
const BUSY: u64 = 2;
/// How often a body looks whether its response is cancelled.
const LOOK: Duration = Duration::from_millis(20);

/// What makes the outline of a response; of another text if this is true.
pub(crate) type MakeOutline = Box<dyn Fn(bool) -> Outline + Send + Sync>;

/// The responses that were asked for in the background.
#[derive(Default)]
pub(crate) struct Background(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    responses: HashMap<String, Arc<Held>>,
    order: VecDeque<String>,
}

/// A response that goes on without a connection.
pub(crate) struct Held {
    outline: MakeOutline,
    schedule: Schedule,
    again: Option<Again>,
    window: Duration,
    reads: AtomicU64,
    cancelled: AtomicBool,
}

/// How a read is answered.
pub(crate) enum Read {
    /// By the events.
    Events(Box<dyn Director>),
    Busy,
    Gone,
}

impl std::fmt::Debug for Background {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

// === impl Background ===

impl Background {
    pub(crate) fn keep(&self, id: String, held: Held) -> Arc<Held> {
        let held = Arc::new(held);
        let mut kept = self.0.lock();
        if kept.order.len() >= KEPT
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.responses.remove(&oldest);
        }
        kept.responses.insert(id.clone(), held.clone());
        kept.order.push_back(id);
        held
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<Held>> {
        self.0.lock().responses.get(id).cloned()
    }
}

// === impl Held ===

impl Held {
    pub(crate) fn new(
        outline: MakeOutline,
        schedule: Schedule,
        again: Option<Again>,
        window: Duration,
    ) -> Self {
        Self {
            outline,
            schedule,
            again,
            window,
            reads: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
        }
    }

    /// Plays the answer to the request that started it.
    pub(crate) fn first(self: &Arc<Self>, fault: Option<Fault>) -> Box<dyn Director> {
        self.play(false, 0, fault)
    }

    fn play(self: &Arc<Self>, other: bool, from: u64, fault: Option<Fault>) -> Box<dyn Director> {
        let mut events = Events::new((self.outline)(other));
        let mut skipped = Vec::new();
        for _ in 0..from {
            if events.peek().is_none() {
                break;
            }
            skipped.clear();
            events.write(&mut skipped);
        }
        Box::new(UntilCancelled {
            held: self.clone(),
            player: Player::new(events, self.schedule, fault),
            sleeping: None,
        })
    }

    /// Plays the answer again, after the event with this number.
    pub(crate) async fn read(self: &Arc<Self>, after: Option<u64>) -> Read {
        let number = self.reads.fetch_add(1, Ordering::AcqRel) + 1;
        let from = after.map_or(0, |after| after + 1);
        if self.schedule.start.elapsed() > self.window || self.again == Some(Again::Gone) {
            return Read::Gone;
        }
        let fault = match self.again {
            Some(Again::Busy) if number <= BUSY => return Read::Busy,
            Some(Again::Slow) => {
                tokio::time::sleep(SLOW).await;
                None
            }
            Some(Again::Cut) if number <= CUTS => Some(Fault {
                kind: FaultKind::Cut,
                after: (number + 1) * CUT_EVERY,
                code: 0,
                retry_after: None,
                size: 0,
            }),
            _ => None,
        };
        Read::Events(self.play(self.again == Some(Again::Other), from, fault))
    }

    /// Ends the answer.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }
}

/// Plays an answer that may be cancelled from another connection.
struct UntilCancelled {
    held: Arc<Held>,
    player: Player<Events>,
    sleeping: Option<Instant>,
}

impl Director for UntilCancelled {
    fn next(&mut self) -> Step {
        if self.held.cancelled.load(Ordering::Acquire) {
            return Step::End;
        }
        let until = match self.sleeping.take() {
            Some(until) => until,
            None => match self.player.next() {
                Step::Sleep(until) => until,
                step => return step,
            },
        };
        let look = Instant::now() + LOOK;
        if until > look {
            self.sleeping = Some(until);
        }
        Step::Sleep(until.min(look))
    }
}
