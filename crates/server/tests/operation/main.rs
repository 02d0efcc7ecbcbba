//! What an operator meets: the configuration, the disk, restarts, metrics and the files in `deploy`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a failed precondition fails the test, and a figure or a skipped test is reported"
)]

#[path = "../support/mod.rs"]
mod support;

mod config;
mod crashes;
mod deployment;
mod disk_faults;
mod doctor;
mod draining;
mod metrics;
mod reload;
mod restart;
mod rolling_restart;
mod takeover;
