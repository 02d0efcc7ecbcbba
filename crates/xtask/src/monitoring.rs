//! The step of the dashboard and the alerts, with a Prometheus that scrapes a gateway.

use crate::error::Error;
use crate::process;
use crate::rust;
use crate::step::{Context, Outcome};

/// Runs the tests of `deploy/grafana` and `deploy/prometheus`.
///
/// # Errors
/// A test failed.
pub(crate) fn test(context: &Context<'_>) -> Result<Outcome, Error> {
    let mut command = rust::integration_tests(context, &["monitoring"]);
    command
        .arg("--nocapture")
        .args(context.rest)
        .env("MONITORING", "1");
    process::run(&mut command).map(|()| Outcome::Passed)
}
