//! Webhooks that are owed, where another node finds them once this one is lost.
//!
//! `tw:{webhooks}:<tag>` has the records of a process. A node that finds it lost moves them to its own
//! in one step, so that one node goes on with them. Until that node has them they are at
//! `tw:{webhooks}:<tag>:taken:<new tag>` as well: the client of a Redis Cluster repeats a call whose
//! connection is lost.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use redis::{Pipeline, Script, cmd};
use tokenwire_store::redis::RedisError;
use tokenwire_webhooks::DeliveryRecords;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::Cluster;
use super::membership::KEPT_S;

/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);
/// Records in one request.
const AT_ONCE: usize = 256;

/// KEYS: the records of a lost process, those of this one, and what this one has taken and may not have
/// got. ARGV: seconds that they are kept. Returns all that was taken.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local all = redis.call('HGETALL', KEYS[1])
         for i = 1, #all, 2 do
           redis.call('HSET', KEYS[2], all[i], all[i + 1])
           redis.call('HSET', KEYS[3], all[i], all[i + 1])
         end
         if #all > 0 then
           redis.call('EXPIRE', KEYS[2], ARGV[1])
           redis.call('EXPIRE', KEYS[3], ARGV[1])
         end
         redis.call('DEL', KEYS[1])
         return redis.call('HGETALL', KEYS[3])",
    )
});

/// The records of this process, and what Redis does not have of them yet.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    own: Mutex<BTreeMap<String, Vec<u8>>>,
    unsent: Mutex<BTreeMap<String, Option<Vec<u8>>>>,
    wakeup: Notify,
    /// Told when Redis has some more of them.
    sent: Notify,
}

/// Webhooks that are owed, as records in Redis.
#[derive(Debug)]
pub struct ClusterDeliveries {
    cluster: Arc<Cluster>,
    /// What this node's own store has of a time without a cluster.
    earlier: Option<Arc<dyn DeliveryRecords>>,
}

// === impl ClusterDeliveries ===

impl ClusterDeliveries {
    /// Keeps them where other nodes find them. `earlier` are those of a time without a cluster.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, earlier: Option<Arc<dyn DeliveryRecords>>) -> Self {
        Self { cluster, earlier }
    }
}

impl DeliveryRecords for ClusterDeliveries {
    fn set(&self, key: &str, value: Option<Vec<u8>>) {
        let deliveries = &self.cluster.deliveries;
        match value.clone() {
            Some(value) => deliveries.own.lock().insert(key.to_owned(), value),
            None => deliveries.own.lock().remove(key),
        };
        deliveries.unsent.lock().insert(key.to_owned(), value);
        deliveries.wakeup.notify_one();
    }

    fn kept<'a>(&'a self, key: &'a str) -> BoxFuture<'a, ()> {
        let deliveries = &self.cluster.deliveries;
        async move {
            loop {
                let mut sent = pin!(deliveries.sent.notified());
                sent.as_mut().enable();
                if !deliveries.unsent.lock().contains_key(key) {
                    return;
                }
                sent.await;
            }
        }
        .boxed()
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.cluster.deliveries.own.lock().get(key).cloned()
    }

    fn list(&self) -> Vec<(String, Vec<u8>)> {
        let Some(earlier) = &self.earlier else {
            return Vec::new();
        };
        let records = earlier.list();
        for (key, value) in &records {
            self.set(key, Some(value.clone()));
            earlier.set(key, None);
        }
        records
    }
}

// === impl Cluster ===

impl Cluster {
    fn webhooks_of(&self, tag: &str) -> String {
        self.redis.key(format_args!("{{webhooks}}:{tag}"))
    }

    /// Brings the records of this process to Redis, until it is dropped.
    pub async fn keep_deliveries(&self) {
        loop {
            self.deliveries.wakeup.notified().await;
            self.send_deliveries().await;
        }
    }

