//! Checks of values that parse but cannot work.

use std::collections::BTreeMap;
use std::time::Duration;

use tokenwire_core::log::LogLimits;
use tokenwire_webhooks::{SigningKey, UrlProblem, parse_url};
use tracing_subscriber::EnvFilter;

use super::address_check::{
    check_base_url, check_origin, check_redis_url, is_host, is_public_url, is_socket_address,
    is_zone,
};
use super::address_range::AddressRange;
use super::cluster::{Cluster, is_every_address};
use super::finding::Finding;
use super::limits_check::check_limits;
use super::models::Models;
use super::schema::{
    Api, Config, Hedging, KeyEntry, Replicate, Store, StoreKind, Upstream, UpstreamTls, Webhooks,
};
use super::secret::{REDACTED, Secret};
use super::units::{duration, size};
use super::watch_check::check_watch;

const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const MIN_MESSAGE: usize = 1024;
const MAX_WORKERS: usize = 1024;
/// Some files of each kind.
const MIN_STORE: usize = 512 << 20;

/// Returns everything in `config` that cannot work.
pub(crate) fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    findings.server(config);
    findings.durations(config);
    findings.bounds(config);
    findings.reuse(config);
    findings.upstreams(&config.upstreams);
    findings.forward_headers(config);
    findings.webhooks(&config.webhooks);
    findings.store(&config.store);
    findings.auth(config);
    findings.cluster(config);
    findings.telemetry(config);
    findings.0.extend(check_limits(config));
    findings.0.extend(check_watch(config));
    if config
        .default_model
        .as_ref()
        .is_some_and(|model| model.trim().is_empty())
    {
        findings.add(
            "default_model",
            "is empty",
            "the name of a model",
            "Leave it out to have one chosen.",
        );
    }
    if let Err(error) = EnvFilter::builder().parse(&config.log.filter) {
        let found = format!("is {:?} ({error})", config.log.filter);
        findings.add(
            "log.filter",
            &found,
            "a level (error, warn, info, debug, trace) or a filter such as `info,tokenwire=debug`",
            "",
        );
    }
    findings.0
}

struct Findings(Vec<Finding>);

// === impl Findings ===

impl Findings {
    fn add(&mut self, path: &str, found: &str, expected: &str, remedy: &str) {
        let path = path.split('.').map(str::to_owned).collect();
        self.0.push(Finding {
            path,
            found: found.to_owned(),
            expected: expected.to_owned(),
            remedy: remedy.to_owned(),
        });
    }

    fn server(&mut self, config: &Config) {
        let server = &config.server;
        if !is_host(&server.host) {
            let remedy = if server.host.starts_with('[') {
                "Write an IPv6 address without brackets."
            } else {
                ""
            };
            self.add(
                "server.host",
                &format!("is {:?}", server.host),
                "an IP address such as 127.0.0.1, 0.0.0.0 or ::1, or a host name",
                remedy,
            );
        }
        if server.workers > MAX_WORKERS {
            self.add(
                "server.workers",
                &format!("is {}", server.workers),
                &format!("at most {MAX_WORKERS} threads"),
                "0 starts one per core.",
            );
        }
        if server.backlog == 0 || i32::try_from(server.backlog).is_err() {
            self.add(
                "server.backlog",
                &format!("is {}", server.backlog),
                "a number from 1 to 2147483647",
                "",
            );
        }
        for (index, range) in server.trusted_proxies.iter().enumerate() {
            if AddressRange::parse(range).is_none() {
                self.add(
                    &format!("server.trusted_proxies.{index}"),
                    &format!("is {range:?}"),
                    "an IP address or a network such as 10.0.0.0/8",
                    "",
                );
            }
        }
        if let Some(address) = &server.operations
            && !is_socket_address(address)
        {
            self.add(
                "server.operations",
                &format!("is {address:?}"),
                "a host and a port such as 127.0.0.1:9090",
                "",
            );
        }
        let both = "the files of a certificate and of its key, both in PEM";
        let leave_out = "Leave out both for plain HTTP.";
        match (&server.tls.cert, &server.tls.key) {
            (Some(_), None) => self.add("server.tls.key", "is not set", both, leave_out),
            (None, Some(_)) => self.add("server.tls.cert", "is not set", both, leave_out),
            _ => {}
        }
        if server.min_body_rate == 0 {
            self.add(
                "server.min_body_rate",
                "is 0B",
                "at least 1B",
                "Raise server.body_timeout to allow slower bodies.",
            );
        }
        for (index, origin) in server.allowed_origins.iter().enumerate() {
            if let Err(remedy) = check_origin(origin) {
                let expected = "an origin: scheme, host and port, such as https://app.example.com";
                self.add(
                    &format!("server.allowed_origins.{index}"),
                    &format!("is {origin:?}"),
                    expected,
                    &remedy,
                );
            }
        }
        for (index, host) in server.allowed_hosts.iter().enumerate() {
            let name = host.strip_prefix("*.").filter(|rest| is_zone(rest));
            if !is_host(name.unwrap_or(host)) {
                self.add(
                    &format!("server.allowed_hosts.{index}"),
                    &format!("is {host:?}"),
                    "a host name such as chat.example.com, or *.example.com for one label",
                    "Write the name only, without scheme, port and path.",
                );
            }
        }
        if let Some(url) = &server.public_url
            && !is_public_url(url)
        {
            self.add(
                "server.public_url",
                &format!("is {url:?}"),
                "a URL such as https://chat.example.com",
                "Begin it with http:// or https://, and leave out user, query and fragment.",
            );
        }
    }

