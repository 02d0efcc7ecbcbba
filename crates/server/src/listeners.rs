//! Where the listening sockets come from: systemd, the system, or a running gateway.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::Path;

use listenfd::ListenFd;

use crate::config::schema::{Config, StoreKind};
use crate::serve_error::ServeError;
use crate::takeover::{Predecessor, TakeoverError};
use crate::time_limit::{self, within};

/// Names that systemd may give to the sockets (`FileDescriptorName=`).
const CLIENTS: &str = "http";
const OPERATIONS: &str = "operations";

/// Listening sockets that the process was started with (`LISTEN_FDS`).
#[derive(Debug, Default)]
pub struct Inherited(Vec<InheritedSocket>);

#[derive(Debug)]
struct InheritedSocket {
    name: String,
    address: SocketAddr,
    socket: TcpListener,
}

/// The listening sockets, some of which a running gateway may still have.
#[derive(Debug)]
pub(crate) struct Listeners {
    clients: Listener,
    operations: Option<Listener>,
}

#[derive(Debug)]
enum Listener {
    Open {
        socket: TcpListener,
        inherited: bool,
    },
    /// Another process listens on this address.
    InUse {
        configured: String,
        address: SocketAddr,
        source: io::Error,
    },
}

/// The listening sockets of the gateway.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) clients: TcpListener,
    pub(crate) operations: Option<TcpListener>,
    /// Whether another process keeps the socket of clients open.
    pub(crate) inherited: bool,
}

// === impl Inherited ===

impl Inherited {
    /// Takes the sockets that systemd passed. Call it once, while the process has one thread: it
    /// removes the variables, so that child processes do not see them.
    ///
    /// # Errors
    /// If one of them is not a listening TCP socket.
    pub fn from_environment() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for at in 0..passed.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let socket = passed.take_tcp_listener(at)?;
            let socket = socket.ok_or(ErrorKind::InvalidInput)?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            sockets.push(InheritedSocket {
                name,
                address,
                socket,
            });
        }
        Ok(Self(sockets))
    }

    /// Takes the socket with this name, else the one with this address, else with its port.
    fn take(&mut self, name: &str, address: Option<SocketAddr>) -> Option<TcpListener> {
        let fits: [&dyn Fn(&InheritedSocket) -> bool; 3] = [
            &|socket| socket.name == name,
            &|socket| Some(socket.address) == address,
            &|socket| Some(socket.address.port()) == address.map(|address| address.port()),
        ];
        let at = fits.iter().find_map(|fits| self.0.iter().position(fits))?;
        Some(self.0.swap_remove(at).socket)
    }
}

// === impl Listeners ===

impl Listeners {
    /// Listens on the configured addresses, unless systemd passed their sockets.
    ///
    /// # Errors
    /// [`ServeError::Listen`]. It is no error yet that another process has an address and may give
    /// it.
    pub(crate) fn open(config: &Config, mut inherited: Inherited) -> Result<Self, ServeError> {
        let server = &config.server;
        let address = format!("{}:{}", bracketed(&server.host), server.port);
        let operations = server
            .operations
            .as_ref()
            .map(|operations| Listener::open(operations, OPERATIONS, &mut inherited, config))
            .transpose()?;
        // The only one is for clients, whatever its address.
        let clients = match (&operations, inherited.0.len()) {
            (None, 1) => inherited.0.pop().map(|passed| Listener::Open {
                socket: passed.socket,
                inherited: true,
            }),
            _ => None,
        };
        let clients = match clients {
            Some(clients) => clients,
            None => Listener::open(&address, CLIENTS, &mut inherited, config)?,
        };
        for unused in &inherited.0 {
            let (address, name) = (unused.address, &unused.name);
            tracing::warn!(%address, name, "a socket from systemd fits no configured address");
        }
        Ok(Self {
            clients,
            operations,
        })
    }

