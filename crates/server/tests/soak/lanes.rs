//! Clients that read many streams concurrently over one WebSocket.

use std::collections::VecDeque;

use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::http::{Outcome, model};
use super::plan::Plan;
use super::reading::{Ended, Reading, failure};
use super::support::Socket;
use super::world::World;

/// What such a client does after a number of events over all lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    Stay,
    Leave,
    /// Resumes the running streams on another socket. Queued creates end with the first one.
    Return,
    /// Cancels one of the running streams.
    Cancel,
    /// Sends unknown and malformed messages.
    Malformed,
}

#[derive(Clone, Debug)]
pub(crate) struct Sockets {
    lanes: Vec<Vec<Plan>>,
    conduct: Conduct,
    after: u64,
}

/// The generations of one lane, in order.
struct Lane {
    waiting: VecDeque<Plan>,
    running: Option<Reading>,
}

// === impl Sockets ===

impl Sockets {
    pub(crate) fn draw(world: &World, dice: &mut StdRng, id: &str) -> Self {
        let lanes = (0..dice.random_range(1..=4_u32)).map(|lane| {
            let plans = 0..dice.random_range(1..=2_u32);
            plans
                .map(|number| Plan::draw(dice, format!("{id}-{lane}-{number}"), &world.faults))
                .collect()
        });
        let lanes = lanes.collect();
        let conduct = match dice.random_range(0..10) {
            0 => Conduct::Leave,
            1..=3 => Conduct::Return,
            4..=5 => Conduct::Cancel,
            6 => Conduct::Malformed,
            _ => Conduct::Stay,
        };
        Self {
            lanes,
            conduct,
            after: dice.random_range(1..=60),
        }
    }

    pub(crate) fn plans(&self) -> Vec<&Plan> {
        self.lanes.iter().flatten().collect()
    }

    /// Reads all lanes to their ends, unless it is to leave before.
    pub(crate) async fn run(&self, world: &World, dice: &mut StdRng) -> Vec<Outcome> {
        let path = ["/v1/ws", "/v1/responses"][dice.random_range(0..2)];
        // Without the extension events the numbers that those have are skipped.
        let extended = dice.random_bool(0.5);
        let connect = async |path| {
            if extended {
                Socket::connect_extended(world.address(), path).await
            } else {
                Socket::connect(world.address(), path).await
            }
        };
        let mut socket = connect(path).await;
        let mut lanes: Vec<Lane> = self
            .lanes
            .iter()
            .map(|plans| Lane {
                waiting: plans.clone().into(),
                running: None,
            })
            .collect();
        for (lane, plans) in self.lanes.iter().enumerate() {
            for plan in plans {
                socket
                    .create(
                        &plan.to_string(),
                        json!({"model": model(dice), "stream_id": lane.to_string()}),
                    )
                    .await;
            }
        }
        let mut outcomes = Vec::new();
        let (mut events, mut acted) = (0, self.conduct == Conduct::Stay);
        while lanes
            .iter()
            .any(|lane| lane.running.is_some() || !lane.waiting.is_empty())
        {
            take(&socket.next().await, extended, &mut lanes, &mut outcomes);
            events += 1;
            if acted || events < self.after {
                continue;
            }
            acted = true;
            let running = || {
                lanes
                    .iter()
                    .enumerate()
                    .filter_map(|(index, lane)| Some((index, lane.running.as_ref()?)))
            };
            match self.conduct {
                Conduct::Stay => {}
                Conduct::Leave => {
                    outcomes.push(Outcome::Left);
                    return outcomes;
                }
                Conduct::Return => {
                    drop(socket);
                    socket = connect("/v1/ws").await;
                    for (index, reading) in running() {
                        world.seen.add("resumed");
                        let (id, after) = (reading.id.as_deref().unwrap(), reading.last.unwrap());
                        let resume = json!({"type": "tokenwire:resume", "response_id": id, "starting_after": after});
                        socket
                            .send(super::support::with(
                                resume,
                                json!({"stream_id": index.to_string()}),
                            ))
                            .await;
                    }
                    lanes.iter_mut().for_each(|lane| lane.waiting.clear());
                }
                Conduct::Cancel => {
                    if let Some((_, reading)) = running().next() {
                        socket.send(json!({"type": "tokenwire:cancel", "response_id": reading.id.as_deref().unwrap()})).await;
                    }
                }
                Conduct::Malformed => {
                    socket.send(json!({"type": "response.steer"})).await;
                    socket
                        .send(json!({"type": "tokenwire:resume", "response_id": "resp_unknown"}))
                        .await;
                    socket.send(json!([1, 2])).await;
                }
            }
        }
        let rest = socket.until_pong().await;
        let late: Vec<_> = rest
            .into_iter()
            .filter(|event| !is_reply_to_malformed(event))
            .collect();
        assert!(
            late.is_empty(),
            "events after the end of all lanes: {late:?}"
        );
        outcomes
    }
}

fn take(event: &Value, dense: bool, lanes: &mut [Lane], outcomes: &mut Vec<Outcome>) {
    if is_reply_to_malformed(event) || event["type"] == "tokenwire:resumed" {
        return;
    }
    let lane: usize = event["stream_id"]
        .as_str()
        .unwrap_or_else(|| panic!("no lane: {event}"))
        .parse()
        .unwrap();
    let lane = &mut lanes[lane];
    if event["type"] == "error" {
        // It started nothing.
        let plan = lane.waiting.pop_front().unwrap();
        let Ended::Failed(code) = failure(&event["error"]) else {
            panic!("{event}")
        };
        assert!(
            !plan.is_sound() || code == "upstream_busy",
            "{event} although the request has no fault"
        );
        return outcomes.push(Outcome::Ended(Ended::Failed(code)));
    }
    if event["type"] == "response.created" {
        let plan = lane
            .waiting
            .pop_front()
            .unwrap_or_else(|| panic!("not requested: {event}"));
        assert!(
            lane.running.is_none(),
            "two streams at once on one lane: {event}"
        );
        lane.running = Some(Reading::new(&plan, dense));
    }
    let reading = lane
        .running
        .as_mut()
        .unwrap_or_else(|| panic!("no stream runs on this lane: {event}"));
    reading.event(event);
    if let Some(ended) = reading.ended.clone() {
        lane.running = None;
        outcomes.push(Outcome::Ended(ended));
    }
}

fn is_reply_to_malformed(event: &Value) -> bool {
    event["type"] == "tokenwire:error" || (event["type"] == "error" && event["stream_id"].is_null())
}
