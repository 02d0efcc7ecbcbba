//! The gateway: configuration, command line, the HTTP API, and what holds them together.

pub mod banner;
pub mod cli;
pub mod config;
mod health_check;
pub mod http;
pub mod metrics;
pub mod serve;
pub mod service;
pub mod telemetry;
