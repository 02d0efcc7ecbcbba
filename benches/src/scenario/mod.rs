//! The scenarios, with warm-up, measurement and cleanup.

mod closed_loop;
mod fanout;
mod relay;
mod replay;
mod storm;

use std::io;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use thiserror::Error;

use crate::events::{Nanos, Scenario};
use crate::load::{Load, Outcome};
use crate::measure::{Cpu, Memory, Run, Times};
use crate::model_gateway::ModelGateway;
use crate::process::{ProcessError, ProcessTree, Usage, own_cpu};
use crate::request::{Route, Spec};
use crate::target::{Bed, Kind, Target, TargetError};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Name {
    /// All scenarios of the bar, and which of its figures are met
    Bar,
    /// All scenarios with all peers, as a page with tables and plots
    Results,
    /// Streams at reading pace: CPU per token, added time to first token and per token
    Paced,
    /// Streams at full speed: CPU per token, tokens/s
    Saturated,
    /// Short answers in a closed loop on kept connections: CPU per request
    Short,
    /// Short answers in a closed loop, each on a new connection: CPU per request
    ShortNew,
    /// One stream to many readers: CPU per delivered event, delay
    Fanout,
    /// Many open idle streams: memory per stream
    Open,
    /// A finished stream read again by one reader: time for the whole stream
    Replay,
    /// Stalled readers beside active ones: delay of the latter, memory of the former
    Slow,
    /// Connections cut at random places and resumed: lost and doubled tokens
    Storm,
}

/// The sizes of a scenario, defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) streams: usize,
    /// Streams of one WebSocket on the route `lanes`.
    pub(crate) lanes: usize,
    pub(crate) spec: Spec,
    /// Time over which the streams are started.
    pub(crate) ramp: Duration,
    /// Requests of `short`, repetitions of `replay`.
    pub(crate) requests: u64,
    /// Stalled readers of `slow`.
    pub(crate) slow: usize,
    pub(crate) seed: u64,
}

/// What a scenario needs to run.
pub(crate) struct Bench {
    pub(crate) bed: Bed,
    pub(crate) load: Load,
}

#[derive(Debug, Error)]
pub(crate) enum BenchError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the load side failed: {0}")]
    Load(#[from] io::Error),
    #[error("interrupted")]
    Interrupted,
}

/// The usage of the processes at the start of a measured part.
struct Before {
    usage: Option<Usage>,
    simulator: Option<Usage>,
    load: u64,
    at: Instant,
}

/// The counts that each scenario keeps.
#[derive(Debug, Default)]
struct Tally {
    tokens: u64,
    lost: u64,
    doubled: u64,
    broken: u64,
    complaints: Vec<String>,
}

// === impl Name ===

impl Name {
    /// The scenarios that measure, in the order of the page.
    pub(crate) const ALL: [Self; 9] = [
        Self::Paced,
        Self::Saturated,
        Self::Short,
        Self::ShortNew,
        Self::Open,
        Self::Fanout,
        Self::Replay,
        Self::Slow,
        Self::Storm,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bar => "bar",
            Self::Results => "results",
            Self::Paced => "paced",
            Self::Saturated => "saturated",
            Self::Short => "short",
            Self::ShortNew => "short-new",
            Self::Fanout => "fanout",
            Self::Open => "open",
            Self::Replay => "replay",
            Self::Slow => "slow",
            Self::Storm => "storm",
        }
    }

    /// Returns whether the scenario can run against this target.
    pub(crate) fn fits(self, kind: &Kind) -> bool {
        // Attaching is Tokenwire's own; another program is believed to be one when it is read by a
        // route of Tokenwire's own.
        let own = |route: &Route| matches!(route, Route::Streams | Route::Ws | Route::Lanes);
        let keeps = match kind {
            Kind::Tokenwire(_) => true,
            Kind::Gateway { route, .. } | Kind::Url { route, .. } => own(route),
            Kind::Direct | Kind::Nginx | Kind::Haproxy | Kind::Nchan(_) | Kind::Model(_) => false,
        };
        // Only streams that end by themselves are read from lanes.
        if kind.route() == Route::Lanes && !matches!(self, Self::Paced | Self::Saturated) {
            return false;
        }
        match self {
            Self::Fanout => keeps || matches!(kind, Kind::Nchan(_)),
            Self::Replay | Self::Storm => keeps,
            // Unread streams at full speed would take all of its core.
            Self::Slow if *kind == Kind::Model(ModelGateway::Litellm) => false,
            _ => !matches!(kind, Kind::Nchan(_)),
        }
    }

    /// Runs the scenario once against one target.
    pub(crate) fn run(
        self,
        bench: &mut Bench,
        target: &mut Target,
        settings: &Settings,
        tick: &mut dyn FnMut((u64, u64)),
    ) -> Result<Run, BenchError> {
        match self {
            Self::Bar | Self::Results | Self::Paced | Self::Saturated => {
                relay::run(bench, target, settings, tick)
            }
            Self::Open => relay::run_open(bench, target, settings, tick),
            Self::Slow => relay::run_slow(bench, target, settings, tick),
            Self::Short => closed_loop::run(bench, target, settings, false, tick),
            Self::ShortNew => closed_loop::run(bench, target, settings, true, tick),
            Self::Fanout => fanout::run(bench, target, settings, tick),
            Self::Replay => replay::run(bench, target, settings, tick),
            Self::Storm => storm::run(bench, target, settings, tick),
        }
    }

    /// Runs a small load before the first measured run, so first connections are not measured.
    pub(crate) fn warm_up(
        self,
        bench: &mut Bench,
        target: &mut Target,
        settings: &Settings,
    ) -> Result<(), BenchError> {
        let spec = Spec {
            tokens: 20,
            between_tokens: Duration::from_millis(5),
            stall: false,
            ..settings.spec
        };
        let settings = Settings {
            spec,
            streams: settings.streams.min(64),
            ramp: Duration::from_millis(100),
            ..settings.clone()
        };
        if !matches!(target.kind, Kind::Nchan(_)) {
            relay::run(bench, target, &settings, &mut |_| {})?;
        }
        Ok(())
    }
}

