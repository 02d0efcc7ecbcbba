//! What operators see of the gateway beside its metrics: log lines, and traces and metrics over OTLP.
//! Message contents and secrets are never in them.
//!
//! ```text
//!   request ──▶ Tracer ──▶ server span ─┐
//!                 │                     ├─▶ SpanQueue ──▶ Exporter ──POST──▶ collector
//!   generation ───┴─▶ its span, and one │   (bounded)     (one task)
//!                     per attempt ──────┘
//! ```
//!
//! A span is encoded once, at its end. A token costs nothing. A request never waits for a collector:
//! spans beyond the bounds of the queue are dropped and counted.

mod encode;
mod exporter;
mod gen_ai;
mod log_format;
mod logging;
mod open_metrics;
mod points;
mod protobuf;
mod span_queue;
mod tracer;

pub(crate) use exporter::Exporter;
pub(crate) use gen_ai::Server;
pub(crate) use logging::set_filter;
pub use logging::{LogGuard, dropped_lines, start};
pub use span_queue::ExportCounts;
pub use tracer::Telemetry;
pub(crate) use tracer::Tracer;
