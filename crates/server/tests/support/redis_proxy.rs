//! A proxy in front of Redis that stops at a command of a gateway, or cuts the gateway off.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::patiently;

/// Decides what happens at a command: bytes as the gateway sends them.
type Rule = Box<dyn FnMut(&[u8]) -> Fate + Send>;

/// What happens at a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is sent on.
    Pass,
    /// It is not sent on, and nothing is from then on.
    StopBefore,
    /// It is sent on, and nothing is from then on, its answer neither.
    StopAfter,
    /// It is sent on, and its connection is cut before the answer.
    LoseAnswer,
}

/// A proxy that runs until it is dropped.
pub(crate) struct RedisProxy {
    address: SocketAddr,
    stopped: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl RedisProxy {
    /// Starts it in front of this server.
    pub(crate) async fn start(
        server: SocketAddr,
        rule: impl FnMut(&[u8]) -> Fate + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(rule)));
        let stopped = watch::Sender::new(false);
        let stop = stopped.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else {
                    continue;
                };
                connections.spawn(forward(client, server, rule.clone(), stop.clone()));
            }
        });
        Self {
            address,
            stopped,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}/", self.address)
    }

    /// Sends nothing on in either direction. Connections stay open.
    pub(crate) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Sends on again.
    pub(crate) fn go_on(&self) {
        self.stopped.send_replace(false);
    }

    /// Waits until it has stopped at a command.
    pub(crate) async fn has_stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        patiently("the command", stopped.wait_for(|stopped| *stopped))
            .await
            .unwrap();
    }
}

impl Drop for RedisProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    rule: Arc<Mutex<Rule>>,
    stopped: watch::Sender<bool>,
) {
    let (mut up, mut down) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut running = stopped.subscribe();
    loop {
        if running.wait_for(|stopped| !*stopped).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            changed = running.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            read = client.read(&mut up) => {
                let Ok(length @ 1..) = read else { return };
                let fate = rule.lock()(&up[..length]);
                if matches!(fate, Fate::StopBefore | Fate::StopAfter) {
                    stopped.send_replace(true);
                }
                if fate != Fate::StopBefore && server.write_all(&up[..length]).await.is_err() {
                    return;
                }
                if fate == Fate::LoseAnswer {
                    // Redis has carried it out once it answers.
                    let _ = server.read(&mut down).await;
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&down[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether these bytes contain a text.
pub(crate) fn has(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
