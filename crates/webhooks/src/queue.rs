//! Every delivery that is on record: those that are pending, and the last of those that are over.
//!
//! It knows no network and no clock but the time that it is told; the dispatcher moves it. All of
//! it is bounded: pending deliveries by `webhooks.max_pending`, those that are over by
//! `webhooks.max_kept` of each kind. What does not fit becomes a dead letter at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use serde_json::Value;
use tokenwire_core::model::id::Owner;
use tokio::time::Instant;

use super::backoff::wait;
use super::counters::WebhookCounters;
use super::delivery::{Attempted, Delivery, DeliveryError, Number, Reason, State, Status};
use super::disabled::Disabled;
use super::endpoint::Endpoint;
use super::event::Event;
use super::host_queues::HostQueues;

/// How many, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_pending: usize,
    /// Of those that were delivered, and again of those that were given up.
    pub max_kept: usize,
    pub concurrency: usize,
    pub concurrency_per_host: usize,
    pub retry_for: Duration,
}

/// See the [module](self).
#[derive(Debug)]
pub struct DeliveryQueue {
    bounds: Bounds,
    counters: Arc<WebhookCounters>,
    /// In the order in which they came.
    deliveries: BTreeMap<Number, Delivery>,
    numbers: HashMap<String, Number>,
    next: Number,
    timers: BTreeSet<(Instant, Number)>,
    hosts: HostQueues,
    pending: usize,
    /// Those that are over, in the order in which they ended.
    delivered: VecDeque<Number>,
    failed: VecDeque<Number>,
    disabled: Disabled,
    /// Whether an attempt that fails is the last one.
    closing: bool,
    /// Whether there are no more attempts.
    closed: bool,
}

/// One attempt to be made.
#[derive(Clone, Debug)]
pub struct Job {
    pub number: Number,
    pub event: Event,
    pub endpoint: Endpoint,
}

/// Something to write into the log, by host and id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub id: String,
    pub host: String,
    pub what: What,
}

/// What became of a delivery or of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Delivered {
        attempts: u32,
    },
    Retrying {
        setback: DeliveryError,
        wait: Duration,
    },
    Dead {
        reason: Reason,
        setback: Option<DeliveryError>,
    },
}

/// Why a delivery is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    NotFound,
    QueueFull,
}

/// One page of a list, newest first.
#[derive(Debug)]
pub struct Page {
    pub deliveries: Vec<Value>,
    pub has_more: bool,
}

// === impl DeliveryQueue ===

impl DeliveryQueue {
    pub fn new(bounds: Bounds, counters: Arc<WebhookCounters>) -> Self {
        Self {
            bounds,
            counters,
            deliveries: BTreeMap::new(),
            numbers: HashMap::new(),
            next: 0,
            timers: BTreeSet::new(),
            hosts: HostQueues::new(bounds.concurrency, bounds.concurrency_per_host),
            pending: 0,
            delivered: VecDeque::new(),
            failed: VecDeque::new(),
            disabled: Disabled::default(),
            closing: false,
            closed: false,
        }
    }

    /// How many deliveries are not over.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Takes a delivery on. There is a notice if it is a dead letter from the beginning.
    pub fn accept(
        &mut self,
        event: Event,
        owner: Owner,
        endpoint: Endpoint,
        now: Instant,
    ) -> Option<Notice> {
        let number = self.next;
        self.next += 1;
        let refused = if self.closed {
            Some(Reason::Stopped)
        } else if self.disabled.holds(&owner, endpoint.url()) {
            Some(Reason::Disabled)
        } else {
            (self.pending >= self.bounds.max_pending).then_some(Reason::QueueFull)
        };
        let machine = endpoint.machine().to_owned();
        self.numbers.insert(event.id.clone(), number);
        let delivery = Delivery {
            event,
            owner,
            endpoint,
            state: State::Ready,
            attempts: 0,
            failures: 0,
            until: now + self.bounds.retry_for,
            last_status: None,
            last_error: None,
        };
        self.deliveries.insert(number, delivery);
        self.count_pending(1);
        if let Some(reason) = refused {
            return self.dead_letter(number, reason);
        }
        self.hosts.push(&machine, number);
        None
    }

