//! What the gateway says about itself. Contents of messages and secrets never come here.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::schema::{Log, LogFormat};

/// Sends the program's events to standard error, as the configuration says. To be called once.
pub fn start(log: &Log) {
    // What the server says at its start the banner says better; a filter that names it has its way.
    let filter = EnvFilter::try_new(format!("actix_server=warn,{}", log.filter)).unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber (a test's) is as good as ours.
    let _ = match log.format {
        LogFormat::Text => subscriber.finish().try_init(),
        LogFormat::Json => subscriber.json().finish().try_init(),
    };
}
