//! The gateway: configuration, command line and what the two say to the person who starts it.

pub mod banner;
pub mod cli;
pub mod config;