// === impl Settings ===

impl Settings {
    /// What is asked for, in a few words.
    pub(crate) fn describe(&self, scenario: Name) -> String {
        let (streams, tokens) = (self.streams, self.spec.tokens);
        let pace = match self.spec.between_tokens {
            Duration::ZERO => String::new(),
            pace => format!(", one every {} ms", pace.as_secs_f64() * 1e3),
        };
        match scenario {
            Name::Short | Name::ShortNew => {
                format!("{} × {tokens} tokens, {streams} at a time", self.requests)
            }
            Name::Open => format!("{streams} streams"),
            Name::Fanout => format!("{streams} readers of {tokens} tokens{pace}"),
            Name::Replay => format!("{} × {tokens} tokens", self.requests),
            Name::Slow => format!(
                "{streams} × {tokens} tokens{pace}, beside {} unread",
                self.slow
            ),
            _ => format!("{streams} × {tokens} tokens{pace}"),
        }
    }

    /// Returns the time limit of a run, after which missing tokens are lost.
    fn limit(&self) -> Duration {
        self.ramp + self.spec.due(self.spec.tokens) * 2 + Duration::from_secs(60)
    }
}

// === impl Bench ===

impl Bench {
    fn before(&self, tree: Option<ProcessTree>) -> Result<Before, BenchError> {
        Ok(Before {
            usage: tree.map(|tree| tree.usage()).transpose()?,
            simulator: self.bed.simulator().map(|tree| tree.usage()).transpose()?,
            load: own_cpu(),
            at: Instant::now(),
        })
    }

    /// Returns the figures that all scenarios have.
    fn after(
        &self,
        before: &Before,
        tree: Option<ProcessTree>,
        streams: u64,
        tally: Tally,
    ) -> Result<Run, BenchError> {
        let wall = before.at.elapsed();
        let load = own_cpu().saturating_sub(before.load);
        let usage = tree.map(|tree| tree.usage()).transpose()?;
        let simulator = self.bed.simulator().map(|tree| tree.usage()).transpose()?;
        let seconds = wall.as_secs_f64();
        let share = |nanos: u64| nanos as f64 / 1e9 / seconds;
        let cpu = usage.zip(before.usage).map(|(after, before)| {
            let nanos = after.cpu_since(&before) as f64;
            Cpu {
                us_per_token: nanos / 1e3 / tally.tokens.max(1) as f64,
                us_per_stream: nanos / 1e3 / streams.max(1) as f64,
                user_share: after.user_share_since(&before),
                of_a_core: nanos / 1e9 / seconds,
                waited: after.waited.saturating_sub(before.waited) as f64 / nanos.max(1.0),
            }
        });
        Ok(Run {
            seconds,
            streams,
            tokens: tally.tokens,
            lost: tally.lost,
            doubled: tally.doubled,
            broken: tally.broken,
            complaints: tally.complaints,
            tokens_per_second: tally.tokens as f64 / seconds,
            cpu,
            load_share: share(load),
            simulator_share: simulator
                .zip(before.simulator)
                .map(|(after, before)| share(after.cpu_since(&before))),
            ..Run::default()
        })
    }

    fn drive(
        &mut self,
        scenario: &mut impl Scenario,
        limit: Duration,
        tick: &mut dyn FnMut((u64, u64)),
    ) -> Result<Outcome, BenchError> {
        match self.load.run(scenario, limit, tick)? {
            Outcome::Interrupted => Err(BenchError::Interrupted),
            outcome => Ok(outcome),
        }
    }
}

// === impl Run ===

impl Run {
    fn with_times(mut self, first_token: Times, tokens: Times) -> Self {
        self.first_token = first_token.quantiles();
        self.token_delay = tokens.quantiles();
        self.first_token_curve = first_token.curve();
        self.token_delay_curve = tokens.curve();
        self
    }
}

// === impl Tally ===

impl Tally {
    fn broke(&mut self, why: &str) {
        self.broken += 1;
        if self.complaints.len() < 5 && !self.complaints.iter().any(|known| known == why) {
            self.complaints.push(why.to_owned());
        }
    }
}

/// Returns the growth between two readings per stream.
fn growth(before: &Usage, after: &Usage, streams: usize) -> Memory {
    let each =
        |before: u64, after: u64| (after as f64 - before as f64) / 1024.0 / streams.max(1) as f64;
    Memory {
        rss_kib_per_stream: each(before.rss, after.rss),
        pss_kib_per_stream: each(before.pss, after.pss),
        base_mib: before.rss as f64 / 1024.0 / 1024.0,
    }
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
