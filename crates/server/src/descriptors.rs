//! Accepts connections while the process has no free descriptor.
//!
//! Without one, connections would wait in the kernel's queue until a client gives up. A reserved
//! descriptor is released to accept each of them, refuse it, and close it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use crate::admission::{Warnings, overloaded, refusal};

/// Time between two looks for a free descriptor.
const INTERVAL: Duration = Duration::from_millis(100);

/// Maximum number of connections that are refused at one time.
const MAX_REFUSED: usize = 256;

/// Watches the descriptors until it is dropped.
/// Over TLS (`tls`) they are closed without a word.
pub(crate) async fn refuse_without_descriptors(listener: TcpListener, tls: bool) {
    let warnings = Warnings::default();
    let mut reserve = listener.try_clone().ok();
    let mut clock = tokio::time::interval(INTERVAL);
    loop {
        clock.tick().await;
        if reserve.is_some() && !is_exhausted(&listener) {
            continue;
        }
        if warnings.is_due() {
            tracing::warn!("no descriptor is left: connections are refused until one is closed");
        }
        drop(reserve.take());
        refuse_waiting(&listener, tls);
        reserve = listener.try_clone().ok();
    }
}

/// Refuses the connections that wait in the queue of a listener, over TLS without a word.
pub(crate) fn refuse_waiting(listener: &TcpListener, tls: bool) {
    for _ in 0..MAX_REFUSED {
        match listener.accept() {
            Ok((socket, _)) => refuse(socket, tls),
            Err(_) => break,
        }
    }
}

/// Whether no descriptor can be opened.
fn is_exhausted(listener: &TcpListener) -> bool {
    match listener.try_clone() {
        Ok(_) => false,
        Err(error) => {
            let limits = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
            limits
                .iter()
                .any(|limit| error.raw_os_error() == Some(limit.raw_os_error()))
        }
    }
}

/// Writes a refusal, without waiting for the client.
fn refuse(mut socket: TcpStream, tls: bool) {
    if socket.set_nonblocking(true).is_err() {
        return;
    }
    if !tls {
        let _ = socket.write(&refusal(&overloaded()));
    }
    let _ = socket.shutdown(Shutdown::Write);
    // What has arrived is read, so that the close sends no reset.
    let mut discarded = [0; 4096];
    loop {
        match socket.read(&mut discarded) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
}