    /// Returns the address of clients.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        match &self.clients {
            Listener::Open { socket, .. } => socket.local_addr(),
            Listener::InUse { address, .. } => Ok(*address),
        }
    }

    /// Returns the sockets. Those that a running gateway with the same store has are taken over,
    /// which blocks until it answers.
    ///
    /// # Errors
    /// [`ServeError::Listen`] if another program has an address.
    pub(crate) fn take(
        self,
        config: &Config,
    ) -> Result<(Sockets, Option<Predecessor>), ServeError> {
        let listeners = std::iter::once(&self.clients).chain(&self.operations);
        let addresses: Vec<_> = listeners.filter_map(Listener::in_use).collect();
        if addresses.is_empty() {
            let (clients, inherited) = self.clients.or_next(&mut std::iter::empty())?;
            let operations = self.operations;
            let operations = operations.map(|socket| socket.or_next(&mut std::iter::empty()));
            let operations = operations.transpose()?.map(|(socket, _)| socket);
            let sockets = Sockets {
                clients,
                operations,
                inherited,
            };
            return Ok((sockets, None));
        }
        let asked = match handover_path(config) {
            Some(store) => {
                let (store, addresses) = (store.to_owned(), addresses.clone());
                let ask = move || Ok(Predecessor::ask(&store, &addresses));
                within(time_limit::START, ask).unwrap_or_else(|error| Err(error.into()))
            }
            None => Err(TakeoverError::NoStore),
        };
        let (predecessor, taken) = match asked {
            Ok(asked) => asked,
            Err(why) => return Err(self.refused(why)),
        };
        let mut taken = taken.into_iter();
        let (clients, inherited) = self.clients.or_next(&mut taken)?;
        let operations = self.operations.map(|socket| socket.or_next(&mut taken));
        let operations = operations.transpose()?.map(|(socket, _)| socket);
        for socket in std::iter::once(&clients).chain(&operations) {
            // The backlog is of this configuration.
            listen_again(socket, config.server.backlog)?;
        }
        let sockets = Sockets {
            clients,
            operations,
            inherited,
        };
        Ok((sockets, Some(predecessor)))
    }

    fn refused(self, why: TakeoverError) -> ServeError {
        let listeners = std::iter::once(self.clients).chain(self.operations);
        let first = listeners.into_iter().find_map(|listener| match listener {
            Listener::InUse {
                configured, source, ..
            } => Some((configured, source)),
            Listener::Open { .. } => None,
        });
        match first {
            Some((address, source)) => ServeError::InUse {
                address,
                source,
                why: why.to_string(),
            },
            None => ServeError::Serve(io::Error::other(why.to_string())),
        }
    }
}

// === impl Listener ===

impl Listener {
    fn open(
        configured: &str,
        name: &str,
        inherited: &mut Inherited,
        config: &Config,
    ) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Listen {
            address: configured.to_owned(),
            source,
        };
        let resolved = configured.to_socket_addrs().map(|mut all| all.next());
        let known = resolved.as_ref().ok().copied().flatten();
        if let Some(socket) = inherited.take(name, known) {
            return Ok(Self::Open {
                socket,
                inherited: true,
            });
        }
        let address = resolved
            .and_then(|address| address.ok_or_else(|| io::Error::other("the name has no address")))
            .map_err(failed)?;
        match listen(address, config.server.backlog) {
            Ok(socket) => Ok(Self::Open {
                socket,
                inherited: false,
            }),
            Err(source) if source.kind() == ErrorKind::AddrInUse => Ok(Self::InUse {
                configured: configured.to_owned(),
                address,
                source,
            }),
            Err(source) => Err(failed(source)),
        }
    }

    fn in_use(&self) -> Option<SocketAddr> {
        match self {
            Self::Open { .. } => None,
            Self::InUse { address, .. } => Some(*address),
        }
    }

    /// Returns the socket, or the next one that was taken over. Says whether systemd has it too.
    fn or_next(
        self,
        taken: &mut impl Iterator<Item = TcpListener>,
    ) -> io::Result<(TcpListener, bool)> {
        match self {
            Self::Open { socket, inherited } => Ok((socket, inherited)),
            Self::InUse { source, .. } => Ok((taken.next().ok_or(source)?, false)),
        }
    }
}

/// Returns the folder beside which gateways hand their sockets over.
pub(crate) fn handover_path(config: &Config) -> Option<&Path> {
    match (config.store.kind, &config.store.path) {
        (StoreKind::Disk, Some(path)) => Some(Path::new(path)),
        _ => None,
    }
}

/// Listens on an address.
fn listen(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

/// Changes the backlog of a listening socket.
fn listen_again(socket: &TcpListener, backlog: u32) -> io::Result<()> {
    socket2::SockRef::from(socket).listen(i32::try_from(backlog).unwrap_or(i32::MAX))
}

/// Returns a host as it stands before a port: an IPv6 address in brackets.
fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}
