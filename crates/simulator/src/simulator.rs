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
use crate::stats::{RecordedRequest, Recorder, Stats};

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
    recorder: Arc<Recorder>,
    runtime: Handle,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Simulator ===

impl Simulator {
    /// Binds the address and starts to serve. Connections are accepted when this returns.
    ///
    /// # Errors
    ///
    /// The address cannot be bound, or the thread or its poller cannot be created.
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = server::bind(options.address, options.reuse_port)?;
        let address = listener.local_addr()?;
        let recorder = Arc::new(Recorder::new(options.recorded_bytes));
        let service = Arc::new(Service::new(options, address, Arc::clone(&recorder)));
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
        let seen = Arc::clone(&recorder);
        let serve = move || runtime.block_on(server::serve(listener, service, seen, stopped));
        let thread = std::thread::Builder::new()
            .name("simulator".to_owned())
            .spawn(serve)?;
        Ok(Self {
            address,
            recorder,
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Returns the address.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base URL for OpenAI clients: `http://127.0.0.1:PORT/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Returns the runtime that serves.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Returns the current counters.
    pub fn stats(&self) -> Stats {
        self.recorder.stats()
    }

    /// Returns the last 256 requests, oldest first. Above [`Options::recorded_bytes`] in total,
    /// bodies are dropped, oldest first.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.recorder.requests()
    }

    /// Waits until `predicate` returns true for the counters. Returns false after `timeout`. It
    /// works on any executor and under a paused clock, since the simulator's runtime measures the
    /// time.
    pub async fn wait_until(&self, predicate: impl Fn(&Stats) -> bool, timeout: Duration) -> bool {
        // The sleep must be created on the simulator's runtime.
        let timer = self
            .runtime
            .spawn(async move { tokio::time::sleep(timeout).await });
        let abort = timer.abort_handle();
        let reached = async {
            loop {
                let changed = self.recorder.changed();
                tokio::pin!(changed);
                // Registered before the check, so no change is missed between the two.
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
            // A panic was already printed by the thread.
            let _ = thread.join();
        }
    }
}