    fn durations(&mut self, config: &Config) {
        let (streams, timeouts) = (&config.streams, &config.timeouts);
        let (none, millisecond, second) = (
            Duration::ZERO,
            Duration::from_millis(1),
            Duration::from_secs(1),
        );
        for (key, value, least) in [
            (
                "server.shutdown_timeout",
                config.server.shutdown_timeout,
                none,
            ),
            (
                "server.body_timeout",
                config.server.body_timeout,
                millisecond,
            ),
            ("streams.heartbeat", streams.heartbeat, second),
            ("streams.commit_after", streams.commit_after, none),
            ("streams.disconnect_grace", streams.disconnect_grace, none),
            (
                "streams.slow_reader_timeout",
                streams.slow_reader_timeout,
                millisecond,
            ),
            ("streams.retain_events", streams.retain_events, none),
            ("streams.retain_responses", config.retain_responses(), none),
            ("streams.ping_interval", streams.ping_interval, millisecond),
            ("streams.ping_timeout", streams.ping_timeout, millisecond),
            ("store.sync", config.store.sync, millisecond),
            ("webhooks.timeout", config.webhooks.timeout, millisecond),
            ("webhooks.retry_for", config.webhooks.retry_for, none),
            ("reuse.cache_ttl", config.reuse.cache_ttl, none),
            ("timeouts.connect", timeouts.connect, millisecond),
            ("timeouts.first_token", timeouts.first_token, millisecond),
            (
                "timeouts.between_tokens",
                timeouts.between_tokens,
                millisecond,
            ),
            ("timeouts.total", timeouts.total, millisecond),
            ("retry.backoff", config.retry.backoff, none),
            ("retry.max_wait", config.retry.max_wait, none),
            ("breaker.cooldown", config.breaker.cooldown, millisecond),
            ("breaker.max_rest", config.breaker.max_rest, none),
        ] {
            self.duration(key, value, least);
        }
        for (index, upstream) in config.upstreams.iter().enumerate() {
            let own = &upstream.timeouts;
            for (key, value) in [
                ("connect", own.connect),
                ("first_token", own.first_token),
                ("between_tokens", own.between_tokens),
                ("total", own.total),
            ] {
                if let Some(value) = value {
                    self.duration(
                        &format!("upstreams.{index}.timeouts.{key}"),
                        value,
                        millisecond,
                    );
                }
            }
            let check = &upstream.health_check;
            if !check.interval.is_zero() {
                self.duration(
                    &format!("upstreams.{index}.health_check.interval"),
                    check.interval,
                    millisecond,
                );
                self.duration(
                    &format!("upstreams.{index}.health_check.timeout"),
                    check.timeout,
                    millisecond,
                );
            }
            self.duration(
                &format!("upstreams.{index}.reattach_window"),
                upstream.reattach_window,
                second,
            );
            if upstream.reattach && upstream.api != Api::Responses {
                self.add(
                    &format!("upstreams.{index}.reattach"),
                    "is true for an upstream that speaks chat completions",
                    "api: responses beside it",
                    "Set the upstream's `api: responses`, or leave `reattach` out.",
                );
            }
            self.duration(
                &format!("upstreams.{index}.limits.wait"),
                upstream.limits.wait,
                millisecond,
            );
            self.model_timeouts(index, upstream);
        }
        if let Hedging::After(time) = config.retry.hedge {
            self.duration("retry.hedge", time, millisecond);
        }
    }

