//! The data types of a stream: ids, events, records, the response object, errors, JSON.
//!
//! Modules of this folder do no I/O and import no other folder.

pub mod account;
pub mod error;
pub mod event;
pub mod folded_json;
pub mod gauge;
pub mod id;
pub mod include;
pub(crate) mod json;
pub mod log_scope;
pub(crate) mod output;
pub mod pieces;
pub mod random;
pub mod record;
pub(crate) mod relayed_items;
pub mod secret;
pub(crate) mod shared_list;
pub mod snapshot;
pub(crate) mod text;
pub mod text_place;
pub mod time;
pub mod trace;
pub mod usage;
