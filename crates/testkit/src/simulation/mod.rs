//! A simulation of the gateway from a seed: engine, store, readers, faults, crashes and clock on one
//! thread. The same seed gives the same bytes.
//!
//! ```text
//!               ┌─ process 1 ──────────────────┐  crash  ┌─ process 2 ─────────
//!   upstream ─▶ │ engine ─▶ log ─▶ readers     │    ✗    │ engine ─▶ log ─▶ …
//!   (script)    └────────────┼──────────┼──────┘         └────▲───────────┼────
//!                            ▼          ▼                     │           ▼
//!                     store (with faults) ────── what is stored     clients come
//!                                    clients, model, trace          back
//! ```
//!
//! A [`run`] is a sequence of processes. Each has a Tokio runtime of its own with a paused clock, so
//! a crash is the end of the runtime: all tasks are dropped between two of their steps. The store,
//! the clients' memory, the model and the virtual time go on.
//!
//! Every frame is compared with what other readers got at the same number, with what the upstream
//! delivered, and at the end with the log as the store has it. See `model.rs`, `reading.rs`,
//! `expectation.rs`, `watcher.rs` and `audit.rs` for what is checked.

mod audit;
mod broken_framing;
mod client;
mod clock;
mod dice;
mod disk;
mod expectation;
mod model;
mod plan;
mod process;
mod reader;
mod reading;
mod script;
mod seeds;
mod session;
mod starting;
mod tail;
mod trace;
mod upstream;
mod view;
mod waiting;
mod watcher;
mod world;

pub use broken_framing::BrokenFraming;
pub use dice::Dice;
pub use disk::SimulatedDisk;
pub use model::is_terminal;
pub use reading::{End, Reading, output_text};
pub use seeds::Seeds;
pub use upstream::{SimulatedUpstream, UpstreamWorld};
pub use view::View;
pub use world::Sabotage;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use parking_lot::Mutex;
use tokenwire_core::log::StoreError;
use tokenwire_core::model::id::Seq;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use crate::faulty_store::FaultyStore;
use audit::audit;
use clock::Clock;
use disk::Memory;
use model::Deletion;
use plan::Crash;
use process::Process;
use session::{Client, Session};
use world::World;

/// The clients are done within this virtual time.
const BOUND: Duration = Duration::from_secs(3_600);
/// Faults of the store last no longer than this.
const HEAL: Duration = Duration::from_secs(3);

/// A simulation that went wrong.
#[derive(Debug)]
pub struct Violation {
    /// What is not as it must be.
    pub what: String,
    /// The trace up to there.
    pub trace: Vec<u8>,
}

type Clients = Vec<Arc<Mutex<Client>>>;

/// Runs the simulation of a seed and returns its trace.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn run(seed: u64, sabotage: Sabotage) -> Result<Vec<u8>, Violation> {
    run_on(seed, sabotage, Arc::new(Memory::default()))
}

/// As [`run`], over this disk, which is empty.
///
/// # Errors
/// As [`run`].
pub fn run_on(
    seed: u64,
    sabotage: Sabotage,
    disk: Arc<dyn SimulatedDisk>,
) -> Result<Vec<u8>, Violation> {
    let clock = Clock::install();
    let world = World::new(seed, sabotage, disk);
    world.trace.note(format_args!("{:?}", world.plan));
    let client = |number| Arc::new(Mutex::new(Client::new(seed, number)));
    let clients: Clients = (0..world.plan.clients).map(client).collect();
    let mut dice = Dice::new(seed, "runtime");
    let crashes = world
        .plan
        .crashes
        .iter()
        .map(|crash| Some(*crash))
        .chain([None]);
    for (number, crash) in crashes.enumerate() {
        world.model.lock().process = number;
        let runtime = clock.runtime(&mut dice);
        runtime.block_on(async {
            clock.begin_process();
            process(&world, &clients, number, crash).await;
            clock.end_process();
        });
        drop(runtime);
        if let Some(what) = world.violation() {
            let trace = world.trace.take();
            return Err(Violation { what, trace });
        }
        if crash.is_some() {
            crashed(&world, &mut dice);
        }
    }
    Ok(world.trace.take())
}

