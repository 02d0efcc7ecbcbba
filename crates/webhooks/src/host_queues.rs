//! Due deliveries, in one queue per host, with limits on concurrent attempts.
//!
//! Hosts take turns, and each has its own limit. A host that does not answer uses up only its own
//! places.

use std::collections::{HashMap, VecDeque};

use crate::delivery::Number;

/// Queues of due deliveries by host.
#[derive(Debug)]
pub(crate) struct HostQueues {
    /// Maximum number of concurrent attempts.
    limit: usize,
    /// Maximum number of concurrent attempts to one host.
    limit_per_host: usize,
    in_flight: usize,
    hosts: HashMap<Box<str>, HostQueue>,
    /// Hosts that have both a due delivery and a free place, each once.
    turns: VecDeque<Box<str>>,
}

#[derive(Debug, Default)]
struct HostQueue {
    due: VecDeque<Number>,
    in_flight: usize,
    has_turn: bool,
}

// === impl HostQueues ===

impl HostQueues {
    /// Creates queues with a limit on all attempts, and on those to one host.
    pub(crate) fn new(limit: usize, limit_per_host: usize) -> Self {
        Self {
            limit,
            limit_per_host,
            in_flight: 0,
            hosts: HashMap::new(),
            turns: VecDeque::new(),
        }
    }

    /// Appends a delivery to the queue of its host.
    pub(crate) fn push(&mut self, host: &str, number: Number) {
        self.hosts
            .entry(host.into())
            .or_default()
            .due
            .push_back(number);
        self.give_turn(host);
    }

    /// Takes the next delivery that may start. It occupies a place until [`HostQueues::done`].
    pub(crate) fn start(&mut self) -> Option<Number> {
        if self.in_flight >= self.limit {
            return None;
        }
        let host = self.turns.pop_front()?;
        let queue = self.hosts.get_mut(&host)?;
        queue.has_turn = false;
        let number = queue.due.pop_front()?;
        queue.in_flight += 1;
        self.in_flight += 1;
        self.give_turn(&host);
        Some(number)
    }

    /// Frees the place of a delivery to this host.
    pub(crate) fn done(&mut self, host: &str) {
        let Some(queue) = self.hosts.get_mut(host) else {
            return;
        };
        queue.in_flight = queue.in_flight.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        if queue.in_flight == 0 && queue.due.is_empty() {
            self.hosts.remove(host);
            return;
        }
        self.give_turn(host);
    }

    fn give_turn(&mut self, host: &str) {
        let Some(queue) = self.hosts.get_mut(host) else {
            return;
        };
        if !queue.has_turn && !queue.due.is_empty() && queue.in_flight < self.limit_per_host {
            queue.has_turn = true;
            self.turns.push_back(host.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(hosts: &mut HostQueues) -> Vec<Number> {
        std::iter::from_fn(|| hosts.start()).collect()
    }

    #[test]
    fn hosts_take_turns_within_both_limits() {
        let mut hosts = HostQueues::new(3, 2);
        for number in 0..5 {
            hosts.push("slow", number);
        }
        hosts.push("quick", 10);
        hosts.push("quick", 11);
        assert_eq!(started(&mut hosts), [0, 10, 1]);
        hosts.done("slow");
        // All places are occupied again: it was the quick host's turn.
        assert_eq!(started(&mut hosts), [11]);
        hosts.done("quick");
        assert_eq!(started(&mut hosts), [2]);
        hosts.done("quick");
        assert!(
            started(&mut hosts).is_empty(),
            "the slow host exceeds its limit"
        );
        hosts.done("slow");
        hosts.done("slow");
        assert_eq!(started(&mut hosts), [3, 4]);
        hosts.done("slow");
        hosts.done("slow");
        assert!(
            hosts.hosts.is_empty() && hosts.turns.is_empty() && hosts.in_flight == 0,
            "{hosts:?}"
        );
    }

    #[test]
    fn place_is_freed_only_once() {
        let mut hosts = HostQueues::new(1, 1);
        hosts.push("a", 1);
        assert_eq!(started(&mut hosts), [1]);
        hosts.done("a");
        hosts.done("a");
        hosts.push("b", 2);
        hosts.push("b", 3);
        assert_eq!(started(&mut hosts), [2]);
    }
}
