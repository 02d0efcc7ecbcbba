//! The gateway's binary: configuration, then serving, then draining.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use tokenwire::banner::{banner, describe_upstreams};
use tokenwire::cli::Cli;
use tokenwire::config;
use tokenwire::config::schema::Config;
use tokenwire::serve::{Gateway, ServeError};
use tokenwire::telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(
    clippy::print_stderr,
    reason = "why a program does not start is said on the terminal"
)]
fn main() -> ExitCode {
    let cli = Cli::parse();
    let loaded = match Config::load(&cli, config::of_this_process()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("tokenwire: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(answer) = cli.answer(&loaded) {
        say(&answer);
        return ExitCode::SUCCESS;
    }
    telemetry::start(&loaded.config.log);
    raise_descriptor_limit();
    reserve_descriptors();
    match actix_web::rt::System::new().block_on(run(loaded.config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tokenwire: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A stream takes two descriptors, and the usual soft limit of 1,024 is there for programs that use
/// `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Has the kernel make its table of descriptors as large as it is likely to get, while there is one
/// thread.
///
/// The table doubles when it is full. In a process of several threads the kernel then waits until
/// no processor can still be looking at the old one (`synchronize_rcu` in `expand_fdtable`), which
/// held whoever was accepted just then, and all behind him on that worker, for 5 to 20 ms.
fn reserve_descriptors() {
    /// At 8 bytes each, half a MiB.
    const ENOUGH: u64 = 1 << 16;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(ENOUGH);
    let highest = i32::try_from(limit.min(ENOUGH).saturating_sub(1)).unwrap_or(i32::MAX);
    // The copy is closed at once; the table stays.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), highest);
}

/// Prints for people. That nobody listens (`tokenwire --print-config | head`) is no reason to fail.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

async fn run(config: Config) -> Result<(), ServeError> {
    let gateway = Gateway::bind(config.clone())?;
    say(&format!(
        "{}\n",
        banner(&config, gateway.address(), &describe_upstreams(&config))
    ));
    gateway.serve().await
}
