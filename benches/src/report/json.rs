//! Everything that was measured, for programs.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::Summary;
use crate::measure::Run;
use crate::process::machine;

#[derive(Serialize)]
struct Document<'a> {
    version: &'static str,
    machine: String,
    /// Seconds since 1970.
    written: u64,
    command: Vec<String>,
    summaries: &'a [Summary],
    runs: &'a [Run],
}

/// Writes summaries and runs, with the machine and the command, as one JSON document.
pub(crate) fn write_json(path: &Path, summaries: &[Summary], runs: &[Run]) -> io::Result<()> {
    let document = Document {
        version: env!("CARGO_PKG_VERSION"),
        machine: machine(),
        written: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        command: std::env::args().collect(),
        summaries,
        runs,
    };
    let mut text = serde_json::to_vec_pretty(&document).map_err(io::Error::other)?;
    text.push(b'\n');
    fs::write(path, text)
}
