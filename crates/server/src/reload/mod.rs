//! Reads the configuration again while the gateway serves.
//!
//! ```text
//!   SIGHUP, changed file, POST /admin/reload ──▶ Reloader ──▶ Shared ──▶ WorkerService, at the next request
//! ```
//!
//! The new configuration is read and checked like at the start. With one problem nothing changes. Keys
//! that need a restart keep their values and are named ([`Applies`](crate::config::Applies) has the
//! table). Everything else is put into a new `Shared`, from which each worker builds its state before
//! its next request. A request, a stream and a WebSocket keep the state that they started with.

mod difference;
mod reloader;
mod source;
mod watch;
mod worker;

pub use reloader::{Outcome, ReloadError, Reloader};
pub use source::ConfigSource;
pub(crate) use watch::watch;
pub use worker::WorkerService;
