//! All deliveries on record: the pending ones, and the last that have ended.
//!
//! The queue uses no network and no clock: the dispatcher drives it and passes the time. It is
//! bounded: pending deliveries by `max_pending`, ended ones by `max_kept` of each kind. Matches of watch
//! rules take at most a quarter of `max_pending`, so that they leave room for ends of responses. A delivery
//! that does not fit becomes a dead letter at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use serde_json::Value;
use tokenwire_core::model::id::Owner;
use tokio::time::Instant;

use crate::backoff::wait;
use crate::counters::WebhookCounters;
use crate::delivery::{Attempted, Delivery, DeliveryError, Number, Reason, State, Status};
use crate::disabled::Disabled;
use crate::endpoint::Endpoint;
use crate::event::Event;
use crate::host_queues::HostQueues;

/// Limits of a queue, as in [`WebhookOptions`](crate::WebhookOptions).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) max_pending: usize,
    /// Of delivered ones, and again of dead letters.
    pub(crate) max_kept: usize,
    pub(crate) concurrency: usize,
    pub(crate) concurrency_per_host: usize,
    pub(crate) retry_for: Duration,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct DeliveryQueue {
    bounds: Bounds,
    counters: Arc<WebhookCounters>,
    /// In the order of acceptance.
    deliveries: BTreeMap<Number, Delivery>,
    numbers: HashMap<String, Number>,
    next: Number,
    timers: BTreeSet<(Instant, Number)>,
    hosts: HostQueues,
    pending: usize,
    /// Those of them that tell of matches of watch rules.
    pending_matches: usize,
    /// Ended deliveries, in the order of their ends.
    delivered: VecDeque<Number>,
    failed: VecDeque<Number>,
    /// The ids of dead letters that are not kept any more.
    dropped: Vec<String>,
    disabled: Disabled,
    /// Whether a failed attempt is the last one.
    closing: bool,
    /// Whether no more attempts are made.
    closed: bool,
}

/// One attempt to make.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) number: Number,
    pub(crate) event: Event,
    pub(crate) endpoint: Endpoint,
}

/// An event for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) kind: NoticeKind,
}

/// Result of a delivery or of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoticeKind {
    Delivered {
        attempts: u32,
    },
    Retrying {
        error: DeliveryError,
        wait: Duration,
    },
    Dead {
        reason: Reason,
        error: Option<DeliveryError>,
    },
}

/// Why a delivery cannot be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRetry {
    /// The owner has no such delivery.
    NotFound,
    /// Too many deliveries are pending.
    QueueFull,
}

/// One page of a list, newest first.
#[derive(Debug)]
pub struct Page {
    /// Deliveries as JSON objects.
    pub deliveries: Vec<Value>,
    /// Whether more follow.
    pub has_more: bool,
}

// === impl DeliveryQueue ===

impl DeliveryQueue {
    pub(crate) fn new(bounds: Bounds, counters: Arc<WebhookCounters>) -> Self {
        Self {
            bounds,
            counters,
            deliveries: BTreeMap::new(),
            numbers: HashMap::new(),
            next: 0,
            timers: BTreeSet::new(),
            hosts: HostQueues::new(bounds.concurrency, bounds.concurrency_per_host),
            pending: 0,
            pending_matches: 0,
            delivered: VecDeque::new(),
            failed: VecDeque::new(),
            dropped: Vec::new(),
            disabled: Disabled::default(),
            closing: false,
            closed: false,
        }
    }

