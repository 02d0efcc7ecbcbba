//! Where Redis is: one server, a Redis Cluster, or what Sentinels watch.
//!
//! ```text
//!   redis://user:password@host:6379/0
//!   redis+cluster://user:password@host:6379,host:6379
//!   redis+sentinel://user:password@host:26379,host:26379/name/0
//! ```
//!
//! `rediss` in place of `redis` is TLS.

use super::error::RedisError;

/// A parsed address.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// One server, by its URL.
    Server(String),
    /// A Redis Cluster, by the URLs of some of its nodes.
    Cluster(Vec<String>),
    /// The master of this name, which these Sentinels know.
    Sentinel(Watched),
}

/// A master that Sentinels watch.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Watched {
    /// Hosts and ports.
    pub(super) sentinels: Vec<(String, u16)>,
    pub(super) name: String,
    pub(super) tls: bool,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: i64,
}

/// The port of a Sentinel whose address has none.
const SENTINEL_PORT: u16 = 26379;

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// [`RedisError::Address`], and [`RedisError::Unsupported`] for a database of a Redis Cluster.
    pub(super) fn parse(text: &str) -> Result<Self, RedisError> {
        let (scheme, rest) = text.split_once("://").ok_or(RedisError::Address)?;
        let (tls, kind) = match scheme.split_once('+') {
            None | Some((_, "unix")) => return Ok(Self::Server(text.to_owned())),
            Some(("redis", kind)) => (false, kind),
            Some(("rediss", kind)) => (true, kind),
            Some(_) => return Err(RedisError::Address),
        };
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let hosts: Vec<&str> = hosts.split(',').filter(|host| !host.is_empty()).collect();
        if hosts.is_empty() {
            return Err(RedisError::Address);
        }
        match kind {
            "cluster" => {
                if !matches!(path.trim_end_matches('/'), "" | "0") {
                    return Err(RedisError::Unsupported(
                        "a Redis Cluster has no databases: leave out what follows the last host of the URL",
                    ));
                }
                let scheme = if tls { "rediss" } else { "redis" };
                let login = login.map_or_else(String::new, |login| format!("{login}@"));
                let url = |host: &&str| format!("{scheme}://{login}{host}/");
                Ok(Self::Cluster(hosts.iter().map(url).collect()))
            }
            "sentinel" => {
                let (name, database) = path.split_once('/').unwrap_or((path, "0"));
                if name.is_empty() {
                    return Err(RedisError::Unsupported(
                        "the URL names no master: write redis+sentinel://host:26379,host:26379/name",
                    ));
                }
                let (user, password) = match login.map(|login| login.split_once(':')) {
                    None => (None, None),
                    Some(Some((user, password))) => (Some(user), Some(password)),
                    Some(None) => return Err(RedisError::Address),
                };
                let sentinels = hosts.iter().map(|host| host_and_port(host));
                Ok(Self::Sentinel(Watched {
                    sentinels: sentinels.collect::<Result<_, _>>()?,
                    name: name.to_owned(),
                    tls,
                    user: user
                        .filter(|user| !user.is_empty())
                        .map(decoded)
                        .transpose()?,
                    password: password.map(decoded).transpose()?,
                    database: database.parse().map_err(|_| RedisError::Address)?,
                }))
            }
            _ => Err(RedisError::Address),
        }
    }
}

fn host_and_port(host: &str) -> Result<(String, u16), RedisError> {
    match host.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.contains(']') => {
            let port = port.parse().map_err(|_| RedisError::Address)?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Ok((host.to_owned(), port))
        }
        _ => Ok((host.to_owned(), SENTINEL_PORT)),
    }
}

/// Returns a part of a URL in which each `%XX` is that byte.
fn decoded(text: &str) -> Result<String, RedisError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(RedisError::Address)?;
        let digits = std::str::from_utf8(digits).map_err(|_| RedisError::Address)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| RedisError::Address)?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| RedisError::Address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Address {
        match Address::parse(text) {
            Ok(address) => address,
            Err(error) => panic!("{text}: {error}"),
        }
    }

    #[test]
    fn addresses_name_a_server_a_cluster_or_sentinels() {
        for server in [
            "redis://a:1/2",
            "unix:///run/redis.sock",
            "redis+unix:///run/redis.sock",
        ] {
            assert!(parsed(server) == Address::Server(server.to_owned()));
        }
        let nodes = ["rediss://u:p%40@a:1/", "rediss://u:p%40@b:2/"].map(str::to_owned);
        let expected = Address::Cluster(nodes.to_vec());
        assert!(parsed("rediss+cluster://u:p%40@a:1,b:2") == expected);
        let expected = Address::Sentinel(Watched {
            sentinels: vec![("a".to_owned(), 1), ("b".to_owned(), 26379)],
            name: "main".to_owned(),
            tls: false,
            user: None,
            password: Some("p@".to_owned()),
            database: 3,
        });
        assert!(parsed("redis+sentinel://:p%40@a:1,b/main/3") == expected);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        for (text, reason) in [
            ("redis+cluster://a:1/2", "no databases"),
            ("redis+sentinel://a:1", "names no master"),
            ("redis+other://a:1", "no Redis URL"),
            ("redis+cluster://", "no Redis URL"),
            ("redis+sentinel://a:x/main", "no Redis URL"),
        ] {
            let error = Address::parse(text).err().map(|error| error.to_string());
            assert!(
                error.as_ref().is_some_and(|error| error.contains(reason)),
                "{text}: {error:?}"
            );
        }
    }
}
