//! Who is next: deliveries that are due, in a line a machine, with bounds on how many are on their
//! way.
//!
//! A machine that does not answer holds its own places and no others: machines take turns, and each
//! has a bound of its own.

use std::collections::{HashMap, VecDeque};

use super::delivery::Number;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Lanes {
    /// How many may be on their way in all.
    most: usize,
    /// How many may be on their way to one machine.
    most_each: usize,
    in_flight: usize,
    lanes: HashMap<Box<str>, Lane>,
    /// The machines that have both somebody in line and a place, each once.
    turns: VecDeque<Box<str>>,
}

#[derive(Debug, Default)]
struct Lane {
    line: VecDeque<Number>,
    in_flight: usize,
    has_turn: bool,
}

// === impl Lanes ===

impl Lanes {
    pub(crate) fn new(most: usize, most_each: usize) -> Self {
        Self {
            most,
            most_each,
            in_flight: 0,
            lanes: HashMap::new(),
            turns: VecDeque::new(),
        }
    }

    /// Puts a delivery at the end of its machine's line.
    pub(crate) fn push(&mut self, machine: &str, number: Number) {
        self.lanes
            .entry(machine.into())
            .or_default()
            .line
            .push_back(number);
        self.give_turn(machine);
    }

    /// The next delivery that may start; its place is taken until [`Lanes::done`].
    pub(crate) fn start(&mut self) -> Option<Number> {
        if self.in_flight >= self.most {
            return None;
        }
        let machine = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&machine)?;
        lane.has_turn = false;
        let number = lane.line.pop_front()?;
        lane.in_flight += 1;
        self.in_flight += 1;
        self.give_turn(&machine);
        Some(number)
    }

    /// A delivery to this machine is over for now.
    pub(crate) fn done(&mut self, machine: &str) {
        let Some(lane) = self.lanes.get_mut(machine) else {
            return;
        };
        lane.in_flight = lane.in_flight.saturating_sub(1);
        self.in_flight = self.in_flight.saturating_sub(1);
        if lane.in_flight == 0 && lane.line.is_empty() {
            self.lanes.remove(machine);
            return;
        }
        self.give_turn(machine);
    }

    fn give_turn(&mut self, machine: &str) {
        let Some(lane) = self.lanes.get_mut(machine) else {
            return;
        };
        if !lane.has_turn && !lane.line.is_empty() && lane.in_flight < self.most_each {
            lane.has_turn = true;
            self.turns.push_back(machine.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(lanes: &mut Lanes) -> Vec<Number> {
        std::iter::from_fn(|| lanes.start()).collect()
    }

    #[test]
    fn machines_take_turns_within_both_bounds() {
        let mut lanes = Lanes::new(3, 2);
        for number in 0..5 {
            lanes.push("slow", number);
        }
        lanes.push("quick", 10);
        lanes.push("quick", 11);
        assert_eq!(started(&mut lanes), [0, 10, 1]);
        lanes.done("slow");
        // All places are taken again: the quick machine was first in line for a turn.
        assert_eq!(started(&mut lanes), [11]);
        lanes.done("quick");
        assert_eq!(started(&mut lanes), [2]);
        lanes.done("quick");
        assert!(
            started(&mut lanes).is_empty(),
            "the slow machine has its two"
        );
        lanes.done("slow");
        lanes.done("slow");
        assert_eq!(started(&mut lanes), [3, 4]);
        lanes.done("slow");
        lanes.done("slow");
        assert!(
            lanes.lanes.is_empty() && lanes.turns.is_empty() && lanes.in_flight == 0,
            "{lanes:?}"
        );
    }

    #[test]
    fn what_is_done_twice_does_not_count_twice() {
        let mut lanes = Lanes::new(1, 1);
        lanes.push("a", 1);
        assert_eq!(started(&mut lanes), [1]);
        lanes.done("a");
        lanes.done("a");
        lanes.push("b", 2);
        lanes.push("b", 3);
        assert_eq!(started(&mut lanes), [2]);
    }
}
