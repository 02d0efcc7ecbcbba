//! The lanes of one socket: creates on one lane run in order, lanes run side by side.

use std::collections::{HashMap, VecDeque};

use tokenwire_core::model::account::Charge;
use tokenwire_core::request::ResponsesRequest;

use crate::text_frames::StreamId;

/// A lane's key: its name, or none for the socket's own lane.
pub(crate) type LaneKey = Option<StreamId>;

/// The lanes in use, and the creates that wait on them.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: HashMap<LaneKey, Lane>,
    queued: usize,
}

#[derive(Default)]
struct Lane {
    /// Whether a generation runs or is being started.
    busy: bool,
    waiting: VecDeque<QueuedCreate>,
}

/// A create that waits for its lane.
pub(crate) struct QueuedCreate {
    pub(crate) request: ResponsesRequest,
    /// Counts the request.
    pub(crate) charge: Charge,
}

impl Lanes {
    /// Whether a generation runs on this lane, or is being started.
    pub(crate) fn is_busy(&self, key: &LaneKey) -> bool {
        self.lanes.get(key).is_some_and(|lane| lane.busy)
    }

    /// Number of lanes that run a generation.
    pub(crate) fn running(&self) -> usize {
        self.lanes.values().filter(|lane| lane.busy).count()
    }

    /// Number of creates that wait, on all lanes together.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// Marks the lane as busy with a generation.
    pub(crate) fn run(&mut self, key: LaneKey) {
        self.lanes.entry(key).or_default().busy = true;
    }

    /// Lets a create wait for its lane.
    pub(crate) fn enqueue(&mut self, key: LaneKey, create: QueuedCreate) {
        self.queued += 1;
        self.lanes.entry(key).or_default().waiting.push_back(create);
    }

    /// Frees the lane, and returns the next create that waits on it. A lane on which nothing waits
    /// is removed.
    pub(crate) fn release(&mut self, key: &LaneKey) -> Option<QueuedCreate> {
        let lane = self.lanes.get_mut(key)?;
        lane.busy = false;
        let next = lane.waiting.pop_front();
        if next.is_some() {
            self.queued -= 1;
        } else {
            self.lanes.remove(key);
        }
        next
    }
}
