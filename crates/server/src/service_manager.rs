//! Tells systemd how the gateway fares, where `NOTIFY_SOCKET` is set.

use sd_notify::NotifyState;

/// The gateway accepts connections. A process that took over from another one becomes the main one.
pub(crate) fn ready(took_over: bool) {
    let mut states = vec![NotifyState::Ready];
    if took_over {
        states.push(NotifyState::MainPid(std::process::id()));
    }
    notify(&states);
}

/// The gateway drains.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd cannot be notified");
    }
}
