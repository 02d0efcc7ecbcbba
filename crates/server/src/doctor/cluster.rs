//! Whether the Redis of the cluster can be used.

use tokenwire_store::redis::{RedisClient, RedisError, RedisOptions};

use super::report::Report;
use crate::config::Config;

const SUBJECT: &str = "cluster";

pub(super) async fn check(config: &Config, report: &mut Report) {
    let Some(url) = &config.cluster.url else {
        return;
    };
    let info = match RedisClient::new(RedisOptions::new(url.expose())) {
        Ok(redis) => redis.check().await,
        Err(error) => Err(error),
    };
    let info = match info {
        Ok(info) => info,
        Err(error) => return report.fail(SUBJECT, error.to_string(), remedy_of(&error)),
    };
    if !info.keeps_everything() {
        return report.fail(
            SUBJECT,
            format!(
                "Redis drops streams when it is full: its maxmemory-policy is {}",
                info.eviction_policy
            ),
            "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in redis.conf.",
        );
    }
    report.fine(SUBJECT, format!("Redis {} answers", info.version));
    if info.max_memory > 0 && info.used_memory > info.max_memory / 10 * 9 {
        report.warn(
            SUBJECT,
            "Redis is full by more than nine tenths",
            "Raise its maxmemory, or lower streams.retain_responses.",
        );
    }
}

fn remedy_of(error: &RedisError) -> &'static str {
    match error {
        RedisError::Address => "Correct cluster.url.",
        RedisError::Credentials => "Correct the user and the password in cluster.url.",
        RedisError::Forbidden(_) => "Give the user its rights: see store/REDIS.md.",
        RedisError::TooOld { .. } => "Install Redis 6.2 or later.",
        RedisError::Full => "Raise the maxmemory of Redis.",
        RedisError::NotReady(_) => "Wait until it has loaded, and use the address of the primary.",
        _ => "Start Redis, or correct the host and port of cluster.url; rediss:// is for TLS.",
    }
}
