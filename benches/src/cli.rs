//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::cores::Cores;
use crate::model_gateway::ModelGateway;
use crate::request::{Route, Spec};
use crate::scenario::{Name, Settings};
use crate::target::Kind;

/// Measures token streams over real sockets: a gateway, its upstream and its peers, in turn in the
/// same run.
#[derive(Debug, Parser)]
#[command(name = "tokenwire-bench", version, after_long_help = GUIDE)]
pub(crate) struct Cli {
    /// What to measure
    #[arg(value_enum, default_value = "bar")]
    pub(crate) scenario: Name,

    /// The targets, instead of the scenario's defaults
    #[arg(short, long, value_delimiter = ',')]
    pub(crate) target: Vec<TargetName>,
    /// Peers to add: nginx, haproxy, nchan, litellm, smg, vllm-router (install them with
    /// `cargo xtask install bench`)
    #[arg(short, long, value_delimiter = ',')]
    pub(crate) peer: Vec<TargetName>,
    /// A running OpenAI-compatible endpoint, e.g. http://127.0.0.1:4000/v1; tokens are checked only
    /// if its upstream is the simulator (see --simulator-port)
    #[arg(long)]
    pub(crate) url: Vec<String>,
    /// The process behind --url, for its CPU and memory, with its children
    #[arg(long)]
    pub(crate) pid: Vec<u32>,
    /// A gateway as NAME=COMMAND; {port}, {upstream} and {workers} are replaced, and OPENAI_BASE_URL
    /// is set
    #[arg(long, value_parser = parse_gateway)]
    pub(crate) gateway: Vec<(String, String)>,
    /// Only --url and --gateway, without the simulator beside them
    #[arg(long, conflicts_with = "target")]
    pub(crate) alone: bool,
    /// Routes by which tokenwire, --url and --gateway are read, each measured
    #[arg(short, long, value_delimiter = ',')]
    pub(crate) route: Vec<Route>,

    /// Rounds; in each round the targets are measured in turn
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Worker threads of the gateway, worker processes of nginx and nchan, threads of haproxy;
    /// several numbers are measured one after the other. What a scenario does by default, it does
    /// per worker
    #[arg(
        short,
        long,
        value_delimiter = ',',
        value_name = "N",
        default_value = "1",
        value_parser = parse_workers
    )]
    pub(crate) workers: Vec<usize>,
    /// Threads of the simulator; by default one for every two workers
    #[arg(long, value_name = "N", value_parser = parse_workers)]
    pub(crate) simulator_threads: Option<usize>,
    /// Streams at a time; connections of `short`, readers of `fanout`
    #[arg(short = 'n', long)]
    pub(crate) streams: Option<usize>,
    /// Streams of one WebSocket on the route `lanes`
    #[arg(long, default_value_t = 32)]
    pub(crate) lanes: usize,
    /// Tokens per stream
    #[arg(long)]
    pub(crate) tokens: Option<u64>,
    /// Time to the first token that the simulator takes
    #[arg(long, value_parser = parse_duration)]
    pub(crate) ttft: Option<Duration>,
    /// Time between tokens
    #[arg(long, value_parser = parse_duration)]
    pub(crate) tbt: Option<Duration>,
    /// Time over which the streams are started
    #[arg(long, value_parser = parse_duration)]
    pub(crate) ramp: Option<Duration>,
    /// Requests of `short`; repetitions of `replay`
    #[arg(long)]
    pub(crate) requests: Option<u64>,
    /// Stalled readers of `slow`
    #[arg(long, default_value_t = 16)]
    pub(crate) slow: usize,
    /// The seed of the cuts of `storm`
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Write all measured data as JSON into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write plots as SVG into this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) svg: Option<PathBuf>,

    /// The page that `results` writes; records (JSON) and plots (SVG) go into a folder beside it,
    /// for RESULTS.md into results/
    #[arg(long, value_name = "FILE", default_value = "benches/RESULTS.md")]
    pub(crate) out: PathBuf,
    /// Generate the page of `results` from the records in this directory, without measuring
    #[arg(long, value_name = "DIR")]
    pub(crate) from: Option<PathBuf>,

    /// The cores of each party, such as `load=0 simulator=1-3 target=4-9`; one that is not named is
    /// not pinned. By default, with two or more cores, simulator and load run on the first core and
    /// the process under test on the second; several workers get a core each from the end, and the
    /// simulator those in between
    #[arg(long, value_name = "PARTY=LIST", conflicts_with = "no_pin")]
    pub(crate) cpus: Option<Cores>,
    /// Do not pin
    #[arg(long)]
    pub(crate) no_pin: bool,
    /// Use existing programs; by default, under `cargo run`, gateway and simulator are built first
    #[arg(long)]
    pub(crate) no_build: bool,
    /// The simulator's program; by default the one beside this program
    #[arg(long)]
    pub(crate) simulator: Option<PathBuf>,
    /// The simulator's port, for gateways with a fixed configuration
    #[arg(long)]
    pub(crate) simulator_port: Option<u16>,
    /// The gateway's program; by default the one beside this program
    #[arg(long)]
    pub(crate) tokenwire: Option<PathBuf>,
    /// The model to request
    #[arg(long, default_value = "simulator")]
    pub(crate) model: String,
    /// The key to send as a bearer token
    #[arg(long, env = "TOKENWIRE_BENCH_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
}

