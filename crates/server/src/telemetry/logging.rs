//! Logging.
//!
//! A thread writes the lines to standard error. A request never waits for it: if the pipe behind
//! standard error is not read, lines are dropped and counted.

use std::io::IsTerminal as _;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::log_format::{JsonLine, TextFields};
use crate::config::schema::{Log, LogFormat};

/// Default levels of libraries. actix-http logs malformed requests and aborted bodies as errors, so
/// any client could fill the log. The gateway logs itself that descriptors are exhausted, and the
/// banner replaces the start-up lines of actix-server. A filter
/// that names these targets takes precedence.
const LIBRARIES: &str = "actix_server=warn,actix_server::accept=off,actix_http::h1::dispatcher=off";

/// Maximum number of lines that wait to be written.
const MAX_WAITING: usize = 8192;

/// Replaces the filter.
static FILTER: OnceLock<Box<dyn Fn(EnvFilter) + Send + Sync>> = OnceLock::new();

/// Counts the dropped lines of the process.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Writes the waiting lines when it is dropped, within about a second.
#[derive(Debug)]
pub struct LogGuard {
    _writer: WorkerGuard,
}

/// Starts logging to standard error. Call it once.
#[must_use]
pub fn start(log: &Log) -> LogGuard {
    let filter = filter_of(&log.filter);
    let colours = std::io::stderr().is_terminal();
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(MAX_WAITING)
        .thread_name("tokenwire-log")
        .finish(std::io::stderr());
    let _ = DROPPED.set(writer.error_counter());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(writer);
    // An error means that a test has installed a subscriber.
    let _ = match log.format {
        LogFormat::Text => {
            let subscriber = subscriber.fmt_fields(TextFields::default());
            let subscriber = subscriber.with_filter_reloading();
            keep_filter(subscriber.reload_handle());
            subscriber.finish().try_init()
        }
        LogFormat::Json => {
            let subscriber = subscriber.json().map_event_format(JsonLine);
            let subscriber = subscriber.with_filter_reloading();
            keep_filter(subscriber.reload_handle());
            subscriber.finish().try_init()
        }
    };
    std::panic::set_hook(Box::new(log_panic));
    LogGuard { _writer: guard }
}

fn filter_of(text: &str) -> EnvFilter {
    EnvFilter::try_new(format!("{LIBRARIES},{text}")).unwrap_or_else(|_| EnvFilter::new("info"))
}

fn keep_filter<S: 'static>(handle: Handle<EnvFilter, S>) {
    let _ = FILTER.set(Box::new(move |filter| {
        // An error means that the subscriber is gone.
        let _ = handle.reload(filter);
    }));
}

/// Logs by this filter from now on.
pub(crate) fn set_filter(text: &str) {
    if let Some(replace) = FILTER.get() {
        replace(filter_of(text));
    }
}

/// Returns the number of log lines that were dropped since the start.
#[must_use]
pub fn dropped_lines() -> u64 {
    DROPPED
        .get()
        .map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// Logs a panic. The default hook would block on standard error. A formatted message may quote a
/// request, so only literal ones are logged.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload().downcast_ref::<&str>().copied();
    let location = panic.location().map(ToString::to_string);
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = (backtrace.status() == std::backtrace::BacktraceStatus::Captured)
        .then(|| tracing::field::display(&backtrace));
    tracing::error!(
        location,
        backtrace,
        "panic: {}",
        message.unwrap_or("(message not logged)")
    );
}
