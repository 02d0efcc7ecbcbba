//! When a change of a key takes effect: at the next reload, or at the next start.

use super::schema::Config;

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// At a reload. Streams that run keep what they started with.
    Reload,
    /// At the next start. A reload names the key and keeps its value.
    Restart,
}

/// A key, or a section whose keys are alike.
#[derive(Debug)]
pub struct Setting {
    /// Its path, such as `server.port`.
    pub path: &'static str,
    /// When its changes take effect.
    pub applies: Applies,
    differs: fn(&Config, &Config) -> bool,
    copy: fn(from: &Config, to: &mut Config),
}

macro_rules! settings {
    ($( $applies:ident $path:literal $field:ident $(. $below:ident)*; )*) => {
        /// Every key, each below exactly one entry.
        pub const SETTINGS: &[Setting] = &[ $( Setting {
            path: $path,
            applies: Applies::$applies,
            differs: |one, other| one.$field$(.$below)* != other.$field$(.$below)*,
            copy: |from, to| to.$field$(.$below)*.clone_from(&from.$field$(.$below)*),
        }, )* ];
    };
}

settings! {
    Restart "server.host" server.host;
    Restart "server.port" server.port;
    Restart "server.workers" server.workers;
    Reload "server.allowed_hosts" server.allowed_hosts;
    Reload "server.public_url" server.public_url;
    // The connections that are open were counted by them.
    Restart "server.trusted_proxies" server.trusted_proxies;
    Reload "server.allowed_origins" server.allowed_origins;
    Reload "server.allow_loopback_origins" server.allow_loopback_origins;
    Reload "server.allow_get_start" server.allow_get_start;
    Restart "server.operations" server.operations;
    Reload "server.body_timeout" server.body_timeout;
    Reload "server.min_body_rate" server.min_body_rate;
    Restart "server.max_connections_per_address" server.max_connections_per_address;
    Reload "server.shutdown_timeout" server.shutdown_timeout;
    Restart "server.backlog" server.backlog;
    Reload "server.region" server.region;
    Restart "server.direct_writes" server.direct_writes;
    // The files themselves are read again when they change.
    Restart "server.tls" server.tls;
    Restart "server.http2" server.http2;
    Reload "auth.keys" auth.keys;
    Restart "auth.keys_file" auth.keys_file;
    Restart "auth.anonymous" auth.anonymous;
    Restart "auth.jwt" auth.jwt;
    Restart "auth.tickets" auth.tickets;
    Reload "default_model" default_model;
    Reload "upstreams" upstreams;
    Reload "forward_headers" forward_headers;
    Reload "timeouts" timeouts;
    Reload "retry" retry;
    Reload "breaker" breaker;
    Reload "streams.heartbeat" streams.heartbeat;
    Reload "streams.commit_after" streams.commit_after;
    Restart "streams.disconnect_grace" streams.disconnect_grace;
    Restart "streams.slow_reader_timeout" streams.slow_reader_timeout;
    Restart "streams.retain_events" streams.retain_events;
    Restart "streams.retain_responses" streams.retain_responses;
    Restart "streams.max_memory" streams.max_memory;
    Restart "streams.max_stream_bytes" streams.max_stream_bytes;
    Restart "streams.max_stream_events" streams.max_stream_events;
    Reload "streams.ping_interval" streams.ping_interval;
    Reload "streams.ping_timeout" streams.ping_timeout;
    Reload "streams.max_lanes" streams.max_lanes;
    Reload "streams.max_queued_creates" streams.max_queued_creates;
    Restart "streams.sealing_key" streams.sealing_key;
    Reload "limits.body" limits.body;
    Restart "limits.streams" limits.streams;
    Restart "limits.connections" limits.connections;
    Restart "limits.streams_per_connection" limits.streams_per_connection;
    Reload "limits.websocket_frame" limits.websocket_frame;
    Reload "limits.event" limits.event;
    Reload "limits.per_key" limits.per_key;
    Reload "limits.per_owner" limits.per_owner;
    Reload "limits.reserve_output" limits.reserve_output;
    Reload "limits.on_overrun" limits.on_overrun;
    Restart "limits.store_away" limits.store_away;
    Reload "prices" prices;
    Restart "reuse" reuse;
    Restart "store" store;
    Restart "cluster" cluster;
    Restart "webhooks" webhooks;
    Reload "watch" watch;
    Reload "log.filter" log.filter;
    Restart "log.format" log.format;
    Restart "telemetry" telemetry;
}

// === impl Applies ===

impl Applies {
    /// Returns when a change of the key at this path takes effect. The items of a list are part of
    /// its key: `upstreams[].name`. `None` for a key that is not known.
    #[must_use]
    pub fn of(path: &str) -> Option<Self> {
        let mut settings = SETTINGS.iter();
        let found = settings.find(|setting| setting.holds(path))?;
        Some(found.applies)
    }
}

// === impl Setting ===

impl Setting {
    /// Returns whether the key at this path is this one, or below it.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        path.strip_prefix(self.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }

    /// Returns whether two configurations differ in it.
    pub(crate) fn differs(&self, one: &Config, other: &Config) -> bool {
        (self.differs)(one, other)
    }

    /// Gives `to` the value that `from` has.
    pub(crate) fn copy(&self, from: &Config, to: &mut Config) {
        (self.copy)(from, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{leaves, template};

    #[test]
    fn every_key_is_below_exactly_one_entry() {
        let keys: Vec<String> = leaves(&template())
            .into_iter()
            .map(|path| path.join("."))
            .collect();
        for key in &keys {
            let entries = SETTINGS.iter().filter(|setting| setting.holds(key));
            assert_eq!(entries.count(), 1, "{key}");
        }
        for setting in SETTINGS {
            let known = keys.iter().any(|key| setting.holds(key));
            assert!(known, "{} is no key", setting.path);
        }
    }

    #[test]
    fn changed_secret_is_a_change() {
        let (mut one, other) = (Config::default(), Config::default());
        one.streams.sealing_key = Some("a".repeat(32).into());
        let changed: Vec<&str> = SETTINGS
            .iter()
            .filter(|setting| setting.differs(&one, &other))
            .map(|setting| setting.path)
            .collect();
        assert_eq!(changed, ["streams.sealing_key"]);
        let found = SETTINGS
            .iter()
            .find(|setting| setting.path == "streams.sealing_key");
        found.unwrap().copy(&other, &mut one);
        assert_eq!(one, other);
    }
}
