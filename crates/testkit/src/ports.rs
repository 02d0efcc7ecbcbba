//! Ports for servers that a test starts as processes.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

/// Below the ports that Linux gives to outgoing connections (32,768 and above unless
/// `net.ipv4.ip_local_port_range` says otherwise). One of those could be taken between this call and
/// the start of the server, or while a test restarts it.
const PORTS: Range<u16> = 20_000..32_000;

/// Returns a port of 127.0.0.1 on which nothing listens.
///
/// No other process gets it from here until this one has ended (Linux), so a test can start, kill and
/// restart a server on it, also while other tests run.
#[must_use]
pub fn free_port() -> u16 {
    let mut ports = std::iter::repeat_with(|| rand::random_range(PORTS)).take(10_000);
    let free = ports.find(|port| claim(*port).is_ok());
    free.expect("a free port")
}

fn claim(port: u16) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    reserve(port)?;
    // A listener is closed at once, and leaves no state behind.
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

/// Takes the port's name among the tests of this machine. The kernel frees it when this process ends.
#[cfg(target_os = "linux")]
fn reserve(port: u16) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use parking_lot::Mutex;

    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let name = SocketAddr::from_abstract_name(format!("tokenwire-test-port-{port}"))?;
    RESERVED.lock().push(UnixListener::bind_addr(&name)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_free_and_given_once() {
        let mut ports: Vec<_> = (0..100).map(|_| free_port()).collect();
        for port in &ports {
            assert!(PORTS.contains(port), "{port}");
            TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).unwrap();
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 100);
    }

    #[test]
    fn taken_port_is_left_alone() {
        let port = free_port();
        assert!(claim(port).is_err(), "it was claimed twice");
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        assert!(claim(port).is_err(), "it was claimed from its listener");
    }
}
