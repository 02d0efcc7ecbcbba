//! Resolves names to public addresses only.
//!
//! The address that is checked must be the address that is connected to: a name can resolve to a
//! public address at first, and to 169.254.169.254 a moment later. So the check is the resolver of
//! the HTTP client itself, which connects to the addresses that the resolver returns.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::address::is_public;

/// The system's resolver, without the addresses that are not public.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublicResolver;

/// A name has no public address.
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

/// Returns the public addresses, or an error if there are none.
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
    fn private_addresses_are_removed() {
        check(
            &["8.8.8.8", "10.0.0.1", "2606:4700::1"],
            Ok(&["8.8.8.8", "2606:4700::1"]),
        );
        check(&["127.0.0.1", "::1"], Err(Refused));
        check(&["::ffff:169.254.169.254"], Err(Refused));
        check(&[], Err(Refused));
    }

    #[tokio::test]
    async fn name_of_the_local_machine_is_refused() {
        let error = PublicResolver
            .resolve("localhost".parse().unwrap())
            .await
            .err()
            .unwrap();
        assert!(error.is::<Refused>(), "{error}");
    }
}
