//! A regular expression as an automaton that goes on from any place of a text.

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson::{self, NFA};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};

use super::rule_problem::RuleProblem;

/// The most bytes of one automaton.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// The most bytes while it is built.
const MAX_BUILD_BYTES: usize = 32 << 20;

/// The state of a text: `None` once it need not be looked at any more.
pub(super) type ExpressionState = Option<StateID>;

/// One expression. It takes one step per byte, and no memory beside its state.
pub(super) struct Expression {
    pub(super) rule: u32,
    dfa: dense::DFA<Vec<u32>>,
    start: StateID,
    /// Whether a match depends on what follows it: `$`, `\b`.
    looks: bool,
}

// === impl Expression ===

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Why it cannot be watched for.
    pub(super) fn new(rule: u32, expression: &str) -> Result<Self, RuleProblem> {
        let config = thompson::Config::new().nfa_size_limit(Some(MAX_BYTES));
        let nfa = NFA::compiler().configure(config).build(expression);
        let nfa = nfa.map_err(|error| match error.size_limit() {
            Some(_) => RuleProblem::TooLarge,
            // The text of the syntax error has several lines with the expression.
            None => RuleProblem::Syntax(reason(&error)),
        })?;
        if nfa.look_set_any().contains_word_unicode() {
            return Err(RuleProblem::UnicodeWordBoundary);
        }
        if nfa.has_empty() {
            return Err(RuleProblem::MatchesNothing);
        }
        let config = dense::Config::new()
            .start_kind(StartKind::Unanchored)
            .match_kind(MatchKind::All)
            .accelerate(false)
            .dfa_size_limit(Some(MAX_BYTES))
            .determinize_size_limit(Some(MAX_BUILD_BYTES));
        let dfa = dense::Builder::new().configure(config).build_from_nfa(&nfa);
        let dfa = dfa.map_err(|error| match error.is_size_limit_exceeded() {
            true => RuleProblem::TooLarge,
            false => RuleProblem::Syntax(reason(&error)),
        })?;
        let before = start::Config::new().anchored(Anchored::No);
        let start = dfa.start_state(&before);
        let start = start.map_err(|error| RuleProblem::Syntax(error.to_string()))?;
        Ok(Self {
            rule,
            looks: !nfa.look_set_any().is_empty(),
            dfa,
            start,
        })
    }

    /// Bytes that the automaton takes.
    pub(super) fn memory_size(&self) -> usize {
        self.dfa.memory_usage()
    }

    /// Returns the state before a text.
    pub(super) fn start(&self) -> ExpressionState {
        Some(self.start)
    }

    /// Goes on with this text. Returns the bytes up to the end of the first match; the text is not
    /// looked at any more then.
    pub(super) fn advance(&self, state: &mut ExpressionState, text: &[u8]) -> Option<usize> {
        let mut now = (*state)?;
        for (at, byte) in text.iter().enumerate() {
            now = self.dfa.next_state(now, *byte);
            if self.dfa.is_special_state(now) {
                // A match is known one byte after its end.
                if self.dfa.is_match_state(now) {
                    *state = None;
                    return Some(at);
                }
                if self.dfa.is_dead_state(now) || self.dfa.is_quit_state(now) {
                    *state = None;
                    return None;
                }
            }
        }
        *state = Some(now);
        if self.looks {
            return None;
        }
        self.finish(state).then_some(text.len())
    }

    /// Whether a match ends where the text ends. If so, it is not looked at any more.
    pub(super) fn finish(&self, state: &mut ExpressionState) -> bool {
        let Some(now) = *state else { return false };
        let matches = self.dfa.is_match_state(self.dfa.next_eoi_state(now));
        if matches {
            *state = None;
        }
        matches
    }
}

/// Returns the last line of an error, which says why; lines before it draw where.
fn reason(error: &dyn std::error::Error) -> String {
    let cause = std::iter::successors(Some(error), |error| error.source()).last();
    let text = cause.unwrap_or(error).to_string();
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.unwrap_or_default().trim();
    last.strip_prefix("error: ").unwrap_or(last).to_owned()
}
