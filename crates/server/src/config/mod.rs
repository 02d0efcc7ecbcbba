//! The configuration of the gateway: flags, environment, file and defaults, in that order of
//! precedence.
//!
//! [`Config`] is a typed tree in which every key has a default. [`Config::load`] lays the sources
//! over each other and reports everything that is wrong at once, each problem with its source, key,
//! value, what was expected and what to do. It is given the environment and never reads the
//! process's own, so that tests need no globals.
//!
//! How it is cut: [`schema`] says what can be configured, [`units`] and [`models`] how it is
//! written, `file` and `environment` read the sources into neutral trees, `load` merges them (the
//! only module that knows figment), `check` refuses what parses but cannot work, `print` shows the
//! result without its secrets.

mod check;
mod environment;
mod file;
mod load;
pub mod models;
mod print;
mod problem;
pub mod schema;
pub mod secret;
pub mod units;
mod upstream;

pub use environment::{CONFIG_FILE, PREFIX, of_this_process};
pub use file::DEFAULT_PATH;
pub use load::Loaded;
pub use problem::{ConfigError, Problem};
pub use schema::Config;