/// Runs one process to its crash, or to the end of the simulation.
async fn process(world: &Arc<World>, clients: &Clients, number: usize, crash: Option<Crash>) {
    world.trace.note(format_args!("process {number} begins"));
    let store = Arc::new(FaultyStore::new(world.stored(), world.seed + number as u64));
    world.plan.arm(&store);
    let healer = tokio::spawn(heal(world.clone(), store.clone()));
    let life = async {
        let process = Process::open(world, store.clone()).await;
        // What is shown of a lost stream is durable before it is shown.
        sync(world);
        let syncer = tokio::spawn(sync_sometimes(world.clone()));
        let watcher = tokio::spawn(watcher::watch(world.clone(), process.clone()));
        let run = async {
            let session = |client: &Arc<Mutex<Client>>| Session {
                world: world.clone(),
                process: process.clone(),
                client: client.clone(),
            };
            let tasks: Vec<_> = clients
                .iter()
                .map(|client| tokio::spawn(session(client).run()))
                .collect();
            for task in tasks {
                if task.await.is_err() {
                    world.fail("a client panicked".to_owned());
                }
            }
        };
        if timeout(BOUND, run).await.is_err() {
            world.fail("the clients are never done".to_owned());
        }
        match crash {
            Some(_) => std::future::pending().await,
            None => {
                watcher.abort();
                healer.abort();
                syncer.abort();
                audit(world, process, &store).await;
            }
        }
    };
    let end = async {
        match crash {
            Some(crash) => {
                sleep(Duration::from_millis(crash.after)).await;
                for _ in 0..crash.turns {
                    yield_now().await;
                }
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = world.failed.notified() => {}
        () = end => world.trace.note(format_args!("process {number} crashes")),
        () = life => world.trace.note(format_args!("everything has ended")),
    }
}

/// Ends the faults of the store from time to time, so that what hangs goes on.
async fn heal(world: Arc<World>, store: Arc<FaultyStore>) {
    loop {
        sleep(HEAL).await;
        store.heal();
        sleep(HEAL / 4).await;
        world.plan.arm(&store);
    }
}

/// Makes durable what is stored.
fn sync(world: &World) {
    world.disk.sync();
    world.model.lock().synced();
}

/// Syncs from time to time.
async fn sync_sometimes(world: Arc<World>) {
    let mut dice = Dice::new(world.seed, "syncer");
    loop {
        sleep(Duration::from_millis(dice.millis(200..=1_200))).await;
        sync(&world);
    }
}

/// Tells the model what the store has.
fn crashed(world: &World, dice: &mut Dice) {
    let loses = world.reopen(&mut |most| dice.range(0..=most));
    if loses {
        world.trace.note(format_args!("power is lost"));
    }
    let stored_now = world.stored();
    let mut model = world.model.lock();
    for number in 0..model.generations.len() {
        let id = model.generations[number].id.clone();
        let opened = stored_now.open(&id).now_or_never();
        let stored = opened.and_then(Result::ok);
        let end = stored.as_ref().map(|stored| (stored.end.0, stored.sealed));
        world.trace.note(format_args!("stored {number}: {end:?}"));
        model.crashed(number, stored.as_ref());
        let known = &mut model.generations[number];
        if loses {
            (known.committed, known.is_sealed) = known.durable;
        }
        let kept = stored.as_ref().map_or(0, |stored| stored.end.0);
        let is_sealed = stored.as_ref().is_some_and(|stored| stored.sealed);
        let is_less = kept < known.committed || known.is_sealed && !is_sealed;
        if is_less && known.deletion == Deletion::None && !world.plan.lies {
            let committed = known.committed;
            world.fail(format!(
                "{id} was stored up to {committed}, and is to {kept}"
            ));
        }
        let read = stored_now.read(&id, Seq(0), 1).now_or_never();
        known.is_object |= matches!(read, Some(Err(StoreError::Expired)));
        if known.is_object && known.is_sealed && !world.plan.lies {
            world.fail(format!("the records of {id} are lost"));
        }
        if known.deletion == Deletion::Answered && stored.is_some() && !world.plan.lies {
            world.fail(format!("{id} is back after it was deleted"));
        }
        let deletion = &mut model.generations[number].deletion;
        if *deletion == Deletion::Asked || world.plan.lies {
            // It was deleted, or it was not.
            *deletion = if stored.is_some() {
                Deletion::None
            } else {
                Deletion::Answered
            };
        }
    }
}
