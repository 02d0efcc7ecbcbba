//! Limits of connections: in total, by address, and by the descriptors of the process.
//!
//! At a limit some connections are still accepted for operations (`/healthz`, `/readyz`,
//! `/metrics`). Their other requests are refused. At most [`RESERVED_CONNECTIONS`] of them stay open:
//! a new one closes the oldest, so that idle ones do not keep operations out.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::HttpMessage as _;
use actix_web::dev::ServiceRequest;
use actix_web::http::header::{self, HeaderMap};
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokenwire_connection::{Admission, Http2Stream, Reserved};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::gauge::{Gauge, GaugeGuard};
use tokio::sync::Notify;

use crate::config::address_range::{AddressRange, masked};
use crate::config::schema::Config;

/// Connections beyond `limits.connections` that are accepted for operations. As many again may be
/// closing.
pub(crate) const RESERVED_CONNECTIONS: usize = 32;

/// Maximum time of a reserved connection.
const RESERVED_LIFETIME: Duration = Duration::from_secs(5);

/// Maximum number of descriptors that are kept for upstreams and for operations.
const RESERVED_DESCRIPTORS: RawFd = 64;

/// Time between two warnings about the same limit.
pub(crate) const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Prefix length of an IPv6 network that counts as one address.
const V6_PREFIX: u8 = 64;

/// Decides which connections and proxied requests are served. Shared by all workers.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    max_connections: usize,
    max_per_address: usize,
    trusted_proxies: Vec<AddressRange>,
    /// The first descriptor that is reserved. Descriptors are allocated from 0 up, so a connection
    /// with this one shows that the process is close to its limit.
    first_reserved: RawFd,
    admitted: Gauge,
    reserve: Reserve,
    addresses: AddressCounts,
    warnings: Warnings,
}

/// The open reserved connections.
#[derive(Clone, Debug)]
struct Reserve {
    capacity: usize,
    /// Close the connections, the oldest first.
    open: Arc<Mutex<VecDeque<Arc<Notify>>>>,
}

/// A place in the [`Reserve`].
#[derive(Debug)]
struct ReserveGuard {
    reserve: Reserve,
    close: Arc<Notify>,
}

