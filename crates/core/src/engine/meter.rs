//! Meters: what a client may start, and what it has used.
//!
//! A meter is asked once for each generation, before its upstream is, and is told of its start and of
//! its end, never of a token. A request that attaches to a generation of an earlier one is not
//! metered.

use std::fmt;
use std::sync::Arc;

use super::generation_end::GenerationEnd;
use crate::generation::Generation;
use crate::model::error::ApiError;

/// What is known of a generation before it starts.
#[derive(Clone, Copy, Debug)]
pub struct MeteredStart<'a> {
    /// The client's name for the model.
    pub model: &'a str,
    /// Bytes of the body that goes upstream, earlier turns included.
    pub body: usize,
    /// The number of choices.
    pub choices: u32,
}

/// Admits what one client starts. Called on the worker that starts it; it must not block.
pub trait Meter: Send + Sync + fmt::Debug {
    /// Admits a generation, or refuses the request with this error.
    ///
    /// # Errors
    /// Why the client may not start it now.
    fn admit(&self, start: &MeteredStart<'_>) -> Result<Box<dyn Metered>, ApiError>;
}

/// One admitted generation. Dropped unused if the request starts none.
pub trait Metered: Send + fmt::Debug {
    /// The generation was started.
    fn started(&mut self, generation: &Arc<Generation>);

    /// The generation has ended. Called exactly once for each that was started.
    fn ended(&mut self, end: &GenerationEnd<'_>);
}
