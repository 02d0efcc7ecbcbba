//! Rules, and the automata that are compiled of them.

use std::fmt;
use std::sync::Arc;

use super::expression::Expression;
use super::rule_problem::RuleProblem;
use super::words::Words;
use crate::model::text_place::TextKind;

/// The most rules.
const MAX_RULES: usize = 1000;
/// The most bytes of all words.
const MAX_WORD_BYTES: usize = 4 << 20;
/// The longest word in bytes.
const MAX_WORD: usize = 1024;
/// The most bytes of the automata of all expressions.
const MAX_EXPRESSION_BYTES: usize = 64 << 20;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRule {
    /// Its name, which matches are reported under.
    pub name: String,
    /// What it looks for.
    pub pattern: Pattern,
    /// Where it looks.
    pub on: WatchedKinds,
    /// Whether a match ends the answer.
    pub stops: bool,
}

/// What a rule looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Literal texts, with their case.
    Words(Vec<String>),
    /// A regular expression in the syntax of the crate `regex`. `^` and `$` are the ends of a part's
    /// text; a match that depends on what follows it is known with the next byte.
    Expression(String),
}

/// The parts of an answer that a rule looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchedKinds {
    /// Texts and refusals of messages.
    pub text: bool,
    /// Reasoning and its summaries.
    pub reasoning: bool,
    /// Arguments and inputs of tool calls.
    pub arguments: bool,
}

/// Compiled rules. Shared by all generations; they hold a state per part of an answer.
pub struct WatchRules {
    rules: Vec<CompiledRule>,
    /// Everything that some rule looks at.
    on: WatchedKinds,
    pub(super) words: Option<Words>,
    pub(super) expressions: Vec<Expression>,
    /// The places in `expressions` of those that look at [a kind](kind_group), by the kind's group.
    looking: [Vec<u32>; 3],
}

/// Returns the number of the group of kinds that a rule names as one.
fn kind_group(part: TextKind) -> usize {
    match part {
        TextKind::Text | TextKind::Refusal => 0,
        TextKind::Reasoning | TextKind::Summary => 1,
        TextKind::Arguments => 2,
    }
}

pub(super) struct CompiledRule {
    pub(super) name: Arc<str>,
    pub(super) on: WatchedKinds,
    pub(super) stops: bool,
}

/// A rule that cannot be watched for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rule '{name}' {problem}")]
pub struct RuleError {
    /// The rule's number.
    pub rule: usize,
    /// The rule's name.
    pub name: String,
    /// What is wrong with it.
    pub problem: RuleProblem,
}

// === impl WatchRules ===

impl fmt::Debug for WatchRules {
    /// Omits the automata, which are large.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchRules")
            .field("rules", &self.rules.len())
            .finish_non_exhaustive()
    }
}

impl WatchRules {
    /// Compiles rules.
    ///
    /// # Errors
    /// The first rule that cannot be watched for.
    pub fn compile(rules: &[WatchRule]) -> Result<Self, RuleError> {
        let mut words = Vec::new();
        let mut expressions = Vec::new();
        let (mut word_bytes, mut expression_bytes) = (0, 0);
        for (number, rule) in rules.iter().enumerate() {
            let fails = |problem| RuleError {
                rule: number,
                name: rule.name.clone(),
                problem,
            };
            if number >= MAX_RULES {
                return Err(fails(RuleProblem::TooMany));
            }
            match &rule.pattern {
                Pattern::Words(list) => {
                    if list.is_empty() || list.iter().any(String::is_empty) {
                        return Err(fails(RuleProblem::Empty));
                    }
                    word_bytes += list.iter().map(String::len).sum::<usize>();
                    if word_bytes > MAX_WORD_BYTES || list.iter().any(|word| word.len() > MAX_WORD)
                    {
                        return Err(fails(RuleProblem::TooLong));
                    }
                    words.extend(list.iter().map(|word| (number as u32, word.as_str())));
                }
                Pattern::Expression(text) => {
                    let expression = Expression::new(number as u32, text).map_err(fails)?;
                    expression_bytes += expression.memory_size();
                    if expression_bytes > MAX_EXPRESSION_BYTES {
                        return Err(fails(RuleProblem::TooLarge));
                    }
                    expressions.push(expression);
                }
            }
        }
        let words = Words::new(&words).map_err(|_| RuleError {
            rule: 0,
            name: rules
                .first()
                .map_or_else(String::new, |rule| rule.name.clone()),
            problem: RuleProblem::TooLong,
        })?;
        let on = rules
            .iter()
            .fold(WatchedKinds::default(), |all, rule| WatchedKinds {
                text: all.text || rule.on.text,
                reasoning: all.reasoning || rule.on.reasoning,
                arguments: all.arguments || rule.on.arguments,
            });
        let compiled = |rule: &WatchRule| CompiledRule {
            name: rule.name.as_str().into(),
            on: rule.on,
            stops: rule.stops,
        };
        let looking = [TextKind::Text, TextKind::Reasoning, TextKind::Arguments].map(|kind| {
            let numbered = (0..).zip(&expressions);
            let looks = |expression: &Expression| {
                let rule = rules.get(expression.rule as usize);
                rule.is_some_and(|rule| rule.on.has(kind))
            };
            numbered
                .filter(|(_, expression)| looks(expression))
                .map(|(place, _)| place)
                .collect()
        });
        Ok(Self {
            rules: rules.iter().map(compiled).collect(),
            looking,
            on,
            words,
            expressions,
        })
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(super) fn rule(&self, number: u32) -> Option<&CompiledRule> {
        self.rules.get(number as usize)
    }

    /// Returns the expressions that look at parts of this kind.
    pub(super) fn expressions_on(&self, part: TextKind) -> impl Iterator<Item = &Expression> {
        let places = self.looking.get(kind_group(part)).into_iter().flatten();
        places.filter_map(|place| self.expressions.get(*place as usize))
    }

    /// Whether some rule looks at this part.
    pub(super) fn looks_at(&self, part: TextKind) -> bool {
        self.on.has(part)
    }
}

// === impl WatchedKinds ===

impl WatchedKinds {
    /// Whether it has this part.
    #[must_use]
    pub fn has(self, part: TextKind) -> bool {
        match part {
            TextKind::Text | TextKind::Refusal => self.text,
            TextKind::Reasoning | TextKind::Summary => self.reasoning,
            TextKind::Arguments => self.arguments,
        }
    }
}
