//! What is wrong with a rule, and what to do about it.

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// There are more than 1,000 rules.
    #[error("is one too many")]
    TooMany,
    /// It has no words, or one that is empty.
    #[error("has no words, or an empty one")]
    Empty,
    /// A word has more than 1,024 bytes, or all words together more than 4 MiB.
    #[error("has a word, or words, of too many bytes")]
    TooLong,
    /// The expression matches the empty text, and so every answer.
    #[error("matches the empty text")]
    MatchesNothing,
    /// The expression has a `\b` or `\B` of Unicode, which needs more than one byte that follows.
    #[error("has a word boundary of Unicode")]
    UnicodeWordBoundary,
    /// The automaton of the expression would take more than 4 MiB, or those of all rules more than
    /// 64 MiB.
    #[error("needs an automaton that is too large")]
    TooLarge,
    /// The expression cannot be compiled.
    #[error("cannot be compiled: {0}")]
    Syntax(String),
}

// === impl RuleProblem ===

impl RuleProblem {
    /// Returns what to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TooMany => {
                "At most 1000 rules are watched for. Put words of one kind in one rule."
            }
            Self::Empty => "List at least one word, and no empty one.",
            Self::TooLong => "A word has at most 1024 bytes, all words together at most 4 MiB.",
            Self::MatchesNothing => {
                "Write an expression that needs at least one character: 'a+' for 'a*'."
            }
            Self::UnicodeWordBoundary => {
                "Write (?-u:\\b) for \\b, which knows ASCII words only, or use 'words'."
            }
            Self::TooLarge => {
                "Shorten counted repetitions, write [a-z] or (?-u:\\w) for \\w, or use 'words'."
            }
            Self::Syntax(_) => {
                "Look-around and back-references do not exist here; the syntax is that of the Rust crate regex."
            }
        }
    }
}