/// Numbers of connections and proxied requests by address.
#[derive(Clone, Debug, Default)]
struct AddressCounts(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// Counts one connection or request of an address.
#[derive(Debug)]
pub(crate) struct AddressGuard {
    counts: AddressCounts,
    address: IpAddr,
}

/// Counts one request where it counts as a connection.
#[derive(Debug)]
pub(crate) struct RequestGuard {
    _place: Option<GaugeGuard>,
    _address: Option<AddressGuard>,
}

/// Limits the rate of a warning.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Option<Instant>>);

// === impl ConnectionLimits ===

impl ConnectionLimits {
    pub(crate) fn new(config: &Config) -> Self {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let descriptors = RawFd::try_from(descriptors.unwrap_or(u64::MAX)).unwrap_or(RawFd::MAX);
        let reserved = RESERVED_DESCRIPTORS.min(descriptors / 8);
        // Half of the reserved descriptors stay free for upstreams.
        let places = usize::try_from(reserved / 2).unwrap_or(0).max(1);
        Self {
            max_connections: config.limits.connections,
            max_per_address: config.server.max_connections_per_address,
            trusted_proxies: config
                .server
                .trusted_proxies
                .iter()
                .filter_map(|range| AddressRange::parse(range))
                .collect(),
            first_reserved: descriptors - reserved,
            admitted: Gauge::default(),
            reserve: Reserve::new(RESERVED_CONNECTIONS.min(places)),
            addresses: AddressCounts::default(),
            warnings: Warnings::default(),
        }
    }

    /// Decides about an accepted socket.
    pub(crate) fn admit(&self, socket: &TcpStream) -> Admission {
        let address = match self.count_address(socket) {
            Ok(guard) => guard,
            Err(error) => return Admission::Refuse(refusal(&error)),
        };
        let out_of_descriptors = socket.as_raw_fd() >= self.first_reserved;
        if out_of_descriptors && self.warnings.is_due() {
            tracing::warn!("few descriptors are left: new connections are refused");
        }
        let most = self
            .max_connections
            .saturating_add(2 * RESERVED_CONNECTIONS);
        let Some((admitted, connections)) = self.admitted.try_enter(most) else {
            return Admission::Refuse(refusal(&overloaded()));
        };
        let counted = (admitted, address);
        if !out_of_descriptors && connections < self.max_connections {
            return Admission::Serve(Box::new(counted));
        }
        let place = self.reserve.enter();
        let close = place.close.clone();
        Admission::Reserve {
            guard: Box::new((counted, place)),
            end: async move {
                let _ = tokio::time::timeout(RESERVED_LIFETIME, close.notified()).await;
            }
            .boxed_local(),
        }
    }

    /// Counts a connection of its peer, unless that is a trusted proxy.
    fn count_address(&self, socket: &TcpStream) -> Result<Option<AddressGuard>, ApiError> {
        if self.max_per_address == 0 {
            return Ok(None);
        }
        match socket.peer_addr() {
            Ok(peer) if !self.is_trusted(peer.ip()) => self.enter(peer.ip()).map(Some),
            _ => Ok(None),
        }
    }

    /// Checks a request. It is refused on a [reserved](Reserved) connection unless it is for
    /// operations, and behind a trusted proxy at the limit of the client's address. Beside other
    /// requests of its HTTP/2 connection it counts as a connection.
    pub(crate) fn check(&self, request: &ServiceRequest) -> Result<Option<RequestGuard>, ApiError> {
        let stream = request.extensions().get::<Http2Stream>().copied();
        let is_reserved = request.conn_data::<Reserved>().is_some()
            || stream.is_some_and(|stream| stream.is_reserved);
        let is_operation = is_operation(request.path());
        if is_reserved && !is_operation {
            return Err(overloaded());
        }
        let is_further = stream.is_some_and(|stream| stream.others > 0) && !is_operation;
        let place = match is_further {
            true => match self.admitted.try_enter(self.max_connections) {
                Some((place, _)) => Some(place),
                None => return Err(overloaded()),
            },
            false => None,
        };
        let address = match self.max_per_address {
            0 => None,
            _ => self.counted_address(request, is_further),
        };
        let address = address.map(|address| self.enter(address)).transpose()?;
        Ok(
            (place.is_some() || address.is_some()).then_some(RequestGuard {
                _place: place,
                _address: address,
            }),
        )
    }

    /// Returns the address that a request counts for: that of the client behind a trusted proxy, and
    /// of the peer for a further request of its connection.
    fn counted_address(&self, request: &ServiceRequest, is_further: bool) -> Option<IpAddr> {
        let peer = request.peer_addr()?.ip();
        match self.is_trusted(peer) {
            true => self.forwarded_address(request),
            false => is_further.then_some(peer),
        }
    }

    /// Returns the address of the client behind a trusted proxy.
    fn forwarded_address(&self, request: &ServiceRequest) -> Option<IpAddr> {
        let peer = request.peer_addr()?.ip();
        if !self.is_trusted(peer) {
            return None;
        }
        // The proxy nearest to the gateway appends the last address.
        forwarded(request.headers())
            .into_iter()
            .rev()
            .find(|address| address.is_none_or(|address| !self.is_trusted(address)))
            .flatten()
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted_proxies
            .iter()
            .any(|range| range.contains(address))
    }

    fn enter(&self, address: IpAddr) -> Result<AddressGuard, ApiError> {
        self.addresses
            .enter(address, self.max_per_address)
            .ok_or_else(|| {
                let message = "This address has as many connections as server.max_connections_per_address allows.";
                ApiError::new(ErrorCode::TooManyConnections, message)
            })
    }
}

/// Whether a path stays available at the limits.
fn is_operation(path: &str) -> bool {
    matches!(path, "/health" | "/healthz" | "/readyz" | "/metrics")
}

pub(crate) fn overloaded() -> ApiError {
    let message =
        "The gateway has as many connections as limits.connections or its open files allow.";
    ApiError::new(ErrorCode::Overloaded, message)
}

/// Returns a complete response with this error.
pub(crate) fn refusal(error: &ApiError) -> Bytes {
    let (status, body) = (error.status, error.body());
    let reason = if status == 429 {
        "Too Many Requests"
    } else {
        "Service Unavailable"
    };
    Bytes::from(format!(
        "HTTP/1.1 {status} {reason}\r\nconnection: close\r\ncontent-type: application/json\r\nretry-after: 1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Returns the addresses of `X-Forwarded-For`, or else of `Forwarded` (RFC 7239), in their order.
/// `None` stands for an unknown or obfuscated one. Most proxies write the first header and pass on
/// the second, so a client must not be able to replace its address with the second.
fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let texts = |name: header::HeaderName| -> Vec<&str> {
        headers
            .get_all(name)
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect()
    };
    let elements = texts(header::X_FORWARDED_FOR);
    if !elements.is_empty() {
        return elements.into_iter().map(node).collect();
    }
    let elements = texts(header::FORWARDED);
    let of = |element: &str| {
        element.split(';').find_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("for")
                .then(|| node(value))?
        })
    };
    elements.into_iter().map(of).collect()
}

/// Parses an address with an optional port: `192.0.2.1:80`, `"[2001:db8::1]:80"`, `2001:db8::1`. The
/// zone of a link-local address does not count.
fn node(text: &str) -> Option<IpAddr> {
    let address = |text: &str| text.split('%').next()?.parse::<IpAddr>().ok();
    let text = text.trim().trim_matches('"');
    match text.strip_prefix('[') {
        Some(rest) => address(rest.split_once(']')?.0),
        None => address(text).or_else(|| address(text.split_once(':')?.0)),
    }
}

// === impl Reserve ===

impl Reserve {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            open: Arc::default(),
        }
    }

    /// Takes a place. Without a free one the oldest connection is told to close.
    fn enter(&self) -> ReserveGuard {
        let close = Arc::new(Notify::new());
        let mut open = self.open.lock();
        if open.len() >= self.capacity
            && let Some(oldest) = open.pop_front()
        {
            oldest.notify_one();
        }
        open.push_back(close.clone());
        ReserveGuard {
            reserve: self.clone(),
            close,
        }
    }
}

