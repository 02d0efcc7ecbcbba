//! What the gateway says about itself. Contents of messages and secrets never come here.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::schema::{Log, LogFormat};

/// What the server says at its start the banner says better. Its connections call it an error when
/// a client sends bytes that are no request, and when a body is broken off on purpose: anybody
/// could fill the log with that. A filter that names these very targets has its way.
const LIBRARIES: &str = "actix_server=warn,actix_http::h1::dispatcher=off";

/// Sends the program's events to standard error, as the configuration says. To be called once.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_new(format!("{LIBRARIES},{}", log.filter))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    // A second subscriber (a test's) is as good as ours.
    let _ = match log.format {
        LogFormat::Text => subscriber.finish().try_init(),
        LogFormat::Json => subscriber.json().finish().try_init(),
    };
}
