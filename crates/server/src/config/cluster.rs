//! Several nodes behind one address, which find each other's streams through Redis.

use std::net::{Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::secret::Secret;

/// Several nodes behind one address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// URL of the Redis that all nodes share; none for a gateway on its own. It may hold a password.
    pub url: Option<Secret>,
    /// Address on which the other nodes read this one's streams.
    pub listen: Option<String>,
    /// Address by which the other nodes reach `listen`. [`Cluster::advertised`] has the default.
    pub advertise: Option<String>,
    /// Secret by which nodes recognise each other, at least [`Cluster::MIN_SECRET`] bytes.
    pub secret: Option<Secret>,
    /// Name of this node in logs and reports; the machine's if left out.
    pub name: Option<String>,
}

impl Cluster {
    /// The shortest secret, in bytes.
    pub const MIN_SECRET: usize = 32;

    /// Whether the gateway is one of several nodes.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.url.is_some()
    }

    /// Returns the address by which other nodes reach this one, which listens on `bound`.
    #[must_use]
    pub fn advertised(&self, bound: SocketAddr) -> String {
        match (&self.advertise, &self.listen) {
            (Some(advertise), _) => advertise.clone(),
            // The port may have been 0, and the host a name.
            (None, Some(listen)) => match listen.rsplit_once(':') {
                Some((host, _)) => format!("{host}:{}", bound.port()),
                None => bound.to_string(),
            },
            (None, None) => bound.to_string(),
        }
    }
}

/// Splits a host from its port. The host of an IPv6 address stands in brackets.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether an address to listen on means every address of the machine, by which no other node can
/// reach it.
pub(super) fn is_every_address(address: &str) -> bool {
    let host = host_of(address);
    host == "0.0.0.0" || host.parse() == Ok(Ipv6Addr::UNSPECIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertised_address_is_the_one_that_is_listened_on_unless_it_is_set() {
        let bound = "10.0.0.7:4100".parse().unwrap();
        let mut cluster = Cluster {
            listen: Some("node-a.internal:0".to_owned()),
            ..Cluster::default()
        };
        assert_eq!(cluster.advertised(bound), "node-a.internal:4100");
        cluster.advertise = Some("gateway.example.com:5000".to_owned());
        assert_eq!(cluster.advertised(bound), "gateway.example.com:5000");
    }

    #[test]
    fn unspecified_addresses_are_recognised() {
        for (address, expected) in [
            ("0.0.0.0:4100", true),
            ("[::]:4100", true),
            ("[0:0::0]:4100", true),
            ("127.0.0.1:4100", false),
            ("[::1]:4100", false),
            ("node-a:4100", false),
        ] {
            assert_eq!(is_every_address(address), expected, "{address}");
        }
    }
}