const LITELLM: Kind = Kind::Model(ModelGateway::Litellm);

const GUIDE: &str = "\
HOW IT MEASURES
  The load side is one thread over epoll that starts the simulator (an OpenAI-compatible upstream) and every target itself, on
  loopback, and ends them. In each round every scenario is run against every target in turn, so that a ratio compares
  runs that are seconds apart. Figures are medians over the rounds with their least and most.

  CPU is user and system time of the process under test with everything it started, by the scheduler's count (ns). Of
  `direct` it is the simulator's own.
  \"waited\" is the time that the process was ready to run and had no core, to the time that it ran: where it is high something else was
  busy on the machine, and delays say little.
  Delays are against the time at which a token was due (the request's time, plus --ttft, plus so many times --tbt), so that a stall
  counts against every token it held up. \"added\" is the target's percentile less `direct`'s in the same round.
  Token i of a stream reads \" t{i}\"; one that is missing or comes twice is counted, and the exit code is 1.
  Of text that is not the simulator's, tokens are counted and not checked.

  \"load\" and \"simulator\" are the shares of a core that the measuring side took. Pinned they share one core: near 100 % in sum
  it is they that limit tokens/s. CPU per token of the target stays a fair comparison between targets in the same run.

EXAMPLES
  tokenwire-bench                                        every figure of the bar, and which are met (about ten minutes)
  tokenwire-bench results                                every scenario beside every peer, as a page with plots (under twenty minutes)
  tokenwire-bench results --from benches/results         that page anew, from its records
  tokenwire-bench paced --peer nginx,haproxy -r chat,ws  SSE and WebSocket beside two proxies
  tokenwire-bench paced --peer litellm,smg,vllm-router   the same beside model gateways
  tokenwire-bench paced -t direct,nginx --rounds 5       the floor alone
  tokenwire-bench paced --workers 1,2,4,6 --peer nginx   with more workers, on a machine with many cores
  tokenwire-bench paced -r ws,lanes                      streams on sockets of their own and on lanes of shared ones
  tokenwire-bench open -n 4000 --peer nginx              memory per open stream
  tokenwire-bench fanout -n 500 --peer nchan             one stream to 500 readers
  tokenwire-bench paced --gateway 'old=/tmp/old/tokenwire --host 127.0.0.1 --port {port}'
                                                         two builds side by side
  tokenwire-bench paced --simulator-port 9000 --url http://127.0.0.1:4000/v1 --pid 4242
                                                         another gateway, configured with upstream http://127.0.0.1:9000/v1

EXIT CODE
  0 measured; 1 tokens were lost or doubled, or streams broke (in `results`: Tokenwire's own); 2 something could not be measured
  (in `bar` and `results`: other than a peer, which is told and left out).
";

/// A target by its name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetName {
    Direct,
    Tokenwire,
    Nginx,
    Haproxy,
    Nchan,
    Litellm,
    Smg,
    VllmRouter,
}

// === impl Cli ===

impl Cli {
    /// Returns the scenarios to run.
    pub(crate) fn scenarios(&self) -> Vec<Name> {
        match self.scenario {
            Name::Bar => vec![
                Name::Paced,
                Name::Saturated,
                Name::Short,
                Name::ShortNew,
                Name::Open,
                Name::Fanout,
                Name::Replay,
                Name::Storm,
            ],
            Name::Results => Name::ALL.to_vec(),
            one => vec![one],
        }
    }

    /// Returns the targets of one scenario: the named ones that fit.
    pub(crate) fn kinds(&self, scenario: Name) -> Vec<Kind> {
        let mut names = self.target.clone();
        if names.is_empty() && !self.alone {
            names.push(TargetName::Direct);
            if self.url.is_empty() && self.gateway.is_empty() {
                names.push(TargetName::Tokenwire);
            }
            match self.scenario {
                Name::Bar => names.extend([TargetName::Nginx, TargetName::Nchan]),
                Name::Results => names.extend([
                    TargetName::Nginx,
                    TargetName::Haproxy,
                    TargetName::Nchan,
                    TargetName::Litellm,
                    TargetName::Smg,
                    TargetName::VllmRouter,
                ]),
                _ => {}
            }
        }
        let more: Vec<TargetName> = self
            .peer
            .iter()
            .copied()
            .filter(|peer| !names.contains(peer))
            .collect();
        names.extend(more);
        let routes = match (self.route.as_slice(), scenario) {
            ([], Name::Fanout | Name::Replay | Name::Storm) => vec![Route::Streams, Route::Ws],
            ([], Name::Paced) if self.is_whole() => vec![Route::Chat, Route::Ws],
            ([], Name::Open | Name::Slow) if self.scenario == Name::Results => {
                vec![Route::Chat, Route::Ws]
            }
            ([], _) => vec![Route::Chat],
            (routes, _) => routes.to_vec(),
        };
        let mut kinds = Vec::new();
        for name in names {
            match name {
                TargetName::Direct => kinds.push(Kind::Direct),
                TargetName::Tokenwire => {
                    kinds.extend(routes.iter().map(|route| Kind::Tokenwire(*route)))
                }
                TargetName::Nginx => kinds.push(Kind::Nginx),
                TargetName::Haproxy => kinds.push(Kind::Haproxy),
                TargetName::Litellm => kinds.push(Kind::Model(ModelGateway::Litellm)),
                TargetName::Smg => kinds.push(Kind::Model(ModelGateway::Smg)),
                TargetName::VllmRouter => kinds.push(Kind::Model(ModelGateway::VllmRouter)),
                TargetName::Nchan => kinds.extend(routes.iter().map(|route| match route {
                    Route::Ws => Kind::Nchan(Route::Ws),
                    _ => Kind::Nchan(Route::Streams),
                })),
            }
        }
        for (name, command) in &self.gateway {
            for route in &routes {
                kinds.push(Kind::Gateway {
                    name: name.clone(),
                    command: command.clone(),
                    route: *route,
                });
            }
        }
        for (index, url) in self.url.iter().enumerate() {
            for route in &routes {
                kinds.push(Kind::Url {
                    url: url.clone(),
                    route: *route,
                    pid: self.pid.get(index).copied(),
                });
            }
        }
        kinds.retain(|kind| scenario.fits(kind));
        kinds.dedup();
        kinds
    }

    /// Returns whether all scenarios run. A peer that fails is then reported and left out.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.scenario, Name::Bar | Name::Results)
    }

    /// Returns the folder of the records and plots of `results`.
    pub(crate) fn records(&self) -> PathBuf {
        let name = self
            .out
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        self.out.with_file_name(if name.is_empty() {
            "results".to_owned()
        } else {
            name
        })
    }

    /// Returns the sizes of a scenario for this target: the options, or else the scenario's
    /// defaults, which are smaller for slow targets.
    pub(crate) fn settings(&self, scenario: Name, kind: &Kind, workers: usize) -> Settings {
        let ms = Duration::from_millis;
        // streams, tokens, first token, between tokens, ramp, requests
        let (streams, tokens, ttft, tbt, ramp, requests) = match scenario {
            // A millisecond per token and twenty per request: a third of a core, or seconds of a
            // whole core.
            Name::Paced if *kind == LITELLM => (8, 250, ms(0), ms(20), ms(1000), 0),
            Name::Saturated if *kind == LITELLM => (4, 500, ms(0), ms(0), ms(0), 0),
            Name::Short | Name::ShortNew if *kind == LITELLM => (4, 5, ms(0), ms(0), ms(0), 200),
            Name::Open if *kind == LITELLM => (100, 2, ms(0), ms(0), ms(5000), 0),
            Name::Slow if self.scenario == Name::Results => (100, 250, ms(0), ms(20), ms(500), 0),
            Name::Bar | Name::Results | Name::Paced => (300, 500, ms(0), ms(20), ms(1000), 0),
            Name::Saturated => (32, 20_000, ms(0), ms(0), ms(0), 0),
            Name::Short | Name::ShortNew => (32, 5, ms(0), ms(0), ms(0), 20_000),
            Name::Fanout => (500, 500, ms(3000), ms(20), ms(0), 0),
            Name::Open => (4000, 2, ms(0), ms(0), ms(2000), 0),
            Name::Replay => (1, 10_000, ms(0), ms(0), ms(0), 20),
            Name::Slow => (100, 500, ms(0), ms(20), ms(500), 0),
            Name::Storm => (200, 500, ms(0), ms(10), ms(0), 0),
        };
        // A replay is one reader after the other, however many workers there are.
        let (streams, requests) = match scenario {
            Name::Replay => (streams, requests),
            _ => (streams * workers, requests * workers as u64),
        };
        Settings {
            streams: self.streams.unwrap_or(streams).max(1),
            lanes: self.lanes.max(1),
            spec: Spec {
                tokens: self.tokens.unwrap_or(tokens).max(1),
                first_token: self.ttft.unwrap_or(ttft),
                between_tokens: self.tbt.unwrap_or(tbt),
                stall: scenario == Name::Open,
            },
            ramp: self.ramp.unwrap_or(ramp),
            requests: self.requests.unwrap_or(requests).max(1),
            slow: self.slow,
            seed: self.seed,
        }
    }

    /// Returns whether a target uses the simulator.
    pub(crate) fn needs_simulator(&self) -> bool {
        let alone = |kind: &Kind| matches!(kind, Kind::Url { .. } | Kind::Nchan(_));
        self.simulator_port.is_some()
            || self
                .scenarios()
                .into_iter()
                .any(|it| !self.kinds(it).iter().all(alone))
    }

    /// Returns the largest number of workers to measure.
    pub(crate) fn most_workers(&self) -> usize {
        self.workers.iter().copied().max().unwrap_or(1)
    }

    /// Returns the number of threads of the simulator: one of them keeps up with two workers.
    pub(crate) fn simulator_threads(&self) -> usize {
        self.simulator_threads
            .unwrap_or_else(|| self.most_workers().div_ceil(2))
    }

    /// Returns the most sockets that one process needs: a proxy has two per stream.
    pub(crate) fn files_needed(&self) -> u64 {
        let most = self
            .scenarios()
            .into_iter()
            .map(|scenario| {
                self.settings(scenario, &Kind::Direct, self.most_workers())
                    .streams
            })
            .max()
            .unwrap_or(0);
        2 * most as u64 + 200
    }
}

