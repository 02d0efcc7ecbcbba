//! What the processes share: Redis, the network, the clients' memory, the model, the trace.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokenwire_core::dialect::Framing;
use tokenwire_store::redis::Command;
use tokenwire_testkit::simulated_redis::{Added, Reply, SimulatedRedis};
use tokenwire_testkit::simulation::{BrokenFraming, Dice, View};

use crate::health::Health;
use crate::model::Model;
use crate::network::Cables;
use crate::plan::Plan;
use crate::post::Received;
use crate::process::Process;
use crate::turn::{now, unix_millis};

/// Something that is broken on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Nothing.
    None,
    /// Redis takes what earlier epochs write.
    IgnoreFence,
    /// Every frame of this many is not written.
    LoseFrame(usize),
}

/// See the documentation of the module.
pub(crate) struct World {
    seed: u64,
    pub(crate) plan: Plan,
    pub(crate) model: Mutex<Model>,
    pub(crate) cables: Arc<Cables>,
    /// The process of each node, if it has one.
    pub(crate) processes: Mutex<Vec<Option<Arc<Process>>>>,
    pub(crate) health: Mutex<Vec<Health>>,
    redis: SimulatedRedis,
    /// Requests that Redis carries out later, with the processes that sent them.
    late: Mutex<Vec<(u64, usize, Vec<Command>)>>,
    /// Until when each node, and until when no node reaches Redis.
    away: Mutex<(BTreeMap<usize, u64>, u64)>,
    is_healed: AtomicBool,
    is_flushed: AtomicBool,
    dice: Mutex<BTreeMap<&'static str, Dice>>,
    trace: Mutex<Vec<u8>>,
    violation: Mutex<Option<String>>,
    sabotage: Sabotage,
    frames: Arc<AtomicUsize>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    pub(crate) fn new(seed: u64, sabotage: Sabotage) -> Arc<Self> {
        let plan = Plan::draw(seed);
        let redis = SimulatedRedis::new();
        if sabotage == Sabotage::IgnoreFence {
            redis.ignore_order();
        }
        let world = Arc::new(Self {
            seed,
            processes: Mutex::new(vec![None; plan.nodes]),
            plan,
            model: Mutex::default(),
            cables: Arc::default(),
            health: Mutex::default(),
            redis,
            late: Mutex::default(),
            away: Mutex::default(),
            is_healed: AtomicBool::new(false),
            is_flushed: AtomicBool::new(false),
            dice: Mutex::default(),
            trace: Mutex::default(),
            violation: Mutex::default(),
            sabotage,
            frames: Arc::default(),
        });
        world.note(format_args!("{:?}", world.plan));
        world
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Makes a decision of the part of this name.
    pub(crate) fn draw<T>(&self, name: &'static str, draw: impl FnOnce(&mut Dice) -> T) -> T {
        let mut dice = self.dice.lock();
        draw(
            dice.entry(name)
                .or_insert_with(|| Dice::new(self.seed, name)),
        )
    }

    /// Adds a line to the trace.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let line = format!("{:>7} {what}\n", now());
        self.trace.lock().extend_from_slice(line.as_bytes());
    }

    /// Notes that something is not as it must be. The first such note ends the simulation.
    pub(crate) fn fail(&self, what: String) {
        self.note(format_args!("VIOLATION: {what}"));
        self.violation.lock().get_or_insert(what);
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.lock().clone()
    }

    pub(crate) fn take_trace(&self) -> Vec<u8> {
        std::mem::take(&mut self.trace.lock())
    }

    /// Ends all faults.
    pub(crate) fn heal(&self) {
        self.is_healed.store(true, Ordering::Relaxed);
        self.note(format_args!("everything is healed"));
    }

    pub(crate) fn is_healed(&self) -> bool {
        self.is_healed.load(Ordering::Relaxed)
    }

    /// Whether Redis has lost everything at some time.
    pub(crate) fn is_flushed(&self) -> bool {
        self.is_flushed.load(Ordering::Relaxed)
    }

    pub(crate) fn flush(&self) {
        self.is_flushed.store(true, Ordering::Relaxed);
        self.redis.flush();
    }

