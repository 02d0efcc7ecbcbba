//! Who reaches the gateway without a credential.

use std::net::{IpAddr, ToSocketAddrs as _};

use super::report::Report;
use crate::auth::needs_key;
use crate::config::Config;

const SUBJECT: &str = "access";

pub(super) fn check(config: &Config, report: &mut Report) {
    let server = &config.server;
    let mut addresses = (server.host.as_str(), server.port)
        .to_socket_addrs()
        .into_iter()
        .flatten();
    let Some(address) = addresses.next() else {
        // The listener's check says so.
        return;
    };
    let is_public = !is_loopback(address.ip())
        || !server.allowed_hosts.is_empty()
        || server.public_url.is_some();
    if config.auth.has_keys() {
        report.fine(SUBJECT, "clients need a key");
    } else if !is_public {
        report.fine(SUBJECT, "only this machine reaches the gateway");
    } else if needs_key(config, address) {
        report.warn(
            SUBJECT,
            "other machines reach the gateway and auth has no keys; it makes one at each start and prints it",
            "For anything that lasts: `tokenwire key new --owner <name>`, and auth.keys_file.",
        );
    } else if config.has_upstream_key() {
        report.warn(
            SUBJECT,
            "public without credentials: every client that reaches the gateway spends the api_key of its upstreams",
            "Set auth.keys_file and remove auth.anonymous, unless a proxy in front checks who asks.",
        );
    } else {
        report.warn(
            SUBJECT,
            "public without credentials: every client that reaches the gateway uses its upstreams",
            "Set auth.keys_file, or server.host: 127.0.0.1, unless the network is trusted.",
        );
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}
