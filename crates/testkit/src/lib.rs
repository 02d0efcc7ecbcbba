//! What the tests of several crates share, so that each promise is written down once.
//!
//! * [`log_conformance`]: what every [`TokenLog`](tokenwire_core::log::TokenLog) must do. A store
//!   takes the whole suite with one macro call.
//! * [`ScriptedUpstream`]: a model that says exactly what the test says, when the test says so,
//!   down to where its bytes are cut.
//! * [`TestEngine`], [`Reader`] and [`JsonLines`]: an engine over such an upstream, readers that
//!   collect what they are given, and the plainest framing there is.
//! * [`chaos`]: a TCP proxy that cuts, stalls and splits by a plan.
//!
//! Nothing here waits for wall-clock time. Under tokio's paused clock [`settle`] runs every task
//! until all of them wait; everything else waits for an event. A test that waits for something that
//! never comes is ended by the test runner.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed expectation has to fail the test that called"
)]

pub mod chaos;
pub mod log_conformance;

mod audit;
mod engine;
mod framing;
mod reader;
mod upstream;

pub use audit::Audit;
pub use engine::{EngineOptions, TestEngine, no_clocks, settle};
pub use framing::{JsonLines, Line};
pub use reader::Reader;
pub use upstream::{Call, OpeningPlan, ScriptedUpstream};
