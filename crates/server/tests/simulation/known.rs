//! A generation that a client was told of, and what readers have seen of it.

use std::collections::{BTreeMap, BTreeSet};

use tokenwire_core::model::id::{Epoch, GenerationId};
use tokenwire_testkit::Line;
use tokenwire_testkit::simulation::{View, is_terminal};

use crate::post::Received;

/// See the documentation of the module.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) id: GenerationId,
    /// The name of its request.
    pub(crate) marker: String,
    /// The process that started it.
    pub(crate) process: usize,
    pub(crate) is_background: bool,
    pub(crate) is_replicated: bool,
    pub(crate) deletion: Deletion,
    /// When a deletion was answered.
    pub(crate) deleted: u64,
    /// Where its epochs before the last one ended, as Redis has it.
    pub(crate) epoch_ends: Vec<u64>,
    /// When it was adopted last.
    pub(crate) adopted: Option<u64>,
    /// How often Redis has taken its end.
    pub(crate) seals: usize,
    /// Whether a client was told that its node is lost.
    pub(crate) is_lost: bool,
    pub(crate) calls: Vec<usize>,
    pub(crate) webhooks: Vec<Received>,
    /// The first frame that a reader of each view got at a number: its place among the frames of that
    /// number, and its payload.
    frames: BTreeMap<(View, u64, usize), String>,
    /// The numbers of the terminal events that readers got.
    pub(crate) terminals: BTreeSet<u64>,
    pub(crate) connections: Vec<Connection>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deletion {
    None,
    /// A client waits for the answer, or has lost it.
    Asked,
    Answered,
}

/// What one connection of a reader has received.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) view: View,
    /// The number that it reads after.
    pub(crate) after: Option<u64>,
    pub(crate) frames: Vec<(u64, String)>,
    /// Whether it has read to the end.
    pub(crate) is_complete: bool,
}

// === impl Known ===

impl Known {
    pub(crate) fn new(id: &GenerationId, marker: &str, process: usize) -> Self {
        Self {
            id: id.clone(),
            marker: marker.to_owned(),
            process,
            is_background: false,
            is_replicated: false,
            deletion: Deletion::None,
            deleted: 0,
            epoch_ends: Vec::new(),
            adopted: None,
            seals: 0,
            is_lost: false,
            calls: Vec::new(),
            webhooks: Vec::new(),
            frames: BTreeMap::new(),
            terminals: BTreeSet::new(),
            connections: Vec::new(),
        }
    }

    /// Notes a connection that reads after this number. Returns its number.
    pub(crate) fn connect(&mut self, view: View, after: Option<u64>) -> usize {
        self.connections.push(Connection {
            view,
            after,
            frames: Vec::new(),
            is_complete: false,
        });
        self.connections.len() - 1
    }

    /// Returns true if the event of this number may have been shown, but was never stored.
    pub(crate) fn is_lost_at(&self, number: u64) -> bool {
        let epochs = self.epoch_ends.iter().zip(2..);
        let mut lost = epochs.map(|(end, epoch)| *end..Epoch(epoch).first_seq().0);
        lost.any(|numbers| numbers.contains(&number))
    }

    /// Notes a `tokenwire:reset` that a connection got: what follows is newer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn observe_reset(&mut self, connection: usize, seq: u64) -> Result<(), String> {
        let was_adopted = self.adopted.is_some();
        let connection = &mut self.connections[connection];
        connection.frames.clear();
        connection.after = Some(seq);
        if was_adopted {
            Ok(())
        } else {
            Err(format!(
                "it is reset at {seq}, and no node has taken it over"
            ))
        }
    }

    /// Notes a frame that a connection got.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn observe(&mut self, connection: usize, line: &Line) -> Result<(), String> {
        let Connection {
            view,
            after,
            frames,
            ..
        } = &self.connections[connection];
        let (view, seq) = (*view, line.seq);
        let last = frames.last().map(|(seq, _)| *seq);
        let nth = frames
            .iter()
            .rev()
            .take_while(|(number, _)| *number == seq)
            .count();
        let position = last.or(*after);
        let is_done = line.data == "[DONE]" && last == Some(seq);
        if let Some(position) = position.filter(|_| view.is_numbered() && !is_done)
            && seq <= position
        {
            return Err(format!("event {seq} follows event {position}"));
        }
        if view.is_full() && !is_done {
            self.check_place(position.map_or(0, |position| position + 1), line)?;
        }
        self.connections[connection]
            .frames
            .push((seq, line.data.clone()));
        let first = self.frames.entry((view, seq, nth));
        let first = first.or_insert_with(|| line.data.clone());
        if *first != line.data {
            let data = &line.data;
            return Err(format!(
                "event {seq} is\n  {data}\nhere, and was\n  {first}"
            ));
        }
        if is_terminal(line) {
            self.terminals.insert(seq);
        }
        Ok(())
    }

    /// Checks that nothing is left out before a frame, where `next` is the number that follows.
    fn check_place(&self, next: u64, line: &Line) -> Result<(), String> {
        let seq = line.seq;
        // The terminal event may skip two numbers.
        let follows = |next: u64| seq == next || seq == next + 2 && is_terminal(line);
        let epoch = seq / Epoch::NUMBERS + 1;
        if follows(next) {
            return Ok(());
        }
        let ends = self.epoch_ends.get(..epoch as usize - 1);
        let is_whole = ends.and_then(<[u64]>::last).is_some_and(|end| *end == next);
        if follows(Epoch(epoch).first_seq().0) && is_whole {
            return Ok(());
        }
        let ends = &self.epoch_ends;
        Err(format!(
            "event {seq} comes in place of {next}; epochs end at {ends:?}"
        ))
    }
}
