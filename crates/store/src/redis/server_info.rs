//! What a Redis server says of itself.

use std::time::Duration;

use super::error::RedisError;

/// The oldest version that has all commands in use.
const OLDEST: (u32, u32) = (6, 2);

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// How long it has run. After a start it may know less than before.
    pub uptime: Duration,
    /// What it does when its memory is full. Anything but `noeviction` removes running streams.
    pub eviction_policy: String,
    /// Bytes that it may use; 0 for no limit.
    pub max_memory: u64,
    /// Bytes that it uses.
    pub used_memory: u64,
}

// === impl ServerInfo ===

impl ServerInfo {
    /// Reads the answers to `INFO server` and `INFO memory`.
    ///
    /// # Errors
    /// [`RedisError::TooOld`], and [`RedisError::Rejected`] if it is no Redis server.
    pub(super) fn parse(info: &str, is_cluster: bool) -> Result<Self, RedisError> {
        let field = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let number = |name| field(name).and_then(|value| value.parse().ok());
        let Some(version) = field("redis_version") else {
            return Err(RedisError::Rejected("INFO names no version".to_owned()));
        };
        match (field("redis_mode"), is_cluster) {
            (Some("cluster"), false) => {
                return Err(RedisError::Unsupported(
                    "it is a node of a Redis Cluster: begin its URL with redis+cluster://",
                ));
            }
            (Some("sentinel"), _) => {
                return Err(RedisError::Unsupported(
                    "it is a Sentinel: write redis+sentinel://host:26379/name",
                ));
            }
            (Some("standalone"), true) => {
                return Err(RedisError::Unsupported(
                    "it is no Redis Cluster: begin its URL with redis://",
                ));
            }
            _ => {}
        }
        let mut parts = version.split('.').map_while(|part| part.parse().ok());
        let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if found < OLDEST {
            return Err(RedisError::TooOld {
                found: version.to_owned(),
            });
        }
        Ok(Self {
            version: version.to_owned(),
            uptime: Duration::from_secs(number("uptime_in_seconds").unwrap_or(0)),
            eviction_policy: field("maxmemory_policy").unwrap_or("unknown").to_owned(),
            max_memory: number("maxmemory").unwrap_or(0),
            used_memory: number("used_memory").unwrap_or(0),
        })
    }

    /// Returns what holds for this server and another one of a cluster: the shorter time, and the one
    /// that drops data.
    pub(super) fn or_worse(self, other: Self) -> Self {
        let uptime = self.uptime.min(other.uptime);
        let worse = if self.keeps_everything() { other } else { self };
        Self { uptime, ..worse }
    }

    /// Returns true if the server never removes what has not expired.
    #[must_use]
    pub fn keeps_everything(&self) -> bool {
        self.max_memory == 0 || self.eviction_policy == "noeviction"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_policy_are_read() {
        let info = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:7\r\n# Memory\r\nused_memory:900\r\n\
                    maxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n";
        let info = ServerInfo::parse(info, false).unwrap();
        assert_eq!((info.used_memory, info.max_memory), (900, 1000));
        assert_eq!(info.version, "7.0.15");
        assert_eq!(info.uptime, Duration::from_secs(7));
        assert!(!info.keeps_everything());
    }

    #[test]
    fn versions_before_6_2_are_too_old() {
        for (version, accepted) in [
            ("6.0.16", false),
            ("5.0.7", false),
            ("6.2.0", true),
            ("7.4.1", true),
            ("255.255.255", true),
        ] {
            let parsed = ServerInfo::parse(&format!("redis_version:{version}\r\n"), false);
            assert_eq!(parsed.is_ok(), accepted, "{version}");
        }
        assert!(ServerInfo::parse("HTTP/1.1 400 Bad Request\r\n", false).is_err());
    }
}
