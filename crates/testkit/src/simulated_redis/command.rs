//! The commands.

use std::collections::{BTreeMap, BTreeSet};

use super::Added;
use super::data::{Data, Key, Value};
use super::reply::Reply;
use super::stream::{EntryId, Stream};

type Hash = BTreeMap<Vec<u8>, Vec<u8>>;
type Set = BTreeSet<Vec<u8>>;
type Sorted = BTreeMap<Vec<u8>, i64>;

const SYNTAX: &str = "ERR syntax error";
const NO_NUMBER: &str = "ERR value is not an integer or out of range";
const NOT_ABOVE: &str =
    "ERR The ID specified in XADD is equal or smaller than the target stream top item";
const NO_ID: &str = "ERR Invalid stream ID specified as stream command argument";

/// What the server says of itself.
const INFO: &str = "redis_version:7.0.15\r\nredis_mode:standalone\r\nuptime_in_seconds:3600\r\nused_memory:1000000\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n";

/// Carries out one command.
pub(super) fn run(data: &mut Data, command: &[Vec<u8>]) -> Reply {
    let command: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
    let Some((name, arguments)) = command.split_first() else {
        return Reply::error(SYNTAX);
    };
    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
    match (name.as_str(), arguments) {
        ("INFO", _) => Reply::bytes(INFO.as_bytes()),
        ("TIME", []) => time(data.now),
        ("DEL" | "UNLINK", keys) => {
            Reply::count(keys.iter().filter(|key| data.remove(key)).count())
        }
        ("EXISTS", keys) => Reply::count(keys.iter().filter(|key| data.key(key).is_some()).count()),
        ("EXPIRE", [key, time]) => expire(data, key, time, 1000),
        ("PEXPIRE", [key, time]) => expire(data, key, time, 1),
        ("GET", [key]) => data.read(key, |text: Option<&mut Vec<u8>>| {
            Reply::optional(text.map(|text| text.as_slice()))
        }),
        ("SET", [key, value, options @ ..]) => set(data, key, value, options),
        ("SADD", [key, members @ ..]) => data.change(key, |set: &mut Set| {
            let added = members.iter().filter(|member| set.insert(member.to_vec()));
            Reply::count(added.count())
        }),
        ("SREM", [key, members @ ..]) => data.change(key, |set: &mut Set| {
            Reply::count(members.iter().filter(|member| set.remove(**member)).count())
        }),
        ("SMEMBERS", [key]) => data.read(key, |set: Option<&mut Set>| {
            list(set.iter().flat_map(|set| set.iter()))
        }),
        ("XADD", [key, rest @ ..]) => add(data, key, rest),
        ("XRANGE", [key, from, to, count @ ..]) => range(data, key, (from, to), count, false),
        ("XREVRANGE", [key, to, from, count @ ..]) => range(data, key, (from, to), count, true),
        (name, arguments) if name.starts_with('H') => hash(data, name, arguments),
        (name, arguments) if name.starts_with('Z') => sorted(data, name, arguments),
        (name, _) => Reply::Error(format!("ERR unknown command '{name}'")),
    }
}

fn list<'a>(all: impl Iterator<Item = &'a Vec<u8>>) -> Reply {
    Reply::List(all.map(|one| Reply::bytes(one)).collect())
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn time(now: u64) -> Reply {
    let parts = [now / 1000, now % 1000 * 1000];
    let text = |part: u64| Reply::Bytes(part.to_string().into_bytes());
    Reply::List(parts.map(text).to_vec())
}

fn expire(data: &mut Data, key: &[u8], time: &[u8], unit: u64) -> Reply {
    let Some(time) = number(time).and_then(|time| u64::try_from(time).ok()) else {
        return Reply::error(NO_NUMBER);
    };
    let at = data.now.saturating_add(time.saturating_mul(unit));
    let key = data.key(key);
    let is_there = key.is_some();
    if let Some(key) = key {
        key.expires = Some(at);
    }
    Reply::Number(i64::from(is_there))
}

fn set(data: &mut Data, key: &[u8], value: &[u8], options: &[&[u8]]) -> Reply {
    let (mut expires, mut only_new, mut gives_old) = (None, false, false);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let unit = match option.to_ascii_uppercase().as_slice() {
            b"NX" => {
                only_new = true;
                continue;
            }
            b"GET" => {
                gives_old = true;
                continue;
            }
            b"EX" => 1000,
            b"PX" => 1,
            _ => return Reply::error(SYNTAX),
        };
        let time = options.next().and_then(|time| number(time));
        let Some(time) = time.and_then(|time| u64::try_from(time).ok()) else {
            return Reply::error(NO_NUMBER);
        };
        expires = Some(data.now.saturating_add(time.saturating_mul(unit)));
    }
    let known = data.key(key);
    let is_known = known.is_some();
    let old = match known.map(|key| &key.value) {
        None => Reply::Nil,
        Some(Value::Text(text)) => Reply::bytes(text),
        Some(_) if gives_old => return Reply::error(super::data::WRONG_TYPE),
        Some(_) => Reply::Nil,
    };
    let is_set = !(only_new && is_known);
    if is_set {
        let value = Value::Text(value.to_vec());
        data.keys.insert(key.to_vec(), Key { value, expires });
    }
    match (gives_old, is_set) {
        (true, _) => old,
        (false, true) => Reply::Status("OK"),
        (false, false) => Reply::Nil,
    }
}

