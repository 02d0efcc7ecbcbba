//! The checks at the end of a simulation, when everything is healed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokenwire_core::engine::{Cursor, ReaderKind, Resumption};
use tokenwire_core::generation::Generation;
use tokenwire_core::model::id::{GenerationId, Owner};
use tokenwire_testkit::simulation::{View, is_terminal, output_text};
use tokenwire_testkit::{Line, Reader};
use tokio::time::sleep;

use crate::known::{Connection, Deletion};
use crate::process::Process;
use crate::turn::now;
use crate::world::World;

/// Every generation has ended, and every webhook was received, within this time.
const BOUND: u64 = 150_000;
const PAUSE: Duration = Duration::from_millis(500);

/// What a node gives of a generation.
#[derive(Debug)]
enum Given {
    /// It has not ended, or cannot be read now.
    NotYet(String),
    /// Its frames in each view in which it was read, and the object.
    Ended(Vec<(View, Vec<Line>)>, Value),
    Lost,
    Gone,
}

/// Waits for all ends, and compares what all nodes give with what readers have seen.
pub(crate) async fn audit(world: Arc<World>) {
    let count = world.model.lock().generations.len();
    let deadline = now() + BOUND;
    for number in 0..count {
        if let Err(wrong) = generation(&world, number, deadline).await {
            world.fail(format!("generation {number}: {wrong}"));
            return;
        }
    }
    // Others may have been sent since.
    for number in 0..count {
        if let Err(wrong) = one_webhook(&world, number) {
            world.fail(format!("generation {number}: {wrong}"));
            return;
        }
    }
}

async fn generation(world: &Arc<World>, number: usize, deadline: u64) -> Result<(), String> {
    let (id, views, deletion) = {
        let model = world.model.lock();
        let known = &model.generations[number];
        let views = known.connections.iter().map(|connection| connection.view);
        let views: BTreeSet<View> = views.chain([View::FULL]).collect();
        (known.id.clone(), views, known.deletion)
    };
    // What is half deleted may be anything.
    if deletion == Deletion::Asked || world.is_flushed() {
        return Ok(());
    }
    let mut given = Vec::new();
    for node in 0..world.plan.nodes {
        given.push(ask(world, node, &id, &views, deadline).await?);
    }
    if deletion == Deletion::Answered {
        let deleted = world.model.lock().generations[number].deleted;
        let is_there = given
            .iter()
            .any(|given| matches!(given, Given::Ended(..)) && !was_away(world, deleted));
        return if is_there {
            Err("it is back after it was deleted".to_owned())
        } else {
            Ok(())
        };
    }
    match agree(world, number, &given) {
        // Nodes that have read the first end keep it.
        Err(wrong) if world.may_end_twice(number) => {
            world.note(format_args!("generation {number} has two ends: {wrong}"));
        }
        agreed => agreed?,
    }
    webhook(world, number, deadline).await
}

/// Whether some process did not answer at this time. It may still have a copy.
fn was_away(world: &World, at: u64) -> bool {
    let health = world.health.lock();
    health.iter().any(|process| process.was_away(at))
}

/// Asks a node until it gives the end.
async fn ask(
    world: &Arc<World>,
    node: usize,
    id: &GenerationId,
    views: &BTreeSet<View>,
    deadline: u64,
) -> Result<Given, String> {
    loop {
        let process = world.processes.lock()[node].clone();
        let given = match process.filter(|process| process.serves()) {
            Some(process) => {
                let handle = process.handle.clone();
                let asking = give(process, id.clone(), views.clone());
                handle
                    .spawn(asking)
                    .await
                    .map_err(|error| error.to_string())?
            }
            None => Given::NotYet("it does not serve".to_owned()),
        };
        match given {
            Given::NotYet(why) if now() > deadline => {
                return Err(format!("node {node} never gives the end: {why}"));
            }
            Given::NotYet(_) => sleep(PAUSE).await,
            given => return Ok(given),
        }
    }
}

async fn give(process: Arc<Process>, id: GenerationId, views: BTreeSet<View>) -> Given {
    let cursor = Cursor::start(id);
    let resumed = process
        .engine
        .resume(&cursor, &Owner::Anonymous, ReaderKind::EventSource);
    match resumed.await {
        Ok(Resumption::Read { guard, .. }) => {
            let generation = guard.generation().clone();
            drop(guard);
            if !generation.is_over() || generation.tail().is_err() {
                return Given::NotYet("it runs".to_owned());
            }
            let object = serde_json::from_slice(&generation.response_json());
            let all = views
                .into_iter()
                .map(|view| (view, frames(&generation, view)));
            Given::Ended(all.collect(), object.expect("an object is JSON"))
        }
        Ok(Resumption::Lost(_)) => Given::Lost,
        Ok(other) => Given::NotYet(format!("{other:?}")),
        Err(error) if error.status == 404 => Given::Gone,
        Err(error) => Given::NotYet(error.message),
    }
}