    /// Returns the number of pending deliveries.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Adds a delivery. Returns a notice if it becomes a dead letter at once.
    pub(crate) fn accept(
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
        } else if self.disabled.contains(&owner, endpoint.url()) {
            Some(Reason::Disabled)
        } else {
            self.is_full_for(&event).then_some(Reason::QueueFull)
        };
        let host = endpoint.host().to_owned();
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
        self.count_pending(number, 1);
        if let Some(reason) = refused {
            return self.dead_letter(number, reason);
        }
        self.hosts.push(&host, number);
        None
    }

    /// Disables the endpoint of a dead letter of an earlier process.
    pub(crate) fn disable(&mut self, owner: &Owner, endpoint: &Endpoint) {
        self.disabled.add(owner, endpoint.url());
    }

    /// Returns the ids of this owner's dead letters whose 410 disabled the endpoint of a delivery.
    pub(crate) fn disabling(&self, owner: &Owner, id: &str) -> Vec<String> {
        let number = self.numbers.get(id);
        let Some(delivery) = number.and_then(|number| self.deliveries.get(number)) else {
            return Vec::new();
        };
        let failed = self
            .failed
            .iter()
            .filter_map(|number| self.deliveries.get(number));
        failed
            .filter(|other| {
                other.state == State::Failed(Reason::Gone)
                    && other.owner == *owner
                    && other.endpoint.url() == delivery.endpoint.url()
            })
            .map(|other| other.event.id.clone())
            .collect()
    }

    /// Adds a dead letter of an earlier process.
    pub(crate) fn accept_dead(
        &mut self,
        event: Event,
        owner: Owner,
        endpoint: Endpoint,
        (reason, attempts): (Reason, u32),
        now: Instant,
    ) {
        let number = self.next;
        self.next += 1;
        self.numbers.insert(event.id.clone(), number);
        let delivery = Delivery {
            event,
            owner,
            endpoint,
            state: State::Failed(reason),
            attempts,
            failures: 0,
            until: now,
            last_status: None,
            last_error: None,
        };
        self.deliveries.insert(number, delivery);
        self.failed.push_back(number);
        self.drop_oldest(Status::Failed);
    }

    /// Returns the number of attempts of a delivery.
    pub(crate) fn attempts(&self, id: &str) -> u32 {
        let number = self.numbers.get(id);
        let delivery = number.and_then(|number| self.deliveries.get(number));
        delivery.map_or(0, |delivery| delivery.attempts)
    }

    /// Returns the ids of dead letters that are not kept any more, once.
    pub(crate) fn take_dropped(&mut self) -> Vec<String> {
        std::mem::take(&mut self.dropped)
    }

    /// Returns the attempts to make now, each to be [settled](Self::settle), and notices of the
    /// deliveries whose endpoints were disabled meanwhile.
    pub(crate) fn start(&mut self, now: Instant) -> (Vec<Job>, Vec<Notice>) {
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
            // It may have ended while it was queued.
            let is_ready = delivery.state == State::Ready;
            if !is_ready
                || self
                    .disabled
                    .contains(&delivery.owner, delivery.endpoint.url())
            {
                self.hosts.done(delivery.endpoint.host());
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

    /// Returns the time of the next attempt that is not due yet.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Records the result of an attempt.
    pub(crate) fn settle(
        &mut self,
        number: Number,
        attempted: Attempted,
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<Notice> {
        let delivery = self.deliveries.get_mut(&number)?;
        self.hosts.done(delivery.endpoint.host());
        if delivery.state != State::InFlight {
            // It has ended meanwhile.
            return None;
        }
        match attempted {
            Ok(status) => {
                delivery.last_status = Some(status);
                delivery.last_error = None;
                delivery.state = State::Delivered;
                let notice = notice(
                    delivery,
                    NoticeKind::Delivered {
                        attempts: delivery.attempts,
                    },
                );
                self.counters.note_delivered();
                self.close(number, Status::Delivered);
                Some(notice)
            }
            Err((error, retry_after)) => {
                self.counters.note_failed_attempt();
                delivery.failures = delivery.failures.saturating_add(1);
                delivery.last_status = error.status();
                delivery.last_error = Some(error);
                if error == DeliveryError::Gone {
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
                Some(notice(delivery, NoticeKind::Retrying { error, wait }))
            }
        }
    }

    /// Retries a delivery of this owner now, in any state, with its full time for retries. A running
    /// attempt continues.
    pub(crate) fn retry(
        &mut self,
        owner: &Owner,
        id: &str,
        now: Instant,
    ) -> Result<Value, NoRetry> {
        let number = *self.numbers.get(id).ok_or(NoRetry::NotFound)?;
        let delivery = self
            .deliveries
            .get(&number)
            .filter(|delivery| delivery.owner == *owner)
            .ok_or(NoRetry::NotFound)?;
        let is_full = self.is_full_for(&delivery.event);
        match delivery.state {
            State::InFlight | State::Ready => return Ok(delivery.describe(now)),
            State::Waiting(at) => {
                self.timers.remove(&(at, number));
            }
            State::Delivered | State::Failed(_) => {
                if is_full {
                    return Err(NoRetry::QueueFull);
                }
                for ended in [&mut self.delivered, &mut self.failed] {
                    ended.retain(|known| *known != number);
                }
                self.count_pending(number, 1);
            }
        }
        if let Some(delivery) = self.deliveries.get_mut(&number) {
            delivery.failures = 0;
            delivery.until = now + self.bounds.retry_for;
            // A manual retry suggests that the endpoint works again.
            self.disabled.remove(owner, delivery.endpoint.url());
        }
        self.enqueue(number);
        self.deliveries
            .get(&number)
            .map(|delivery| delivery.describe(now))
            .ok_or(NoRetry::NotFound)
    }

    /// Returns a page of this owner's deliveries, newest first, that follow the delivery `after`.
    /// `None` if there is no such delivery.
    pub(crate) fn list(
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

    /// Makes every pending delivery due now, for one last attempt.
    pub(crate) fn last_call(&mut self) {
        self.closing = true;
        for (_, number) in std::mem::take(&mut self.timers) {
            self.enqueue(number);
        }
    }

    /// Turns all pending and future deliveries into dead letters, since no dispatcher runs any more.
    pub(crate) fn abandon(&mut self) -> Vec<Notice> {
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
            self.hosts.push(delivery.endpoint.host(), number);
        }
    }

    fn dead_letter(&mut self, number: Number, reason: Reason) -> Option<Notice> {
        let delivery = self.deliveries.get_mut(&number)?;
        delivery.state = State::Failed(reason);
        let notice = notice(
            delivery,
            NoticeKind::Dead {
                reason,
                error: delivery.last_error,
            },
        );
        self.counters.note_dead();
        self.close(number, Status::Failed);
        Some(notice)
    }

    /// Moves an ended delivery to its list, and removes the oldest of a full list.
    fn close(&mut self, number: Number, status: Status) {
        self.count_pending(number, -1);
        let ended = if status == Status::Delivered {
            &mut self.delivered
        } else {
            &mut self.failed
        };
        ended.push_back(number);
        self.drop_oldest(status);
    }

    fn drop_oldest(&mut self, status: Status) {
        let is_dead = status != Status::Delivered;
        let ended = if is_dead {
            &mut self.failed
        } else {
            &mut self.delivered
        };
        if ended.len() > self.bounds.max_kept
            && let Some(oldest) = ended.pop_front()
            && let Some(delivery) = self.deliveries.remove(&oldest)
        {
            self.numbers.remove(&delivery.event.id);
            if is_dead {
                self.dropped.push(delivery.event.id);
            }
        }
    }

    /// Whether no further event of this kind may be pending.
    fn is_full_for(&self, event: &Event) -> bool {
        let most_matches = (self.bounds.max_pending / 4).max(1);
        self.pending >= self.bounds.max_pending
            || event.is_match() && self.pending_matches >= most_matches
    }

    fn count_pending(&mut self, number: Number, change: isize) {
        let delivery = self.deliveries.get(&number);
        if delivery.is_some_and(|delivery| delivery.event.is_match()) {
            self.pending_matches = self.pending_matches.saturating_add_signed(change);
        }
        self.pending = self.pending.saturating_add_signed(change);
        self.counters.set_pending(self.pending);
    }
}

fn notice(delivery: &Delivery, kind: NoticeKind) -> Notice {
    Notice {
        id: delivery.event.id.clone(),
        host: delivery.endpoint.host_and_port(),
        kind,
    }
}

#[cfg(test)]
mod tests;
