//! Test support that several crates share.
//!
//! * [`log_conformance`](mod@log_conformance): the suite of the [log](tokenwire_core::log::LogTail). One macro
//!   call runs it for an implementation.
//! * [`store_conformance`](mod@store_conformance): the same for every
//!   [`LogStore`](tokenwire_core::log::LogStore).
//! * [`simulation`]: engine, store, readers, faults and crashes from a seed.
//! * [`FaultyStore`]: a store that is slow, hangs, fails, lies and repeats by a plan or a seed.
//! * `FaultyDisk` (feature `disk`): a mounted disk that hangs, is slow, is full, fails and loses power.
//! * [`ScriptedUpstream`]: an upstream that sends the bytes that the test says, when the test says
//!   so.
//! * [`TestEngine`], [`Reader`] and [`JsonLines`]: an engine over such an upstream, readers that
//!   collect frames, and a minimal framing.
//! * [`Audit`]: checks that hold for every generation that has ended.
//! * [`RedisServer`]: a real Redis as a child process.
//! * `SimulatedRedis` (feature `redis`): a Redis in memory, whose time a simulation gives.
//! * [`free_port`]: a port for a server that a test starts, which no other test gets.
//! * [`chaos`]: a TCP proxy that cuts, stalls and splits by a plan.
//!
//! Nothing here waits for wall-clock time. Under tokio's paused clock [`settle`] runs every task
//! until all of them wait; everything else waits for an event. The test runner ends a test whose
//! event never comes.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed expectation fails the calling test"
)]

pub mod chaos;
#[cfg(all(feature = "disk", target_os = "linux"))]
pub mod disk;
pub mod log_conformance;
#[cfg(feature = "redis")]
pub mod simulated_redis;
pub mod simulation;
pub mod store_conformance;

mod audit;
mod engine;
mod faulty_store;
mod framing;
mod ports;
mod reader;
mod redis_cluster;
mod redis_server;
mod upstream;

pub use audit::Audit;
pub use engine::{EngineOptions, TestEngine, no_timeouts, scripted_target, settle};
pub use faulty_store::{Fault, FaultyStore, Operation};
pub use framing::{JsonLines, Line};
pub use ports::free_port;
pub use reader::Reader;
pub use redis_cluster::{RedisCluster, WatchedRedis};
pub use redis_server::RedisServer;
pub use upstream::{Call, OpeningPlan, ScriptedUpstream};
