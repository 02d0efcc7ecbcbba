//! Tickets that were used at any node: `tw:ticket:<ticket>`, whose value is the call that used it.
//!
//! The client of a Redis Cluster repeats a command whose connection is lost, and the first one may have
//! been carried out.

use std::sync::LazyLock;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::{Script, cmd};
use tokenwire_core::model::error::ApiError;

use super::{Cluster, unavailable};
use crate::auth::SharedUses;

/// Seconds for which a use is kept longer, so that no clock forgets it before the ticket has ended.
const LONGER: u64 = 60;

/// Uses a ticket. KEYS: the ticket. ARGV: the call, and seconds that the use is kept. Returns 1 if this
/// call is the one that uses it, and 0 if it was used before.
static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2]) then return 1 end
         if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
         return 0",
    )
});

impl SharedUses for Cluster {
    fn claim<'a>(&'a self, ticket: &'a str, seconds: u64) -> BoxFuture<'a, Result<bool, ApiError>> {
        let key = self.ticket_key(ticket);
        let call = format!("{:032x}", rand::random::<u128>());
        async move {
            let answer = self.redis.script::<i64>(&CLAIM, |script| {
                script.key(key).arg(call);
                script.arg(seconds.saturating_add(LONGER));
            });
            Ok(answer.await.map_err(|error| unavailable(&error))? == 1)
        }
        .boxed()
    }

    fn is_used<'a>(&'a self, ticket: &'a str) -> BoxFuture<'a, Result<bool, ApiError>> {
        let command = cmd("EXISTS").arg(self.ticket_key(ticket)).to_owned();
        async move {
            let found = self.redis.query::<i64>(command).await;
            Ok(found.map_err(|error| unavailable(&error))? > 0)
        }
        .boxed()
    }
}

impl Cluster {
    fn ticket_key(&self, ticket: &str) -> String {
        self.redis.key(format_args!("ticket:{ticket}"))
    }
}

#[cfg(test)]
mod tests {
    use tokenwire_store::redis::{RedisClient, RedisOptions};
    use tokenwire_testkit::RedisServer;

    use super::*;

    #[tokio::test]
    async fn call_that_is_repeated_uses_the_ticket_and_another_does_not() {
        let server = RedisServer::start();
        let redis = RedisClient::new(RedisOptions::new(server.url())).unwrap();
        for (call, expected) in [("a", 1), ("a", 1), ("b", 0), ("a", 1)] {
            let used = redis.script::<i64>(&CLAIM, |script| {
                script.key("tw:ticket:t").arg(call).arg(60);
            });
            assert_eq!(used.await, Ok(expected), "{call}");
        }
    }
}
