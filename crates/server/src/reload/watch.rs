//! Reloads on SIGHUP, and when the file or the certificate changes.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior};

use super::reloader::Reloader;
use super::source::{ConfigSource, FileVersion, version};

/// How often the file is looked at. A change counts once the file was the same twice, so that a file
/// that is being written is not read in between.
const POLL: Duration = Duration::from_millis(500);

/// Reloads on SIGHUP and when the file changes, if there is a source, and when the certificate
/// changes, if there is one.
///
/// # Errors
/// SIGHUP cannot be received.
pub(crate) async fn watch(reloader: Arc<Reloader>) -> io::Result<()> {
    let on_signal = async {
        if reloader.source().is_some() {
            let hangups = signal(SignalKind::hangup())?;
            follow_signals(&reloader, hangups).await;
        }
        Ok(())
    };
    let on_change = async {
        if let Some(source) = reloader.source() {
            follow_files(&reloader, source).await;
        }
    };
    let on_renewal = async {
        if let Some(certificates) = reloader.certificates() {
            let first = certificates.first_versions();
            let versions = || certificates.versions();
            follow(&reloader, "the certificate changed", first, versions).await;
        }
    };
    let (on_signal, (), ()) = tokio::join!(on_signal, on_change, on_renewal);
    on_signal
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
    let versions = |config, files: &[PathBuf]| -> Vec<FileVersion> {
        let files = files.iter().map(|file| version(file));
        std::iter::once(config).chain(files).collect()
    };
    let mut files = reloader.tls_files();
    let mut seen = Seen::new(versions(source.first_version(), &files));
    let mut tick = ticks();
    loop {
        tick.tick().await;
        let config = source.version();
        if seen.settles_at(versions(config, &files)) {
            let _ = reloader.reload("a file changed").await;
        }
        // Any reload may name other files, which it has read.
        let named = reloader.tls_files();
        if named != files {
            files = named;
            seen = Seen {
                read: versions(seen.read.first().copied().flatten(), &files),
                before: versions(config, &files),
            };
        }
    }
}

/// Reloads when the version differs from the one that was read.
async fn follow<V: Clone + PartialEq>(
    reloader: &Reloader,
    why: &str,
    first: V,
    version: impl Fn() -> V,
) {
    let mut seen = Seen::new(first);
    let mut tick = ticks();
    loop {
        tick.tick().await;
        if seen.settles_at(version()) {
            let _ = reloader.reload(why).await;
        }
    }
}

fn ticks() -> Interval {
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// The versions of followed files.
struct Seen<V> {
    /// What the last reload has read.
    read: V,
    /// What the last look found.
    before: V,
}

// === impl Seen ===

impl<V: Clone + PartialEq> Seen<V> {
    fn new(read: V) -> Self {
        Self {
            before: read.clone(),
            read,
        }
    }

    /// Notes a look. Returns whether the files are to be read: they are the same as at the last look,
    /// and not what was read.
    fn settles_at(&mut self, now: V) -> bool {
        let is_due = now == self.before && now != self.read;
        if is_due {
            self.read = now.clone();
        }
        self.before = now;
        is_due
    }
}
