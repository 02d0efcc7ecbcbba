//! Reloads on SIGHUP and when the file changes.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::reloader::Reloader;
use super::source::{ConfigSource, FileVersion, version};

/// How often the file is looked at. A change counts once the file was the same twice, so that a file
/// that is being written is not read in between.
const POLL: Duration = Duration::from_millis(500);

/// Reloads on SIGHUP, and when the file changes. Never returns. Without a source it does neither.
///
/// # Errors
/// SIGHUP cannot be received.
pub(crate) async fn watch(reloader: Arc<Reloader>) -> io::Result<()> {
    let Some(source) = reloader.source() else {
        return Ok(());
    };
    let hangups = signal(SignalKind::hangup())?;
    let on_signal = follow_signals(&reloader, hangups);
    let on_change = async {
        follow_files(&reloader, source).await;
    };
    tokio::join!(on_signal, on_change);
    Ok(())
}

async fn follow_signals(reloader: &Reloader, mut hangups: Signal) {
    let had_terminal = io::stdin().is_terminal();
    while hangups.recv().await.is_some() {
        // A terminal that was closed sends the signal, too.
        if had_terminal && !io::stdin().is_terminal() {
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::TERM);
            return;
        }
        let _ = reloader.reload("SIGHUP").await;
    }
}

/// Follows the file of the configuration, and those that it names for TLS to upstreams.
async fn follow_files(reloader: &Reloader, source: &ConfigSource) {
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let versions = |config, files: &[PathBuf]| -> Vec<FileVersion> {
        let files = files.iter().map(|file| version(file));
        std::iter::once(config).chain(files).collect()
    };
    let mut files = reloader.tls_files();
    let mut read = versions(source.first_version(), &files);
    let mut before = read.clone();
    loop {
        tick.tick().await;
        let config = source.version();
        let now = versions(config, &files);
        let is_settled = now == before;
        before.clone_from(&now);
        if is_settled && now != read {
            let _ = reloader.reload("a file changed").await;
            read = now;
        }
        // Any reload may name other files, which it has read.
        let named = reloader.tls_files();
        if named != files {
            files = named;
            read = versions(read.first().copied().flatten(), &files);
            before = versions(config, &files);
        }
    }
}
