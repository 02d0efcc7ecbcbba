//! Logging. Message contents and secrets are never logged.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::schema::{Log, LogFormat};

/// Default levels of libraries. actix-http logs malformed requests and aborted bodies as errors, so
/// any client could fill the log. The banner replaces the start-up lines of actix-server. A filter
/// that names these targets takes precedence.
const LIBRARIES: &str = "actix_server=warn,actix_http::h1::dispatcher=off";

/// Starts logging to standard error. Call it once.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_new(format!("{LIBRARIES},{}", log.filter))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    // An error means that a test has installed a subscriber.
    let _ = match log.format {
        LogFormat::Text => subscriber.finish().try_init(),
        LogFormat::Json => subscriber.json().finish().try_init(),
    };
}
