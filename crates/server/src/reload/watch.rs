//! Reloads on SIGHUP and when the file changes.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::reloader::Reloader;
use super::source::ConfigSource;

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
        if source.file().is_some() {
            follow_file(&reloader, source).await;
        }
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

async fn follow_file(reloader: &Reloader, source: &ConfigSource) {
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut read = source.first_version();
    let mut before = read;
    loop {
        tick.tick().await;
        let now = source.version();
        let is_settled = now == before;
        before = now;
        if is_settled && now != read {
            read = now;
            let _ = reloader.reload("the file changed").await;
        }
    }
}
