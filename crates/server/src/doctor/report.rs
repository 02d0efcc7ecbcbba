//! What was found.

use std::fmt;

/// All findings, in the order of the checks.
#[derive(Debug, Default)]
pub struct Report(Vec<Finding>);

/// One finding.
#[derive(Debug)]
struct Finding {
    level: Level,
    subject: String,
    found: String,
    /// What to do; empty where nothing is needed.
    remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Fine,
    Warning,
    Failure,
}

// === impl Report ===

impl Report {
    /// Notes that something works.
    pub(super) fn fine(&mut self, subject: impl Into<String>, found: impl Into<String>) {
        self.add(Level::Fine, subject.into(), found.into(), String::new());
    }

    /// Notes something that works but may not be meant.
    pub(super) fn warn(
        &mut self,
        subject: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Level::Warning, subject.into(), found.into(), remedy.into());
    }

    /// Notes something that has to be mended.
    pub(super) fn fail(
        &mut self,
        subject: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Level::Failure, subject.into(), found.into(), remedy.into());
    }

    fn add(&mut self, level: Level, subject: String, found: String, remedy: String) {
        self.0.push(Finding {
            level,
            subject,
            found,
            remedy,
        });
    }

    /// Returns whether nothing has to be mended.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.count(Level::Failure) == 0
    }

    fn count(&self, level: Level) -> usize {
        let findings = self.0.iter();
        findings.filter(|finding| finding.level == level).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subjects = self.0.iter().map(|finding| finding.subject.len());
        let width = subjects.max().unwrap_or_default();
        for finding in &self.0 {
            let level = match finding.level {
                Level::Fine => "ok  ",
                Level::Warning => "warn",
                Level::Failure => "FAIL",
            };
            writeln!(f, "{level}  {:width$}  {}", finding.subject, finding.found)?;
            if !finding.remedy.is_empty() {
                writeln!(f, "      {:width$}  -> {}", "", finding.remedy)?;
            }
        }
        let (failures, warnings) = (self.count(Level::Failure), self.count(Level::Warning));
        match (failures, warnings) {
            (0, 0) => writeln!(f, "\nThe gateway can run."),
            (0, _) => writeln!(f, "\nThe gateway can run. Warnings: {warnings}."),
            _ => writeln!(f, "\nTo be mended: {failures}. Warnings: {warnings}."),
        }
    }
}
