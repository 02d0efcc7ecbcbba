//! What the clients and the upstreams did, and what nodes have stored.

use tokenwire_core::model::id::GenerationId;

use crate::known::Known;

/// See the documentation of the module.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) generations: Vec<Known>,
    calls: Vec<CallText>,
    requests: u64,
}

/// The text that one call of the upstream delivered.
#[derive(Debug, Default)]
struct CallText {
    text: String,
    chunks: usize,
}

// === impl Model ===

impl Model {
    /// Returns the number of a generation.
    pub(crate) fn number(&self, id: &str) -> Option<usize> {
        let mut generations = self.generations.iter();
        generations.position(|known| known.id.as_str() == id)
    }

    /// Notes a generation that a client has started. Returns its number.
    pub(crate) fn started(&mut self, id: &GenerationId, marker: &str, process: usize) -> usize {
        self.generations.push(Known::new(id, marker, process));
        self.generations.len() - 1
    }

    /// Returns a number for a request without a key.
    pub(crate) fn next_request(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// Notes a call of the upstream by a process, for its last generation of this name.
    pub(crate) fn called(&mut self, process: usize, marker: &str) -> usize {
        let call = self.calls.len();
        self.calls.push(CallText::default());
        let mut generations = self.generations.iter_mut().rev();
        let asked = |known: &&mut Known| known.marker == marker && known.process == process;
        if let Some(known) = generations.find(asked) {
            known.calls.push(call);
        }
        call
    }

    /// Notes text that a call has delivered.
    pub(crate) fn delivered(&mut self, call: usize, text: &str) {
        self.calls[call].text.push_str(text);
        self.calls[call].chunks += 1;
    }

    /// Returns the text that the upstream delivered for a generation so far.
    pub(crate) fn text(&self, generation: usize) -> String {
        let calls = self.generations[generation].calls.iter();
        calls.map(|call| self.calls[*call].text.as_str()).collect()
    }

    /// Whether the upstream has delivered a chunk of a generation.
    pub(crate) fn has_begun(&self, generation: usize) -> bool {
        let mut calls = self.generations[generation].calls.iter();
        calls.any(|call| self.calls[*call].chunks > 0)
    }
}
