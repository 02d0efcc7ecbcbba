//! The configuration from outside: precedence, refusals, secrets, and the shipped file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use clap::Parser;
use tempfile::TempDir;
use tokenwire::cli::Cli;
use tokenwire::commands::output;
use tokenwire::config::schema::{Api, Upstream};
use tokenwire::config::{Config, ConfigError, Loaded};

/// A file, flags and an environment that form one configuration.
#[derive(Default)]
struct Given<'a> {
    file: &'a str,
    flags: &'a [&'a str],
    env: &'a [(&'a str, &'a str)],
}

impl Given<'_> {
    fn load(&self) -> Result<Loaded, ConfigError> {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("t.yaml");
        fs::write(&path, self.file).unwrap();
        let flags = ["tokenwire", "--config", path.to_str().unwrap()]
            .into_iter()
            .chain(self.flags.iter().copied());
        load(flags, self.env)
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|error| panic!("{error}")).config
    }

    fn error(&self) -> String {
        match self.load() {
            Ok(loaded) => panic!("accepted: {:#?}", loaded.config),
            Err(error) => error.to_string(),
        }
    }
}

fn load<'a>(
    flags: impl Iterator<Item = &'a str>,
    env: &[(&str, &str)],
) -> Result<Loaded, ConfigError> {
    let cli = Cli::try_parse_from(flags).unwrap();
    Config::load(
        &cli,
        env.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/tokenwire.yaml")
}

#[test]
fn shipped_file_equals_the_defaults() {
    let text = fs::read_to_string(shipped()).unwrap();
    assert_eq!(
        Given {
            file: &text,
            ..Given::default()
        }
        .config(),
        Config::default()
    );
}

#[test]
fn shipped_file_shows_every_key() {
    fn keys(tree: &serde_json::Value, indent: usize, found: &mut Vec<(usize, String)>) {
        for (key, below) in tree.as_object().into_iter().flatten() {
            found.push((indent, key.clone()));
            keys(below, indent + 1, found);
        }
    }
    let text = fs::read_to_string(shipped()).unwrap();
    let mut expected = Vec::new();
    keys(
        &serde_json::to_value(Config::default()).unwrap(),
        0,
        &mut expected,
    );
    assert!(
        expected.len() >= 40,
        "the walk found only {} keys",
        expected.len()
    );
    for (indent, key) in expected {
        let line = format!("{}{key}:", "  ".repeat(indent));
        assert!(
            text.lines().any(|have| have.starts_with(&line)),
            "`{line}` is not in the shipped file"
        );
    }
}

#[test]
fn shipped_file_shows_an_upstream_with_all_keys_and_defaults() {
    let text = fs::read_to_string(shipped()).unwrap();
    let example = text
        .lines()
        .skip_while(|line| *line != "# upstreams:")
        .take_while(|line| line.starts_with("# "));
    let example: String = example.map(|line| format!("{}\n", &line[2..])).collect();
    let config = Given {
        file: &example,
        ..Given::default()
    }
    .config();
    let default = Upstream {
        name: "openai".to_owned(),
        base_url: "https://api.openai.com/v1".to_owned(),
        ..Upstream::default()
    };
    assert_eq!(config.upstreams, std::slice::from_ref(&default));

    let tree = serde_json::to_value(default).unwrap();
    let keys = tree
        .as_object()
        .unwrap()
        .keys()
        .chain(tree["timeouts"].as_object().unwrap().keys());
    for key in keys {
        assert!(
            example.lines().any(|line| line
                .trim_start_matches([' ', '-'])
                .starts_with(&format!("{key}:"))),
            "`{key}` is not in:\n{example}"
        );
    }
}

#[test]
fn empty_file_is_a_valid_configuration() {
    for file in [
        "",
        "\n",
        "# nothing\n",
        "server:\n",
        "server:\n  port:\nupstreams:\n",
        "---\n",
    ] {
        assert_eq!(
            Given {
                file,
                ..Given::default()
            }
            .config(),
            Config::default(),
            "{file:?}"
        );
    }
}

#[test]
fn precedence_is_flags_environment_file_defaults() {
    let file = "server: {host: 127.0.0.2, port: 1001, workers: 1}";
    let env = [
        ("TOKENWIRE_SERVER__PORT", "1002"),
        ("TOKENWIRE_SERVER__WORKERS", "2"),
    ];
    let config = Given {
        file,
        env: &env,
        flags: &["--port", "1003"],
    }
    .config();
    assert_eq!(
        (
            config.server.host.as_str(),
            config.server.workers,
            config.server.port
        ),
        ("127.0.0.2", 2, 1003)
    );
    assert_eq!(config.server.backlog, 4096);
}

#[test]
fn rust_log_overrides_the_filter_and_a_flag_overrides_both() {
    let given = |flags| {
        Given {
            file: "log: {filter: warn}",
            env: &[("RUST_LOG", "debug"), ("TOKENWIRE_LOG__FILTER", "error")],
            flags,
        }
        .config()
    };
    assert_eq!(given(&[]).log.filter, "debug");
    assert_eq!(given(&["--log", "trace"]).log.filter, "trace");
}

#[test]
fn variables_take_the_type_of_their_key() {
    let env = [
        ("TOKENWIRE_STREAMS__HEARTBEAT", "10s"),
        ("TOKENWIRE_LIMITS__BODY", "1MiB"),
        ("TOKENWIRE_LIMITS__EVENT", "2048"),
        ("TOKENWIRE_SERVER__ALLOW_LOOPBACK_ORIGINS", "false"),
        (
            "TOKENWIRE_SERVER__ALLOWED_ORIGINS",
            "https://a.example, https://b.example",
        ),
        ("TOKENWIRE_DEFAULT_MODEL", "4711"),
    ];
    let config = Given {
        env: &env,
        ..Given::default()
    }
    .config();
    assert_eq!(config.streams.heartbeat, Duration::from_secs(10));
    assert_eq!(
        (
            config.limits.body,
            config.limits.websocket_frame(),
            config.limits.event
        ),
        (1 << 20, 1 << 20, 2048)
    );
    assert!(!config.server.allow_loopback_origins);
    assert_eq!(
        config.server.allowed_origins,
        ["https://a.example", "https://b.example"]
    );
    assert_eq!(config.default_model(), Some("4711"));
}

#[test]
fn empty_variables_count_as_unset() {
    let env = [
        ("TOKENWIRE_SERVER__PORT", ""),
        ("OPENAI_API_KEY", ""),
        ("OPENAI_BASE_URL", " "),
        ("RUST_LOG", ""),
        ("TOKENWIRE_NO_SUCH", ""),
    ];
    let loaded = Given {
        env: &env,
        ..Given::default()
    }
    .load()
    .unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.config.uses_simulator());
    assert_eq!(loaded.config.default_model(), Some("simulator"));
}

