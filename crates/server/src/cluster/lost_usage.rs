//! Settles what lost nodes were writing.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokenwire_core::engine::SharedEngine;
use tokenwire_core::model::id::{GenerationId, Tag};
use tokenwire_core::model::usage::TokenUsage;
use tokio::time::{MissedTickBehavior, interval};

use super::Cluster;
use crate::limits::Limits;

/// How often lost nodes are looked for.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long one node has for what a lost one left. Then another one tries.
const CLAIM_MS: u64 = 10_000;

impl Cluster {
    /// Settles answers whose nodes are lost: by the usage that the upstream had reported, else by an
    /// estimate. Never returns.
    pub(crate) async fn settle_lost(self: Arc<Self>, engine: SharedEngine, limits: Arc<Limits>) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.may_adopt() {
                continue;
            }
            for name in limits.other_nodes().await {
                let Ok(tag) = name.parse::<Tag>() else {
                    continue;
                };
                if self.is_lost(&tag).await && self.claims_usage(&tag).await {
                    self.settle_after(&tag, &engine, &limits).await;
                }
            }
        }
    }

    /// Whether this node settles what that one left.
    async fn claims_usage(&self, tag: &Tag) -> bool {
        let claim = cmd("SET")
            .arg(self.redis.key(format_args!("sweep:usage:{tag}")))
            .arg(self.tag.as_str())
            .arg("NX")
            .arg("PX")
            .arg(CLAIM_MS)
            .to_owned();
        let claimed = self.redis.query::<Option<String>>(claim).await;
        claimed.is_ok_and(|claimed| claimed.is_some())
    }

    async fn settle_after(&self, tag: &Tag, engine: &SharedEngine, limits: &Limits) {
        let mut rest = 0;
        for lost in limits.left_by(tag.as_str()).await {
            let found = match lost.id.parse::<GenerationId>() {
                Ok(id) => match engine.adopt_replica(&id).await {
                    // Its upstream goes on with it.
                    Ok(found) if !found.is_over() => {
                        rest += 1;
                        continue;
                    }
                    Ok(found) => Some(found),
                    Err(error) if error.is_retryable() => {
                        rest += 1;
                        continue;
                    }
                    // It was not copied.
                    Err(_) => None,
                },
                Err(_) => None,
            };
            let (usage, output) = found.map_or((None, 0), |generation| {
                let outcome = generation.outcome();
                let usage = outcome.and_then(|known| TokenUsage::parse(known.usage.as_deref()?));
                (usage, generation.estimated_tokens())
            });
            limits.settle_lost(&lost, usage, output);
        }
        if rest == 0 {
            limits.forget_node(tag.as_str()).await;
        }
    }
}
