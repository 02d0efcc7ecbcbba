//! `tokenwire doctor`: finds what would keep a gateway from working, and says what to do.
//!
//! Each file checks one subject and adds to a [`Report`]. Nothing is changed, and no secret is shown.

mod access;
mod cluster;
mod configuration;
mod listener;
mod proxy;
mod report;
mod requests;
mod store;
mod upstreams;

pub use report::Report;

use crate::config::{ConfigError, Loaded};
use crate::doctor_args::DoctorArgs;

/// Checks what was loaded, and the gateway at the URL of the arguments.
pub async fn examine(loaded: &Result<Loaded, ConfigError>, args: &DoctorArgs) -> Report {
    let mut report = Report::default();
    configuration::check(loaded, &mut report);
    if let Ok(loaded) = loaded {
        let config = &loaded.config;
        access::check(config, &mut report);
        listener::check(config, &mut report).await;
        listener::check_certificate(config, &mut report);
        listener::check_descriptors(config, &mut report);
        upstreams::check(config, &mut report).await;
        store::check(config, &mut report);
        cluster::check(config, &mut report).await;
    }
    if let Some(url) = &args.url {
        proxy::check(url, args.key.as_deref(), &mut report).await;
    }
    report
}
