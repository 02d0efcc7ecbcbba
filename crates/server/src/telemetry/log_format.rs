//! Adds what a task works on to its log lines: the request, its trace, and the generation.
//!
//! Text gets them after the fields of the event, JSON as members of the object: `request_id`,
//! `trace_id` and `generation_id`.

use std::fmt::{self, Debug};

use tokenwire_core::model::log_scope::LogScope;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes the fields of a line of text.
#[derive(Debug, Default)]
pub(super) struct TextFields(DefaultFields);

/// Writes a line of JSON.
#[derive(Debug)]
pub(super) struct JsonLine<F>(pub(super) F);

/// Whether an event names its generation itself.
#[derive(Default)]
struct NamesGeneration(bool);

impl Visit for NamesGeneration {
    fn record_debug(&mut self, field: &Field, _: &dyn Debug) {
        self.0 |= field.name() == "generation";
    }
}

// === impl TextFields ===

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        let mut names = NamesGeneration::default();
        fields.record(&mut names);
        self.0.format_fields(writer.by_ref(), fields)?;
        LogScope::with_current(|scope| {
            if let Some(id) = scope.generation().filter(|_| !names.0) {
                write!(writer, " generation={id}")?;
            }
            write!(
                writer,
                " request_id={} trace_id={}",
                scope.request, scope.trace
            )
        })
        .unwrap_or(Ok(()))
    }
}

// === impl JsonLine ===

impl<S, N, F> FormatEvent<S, N> for JsonLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(scope) = LogScope::with_current(LogScope::clone) else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0
            .format_event(context, Writer::new(&mut line), event)?;
        let open = line.trim_end().strip_suffix('}').unwrap_or(&line);
        // Ids need no escapes: letters, digits and `_`.
        write!(
            writer,
            r#"{open},"request_id":"{}","trace_id":"{}""#,
            scope.request, scope.trace
        )?;
        if let Some(id) = scope.generation() {
            write!(writer, r#","generation_id":"{id}""#)?;
        }
        writer.write_str("}\n")
    }
}
