//! What a reload changes.

use crate::config::{Applies, Config, SETTINGS};

/// A new configuration beside the one that runs.
#[derive(Debug)]
pub(super) struct Difference {
    /// The new configuration, in which the keys that need a restart have their old values.
    pub(super) config: Config,
    /// Keys whose new values are in `config`.
    pub(super) changed: Vec<&'static str>,
    /// Keys whose new values need a restart.
    pub(super) needs_restart: Vec<&'static str>,
}

// === impl Difference ===

impl Difference {
    pub(super) fn between(running: &Config, wanted: Config) -> Self {
        let mut difference = Self {
            config: wanted,
            changed: Vec::new(),
            needs_restart: Vec::new(),
        };
        for setting in SETTINGS {
            let config = &mut difference.config;
            if !setting.differs(running, config) {
                continue;
            }
            let needs_restart = match (setting.applies, setting.path) {
                (Applies::Restart, _) => true,
                // The first key closes the gateway to clients without one, and the last one opens it.
                (Applies::Reload, "auth.keys") => {
                    let mut later = running.clone();
                    later.auth.keys.clone_from(&config.auth.keys);
                    running.auth.has_keys() != later.auth.has_keys()
                }
                // The embedded simulator runs only if it was started.
                (Applies::Reload, "upstreams") => config.uses_simulator(),
                (Applies::Reload, _) => false,
            };
            if needs_restart {
                setting.copy(running, config);
                difference.needs_restart.push(setting.path);
            } else {
                difference.changed.push(setting.path);
            }
        }
        difference
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::{KeyEntry, Upstream};

    #[test]
    fn keys_that_need_a_restart_keep_their_values_and_are_named() {
        let running = Config::default();
        let mut wanted = running.clone();
        wanted.server.port = 1;
        wanted.limits.body = 1;
        let found = Difference::between(&running, wanted);
        assert_eq!(found.changed, ["limits.body"]);
        assert_eq!(found.needs_restart, ["server.port"]);
        assert_eq!(found.config.server.port, running.server.port);
        assert_eq!(found.config.limits.body, 1);
    }

    #[test]
    fn first_and_last_key_and_the_simulator_need_a_restart() {
        let open = Config::default();
        let mut keyed = open.clone();
        keyed.auth.keys = vec![KeyEntry::default()];
        keyed.upstreams = vec![Upstream::default()];
        let found = Difference::between(&open, keyed.clone());
        assert_eq!(found.changed, ["upstreams"]);
        assert_eq!(found.needs_restart, ["auth.keys"]);
        let found = Difference::between(&keyed, open.clone());
        assert_eq!(found.changed, [""; 0]);
        assert_eq!(found.needs_restart, ["auth.keys", "upstreams"]);
        let mut more = keyed.clone();
        more.auth.keys.push(KeyEntry::default());
        let found = Difference::between(&keyed, more);
        assert_eq!(found.changed, ["auth.keys"]);
    }
}