    fn model_timeouts(&mut self, index: usize, upstream: &Upstream) {
        let Models::Renamed(models) = &upstream.models else {
            return;
        };
        for (name, model) in models {
            let own = &model.timeouts;
            let key = |leaf: &str| format!("upstreams.{index}.models.{name}.timeouts.{leaf}");
            for (leaf, value) in [
                ("first_token", own.first_token),
                ("between_tokens", own.between_tokens),
                ("total", own.total),
            ] {
                if let Some(value) = value {
                    self.duration(&key(leaf), value, Duration::from_millis(1));
                }
            }
            if own.connect.is_some() {
                let remedy = "Set it in the upstream's own `timeouts`: a connection is made before its model matters.";
                self.add(
                    &key("connect"),
                    "is set for one model",
                    "a timeout of the upstream",
                    remedy,
                );
            }
        }
    }

    fn duration(&mut self, key: &str, value: Duration, least: Duration) {
        if value < least || value > MAX_DURATION {
            let expected = format!(
                "a duration from {} to {}",
                duration::format(least),
                duration::format(MAX_DURATION)
            );
            self.add(
                key,
                &format!("is {}", duration::format(value)),
                &expected,
                "",
            );
        }
    }

    fn bounds(&mut self, config: &Config) {
        let (streams, limits) = (&config.streams, &config.limits);
        for (key, value) in [
            ("streams.max_memory", streams.max_memory),
            ("streams.max_stream_bytes", streams.max_stream_bytes),
            ("limits.body", limits.body),
            ("limits.websocket_frame", limits.websocket_frame()),
            ("limits.event", limits.event),
        ] {
            if value < MIN_MESSAGE {
                self.add(
                    key,
                    &format!("is {}", size::format(value)),
                    &format!("at least {}", size::format(MIN_MESSAGE)),
                    "",
                );
            }
        }
        let events = usize::try_from(streams.max_stream_events).unwrap_or(usize::MAX);
        for (key, value) in [
            ("streams.max_stream_events", events),
            ("streams.max_lanes", streams.max_lanes),
            ("limits.streams", limits.streams),
            ("limits.connections", limits.connections),
            ("webhooks.max_pending", config.webhooks.max_pending),
            ("webhooks.max_kept", config.webhooks.max_kept),
            ("webhooks.concurrency", config.webhooks.concurrency),
            (
                "webhooks.concurrency_per_host",
                config.webhooks.concurrency_per_host,
            ),
        ] {
            if value == 0 {
                self.add(key, "is 0", "at least 1", "");
            }
        }
        if streams.max_stream_events > LogLimits::MAX_EVENTS {
            self.add(
                "streams.max_stream_events",
                &format!("is {}", streams.max_stream_events),
                &format!("at most {}", LogLimits::MAX_EVENTS),
                "Numbers from there on belong to a process that takes the stream over.",
            );
        }
    }

    fn forward_headers(&mut self, config: &Config) {
        /// Headers that the gateway sets itself, and headers of one connection.
        const RESERVED: &[&str] = &[
            "accept",
            "accept-encoding",
            "authorization",
            "connection",
            "content-encoding",
            "content-length",
            "content-type",
            "cookie",
            "expect",
            "host",
            "keep-alive",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "user-agent",
        ];
        for (index, name) in config.forward_headers.0.iter().enumerate() {
            let lower = name.to_ascii_lowercase();
            if actix_web::http::header::HeaderName::try_from(name.as_str()).is_err() {
                self.add(
                    &format!("forward_headers.{index}"),
                    &format!("is {name:?}"),
                    "the name of a header, such as traceparent",
                    "",
                );
            } else if RESERVED.contains(&lower.as_str()) {
                let remedy = "Remove it; a client's own key goes up where `upstreams[].accept_client_key` says so.";
                self.add(
                    &format!("forward_headers.{index}"),
                    &format!("is {name:?}"),
                    "a header that the gateway does not set itself",
                    remedy,
                );
            }
        }
    }

