//! The configuration itself, and the file that holds it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::report::Report;
use crate::config::{Config, ConfigError, Loaded};

const SUBJECT: &str = "configuration";

pub(super) fn check(loaded: &Result<Loaded, ConfigError>, report: &mut Report) {
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            for problem in &error.problems {
                let remedy = "Correct it; `tokenwire --check` checks the configuration alone.";
                report.fail(SUBJECT, problem.to_string(), remedy);
            }
            return;
        }
    };
    match &loaded.file {
        None => report.fine(SUBJECT, "no file: flags, environment and defaults apply"),
        Some(file) => {
            report.fine(SUBJECT, format!("{} can be used", file.display()));
            if holds_secrets(&loaded.config) {
                check_mode(file, report);
            }
        }
    }
    if let Some(keys) = &loaded.config.auth.keys_file {
        check_mode(Path::new(keys), report);
    }
}

/// Whether the file may hold a secret. It may be in the environment instead, which is not told here.
fn holds_secrets(config: &Config) -> bool {
    config.has_upstream_key()
        || config.auth.has_keys()
        || config.cluster.secret.is_some()
        || config.webhooks.secret.is_some()
        || config.streams.sealing_key.is_some()
}

fn check_mode(file: &Path, report: &mut Report) {
    let Ok(data) = fs::metadata(file) else {
        return;
    };
    if data.permissions().mode() & 0o004 != 0 {
        let file = file.display();
        report.warn(
            SUBJECT,
            format!("every user of this machine can read {file}"),
            format!("If it holds secrets: chmod o-r {file}"),
        );
    }
}