    async fn send_deliveries(&self) {
        loop {
            let sent = match self.send_some().await {
                Ok(sent) => sent,
                Err(error) => {
                    tracing::debug!(%error, "records of webhooks wait for Redis");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            if !sent {
                return;
            }
        }
    }

    /// Brings what is left to Redis within this time.
    pub(crate) async fn last_deliveries(&self, within: Duration) {
        let _ = tokio::time::timeout(within, self.send_deliveries()).await;
    }

    async fn send_some(&self) -> Result<bool, RedisError> {
        let some: Vec<(String, Option<Vec<u8>>)> = {
            let unsent = self.deliveries.unsent.lock();
            let some = unsent.iter().take(AT_ONCE);
            some.map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        if some.is_empty() {
            return Ok(false);
        }
        let key = self.webhooks_of(self.tag.as_str());
        let mut pipeline = Pipeline::new();
        for (event, value) in &some {
            let command = match value {
                Some(value) => cmd("HSET").arg(&key).arg(event).arg(value).to_owned(),
                None => cmd("HDEL").arg(&key).arg(event).to_owned(),
            };
            pipeline.add_command(command).ignore();
        }
        let keep = cmd("EXPIRE").arg(&key).arg(KEPT_S).to_owned();
        pipeline.add_command(keep).ignore();
        let () = self.redis.pipeline(pipeline).await?;
        let mut unsent = self.deliveries.unsent.lock();
        for (event, value) in some {
            // What was set since is newer.
            if let Entry::Occupied(sent) = unsent.entry(event)
                && *sent.get() == value
            {
                sent.remove();
            }
        }
        drop(unsent);
        self.deliveries.sent.notify_waiters();
        Ok(true)
    }

    /// Returns those of these records that are still this process's: no other one has taken them.
    pub(super) async fn own_records(
        &self,
        keys: impl Iterator<Item = &String>,
    ) -> Result<BTreeSet<String>, RedisError> {
        let keys: Vec<&String> = keys.collect();
        if keys.is_empty() {
            return Ok(BTreeSet::new());
        }
        // A record is here until Redis has it.
        let mut own: BTreeSet<String> = {
            let unsent = self.deliveries.unsent.lock();
            let is_set = |key: &&&String| matches!(unsent.get(**key), Some(Some(_)));
            keys.iter()
                .filter(is_set)
                .map(|key| (*key).clone())
                .collect()
        };
        let records = cmd("HMGET")
            .arg(self.webhooks_of(self.tag.as_str()))
            .arg(&keys)
            .to_owned();
        let records: Vec<Option<Vec<u8>>> = self.redis.query(records).await?;
        let stored = keys
            .iter()
            .zip(records)
            .filter(|(_, record)| record.is_some());
        own.extend(stored.map(|(key, _)| (*key).clone()));
        Ok(own)
    }

    /// Takes the records of a lost process.
    pub(super) async fn take_deliveries(
        &self,
        tag: &str,
    ) -> Result<Vec<(String, Vec<u8>)>, RedisError> {
        let (theirs, own) = (self.webhooks_of(tag), self.webhooks_of(self.tag.as_str()));
        let held = format!("{theirs}:taken:{}", self.tag);
        let known = held.clone();
        let taken: Vec<(String, Vec<u8>)> = self
            .redis
            .script(&TAKE, move |script| {
                script.key(theirs).key(own).key(known).arg(KEPT_S);
            })
            .await?;
        self.deliveries.own.lock().extend(taken.iter().cloned());
        if !taken.is_empty() {
            let got = cmd("DEL").arg(held).to_owned();
            if let Err(error) = self.redis.query::<u64>(got).await {
                tracing::debug!(%error, "webhooks that were taken are taken again");
            }
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use tokenwire_store::redis::{RedisClient, RedisOptions};
    use tokenwire_testkit::RedisServer;

    use super::*;

    #[tokio::test]
    async fn records_are_given_again_until_they_are_held() {
        let server = RedisServer::start();
        let redis = RedisClient::new(RedisOptions::new(server.url())).unwrap();
        server.command(&["HSET", "tw:{webhooks}:lost", "event", "owed"]);
        let take = async || -> Vec<(String, Vec<u8>)> {
            let taken = redis.script(&TAKE, |script| {
                script.key("tw:{webhooks}:lost").key("tw:{webhooks}:own");
                script.key("tw:{webhooks}:lost:taken:own").arg(KEPT_S);
            });
            taken.await.unwrap()
        };
        let owed = [("event".to_owned(), b"owed".to_vec())];
        assert_eq!(take().await, owed);
        assert_eq!(take().await, owed);
        server.command(&["DEL", "tw:{webhooks}:lost:taken:own"]);
        assert_eq!(take().await, []);
        let own = server.command(&["HGET", "tw:{webhooks}:own", "event"]);
        assert_eq!(own, "owed");
    }
}
