//! The Redis in memory of the simulations is what it stands for: it gives the replies of a real
//! server, and the store in Redis passes the conformance suite on it.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, LazyLock};

use ::redis::{Parser, RedisResult, Value, parse_redis_value};
use futures::FutureExt as _;
use futures::future::{BoxFuture, ready};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokenwire_store::redis::{
    Command, RedisClient, RedisOptions, RedisRetention, RedisStore, Transport,
};
use tokenwire_testkit::RedisServer;
use tokenwire_testkit::simulated_redis::SimulatedRedis;
use tokio::runtime::Runtime;

/// Runs the requests of all stores, whose tests block the threads that they are on.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

#[derive(Debug, Default)]
struct Link(SimulatedRedis);

impl Transport for Link {
    fn connect(&self) -> BoxFuture<'_, RedisResult<()>> {
        ready(Ok(())).boxed()
    }

    fn exchange(&self, commands: Vec<Command>) -> BoxFuture<'static, RedisResult<Vec<Value>>> {
        let replies = commands.iter().map(|command| self.0.execute(1, command));
        let values = replies.map(|reply| parse_redis_value(&reply.encode()));
        ready(values.collect()).boxed()
    }
}

mod conformance {
    use super::*;

    tokenwire_testkit::store_conformance!(|| {
        let _on = RUNTIME.enter();
        let options = RedisOptions::new("redis://simulated");
        let client = RedisClient::over(Arc::new(Link::default()), options);
        Arc::new(RedisStore::new(client, RedisRetention::default()))
    });
}

/// Commands of all kinds on few keys, some of them wrong.
const COMMANDS: &[&str] = &[
    "XADD KEY NOMKSTREAM ID r VALUE",
    "XADD KEY ID r VALUE",
    "XADD KEY ID s VALUE a VALUE",
    "XADD KEY ID r",
    "XADD KEY NUMBER r VALUE",
    "XADD KEY x-y r VALUE",
    "XRANGE KEY - +",
    "XRANGE KEY ID + COUNT NUMBER",
    "XRANGE KEY (ID + COUNT NUMBER",
    "XRANGE KEY ID ID",
    "XRANGE KEY - NUMBER",
    "XREVRANGE KEY + - COUNT 1",
    "XREVRANGE KEY ID ID",
    "PEXPIRE KEY 100000",
    "EXPIRE KEY 100",
    "UNLINK KEY KEY",
    "DEL KEY",
    "EXISTS KEY",
    "HSET KEY VALUE NUMBER",
    "HSET KEY VALUE VALUE VALUE VALUE",
    "HINCRBY KEY VALUE 3",
    "HGET KEY VALUE",
    "HMGET KEY VALUE VALUE",
    "HGETALL KEY",
    "HDEL KEY VALUE",
    "SADD KEY VALUE VALUE",
    "SREM KEY VALUE",
    "SMEMBERS KEY",
    "ZADD KEY NUMBER VALUE",
    "ZRANGE KEY 0 -1",
    "ZREM KEY VALUE",
    "ZREMRANGEBYSCORE KEY -inf NUMBER",
    "SET KEY VALUE",
    "SET KEY VALUE EX 100",
    "SET KEY VALUE PX 100000 GET",
    "SET KEY VALUE NX PX 100000",
    "SET KEY VALUE NX EX 100",
    "GET KEY",
    "EVALSHA 0000000000000000000000000000000000000000 0",
    "SCRIPT LOAD return{redis.call('GET',KEYS[1]),1.5,'a',{true,2},false,3}",
];

fn draw(random: &mut StdRng) -> Command {
    let template = *COMMANDS.choose(random).unwrap();
    let words = template.split(' ').map(|word| {
        let id = |random: &mut StdRng| {
            let (first, second) = (random.random_range(0..3), random.random_range(0..6));
            format!("{first}-{second}")
        };
        match word {
            "KEY" => format!("key{}", random.random_range(0..4)),
            "VALUE" => format!("value{}", random.random_range(0..3)),
            "NUMBER" => random.random_range(0..4).to_string(),
            "ID" => id(random),
            "(ID" => format!("({}", id(random)),
            word => word.to_owned(),
        }
    });
    words.map(String::into_bytes).collect()
}

/// Sorts what has no order in Redis, where the command gives such, and leaves out the text of an error
/// in a script.
fn comparable(command: &Command, value: Value) -> Value {
    let name = command[0].as_slice();
    if let Value::ServerError(error) = &value
        && name == b"EVALSHA"
    {
        return Value::SimpleString(error.code().to_owned());
    }
    let Value::Array(mut values) = value else {
        return value;
    };
    match name {
        b"SMEMBERS" => values.sort_by_key(|value| format!("{value:?}")),
        b"HGETALL" => {
            let mut pairs: Vec<_> = values.chunks(2).map(<[Value]>::to_vec).collect();
            pairs.sort_by_key(|pair| format!("{pair:?}"));
            values = pairs.concat();
        }
        _ => {}
    }
    Value::Array(values)
}

fn send(connection: &mut TcpStream, command: &Command) {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for argument in command {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    connection.write_all(&bytes).unwrap();
}

#[test]
fn replies_are_those_of_a_real_server() {
    let server = RedisServer::start();
    let mut connection = TcpStream::connect(server.address()).unwrap();
    let mut answers = BufReader::new(connection.try_clone().unwrap());
    let mut parser = Parser::new();
    let mut random = StdRng::seed_from_u64(1);
    let simulated = SimulatedRedis::new();
    let mut seen = Vec::new();
    for _ in 0..20_000 {
        let mut command = draw(&mut random);
        if let Some(Value::BulkString(name)) = seen.last()
            && random.random_range(0..20) == 0
        {
            let call = [&b"EVALSHA"[..], name, b"1", b"key1"];
            command = call.map(<[u8]>::to_vec).to_vec();
        }
        send(&mut connection, &command);
        let real = parser.parse_value(&mut answers).unwrap();
        let reply = parse_redis_value(&simulated.execute(1, &command).encode()).unwrap();
        let words: Vec<_> = command
            .iter()
            .map(|word| String::from_utf8_lossy(word))
            .collect();
        let (real, reply) = (comparable(&command, real), comparable(&command, reply));
        assert_eq!(reply, real, "{}", words.join(" "));
        if command[0] == b"SCRIPT" {
            seen.push(real);
        }
    }
}

#[test]
fn keys_expire_at_the_time_that_is_given() {
    let redis = SimulatedRedis::new();
    let ask = |now, command: &str| {
        let words = command.split(' ').map(|word| word.as_bytes().to_vec());
        redis.execute(now, &words.collect::<Vec<_>>()).encode()
    };
    ask(1_000, "SET key value PX 500");
    assert_eq!(ask(1_499, "GET key"), b"$5\r\nvalue\r\n");
    assert_eq!(ask(1_500, "GET key"), b"$-1\r\n");
    assert_eq!(ask(1_500, "EXISTS key"), b":0\r\n");
    ask(1_500, "SADD key member");
    ask(1_500, "EXPIRE key 2");
    assert_eq!(ask(3_499, "SMEMBERS key"), b"*1\r\n$6\r\nmember\r\n");
    assert_eq!(ask(3_500, "SMEMBERS key"), b"*0\r\n");
}
