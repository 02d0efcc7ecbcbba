//! Stores for the logs of Tokenwire that outlive their process.
//!
//! [`DiskStore`] keeps logs in a folder on a local disk. It needs no server. With the feature `redis`
//! `redis::RedisStore` keeps them in Redis, where several nodes share them.
//!
//! ```text
//!   <path>/<tag>/            a folder for each start of the process; its lock is the lease
//!     lock                   flock: the kernel frees it when the process ends, also by kill -9
//!     journal-000001 …       running logs: blocks of all of them, in the order of the ticks
//!     logs-000002 …          ended logs, each in one piece
//!     objects-000003 …       response objects of requests with `store: true`
//!     deleted-000004 …       ids of deleted logs
//!     entries-000005 …       small records
//! ```
//!
//! * **One thread writes**, another one syncs, and a few read. No task waits for the disk on a
//!   worker: it waits for their answer. A read waits for neither a write nor a sync.
//! * **Journal.** A tick's blocks are one write. `kill -9` takes nothing of what was written, since
//!   the kernel has it. A loss of power takes what was written since the last sync.
//! * **Kept files.** A log that ends is written again in one piece, with its response object beside
//!   it. These files are rotated by size and time, and removed whole. Journal files are removed once
//!   no running log needs them. Logs that run for long are written again at the end of the journal.
//! * **Recovery.** A start takes the folders whose lock is free and uses their kept files where they
//!   are. Logs that ran are [unfinished](DiskStore::unfinished) and can be adopted. A frame that is
//!   damaged ends its own log only. A folder of another version is left alone.
//! * **Versions.** Each process announces which versions of logs it reads. A log is written in the
//!   lowest one that all of them read. Logs of later versions are left alone.
//! * **Time.** A process counts the time since its start, so a clock that is set changes nothing.
//!   Files that are dated in the future have just been written.
//! * **Failures.** A disk that is full, read-only or hangs is an error of each operation, or none at
//!   all. What a write left behind is cut off. The engine keeps its records and tries again.
//!
//! Files have mode 0600 and folders 0700. Contents are stored as they are, without encryption.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//!
//! use tokenwire_core::engine::Engine;
//! use tokenwire_store::{DiskOptions, DiskStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path();
//! let store = Arc::new(DiskStore::open(DiskOptions::new(path))?);
//! let engine = Engine::builder().store(store.clone()).build();
//! // What ran when the last process ended is ended now.
//! for id in store.unfinished() {
//!     engine.adopt(&id).await?;
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod command;
mod disk_store;
mod entry_body;
mod folder;
mod frame;
mod health;
mod index;
mod inline;
mod listing;
mod neighbours;
mod options;
mod output;
mod queue;
mod reader;
mod recovery;
#[cfg(feature = "redis")]
pub mod redis;
mod removal;
mod shared;
mod store_file;
mod syncer;
mod writer;

pub use disk_store::{DiskStore, OpenError};
pub use health::{StoreState, StoreStatus};
pub use neighbours::{Neighbour, Neighbours};
pub use options::DiskOptions;
