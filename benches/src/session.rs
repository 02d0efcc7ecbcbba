//! A session: all scenarios, rounds and targets, in this order. Each run is recorded as soon as it
//! is done.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Cli;
use crate::report::{Failure, Record};
use crate::scenario::{Bench, BenchError, Name, Settings};
use crate::target::Target;
use crate::tell;

/// The options, the targets and the results.
pub(crate) struct Session<'a> {
    pub(crate) cli: &'a Cli,
    pub(crate) bench: Bench,
    /// The runs and failures of all scenarios, and the versions of the programs.
    pub(crate) whole: Record,
}

// === impl Session ===

impl Session<'_> {
    /// Runs the scenarios in sequence. In `results`, the others are measured after one has failed.
    pub(crate) fn run(&mut self) -> Result<(), BenchError> {
        let mut failed = None;
        let scenarios = self.cli.scenarios();
        for (index, scenario) in scenarios.iter().enumerate() {
            let mut record = Record::new(self.whole.versions.clone());
            let place = format!("{}/{}", index + 1, scenarios.len());
            let outcome = self.cli.workers.iter().try_for_each(|workers| {
                self.bench.bed.set_workers(*workers);
                self.rounds(*scenario, *workers, &place, &mut record)
            });
            self.whole.runs.append(&mut record.runs);
            self.whole.failures.append(&mut record.failures);
            match outcome {
                Err(error)
                    if self.cli.scenario == Name::Results
                        && !matches!(error, BenchError::Interrupted) =>
                {
                    tell(&format!("error: {}: {error}", scenario.as_str()));
                    failed = failed.or(Some(error));
                }
                other => other?,
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Runs all rounds of one scenario with so many workers, against each target in turn.
    fn rounds(
        &mut self,
        scenario: Name,
        workers: usize,
        place: &str,
        record: &mut Record,
    ) -> Result<(), BenchError> {
        let mut targets = Vec::<(Target, Settings)>::new();
        for kind in self.cli.kinds(scenario) {
            let settings = self.cli.settings(scenario, &kind, workers);
            let started = self
                .bench
                .bed
                .start(&kind)
                .map_err(BenchError::from)
                .and_then(|mut target| {
                    scenario.warm_up(&mut self.bench, &mut target, &settings)?;
                    Ok(target)
                });
            match started {
                Ok(target) => targets.push((target, settings)),
                Err(error) if kind.is_peer() => self.fail(scenario, kind.name(), error, record)?,
                Err(error) => return Err(error),
            }
        }
        if targets.is_empty() {
            tell(&format!("no target fits {}; see --help", scenario.as_str()));
        }
        for round in 0..self.cli.rounds {
            let mut gone = Vec::new();
            for (index, (target, settings)) in targets.iter_mut().enumerate() {
                let bar = progress_bar(place, scenario, &target.name, round, self.cli.rounds);
                let result = scenario.run(&mut self.bench, target, settings, &mut |(done, of)| {
                    bar.set_length(of);
                    bar.set_position(done);
                });
                bar.finish_and_clear();
                match result {
                    Ok(mut run) => {
                        run.scenario = scenario.as_str().to_owned();
                        run.target.clone_from(&target.name);
                        run.round = round;
                        run.workers = workers;
                        run.peer = target.kind.is_peer();
                        run.load = settings.describe(scenario);
                        record.runs.push(run);
                        self.keep(scenario, record);
                    }
                    Err(error) if target.kind.is_peer() => {
                        let name = target.name.clone();
                        self.fail(scenario, name, error, record)?;
                        gone.push(index);
                    }
                    Err(error) => return Err(error),
                }
            }
            for index in gone.into_iter().rev() {
                targets.remove(index);
            }
        }
        Ok(())
    }

    /// Records that a peer could not be measured. Returns errors that are not the peer's fault.
    fn fail(
        &mut self,
        scenario: Name,
        target: String,
        error: BenchError,
        record: &mut Record,
    ) -> Result<(), BenchError> {
        if matches!(error, BenchError::Interrupted | BenchError::Load(_)) {
            return Err(error);
        }
        self.bench.load.close_all();
        tell(&format!("warning: {target}: {error}"));
        record.failures.push(Failure {
            scenario: scenario.as_str().to_owned(),
            target,
            why: error.to_string(),
        });
        self.keep(scenario, record);
        Ok(())
    }

    /// Writes the record of a scenario so far, so an interruption does not lose it.
    fn keep(&self, scenario: Name, record: &mut Record) {
        if self.cli.scenario != Name::Results || record.is_empty() {
            return;
        }
        let path = self
            .cli
            .records()
            .join(format!("{}.json", scenario.as_str()));
        if let Err(error) = record.write(&path) {
            tell(&format!(
                "warning: failed to write {}: {error}",
                path.display()
            ));
        }
    }
}

fn progress_bar(
    place: &str,
    scenario: Name,
    target: &str,
    round: usize,
    rounds: usize,
) -> ProgressBar {
    let draw = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(None, draw);
    if let Ok(style) =
        ProgressStyle::with_template("{msg:45} {wide_bar} {human_pos}/{human_len} {per_sec}")
    {
        bar.set_style(style);
    }
    bar.set_message(format!(
        "{place} {} {target} {}/{rounds}",
        scenario.as_str(),
        round + 1
    ));
    bar
}