fn hash(data: &mut Data, name: &str, arguments: &[&[u8]]) -> Reply {
    match (name, arguments) {
        ("HSET", [key, pairs @ ..]) if pairs.len().is_multiple_of(2) && !pairs.is_empty() => data
            .change(key, |hash: &mut Hash| {
                let new = pairs.chunks(2).filter(|pair| {
                    let old = hash.insert(pair[0].to_vec(), pair[1].to_vec());
                    old.is_none()
                });
                Reply::count(new.count())
            }),
        ("HINCRBY", [key, field, by]) => data.change(key, |hash: &mut Hash| {
            let old = hash.get(*field).map_or(Some(0), |old| number(old));
            let Some(old) = old else {
                return Reply::error("ERR hash value is not an integer");
            };
            let Some(new) = number(by).and_then(|by| old.checked_add(by)) else {
                return Reply::error(NO_NUMBER);
            };
            hash.insert(field.to_vec(), new.to_string().into_bytes());
            Reply::Number(new)
        }),
        ("HDEL", [key, fields @ ..]) => data.change(key, |hash: &mut Hash| {
            let removed = fields.iter().filter(|field| hash.remove(**field).is_some());
            Reply::count(removed.count())
        }),
        ("HGET", [key, field]) => data.read(key, |hash: Option<&mut Hash>| {
            let value = hash.and_then(|hash| hash.get(*field));
            Reply::optional(value.map(Vec::as_slice))
        }),
        ("HMGET", [key, fields @ ..]) => data.read(key, |hash: Option<&mut Hash>| {
            let value = |field: &&[u8]| hash.as_ref().and_then(|hash| hash.get(*field));
            let values = fields.iter().map(value);
            Reply::List(
                values
                    .map(|value| Reply::optional(value.map(Vec::as_slice)))
                    .collect(),
            )
        }),
        ("HGETALL", [key]) => data.read(key, |hash: Option<&mut Hash>| {
            let pairs = hash.iter().flat_map(|hash| hash.iter());
            list(pairs.flat_map(|(field, value)| [field, value]))
        }),
        _ => Reply::error(SYNTAX),
    }
}

fn sorted(data: &mut Data, name: &str, arguments: &[&[u8]]) -> Reply {
    match (name, arguments) {
        ("ZADD", [key, score, member]) => match number(score) {
            Some(score) => data.change(key, |sorted: &mut Sorted| {
                Reply::Number(i64::from(sorted.insert(member.to_vec(), score).is_none()))
            }),
            None => Reply::error("ERR value is not a valid float"),
        },
        ("ZREM", [key, members @ ..]) => data.change(key, |sorted: &mut Sorted| {
            let removed = members
                .iter()
                .filter(|member| sorted.remove(**member).is_some());
            Reply::count(removed.count())
        }),
        ("ZREMRANGEBYSCORE", [key, b"-inf", most]) => {
            let Some(most) = number(most) else {
                return Reply::error("ERR min or max is not a float");
            };
            data.change(key, |sorted: &mut Sorted| {
                let before = sorted.len();
                sorted.retain(|_, score| *score > most);
                Reply::count(before - sorted.len())
            })
        }
        ("ZRANGE", [key, b"0", b"-1"]) => data.read(key, |sorted: Option<&mut Sorted>| {
            let mut members: Vec<_> = sorted.iter().flat_map(|sorted| sorted.iter()).collect();
            members.sort_by_key(|(member, score)| (**score, (*member).clone()));
            list(members.into_iter().map(|(member, _)| member))
        }),
        _ => Reply::error(SYNTAX),
    }
}

fn add(data: &mut Data, key: &[u8], arguments: &[&[u8]]) -> Reply {
    let (only_known, arguments) = match arguments {
        [b"NOMKSTREAM", rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let [id, fields @ ..] = arguments else {
        return Reply::error(SYNTAX);
    };
    if fields.is_empty() || !fields.len().is_multiple_of(2) {
        return Reply::error("ERR wrong number of arguments for 'xadd' command");
    }
    let Some(entry) = EntryId::parse(id, 0) else {
        return Reply::error(NO_ID);
    };
    if entry == EntryId(0, 0) {
        return Reply::error("ERR The ID specified in XADD must be greater than 0-0");
    }
    if only_known && data.key(key).is_none() {
        return Reply::Nil;
    }
    let ignores_order = data.ignores_order;
    let fields: Vec<_> = fields.iter().map(|field| field.to_vec()).collect();
    let added = fields.clone();
    let reply = data.change(key, |stream: &mut Stream| {
        if stream.add(entry, fields, ignores_order) {
            Reply::Bytes(format!("{}-{}", entry.0, entry.1).into_bytes())
        } else {
            Reply::error(NOT_ABOVE)
        }
    });
    if matches!(reply, Reply::Bytes(_)) {
        let key = String::from_utf8_lossy(key).into_owned();
        data.added.push(Added {
            key,
            id: entry,
            fields: added,
        });
    }
    reply
}

fn range(
    data: &mut Data,
    key: &[u8],
    bounds: (&[u8], &[u8]),
    count: &[&[u8]],
    is_reversed: bool,
) -> Reply {
    let most = match count {
        [] => Some(usize::MAX),
        [b"COUNT", count] => number(count).and_then(|count| usize::try_from(count).ok()),
        _ => return Reply::error(SYNTAX),
    };
    let Some(most) = most else {
        return Reply::error(NO_NUMBER);
    };
    data.read(key, |stream: Option<&mut Stream>| match stream {
        None => Reply::List(Vec::new()),
        Some(_) if most == 0 => Reply::Nil,
        Some(stream) => {
            let found = stream.range(bounds, most, is_reversed);
            found.unwrap_or_else(|| Reply::error(NO_ID))
        }
    })
}