#[test]
fn kubernetes_service_variables_are_ignored() {
    let env = [
        ("TOKENWIRE_PORT", "tcp://10.0.0.1:3000"),
        ("TOKENWIRE_SERVICE_HOST", "10.0.0.1"),
        ("TOKENWIRE_SERVICE_PORT", "3000"),
        ("TOKENWIRE_SERVICE_PORT_HTTP", "3000"),
        ("TOKENWIRE_PORT_3000_TCP", "tcp://10.0.0.1:3000"),
        ("TOKENWIRE_PORT_3000_TCP_PROTO", "tcp"),
        ("TOKENWIRE_PORT_3000_TCP_PORT", "3000"),
        ("TOKENWIRE_PORT_3000_TCP_ADDR", "10.0.0.1"),
    ];
    assert_eq!(
        Given {
            env: &env,
            ..Given::default()
        }
        .config(),
        Config::default()
    );
    let error = Given {
        env: &[("TOKENWIRE_PORT", "8080")],
        ..Given::default()
    }
    .error();
    assert!(error.contains("TOKENWIRE_PORT:"), "{error}");
}

#[test]
fn openai_api_key_alone_selects_openai() {
    let config = Given {
        env: &[("OPENAI_API_KEY", "sk-1")],
        ..Given::default()
    }
    .config();
    let [upstream] = config.upstreams.as_slice() else {
        panic!("{:?}", config.upstreams)
    };
    assert_eq!(
        upstream.url("/chat/completions"),
        "https://api.openai.com/v1/chat/completions"
    );
    assert_eq!(
        upstream.api_key.as_ref().map(|key| key.expose()),
        Some("sk-1")
    );
    assert_eq!(
        (upstream.api, config.default_model()),
        (Api::Chat, Some("gpt-4o-mini"))
    );
}

#[test]
fn base_url_without_a_key_selects_a_local_server() {
    for given in [
        Given {
            env: &[("OPENAI_BASE_URL", "http://localhost:11434/v1")],
            ..Given::default()
        },
        Given {
            flags: &["--base-url", "http://localhost:11434/v1"],
            ..Given::default()
        },
    ] {
        let config = given.config();
        let [upstream] = config.upstreams.as_slice() else {
            panic!("{:?}", config.upstreams)
        };
        assert_eq!(
            (upstream.base_url.as_str(), upstream.api_key.is_none()),
            ("http://localhost:11434/v1", true)
        );
        assert_eq!(config.default_model(), None);
    }
}

const ONE_UPSTREAM: &str = "upstreams: [{name: local, base_url: http://localhost:1/v1, models: [llama*, qwen], timeouts: {total: 5s}}]";

#[test]
fn upstreams_override_sdk_variables_and_flags_override_upstreams() {
    let env = [
        ("OPENAI_API_KEY", "sk-1"),
        ("OPENAI_BASE_URL", "http://localhost:2/v1"),
    ];
    let given = |flags| {
        Given {
            file: ONE_UPSTREAM,
            env: &env,
            flags,
        }
        .config()
    };

    let config = given(&[]);
    assert_eq!(
        (
            config.upstreams[0].name.as_str(),
            config.upstreams[0].api_key.is_none()
        ),
        ("local", true)
    );
    assert_eq!(config.default_model(), Some("qwen"));
    assert_eq!(
        config.timeouts_of(&config.upstreams[0]).total,
        Duration::from_secs(5)
    );
    assert_eq!(
        config.timeouts_of(&config.upstreams[0]).connect,
        config.timeouts.connect
    );

    let config = given(&["--base-url", "http://localhost:3/v1"]);
    assert_eq!(
        (
            config.upstreams.len(),
            config.upstreams[0].base_url.as_str()
        ),
        (1, "http://localhost:3/v1")
    );
    assert!(given(&["--simulator"]).uses_simulator());
}

