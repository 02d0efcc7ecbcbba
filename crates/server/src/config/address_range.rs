//! Ranges of IP addresses: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.7`.

use std::net::IpAddr;

/// A network, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    network: IpAddr,
    prefix: u8,
}

// === impl AddressRange ===

impl AddressRange {
    /// Parses an address, or a network with its prefix length. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().ok()?;
        let most = bits(network);
        let prefix = match prefix {
            Some(prefix) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                prefix.parse().ok().filter(|prefix| *prefix <= most)?
            }
            Some(_) => return None,
            None => most,
        };
        // A network of IPv4-mapped addresses is one of IPv4, as its addresses are.
        Some(match (network.to_canonical(), prefix.checked_sub(96)) {
            (network @ IpAddr::V4(_), Some(prefix)) if most > 32 => Self { network, prefix },
            _ => Self { network, prefix },
        })
    }

    /// Whether the range contains the address. An IPv4-mapped address counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        bits(self.network) == bits(address)
            && masked(self.network, self.prefix) == masked(address, self.prefix)
    }
}

/// Returns the address with all bits after the prefix cleared.
#[must_use]
pub fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let clear = u32::from(bits(address).saturating_sub(prefix));
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(clear).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(clear).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(range: &str, address: &str, contains: bool) {
        let parsed = AddressRange::parse(range).unwrap();
        assert_eq!(
            parsed.contains(address.parse().unwrap()),
            contains,
            "{range} {address}"
        );
    }

    #[test]
    fn range_contains_its_network() {
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("10.0.0.0/8", "::ffff:10.1.2.3", true);
        check("192.0.2.7", "192.0.2.7", true);
        check("192.0.2.7", "192.0.2.8", false);
        check("::ffff:192.0.2.7", "192.0.2.7", true);
        check("::ffff:10.0.0.0/104", "10.1.2.3", true);
        check("::ffff:10.0.0.0/104", "11.1.2.3", false);
        check("0.0.0.0/0", "8.8.8.8", true);
        check("0.0.0.0/0", "::1", false);
        check("2001:db8::/32", "2001:db8:1::1", true);
        check("2001:db8::/32", "2001:db9::1", false);
        check("::/0", "2001:db9::1", true);
    }

    #[test]
    fn malformed_ranges_are_refused() {
        for text in [
            "",
            "10",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "::/129",
            "localhost",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(AddressRange::parse(text), None, "{text}");
        }
    }
}
