//! Runs the chosen steps: one after the other, or two at a time where they may run beside each other.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::arguments::{InstallOptions, TestOptions};
use crate::error::Error;
use crate::install;
use crate::interrupt;
use crate::need::Need;
use crate::report;
use crate::step::{Context, Outcome, Report, Step, Tier};
use crate::steps::{self, BENCH, STEPS};
use crate::terminal;
use crate::workspace::Workspace;

/// Runs the steps that `options` choose and prints the summary. Returns whether all passed.
///
/// # Errors
/// The options name a step that does not exist.
pub(crate) fn test(workspace: &Workspace, options: &TestOptions) -> Result<bool, Error> {
    let tier = options.tier();
    let steps = chosen(tier, &options.only, &options.skip)?;
    if !options.rest.is_empty() && steps.len() != 1 {
        return Err(Error::RestWithoutStep { count: steps.len() });
    }
    let context = |step: &Step| Context {
        step: step.name,
        workspace,
        tier,
        may_install: !options.no_install,
        with_deny: options.with_deny,
        rest: &options.rest,
    };
    let runner = Runner {
        keep_going: options.keep_going,
        logs: workspace.logs(),
        install: |step: &Step| install::ensure(workspace, step.needs, !options.no_install),
        run: |step: &Step| (step.run)(&context(step)),
    };
    let started = Instant::now();
    let reports = runner.run(&steps);
    report::summary(&steps, &reports, started.elapsed());
    Ok(reports.iter().all(|report| report.result.is_ok()))
}

/// Installs what the named steps need.
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
            steps::named(name)?.needs
        });
    }
    if options.steps.is_empty() {
        let steps = chosen(Tier::Default, &[], &[])?;
        needs.extend(steps.iter().flat_map(|step| step.needs));
    }
    install::ensure(workspace, &needs, true)?;
    if options.with_deny {
        let deny = steps::named("deny")?;
        let context = Context {
            step: deny.name,
            workspace,
            tier: Tier::Default,
            may_install: true,
            with_deny: true,
            rest: &[],
        };
        (deny.run)(&context)?;
    }
    terminal::text("everything is installed");
    Ok(true)
}

/// Returns the steps named by `only`, or else those of the tier without `skip`.
///
/// # Errors
/// A named step does not exist.
fn chosen(tier: Tier, only: &[String], skip: &[String]) -> Result<Vec<&'static Step>, Error> {
    for name in only.iter().chain(skip) {
        steps::named(name)?;
    }
    let is_chosen = |step: &&Step| match only {
        [] => step.tiers.contains(&tier) && !skip.iter().any(|name| name == step.name),
        _ => only.iter().any(|name| name == step.name),
    };
    Ok(STEPS.iter().filter(is_chosen).collect())
}

/// How many steps run at a time, of those that may run beside others.
const LANES: usize = 2;

/// How steps are installed and run.
struct Runner<Install, Run> {
    /// Whether steps begin after one has failed.
    keep_going: bool,
    /// The folder of what steps print while they run beside others.
    logs: PathBuf,
    /// Installs what a step needs.
    install: Install,
    run: Run,
}

// === impl Runner ===