    /// The attempts to be made now, each to be settled; and what is given up instead, since its
    /// endpoint turned out to be gone meanwhile.
    pub fn start(&mut self, now: Instant) -> (Vec<Job>, Vec<Notice>) {
        while let Some(&(at, number)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.enqueue(number);
        }
        let (mut jobs, mut notices) = (Vec::new(), Vec::new());
        while let Some(number) = self.hosts.start() {
            let Some(delivery) = self.deliveries.get_mut(&number) else {
                continue;
            };
            // It may have been given up while it stood in line.
            let is_ready = delivery.state == State::Ready;
            if !is_ready
                || self
                    .disabled
                    .holds(&delivery.owner, delivery.endpoint.url())
            {
                self.hosts.done(delivery.endpoint.machine());
                notices.extend(if is_ready {
                    self.dead_letter(number, Reason::Disabled)
                } else {
                    None
                });
                continue;
            }
            delivery.state = State::InFlight;
            delivery.attempts = delivery.attempts.saturating_add(1);
            jobs.push(Job {
                number,
                event: delivery.event.clone(),
                endpoint: delivery.endpoint.clone(),
            });
        }
        (jobs, notices)
    }

    /// When there is something to start that is not due yet.
    pub fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Writes down what came of an attempt.
    pub fn settle(
        &mut self,
        number: Number,
        attempted: Attempted,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<Notice> {
        let delivery = self.deliveries.get_mut(&number)?;
        self.hosts.done(delivery.endpoint.machine());
        if delivery.state != State::InFlight {
            // It was given up meanwhile.
            return None;
        }
        match attempted {
            Ok(status) => {
                delivery.last_status = Some(status);
                delivery.last_error = None;
                delivery.state = State::Delivered;
                let notice = notice(
                    delivery,
                    What::Delivered {
                        attempts: delivery.attempts,
                    },
                );
                self.counters.note_delivered();
                self.close(number, Status::Delivered);
                Some(notice)
            }
            Err((setback, retry_after)) => {
                self.counters.note_failed_attempt();
                delivery.failures = delivery.failures.saturating_add(1);
                delivery.last_status = setback.status();
                delivery.last_error = Some(setback);
                if setback == DeliveryError::Gone {
                    self.disabled.add(&delivery.owner, delivery.endpoint.url());
                    return self.dead_letter(number, Reason::Gone);
                }
                if self.closing {
                    return self.dead_letter(number, Reason::Stopped);
                }
                let wait = wait(delivery.failures, retry_after, rng);
                let at = now + wait;
                if at > delivery.until {
                    return self.dead_letter(number, Reason::Exhausted);
                }
                delivery.state = State::Waiting(at);
                self.timers.insert((at, number));
                Some(notice(delivery, What::Retrying { setback, wait }))
            }
        }
    }

    /// Has a delivery of this owner's tried again now, whatever became of it, for another day. One
    /// that is being tried stays as it is.
    pub fn retry(&mut self, owner: &Owner, id: &str, now: Instant) -> Result<Value, NoRetry> {
        let number = *self.numbers.get(id).ok_or(NoRetry::NotFound)?;
        let delivery = self
            .deliveries
            .get_mut(&number)
            .filter(|delivery| delivery.owner == *owner)
            .ok_or(NoRetry::NotFound)?;
        match delivery.state {
            State::InFlight | State::Ready => return Ok(delivery.describe(now)),
            State::Waiting(at) => {
                self.timers.remove(&(at, number));
            }
            State::Delivered | State::Failed(_) => {
                if self.pending >= self.bounds.max_pending {
                    return Err(NoRetry::QueueFull);
                }
                for over in [&mut self.delivered, &mut self.failed] {
                    over.retain(|known| *known != number);
                }
                self.count_pending(1);
            }
        }
        if let Some(delivery) = self.deliveries.get_mut(&number) {
            delivery.failures = 0;
            delivery.until = now + self.bounds.retry_for;
            // Whoever asks for it by hand has mended the endpoint, or wants to see whether it is.
            self.disabled.remove(owner, delivery.endpoint.url());
        }
        self.enqueue(number);
        self.deliveries
            .get(&number)
            .map(|delivery| delivery.describe(now))
            .ok_or(NoRetry::NotFound)
    }

    /// This owner's deliveries, newest first, from after the one named `after` on; `None` if there
    /// is no such one.
    pub fn list(
        &self,
        owner: &Owner,
        status: Option<Status>,
        after: Option<&str>,
        limit: usize,
        now: Instant,
    ) -> Option<Page> {
        let before = match after {
            None => Number::MAX,
            Some(id) => {
                let number = *self.numbers.get(id)?;
                self.deliveries
                    .get(&number)
                    .filter(|delivery| delivery.owner == *owner)
                    .map(|_| number)?
            }
        };
        let wanted = |delivery: &Delivery| {
            delivery.owner == *owner
                && status.is_none_or(|status| delivery.state.status() == status)
        };
        let mut found = self
            .deliveries
            .range(..before)
            .rev()
            .map(|(_, delivery)| delivery)
            .filter(|delivery| wanted(delivery));
        let deliveries = found
            .by_ref()
            .take(limit)
            .map(|delivery| delivery.describe(now))
            .collect();
        Some(Page {
            deliveries,
            has_more: found.next().is_some(),
        })
    }

    /// From now on every delivery gets one more attempt, and that at once.
    pub fn last_call(&mut self) {
        self.closing = true;
        for (_, number) in std::mem::take(&mut self.timers) {
            self.enqueue(number);
        }
    }

    /// Gives up what is still pending, and what may come yet, because nobody will try it any more.
    pub fn abandon(&mut self) -> Vec<Notice> {
        self.closed = true;
        let pending: Vec<Number> = self
            .deliveries
            .iter()
            .filter(|(_, delivery)| delivery.state.status() == Status::Pending)
            .map(|(number, _)| *number)
            .collect();
        pending
            .into_iter()
            .filter_map(|number| self.dead_letter(number, Reason::Stopped))
            .collect()
    }

    fn enqueue(&mut self, number: Number) {
        if let Some(delivery) = self.deliveries.get_mut(&number) {
            delivery.state = State::Ready;
            self.hosts.push(delivery.endpoint.machine(), number);
        }
    }

    fn dead_letter(&mut self, number: Number, reason: Reason) -> Option<Notice> {
        let delivery = self.deliveries.get_mut(&number)?;
        delivery.state = State::Failed(reason);
        let notice = notice(
            delivery,
            What::Dead {
                reason,
                setback: delivery.last_error,
            },
        );
        self.counters.note_dead();
        self.close(number, Status::Failed);
        Some(notice)
    }

    /// A delivery is over: it goes to the end of its list, and the list's first goes for good if it
    /// is full.
    fn close(&mut self, number: Number, status: Status) {
        self.count_pending(-1);
        let over = if status == Status::Delivered {
            &mut self.delivered
        } else {
            &mut self.failed
        };
        over.push_back(number);
        if over.len() > self.bounds.max_kept
            && let Some(oldest) = over.pop_front()
            && let Some(delivery) = self.deliveries.remove(&oldest)
        {
            self.numbers.remove(&delivery.event.id);
        }
    }

    fn count_pending(&mut self, change: isize) {
        self.pending = self.pending.saturating_add_signed(change);
        self.counters.set_pending(self.pending);
    }
}

fn notice(delivery: &Delivery, what: What) -> Notice {
    Notice {
        id: delivery.event.id.clone(),
        host: delivery.endpoint.host(),
        what,
    }
}

#[cfg(test)]
mod tests;
