//! The handle of a running simulator.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::options::Options;
use crate::routes::Service;
use crate::server;
use crate::stats::{Ledger, RecordedRequest, Stats};

/// A simulator that is running, on a thread of its own. It stops, and its thread is joined, when
/// this is dropped: open streams are cut.
///
/// ```
/// use tokenwire_simulator::{Options, Simulator};
///
/// let simulator = Simulator::start(Options::default())?;
/// assert!(simulator.base_url().starts_with("http://127.0.0.1:"));
/// assert_eq!(simulator.stats().requests, 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    ledger: Arc<Ledger>,
    runtime: Handle,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Simulator ===

impl Simulator {
    /// Binds and serves. When this returns, connections are taken.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound, or there is no thread or no poller to be had.
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = server::bind(options.address)?;
        let address = listener.local_addr()?;
        let ledger = Arc::new(Ledger::default());
        let service = Arc::new(Service::new(options, Arc::clone(&ledger)));
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let handle = runtime.handle().clone();
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (stop, stopped) = watch::channel(());
        let seen = Arc::clone(&ledger);
        let serve = move || runtime.block_on(server::serve(listener, service, seen, stopped));
        let thread = std::thread::Builder::new()
            .name("simulator".to_owned())
            .spawn(serve)?;
        Ok(Self {
            address,
            ledger,
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// What an OpenAI client takes as its base URL: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The counters now.
    pub fn stats(&self) -> Stats {
        self.ledger.stats()
    }

    /// The last 256 requests, oldest first, as they came. Bodies are let go beyond 64 MiB in all,
    /// oldest first.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.ledger.requests()
    }

    /// Waits until the counters are as `predicate` wants them; false if they were not within
    /// `timeout`. Works on any runtime, on none with a simple executor, and under a paused clock:
    /// the time is the simulator's own.
    pub async fn wait_until(&self, predicate: impl Fn(&Stats) -> bool, timeout: Duration) -> bool {
        // The sleep has to be made where the simulator's timers are.
        let timer = self
            .runtime
            .spawn(async move { tokio::time::sleep(timeout).await });
        let abort = timer.abort_handle();
        let reached = async {
            loop {
                let changed = self.ledger.changed();
                tokio::pin!(changed);
                // Registered before the look, so that no change falls between the two.
                changed.as_mut().enable();
                if predicate(&self.stats()) {
                    return;
                }
                changed.await;
            }
        };
        tokio::select! {
            biased;
            () = reached => {
                abort.abort();
                true
            }
            _ = timer => predicate(&self.stats()),
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}
