//! What a process says of itself in Redis: where it listens, and that it is alive.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Pipeline, cmd};
use tokenwire_core::model::id::Tag;
use tokenwire_store::redis::{RedisClient, RedisError};

use super::NodeRecord;
use super::membership::{KEPT_S, LEASE_MS};

/// See the documentation of the module.
#[derive(Debug)]
pub(super) struct NodeRegistration {
    redis: RedisClient,
    tag: Tag,
    /// This node, once it listens.
    own: OnceLock<NodeRecord>,
    /// Whether Redis has known this process.
    has_joined: AtomicBool,
}

// === impl NodeRegistration ===

impl NodeRegistration {
    pub(super) fn new(redis: RedisClient, tag: Tag) -> Self {
        Self {
            redis,
            tag,
            own: OnceLock::new(),
            has_joined: AtomicBool::new(false),
        }
    }

    /// Sets what this process says of itself from now on.
    pub(super) fn announce(&self, own: NodeRecord) {
        let _ = self.own.set(own);
    }

    /// Returns what this process says of itself, once it listens.
    pub(super) fn own(&self) -> Option<&NodeRecord> {
        self.own.get()
    }

    /// Returns the commands that make this process known and begin its lease. The reply is the lease that
    /// it had before, if any.
    pub(super) fn commands(&self, own: &NodeRecord) -> Pipeline {
        let key = |kind: &str| self.redis.key(format_args!("{kind}:{}", self.tag));
        let (node, alive) = (key("node"), key("alive"));
        let mut all = Pipeline::new();
        let node = [&node, &own.to_json(), "EX", &KEPT_S.to_string()].map(str::to_owned);
        all.add_command(cmd("SET").arg(&node).to_owned()).ignore();
        let alive = [&alive, "1", "PX", &LEASE_MS.to_string(), "GET"].map(str::to_owned);
        all.add_command(cmd("SET").arg(&alive).to_owned());
        let tags = self.redis.key("tags");
        let known = cmd("SADD").arg(tags).arg(self.tag.as_str()).to_owned();
        all.add_command(known).ignore();
        all
    }

    /// Notes that Redis knows this process.
    pub(super) fn note_joined(&self) {
        self.has_joined.store(true, Ordering::Release);
    }

    /// Makes this process known, unless Redis has known it before. What it stores would be taken for that
    /// of a lost process otherwise. Does nothing before it listens.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub(super) async fn join(&self) -> Result<(), RedisError> {
        let Some(own) = self
            .own()
            .filter(|_| !self.has_joined.load(Ordering::Acquire))
        else {
            return Ok(());
        };
        let _: (Option<String>,) = self.redis.pipeline(self.commands(own)).await?;
        self.note_joined();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokenwire_store::redis::RedisOptions;
    use tokenwire_testkit::RedisServer;

    use super::*;

    #[tokio::test]
    async fn process_is_known_with_its_lease_once_it_has_joined() {
        let server = RedisServer::start();
        let redis = RedisClient::new(RedisOptions::new(server.url())).unwrap();
        let registration = NodeRegistration::new(redis, Tag::random());
        registration.join().await.unwrap();
        assert_eq!(server.command(&["EXISTS", "tw:tags"]), "0");
        registration.announce(NodeRecord {
            address: "10.0.0.7:4100".to_owned(),
            holder: None,
            name: "a".to_owned(),
            protocol: 1,
            version: "1.0.0".to_owned(),
        });
        registration.join().await.unwrap();
        let tag = registration.tag.as_str();
        assert_eq!(server.command(&["SMEMBERS", "tw:tags"]), tag);
        let keys = [format!("tw:node:{tag}"), format!("tw:alive:{tag}")];
        assert_eq!(server.command(&["EXISTS", &keys[0], &keys[1]]), "2");
        // The lease is renewed elsewhere.
        server.command(&["DEL", &keys[1]]);
        registration.join().await.unwrap();
        assert_eq!(server.command(&["EXISTS", &keys[1]]), "0");
    }
}
