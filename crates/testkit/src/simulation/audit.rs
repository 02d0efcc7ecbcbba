//! The checks at the end of a simulation, when everything has ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokenwire_core::generation::Generation;
use tokenwire_core::model::account::Account;
use tokenwire_core::model::id::GenerationId;
use tokio::time::{sleep, timeout};

use super::model::{Connection, Deletion, Model, is_terminal};
use super::process::Process;
use super::reading::output_text;
use super::view::View;
use super::world::World;
use crate::faulty_store::FaultyStore;
use crate::framing::Line;
use crate::reader::Reader;

/// Everything has ended, and a healthy store has everything, within this time.
const BOUND: Duration = Duration::from_secs(120);

type Verdict = Result<(), String>;

/// Waits for all ends and checks what is left.
pub(super) async fn audit(world: &Arc<World>, process: Arc<Process>, store: &FaultyStore) {
    store.heal();
    let verdict = match ended(world, &process).await {
        Ok(()) => generations(world, &process).await,
        wrong => wrong,
    };
    if let Err(wrong) = verdict.and(counters(world, &process).await) {
        world.fail(wrong);
    }
}

/// Waits until every generation has ended and is stored.
async fn ended(world: &World, process: &Process) -> Verdict {
    for (number, generation) in present(world, process) {
        if timeout(BOUND, generation.ended()).await.is_err() {
            return Err(format!("generation {number} never ends"));
        }
    }
    // What marks the last records for the flusher runs first.
    sleep(Duration::from_millis(2)).await;
    let flushed = timeout(BOUND, process.flusher.flushed()).await;
    flushed.map_err(|_| "the flusher never ends".to_owned())
}

/// Returns the generations that can be asked for.
fn present(world: &World, process: &Process) -> Vec<(usize, Arc<Generation>)> {
    let model = world.model.lock();
    let known = model.generations.iter().enumerate();
    known
        .filter_map(|(number, known)| Some((number, process.find_local(&known.id)?)))
        .collect()
}

async fn generations(world: &World, process: &Process) -> Verdict {
    let ids: Vec<GenerationId> = {
        let model = world.model.lock();
        let known = model.generations.iter();
        known.map(|known| known.id.clone()).collect()
    };
    for (number, id) in ids.iter().enumerate() {
        let local = process.find_local(id);
        let stored = Generation::restore(&*world.stored(), id, Account::new(1 << 30)).await;
        let stored = stored.ok().filter(|stored| stored.is_over());
        let wrong = |wrong: String| format!("generation {number}: {wrong}");
        generation(world, number, local, stored).map_err(wrong)?;
    }
    Ok(())
}

/// Checks one generation, as it is in memory and as a new process finds it in the store.
fn generation(
    world: &World,
    number: usize,
    local: Option<Arc<Generation>>,
    stored: Option<Arc<Generation>>,
) -> Verdict {
    let model = world.model.lock();
    let known = &model.generations[number];
    // A store that lies has lost anything. A log that expires is not stored any further.
    let may_miss = world.plan.lies || world.plan.forgets || known.is_lost;
    if stored.is_none() && !may_miss && known.deletion == Deletion::None {
        return Err("it is not stored".to_owned());
    }
    if local.as_ref().is_some_and(|local| local.readers() > 0) {
        return Err("it has a reader that nothing holds".to_owned());
    }
    if let (Some(local), Some(stored)) = (&local, &stored)
        && local.response_json() != stored.response_json()
        && !world.plan.lies
    {
        return Err("the store has another object".to_owned());
    }
    let local = local.filter(|local| local.tail().is_ok());
    let stored = stored.filter(|_| !known.is_object);
    for view in read_views(&model, number) {
        let live = local.as_ref().map(|local| frames(local, view));
        let other = stored.as_ref().map(|stored| frames(stored, view));
        if !world.plan.lies && live.is_some() && other.is_some() && live != other {
            return Err(format!("the store has other frames as {view}"));
        }
        let Some(frames) = live.or(other) else {
            continue;
        };
        let frames = Line::all(&frames);
        let wrong = |wrong| format!("as {view}: {wrong}");
        check(&model, number, view, &frames).map_err(wrong)?;
        if let Some(generation) = local.as_ref().or(stored.as_ref())
            && view == View::FULL
        {
            ends_with(&frames, &generation.response_json())?;
        }
    }
    Ok(())
}

