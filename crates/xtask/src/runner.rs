//! Running the chosen steps one after the other.

use std::time::{Duration, Instant};

use crate::arguments::{InstallOptions, TestOptions};
use crate::error::Error;
use crate::need::{self, Need};
use crate::report;
use crate::step::{self, BENCH, Context, Outcome, STEPS, Step};
use crate::workspace::Workspace;

/// How one step went.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) took: Duration,
    pub(crate) result: Result<Outcome, Error>,
}

/// Runs what `options` chose and prints the summary.
///
/// # Errors
/// The options name a step that does not exist.
pub(crate) fn test(workspace: &Workspace, options: &TestOptions) -> Result<bool, Error> {
    let steps = chosen(&options.only, &options.skip)?;
    if !options.rest.is_empty() && steps.len() != 1 {
        return Err(Error::RestWithoutStep { count: steps.len() });
    }
    let context = Context {
        workspace,
        may_install: !options.no_install,
        with_deny: options.with_deny,
        rest: &options.rest,
    };
    let lines = run(&steps, options.keep_going, |step| {
        need::ensure(workspace, step.needs, context.may_install)?;
        (step.run)(&context)
    });
    report::summary(&steps, &lines);
    Ok(lines.iter().all(|line| line.result.is_ok()))
}

/// Brings what the named steps need.
///
/// # Errors
/// A step does not exist, or something cannot be installed.
pub(crate) fn install(workspace: &Workspace, options: &InstallOptions) -> Result<bool, Error> {
    let mut needs: Vec<Need> = Vec::new();
    for name in &options.steps {
        let (bench, of_bench) = BENCH;
        needs.extend(if name == bench {
            of_bench
        } else {
            step::named(name)?.needs
        });
    }
    if options.steps.is_empty() {
        needs.extend(STEPS.iter().flat_map(|step| step.needs));
    }
    need::ensure(workspace, &needs, true)?;
    if options.with_deny {
        let context = Context {
            workspace,
            may_install: true,
            with_deny: true,
            rest: &[],
        };
        (step::named("deny")?.run)(&context)?;
    }
    report::installed();
    Ok(true)
}

fn chosen(only: &[String], skip: &[String]) -> Result<Vec<&'static Step>, Error> {
    for name in only.iter().chain(skip) {
        step::named(name)?;
    }
    let is_chosen = |step: &&Step| match only {
        [] => !skip.iter().any(|name| name == step.name),
        _ => only.iter().any(|name| name == step.name),
    };
    Ok(STEPS.iter().filter(is_chosen).collect())
}

fn run(
    steps: &[&'static Step],
    keep_going: bool,
    mut run: impl FnMut(&Step) -> Result<Outcome, Error>,
) -> Vec<Line> {
    let mut lines = Vec::new();
    for step in steps {
        report::begin(step);
        let started = Instant::now();
        let result = run(step);
        let line = Line {
            name: step.name,
            took: started.elapsed(),
            result,
        };
        report::end(&line);
        let goes_on = keep_going || line.result.is_ok();
        lines.push(line);
        if !goes_on {
            break;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(steps: &[&Step]) -> Vec<&'static str> {
        steps.iter().map(|step| step.name).collect()
    }

    fn failing(step: &Step) -> Result<Outcome, Error> {
        if step.name == "clippy" {
            Err(Error::NoExecutable("clippy"))
        } else {
            Ok(Outcome::Passed)
        }
    }

    #[test]
    fn steps_are_chosen_by_name_and_keep_their_order() {
        assert_eq!(
            names(&chosen(&["test".to_owned(), "fmt".to_owned()], &[]).unwrap()),
            ["fmt", "test"]
        );
        assert_eq!(
            names(&chosen(&[], &["deny".to_owned()]).unwrap()),
            [
                "fmt", "clippy", "test", "doctest", "micro", "python", "node", "client", "browser",
                "examples", "soak"
            ]
        );
        assert!(chosen(&[], &["nothing".to_owned()]).is_err());
    }

    #[test]
    fn the_first_failure_stops_the_run() {
        let steps = chosen(&[], &[]).unwrap();
        assert_eq!(
            run(&steps, false, failing)
                .iter()
                .map(|line| line.name)
                .collect::<Vec<_>>(),
            ["fmt", "clippy"]
        );
    }

    #[test]
    fn keep_going_runs_every_step() {
        let steps = chosen(&[], &[]).unwrap();
        let lines = run(&steps, true, failing);
        assert_eq!(lines.len(), steps.len());
        assert_eq!(lines.iter().filter(|line| line.result.is_err()).count(), 1);
    }
}
