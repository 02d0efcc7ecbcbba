//! The network between the nodes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokenwire_peer::{Connection, Network};
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Bytes on their way in each direction.
const BUFFER: usize = 64 * 1024;

/// A connection that arrives at a node, with the node that it comes from.
pub(crate) type Arrived = (usize, DuplexStream);

/// Who listens, who is cut off from whom, and which connections there are.
#[derive(Debug, Default)]
pub(crate) struct Cables(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    listeners: BTreeMap<usize, mpsc::UnboundedSender<Arrived>>,
    /// Pairs of nodes, the lower one first.
    cut: Vec<(usize, usize)>,
    connections: Vec<((usize, usize), AbortHandle)>,
}

/// The network as one node sees it.
#[derive(Debug)]
pub(crate) struct NodeNetwork {
    pub(crate) node: usize,
    pub(crate) cables: Arc<Cables>,
}

fn pair(one: usize, other: usize) -> (usize, usize) {
    (one.min(other), one.max(other))
}

/// Returns the address of a node. The processes of a node have the same.
pub(crate) fn address(node: usize) -> String {
    format!("node-{node}:1")
}

// === impl Cables ===

impl Cables {
    /// Listens as this node. What listened before is gone.
    pub(crate) fn listen(&self, node: usize) -> mpsc::UnboundedReceiver<Arrived> {
        let (sender, arrived) = mpsc::unbounded_channel();
        self.0.lock().listeners.insert(node, sender);
        arrived
    }

    /// Notes the task that answers a connection. It ends when its nodes are cut off from each other.
    pub(crate) fn connected(&self, from: usize, to: usize, task: AbortHandle) {
        let mut state = self.0.lock();
        state.connections.retain(|(_, task)| !task.is_finished());
        state.connections.push((pair(from, to), task));
    }

    /// Cuts two nodes off from each other, or connects them again.
    pub(crate) fn cut(&self, one: usize, other: usize, is_cut: bool) {
        let pair = pair(one, other);
        let mut state = self.0.lock();
        state.cut.retain(|known| *known != pair);
        if is_cut {
            state.cut.push(pair);
            let connections = state.connections.iter();
            let lost = connections.filter(|(known, _)| *known == pair);
            lost.for_each(|(_, task)| task.abort());
        }
    }
}

impl Network for NodeNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Connection>> {
        async move {
            sleep(Duration::from_millis(1)).await;
            let node = address.strip_prefix("node-");
            let node = node.and_then(|node| node.strip_suffix(":1")?.parse().ok());
            let node: usize = node.expect("an address of a node");
            let (is_cut, listener) = {
                let state = self.cables.0.lock();
                let is_cut = state.cut.contains(&pair(self.node, node));
                (is_cut, state.listeners.get(&node).cloned())
            };
            if is_cut {
                std::future::pending::<()>().await;
            }
            let (ours, theirs) = duplex(BUFFER);
            let arrived = listener.map(|listener| listener.send((self.node, theirs)));
            match arrived {
                Some(Ok(())) => Ok(Box::new(ours) as Connection),
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        }
        .boxed()
    }
}