/// Returns the views in which a generation was read, and the one that shows everything.
fn read_views(model: &Model, number: usize) -> BTreeSet<View> {
    let connections = model.generations[number].connections.iter();
    connections
        .map(|connection| connection.view)
        .chain([View::FULL])
        .collect()
}

/// Returns all frames of an ended generation.
fn frames(generation: &Arc<Generation>, view: View) -> Vec<u8> {
    let mut reader = Reader::framed(generation.attach(), 0, view.dialect(), view.framing());
    reader.read_now();
    reader.bytes().to_vec()
}

fn check(model: &Model, number: usize, view: View, frames: &[Line]) -> Verdict {
    let known = &model.generations[number];
    if view == View::FULL {
        one_terminal(frames)?;
        let Some(last) = frames.last() else {
            return Ok(());
        };
        let text = output_text(&last.json()["response"]);
        let delivered = model.text(number);
        let agrees = text == delivered || known.was_cut() && delivered.starts_with(&text);
        if !agrees {
            return Err(format!(
                "the answer is {text:?}, the upstream sent {delivered:?}"
            ));
        }
    }
    let connections = known
        .connections
        .iter()
        .filter(|connection| connection.view == view);
    connections
        .into_iter()
        .try_for_each(|connection| compare(connection, frames))
}

/// Checks that a poll shows what the terminal event does.
fn ends_with(frames: &[Line], object: &[u8]) -> Verdict {
    let polled: Value = serde_json::from_slice(object).map_err(|error| error.to_string())?;
    match frames.last().map(Line::json) {
        Some(event) if event["response"] != polled => {
            Err("a poll differs from the terminal event".to_owned())
        }
        _ => Ok(()),
    }
}

/// Checks the first and the last event, and that no other one is an end.
fn one_terminal(frames: &[Line]) -> Verdict {
    let first = frames.first().and_then(|line| line.name.as_deref());
    let terminals = frames.iter().filter(|line| is_terminal(line)).count();
    if first != Some("response.created")
        || terminals != 1
        || !frames.last().is_some_and(is_terminal)
    {
        return Err(format!(
            "begins with {first:?}, and has {terminals} terminal events"
        ));
    }
    Ok(())
}

/// Compares what a connection got with the frames that there are.
fn compare(connection: &Connection, frames: &[Line]) -> Verdict {
    let after = connection.after;
    let stored = |seq: u64| seq < connection.valid_below;
    let wanted = frames
        .iter()
        .filter(|line| after.is_none_or(|after| line.seq > after) && stored(line.seq));
    let wanted: Vec<(u64, &str)> = wanted.map(|line| (line.seq, line.data.as_str())).collect();
    let got = connection.frames.iter().filter(|(seq, _)| stored(*seq));
    let got: Vec<(u64, &str)> = got.map(|(seq, data)| (*seq, data.as_str())).collect();
    if wanted.is_empty() {
        // It waited past the head.
        return Ok(());
    }
    let is_whole = connection.is_complete && connection.valid_below == u64::MAX;
    if wanted.starts_with(&got) && (!is_whole || wanted.len() == got.len()) {
        return Ok(());
    }
    let at = wanted
        .iter()
        .zip(&got)
        .take_while(|(wanted, got)| wanted == got)
        .count();
    Err(format!(
        "a reader after {after:?} got {} of {} frames, and in place {at} {:?} instead of {:?}",
        got.len(),
        wanted.len(),
        got.get(at),
        wanted.get(at),
    ))
}

/// Checks that nothing is left once the time of keeping is over.
async fn counters(world: &World, process: &Process) -> Verdict {
    sleep(world.plan.retention.responses + Duration::from_secs(2)).await;
    let registry = process.engine.registry();
    let left = [
        ("running generations", registry.open()),
        ("kept generations", registry.len()),
        ("bytes of generations", process.shared.account().used()),
        ("tasks", process.shared.tasks().len()),
        (
            "bytes on their way to the store",
            process.flusher.buffered(),
        ),
    ];
    match left.iter().find(|(_, count)| *count > 0) {
        Some((what, count)) => Err(format!("{count} {what} are left at the end")),
        None => Ok(()),
    }
}
