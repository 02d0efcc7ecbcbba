//! The configuration of the gateway: flags, environment, file and defaults, in that order of
//! precedence.
//!
//! [`Config`] is a typed tree in which every key has a default. [`Config::load`] merges the sources
//! and reports all problems at once, each with its source, key, value, expectation and remedy. It
//! takes the environment as an argument, so that tests need no globals.
//!
//! [`schema`] defines the keys, [`units`] and [`models`] the syntax of values. `file` and
//! `environment` read the sources into neutral trees. `load` merges them, and is the only module
//! that uses figment. `check` refuses values that parse but cannot work. `print` writes the result
//! without its secrets.

mod address_check;
pub mod address_range;
mod applies;
pub mod auth;
mod chat;
mod check;
pub mod client_limits;
mod cluster;
mod environment;
mod file;
mod finding;
pub mod jwt_issuer;
mod key_problem;
mod limits_check;
mod load;
pub mod models;
pub mod money;
mod print;
mod problem;
mod role;
pub mod schema;
pub mod secret;
pub mod telemetry;
pub mod timeouts;
pub mod units;
mod upstream;
pub mod watch;
mod watch_check;

pub use applies::{Applies, SETTINGS};
pub use environment::{CONFIG_FILE, PREFIX, of_this_process};
pub use file::DEFAULT_PATH;
pub(crate) use file::parse as parse_yaml;
pub use load::Loaded;
pub use problem::{ConfigError, Problem};
pub use schema::Config;
