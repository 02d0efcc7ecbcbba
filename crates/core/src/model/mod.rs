//! The vocabulary of a stream: ids, events, records, the response object, errors, JSON.
//!
//! Everything here is plain data. No module of this folder does I/O or knows another folder.

pub mod error;
pub mod event;
pub mod gauge;
pub mod id;
pub(crate) mod json;
pub mod record;
pub mod snapshot;
