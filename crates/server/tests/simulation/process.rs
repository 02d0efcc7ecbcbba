//! One process of a node: the gateway's engine, cluster and webhooks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokenwire::cluster::{Cluster, ClusterDeliveries, ClusterOptions, ClusterSource};
use tokenwire_core::engine::{Engine, Retention};
use tokenwire_core::log::LogLimits;
use tokenwire_core::model::id::{Tag, TaggedIds};
use tokenwire_peer::{Secret, answer_node};
use tokenwire_store::redis::{RedisClient, RedisOptions, RedisRetention};
use tokenwire_testkit::simulation::SimulatedUpstream;
use tokenwire_webhooks::{WebhookOptions, Webhooks};
use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::called_by::CalledBy;
use crate::health::Health;
use crate::network::{NodeNetwork, address};
use crate::post::Receiver;
use crate::redis_link::RedisLink;
use crate::world::World;

/// What the nodes recognise each other by.
const SECRET: &[u8] = b"a secret that all nodes have in their configuration";
/// The pause before a process asks again whether it is known.
const JOINING: Duration = Duration::from_millis(100);
/// Logs and objects outlast every simulation.
const KEPT: Duration = Duration::from_secs(60 * 60);

/// See the documentation of the module.
pub(crate) struct Process {
    /// Counts the processes of all nodes.
    pub(crate) number: usize,
    pub(crate) engine: Engine,
    pub(crate) handle: Handle,
    /// Whether it serves clients.
    serves: AtomicBool,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

impl Process {
    /// Starts a process of a node, on the current runtime.
    pub(crate) fn start(world: &Arc<World>, node: usize) -> Arc<Self> {
        let tag = Tag::random();
        let number = {
            let mut health = world.health.lock();
            health.push(Health::new(node, tag.as_str()));
            health.len() - 1
        };
        world.note(format_args!(
            "process {number} starts at node {node} as {tag}"
        ));
        let secret = Secret::new(SECRET);
        let link = Arc::new(RedisLink {
            world: world.clone(),
            process: number,
        });
        let cluster = Arc::new(Cluster::new(ClusterOptions {
            tag: tag.clone(),
            name: format!("node {node}"),
            secret: secret.clone(),
            redis: RedisClient::over(link, RedisOptions::new("redis://simulated")),
            network: Arc::new(NodeNetwork {
                node,
                cables: world.cables.clone(),
            }),
            retention: RedisRetention {
                logs: KEPT,
                objects: KEPT,
                ..RedisRetention::default()
            },
            replicated: world.plan.replicated,
        }));
        let shared = Engine::builder()
            .retention(Retention {
                events: KEPT,
                responses: KEPT,
                max_memory: 1 << 26,
                max_open: 1 << 10,
            })
            .log_limits(LogLimits {
                bytes: 1 << 20,
                events: 1 << 16,
            })
            .disconnect_grace(world.plan.grace)
            .source(Arc::new(ClusterSource::new(cluster.clone(), None)))
            .replica(cluster.replica())
            .ids(Arc::new(TaggedIds(tag.clone())))
            .build();
        let receiver = Arc::new(Receiver(world.clone()));
        let webhooks = Webhooks::over(&WebhookOptions::default(), receiver);
        let webhooks = webhooks.expect("webhooks without settings");
        let deliveries = Arc::new(ClusterDeliveries::new(cluster.clone(), None));
        assert!(
            webhooks.keep_in(deliveries).is_empty(),
            "a new process owes nothing"
        );
        let upstream = SimulatedUpstream(Arc::new(CalledBy {
            world: world.clone(),
            process: number,
        }));
        let engine = shared.engine(Arc::new(upstream));
        let this = Arc::new(Self {
            number,
            engine: engine.with_end_notifier(Arc::new(webhooks.clone())),
            handle: Handle::current(),
            serves: AtomicBool::new(false),
        });
        let (cables, mut arrived) = (world.cables.clone(), world.cables.listen(node));
        let engine = shared.clone();
        tokio::spawn(async move {
            while let Some((from, stream)) = arrived.recv().await {
                let (tag, secret, engine) = (tag.clone(), secret.clone(), engine.clone());
                let answering = tokio::spawn(async move {
                    let _ = answer_node(stream, &tag, &secret, &engine).await;
                });
                cables.connected(from, node, answering.abort_handle());
            }
        });
        tokio::spawn(webhooks.clone().run());
        cluster.announce(address(node));
        let process = this.clone();
        tokio::spawn(async move {
            // A load balancer waits for it as well: no other node finds its streams before.
            while !cluster.status().connected {
                cluster.renew().await;
                sleep(JOINING).await;
            }
            process.serves.store(true, Ordering::Relaxed);
            drop(process);
            let sweep = cluster.clone().sweep(shared.clone(), webhooks);
            tokio::join!(cluster.run(&shared), cluster.keep_deliveries(), sweep);
        });
        this
    }

    pub(crate) fn serves(&self) -> bool {
        self.serves.load(Ordering::Relaxed)
    }
}
