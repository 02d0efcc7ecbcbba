//! Idle connections.

use std::mem::MaybeUninit;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Longest idle time of a connection. vLLM and SGLang close idle connections after 5 s.
pub(in crate::upstream) const MAX_IDLE: Duration = Duration::from_secs(4);
/// The idle time up to which tokio's view of a connection is taken for true.
const ASSUMED_ALIVE: Duration = Duration::from_millis(5);
/// Most idle connections of one client.
const MAX_IDLE_CONNECTIONS: usize = 512;

/// The idle connections of one client, the most recent last.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<Idle>,
}

#[derive(Debug, Default)]
struct Idle {
    streams: Vec<(Instant, TcpStream)>,
    /// Whether a task is running that closes connections after [`MAX_IDLE`].
    has_sweeper: bool,
}

impl Pool {
    /// Takes the most recently used connection that is alive.
    pub(super) fn take(&self) -> Option<TcpStream> {
        let mut idle = self.idle.lock();
        while let Some((since, stream)) = idle.streams.pop() {
            if is_alive(&stream, since.elapsed()) {
                return Some(stream);
            }
        }
        None
    }

    /// Returns a connection to the pool. Closes it if the pool is full.
    pub(super) fn put(self: &Arc<Self>, stream: TcpStream) {
        let mut idle = self.idle.lock();
        if idle.streams.len() >= MAX_IDLE_CONNECTIONS {
            return;
        }
        idle.streams.push((Instant::now(), stream));
        if !idle.has_sweeper
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            idle.has_sweeper = true;
            runtime.spawn(sweep(Arc::downgrade(self)));
        }
    }
}

/// Closes connections that were idle too long. Ends when none is left.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(MAX_IDLE).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle.lock();
        idle.streams.retain(|(since, _)| since.elapsed() < MAX_IDLE);
        if idle.streams.is_empty() {
            idle.streams.shrink_to_fit();
            idle.has_sweeper = false;
            return;
        }
    }
}

/// Returns whether there is nothing to read. A pending end or unexpected bytes make a connection
/// unusable.
///
/// tokio learns of an end only when its driver runs, so the kernel is asked. A connection that was
/// used just now is spared that call, which costs more than the rest of the pool.
fn is_alive(stream: &TcpStream, idle: Duration) -> bool {
    if idle < ASSUMED_ALIVE {
        return is_quiet(stream.try_read(&mut [0; 1]));
    }
    idle < MAX_IDLE && is_quiet(SockRef::from(stream).peek(&mut [MaybeUninit::uninit(); 1]))
}

fn is_quiet(read: std::io::Result<usize>) -> bool {
    matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn pool_keeps_at_most_its_maximum_of_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = Arc::new(Pool::default());
        for _ in 0..=MAX_IDLE_CONNECTIONS {
            // The other end is closed at once, which saves descriptors.
            let (stream, _) = tokio::join!(TcpStream::connect(address), listener.accept());
            pool.put(stream.unwrap());
        }
        assert_eq!(pool.idle.lock().streams.len(), MAX_IDLE_CONNECTIONS);
    }
}
