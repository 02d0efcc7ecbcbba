//! What a client may be told of a generation.

use tokenwire_core::model::error::ApiError;
use tokenwire_core::model::id::GenerationId;

use crate::connection::Session;
use crate::known::Deletion;
use crate::turn::now;
use crate::world::World;

impl World {
    /// Returns the process that an id names.
    pub(crate) fn process_of(&self, id: &GenerationId) -> usize {
        let health = self.health.lock();
        let tag = id.tag().expect("an id of a node");
        let found = health.iter().position(|process| process.tag == tag);
        found.expect("the process of an id")
    }

    /// Whether other nodes take such a generation over.
    pub(crate) fn is_replicated(&self, is_background: bool) -> bool {
        is_background || self.plan.replicated == tokenwire_core::engine::Replicated::All
    }

    /// Whether the process that started a generation may have shown an end that no other one knows of.
    /// Redis refuses none if it has lost everything.
    pub(crate) fn may_end_twice(&self, number: usize) -> bool {
        if self.is_flushed() {
            return true;
        }
        let (process, adopted) = {
            let model = self.model.lock();
            let known = &model.generations[number];
            (known.process, known.adopted)
        };
        adopted.is_some_and(|adopted| self.health.lock()[process].is_isolated(adopted))
    }
}

impl Session {
    pub(crate) fn deletion(&self, number: usize) -> Deletion {
        self.world.model.lock().generations[number].deletion
    }

    /// Checks the result of asking for a generation, whose deletion was in this state when it was asked
    /// for.
    pub(crate) fn check_found(
        &self,
        number: usize,
        before: Deletion,
        found: Result<(), &ApiError>,
    ) {
        let is_flushed = self.world.is_flushed();
        match found {
            Ok(()) if before == Deletion::Answered && !is_flushed && !self.was_away(number) => {
                self.fail(format_args!(
                    "generation {number} is there after it was deleted"
                ));
            }
            Err(error)
                if error.status == 404
                    && self.deletion(number) == Deletion::None
                    && !is_flushed =>
            {
                self.fail(format_args!("generation {number} is gone"));
            }
            _ => {}
        }
    }

    /// Whether some process did not run or answer when a generation was deleted. It may still have a copy,
    /// from which others read.
    fn was_away(&self, number: usize) -> bool {
        let deleted = self.world.model.lock().generations[number].deleted;
        let health = self.world.health.lock();
        health.iter().any(|process| process.was_away(deleted))
    }

    /// Checks that the key of a new generation is not that of an earlier one that has it still.
    pub(crate) fn check_key(&self, number: usize, marker: &str) {
        let model = self.world.model.lock();
        let mut earlier = model.generations.iter().enumerate();
        let found = earlier.find(|(earlier, known)| {
            let keeps = known.deletion == Deletion::None && !known.is_lost;
            *earlier < number && known.marker == marker && keeps && model.has_begun(*earlier)
        });
        let found = found.map(|(earlier, _)| earlier);
        drop(model);
        if let Some(earlier) = found.filter(|_| !self.world.is_flushed()) {
            self.fail(format_args!(
                "the key of generation {earlier} starts {number}"
            ));
        }
    }

    /// Notes that the node of a generation is said to be lost, and nothing of it to be stored.
    pub(crate) fn lost(&self, number: usize) {
        self.note(format_args!("is told that the node of {number} is lost"));
        let (is_background, process) = {
            let mut model = self.world.model.lock();
            let known = &mut model.generations[number];
            known.is_lost = true;
            (known.is_background, known.process)
        };
        self.memory.lock().reading = None;
        let (is_well, is_own_well) = {
            let health = self.world.health.lock();
            let own = &health[self.process.number];
            (health[process].is_well(now()), own.is_well(now()))
        };
        if is_well && is_own_well {
            self.fail(format_args!(
                "the process of {number} runs, and is said to be lost"
            ));
        }
        if is_background && !self.world.is_flushed() {
            self.fail(format_args!(
                "generation {number} is in the background, and is lost"
            ));
        }
    }

    /// Checks that readers have seen one terminal event.
    pub(crate) fn check_ends(&self, number: usize) -> Result<(), String> {
        let terminals = self.world.model.lock().generations[number]
            .terminals
            .clone();
        if terminals.len() < 2 || self.world.may_end_twice(number) {
            return Ok(());
        }
        Err(format!("it has ended twice: {terminals:?}"))
    }
}
