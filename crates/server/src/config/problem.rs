//! Problems of a configuration, with their remedies.

use std::fmt;

/// All problems of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one problem.
    pub problems: Vec<Problem>,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The source: a file, an environment variable, a flag.
    pub origin: String,
    /// Full path of the key, `upstreams[0].weight`; empty if the problem concerns the whole source.
    pub key: String,
    /// The finding, with the value unless it is secret: `is "soon"`, `is not a known key`.
    pub found: String,
    /// The expectation.
    pub expected: String,
    /// The remedy; empty if `expected` is enough.
    pub remedy: String,
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "`{}` ", self.key)?;
        }
        write!(f, "{}; expected {}.", self.found, self.expected)?;
        if !self.remedy.is_empty() {
            write!(f, " {}", self.remedy)?;
        }
        Ok(())
    }
}

// === impl ConfigError ===

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "the configuration cannot be used:\n  {one}"),
            many => {
                write!(
                    f,
                    "the configuration cannot be used, for {} reasons:",
                    many.len()
                )?;
                many.iter()
                    .try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

/// Formats the path of a key: `upstreams[0].weight`.
pub(crate) fn written<S: AsRef<str>>(path: &[S]) -> String {
    path.iter()
        .map(AsRef::as_ref)
        .fold(String::new(), |mut text, part| {
            match part.parse::<usize>() {
                Ok(index) if !text.is_empty() => text.push_str(&format!("[{index}]")),
                _ if text.is_empty() => text.push_str(part),
                _ => {
                    text.push('.');
                    text.push_str(part);
                }
            }
            text
        })
}

/// Returns the candidate most similar to `word`, if any is similar.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let scored = candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate));
    scored
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
