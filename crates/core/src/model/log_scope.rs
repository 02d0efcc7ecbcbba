//! What the log lines of a task are about. A subscriber asks for it while it writes a line.

use std::cell::OnceCell;
use std::sync::Arc;

use super::id::GenerationId;
use super::trace::{TraceContext, TraceId};

tokio::task_local! {
    static SCOPE: Option<LogScope>;
}

/// The request and the generation that a task works on.
#[derive(Clone, Debug)]
pub struct LogScope {
    /// The id of the client's request.
    pub request: Arc<str>,
    /// Its trace.
    pub trace: TraceId,
    /// The generation, once there is one.
    generation: OnceCell<GenerationId>,
}

// === impl LogScope ===

impl LogScope {
    /// The scope of this span.
    #[must_use]
    pub fn of(span: &TraceContext) -> Self {
        Self {
            request: span.request.clone(),
            trace: span.trace,
            generation: span
                .generation
                .clone()
                .map_or_else(OnceCell::new, OnceCell::from),
        }
    }

    /// Returns the generation, once there is one.
    #[must_use]
    pub fn generation(&self) -> Option<&GenerationId> {
        self.generation.get()
    }

    /// Runs a future in this scope, or outside of any. Costs some instructions at each poll.
    pub fn run<F: Future>(scope: Option<Self>, future: F) -> impl Future<Output = F::Output> {
        SCOPE.scope(scope, future)
    }

    /// Calls `f` with the scope of this task. Returns `None` outside of any.
    pub fn with_current<R>(f: impl FnOnce(&Self) -> R) -> Option<R> {
        SCOPE.try_with(|scope| scope.as_ref().map(f)).ok().flatten()
    }

    /// Notes the generation of this task's request. The first one stays.
    pub fn note_generation(generation: &GenerationId) {
        Self::with_current(|scope| scope.generation.set(generation.clone()).is_ok());
    }
}
