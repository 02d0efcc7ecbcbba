//! Who may: keys, tickets, tokens of issuers, revocation, limits, and that no secret gets out.

#![allow(
    clippy::unwrap_used,
    reason = "a failed precondition fails the test, and a figure or a skipped test is reported"
)]

#[path = "../support/mod.rs"]
mod support;

mod credentials;
mod identities;
mod jwt;
mod limits;
mod limits_cluster;
mod revocation;
mod secrecy;
mod tickets;
