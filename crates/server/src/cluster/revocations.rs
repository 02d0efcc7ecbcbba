//! What is revoked at all nodes: the hash `tw:revoked`, whose field `version` counts its changes.

use std::collections::HashMap;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::{Pipeline, cmd};
use tokenwire_core::model::error::ApiError;

use super::{Cluster, unavailable};
use crate::auth::SharedRevocations;

const VERSION: &str = "version";

impl SharedRevocations for Cluster {
    fn add<'a>(
        &'a self,
        field: &'a str,
        value: u64,
        over: &'a [String],
    ) -> BoxFuture<'a, Result<(), ApiError>> {
        let key = self.revoked_key();
        let mut all = Pipeline::new();
        all.atomic();
        all.hset(&key, field, value).ignore();
        all.hincr(&key, VERSION, 1).ignore();
        if !over.is_empty() {
            all.hdel(&key, over).ignore();
        }
        async move {
            let added = self.redis.pipeline::<()>(all).await;
            added.map_err(|error| unavailable(&error))
        }
        .boxed()
    }

    fn version(&self) -> BoxFuture<'_, Result<u64, ApiError>> {
        let command = cmd("HGET").arg(self.revoked_key()).arg(VERSION).to_owned();
        async move {
            let version = self.redis.query::<Option<u64>>(command).await;
            Ok(version.map_err(|error| unavailable(&error))?.unwrap_or(0))
        }
        .boxed()
    }

    fn entries(&self) -> BoxFuture<'_, Result<HashMap<String, u64>, ApiError>> {
        let command = cmd("HGETALL").arg(self.revoked_key()).to_owned();
        async move {
            let all = self.redis.query::<HashMap<String, u64>>(command).await;
            let mut all = all.map_err(|error| unavailable(&error))?;
            all.remove(VERSION);
            Ok(all)
        }
        .boxed()
    }
}

impl Cluster {
    fn revoked_key(&self) -> String {
        self.redis.key("revoked")
    }
}
