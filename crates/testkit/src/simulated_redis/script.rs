//! Scripts in Lua 5.1, as Redis has it.

use std::collections::HashMap;
use std::sync::Arc;

use mlua::{Function, Lua, MultiValue, Table, Value};
use parking_lot::Mutex;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::command::run;
use super::data::Data;
use super::reply::Reply;

/// The scripts that were loaded, by their SHA-1.
pub(super) struct Scripts {
    lua: Lua,
    known: HashMap<Vec<u8>, Function>,
}

// === impl Scripts ===

impl Scripts {
    /// Creates a Lua whose scripts call commands over these data.
    pub(super) fn new(data: Arc<Mutex<Data>>) -> mlua::Result<Self> {
        let lua = Lua::new();
        let call = lua.create_function(move |lua, arguments: MultiValue| {
            let command = arguments
                .iter()
                .map(argument)
                .collect::<mlua::Result<Vec<_>>>()?;
            let reply = run(&mut data.lock(), &command);
            match reply {
                Reply::Error(error) => Err(mlua::Error::runtime(error)),
                reply => to_lua(lua, &reply),
            }
        })?;
        let redis = lua.create_table()?;
        redis.set("call", call)?;
        lua.globals().set("redis", redis)?;
        Ok(Self {
            lua,
            known: HashMap::new(),
        })
    }

    /// Carries out `SCRIPT LOAD`.
    pub(super) fn load(&mut self, arguments: &[Vec<u8>]) -> Reply {
        let [subcommand, body] = arguments else {
            return Reply::error("ERR unknown subcommand");
        };
        if !subcommand.eq_ignore_ascii_case(b"LOAD") {
            return Reply::error("ERR unknown subcommand");
        }
        let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, body);
        let bytes = digest.as_ref().iter();
        let name = bytes.map(|byte| format!("{byte:02x}")).collect::<String>();
        match self.lua.load(body.as_slice()).into_function() {
            Ok(function) => {
                self.known.insert(name.clone().into_bytes(), function);
                Reply::Bytes(name.into_bytes())
            }
            Err(error) => Reply::Error(format!("ERR Error compiling script: {error}")),
        }
    }

    /// Carries out `EVALSHA`.
    pub(super) fn call(&self, arguments: &[Vec<u8>]) -> Reply {
        let [name, count, rest @ ..] = arguments else {
            return Reply::error("ERR wrong number of arguments for 'evalsha' command");
        };
        let Some(function) = self.known.get(name) else {
            return Reply::error("NOSCRIPT No matching script. Please use EVAL.");
        };
        let count = std::str::from_utf8(count).ok();
        let count = count.and_then(|count| count.parse().ok());
        let Some((keys, values)) = count.and_then(|count| rest.split_at_checked(count)) else {
            return Reply::error("ERR Number of keys can't be greater than number of args");
        };
        self.evaluate(function, keys, values)
            .unwrap_or_else(|error| Reply::Error(text(&error)))
    }

    fn evaluate(
        &self,
        function: &Function,
        keys: &[Vec<u8>],
        values: &[Vec<u8>],
    ) -> mlua::Result<Reply> {
        let list = |all: &[Vec<u8>]| -> mlua::Result<Table> {
            let strings = all.iter().map(|one| self.lua.create_string(one));
            let strings = strings.collect::<mlua::Result<Vec<_>>>()?;
            self.lua.create_sequence_from(strings)
        };
        self.lua.globals().set("KEYS", list(keys)?)?;
        self.lua.globals().set("ARGV", list(values)?)?;
        from_lua(&function.call::<Value>(())?)
    }
}

/// Returns an error of a script. That of a command keeps its code.
fn text(error: &mlua::Error) -> String {
    match error {
        mlua::Error::CallbackError { cause, .. } => text(cause),
        mlua::Error::RuntimeError(text) => {
            let code = text.split(' ').next().unwrap_or_default();
            let is_code = code.len() > 2 && code.bytes().all(|byte| byte.is_ascii_uppercase());
            let line = text.lines().next().unwrap_or_default();
            if is_code {
                line.to_owned()
            } else {
                format!("ERR {line}")
            }
        }
        error => format!(
            "ERR {}",
            error.to_string().lines().next().unwrap_or_default()
        ),
    }
}

/// Returns an argument of `redis.call` as the command gets it.
fn argument(value: &Value) -> mlua::Result<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Integer(number) => Ok(number.to_string().into_bytes()),
        Value::Number(number) if number.fract() == 0.0 => Ok(format!("{number:.0}").into_bytes()),
        Value::Number(number) => Ok(number.to_string().into_bytes()),
        _ => Err(mlua::Error::runtime(
            "Lua redis lib command arguments must be strings or integers",
        )),
    }
}

fn to_lua(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    Ok(match reply {
        Reply::Bytes(bytes) => Value::String(lua.create_string(bytes)?),
        Reply::Number(number) => Value::Number(*number as f64),
        Reply::Nil => Value::Boolean(false),
        Reply::Status(text) => {
            let table = lua.create_table()?;
            table.set("ok", *text)?;
            Value::Table(table)
        }
        Reply::Error(text) => return Err(mlua::Error::runtime(text)),
        Reply::List(replies) => {
            let values = replies.iter().map(|reply| to_lua(lua, reply));
            let values = values.collect::<mlua::Result<Vec<_>>>()?;
            Value::Table(lua.create_sequence_from(values)?)
        }
    })
}

/// Returns what a script returned as the caller gets it: a list ends before the first nil.
fn from_lua(value: &Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::String(text) => Reply::Bytes(text.as_bytes().to_vec()),
        Value::Integer(number) => Reply::Number(*number),
        Value::Number(number) => Reply::Number(*number as i64),
        Value::Boolean(true) => Reply::Number(1),
        Value::Table(table) => {
            if let Ok(Value::String(_)) = table.raw_get::<Value>("ok") {
                return Ok(Reply::Status("OK"));
            }
            let mut replies = Vec::new();
            for index in 1.. {
                match table.raw_get::<Value>(index)? {
                    Value::Nil => break,
                    value => replies.push(from_lua(&value)?),
                }
            }
            Reply::List(replies)
        }
        _ => Reply::Nil,
    })
}
