//! One connection of a client that reads.

use std::time::Duration;

use tokenwire_core::dialect::Dialect;
use tokenwire_core::generation::{ReaderGuard, Subscription, SubscriptionError};
use tokenwire_core::model::id::Seq;
use tokio::time::{sleep, timeout};

use super::model::{Connected, Deletion};
use super::reading::End;
use super::session::Session;
use super::waiting::Waiting;
use crate::framing::Line;

/// A reader waits no longer than this for the next frame. Every generation ends earlier.
const BOUND: Duration = Duration::from_secs(120);

/// Reads until the end, or until the client leaves.
pub(super) async fn read(session: &Session, connected: Connected, guard: ReaderGuard, from: Seq) {
    let Connected {
        generation,
        view,
        after,
    } = connected;
    let world = &session.world;
    let (mut pace, mut stays, is_ahead) = {
        let mut client = session.client.lock();
        let mut is_ahead = false;
        if let Some(reading) = &mut client.reading {
            is_ahead = after > reading.applied;
            reading.connect(after);
        }
        let pace = *client.dice.pick(&[0, 0, 0, 40, 400]);
        let stays = client.dice.chance(50).then(|| client.dice.range(1..=12));
        (pace, stays, is_ahead)
    };
    let connection = world.model.lock().connect(connected, is_ahead);
    let framing = world.framing(view);
    let mut subscription = Subscription::new(guard, from, view.dialect(), framing);
    let mut position = from;
    loop {
        if pace > 0 {
            let pause = session.client.lock().dice.millis(0..=pace);
            sleep(Duration::from_millis(pause)).await;
        }
        let waiting = Waiting {
            generation: subscription.generation().clone(),
            position,
            is_full: view.is_full(),
        };
        let waiting = world.watched.enter(waiting);
        let polled = timeout(BOUND, std::future::poll_fn(|cx| subscription.poll_next(cx))).await;
        drop(waiting);
        let bytes = match polled {
            Ok(Some(Ok(bytes))) => bytes,
            Ok(end) => {
                let end = end.map_or(Ok(()), |end| end.map(drop));
                return ended(session, connected, connection, end);
            }
            Err(_) => {
                session.fail(format_args!("waits for ever for {generation} as {view}"));
                session.client.lock().reading = None;
                return;
            }
        };
        let mut lines = Line::all(&bytes);
        stays = stays.map(|left: u64| left - 1);
        if stays == Some(0) {
            cut(session, &mut lines);
        }
        for line in lines {
            position = Seq(position.0.max(line.seq + 1));
            take(session, connected, connection, &line);
        }
        if stays == Some(0) {
            let mut client = session.client.lock();
            let comes_back = client.dice.chance(80);
            if !comes_back {
                client.reading = None;
            }
            drop(client);
            session.note(format_args!(
                "leaves {generation}, comes back: {comes_back}"
            ));
            return;
        }
        if session.client.lock().dice.chance(2) {
            pace = 40 - pace.min(40);
        }
    }
}

/// Drops the frames that a connection which breaks does not bring to the client. Those of one number
/// arrive together.
fn cut(session: &Session, lines: &mut Vec<Line>) {
    let mut arrived = session.client.lock().dice.range(0..=lines.len() as u64) as usize;
    while arrived > 0 && arrived < lines.len() && lines[arrived].seq == lines[arrived - 1].seq {
        arrived += 1;
    }
    lines.truncate(arrived);
}

/// Takes one frame.
fn take(session: &Session, connected: Connected, connection: usize, line: &Line) {
    let Connected {
        generation, view, ..
    } = connected;
    let (seq, data) = (line.seq, &line.data);
    session.note(format_args!("reads {generation} as {view} {seq} {data}"));
    let is_reset = data.starts_with(r#"{"type":"tokenwire:reset""#);
    let observed = {
        let mut model = session.world.model.lock();
        let known = &mut model.generations[generation];
        if is_reset {
            known.observe_reset(connection, seq)
        } else {
            known.observe(connection, line)
        }
    };
    let applied = match &mut session.client.lock().reading {
        Some(reading) if is_reset => reading.reset(seq, data.as_bytes()),
        Some(reading) => reading.apply(line),
        None => Ok(()),
    };
    if let Err(wrong) = observed.and(applied) {
        session.fail(format_args!("reads {generation} as {view}: {wrong}"));
    }
}

/// Notes the end of a subscription, and checks what was read.
fn ended(
    session: &Session,
    connected: Connected,
    connection: usize,
    end: Result<(), SubscriptionError>,
) {
    let Connected {
        generation, view, ..
    } = connected;
    session.note(format_args!("has read {generation} as {view}: {end:?}"));
    let Some(mut reading) = session.client.lock().reading.take() else {
        return;
    };
    let mut model = session.world.model.lock();
    let is_text = view.dialect() == Dialect::Text;
    let verdict = match end {
        Ok(()) | Err(SubscriptionError::BrokenOff) => {
            model.generations[generation].connections[connection].is_complete = true;
            if is_text {
                let is_ok = end.is_ok();
                reading.ended = Some(if is_ok { End::Answered } else { End::Failed });
            }
            if reading.ended.is_none() {
                Err("the stream ends without a terminal event".to_owned())
            } else if is_text && model.generations[generation].was_cut() {
                Ok(())
            } else {
                let was_cut = model.generations[generation].was_cut();
                reading.check(&model.text(generation), was_cut)
            }
        }
        Err(SubscriptionError::Expired) => {
            let deletion = model.generations[generation].deletion;
            let may_expire = deletion != Deletion::None || session.world.plan.forgets;
            if may_expire {
                Ok(())
            } else {
                Err("the log is gone".to_owned())
            }
        }
        Err(SubscriptionError::Lost) => Err("a lost position is found out too late".to_owned()),
        Err(SubscriptionError::ProducerLost) => Err("its process is taken for lost".to_owned()),
        Err(SubscriptionError::Corrupt) => Err("a record is damaged".to_owned()),
    };
    drop(model);
    if let Err(wrong) = verdict {
        session.fail(format_args!("reads {generation} as {view}: {wrong}"));
    }
}
