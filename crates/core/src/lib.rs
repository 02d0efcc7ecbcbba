//! x

pub mod decode;
pub mod dialect;
pub mod engine;
pub mod error;
pub mod event;
pub mod generation;
pub mod id;
mod json;
pub mod log;
pub mod record;
pub mod request;
pub mod snapshot;
pub mod translate;
pub mod upstream;
