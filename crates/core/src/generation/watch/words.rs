//! Literal words of all rules in one automaton.

use aho_corasick::automaton::Automaton as _;
use aho_corasick::nfa::contiguous::{Builder, NFA};
use aho_corasick::{Anchored, MatchKind};

/// The state of a text.
pub(super) type WordState = aho_corasick::automaton::StateID;

/// Finds words of many rules in one pass. The automaton has a few times the bytes of the words.
#[derive(Debug)]
pub(super) struct Words {
    automaton: NFA,
    start: WordState,
    /// The rule of each word.
    rules: Vec<u32>,
}

// === impl Words ===

impl Words {
    /// Builds the automaton of words with the numbers of their rules. `None` without words.
    ///
    /// # Errors
    /// The words are too many or too long for it.
    pub(super) fn new(words: &[(u32, &str)]) -> Result<Option<Self>, String> {
        if words.is_empty() {
            return Ok(None);
        }
        let automaton = Builder::new()
            .match_kind(MatchKind::Standard)
            .prefilter(false)
            .build(words.iter().map(|(_, word)| word));
        let automaton = automaton.map_err(|error| error.to_string())?;
        let start = automaton.start_state(Anchored::No);
        Ok(Some(Self {
            start: start.map_err(|error| error.to_string())?,
            automaton,
            rules: words.iter().map(|(rule, _)| *rule).collect(),
        }))
    }

    /// Returns the state before a text.
    pub(super) fn start(&self) -> WordState {
        self.start
    }

    /// Goes on with this text. Calls `found` with a rule and the bytes up to the end of the word, for
    /// each word.
    pub(super) fn advance(
        &self,
        state: &mut WordState,
        text: &[u8],
        mut found: impl FnMut(u32, usize),
    ) {
        let mut now = *state;
        for (at, byte) in text.iter().enumerate() {
            now = self.automaton.next_state(Anchored::No, now, *byte);
            if self.automaton.is_special(now) && self.automaton.is_match(now) {
                for index in 0..self.automaton.match_len(now) {
                    let word = self.automaton.match_pattern(now, index);
                    if let Some(rule) = self.rules.get(word.as_usize()) {
                        found(*rule, at + 1);
                    }
                }
            }
        }
        *state = now;
    }
}
