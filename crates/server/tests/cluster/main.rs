//! Several gateways on one Redis.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a failed precondition fails the test, and a figure or a skipped test is reported"
)]

#[path = "../support/mod.rs"]
mod support;

mod claims;
mod clients;
mod faults;
mod forwarding;
mod kill;
mod loss;
mod redis;
mod restart;
