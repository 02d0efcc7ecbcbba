//! The world as the upstream of one process sees it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokenwire_core::upstream::Timeouts;
use tokenwire_testkit::simulation::UpstreamWorld;

use crate::world::World;

/// See the documentation of the module.
pub(crate) struct CalledBy {
    pub(crate) world: Arc<World>,
    pub(crate) process: usize,
}

impl UpstreamWorld for CalledBy {
    fn seed(&self) -> u64 {
        self.world.seed()
    }

    fn timeouts(&self) -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts {
            connect: seconds(0),
            first_token: seconds(10),
            between_tokens: seconds(10),
            total: seconds(60),
        }
    }

    fn slowness(&self) -> u64 {
        self.world.plan.slowness
    }

    fn called(&self, marker: String) -> usize {
        self.world.model.lock().called(self.process, &marker)
    }

    fn delivered(&self, call: usize, text: &str) {
        self.world.model.lock().delivered(call, text);
    }

    fn note(&self, what: fmt::Arguments<'_>) {
        self.world.note(what);
    }
}
