//! Who is next: deliveries that are due, in a line a machine, with bounds on how many are on their
//! way.
//!
//! A machine that does not answer holds its own places and no others: machines take turns, and each
//! has a bound of its own.

use std::collections::{HashMap, VecDeque};

use super::delivery::Number;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct HostQueues {
    /// How many may be on their way in all.
    most: usize,
    /// How many may be on their way to one machine.
    most_each: usize,
    in_flight: usize,
    hosts: HashMap<Box<str>, HostQueue>,
    /// The machines that have both somebody in line and a place, each once.
    turns: VecDeque<Box<str>>,
}

#[derive(Debug, Default)]
struct HostQueue {
    line: VecDeque<Number>,
    in_flight: usize,
    has_turn: bool,
}

// === impl HostQueues ===

impl HostQueues {
    pub(crate) fn new(most: usize, most_each: usize) -> Self {
        Self {
            most,
            most_each,
            in_flight: 0,
            hosts: HashMap::new(),
            turns: VecDeque::new(),
        }
    }

    /// Puts a delivery at the end of its machine's line.
    pub(crate) fn push(&mut self, machine: &str, number: Number) {
        self.hosts
            .entry(machine.into())
            .or_default()
            .line
            .push_back(number);
        self.give_turn(machine);
    }

    /// The next delivery that may start; its place is taken until [`HostQueues::done`].
    pub(crate) fn start(&mut self) -> Option<Number> {
        if self.in_flight >= self.most {
            return None;
        }
        let machine = self.turns.pop_front()?;
        let host = self.hosts.get_mut(&machine)?;
        host.has_turn = false;
        let number = host.line.pop_front()?;
        host.in_flight += 1;
        self.in_flight += 1;
        self.give_turn(&machine);
        Some(number)
    }

    /// A delivery to this machine is over for now.
    pub(crate) fn done(&mut self, machine: &str) {
        let Some(host) = self.hosts.get_mut(machine) else {
            return;
        };
        host.in_flight = host.in_flight.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        if host.in_flight == 0 && host.line.is_empty() {
            self.hosts.remove(machine);
            return;
        }
        self.give_turn(machine);
    }

    fn give_turn(&mut self, machine: &str) {
        let Some(host) = self.hosts.get_mut(machine) else {
            return;
        };
        if !host.has_turn && !host.line.is_empty() && host.in_flight < self.most_each {
            host.has_turn = true;
            self.turns.push_back(machine.into());
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
    fn machines_take_turns_within_both_bounds() {
        let mut hosts = HostQueues::new(3, 2);
        for number in 0..5 {
            hosts.push("slow", number);
        }
        hosts.push("quick", 10);
        hosts.push("quick", 11);
        assert_eq!(started(&mut hosts), [0, 10, 1]);
        hosts.done("slow");
        // All places are taken again: the quick machine was first in line for a turn.
        assert_eq!(started(&mut hosts), [11]);
        hosts.done("quick");
        assert_eq!(started(&mut hosts), [2]);
        hosts.done("quick");
        assert!(
            started(&mut hosts).is_empty(),
            "the slow machine has its two"
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
    fn what_is_done_twice_does_not_count_twice() {
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
