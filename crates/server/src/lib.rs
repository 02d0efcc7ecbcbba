//! The gateway: configuration, command line, HTTP API, and the server that runs them.

mod admission;
mod allocator;
pub mod banner;
pub mod cli;
pub mod commands;
pub mod config;
mod descriptors;
mod drain;
mod health_check;
pub mod hosts;
pub mod http;
pub mod listeners;
pub mod metrics;
pub mod model_list;
pub mod neighbours;
pub mod origins;
mod sealing;
pub mod serve;
mod serve_error;
mod servers;
pub mod service;
mod service_manager;
mod storage;
mod takeover;
pub mod telemetry;
mod time_limit;
pub mod upstreams;
