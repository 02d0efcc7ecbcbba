//! Accepting connections and serving them, all on one thread.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::routes::Service;
use crate::socket::Socket;
use crate::stats::Recorder;

/// Connections the kernel keeps while the server is busy.
const BACKLOG: i32 = 4096;
/// Bytes of a request head, and of what is written ahead of the socket.
const BUFFER: usize = 128 * 1024;
/// Time for a request head to come, and for an idle connection to stay.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// Binds without listening in a runtime yet, so that a port that is taken is an error of the start.
pub(crate) fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    let socket = RawSocket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for the connections of the run before.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves until `stop` changes or its sender is gone.
pub(crate) async fn serve(
    listener: TcpListener,
    service: Arc<Service>,
    recorder: Arc<Recorder>,
    mut stop: watch::Receiver<()>,
) {
    let places = Arc::new(Semaphore::new(
        service
            .options()
            .connection_limit
            .clamp(1, Semaphore::MAX_PERMITS),
    ));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .max_headers(128);
    let accept = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, mostly: others have to close before the next try can
                    // succeed.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            // A token is a small packet; waiting to fill it would hold it back.
            let _ = stream.set_nodelay(true);
            let (socket, control) = Socket::new(stream, Arc::clone(&recorder));
            let service = Arc::clone(&service);
            let connection = http.serve_connection(
                TokioIo::new(socket),
                service_fn(move |request| {
                    let service = Arc::clone(&service);
                    let control = Arc::clone(&control);
                    async move { service.answer(request, control).await }
                }),
            );
            tokio::spawn(async move {
                // Whatever ends a connection shows in the record of its requests.
                let _ = connection.await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accept => {}
        _ = stop.changed() => {}
    }
}