impl Drop for ReserveGuard {
    fn drop(&mut self) {
        let mut open = self.reserve.open.lock();
        open.retain(|close| !Arc::ptr_eq(close, &self.close));
    }
}

// === impl AddressCounts ===

impl AddressCounts {
    /// Counts one more of this address, if there are fewer than `max`.
    fn enter(&self, address: IpAddr, max: usize) -> Option<AddressGuard> {
        let address = match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            address => masked(address, V6_PREFIX),
        };
        let mut counts = self.0.lock();
        let count = counts.entry(address).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(AddressGuard {
            counts: self.clone(),
            address,
        })
    }
}

impl Drop for AddressGuard {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

// === impl Warnings ===

impl Warnings {
    /// Whether the last warning is long enough ago. Notes the new one.
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.0.lock();
        let is_due = last.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn limits(max_per_address: usize, trusted: &[&str]) -> ConnectionLimits {
        let mut config = Config::default();
        config.server.max_connections_per_address = max_per_address;
        config.server.trusted_proxies = trusted.iter().map(|range| (*range).to_owned()).collect();
        ConnectionLimits::new(&config)
    }

    #[test]
    fn client_address_is_the_last_that_no_trusted_proxy_has() {
        let limits = limits(1, &["10.0.0.0/8", "::1"]);
        for (peer, name, value, expected) in [
            (
                "10.0.0.1:1",
                "x-forwarded-for",
                "192.0.2.1",
                Some("192.0.2.1"),
            ),
            (
                "10.0.0.1:1",
                "x-forwarded-for",
                "1.2.3.4, 192.0.2.1:80, 10.9.9.9",
                Some("192.0.2.1"),
            ),
            ("10.0.0.1:1", "x-forwarded-for", "192.0.2.1, unknown", None),
            (
                "[::1]:1",
                "forwarded",
                "for=192.0.2.9, For=\"[2001:db8::1]:80\";proto=http",
                Some("2001:db8::1"),
            ),
            (
                "[::1]:1",
                "forwarded",
                "for=192.0.2.9;by=10.0.0.1, for=10.0.0.1",
                Some("192.0.2.9"),
            ),
            ("[::1]:1", "forwarded", "for=_hidden", None),
            (
                "[::1]:1",
                "x-forwarded-for",
                "fe80::2%eth0",
                Some("fe80::2"),
            ),
            (
                "[::1]:1",
                "x-forwarded-for",
                "[fe80::2%eth0]:80",
                Some("fe80::2"),
            ),
            (
                "[::ffff:10.0.0.1]:1",
                "x-forwarded-for",
                "192.0.2.1",
                Some("192.0.2.1"),
            ),
            ("192.0.2.7:1", "x-forwarded-for", "1.2.3.4", None),
            ("10.0.0.1:1", "x-other", "1.2.3.4", None),
        ] {
            let request = TestRequest::default()
                .peer_addr(peer.parse().unwrap())
                .insert_header((name, value))
                .to_srv_request();
            let expected = expected.map(|address| address.parse::<IpAddr>().unwrap());
            assert_eq!(
                limits.forwarded_address(&request),
                expected,
                "{peer} {value}"
            );
        }
    }

    #[test]
    fn forwarded_of_a_client_does_not_replace_its_address() {
        let limits = limits(1, &["10.0.0.0/8"]);
        let request = TestRequest::default()
            .peer_addr("10.0.0.1:1".parse().unwrap())
            .insert_header(("forwarded", "for=1.2.3.4"))
            .insert_header(("x-forwarded-for", "192.0.2.1"))
            .to_srv_request();
        let expected: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(limits.forwarded_address(&request), Some(expected));
    }

    #[test]
    fn new_reserved_connection_closes_the_oldest() {
        let reserve = Reserve::new(2);
        let [first, second, third] = [(); 3].map(|()| reserve.enter());
        let is_closed = |place: &ReserveGuard| place.close.notified().now_or_never().is_some();
        assert!(is_closed(&first) && !is_closed(&second) && !is_closed(&third));
        drop(second);
        let fourth = reserve.enter();
        assert!(!is_closed(&third) && !is_closed(&fourth));
        drop((first, third, fourth));
        assert!(reserve.open.lock().is_empty());
    }

    #[test]
    fn address_limit_counts_v6_networks_and_frees_places() {
        let limits = limits(1, &[]);
        let enter = |address: &str| limits.enter(address.parse().unwrap());
        let first = enter("2001:db8::1").unwrap();
        assert!(enter("2001:db8::2").is_err());
        assert!(enter("2001:db8:0:1::1").is_ok());
        let mapped = enter("::ffff:192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_err());
        drop((first, mapped));
        assert!(enter("2001:db8::2").is_ok() && enter("192.0.2.1").is_ok());
        assert!(limits.addresses.0.lock().is_empty());
    }
}
