//! A connection to one server, or to all nodes of a Redis Cluster.

use std::collections::HashMap;
use std::sync::Arc;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::cluster_async::ClusterConnection;
use ::redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use futures::FutureExt as _;
use futures::future::try_join_all;

use super::transport::{Command, Transport};

/// A connection. Clones share it.
#[derive(Clone)]
pub(super) enum Link {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
    Other(Arc<dyn Transport>),
}

/// The commands of a pipeline that go to one slot, and their places in it.
struct Part {
    pipeline: Pipeline,
    places: Vec<usize>,
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(server) => server.req_packed_command(cmd),
            Self::Cluster(cluster) => cluster.req_packed_command(cmd),
            Self::Other(transport) => {
                let answer = command_of(cmd).map(|command| transport.exchange(vec![command]));
                async move { answer?.await?.pop().ok_or_else(no_value) }.boxed()
            }
        }
    }

    /// A pipeline of a cluster is sent in one piece for each slot. One that is a transaction stays whole:
    /// its keys are in one slot.
    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(server) => server.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => {
                if pipeline.is_transaction() {
                    cluster.req_packed_commands(pipeline, offset, count)
                } else {
                    send_parts(cluster.clone(), pipeline, count).boxed()
                }
            }
            Self::Other(transport) => {
                let commands: RedisResult<Vec<_>> = pipeline.cmd_iter().map(command_of).collect();
                let answers = commands.map(|commands| transport.exchange(commands));
                let is_transaction = pipeline.is_transaction();
                async move {
                    let answers = answers?.await?;
                    Ok(if is_transaction {
                        vec![Value::Array(answers)]
                    } else {
                        answers
                    })
                }
                .boxed()
            }
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(server) => server.get_db(),
            Self::Cluster(_) | Self::Other(_) => 0,
        }
    }
}

/// Returns the arguments of a command. The cursor of a scan, which the client sets, is not among those
/// that a [`Transport`] takes.
fn command_of(cmd: &Cmd) -> RedisResult<Command> {
    let arguments = cmd.args_iter().map(|argument| match argument {
        Arg::Simple(argument) => Ok(argument.to_vec()),
        _ => Err(RedisError::from((
            ErrorKind::Client,
            "an argument of this kind cannot be sent",
        ))),
    });
    arguments.collect()
}

fn no_value() -> RedisError {
    RedisError::from((ErrorKind::Parse, "a command has no answer"))
}

/// Sends the `count` commands of a pipeline that is no transaction. Returns their answers in its order.
async fn send_parts(
    cluster: ClusterConnection,
    pipeline: &Pipeline,
    count: usize,
) -> RedisResult<Vec<Value>> {
    let parts = parts_of(pipeline).into_iter().map(|part| {
        let mut cluster = cluster.clone();
        async move {
            let count = part.places.len();
            let sent = cluster.req_packed_commands(&part.pipeline, 0, count);
            Ok::<_, RedisError>((part.places.clone(), sent.await?))
        }
    });
    let mut answers = vec![Value::Nil; count];
    for (places, values) in try_join_all(parts).await? {
        for (place, value) in places.into_iter().zip(values) {
            if let Some(answer) = answers.get_mut(place) {
                *answer = value;
            }
        }
    }
    Ok(answers)
}

/// Splits a pipeline whose commands have their key after their name. Keys with the same hash tag are in
/// one slot.
fn parts_of(pipeline: &Pipeline) -> Vec<Part> {
    let mut known: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut parts: Vec<Part> = Vec::new();
    for (place, command) in pipeline.cmd_iter().enumerate() {
        let key = command.args_iter().nth(1);
        let tag = match key {
            Some(Arg::Simple(key)) => hash_tag(key).to_vec(),
            _ => Vec::new(),
        };
        let at = *known.entry(tag).or_insert_with(|| {
            parts.push(Part {
                pipeline: Pipeline::new(),
                places: Vec::new(),
            });
            parts.len() - 1
        });
        if let Some(part) = parts.get_mut(at) {
            part.pipeline.add_command(command.clone());
            part.places.push(place);
        }
    }
    parts
}

/// Returns what of a key decides its slot.
fn hash_tag(key: &[u8]) -> &[u8] {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|byte| *byte == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    tag.unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use ::redis::cmd;

    use super::*;

    #[test]
    fn pipeline_is_split_by_hash_tags() {
        let mut pipeline = Pipeline::new();
        for key in ["a:{1}:x", "b", "c:{1}:y", "{}d", "b"] {
            pipeline.add_command(cmd("GET").arg(key).to_owned());
        }
        let parts = parts_of(&pipeline);
        let places: Vec<_> = parts.iter().map(|part| part.places.clone()).collect();
        assert_eq!(places, [vec![0, 2], vec![1, 4], vec![3]]);
        assert_eq!(parts[0].pipeline.cmd_iter().count(), 2);
    }
}
