//! A TCP proxy with network faults: cuts, stalls, delays, split writes.
//!
//! Each connection takes the next [`Plan`] of a list, then [`Plan::default`], which forwards
//! everything. A plan has one [`Leg`] per direction: from the client ([`Plan::up`]) and to the
//! client ([`Plan::down`]). The proxy runs on a separate thread and stops when it is dropped.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both sides are reset (RST), as by a crash or a firewall.
    Reset,
    /// Both sides are closed (FIN), as by a proxy with a time limit.
    Close,
}

/// The faults of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leg {
    /// Cuts the connection after this many bytes of this direction. Those bytes still arrive.
    pub cut: Option<(u64, Cut)>,
    /// Stalls for this long after this many bytes.
    pub stall: Option<(u64, Duration)>,
    /// The largest write, in bytes; 0 forwards reads unchanged.
    pub pieces: usize,
    /// The delay before each write.
    pub delay: Duration,
}

/// The faults of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// From the client to the server.
    pub up: Leg,
    /// From the server to the client.
    pub down: Leg,
}

impl Plan {
    /// Returns a plan that cuts the connection after this many bytes from the server.
    #[must_use]
    pub fn cut_after(bytes: u64, cut: Cut) -> Self {
        Self {
            down: Leg {
                cut: Some((bytes, cut)),
                ..Leg::default()
            },
            ..Self::default()
        }
    }

    /// Returns plans that depend only on the seed. Each connection is cut within `within` bytes
    /// from the server, half of them by a reset, some split into small writes.
    #[must_use]
    pub fn seeded(seed: u64, count: usize, within: u64) -> Vec<Self> {
        let mut dice = StdRng::seed_from_u64(seed);
        (0..count)
            .map(|_| {
                let cut = if dice.random_bool(0.5) {
                    Cut::Reset
                } else {
                    Cut::Close
                };
                let mut plan = Self::cut_after(dice.random_range(0..within.max(1)), cut);
                if dice.random_bool(0.5) {
                    plan.down.pieces = dice.random_range(1..64);
                }
                plan
            })
            .collect()
    }
}

/// Counters of the proxy.
#[derive(Debug, Default)]
pub struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Counters {
    /// The number of connections accepted so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }

    /// The number of connections open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Acquire)
    }

    /// The number of connections cut by a plan or by [`ChaosProxy::cut_all`].
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Acquire)
    }

    /// The number of connections closed because the server could not be reached.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Acquire)
    }

    /// Bytes forwarded from clients.
    #[must_use]
    pub fn up(&self) -> u64 {
        self.up.load(Ordering::Acquire)
    }

    /// Bytes forwarded to clients.
    #[must_use]
    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Acquire)
    }
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    plans: Mutex<VecDeque<Plan>>,
    counters: Counters,
    orders: watch::Sender<Order>,
}

