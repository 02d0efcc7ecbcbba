//! What the gateway says when it is up: who answers, where the page is, and two lines to paste.

use std::net::{IpAddr, SocketAddr};

use crate::config::Config;

/// The banner for a gateway that listens on `address` and asks `upstream`, as
/// [`describe_upstreams`] puts it.
#[must_use]
pub fn banner(config: &Config, address: SocketAddr, upstream: &str) -> String {
    let at = reachable(address);
    let model = config.default_model().map_or_else(String::new, |model| {
        format!(", model {model} unless a request names another")
    });
    let mut text = format!(
        "tokenwire {version} listens on {address}\n\
         \n\
         \x20 answers    {upstream}{model}\n\
         \x20 chat page  http://{at}/\n\
         \x20 SSE        curl -N {at}/v1/streams -d '{input}'\n\
         \x20 WebSocket  npx wscat -c ws://{at}/v1/ws -w -1 -x '{create}'\n",
        version = env!("CARGO_PKG_VERSION"),
        input = example(config, r#""input":"hello""#),
        create = example(config, r#""type":"response.create","input":"hello""#),
    );
    if !address.ip().is_loopback() {
        text.push_str("\n  Other machines can reach this address, and whoever does can use the upstream without a key of his own.\n");
    }
    text
}

/// Who answers, in a few words and without keys.
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

/// A request that works as it stands: with a model where the gateway cannot assume one.
fn example(config: &Config, fields: &str) -> String {
    let model = if config.default_model().is_some() {
        ""
    } else {
        r#","model":"<MODEL>""#
    };
    format!("{{{fields}{model}}}")
}

/// The host and port under which this machine reaches `address`.
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

    fn shown(config: &Config, address: &str) -> String {
        banner(
            config,
            address.parse().unwrap(),
            &describe_upstreams(config),
        )
    }

    #[test]
    fn names_the_simulator_and_gives_lines_to_paste() {
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
    fn names_the_upstream_but_not_its_key() {
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
    fn uses_the_address_that_is_listened_on() {
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
    fn says_when_other_machines_can_reach_it() {
        assert!(shown(&Config::default(), "0.0.0.0:3000").contains("Other machines"));
    }
}
