//! Meters: what a client may start, and what it has used.
//!
//! A meter is asked once for each generation, before its upstream is, and is told of its start and of
//! its end, never of a token. A long answer is reserved in steps ([`OutputMeter`]). A request that
//! attaches to a generation of an earlier one is not metered.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::generation_end::GenerationEnd;
use crate::generation::{Generation, OutputMeter};
use crate::model::error::ApiError;

/// What is known of a generation before it starts.
#[derive(Clone, Copy, Debug)]
pub struct MeteredStart<'a> {
    /// The client's name for the model.
    pub model: &'a str,
    /// The body that goes upstream, earlier turns included; empty if no upstream is asked.
    pub body: &'a [u8],
    /// The number of choices; 0 if no upstream is asked.
    pub choices: u32,
    /// The most output tokens of one choice, if the request says so.
    pub max_output: Option<u64>,
}

/// The result of an admission.
pub type Admitted = Result<Arc<dyn Metered>, ApiError>;

/// An admission that is decided, or that another process decides.
pub enum Admission {
    /// It is decided.
    Now(Admitted),
    /// It is being decided.
    Later(BoxFuture<'static, Admitted>),
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(admitted) => f.debug_tuple("Now").field(admitted).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// Admits what one client starts. Called on the worker that starts it; it must not block.
pub trait Meter: Send + Sync + fmt::Debug {
    /// Whether the upstream is asked to report its usage although the client does not ask for it.
    fn needs_usage(&self) -> bool {
        false
    }

    /// Admits a generation, or refuses the request with an error.
    fn admit(&self, start: &MeteredStart<'_>) -> Admission;
}

/// One admitted generation. Dropped unused if the request starts none.
pub trait Metered: OutputMeter {
    /// The generation was started.
    fn started(&self, generation: &Arc<Generation>);

    /// An upstream answered without a generation ([`Engine::relay`](super::Engine::relay)), or may
    /// have worked on it. `usage` is raw JSON in the Responses shape, if it was reported. Does
    /// nothing by default.
    fn relayed(&self, usage: Option<&str>) {
        let _ = usage;
    }

    /// The generation has ended. Called exactly once for each that was started.
    fn ended(&self, end: &GenerationEnd<'_>);
}

// === impl Admission ===

impl Admission {
    /// Waits for the decision.
    ///
    /// # Errors
    /// Why the client may not start the generation now.
    pub(super) async fn decided(self) -> Admitted {
        match self {
            Self::Now(admitted) => admitted,
            Self::Later(admitted) => admitted.await,
        }
    }
}
