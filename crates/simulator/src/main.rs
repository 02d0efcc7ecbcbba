//! The simulator as a separate server.

mod measure;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokenwire_simulator::{GUIDE, Options, Pace, Simulator};

/// An OpenAI-compatible server without a model: answers at any pace, and with faults on request.
#[derive(Debug, Parser)]
#[command(name = "tokenwire-simulator", version, after_help = GUIDE)]
struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8089)]
    port: u16,
    /// The key that requests must carry; without it any request is accepted.
    #[arg(long, env = "TOKENWIRE_SIMULATOR_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Models to list beside `simulator` and `simulator-reasoning`; can be repeated.
    #[arg(long = "model")]
    models: Vec<String>,
    /// Serve only the models that are listed.
    #[arg(long)]
    strict_models: bool,
    /// Time between the tokens of an unsteered answer: 12ms, 1s, 0.
    #[arg(long, value_parser = duration, default_value = "12ms")]
    answer_pace: Duration,
    /// Time to the first token of an unsteered answer.
    #[arg(long, value_parser = duration, default_value = "120ms")]
    first_token: Duration,
    /// Threads that serve, each a simulator of its own to which the kernel gives a share of the
    /// connections. For load: a conversation of one is not known to the others.
    #[arg(long, value_name = "N", default_value_t = NonZeroUsize::MIN)]
    threads: NonZeroUsize,
    /// Measure instead of serving: tokens per second of 32 streams that are read by a thread of
    /// this process.
    #[arg(long)]
    measure: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    tokenwire_simulator::parse_duration(text)
        .ok_or_else(|| format!("`{text}` is not a time like 12ms, 1.5s or 0"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    reserve_descriptors();
    let result = if arguments.measure {
        measure::run()
    } else {
        serve(arguments)
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

/// Makes the kernel's table of descriptors large while there is one thread. Growing it later stalls
/// all streams for 5 to 20 ms.
fn reserve_descriptors() {
    use rustix::process::{Resource, getrlimit};
    let highest = getrlimit(Resource::Nofile)
        .current
        .map_or(1 << 16, |limit| limit.min(1 << 16));
    let _ = rustix::io::fcntl_dupfd_cloexec(
        std::io::stdout(),
        i32::try_from(highest.saturating_sub(1)).unwrap_or(i32::MAX),
    );
}

#[allow(
    clippy::print_stderr,
    reason = "a failure of the command is told to the person who ran it"
)]
fn complain(message: &str) {
    eprintln!("error: {message}");
}

#[allow(
    clippy::print_stdout,
    reason = "the base URL is what a person, or a script with port 0, starts it for"
)]
fn serve(arguments: Arguments) -> Result<(), String> {
    let address = SocketAddr::new(arguments.host, arguments.port);
    let mut options = Options {
        address,
        reuse_port: arguments.threads.get() > 1,
        required_key: arguments.key,
        any_model: !arguments.strict_models,
        pace: Pace {
            first_token: arguments.first_token,
            between_tokens: arguments.answer_pace,
        },
        ..Options::default()
    };
    options.models.extend(arguments.models);
    let failed = |error| {
        format!("failed to listen on {address}: {error}; choose another with --host and --port")
    };
    let first = Simulator::start(options.clone()).map_err(failed)?;
    // The first one may have taken any free port.
    options.address = first.addr();
    let _others = (1..arguments.threads.get())
        .map(|_| Simulator::start(options.clone()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    println!("{}", first.base_url());
    // The server runs until a signal ends the process.
    loop {
        std::thread::park();
    }
}
