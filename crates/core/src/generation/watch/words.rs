//! Literal words of all rules in one automaton.

use aho_corasick::automaton::Automaton;
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, BuildError, MatchKind, dfa, nfa};

/// Words of fewer bytes get an automaton that takes one step per byte. It has some hundred bytes for
/// each of theirs.
const FAST_BYTES: usize = 8 * 1024;

/// The state of a text.
pub(super) type WordState = aho_corasick::automaton::StateID;

/// Finds words of many rules in one pass.
pub(super) struct Words {
    automaton: WordAutomaton,
    start: WordState,
    /// The rule of each word.
    rules: Vec<u32>,
}

enum WordAutomaton {
    /// For few words.
    Fast(Box<dfa::DFA>),
    /// Takes a few times the bytes of the words.
    Compact(Box<NFA>),
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
        let automaton = WordAutomaton::of(words).map_err(|error| error.to_string())?;
        let start = match &automaton {
            WordAutomaton::Fast(dfa) => dfa.start_state(Anchored::No),
            WordAutomaton::Compact(nfa) => nfa.start_state(Anchored::No),
        };
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
        found: impl FnMut(u32, usize),
    ) {
        match &self.automaton {
            WordAutomaton::Fast(dfa) => advance(&**dfa, &self.rules, state, text, found),
            WordAutomaton::Compact(nfa) => advance(&**nfa, &self.rules, state, text, found),
        }
    }
}

fn advance(
    automaton: &impl Automaton,
    rules: &[u32],
    state: &mut WordState,
    text: &[u8],
    mut found: impl FnMut(u32, usize),
) {
    let mut now = *state;
    for (at, byte) in text.iter().enumerate() {
        now = automaton.next_state(Anchored::No, now, *byte);
        if automaton.is_special(now) && automaton.is_match(now) {
            for index in 0..automaton.match_len(now) {
                let word = automaton.match_pattern(now, index);
                if let Some(rule) = rules.get(word.as_usize()) {
                    found(*rule, at + 1);
                }
            }
        }
    }
    *state = now;
}

// === impl WordAutomaton ===

impl WordAutomaton {
    fn of(words: &[(u32, &str)]) -> Result<Self, BuildError> {
        let bytes: usize = words.iter().map(|(_, word)| word.len()).sum();
        let words = words.iter().map(|(_, word)| word);
        if bytes < FAST_BYTES {
            let mut builder = dfa::Builder::new();
            builder.match_kind(MatchKind::Standard).prefilter(false);
            builder.start_kind(aho_corasick::StartKind::Unanchored);
            return Ok(Self::Fast(Box::new(builder.build(words)?)));
        }
        let mut builder = nfa::contiguous::Builder::new();
        builder.match_kind(MatchKind::Standard).prefilter(false);
        Ok(Self::Compact(Box::new(builder.build(words)?)))
    }
}
