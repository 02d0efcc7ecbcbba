//! A server that neither accepts nor refuses connections.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

/// A listener with a full accept queue: further connections are neither accepted nor refused.
pub(crate) struct FullBacklog {
    listener: Socket,
    _waiting: Vec<Socket>,
}

impl FullBacklog {
    pub(crate) fn new() -> Self {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        listener
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let waiting = (0..8)
            .map(|_| {
                let client = socket();
                client.set_nonblocking(true).unwrap();
                let _ = client.connect(&address);
                client
            })
            .collect();
        Self {
            listener,
            _waiting: waiting,
        }
    }

    pub(crate) fn base_url(&self) -> String {
        format!(
            "http://{}/v1",
            self.listener.local_addr().unwrap().as_socket().unwrap()
        )
    }

    /// Returns the number of connections that wait to be accepted, including the eight made here.
    pub(crate) fn knocking(&self) -> usize {
        let port = self
            .listener
            .local_addr()
            .unwrap()
            .as_socket()
            .unwrap()
            .port();
        let remote = format!("0100007F:{port:04X}");
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        // Columns: number, local, remote, state. State 02 is SYN_SENT.
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|row| row[2] == remote && row[3] == "02")
            .count()
    }
}
