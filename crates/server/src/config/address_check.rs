//! Checks of hosts, origins and URLs.

use std::net::IpAddr;

use url::{Host, Url};

/// Whether the text is a host and a port. An IPv6 address stands in brackets.
pub(super) fn is_socket_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let in_brackets = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_valid = match in_brackets {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host) && !host.contains(':'),
    };
    is_valid && port.parse::<u16>().is_ok()
}

pub(super) fn is_host(host: &str) -> bool {
    let name = |host: &str| {
        host.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
            && Host::parse(host).is_ok()
    };
    host.parse::<IpAddr>().is_ok() || name(host)
}

/// Whether a `*.` may stand before `name`: below a top-level domain it would match every site.
pub(super) fn is_zone(name: &str) -> bool {
    let (host, _) = name.split_once(':').unwrap_or((name, ""));
    !name.contains('*')
        && (host.contains('.') || matches!(host, "localhost" | "internal" | "local"))
}

pub(super) fn is_public_url(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

/// Checks that `origin` has the form that browsers send, since origins are compared as text.
pub(super) fn check_origin(origin: &str) -> Result<(), String> {
    if origin == "*" {
        return Err("List the origins one by one: `*` would let any web page use the gateway, and the upstream's key.".to_owned());
    }
    if origin.contains('*') {
        let is_pattern = origin
            .split_once("://*.")
            .is_some_and(|(scheme, rest)| !scheme.contains('*') && is_zone(rest));
        if !is_pattern {
            return Err(
                "A `*` stands for the first label of a name: https://*.example.com.".to_owned(),
            );
        }
        return check_origin(&origin.replacen('*', "x", 1));
    }
    let Ok(url) = Url::parse(origin) else {
        return Err(String::new());
    };
    // The URL standard does not normalise the scheme of a browser extension.
    let normal = match url.host_str() {
        Some(host) if !matches!(url.scheme(), "http" | "https") => url.port().map_or_else(
            || format!("{}://{host}", url.scheme()),
            |port| format!("{}://{host}:{port}", url.scheme()),
        ),
        Some(_) => url.origin().ascii_serialization(),
        None => return Err(String::new()),
    };
    if normal == origin {
        Ok(())
    } else {
        Err(format!("Write it as {normal}."))
    }
}

/// Checks the URL of a Redis. The error holds what was found, without the URL, which may hold a
/// password, and the remedy.
pub(super) fn check_redis_url(url: &str) -> Result<(), (&'static str, &'static str)> {
    // Several hosts are no URL.
    let several = url.split_once("://").and_then(|(scheme, rest)| {
        let kind = scheme
            .strip_prefix("redis+")
            .or_else(|| scheme.strip_prefix("rediss+"))?;
        Some((kind, rest.rsplit_once('@').map_or(rest, |(_, rest)| rest)))
    });
    match several {
        Some(("cluster" | "sentinel", hosts)) if hosts.is_empty() || hosts.starts_with('/') => {
            return Err(("has no host", ""));
        }
        Some(("cluster", hosts)) => {
            let path = hosts.split_once('/').map_or("", |(_, path)| path);
            if !matches!(path, "" | "0") {
                return Err((
                    "names a database, of which a Redis Cluster has none",
                    "Leave out what follows the last host.",
                ));
            }
            return Ok(());
        }
        Some(("sentinel", hosts)) => {
            let name = hosts.split_once('/').map_or("", |(_, name)| name);
            if name.is_empty() {
                return Err((
                    "names no master",
                    "Write redis+sentinel://host:26379,host:26379/name.",
                ));
            }
            return Ok(());
        }
        _ => {}
    }
    if url == super::secret::REDACTED {
        return Err((
            "is what --print-config writes in place of a URL",
            "Put the URL itself there.",
        ));
    }
    let Ok(url) = Url::parse(url) else {
        let remedy = if url.contains("://") {
            "Percent-encode characters such as `@`, `:` and `/` in a password."
        } else {
            "Begin it with redis:// or rediss://."
        };
        return Err(("is not a URL", remedy));
    };
    match url.scheme() {
        "redis" | "rediss" if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(()),
        "redis" | "rediss" => Err(("has no host", "")),
        "unix" | "redis+unix" if url.path().len() > 1 => Ok(()),
        "unix" | "redis+unix" => Err((
            "has no path",
            "Write the path of the socket: unix:///run/redis.sock.",
        )),
        _ => Err((
            "has another scheme than redis and rediss",
            "Begin it with redis:// or rediss://.",
        )),
    }
}

/// Checks a base URL. The error holds what was found, without credentials, and the remedy.
pub(super) fn check_base_url(base_url: &str) -> Result<(), (String, &'static str)> {
    let found = || format!("is {base_url:?}");
    if base_url.is_empty() {
        return Err((
            "is missing".to_owned(),
            "Add `base_url:`, the URL that stands before /chat/completions.",
        ));
    }
    let Ok(url) = Url::parse(base_url) else {
        // Text that does not parse may still hold a password.
        let shown = if base_url.contains('@') {
            "is not a URL".to_owned()
        } else {
            found()
        };
        let remedy = if base_url.contains("://") {
            ""
        } else {
            "Begin it with http:// or https://."
        };
        return Err((shown, remedy));
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err((
            "holds a user name or a password".to_owned(),
            "Give the credential as `api_key`.",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        // Some servers take their key in the query.
        return Err((
            "holds a query or a fragment".to_owned(),
            "Leave out what follows `?` or `#`; give a credential as `api_key`.",
        ));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err((found(), "Begin it with http:// or https://."));
    }
    if ["/chat/completions", "/responses"]
        .iter()
        .any(|path| url.path().trim_end_matches('/').ends_with(path))
    {
        return Err((
            found(),
            "Leave out the part that the gateway appends: /chat/completions or /responses.",
        ));
    }
    Ok(())
}
