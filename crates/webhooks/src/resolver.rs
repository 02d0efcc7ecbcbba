//! Names, resolved to public addresses only.
//!
//! What is checked before a connection and what is connected to must be the same: a name may
//! resolve to a public address for whoever looks first, and to 169.254.169.254 a moment later. So
//! the check is the resolver of the HTTP client itself, and the addresses that it lets through are
//! those that are connected to.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::is_public;

/// The system's resolver, less the addresses that are not public.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublicResolver;

/// A name has addresses, but none that is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name resolves to addresses that are not public")]
pub(crate) struct Refused;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(public(found)?) as Addrs)
        })
    }
}

/// Those that are public; an error if there are others only.
fn public(
    found: impl Iterator<Item = SocketAddr>,
) -> Result<std::vec::IntoIter<SocketAddr>, Refused> {
    let public: Vec<SocketAddr> = found.filter(|address| is_public(address.ip())).collect();
    if public.is_empty() {
        Err(Refused)
    } else {
        Ok(public.into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &[&str], expected: Result<&[&str], Refused>) {
        let parse = |text: &&str| SocketAddr::new(text.parse().unwrap(), 0);
        let left = public(found.iter().map(parse)).map(Iterator::collect::<Vec<_>>);
        assert_eq!(
            left,
            expected.map(|expected| expected.iter().map(parse).collect()),
            "{found:?}"
        );
    }

    #[test]
    fn only_public_addresses_are_left_to_connect_to() {
        check(
            &["8.8.8.8", "10.0.0.1", "2606:4700::1"],
            Ok(&["8.8.8.8", "2606:4700::1"]),
        );
        check(&["127.0.0.1", "::1"], Err(Refused));
        check(&["::ffff:169.254.169.254"], Err(Refused));
        check(&[], Err(Refused));
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused() {
        let error = PublicResolver
            .resolve("localhost".parse().unwrap())
            .await
            .err()
            .unwrap();
        assert!(error.is::<Refused>(), "{error}");
    }
}