    fn jwt(&mut self, config: &Config) {
        let issuers = &config.auth.jwt;
        for (index, issuer) in issuers.iter().enumerate() {
            for problem in issuer.problems() {
                let path = format!("auth.jwt.{index}.{}", problem.field);
                self.add(&path, &problem.found, problem.expected, problem.remedy);
            }
            for name in &issuer.upstreams {
                let is_known = config.upstreams.iter().any(|known| known.name == *name);
                if !config.uses_simulator() && !is_known {
                    self.add(
                        &format!("auth.jwt.{index}.upstreams"),
                        &format!("names {name:?}"),
                        "names of configured upstreams",
                        "",
                    );
                }
            }
            let is_taken = issuers
                .iter()
                .take(index)
                .any(|known| known.name == issuer.name)
                || config.auth.keys.iter().any(|key| key.owner == issuer.name);
            if is_taken {
                self.add(
                    &format!("auth.jwt.{index}.name"),
                    &format!("is {:?} again", issuer.name),
                    "a name that no other issuer and no owner of a key has",
                    "Owners of its tokens are below this name.",
                );
            }
        }
    }

    fn auth(&mut self, config: &Config) {
        self.jwt(config);
        for problem in config.auth.tickets.problems() {
            let path = format!("auth.tickets.{}", problem.field);
            self.add(&path, &problem.found, problem.expected, problem.remedy);
        }
        for (index, entry) in config.auth.keys.iter().enumerate() {
            for problem in entry.problems() {
                let path = format!("auth.keys.{index}.{}", problem.field);
                self.add(&path, &problem.found, problem.expected, problem.remedy);
            }
            let earlier = config.auth.keys.iter().take(index);
            let hash = entry.key_hash();
            if hash.is_some() && earlier.map(KeyEntry::key_hash).any(|known| known == hash) {
                let expected = "each key once";
                self.add(
                    &format!("auth.keys.{index}.key"),
                    "is listed twice",
                    expected,
                    "",
                );
            }
            for name in &entry.upstreams {
                if !config.uses_simulator()
                    && !config
                        .upstreams
                        .iter()
                        .any(|upstream| upstream.name == *name)
                {
                    self.add(
                        &format!("auth.keys.{index}.upstreams"),
                        &format!("names {name:?}"),
                        "names of configured upstreams",
                        "",
                    );
                }
            }
        }
    }

    fn reuse(&mut self, config: &Config) {
        let (reuse, kept) = (&config.reuse, config.streams.retain_events);
        if !reuse.cache {
            return;
        }
        if reuse.cache_ttl > kept {
            self.add(
                "reuse.cache_ttl",
                &format!("is {}", duration::format(reuse.cache_ttl)),
                &format!("at most streams.retain_events, which is {}", duration::format(kept)),
                "Cached answers are read from the events of their streams: lower it, or keep them for longer.",
            );
        }
        if reuse.cache_entries == 0 {
            self.add(
                "reuse.cache_entries",
                "is 0",
                "at least 1",
                "Set reuse.cache to false to remember nothing.",
            );
        }
    }