    /// Cuts a node, or all, off from Redis until then.
    pub(crate) fn cut_redis(&self, node: Option<usize>, until: u64) {
        let mut away = self.away.lock();
        match node {
            Some(node) => {
                away.0.insert(node, until);
            }
            None => away.1 = until,
        }
        for health in self.health.lock().iter_mut() {
            if node.is_none_or(|node| node == health.node) {
                health.lose_redis(now(), until);
            }
        }
    }

    /// Whether a process does not reach Redis.
    pub(crate) fn is_away(&self, process: usize) -> bool {
        let node = self.health.lock()[process].node;
        let away = self.away.lock();
        away.1 > now() || away.0.get(&node).is_some_and(|until| *until > now())
    }

    /// Has Redis carry out the commands of a process. From the one of the number `full` on there is no
    /// memory for them. Returns the replies.
    pub(crate) fn redis(&self, process: usize, commands: &[Command], full: u64) -> Vec<Vec<u8>> {
        let replies = commands.iter().zip(0..).map(|(command, number)| {
            if number >= full {
                let error = "OOM command not allowed when used memory > 'maxmemory'.";
                return Reply::Error(error.to_owned()).encode();
            }
            let reply = self.redis.execute(unix_millis(), command);
            let added = self.redis.take_added();
            added.iter().for_each(|added| self.added(process, added));
            reply.encode()
        });
        replies.collect()
    }

    /// Has Redis carry out commands after this time.
    pub(crate) fn redis_later(&self, process: usize, commands: Vec<Command>, after: u64) {
        self.late.lock().push((now() + after, process, commands));
    }

    /// Carries out what is due.
    pub(crate) fn run_late(&self) {
        let due = {
            let mut late = self.late.lock();
            let (due, rest) = std::mem::take(&mut *late)
                .into_iter()
                .partition(|(at, ..)| *at <= now());
            *late = rest;
            let due: Vec<_> = due;
            due
        };
        for (_, process, commands) in due {
            self.redis(process, &commands, u64::MAX);
        }
    }

    /// Notes what a process has added to a log.
    fn added(&self, process: usize, added: &Added) {
        let Some((_, id)) = added.key.split_once(":log:") else {
            return;
        };
        let (first, second) = (added.id.0, added.id.1);
        if first == u64::MAX - 1 {
            self.note(format_args!("process {process} ends {id} at {second}"));
            let mut model = self.model.lock();
            if let Some(number) = model.number(id) {
                model.generations[number].seals += 1;
            }
        } else if first > 1 && first < u64::MAX && second == 0 {
            let ends = added.fields.get(1).map_or(&b""[..], Vec::as_slice);
            self.adopted(process, id, &String::from_utf8_lossy(ends));
        }
    }

    fn adopted(&self, process: usize, id: &str, ends: &str) {
        self.note(format_args!("process {process} adopts {id}: {ends}"));
        let is_first = {
            let mut model = self.model.lock();
            let Some(number) = model.number(id) else {
                return;
            };
            let known = &mut model.generations[number];
            known.epoch_ends = ends.split(',').filter_map(|end| end.parse().ok()).collect();
            known.adopted = Some(now());
            known.epoch_ends.len() == 1
        };
        let health = self.health.lock();
        let owner = health
            .iter()
            .find(|owner| id.starts_with(&format!("resp_{}", owner.tag)));
        let is_wrong = owner.is_some_and(|owner| owner.is_well(now()));
        let is_adopter_well = health[process].is_well(now());
        drop(health);
        if is_first && is_wrong && is_adopter_well {
            self.fail(format!("{id} is adopted although its process runs"));
        }
    }

    /// Notes a webhook.
    pub(crate) fn received(&self, response: &str, received: Received) {
        let mut model = self.model.lock();
        if let Some(number) = model.number(response) {
            model.generations[number].webhooks.push(received);
        }
    }

    /// Returns the framing of a reader.
    pub(crate) fn framing(&self, view: View) -> Arc<dyn Framing> {
        let Sabotage::LoseFrame(every) = self.sabotage else {
            return view.framing();
        };
        Arc::new(BrokenFraming {
            inner: view.framing(),
            every,
            times: 0,
            frames: self.frames.clone(),
        })
    }
}
