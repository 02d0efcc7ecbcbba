//! The text that the gateway prints at its start: upstreams, addresses, and two commands to paste.

use std::net::{IpAddr, SocketAddr};

use crate::config::Config;

/// Returns the banner of a gateway that listens on `address`. `upstream` is the text of
/// [`describe_upstreams`].
#[must_use]
pub fn banner(config: &Config, address: SocketAddr, upstream: &str) -> String {
    let at = reachable(address);
    // curl takes a name without a scheme for http.
    let (http, ws, curl) = match config.server.tls.is_on() {
        true => ("https", "wss", "https://"),
        false => ("http", "ws", ""),
    };
    let model = config.default_model().map_or_else(String::new, |model| {
        format!(", model {model} unless a request names another")
    });
    let mut text = format!(
        "tokenwire {version} listens on {address}\n\
         \n\
         \x20 answers    {upstream}{model}\n\
         \x20 chat page  {http}://{at}/\n\
         \x20 SSE        curl -N {curl}{at}/v1/streams -d '{input}'\n\
         \x20 WebSocket  npx wscat -c {ws}://{at}/v1/ws -w -1 -x '{create}'\n",
        version = env!("CARGO_PKG_VERSION"),
        input = example(config, r#""input":"hello""#),
        create = example(config, r#""type":"response.create","input":"hello""#),
    );
    let is_made = !config.auth.anonymous && config.has_upstream_key();
    let needs_key = config.auth.has_keys() || is_made;
    if !address.ip().is_loopback() && !needs_key {
        text.push_str(
            "\n  Other machines can reach this address and use the upstream without a key.\n",
        );
    }
    text
}

/// Describes the upstreams in a few words, without keys.
#[must_use]
pub fn describe_upstreams(config: &Config) -> String {
    if config.uses_simulator() {
        return "the embedded simulator (set OPENAI_API_KEY or --base-url for a real model)"
            .to_owned();
    }
    let each = config.upstreams.iter().map(|upstream| {
        let key = if upstream.api_key.is_some() {
            "with a key"
        } else {
            "without a key"
        };
        format!("{} ({key})", upstream.base_url)
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Returns an example request, with a model if there is no default.
fn example(config: &Config, fields: &str) -> String {
    let model = if config.default_model().is_some() {
        ""
    } else {
        r#","model":"<MODEL>""#
    };
    format!("{{{fields}{model}}}")
}

/// Returns the host and port by which this machine reaches `address`.
fn reachable(address: SocketAddr) -> String {
    let port = address.port();
    match address.ip() {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_unspecified() => format!("localhost:{port}"),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("localhost:{port}"),
        _ => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::Upstream;

    #[test]
    fn addresses_over_tls_say_so() {
        let mut config = Config::default();
        config.server.tls.cert = Some("cert.pem".to_owned());
        config.server.tls.key = Some("key.pem".to_owned());
        let text = shown(&config, "127.0.0.1:3000");
        for part in [
            "chat page  https://localhost:3000/",
            "curl -N https://localhost:3000/v1/streams",
            "wss://localhost:3000/v1/ws",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    fn shown(config: &Config, address: &str) -> String {
        banner(
            config,
            address.parse().unwrap(),
            &describe_upstreams(config),
        )
    }

    #[test]
    fn banner_names_the_simulator_and_shows_commands() {
        let text = shown(&Config::default(), "127.0.0.1:3000");
        for part in [
            "embedded simulator",
            "http://localhost:3000/\n",
            r#"curl -N localhost:3000/v1/streams -d '{"input":"hello"}'"#,
            r#"npx wscat -c ws://localhost:3000/v1/ws -w -1 -x '{"type":"response.create","input":"hello"}'"#,
        ] {
            assert!(text.contains(part), "{part} is missing from:\n{text}");
        }
        assert!(!text.contains("Other machines"), "{text}");
    }

    #[test]
    fn banner_names_the_upstream_without_its_key() {
        let upstream = Upstream {
            base_url: "http://localhost:8000/v1".into(),
            api_key: Some("sk-hidden".to_owned().into()),
            ..Upstream::default()
        };
        let text = shown(
            &Config {
                upstreams: vec![upstream],
                ..Config::default()
            },
            "127.0.0.1:3000",
        );
        assert!(
            text.contains("http://localhost:8000/v1 (with a key)"),
            "{text}"
        );
        assert!(text.contains(r#""model":"<MODEL>""#), "{text}");
        assert!(!text.contains("sk-hidden"), "{text}");
    }

    #[test]
    fn banner_shows_the_bound_address() {
        for (address, host) in [
            ("127.0.0.1:81", "localhost:81"),
            ("0.0.0.0:82", "localhost:82"),
            ("[::]:83", "localhost:83"),
            ("[::1]:84", "[::1]:84"),
            ("10.1.2.3:85", "10.1.2.3:85"),
        ] {
            assert!(
                shown(&Config::default(), address).contains(&format!("http://{host}/\n")),
                "{address}"
            );
        }
    }

    #[test]
    fn banner_warns_about_non_loopback_addresses() {
        assert!(shown(&Config::default(), "0.0.0.0:3000").contains("Other machines"));
    }
}