    fn upstreams(&mut self, upstreams: &[Upstream]) {
        let mut seen = BTreeMap::new();
        for (index, upstream) in upstreams.iter().enumerate() {
            let key = |leaf: &str| format!("upstreams.{index}.{leaf}");
            let name = upstream.name.as_str();
            if name.is_empty() {
                self.add(
                    &key("name"),
                    "is missing",
                    "a name for logs and metrics",
                    "Add `name:` to this upstream.",
                );
            } else if !is_plain_name(name) {
                self.add(
                    &key("name"),
                    &format!("is {name:?}"),
                    "1 to 64 characters out of A-Z, a-z, 0-9, `_`, `.` and `-`",
                    "",
                );
            } else if let Some(first) = seen.insert(name, index) {
                let found = format!("is {name:?}, as upstreams[{first}].name is");
                self.add(
                    &key("name"),
                    &found,
                    "a name of its own for every upstream",
                    "Rename one of the two.",
                );
            }
            if let Err((found, remedy)) = check_base_url(&upstream.base_url) {
                self.add(
                    &key("base_url"),
                    &found,
                    "an http or https URL such as https://api.openai.com/v1",
                    remedy,
                );
            }
            if let Some((found, remedy)) = upstream.api_key.as_ref().and_then(check_key) {
                self.add(
                    &key("api_key"),
                    found,
                    "a key of visible ASCII characters",
                    remedy,
                );
            }
            self.key_and_headers(index, upstream);
            self.upstream_tls(index, upstream);
            let path = &upstream.health_check.path;
            if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                self.add(
                    &key("health_check.path"),
                    &format!("is {path:?}"),
                    "a path below base_url, such as /models",
                    "Begin it with `/`.",
                );
            }
            if upstream.weight == 0 {
                self.add(
                    &key("weight"),
                    "is 0",
                    "at least 1",
                    "Remove the upstream to send it nothing.",
                );
            }
        }
    }

    fn key_and_headers(&mut self, index: usize, upstream: &Upstream) {
        let key = |leaf: &str| format!("upstreams.{index}.{leaf}");
        let name = &upstream.key_header;
        let is_name = actix_web::http::header::HeaderName::try_from(name.as_str()).is_ok();
        if !is_name || OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            self.add(
                &key("key_header"),
                &format!("is {name:?}"),
                "the name of a header that carries a key: authorization, api-key, x-api-key",
                "",
            );
        }
        let lower = name.to_ascii_lowercase();
        let reserved = [OWN_HEADERS, &[lower.as_str(), "authorization"]].concat();
        self.headers(&key("headers"), &upstream.headers, &reserved);
    }

    fn upstream_tls(&mut self, index: usize, upstream: &Upstream) {
        let key = |leaf: &str| format!("upstreams.{index}.tls.{leaf}");
        let tls = &upstream.tls;
        for (leaf, path, other, is_set) in [
            ("cert", &tls.key, &tls.cert, "`tls.key` is set"),
            ("key", &tls.cert, &tls.key, "`tls.cert` is set"),
        ] {
            if path.is_some() && other.is_none() {
                let expected = "the path of a PEM file";
                let remedy = "A certificate and its key belong together.";
                self.add(
                    &key(leaf),
                    &format!("is missing: {is_set}"),
                    expected,
                    remedy,
                );
            }
        }
        let is_set = *tls != UpstreamTls::default();
        if is_set && upstream.base_url.to_ascii_lowercase().starts_with("http:") {
            self.add(
                &format!("upstreams.{index}.tls"),
                "is set beside a base_url with http",
                "a base_url with https",
                "Correct the base_url, or remove `tls`.",
            );
        }
    }

    fn telemetry(&mut self, config: &Config) {
        let otlp = &config.telemetry.otlp;
        if let Some(endpoint) = &otlp.endpoint
            && let Err((found, remedy)) = check_base_url(endpoint)
        {
            self.add(
                "telemetry.otlp.endpoint",
                &found,
                "the http or https URL before /v1/traces, such as http://127.0.0.1:4318",
                remedy,
            );
        }
        if otlp.endpoint.is_none() && (otlp.traces.0 > 0.0 || otlp.metrics) {
            self.add(
                "telemetry.otlp.endpoint",
                "is not set",
                "the URL of a collector, such as http://127.0.0.1:4318",
                "`telemetry.otlp.traces` and `telemetry.otlp.metrics` need it.",
            );
        }
        self.headers("telemetry.otlp.headers", &otlp.headers, &["content-type"]);
        for (key, time) in [("interval", otlp.interval), ("timeout", otlp.timeout)] {
            if time < Duration::from_millis(100) {
                self.add(
                    &format!("telemetry.otlp.{key}"),
                    &format!("is {}", duration::format(time)),
                    "at least 100ms",
                    "",
                );
            }
        }
        if otlp.service.trim().is_empty() {
            self.add("telemetry.otlp.service", "is empty", "a name", "");
        }
    }

    /// Checks configured headers. `reserved` are those that the gateway sets itself.
    fn headers(&mut self, key: &str, headers: &BTreeMap<String, Secret>, reserved: &[&str]) {
        for (name, value) in headers {
            let path = format!("{key}.{name}");
            let lower = name.to_ascii_lowercase();
            let always = ["connection", "content-length", "host", "transfer-encoding"];
            if actix_web::http::header::HeaderName::try_from(name.as_str()).is_err() {
                let found = format!("is {name:?}");
                self.add(&path, &found, "the name of a header, such as x-team", "");
            } else if always.contains(&lower.as_str()) || reserved.contains(&lower.as_str()) {
                let expected = "a header that the gateway does not set itself";
                self.add(&path, &format!("is {name:?}"), expected, "Remove it.");
            } else if let Some((found, remedy)) = check_header_value(value) {
                self.add(&path, found, "a value of visible ASCII characters", remedy);
            }
        }
    }

    fn store(&mut self, store: &Store) {
        let folder = "a folder on a local disk such as /var/lib/tokenwire";
        match (store.kind, store.path.as_deref().map(str::trim)) {
            (StoreKind::Disk, None | Some("")) => {
                self.add(
                    "store.path",
                    "is not set",
                    folder,
                    "`store.kind: disk` needs it.",
                );
            }
            (StoreKind::Memory, Some(_)) => self.add(
                "store.path",
                "is set beside `store.kind: memory`",
                "no path",
                "Set `store.kind: disk` to keep streams there.",
            ),
            _ => {}
        }
        if store.max_bytes > 0 && store.max_bytes < MIN_STORE {
            self.add(
                "store.max_bytes",
                &format!("is {}", size::format(store.max_bytes)),
                &format!("at least {}, or 0 for no bound", size::format(MIN_STORE)),
                "",
            );
        }
    }

    fn cluster(&mut self, config: &Config) {
        let cluster = &config.cluster;
        match &cluster.url {
            Some(url) => self.cluster_url(cluster, url),
            None => self.without_cluster_url(config),
        }
        self.cluster_addresses(cluster);
        self.cluster_secret(cluster);
        if let Some(name) = &cluster.name
            && !is_plain_name(name)
        {
            self.add(
                "cluster.name",
                &format!("is {name:?}"),
                "1 to 64 characters out of A-Z, a-z, 0-9, `_`, `.` and `-`",
                "Leave it out to use the name of the machine.",
            );
        }
    }

    fn cluster_url(&mut self, cluster: &Cluster, url: &Secret) {
        if let Err((found, remedy)) = check_redis_url(url.expose()) {
            self.add(
                "cluster.url",
                found,
                "the URL of a Redis such as redis://redis.internal:6379, or rediss:// for TLS",
                remedy,
            );
        }
        let listen = "cluster.listen, a host and a port such as 10.0.0.7:4100, by which the other nodes read this one's streams";
        let secret = format!(
            "cluster.secret, at least {} bytes and the same on every node, as `openssl rand -base64 32` makes it",
            Cluster::MIN_SECRET
        );
        let (missing, remedy) = match (&cluster.listen, &cluster.secret) {
            (None, None) => (
                "cluster.listen and cluster.secret",
                format!("Set {listen}, and {secret}."),
            ),
            (None, Some(_)) => ("cluster.listen", format!("Set {listen}.")),
            (Some(_), None) => ("cluster.secret", format!("Set {secret}.")),
            (Some(_), Some(_)) => return,
        };
        self.add(
            "cluster.url",
            &format!("is set without {missing}"),
            &format!("{missing} beside it"),
            &remedy,
        );
    }

    fn without_cluster_url(&mut self, config: &Config) {
        let cluster = &config.cluster;
        for (key, is_set) in [
            ("cluster.listen", cluster.listen.is_some()),
            ("cluster.advertise", cluster.advertise.is_some()),
            ("cluster.secret", cluster.secret.is_some()),
            ("cluster.name", cluster.name.is_some()),
        ] {
            if is_set {
                self.add(
                    key,
                    "is set without cluster.url",
                    "cluster.url beside it: the Redis that all nodes share",
                    "Nodes find each other there. Leave `cluster` out for a gateway on its own.",
                );
            }
        }
        if config.store.replicate == Replicate::All {
            self.add(
                "store.replicate",
                "is all without cluster.url",
                "background, or cluster.url beside it",
                "Running streams are replicated to the Redis that all nodes share.",
            );
        }
    }

    fn cluster_addresses(&mut self, cluster: &Cluster) {
        let expected = "a host and a port such as 10.0.0.7:4100";
        match &cluster.listen {
            Some(listen) if !is_socket_address(listen) => {
                self.add("cluster.listen", &format!("is {listen:?}"), expected, "");
            }
            Some(listen) if is_every_address(listen) && cluster.advertise.is_none() => self.add(
                "cluster.listen",
                &format!("is {listen:?} without cluster.advertise"),
                "cluster.advertise beside it: the address by which the other nodes reach this one",
                "Set it, or listen on one address.",
            ),
            _ => {}
        }
        if let Some(advertise) = &cluster.advertise
            && (!is_socket_address(advertise)
                || advertise.ends_with(":0")
                || is_every_address(advertise))
        {
            self.add(
                "cluster.advertise",
                &format!("is {advertise:?}"),
                expected,
                "It is the address by which the other nodes reach cluster.listen.",
            );
        }
    }

    fn cluster_secret(&mut self, cluster: &Cluster) {
        let expected = format!(
            "at least {} bytes, the same on every node",
            Cluster::MIN_SECRET
        );
        match cluster.secret.as_ref().map(Secret::expose) {
            Some(secret) if secret == REDACTED => self.add(
                "cluster.secret",
                "is what --print-config writes in place of a secret",
                &expected,
                "Put the secret itself there.",
            ),
            Some(secret) if secret.len() < Cluster::MIN_SECRET => {
                let found = format!("has {} bytes", secret.len());
                let remedy = "Make one with `openssl rand -base64 32`.";
                self.add("cluster.secret", &found, &expected, remedy);
            }
            _ => {}
        }
    }

    fn webhooks(&mut self, webhooks: &Webhooks) {
        if let Some(url) = &webhooks.url {
            if let Err(problem) = parse_url(url, webhooks.allow_private) {
                let remedy = if problem == UrlProblem::Private {
                    "Set webhooks.allow_private if it is meant to."
                } else {
                    ""
                };
                self.add(
                    "webhooks.url",
                    &problem.to_string(),
                    "an http or https URL such as https://example.com/hook",
                    remedy,
                );
            }
            if webhooks.secret.is_none() {
                let expected = format!("webhooks.secret beside it: {}", SigningKey::EXPECTED);
                self.add(
                    "webhooks.url",
                    "is set without webhooks.secret",
                    &expected,
                    "Every webhook is signed.",
                );
            }
        }
        if let Some(secret) = &webhooks.secret {
            if secret.expose() == REDACTED {
                let found = "is what --print-config writes in place of a secret";
                self.add(
                    "webhooks.secret",
                    found,
                    SigningKey::EXPECTED,
                    "Put the secret itself there.",
                );
            } else if let Err(problem) = SigningKey::parse(secret.expose()) {
                self.add(
                    "webhooks.secret",
                    &problem.to_string(),
                    SigningKey::EXPECTED,
                    "Leave it out if no webhooks are sent.",
                );
            }
        }
    }
}

/// Whether a name is usable in logs, metrics and reports.
fn is_plain_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Headers of requests to an upstream that the gateway sets itself.
const OWN_HEADERS: &[&str] = &[
    "accept",
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "host",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "user-agent",
];

/// Checks the value of a header. Other than a key it may hold spaces, and be empty.
fn check_header_value(value: &Secret) -> Option<(&'static str, &'static str)> {
    match value.expose() {
        "" => None,
        text if text.trim() != text => Some(("begins or ends with a space", "Remove it.")),
        text => {
            let words: String = text.split(' ').collect();
            check_key(&words.into())
        }
    }
}

fn check_key(key: &Secret) -> Option<(&'static str, &'static str)> {
    let key = key.expose();
    if key.is_empty() {
        Some(("is empty", "Leave it out for a server that wants no key."))
    } else if key == REDACTED {
        Some((
            "is what --print-config writes in place of a key",
            "Put the key itself there.",
        ))
    } else if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some((
            "holds a space, a line break or a character outside ASCII",
            "Check for characters that were pasted with it.",
        ))
    } else {
        None
    }
}
