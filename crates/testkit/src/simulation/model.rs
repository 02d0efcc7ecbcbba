//! What a correct gateway must show: the model that every reader is compared with.

use std::collections::BTreeMap;

use tokenwire_core::dialect::Dialect;
use tokenwire_core::engine::ReaderKind;
use tokenwire_core::log::StoredLog;
use tokenwire_core::model::id::{Epoch, GenerationId, Seq};

use super::view::View;
use crate::framing::Line;

/// Everything that the simulated clients and upstreams did.
#[derive(Default)]
pub(super) struct Model {
    pub(super) generations: Vec<Known>,
    calls: Vec<CallText>,
    /// The process that runs, from 0.
    pub(super) process: usize,
}

/// The text that one call of the upstream delivered.
#[derive(Default)]
struct CallText {
    text: String,
    chunks: usize,
}

/// A generation that a client was told of.
pub(super) struct Known {
    pub(super) id: GenerationId,
    /// The name of its request.
    pub(super) marker: String,
    /// The process that started it.
    pub(super) process: usize,
    /// Where the epochs before the current one ended, as the store had it after a crash.
    pub(super) epoch_ends: Vec<u64>,
    pub(super) deletion: Deletion,
    /// Everything before it was acknowledged by the store.
    pub(super) committed: u64,
    /// Whether the store has acknowledged its end.
    pub(super) is_sealed: bool,
    /// `committed` and `is_sealed` at the last sync.
    pub(super) durable: (u64, bool),
    /// Whether a loss of power has left the object of the response alone.
    pub(super) is_object: bool,
    /// Whether the store had nothing of it after a crash.
    pub(super) is_lost: bool,
    calls: Vec<usize>,
    /// The first frame that a reader of each view got at a number: its position among the frames of
    /// that number, and its payload.
    frames: BTreeMap<(View, u64, usize), String>,
    pub(super) connections: Vec<Connection>,
    /// How many clients were told of it that have read nothing.
    pub(super) silent: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    None,
    /// The client waits for the answer.
    Asked,
    Answered,
}

/// What a connection reads.
#[derive(Clone, Copy)]
pub(super) struct Connected {
    pub(super) generation: usize,
    pub(super) view: View,
    pub(super) after: Option<u64>,
}

/// What one connection of a reader has received.
pub(super) struct Connection {
    pub(super) view: View,
    pub(super) after: Option<u64>,
    /// Whether the reader has named a number that it has not seen. If it lies past the head, the
    /// reader gets the terminal event, whatever its number.
    pub(super) is_ahead: bool,
    pub(super) frames: Vec<(u64, String)>,
    /// Whether it has read to the end.
    pub(super) is_complete: bool,
    /// The store has lost the events from here on that this connection has seen.
    pub(super) valid_below: u64,
    process: usize,
}

// === impl Model ===

impl Model {
    /// Notes a generation that a client has started. Returns its number.
    pub(super) fn started(&mut self, id: &GenerationId, marker: &str) -> usize {
        self.generations.push(Known {
            id: id.clone(),
            marker: marker.to_owned(),
            process: self.process,
            epoch_ends: Vec::new(),
            deletion: Deletion::None,
            committed: 0,
            is_sealed: false,
            durable: (0, false),
            is_object: false,
            is_lost: false,
            calls: Vec::new(),
            frames: BTreeMap::new(),
            connections: Vec::new(),
            silent: 0,
        });
        self.generations.len() - 1
    }

    /// Notes that the store has acknowledged everything before this number.
    pub(super) fn committed(&mut self, id: &GenerationId, upto: u64) {
        let mut generations = self.generations.iter_mut();
        if let Some(known) = generations.find(|known| known.id == *id) {
            known.committed = known.committed.max(upto);
        }
    }

    /// Notes that the store has acknowledged the end.
    pub(super) fn sealed(&mut self, id: &GenerationId) {
        let mut generations = self.generations.iter_mut();
        if let Some(known) = generations.find(|known| known.id == *id) {
            known.is_sealed = true;
        }
    }

    /// Notes that what the store has acknowledged is durable.
    pub(super) fn synced(&mut self) {
        for known in &mut self.generations {
            known.durable = (known.committed, known.is_sealed);
        }
    }

    /// Notes where the epochs of a recovered log ended.
    pub(super) fn recovered(&mut self, id: &GenerationId, ends: &[Seq]) {
        let mut generations = self.generations.iter_mut();
        if let Some(known) = generations.find(|known| known.id == *id) {
            known.epoch_ends = ends.iter().map(|end| end.0).collect();
        }
    }

    /// Returns the number of a generation.
    pub(super) fn number(&self, id: &GenerationId) -> Option<usize> {
        self.generations.iter().rposition(|known| known.id == *id)
    }

    /// Notes a call of the upstream for the last generation of this name. Returns its number.
    pub(super) fn called(&mut self, marker: String) -> usize {
        let call = self.calls.len();
        self.calls.push(CallText::default());
        let mut generations = self.generations.iter_mut().rev();
        if let Some(known) = generations.find(|known| known.marker == marker) {
            known.calls.push(call);
        }
        call
    }

    /// Notes a chunk or an event that the upstream delivered, with the text in it.
    pub(super) fn delivered(&mut self, call: usize, text: &str) {
        self.calls[call].text.push_str(text);
        self.calls[call].chunks += 1;
    }

