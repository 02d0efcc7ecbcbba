//! Connections that wait for their next request.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// vLLM and SGLang close idle connections after 5 s; one that is reused later than that is likely
/// to be dead.
pub(in crate::upstream) const MAX_IDLE: Duration = Duration::from_secs(4);
/// How many may wait.
const MAX_WAITING: usize = 512;

/// The waiting connections of one client, the latest last.
#[derive(Debug, Default)]
pub(super) struct Pool {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    streams: Vec<(Instant, TcpStream)>,
    /// Whether a task is there that closes those that have waited too long.
    swept: bool,
}

impl Pool {
    /// The connection that has waited least, if one is alive.
    pub(super) fn take(&self) -> Option<TcpStream> {
        let mut waiting = self.waiting.lock();
        while let Some((since, stream)) = waiting.streams.pop() {
            if since.elapsed() < MAX_IDLE && is_quiet(&stream) {
                return Some(stream);
            }
        }
        None
    }

    /// Lets a connection wait.
    pub(super) fn put(self: &Arc<Self>, stream: TcpStream) {
        let mut waiting = self.waiting.lock();
        if waiting.streams.len() >= MAX_WAITING {
            return;
        }
        waiting.streams.push((Instant::now(), stream));
        if !waiting.swept
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            waiting.swept = true;
            runtime.spawn(sweep(Arc::downgrade(self)));
        }
    }
}

/// Closes what has waited too long, until nothing waits.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(MAX_IDLE).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut waiting = pool.waiting.lock();
        waiting
            .streams
            .retain(|(since, _)| since.elapsed() < MAX_IDLE);
        if waiting.streams.is_empty() {
            waiting.streams.shrink_to_fit();
            waiting.swept = false;
            return;
        }
    }
}

/// Whether there is nothing to read: an end or bytes that nobody asked for make a connection
/// useless.
fn is_quiet(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn no_more_wait_than_may() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = Arc::new(Pool::default());
        for _ in 0..=MAX_WAITING {
            // The other end is let go of at once, so that half as many descriptors will do.
            let (stream, _) = tokio::join!(TcpStream::connect(address), listener.accept());
            pool.put(stream.unwrap());
        }
        assert_eq!(pool.waiting.lock().streams.len(), MAX_WAITING);
    }
}
