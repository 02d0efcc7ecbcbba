//! The gateway's binary: reads the configuration, builds the gateway, serves, drains.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use tokenwire::auth::announcement;
use tokenwire::banner::{banner, describe_upstreams};
use tokenwire::cli::{Cli, Command};
use tokenwire::commands;
use tokenwire::config;
use tokenwire::config::schema::Config;
use tokenwire::doctor;
use tokenwire::gateway::{Gateway, ServeError};
use tokenwire::key_commands;
use tokenwire::listeners::Inherited;
use tokenwire::reload::ConfigSource;
use tokenwire::telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(
    clippy::print_stderr,
    reason = "errors at the start are shown on the terminal"
)]
fn main() -> ExitCode {
    let cli = Cli::parse();
    let environment: Vec<_> = config::of_this_process().collect();
    let loaded = Config::load(&cli, environment.iter().cloned());
    if let Some(Command::Doctor(args)) = &cli.command {
        let runtime = actix_web::rt::System::new();
        let report = runtime.block_on(doctor::examine(&loaded, args));
        print(&report.to_string());
        return if report.is_fine() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("tokenwire: {error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(Command::Key(command)) = &cli.command {
        return match key_commands::run(command, &loaded.config) {
            Ok(printed) => {
                eprint!("{}", printed.err);
                print(&printed.out);
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("tokenwire: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(output) = commands::output(&cli, &loaded) {
        print(&output);
        return ExitCode::SUCCESS;
    }
    // While there is one thread: it changes the environment.
    let inherited = match Inherited::from_environment() {
        Ok(inherited) => inherited,
        Err(error) => {
            eprintln!("tokenwire: cannot use the sockets of LISTEN_FDS: {error}");
            return ExitCode::FAILURE;
        }
    };
    refuse_huge_pages();
    let raised = raise_descriptor_limit();
    reserve_descriptors();
    // Dropped last: it writes the lines that wait.
    let _log = telemetry::start(&loaded.config.log);
    if let Err(error) = raised {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
    let source = ConfigSource::new(&cli, environment, &loaded);
    match actix_web::rt::System::new().block_on(run(loaded.config, source, inherited)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tokenwire: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Raises the soft limit of descriptors to the hard limit. A stream takes two descriptors, and the
/// usual soft limit of 1,024 exists for programs that use `select`.
fn raise_descriptor_limit() -> rustix::io::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)
}

/// Makes the kernel allocate a large table of descriptors while there is one thread.
///
/// The table doubles when it is full. In a process with several threads the kernel then waits for
/// all processors (`synchronize_rcu` in `expand_fdtable`), which stalls every stream of a worker for
/// 5 to 20 ms.
fn reserve_descriptors() {
    /// 512 KiB, at 8 bytes each.
    const ENOUGH: u64 = 1 << 16;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(ENOUGH);
    let highest = i32::try_from(limit.min(ENOUGH).saturating_sub(1)).unwrap_or(i32::MAX);
    // The duplicate is closed at once. The table keeps its size.
    let _ = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), highest);
}

/// Tells the kernel not to back the process' memory with transparent huge pages, which the allocator
/// asks for. Answers are kept, so new memory is needed all the time, and a page fault that clears
/// 2 MiB stalls every stream of a worker: for 0.1 ms, and for 5 ms where a host has to supply the
/// memory.
///
/// The allocator's own variable takes precedence: `MIMALLOC_ALLOW_THP=1` keeps them.
fn refuse_huge_pages() {
    #[cfg(target_os = "linux")]
    if std::env::var_os("MIMALLOC_ALLOW_THP").is_none() {
        // A kernel without this has its own policy.
        let _ = rustix::thread::disable_transparent_huge_pages(true);
    }
}

/// Prints to standard output. Ignores a closed pipe (`tokenwire --print-config | head`).
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[allow(
    clippy::print_stderr,
    reason = "the key of this run is shown once, not logged"
)]
async fn run(config: Config, source: ConfigSource, inherited: Inherited) -> Result<(), ServeError> {
    let gateway = Gateway::bind_with(config.clone(), inherited)?;
    gateway.reload_from(source);
    print(&format!(
        "{}\n",
        banner(&config, gateway.address(), &describe_upstreams(&config))
    ));
    if let Some(made) = gateway.made_key() {
        let tls = config.server.tls.is_on();
        eprintln!("{}", announcement(made, tls, gateway.address().port()));
    }
    gateway.serve().await
}
