//! Tickets that were used at any node: `tw:ticket:<ticket>`.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::cmd;
use tokenwire_core::model::error::ApiError;

use super::{Cluster, unavailable};
use crate::auth::SharedUses;

/// Seconds for which a use is kept longer, so that no clock forgets it before the ticket has ended.
const LONGER: u64 = 60;

impl SharedUses for Cluster {
    fn claim<'a>(&'a self, ticket: &'a str, seconds: u64) -> BoxFuture<'a, Result<bool, ApiError>> {
        let mut command = cmd("SET");
        command.arg(self.ticket_key(ticket)).arg(1).arg("NX");
        command.arg("EX").arg(seconds.saturating_add(LONGER));
        async move {
            let answer = self.redis.query::<Option<String>>(command).await;
            Ok(answer.map_err(|error| unavailable(&error))?.is_some())
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