/// The state that all connections watch.
#[derive(Clone, Copy, Debug, Default)]
struct Order {
    /// Incremented by each [`ChaosProxy::cut_all`].
    generation: u64,
    /// How it cuts.
    cut: Option<Cut>,
    held: bool,
    stop: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub struct ChaosProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl ChaosProxy {
    /// Starts a proxy on a free loopback port, in front of `server`.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start(server: SocketAddr, plans: impl IntoIterator<Item = Plan>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server,
            plans: Mutex::new(plans.into_iter().collect()),
            counters: Counters::default(),
            orders: watch::Sender::new(Order::default()),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("chaos-proxy".to_owned())
            .spawn({
                let shared = shared.clone();
                move || runtime.block_on(accept(listener, shared))
            })?;
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Adds a plan after those already in the list.
    pub fn plan(&self, plan: Plan) {
        self.shared.plans.lock().push_back(plan);
    }

    /// Cuts every open connection.
    pub fn cut_all(&self, cut: Cut) {
        self.shared.orders.send_modify(|order| {
            order.generation += 1;
            order.cut = Some(cut);
        });
    }

    /// Stops forwarding on all connections until [`ChaosProxy::release`].
    pub fn hold(&self) {
        self.shared.orders.send_modify(|order| order.held = true);
    }

    /// Ends a [`ChaosProxy::hold`].
    pub fn release(&self) {
        self.shared.orders.send_modify(|order| order.held = false);
    }
}

impl Drop for ChaosProxy {
    fn drop(&mut self) {
        self.shared.orders.send_modify(|order| order.stop = true);
        if let Some(thread) = self.thread.take() {
            // A panic of the proxy's thread was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener =
        TcpListener::from_std(listener).expect("a listener that was bound can be watched");
    let mut orders = shared.orders.subscribe();
    loop {
        tokio::select! {
            _ = orders.wait_for(|order| order.stop) => return,
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                shared.counters.accepted.fetch_add(1, Ordering::AcqRel);
                let plan = shared.plans.lock().pop_front().unwrap_or_default();
                tokio::spawn(connection(client, plan, shared.clone()));
            }
        }
    }
}

/// Counts a connection while it is open.
struct Open<'a>(&'a Counters);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn connection(client: TcpStream, plan: Plan, shared: Arc<Shared>) {
    let counters = &shared.counters;
    counters.open.fetch_add(1, Ordering::AcqRel);
    let _open = Open(counters);
    let Ok(server) = TcpStream::connect(shared.server).await else {
        counters.refused.fetch_add(1, Ordering::AcqRel);
        return;
    };
    // Split writes must arrive split.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let mut orders = shared.orders.subscribe();
    let born = orders.borrow().generation;
    let (mut client_in, mut client_out) = client.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let cut = {
        let up = pass(
            &mut client_in,
            &mut server_out,
            &plan.up,
            &counters.up,
            shared.orders.subscribe(),
        );
        let down = pass(
            &mut server_in,
            &mut client_out,
            &plan.down,
            &counters.down,
            shared.orders.subscribe(),
        );
        tokio::pin!(up, down);
        let (mut up_over, mut down_over) = (false, false);
        loop {
            tokio::select! {
                end = &mut up, if !up_over => match end {
                    Some(cut) => break Some(cut),
                    None => up_over = true,
                },
                end = &mut down, if !down_over => match end {
                    Some(cut) => break Some(cut),
                    None => down_over = true,
                },
                order = orders.wait_for(|order| order.generation > born || order.stop) => {
                    break order.map_or(Some(Cut::Reset), |order| order.cut.filter(|_| order.generation > born));
                }
            }
            if up_over && down_over {
                break None;
            }
        }
    };
    let Some(cut) = cut else { return };
    counters.cut.fetch_add(1, Ordering::AcqRel);
    if cut == Cut::Reset {
        for (reader, writer) in [(client_in, client_out), (server_in, server_out)] {
            if let Ok(stream) = reader.reunite(writer) {
                // Closing with a linger time of 0 sends a reset.
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            }
        }
    }
}

/// Forwards one direction until it ends (`None`), or until its plan or an error cuts the
/// connection.
async fn pass(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    leg: &Leg,
    counter: &AtomicU64,
    mut orders: watch::Receiver<Order>,
) -> Option<Cut> {
    let mut passed = 0u64;
    let mut stall = leg.stall;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if let Some((at, cut)) = leg.cut
            && passed >= at
        {
            return Some(cut);
        }
        let read = match from.read(&mut buffer).await {
            Ok(0) => {
                // Half a close is passed on as half a close.
                let _ = to.shutdown().await;
                return None;
            }
            Ok(read) => read,
            Err(_) => return Some(Cut::Reset),
        };
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let next = [leg.cut.map(|(at, _)| at), stall.map(|(at, _)| at)]
                .into_iter()
                .flatten()
                .filter(|at| *at > passed)
                .min();
            let mut size = if leg.pieces == 0 {
                rest.len()
            } else {
                leg.pieces.min(rest.len())
            };
            if let Some(next) = next {
                size = size.min(usize::try_from(next - passed).unwrap_or(usize::MAX));
            }
            if let Some((at, pause)) = stall
                && passed >= at
            {
                stall = None;
                tokio::time::sleep(pause).await;
            }
            if !leg.delay.is_zero() {
                tokio::time::sleep(leg.delay).await;
            }
            // The sender outlives the connections.
            let _ = orders.wait_for(|order| !order.held).await;
            let (piece, after) = rest.split_at(size);
            if to.write_all(piece).await.is_err() {
                return Some(Cut::Reset);
            }
            counter.fetch_add(piece.len() as u64, Ordering::AcqRel);
            passed += piece.len() as u64;
            rest = after;
            if let Some((at, cut)) = leg.cut
                && passed >= at
            {
                return Some(cut);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;

    /// Starts a server that reads a line, sends these bytes, and then echoes.
    fn server(answer: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.unwrap(), answer.clone());
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|read| read == 1) && byte != *b"\n" {}
                    let _ = stream.write_all(&answer);
                    let mut copy = stream.try_clone().unwrap();
                    let _ = io::copy(&mut stream, &mut copy);
                    let _ = copy.shutdown(Shutdown::Write);
                });
            }
        });
        address
    }

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|index| (index % 251) as u8).collect()
    }

    fn connect(proxy: &ChaosProxy) -> TcpStream {
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.write_all(b"go\n").unwrap();
        stream
    }

    fn read_all(stream: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
        let mut all = Vec::new();
        let result = stream.read_to_end(&mut all).map(drop);
        (all, result)
    }

    fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn default_plan_forwards_everything() {
        let proxy = ChaosProxy::start(server(bytes(100_000)), []).unwrap();
        let mut stream = connect(&proxy);
        stream.write_all(b"and back").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (all, result) = read_all(&mut stream);
        result.unwrap();
        assert_eq!(all, [bytes(100_000), b"and back".to_vec()].concat());
        wait_until("closed", || proxy.counters().open() == 0);
        assert_eq!(
            (proxy.counters().accepted(), proxy.counters().cut()),
            (1, 0)
        );
        assert_eq!(
            (proxy.counters().up(), proxy.counters().down()),
            (11, 100_008)
        );
    }

    #[test]
    fn cut_happens_after_the_exact_byte_count() {
        let plans = [
            (0, Cut::Close),
            (1, Cut::Close),
            (777, Cut::Close),
            (40_000, Cut::Close),
        ];
        let proxy = ChaosProxy::start(
            server(bytes(100_000)),
            plans.map(|(at, cut)| Plan::cut_after(at, cut)),
        )
        .unwrap();
        for (at, _) in plans {
            let (all, result) = match TcpStream::connect(proxy.address())
                .map(|mut stream| (stream.write_all(b"go\n"), stream))
            {
                Ok((_, mut stream)) => read_all(&mut stream),
                Err(error) => (Vec::new(), Err(error)),
            };
            assert_eq!(all, bytes(at as usize));
            assert!(at == 0 || result.is_ok(), "a close in order: {result:?}");
        }
        wait_until("cut", || proxy.counters().cut() == 4);
        let mut stream = connect(&proxy);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(
            read_all(&mut stream).0.len(),
            100_000,
            "after the plans everything passes"
        );
    }

    #[test]
    fn reset_is_seen_as_a_reset() {
        let proxy =
            ChaosProxy::start(server(bytes(100)), [Plan::cut_after(10, Cut::Reset)]).unwrap();
        let (_, result) = read_all(&mut connect(&proxy));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn split_writes_arrive_in_order() {
        let mut plan = Plan::default();
        plan.down.pieces = 7;
        plan.up.pieces = 1;
        let proxy = ChaosProxy::start(server(bytes(5_000)), [plan]).unwrap();
        let mut stream = connect(&proxy);
        stream.shutdown(Shutdown::Write).unwrap();
        let (all, result) = read_all(&mut stream);
        result.unwrap();
        assert_eq!(all, bytes(5_000));
    }

    #[test]
    fn hold_release_and_cut_all_take_effect() {
        let proxy = ChaosProxy::start(server(bytes(10)), []).unwrap();
        proxy.hold();
        let mut stream = connect(&proxy);
        wait_until("accepted", || proxy.counters().accepted() == 1);
        assert_eq!(proxy.counters().up(), 0, "held");
        proxy.release();
        let mut ten = [0; 10];
        stream.read_exact(&mut ten).unwrap();
        assert_eq!(ten.to_vec(), bytes(10));
        proxy.cut_all(Cut::Reset);
        assert!(read_all(&mut stream).1.is_err());
        wait_until("cut", || proxy.counters().cut() == 1);
        // Only open connections are cut.
        let mut stream = connect(&proxy);
        stream.read_exact(&mut ten).unwrap();
    }

    #[test]
    fn stall_delays_without_loss() {
        let mut plan = Plan::default();
        plan.down.stall = Some((50, Duration::from_millis(50)));
        plan.down.delay = Duration::from_millis(1);
        let proxy = ChaosProxy::start(server(bytes(100)), [plan]).unwrap();
        let begun = Instant::now();
        let mut stream = connect(&proxy);
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut stream).0, bytes(100));
        assert!(
            begun.elapsed() >= Duration::from_millis(50),
            "there was no stall"
        );
    }

    #[test]
    fn unreachable_server_closes_the_connection() {
        let nowhere = TcpListener::bind(("127.0.0.1", 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let proxy = ChaosProxy::start(nowhere, []).unwrap();
        let (all, _) = read_all(&mut TcpStream::connect(proxy.address()).unwrap());
        assert!(all.is_empty());
        wait_until("refused", || proxy.counters().refused() == 1);
    }

    #[test]
    fn equal_seeds_give_equal_plans() {
        assert_eq!(Plan::seeded(7, 20, 1000), Plan::seeded(7, 20, 1000));
        assert_ne!(Plan::seeded(7, 20, 1000), Plan::seeded(8, 20, 1000));
    }
}