fn parse_gateway(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(name, command)| !name.is_empty() && command.contains("{port}"))
        .map(|(name, command)| (name.to_owned(), command.to_owned()))
        .ok_or_else(|| "expected NAME=COMMAND with {port} in the command".to_owned())
}

fn parse_workers(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|workers| (1..=256).contains(workers))
        .ok_or_else(|| format!("{text} is not a number of workers or threads; expected 1 to 256"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "" if number == "0" => 0.0,
        _ => {
            return Err(format!(
                "{text} is not a time; expected something like 20ms, 1.5s, 250us or 0"
            ));
        }
    };
    let number: f64 = number
        .parse()
        .map_err(|_| format!("{text} is not a time; expected something like 20ms"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| format!("{text}: {error}"))
}

/// Returns the address of the simulator, for the hint beside --url.
pub(crate) fn upstream_hint(port: u16) -> String {
    format!("http://{}/v1", SocketAddr::from(([127, 0, 0, 1], port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_valid() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn targets_depend_on_scenario_and_options() {
        let kinds = |arguments: &[&str]| {
            let cli = Cli::parse_from(std::iter::once(&"tokenwire-bench").chain(arguments));
            cli.kinds(cli.scenarios()[0])
                .iter()
                .map(Kind::name)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(kinds(&["paced"]), "direct tokenwire/chat");
        assert_eq!(
            kinds(&["paced", "--peer", "nginx,nchan", "-r", "chat,ws"]),
            "direct tokenwire/chat tokenwire/ws nginx"
        );
        assert_eq!(
            kinds(&["fanout", "--peer", "nchan"]),
            "tokenwire/streams tokenwire/ws nchan/sse nchan/ws"
        );
        assert_eq!(
            kinds(&["paced", "--url", "http://127.0.0.1:1/v1"]),
            "direct http://127.0.0.1:1/v1"
        );
        assert_eq!(kinds(&["paced", "-t", "direct,nginx"]), "direct nginx");
        assert_eq!(
            kinds(&["paced", "-t", "direct", "--peer", "litellm,smg,vllm-router"]),
            "direct litellm smg vllm-router"
        );
        assert_eq!(
            kinds(&["fanout", "-t", "nchan", "--peer", "smg"]),
            "nchan/sse nchan/ws"
        );
        assert_eq!(
            kinds(&["results"]),
            "direct tokenwire/chat tokenwire/ws nginx haproxy litellm smg vllm-router"
        );
        assert_eq!(kinds(&[]), "direct tokenwire/chat tokenwire/ws nginx");
    }

    #[test]
    fn options_override_the_sizes_of_slow_targets() {
        let streams = |arguments: &[&str], kind: &Kind| {
            let cli = Cli::parse_from(std::iter::once(&"tokenwire-bench").chain(arguments));
            cli.settings(Name::Paced, kind, 1).streams
        };
        assert_eq!(streams(&["paced"], &Kind::Nginx), 300);
        assert_eq!(streams(&["paced"], &LITELLM), 8);
        assert_eq!(streams(&["paced", "-n", "20"], &LITELLM), 20);
    }

    #[test]
    fn records_are_stored_beside_the_page() {
        let records = |arguments: &[&str]| {
            Cli::parse_from(std::iter::once(&"tokenwire-bench").chain(arguments)).records()
        };
        assert_eq!(records(&["results"]), PathBuf::from("benches/results"));
        assert_eq!(
            records(&["results", "--out", "/x/Mine.md"]),
            PathBuf::from("/x/mine")
        );
    }

    #[test]
    fn durations_need_units() {
        assert_eq!(parse_duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("20").is_err());
        assert!(parse_duration("-1s").is_err());
    }
}
