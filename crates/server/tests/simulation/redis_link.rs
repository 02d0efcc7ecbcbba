//! The way of one process to Redis, with its faults.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::{RedisResult, Value};
use tokenwire_store::redis::{Command, Transport};
use tokio::time::sleep;

use crate::world::World;

/// See the documentation of the module.
#[derive(Debug)]
pub(crate) struct RedisLink {
    pub(crate) world: Arc<World>,
    pub(crate) process: usize,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It is lost on its way.
    Lost,
    /// It is carried out, and its answer is lost.
    AnswerLost,
    /// Its connection hangs.
    Hangs,
    /// Its connection hangs, and Redis carries it out after this time all the same.
    Late(u64),
    /// Redis is full from the command of this number on.
    Full(u64),
}

fn cut() -> redis::RedisError {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

impl Fate {
    fn draw(world: &World) -> Self {
        let percent = if world.is_healed() {
            0
        } else {
            world.plan.faults
        };
        world.draw("redis", |dice| {
            if !dice.chance(percent) {
                return Self::Answered;
            }
            match dice.range(0..=9) {
                0..=1 => Self::Lost,
                2..=4 => Self::AnswerLost,
                5 => Self::Hangs,
                6..=7 => Self::Late(dice.millis(100..=3_000)),
                _ => Self::Full(dice.range(0..=2)),
            }
        })
    }
}

impl Transport for RedisLink {
    fn connect(&self) -> BoxFuture<'_, RedisResult<()>> {
        async move {
            sleep(Duration::from_millis(1)).await;
            if self.world.is_away(self.process) {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
        .boxed()
    }

    fn exchange(&self, commands: Vec<Command>) -> BoxFuture<'static, RedisResult<Vec<Value>>> {
        let (world, process) = (self.world.clone(), self.process);
        async move {
            let pauses = world.draw("latency", |dice| (dice.range(0..=6), dice.range(0..=6)));
            sleep(Duration::from_millis(pauses.0)).await;
            if world.is_away(process) {
                std::future::pending::<()>().await;
            }
            let fate = Fate::draw(&world);
            if fate != Fate::Answered {
                let name = commands.first().and_then(|command| command.first());
                let name =
                    String::from_utf8_lossy(name.map_or(&b""[..], Vec::as_slice)).into_owned();
                world.note(format_args!("process {process}: {name} {fate:?}"));
            }
            let answers = match fate {
                Fate::Answered => world.redis(process, &commands, u64::MAX),
                Fate::Lost => return Err(cut()),
                Fate::AnswerLost => {
                    let _ = world.redis(process, &commands, u64::MAX);
                    return Err(cut());
                }
                Fate::Hangs => std::future::pending().await,
                Fate::Late(after) => {
                    world.redis_later(process, commands, after);
                    std::future::pending().await
                }
                Fate::Full(from) => world.redis(process, &commands, from),
            };
            sleep(Duration::from_millis(pauses.1)).await;
            if world.is_away(process) {
                std::future::pending::<()>().await;
            }
            let parsed = answers
                .iter()
                .map(|answer| redis::parse_redis_value(answer));
            parsed.collect()
        }
        .boxed()
    }
}