impl<Install, Run> Runner<Install, Run>
where
    Install: Fn(&Step) -> Result<(), Error> + Sync,
    Run: Fn(&Step) -> Result<Outcome, Error> + Sync,
{
    /// Runs the steps in their order. Those in a row that may run beside another run in lanes.
    /// Returns the reports in the order in which the steps ended.
    fn run(&self, steps: &[&'static Step]) -> Vec<Report> {
        let mut reports = Vec::new();
        for row in steps.chunk_by(|step, next| step.beside && next.beside) {
            match row {
                [step] => reports.push(self.alone(step)),
                _ => self.in_lanes(row, &mut reports),
            }
            if self.stops(&reports) {
                break;
            }
        }
        reports
    }

    fn stops(&self, reports: &[Report]) -> bool {
        interrupt::happened()
            || !self.keep_going && reports.iter().any(|report| report.result.is_err())
    }

    /// Runs one step, which prints to the terminal.
    fn alone(&self, step: &'static Step) -> Report {
        report::begin(step);
        let report = timed(step, || {
            (self.install)(step)?;
            (self.run)(step)
        });
        report::end(&report);
        report
    }

    /// Runs steps in lanes: each lane takes the next step until none is left.
    fn in_lanes(&self, steps: &[&'static Step], reports: &mut Vec<Report>) {
        report::begin_row(steps, &self.logs);
        let waiting = Mutex::new(steps.iter().copied());
        let ended = Mutex::new(reports);
        let next = || locked(&waiting).next();
        let lane = || {
            while let Some(step) = next() {
                if self.stops(&locked(&ended)) {
                    break;
                }
                let log = self.logs.join(format!("{}.log", step.name));
                let report = timed(step, || {
                    self.logged(&log, || {
                        (self.install)(step)?;
                        (self.run)(step)
                    })
                });
                // Under the lock, so that the output of a step is in one piece.
                let mut ended = locked(&ended);
                report::begin(step);
                report::copy(&log);
                report::end(&report);
                ended.push(report);
            }
        };
        thread::scope(|scope| {
            for _ in 0..LANES {
                scope.spawn(lane);
            }
        });
    }

    /// Runs a step whose output goes to a file.
    fn logged(
        &self,
        log: &Path,
        run: impl FnOnce() -> Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        fs::create_dir_all(&self.logs).map_err(Error::file("make", &self.logs))?;
        // Emptied and appended to, so that programs do not overwrite each other's lines.
        File::create(log).map_err(Error::file("write", log))?;
        let file = File::options().append(true).open(log);
        let file = file.map_err(Error::file("write", log))?;
        terminal::logged(file, run)
    }
}

fn timed(step: &Step, run: impl FnOnce() -> Result<Outcome, Error>) -> Report {
    let started = Instant::now();
    let result = run();
    Report {
        name: step.name,
        took: started.elapsed(),
        result,
    }
}

/// Locks what the lanes share. A step that panics ends the whole run.
fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Barrier;

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
    fn only_chooses_steps_by_name_in_table_order() {
        let only = ["test".to_owned(), "fmt".to_owned()];
        let steps = chosen(Tier::Default, &only, &[]).unwrap();
        assert_eq!(names(&steps), ["fmt", "test"]);
        assert!(chosen(Tier::Default, &[], &["nothing".to_owned()]).is_err());
    }

    #[test]
    fn each_tier_has_its_steps() {
        let of = |tier| names(&chosen(tier, &[], &["deny".to_owned()]).unwrap());
        assert_eq!(of(Tier::Quick), ["fmt", "clippy", "unit"]);
        let default = of(Tier::Default);
        assert_eq!(
            default,
            [
                "fmt", "test", "doctest", "python", "browser", "node", "client"
            ]
        );
        let ci = of(Tier::Ci);
        assert!(default.iter().all(|name| ci.contains(name)) && ci.contains(&"clippy"));
        let full = of(Tier::Full);
        assert!(ci.iter().all(|name| full.contains(name)));
        assert!(full.contains(&"fuzz") && !ci.contains(&"fuzz"));
    }

    /// Runs these steps of the table. Returns the reports and what the logs contain, by step.
    fn run(
        names: &[&str],
        keep_going: bool,
        install: impl Fn(&Step) -> Result<(), Error> + Sync,
        run: impl Fn(&Step) -> Result<Outcome, Error> + Sync,
    ) -> (Vec<Report>, BTreeMap<String, String>) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let steps = chosen(Tier::Full, &names, &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("logs");
        let runner = Runner {
            keep_going,
            logs: logs.clone(),
            install,
            run,
        };
        let reports = runner.run(&steps);
        let written = fs::read_dir(logs).into_iter().flatten().map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        });
        (reports, written.collect())
    }

    fn failed(reports: &[Report]) -> Vec<&'static str> {
        let failed = reports.iter().filter(|report| report.result.is_err());
        failed.map(|report| report.name).collect()
    }

    #[test]
    fn first_failure_stops_the_run() {
        let (reports, _) = run(&["fmt", "clippy", "test"], false, |_| Ok(()), failing);
        assert_eq!(reports.len(), 2);
        assert_eq!(failed(&reports), ["clippy"]);
    }

    #[test]
    fn keep_going_runs_all_steps() {
        let (reports, _) = run(&["fmt", "clippy", "test"], true, |_| Ok(()), failing);
        assert_eq!(reports.len(), 3);
        assert_eq!(failed(&reports), ["clippy"]);
    }

    #[test]
    fn two_steps_run_beside_each_other_and_each_has_its_own_log() {
        let both = Barrier::new(2);
        let (reports, logs) = run(
            &["python", "node"],
            true,
            |_| Ok(()),
            |step| {
                // Neither goes on before the other has begun.
                both.wait();
                terminal::text(step.name);
                both.wait();
                terminal::text("end");
                Ok(Outcome::Passed)
            },
        );
        assert_eq!(reports.len(), 2);
        let log = |name: &str| (name.to_owned(), format!("{name}\nend\n"));
        assert_eq!(logs, BTreeMap::from(["python", "node"].map(log)));
    }

    #[test]
    fn step_that_runs_alone_has_no_other_beside_it() {
        let running = Mutex::new(Vec::new());
        let (reports, _) = run(
            &["test", "python", "node", "fuzz"],
            true,
            |_| Ok(()),
            |step| {
                locked(&running).push(step.name);
                if !step.beside {
                    assert_eq!(*locked(&running), [step.name]);
                }
                locked(&running).retain(|name| *name != step.name);
                Ok(Outcome::Passed)
            },
        );
        assert_eq!(reports.len(), 4);
        assert_eq!((reports[0].name, reports[3].name), ("test", "fuzz"));
    }

    #[test]
    fn failed_installation_fails_its_step_and_no_other() {
        let (reports, _) = run(
            &["python", "node", "client", "browser"],
            true,
            |step| match step.name {
                "node" => Err(Error::NoExecutable("node")),
                _ => Ok(()),
            },
            |step| {
                assert_ne!(step.name, "node");
                Ok(Outcome::Passed)
            },
        );
        assert_eq!(reports.len(), 4);
        assert_eq!(failed(&reports), ["node"]);
    }

    #[test]
    fn no_step_begins_after_a_failure_beside_it() {
        let both = Barrier::new(2);
        let (reports, _) = run(
            &["python", "node", "client", "browser"],
            false,
            |_| Ok(()),
            |_| {
                both.wait();
                Err(Error::NoExecutable("node"))
            },
        );
        assert_eq!(failed(&reports).len(), 2);
    }
}