fn frames(generation: &Arc<Generation>, view: View) -> Vec<Line> {
    let mut reader = Reader::framed(generation.attach(), 0, view.dialect(), view.framing());
    reader.read_now();
    Line::all(reader.bytes())
}

/// Compares what the nodes give with each other, and with what readers have got.
fn agree(world: &World, number: usize, given: &[Given]) -> Result<(), String> {
    let model = world.model.lock();
    let known = &model.generations[number];
    let mut first: Option<&Vec<(View, Vec<Line>)>> = None;
    for (node, given) in given.iter().enumerate() {
        match given {
            Given::NotYet(why) => return Err(why.clone()),
            // What is not replicated is lost with its node.
            Given::Lost if !known.is_background => {}
            Given::Lost => return Err(format!("node {node} says that it is lost")),
            Given::Gone => return Err(format!("node {node} does not know it")),
            Given::Ended(all, object) => {
                if first.is_some_and(|first| first != all) {
                    return Err(format!("node {node} has other frames"));
                }
                first = Some(all);
                let delivered = model.text(number);
                let text = output_text(object);
                let was_cut = known.adopted.is_some();
                if text != delivered && !(was_cut && delivered.starts_with(&text)) {
                    return Err(format!(
                        "the answer is {text:?}, the upstream sent {delivered:?}"
                    ));
                }
                for (view, frames) in all {
                    check(*view, frames, object)?;
                    let same = known.connections.iter().filter(|one| one.view == *view);
                    for connection in same {
                        compare(connection, frames, |seq| known.is_lost_at(seq))?;
                    }
                }
            }
        }
    }
    if known.is_replicated && known.seals > 1 {
        return Err(format!("its end was stored {} times", known.seals));
    }
    Ok(())
}

/// Checks that there is one end, which a poll shows as well.
fn check(view: View, frames: &[Line], object: &Value) -> Result<(), String> {
    if view != View::FULL {
        return Ok(());
    }
    let terminals = frames.iter().filter(|line| is_terminal(line)).count();
    let Some(last) = frames
        .last()
        .filter(|last| is_terminal(last) && terminals == 1)
    else {
        return Err(format!("it has {terminals} terminal events"));
    };
    if last.json()["response"] != *object {
        return Err("a poll differs from the terminal event".to_owned());
    }
    Ok(())
}

/// Compares what a connection got with the frames that there are. Events that a lost process has shown
/// and not stored are in no log.
fn compare(
    connection: &Connection,
    frames: &[Line],
    is_lost: impl Fn(u64) -> bool,
) -> Result<(), String> {
    let after = connection.after;
    let wanted = frames
        .iter()
        .filter(|line| after.is_none_or(|after| line.seq > after));
    let wanted: Vec<(u64, &str)> = wanted.map(|line| (line.seq, line.data.as_str())).collect();
    let got = connection.frames.iter().filter(|(seq, _)| !is_lost(*seq));
    let got: Vec<(u64, &str)> = got.map(|(seq, data)| (*seq, data.as_str())).collect();
    let is_whole = connection.is_complete;
    if wanted.starts_with(&got) && (!is_whole || wanted.len() == got.len()) {
        return Ok(());
    }
    let pairs = wanted.iter().zip(&got);
    let at = pairs.take_while(|(wanted, got)| wanted == got).count();
    Err(format!(
        "a reader as {} after {after:?} got {} of {} frames, and in place {at} {:?} instead of {:?}",
        connection.view,
        got.len(),
        wanted.len(),
        got.get(at),
        wanted.get(at),
    ))
}

/// Waits for the webhook of a background response.
async fn webhook(world: &World, number: usize, deadline: u64) -> Result<(), String> {
    let is_there = || {
        let model = world.model.lock();
        let known = &model.generations[number];
        !known.is_background || !known.webhooks.is_empty()
    };
    while !is_there() {
        if now() > deadline {
            return Err("its webhook never comes".to_owned());
        }
        sleep(PAUSE).await;
    }
    one_webhook(world, number)
}

/// Fails if the webhooks of a response differ. The same one may come twice; each of two ends, and a
/// deletion, may have its own.
fn one_webhook(world: &World, number: usize) -> Result<(), String> {
    let ends_twice = world.may_end_twice(number);
    let model = world.model.lock();
    let known = &model.generations[number];
    let webhooks = &known.webhooks;
    let may_differ = ends_twice || known.deletion != Deletion::None;
    if may_differ || webhooks.iter().all(|webhook| *webhook == webhooks[0]) {
        return Ok(());
    }
    Err(format!("it has several webhooks: {webhooks:?}"))
}
