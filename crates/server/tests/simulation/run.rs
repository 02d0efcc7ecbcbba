//! Runs the simulation of a seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokenwire_testkit::simulation::{Dice, Violation};

use crate::audit::audit;
use crate::client::Client;
use crate::plan::Event;
use crate::slot::Slot;
use crate::turn::{Clock, Turns, now};
use crate::world::{Sabotage, World};

/// Everything has ended within this time.
const BOUND: u64 = 400_000;

/// All runtimes of a simulation.
struct Driver {
    world: Arc<World>,
    clock: Clock,
    dice: Dice,
    slots: Vec<Slot>,
    clients: Turns,
    /// What is to happen, the last one first.
    events: Vec<(u64, Event)>,
    /// When pairs of nodes reach each other again.
    joins: Vec<(u64, (usize, usize))>,
}

/// Runs the simulation of a seed and returns its trace.
///
/// # Errors
/// The first thing that is not as it must be.
pub(crate) fn run(seed: u64, sabotage: Sabotage) -> Result<Vec<u8>, Violation> {
    let clock = Clock::install(seed);
    let world = World::new(seed, sabotage);
    let mut dice = Dice::new(seed, "driver");
    let mut driver = Driver {
        slots: (0..world.plan.nodes)
            .map(|node| Slot::new(&world, node))
            .collect(),
        clients: Turns::new(&mut dice),
        events: world.plan.events.iter().rev().copied().collect(),
        joins: Vec::new(),
        world,
        clock,
        dice,
    };
    driver.serve();
    driver.check();
    let Driver {
        world,
        slots,
        clients,
        ..
    } = driver;
    world.processes.lock().clear();
    drop((slots, clients));
    let trace = world.take_trace();
    match world.violation() {
        Some(what) => Err(Violation { what, trace }),
        None => Ok(trace),
    }
}

impl Driver {
    /// Runs until the clients have done everything.
    fn serve(&mut self) {
        let left = Arc::new(AtomicUsize::new(self.world.plan.clients));
        for number in 0..self.world.plan.clients {
            let (client, left) = (Client::new(&self.world, number), left.clone());
            self.clients.handle().spawn(async move {
                client.run().await;
                left.fetch_sub(1, Ordering::Relaxed);
            });
        }
        self.turns_until(|| left.load(Ordering::Relaxed) == 0);
    }

    /// Checks what is left.
    fn check(&mut self) {
        if self.world.violation().is_some() {
            return;
        }
        let audited = self.clients.handle().spawn(audit(self.world.clone()));
        self.turns_until(|| audited.is_finished());
        if audited.is_finished() && self.clients.enter(audited).is_err() {
            self.world.fail("the audit panicked".to_owned());
        }
    }

    fn turns_until(&mut self, is_done: impl Fn() -> bool) {
        while !is_done() && self.world.violation().is_none() {
            if now() > BOUND {
                self.world.fail("the clients are never done".to_owned());
                return;
            }
            self.happen();
            self.world.run_late();
            let first = self.dice.range(0..=self.slots.len() as u64 - 1) as usize;
            self.slots.rotate_left(first);
            self.slots.iter_mut().for_each(Slot::turn);
            self.slots.sort_by_key(Slot::node);
            self.clients.turn();
            self.clock.next();
        }
    }

    /// Brings about what is due.
    fn happen(&mut self) {
        let world = self.world.clone();
        while let Some((_, event)) = self.events.pop_if(|(at, _)| *at <= now()) {
            world.note(format_args!("{event:?}"));
            match event {
                Event::Crash {
                    node,
                    restarts_after,
                } => self.slots[node].crash(restarts_after),
                Event::Pause { node, time } => self.slots[node].pause(time),
                Event::CutRedis { node, time } => world.cut_redis(Some(node), now() + time),
                Event::Outage { time } => world.cut_redis(None, now() + time),
                Event::Flush => world.flush(),
                Event::CutPeers { nodes, time } => {
                    world.cables.cut(nodes.0, nodes.1, true);
                    self.joins.push((now() + time, nodes));
                    for health in world.health.lock().iter_mut() {
                        if [nodes.0, nodes.1].contains(&health.node) {
                            health.lose_peers(now(), now() + time);
                        }
                    }
                }
            }
        }
        let joins = self.joins.iter().copied();
        let (joined, rest): (Vec<_>, _) = joins.partition(|(at, _)| *at <= now());
        self.joins = rest;
        for (_, (one, other)) in joined {
            world.cables.cut(one, other, false);
        }
        if self.events.is_empty() && now() >= world.plan.over() && !world.is_healed() {
            world.heal();
        }
    }
}
