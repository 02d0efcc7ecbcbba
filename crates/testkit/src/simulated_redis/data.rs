//! The keys of a server.

use std::collections::{BTreeMap, BTreeSet};

use super::Added;
use super::reply::Reply;
use super::stream::Stream;

/// A key that has a value of another type.
pub(super) const WRONG_TYPE: &str =
    "WRONGTYPE Operation against a key holding the wrong kind of value";

/// All keys, and the time.
#[derive(Debug, Default)]
pub(super) struct Data {
    pub(super) keys: BTreeMap<Vec<u8>, Key>,
    /// Unix milliseconds.
    pub(super) now: u64,
    /// Whether streams take entries out of order.
    pub(super) ignores_order: bool,
    pub(super) added: Vec<Added>,
}

/// A value, and when it expires.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) value: Value,
    pub(super) expires: Option<u64>,
}

#[derive(Debug)]
pub(super) enum Value {
    Text(Vec<u8>),
    Stream(Stream),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    /// Scores by member.
    Sorted(BTreeMap<Vec<u8>, i64>),
}

/// A type of value.
pub(super) trait Typed: Sized + Default {
    fn wrap(self) -> Value;
    fn of(value: &mut Value) -> Option<&mut Self>;
    fn is_empty(&self) -> bool;
}

macro_rules! typed {
    ($type:ty, $name:ident, $is_empty:expr) => {
        impl Typed for $type {
            fn wrap(self) -> Value {
                Value::$name(self)
            }

            fn of(value: &mut Value) -> Option<&mut Self> {
                match value {
                    Value::$name(value) => Some(value),
                    _ => None,
                }
            }

            fn is_empty(&self) -> bool {
                let is_empty: fn(&Self) -> bool = $is_empty;
                is_empty(self)
            }
        }
    };
}

typed!(Vec<u8>, Text, |_| false);
typed!(Stream, Stream, |_| false);
typed!(BTreeMap<Vec<u8>, Vec<u8>>, Hash, |map| map.is_empty());
typed!(BTreeSet<Vec<u8>>, Set, |set| set.is_empty());
typed!(BTreeMap<Vec<u8>, i64>, Sorted, |map| map.is_empty());

// === impl Data ===

impl Data {
    /// Returns a key that has not expired.
    pub(super) fn key(&mut self, name: &[u8]) -> Option<&mut Key> {
        let now = self.now;
        let is_over = |key: &Key| key.expires.is_some_and(|expires| expires <= now);
        if self.keys.get(name).is_some_and(is_over) {
            self.keys.remove(name);
        }
        self.keys.get_mut(name)
    }

    /// Reads a value, if there is one.
    pub(super) fn read<T: Typed>(
        &mut self,
        name: &[u8],
        read: impl FnOnce(Option<&mut T>) -> Reply,
    ) -> Reply {
        match self.key(name) {
            None => read(None),
            Some(key) => match T::of(&mut key.value) {
                None => Reply::error(WRONG_TYPE),
                value => read(value),
            },
        }
    }

    /// Changes a value, which is created first if it is not there. An empty one is removed.
    pub(super) fn change<T: Typed>(
        &mut self,
        name: &[u8],
        change: impl FnOnce(&mut T) -> Reply,
    ) -> Reply {
        if self.key(name).is_none() {
            let key = Key {
                value: T::default().wrap(),
                expires: None,
            };
            self.keys.insert(name.to_vec(), key);
        }
        let value = self.keys.get_mut(name);
        let Some(value) = value.and_then(|key| T::of(&mut key.value)) else {
            return Reply::error(WRONG_TYPE);
        };
        let reply = change(value);
        if value.is_empty() {
            self.keys.remove(name);
        }
        reply
    }

    /// Removes a key. Returns whether it was there.
    pub(super) fn remove(&mut self, name: &[u8]) -> bool {
        self.key(name).is_some() && self.keys.remove(name).is_some()
    }
}