    /// Returns the text that the upstream delivered for a generation so far.
    pub(super) fn text(&self, generation: usize) -> String {
        let calls = self.generations[generation].calls.iter();
        calls.map(|call| self.calls[*call].text.as_str()).collect()
    }

    /// Returns true if the upstream has delivered a chunk.
    pub(super) fn has_begun(&self, generation: usize) -> bool {
        let mut calls = self.generations[generation].calls.iter();
        calls.any(|call| self.calls[*call].chunks > 0)
    }

    /// Notes a connection that reads after this number. Returns its number.
    pub(super) fn connect(&mut self, connected: Connected, is_ahead: bool) -> usize {
        let Connected {
            generation,
            view,
            after,
        } = connected;
        let process = self.process;
        let connections = &mut self.generations[generation].connections;
        connections.push(Connection {
            view,
            after,
            is_ahead,
            frames: Vec::new(),
            is_complete: false,
            valid_below: u64::MAX,
            process,
        });
        connections.len() - 1
    }

    /// Notes that the process has crashed, and what the store has of a generation.
    pub(super) fn crashed(&mut self, generation: usize, stored: Option<&StoredLog>) {
        let process = self.process;
        let known = &mut self.generations[generation];
        known.is_lost = stored.is_none();
        let end = stored.map_or(0, |stored| stored.end.0);
        if let Some(stored) = stored {
            known.epoch_ends = stored.epoch_ends.iter().map(|end| end.0).collect();
            known.epoch_ends.extend((!stored.sealed).then_some(end));
        }
        known.frames.retain(|(_, seq, _), _| *seq < end);
        for connection in &mut known.connections {
            if connection.process == process {
                connection.valid_below = end;
            }
        }
    }
}

// === impl Known ===

impl Known {
    /// Returns true if a process that wrote it has crashed.
    pub(super) fn was_cut(&self) -> bool {
        !self.epoch_ends.is_empty()
    }

    /// Returns true if the event of this number may have been shown, but was never stored.
    pub(super) fn is_lost_at(&self, number: u64) -> bool {
        let epochs = self.epoch_ends.iter().zip(2..);
        let mut lost = epochs.map(|(end, epoch)| *end..Epoch(epoch).first_seq().0);
        lost.any(|numbers| numbers.contains(&number))
    }

    /// Returns the last number that a connection of this view has read to the end.
    pub(super) fn last_of(&self, view: View) -> Option<u64> {
        let mut connections = self.connections.iter().rev();
        let complete = connections.find(|other| other.view == view && other.is_complete)?;
        complete.frames.last().map(|(seq, _)| *seq)
    }

    /// Notes a `tokenwire:reset` that a connection got: what follows is newer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn observe_reset(&mut self, connection: usize, seq: u64) -> Result<(), String> {
        let after = self.connections[connection].after;
        if !after.is_some_and(|after| self.is_lost_at(after)) {
            return Err(format!("a reader after {after:?} is reset at {seq}"));
        }
        let connection = &mut self.connections[connection];
        connection.after = Some(seq);
        if connection.frames.is_empty() {
            Ok(())
        } else {
            Err(format!("the reset at {seq} follows other frames"))
        }
    }

    /// Notes a frame that a connection got.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn observe(&mut self, connection: usize, line: &Line) -> Result<(), String> {
        let reader = &self.connections[connection];
        let was_lost = reader.after.is_some_and(|after| self.is_lost_at(after));
        if was_lost && reader.view.kind() != ReaderKind::Sdk {
            return Err(format!("the reader after {:?} is not reset", reader.after));
        }
        let Connection {
            view,
            after,
            is_ahead,
            frames,
            ..
        } = &mut self.connections[connection];
        let (view, seq) = (*view, line.seq);
        if after.is_some_and(|after| seq <= after) && view.is_numbered() && !*is_ahead {
            return Err(format!("event {seq} comes again: the reader has it"));
        }
        let nth = frames
            .iter()
            .rev()
            .take_while(|(number, _)| *number == seq)
            .count();
        if let Some((before, _)) = frames.last() {
            // Only the responses dialect's `[DONE]` has the number of the frame before it.
            let is_done = view.dialect() == Dialect::Responses && line.data == "[DONE]";
            let repeats = nth > 0 && view.is_numbered() && !is_done;
            if *before > seq || repeats {
                return Err(format!("event {seq} follows event {before}"));
            }
            // The terminal event may skip two numbers, an epoch starts at a multiple of 2^24.
            let is_epoch = seq % Epoch::NUMBERS == 0 && seq > 0;
            let skips = seq == *before + 3 && is_terminal(line);
            if view.is_full() && nth == 0 && seq != *before + 1 && !is_epoch && !skips {
                return Err(format!("event {seq} follows event {before}: some are lost"));
            }
        }
        frames.push((seq, line.data.clone()));
        let first = self
            .frames
            .entry((view, seq, nth))
            .or_insert_with(|| line.data.clone());
        if *first != line.data {
            return Err(format!(
                "event {seq} is\n  {}\nfor one reader, and\n  {}\nfor another of the same view",
                line.data, first
            ));
        }
        Ok(())
    }
}

/// Returns true for a terminal event of the responses dialect.
#[must_use]
pub fn is_terminal(line: &Line) -> bool {
    let kinds = [
        "response.completed",
        "response.incomplete",
        "response.failed",
    ];
    line.name
        .as_deref()
        .is_some_and(|name| kinds.contains(&name))
}