#[test]
fn variable_sets_the_key_of_a_listed_upstream() {
    let config = Given {
        file: ONE_UPSTREAM,
        env: &[("TOKENWIRE_UPSTREAMS__0__API_KEY", "12345")],
        ..Given::default()
    }
    .config();
    assert_eq!(
        config.upstreams[0].api_key.as_ref().map(|key| key.expose()),
        Some("12345")
    );
    assert_eq!(config.upstreams[0].name, "local");
}

#[test]
fn variables_alone_define_upstreams() {
    let mut env = Vec::new();
    for index in 0..11 {
        env.push((
            format!("TOKENWIRE_UPSTREAMS__{index}__NAME"),
            format!("u{index}"),
        ));
        env.push((
            format!("TOKENWIRE_UPSTREAMS__{index}__BASE_URL"),
            format!("http://localhost:{index}/v1"),
        ));
        env.push((
            format!("TOKENWIRE_UPSTREAMS__{index}__TIMEOUTS__TOTAL"),
            "1s".to_owned(),
        ));
    }
    let env: Vec<_> = env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let config = Given {
        env: &env,
        ..Given::default()
    }
    .config();
    assert_eq!(config.upstreams.len(), 11);
    assert_eq!(config.upstreams[10].name, "u10");
    assert_eq!(
        config.upstreams[10].timeouts.total,
        Some(Duration::from_secs(1))
    );

    let env = [(
        "TOKENWIRE_UPSTREAMS",
        r#"[{"name":"a","base_url":"http://localhost:1/v1","models":{"fast":"big-7b"}}]"#,
    )];
    let config = Given {
        env: &env,
        ..Given::default()
    }
    .config();
    assert_eq!(
        config.upstreams[0].models.upstream_name("fast"),
        Some("big-7b")
    );
}

/// Each bad file with the parts of its error.
#[test]
fn bad_files_are_refused_with_key_value_expectation_and_remedy() {
    let cases: &[(&str, &[&str])] = &[
        (
            "server: {prot: 1}",
            &[
                "`server.prot` is not a known key",
                "`host`, `port`",
                "Did you mean `server.port`?",
            ],
        ),
        (
            "port: 80",
            &["`port` is not a known key", "Did you mean `server.port`?"],
        ),
        ("servers: {}", &["`servers`", "Did you mean `server`?"]),
        (
            "streams: {heart-beat: 1s}",
            &["`streams.heart-beat`", "Did you mean `streams.heartbeat`?"],
        ),
        ("plugins: {keys: []}", &["`plugins` is not a known key"]),
        (
            "auth: {keys: [{owner: a b, key: sk-tw-secret-secret-secret}]}",
            &["`auth.keys[0].owner`", "1 to 128 characters"],
        ),
        (
            "auth: {keys: [{owner: a, key: short}]}",
            &["`auth.keys[0].key` has 5 characters", "tokenwire key new"],
        ),
        (
            "auth: {keys: [{owner: a}]}",
            &["`auth.keys[0].key` is missing"],
        ),
        (
            "auth: {keys: [{owner: a, hash: abc, expires: soon}]}",
            &[
                "`auth.keys[0].hash` is not the hash",
                "`auth.keys[0].expires`",
            ],
        ),
        (
            "auth: {keys: [{owner: a, key: sk-tw-secret-secret-secret, role: root}]}",
            &["`auth.keys[0].role`", "operator"],
        ),
        (
            "webhooks: {secret: s3cret}",
            &[
                "`webhooks.secret` does not begin with whsec_",
                "openssl rand",
            ],
        ),
        (
            "webhooks: {secret: whsec_s3cret}",
            &["`webhooks.secret` is not whsec_ and padded base64"],
        ),
        (
            "webhooks: {secret: whsec_AAAA}",
            &["`webhooks.secret` holds 3 bytes"],
        ),
        (
            "webhooks: {secret: <redacted>}",
            &["`webhooks.secret` is what --print-config writes"],
        ),
        (
            "webhooks: {url: 'https://a.example/hook'}",
            &[
                "`webhooks.url` is set without webhooks.secret",
                "openssl rand",
            ],
        ),
        (
            "webhooks: {url: 'ftp://a.example/'}",
            &["`webhooks.url` has a scheme", "http or https"],
        ),
        (
            "webhooks: {url: 'https://u:s3cret@a.example/'}",
            &["`webhooks.url` holds a user name or a password"],
        ),
        (
            "webhooks: {url: 'http://127.0.0.1:8000/'}",
            &["`webhooks.url` leads to a private", "allow_private"],
        ),
        (
            "webhooks: {timeout: 0s, concurrency: 0}",
            &["`webhooks.timeout` is 0s", "`webhooks.concurrency` is 0"],
        ),
        (
            "server: {port: 70000}",
            &["`server.port` is 70000", "a whole number from 0 to 65535"],
        ),
        (
            "server: {port: -1}",
            &["`server.port` is -1", "a whole number from 0 to 65535"],
        ),
        (
            "server: {port: http}",
            &[
                "`server.port` is \"http\"",
                "a whole number from 0 to 65535",
            ],
        ),
        (
            "server: {port: 80.5}",
            &["`server.port` is 80.5", "a whole number"],
        ),
        (
            "server: {port: [80]}",
            &["`server.port` is a list", "a whole number"],
        ),
        ("server: 3000", &["`server` is a number", "a map of keys"]),
        (
            "server: {host: 12}",
            &["`server.host` is 12", "expected text", "Put it in quotes."],
        ),
        (
            "server: {host: 'a b'}",
            &["`server.host` is \"a b\"", "an IP address"],
        ),
        (
            "server: {host: 999.1.1.1}",
            &["`server.host`", "an IP address"],
        ),
        (
            "server: {host: '[::1]'}",
            &["`server.host`", "without brackets"],
        ),
        (
            "server: {workers: 9999}",
            &["`server.workers` is 9999", "at most 1024"],
        ),
        ("server: {backlog: 0}", &["`server.backlog` is 0"]),
        (
            "streams: {max_stream_events: 8388609}",
            &["`streams.max_stream_events` is 8388609", "at most 8388608"],
        ),
        (
            "server: {allow_loopback_origins: yes}",
            &[
                "`server.allow_loopback_origins` is \"yes\"",
                "true or false",
            ],
        ),
        (
            "server: {trusted_proxies: ['10.0.0.0/33'], operations: '9090'}",
            &[
                "`server.trusted_proxies[0]` is \"10.0.0.0/33\"",
                "`server.operations` is \"9090\"",
            ],
        ),
        (
            "server: {min_body_rate: 0, body_timeout: 0s}",
            &["`server.min_body_rate` is 0B", "`server.body_timeout`"],
        ),
        (
            "server: {direct_writes: off}",
            &["`server.direct_writes` is \"off\"", "true or false"],
        ),
        (
            "server: {allowed_origins: https://a.example}",
            &["`server.allowed_origins` is text", "a list"],
        ),
        (
            "server: {allowed_origins: [https://a.example/]}",
            &[
                "`server.allowed_origins[0]`",
                "Write it as https://a.example.",
            ],
        ),
        (
            "server: {allowed_origins: ['*']}",
            &["`server.allowed_origins[0]` is \"*\"", "one by one"],
        ),
        (
            "server: {allowed_origins: ['https://*.com']}",
            &["`server.allowed_origins[0]`", "https://*.example.com"],
        ),
        (
            "server: {allowed_origins: ['https://app.*.example.com']}",
            &["`server.allowed_origins[0]`", "first label"],
        ),
        (
            "server: {allowed_origins: ['null']}",
            &["`server.allowed_origins[0]` is \"null\"", "an origin"],
        ),
        (
            "server: {allowed_hosts: ['https://chat.example.com']}",
            &["`server.allowed_hosts[0]`", "without scheme"],
        ),
        (
            "server: {allowed_hosts: ['*']}",
            &["`server.allowed_hosts[0]` is \"*\"", "a host name"],
        ),
        (
            "server: {public_url: chat.example.com}",
            &["`server.public_url`", "https://chat.example.com"],
        ),
        (
            "server: {trusted_proxies: [proxy]}",
            &["`server.trusted_proxies[0]` is \"proxy\"", "10.0.0.0/8"],
        ),
        (
            "server: {allowed_origins: [7]}",
            &["`server.allowed_origins[0]`", "expected text"],
        ),
        (
            "streams: {heartbeat: soon}",
            &[
                "`streams.heartbeat` is \"soon\"",
                "a duration with its unit",
            ],
        ),
        (
            "streams: {heartbeat: 15}",
            &[
                "`streams.heartbeat` is 15",
                "a duration with its unit",
                "Add a unit",
            ],
        ),
        (
            "streams: {heartbeat: 10ms}",
            &["`streams.heartbeat` is 10ms", "from 1s"],
        ),
        (
            "streams: {retain_events: 9999d}",
            &["`streams.retain_events`", "to 8760h"],
        ),
        (
            "timeouts: {connect: 0s}",
            &["`timeouts.connect` is 0s", "from 1ms"],
        ),
        (
            "limits: {body: huge}",
            &["`limits.body` is \"huge\"", "a size such as"],
        ),
        (
            "limits: {body: 3B}",
            &["`limits.body` is 3B", "at least 1KiB"],
        ),
        (
            "limits: {streams: 0}",
            &["`limits.streams` is 0", "at least 1"],
        ),
        (
            "limits: {websocket_frame: 1B}",
            &["`limits.websocket_frame` is 1B"],
        ),
        (
            "store: {kind: redis}",
            &[
                "`store.kind` is \"redis\"",
                "`memory`",
                "`disk`",
                "Write disk to keep streams across restarts.",
            ],
        ),
        (
            "store: {kind: disk, sync: 0s, max_bytes: 1MiB}",
            &[
                "`store.path` is not set",
                "such as /var/lib/tokenwire",
                "`store.sync` is 0s",
                "`store.max_bytes` is 1MiB",
                "at least 512MiB, or 0 for no bound",
            ],
        ),
        (
            "store: {path: /var/lib/tokenwire}",
            &["`store.path` is set beside", "Set `store.kind: disk`"],
        ),
        (
            "store: {replicate: some}",
            &["`store.replicate` is \"some\"", "`background`, `all`"],
        ),
        (
            "store: {replicate: all}",
            &["`store.replicate` is all without cluster.url"],
        ),
        (
            "cluster: {url: 'redis://localhost'}",
            &[
                "`cluster.url` is set without cluster.listen and cluster.secret",
                "such as 10.0.0.7:4100",
                "at least 32 bytes",
                "openssl rand -base64 32",
            ],
        ),
        (
            "cluster: {listen: '0.0.0.0:4100'}",
            &["`cluster.listen` is set without cluster.url"],
        ),
        (
            "cluster: {url: 'localhost:6379', listen: '4100', secret: short, name: 'a b', advertise: '[::]:0'}",
            &[
                "`cluster.url` has another scheme",
                "Begin it with redis://",
                "`cluster.listen` is \"4100\"",
                "`cluster.secret` has 5 bytes",
                "`cluster.name` is \"a b\"",
                "`cluster.advertise` is \"[::]:0\"",
            ],
        ),
        (
            "cluster: {url: 'redis://h', listen: '0.0.0.0:4100', secret: 0123456789abcdef0123456789abcdef}",
            &["`cluster.listen` is \"0.0.0.0:4100\" without cluster.advertise"],
        ),
        (
            "cluster: {url: 'http://localhost', secret: 7}",
            &["`cluster.secret` is a number"],
        ),
        (
            "reuse: {cache: true, cache_ttl: 11m}",
            &[
                "`reuse.cache_ttl` is 11m",
                "at most streams.retain_events, which is 10m",
                "lower it, or keep them for longer",
            ],
        ),
        (
            "reuse: {cache: true, cache_ttl: 61s}\nstreams: {retain_events: 1m}",
            &["`reuse.cache_ttl` is 1m1s", "which is 1m"],
        ),
        (
            "reuse: {cache: true, cache_entries: 0}",
            &["`reuse.cache_entries` is 0", "Set reuse.cache to false"],
        ),
        (
            "reuse: {cache_ttl: 9999d}",
            &["`reuse.cache_ttl`", "to 8760h"],
        ),
        ("reuse: {pace: -1}", &["`reuse.pace` is -1"]),
        ("store: {kind: 0}", &["`store.kind` is 0", "expected text"]),
        (
            "log: {format: xml}",
            &["`log.format` is \"xml\"", "`text`, `json`"],
        ),
        (
            "log: {filter: 'tokenwire=loud'}",
            &["`log.filter` is \"tokenwire=loud\"", "a level"],
        ),
        ("default_model: ' '", &["`default_model` is empty"]),
        ("upstreams: 5", &["`upstreams` is a number", "a list"]),
        (
            "upstreams: [x]",
            &["`upstreams[0]` is text", "a map of keys"],
        ),
        (
            "upstreams: [{name: a, url: 'http://h/v1'}]",
            &[
                "`upstreams[0].url` is not a known key",
                "Did you mean `upstreams[0].base_url`?",
                "`upstreams[0].base_url` is missing",
            ],
        ),
        (
            "upstreams: [{base_url: 'http://h/v1'}]",
            &["`upstreams[0].name` is missing"],
        ),
        (
            "upstreams: [{name: 'a b', base_url: 'http://h/v1'}]",
            &["`upstreams[0].name` is \"a b\""],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1'}, {name: a, base_url: 'http://i/v1'}]",
            &["`upstreams[1].name` is \"a\"", "upstreams[0].name"],
        ),
        (
            "upstreams: [{name: a, base_url: 'h:80/v1'}]",
            &[
                "`upstreams[0].base_url` is \"h:80/v1\"",
                "Begin it with http://",
            ],
        ),
        (
            "upstreams: [{name: a, base_url: 'ftp://h/v1'}]",
            &["`upstreams[0].base_url`", "http or https"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1?key=s3cret'}]",
            &["`upstreams[0].base_url` holds a query"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://u:s3cret@h/v1'}]",
            &["`upstreams[0].base_url` holds a user name or a password"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1/chat/completions'}]",
            &["`upstreams[0].base_url`", "the gateway appends"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1', weight: 0}]",
            &["`upstreams[0].weight` is 0"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1', api: grpc}]",
            &["`upstreams[0].api` is \"grpc\"", "`chat`, `responses`"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1', models: gpt}]",
            &["`upstreams[0].models` is text", "a list of model names"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1', timeouts: {total: x}}]",
            &["`upstreams[0].timeouts.total` is \"x\"", "a duration"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1', timeouts: {total: 0s}}]",
            &["`upstreams[0].timeouts.total` is 0s"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1', api_key: 's3cret s3cret'}]",
            &["`upstreams[0].api_key` holds a space"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1', api_key: ''}]",
            &["`upstreams[0].api_key` is empty"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1', api_key: <redacted>}]",
            &["`upstreams[0].api_key` is what --print-config writes"],
        ),
        (
            "upstreams: [{name: a, base_url: 'http://h/v1', api_key: [s3cret]}]",
            &["`upstreams[0].api_key` is a list", "expected text"],
        ),
        ("- a", &["holds no keys"]),
        ("server: {port: 1\n", &["is not valid YAML (line"]),
        (
            "server:\n  port: 1\n  port: 2\n",
            &["is not valid YAML (line 3", "`port` for the second time"],
        ),
        ("s3cret: [s3cret: {", &["is not valid YAML"]),
    ];
    for (file, parts) in cases {
        let error = Given {
            file,
            ..Given::default()
        }
        .error();
        assert!(
            error.contains("t.yaml: "),
            "{file}: the file is not named:\n{error}"
        );
        for part in *parts {
            assert!(error.contains(part), "{file}: {part:?} is not in:\n{error}");
        }
        assert!(
            !error.contains("s3cret") || file.starts_with("s3cret"),
            "{file}: a secret is in:\n{error}"
        );
    }
}

#[test]
fn bad_variables_are_refused_by_name() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "TOKENWIRE_SERVER__PROT",
            "1",
            &["Did you mean TOKENWIRE_SERVER__PORT?"],
        ),
        (
            "TOKENWIRE_SERVER_PORT",
            "1",
            &["Did you mean TOKENWIRE_SERVER__PORT?"],
        ),
        (
            "TOKENWIRE_SERVER",
            "1",
            &["`server` is a section", "TOKENWIRE_SERVER__"],
        ),
        (
            "TOKENWIRE_SERVER__PORT",
            "many",
            &[
                "`server.port` is \"many\"",
                "a whole number from 0 to 65535",
            ],
        ),
        (
            "TOKENWIRE_STREAMS__HEARTBEAT",
            "15",
            &["`streams.heartbeat` is \"15\"", "a duration with its unit"],
        ),
        (
            "TOKENWIRE_UPSTREAMS",
            "[{api_key: s3cret",
            &["`upstreams` cannot be read as YAML"],
        ),
        (
            "TOKENWIRE_UPSTREAMS",
            "s3cret",
            &["`upstreams` is text", "a list"],
        ),
        (
            "TOKENWIRE_UPSTREAMS__3__NAME",
            "x",
            &["`upstreams[3].name` is beyond the end", "from 0 to 0"],
        ),
        (
            "TOKENWIRE_UPSTREAMS__0__NAME",
            "x",
            &["`upstreams[0].base_url` is missing"],
        ),
        (
            "OPENAI_API_KEY",
            "s3cret s3cret",
            &["`upstreams[0].api_key` holds a space"],
        ),
        (
            "OPENAI_BASE_URL",
            "localhost:8000",
            &["`upstreams[0].base_url`", "Begin it with http://"],
        ),
        ("RUST_LOG", "tokenwire=loud", &["`log.filter`", "a level"]),
    ];
    for (name, value, parts) in cases {
        let error = Given {
            env: &[(name, value)],
            ..Given::default()
        }
        .error();
        for part in parts
            .iter()
            .copied()
            .chain([format!("environment variable {name}: ").as_str()])
        {
            assert!(
                error.contains(part),
                "{name}={value}: {part:?} is not in:\n{error}"
            );
        }
        assert!(
            !error.contains("s3cret"),
            "{name}: a secret is in:\n{error}"
        );
    }
}

#[test]
fn bad_flag_is_refused_by_name() {
    let error = Given {
        flags: &["--host", "a b"],
        ..Given::default()
    }
    .error();
    assert!(
        error.contains("flag --host: `server.host` is \"a b\""),
        "{error}"
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let file = "server: {port: x, host: 'a b', prot: 1}\nstreams: {heartbeat: 1ms}\nupstreams: [{name: 5, base_url: q}, {nome: y}]\n";
    let env = [
        ("TOKENWIRE_LOG__FORMAT", "xml"),
        ("TOKENWIRE_NO_SUCH_KEY", "1"),
    ];
    let error = Given {
        file,
        env: &env,
        ..Given::default()
    }
    .load()
    .unwrap_err();
    let mut keys: Vec<&str> = error
        .problems
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    keys.sort_unstable();
    let expected = [
        "",
        "log.format",
        "server.host",
        "server.port",
        "server.prot",
        "streams.heartbeat",
        "upstreams[0].base_url",
        "upstreams[0].name",
        "upstreams[1].base_url",
        "upstreams[1].name",
        "upstreams[1].nome",
    ];
    assert_eq!(keys, expected, "{error}");
}

#[test]
fn named_file_must_exist_and_be_readable() {
    let error = load(
        ["tokenwire", "--config", "/no/such/file.yaml"].into_iter(),
        &[],
    )
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("/no/such/file.yaml: cannot be read") && error.contains("Check the path"),
        "{error}"
    );

    let error = load(
        ["tokenwire"].into_iter(),
        &[("TOKENWIRE_CONFIG", "/no/such/other.yaml")],
    )
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("/no/such/other.yaml: cannot be read"),
        "{error}"
    );

    let folder = TempDir::new().unwrap();
    let error = load(
        ["tokenwire", "--config", folder.path().to_str().unwrap()].into_iter(),
        &[],
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("cannot be read"), "{error}");

    let path = folder.path().join("latin1.yaml");
    fs::write(&path, b"default_model: caf\xe9\n").unwrap();
    let error = load(
        ["tokenwire", "--config", path.to_str().unwrap()].into_iter(),
        &[],
    )
    .unwrap_err()
    .to_string();
    assert!(
        error.contains("latin1.yaml: cannot be read") && error.contains("UTF-8"),
        "{error}"
    );
}

#[test]
fn secrets_are_never_shown() {
    let file = "upstreams: [{name: a, base_url: 'http://h/v1', api_key: sk-s3cret}]\nwebhooks: {secret: whsec_s3cret+AAAAAAAAAAAAAAAAAAAAAAAAA}\n\
                cluster: {url: 'redis://default:s3cret@redis:6379', listen: '10.0.0.7:4100', secret: s3cret-s3cret-s3cret-s3cret-s3cret}";
    let loaded = Given {
        file,
        ..Given::default()
    }
    .load()
    .unwrap();
    let json = serde_json::to_string(&loaded.config).unwrap();
    for shown in [
        format!("{loaded:?}"),
        format!("{:#?}", loaded.config),
        loaded.to_yaml(),
        json,
    ] {
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("<redacted>"), "{shown}");
    }
}

#[test]
fn printed_configuration_reads_back_unchanged() {
    let file = "server: {port: 81, allowed_origins: [https://a.example]}\ndefault_model: 'no'\nstreams: {retain_events: 1h30m}\nlimits: {body: 1500B}\n\
                upstreams: [{name: a, base_url: 'http://h/v1', models: {'x: y': z}}, {name: b, base_url: 'http://i/v1', models: ['*']}]";
    let loaded = Given {
        file,
        ..Given::default()
    }
    .load()
    .unwrap();
    assert_eq!(
        Given {
            file: &loaded.to_yaml(),
            ..Given::default()
        }
        .config(),
        loaded.config,
        "{}",
        loaded.to_yaml()
    );
    let long = format!(
        "log: {{filter: 'info,{}'}}",
        "a_rather_long_module::path=debug,"
            .repeat(9)
            .trim_end_matches(',')
    );
    let loaded = Given {
        file: &long,
        ..Given::default()
    }
    .load()
    .unwrap();
    assert_eq!(
        Given {
            file: &loaded.to_yaml(),
            ..Given::default()
        }
        .config(),
        loaded.config,
        "{}",
        loaded.to_yaml()
    );
    let defaults = Given::default().load().unwrap();
    assert_eq!(
        Given {
            file: &defaults.to_yaml(),
            ..Given::default()
        }
        .config(),
        Config::default(),
        "{}",
        defaults.to_yaml()
    );
}

#[test]
fn printed_configuration_names_the_sources() {
    let given = Given {
        file: "streams: {heartbeat: 9s}\nserver: {backlog: 4096}",
        env: &[
            ("TOKENWIRE_SERVER__WORKERS", "2"),
            ("OPENAI_API_KEY", "sk-1"),
        ],
        flags: &["--port", "8080"],
    };
    let yaml = given.load().unwrap().to_yaml();
    let line = |start: &str| {
        yaml.lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("{start} is missing from:\n{yaml}"))
    };
    assert_eq!(line("  port:"), "  port: 8080  # flag --port");
    assert_eq!(
        line("  workers:"),
        "  workers: 2  # environment variable TOKENWIRE_SERVER__WORKERS"
    );
    assert!(
        line("  heartbeat:").starts_with("  heartbeat: 9s  # ")
            && line("  heartbeat:").ends_with("t.yaml"),
        "{yaml}"
    );
    assert_eq!(line("  backlog:"), "  backlog: 4096");
    assert!(
        line("upstreams:").contains("# environment variable OPENAI_API_KEY"),
        "{yaml}"
    );
}

#[test]
fn check_summarises_the_configuration() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("t.yaml");
    fs::write(&path, ONE_UPSTREAM).unwrap();
    let cli =
        Cli::try_parse_from(["tokenwire", "--check", "--config", path.to_str().unwrap()]).unwrap();
    let loaded = Config::load(&cli, std::iter::empty()).unwrap();
    let answer = output(&cli, &loaded).unwrap();
    for part in [
        "can be used",
        "t.yaml",
        "127.0.0.1 port 3000",
        "http://localhost:1/v1 (without a key)",
        "qwen",
    ] {
        assert!(answer.contains(part), "{part} is missing from:\n{answer}");
    }
}

#[test]
fn max_stream_bytes_is_capped_at_max_memory() {
    let config = Given {
        file: "streams: {max_memory: 1MiB}",
        ..Given::default()
    }
    .config();
    assert_eq!(config.streams.max_stream_bytes(), 1 << 20);
    assert_eq!(Config::default().streams.max_stream_bytes(), 64 << 20);
}

#[test]
fn base_url_and_path_are_joined_with_one_slash() {
    for base_url in ["http://h/v1", "http://h/v1/"] {
        let upstream = Upstream {
            base_url: base_url.to_owned(),
            ..Upstream::default()
        };
        assert_eq!(upstream.url("/models"), "http://h/v1/models");
    }
}

/// Runs the binary in `folder` with the environment `env` only.
fn run(folder: &Path, flags: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenwire"));
    command
        .current_dir(folder)
        .args(flags)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

#[test]
fn default_file_is_read_from_the_working_directory() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("config")).unwrap();
    fs::write(
        folder.path().join("config/tokenwire.yaml"),
        "server: {port: 4242}",
    )
    .unwrap();
    let output = run(folder.path(), &["--print-config"], &[]);
    let yaml = String::from_utf8(output.stdout).unwrap();
    assert!(
        yaml.contains("  port: 4242  # config/tokenwire.yaml\n"),
        "{yaml}"
    );
    assert!(output.status.success());
}

#[test]
fn check_sets_the_exit_code() {
    let folder = TempDir::new().unwrap();
    let output = run(folder.path(), &["--check"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("the embedded simulator")
    );

    let output = run(
        folder.path(),
        &["--check"],
        &[("TOKENWIRE_SERVER__PORT", "x")],
    );
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(1), &b""[..])
    );
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("TOKENWIRE_SERVER__PORT")
    );
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_refused_and_not_a_panic() {
    use std::os::unix::ffi::OsStrExt;
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenwire"));
    command
        .current_dir(folder.path())
        .arg("--check")
        .env_clear();
    let output = command
        .env(
            "TOKENWIRE_SERVER__HOST",
            std::ffi::OsStr::from_bytes(b"caf\xe9"),
        )
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("`server.host`")
    );
}

#[test]
fn limits_and_prices_are_read_from_file_and_environment() {
    let config = Given {
        file: "limits:\n  per_key: {requests_per_minute: 60, budget_per_day: 0.1}\n  on_overrun: stop\n\
               prices:\n  gpt-4.1: {input: 2, output: '8.000001', cached: null}\n\
               auth:\n  keys:\n    - {owner: a, key: sk-a-key-of-this-test-1, limits: {streams: 2}}\n",
        env: &[("TOKENWIRE_LIMITS__PER_OWNER__STREAMS", "7")],
        ..Given::default()
    }
    .config();
    let limits = &config.limits;
    assert_eq!(limits.per_key.requests_per_minute, Some(60));
    assert_eq!(limits.per_key.budget_per_day.unwrap().micros(), 100_000);
    assert_eq!(limits.per_owner.streams, Some(7));
    assert_eq!(config.auth.keys[0].limits.streams, Some(2));
    let price = config.prices.of("gpt-4.1").unwrap();
    assert_eq!(
        (price.input.micros(), price.output.micros()),
        (2_000_000, 8_000_001)
    );
    let config = Given {
        env: &[("TOKENWIRE_PRICES", "{m: {input: 1, output: 2}}")],
        ..Given::default()
    }
    .config();
    assert_eq!(config.prices.of("m").unwrap().output.micros(), 2_000_000);
}

#[test]
fn mistakes_in_limits_and_prices_are_named_with_their_remedy() {
    for (file, expected) in [
        (
            "limits:\n  per_key: {streams: 0}\n",
            "`limits.per_key.streams` is 0; expected more than 0. Leave it out for no limit.",
        ),
        (
            "limits:\n  per_owner: {budget_per_day: 1}\n",
            "`limits.per_owner.budget_per_day` is set without prices; expected prices to count it by. Add the models to `prices`.",
        ),
        (
            "auth:\n  keys:\n    - {owner: a, key: sk-a-key-of-this-test-1, limits: {budget_per_month: 1}}\n",
            "`auth.keys[0].limits.budget_per_month` is set without prices",
        ),
        (
            "auth:\n  keys:\n    - {owner: a, key: sk-a-key-of-this-test-1, limits: {streams: 0}}\n",
            "`auth.keys[0].limits` has streams: 0; expected more than 0. Leave it out for no limit.",
        ),
        (
            "limits: {reserve_output: 0}\n",
            "`limits.reserve_output` is 0; expected at least 1 token.",
        ),
        (
            "limits: {on_overrun: panic}\n",
            "`limits.on_overrun` is \"panic\"; expected one of `continue`, `stop`",
        ),
        (
            "limits:\n  per_key: {tokens_per_minute: -1}\n",
            "`limits.per_key.tokens_per_minute` is -1; expected a whole number, 0 or more",
        ),
        (
            "prices:\n  m.1: {input: 0.0000001}\n",
            "expected an amount such as 12 or 0.15, with at most six decimals",
        ),
        (
            "prices:\n  m: {max_output: 0}\n",
            "`prices.m.max_output` is 0; expected at least 1 token. Leave it out if it is not known.",
        ),
        ("prices:\n  m: {inptu: 1}\n", "is not a known key"),
    ] {
        let error = Given {
            file,
            ..Given::default()
        }
        .error();
        assert!(error.contains(expected), "{file}{error}");
    }
}
