//! OTLP messages, version 1: `opentelemetry/proto/{common,resource,trace}/v1`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokenwire_core::model::trace::TraceContext;

use super::protobuf::Message;

/// The semantic conventions that names of spans, metrics and attributes follow.
pub(super) const SCHEMA: &str = "https://opentelemetry.io/schemas/1.37.0";

/// Longest text of an attribute in bytes.
const MAX_TEXT: usize = 256;

/// Kinds of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Server = 2,
    Client = 3,
}

/// The status of a span with an error.
const STATUS_ERROR: u64 = 2;

/// The parent of a span is known to be remote, or not.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// A span that has ended, while it is encoded.
pub(super) struct SpanMessage {
    message: Message,
    started: SystemTime,
}

// === impl SpanMessage ===

impl SpanMessage {
    /// Begins a span with its ids and times.
    pub(super) fn new(
        context: &TraceContext,
        kind: Kind,
        name: &str,
        started: SystemTime,
        duration: Duration,
    ) -> Self {
        let mut message = Message::default();
        message.bytes(1, context.trace.as_bytes());
        message.bytes(2, context.span.as_bytes());
        if let Some(state) = &context.state {
            message.bytes(3, state.as_bytes());
        }
        if let Some(parent) = &context.parent {
            message.bytes(4, parent.as_bytes());
        }
        message.bytes(5, cut(name).as_bytes());
        message.varint(6, kind as u64);
        message.fixed64(7, nanoseconds(started));
        message.fixed64(8, nanoseconds(started + duration));
        let remote = match kind {
            Kind::Server if context.parent.is_some() => IS_REMOTE,
            _ => 0,
        };
        let flags = u32::from(context.sampled) | HAS_IS_REMOTE | remote;
        message.fixed32(16, flags);
        Self { message, started }
    }

    pub(super) fn text(&mut self, key: &str, value: &str) {
        text_attribute(&mut self.message, 9, key, value);
    }

    pub(super) fn number(&mut self, key: &str, value: u64) {
        number_attribute(&mut self.message, 9, key, value);
    }

    /// Adds an event at this time after the start.
    pub(super) fn event(&mut self, name: &str, after: Duration) {
        let time = nanoseconds(self.started + after);
        self.message.nested(11, |event| {
            event.fixed64(1, time);
            event.bytes(2, name.as_bytes());
        });
    }

    /// Notes an error of this type: a code of a bounded set, or a status.
    pub(super) fn error(&mut self, kind: &str) {
        self.text("error.type", kind);
        self.message.nested(15, |status| {
            status.varint(3, STATUS_ERROR);
        });
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.message.into_bytes()
    }
}

/// Writes an attribute with a text into the repeated field `field`.
pub(super) fn text_attribute(message: &mut Message, field: u32, key: &str, value: &str) {
    message.nested(field, |attribute| {
        attribute.bytes(1, key.as_bytes());
        attribute.nested(2, |any| any.text(1, cut(value)));
    });
}

/// Writes an attribute with a number into the repeated field `field`.
pub(super) fn number_attribute(message: &mut Message, field: u32, key: &str, value: u64) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    message.nested(field, |attribute| {
        attribute.bytes(1, key.as_bytes());
        attribute.nested(2, |any| any.int(3, value));
    });
}

/// Returns what a process says of itself: `Resource`.
pub(super) fn resource(service: &str, instance: &str) -> Message {
    let mut resource = Message::default();
    for (key, value) in [
        ("service.name", service),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
        ("telemetry.sdk.name", "tokenwire"),
        ("telemetry.sdk.language", "rust"),
        ("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
    ] {
        text_attribute(&mut resource, 1, key, value);
    }
    resource
}

/// Returns the body of an export. Exports of traces and of metrics differ in `items` only, which
/// are messages of the field 2 of their scope.
pub(super) fn export<'a>(resource: &Message, items: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut scoped = Message::default();
    scoped.nested(1, |scope| {
        scope.bytes(1, b"tokenwire");
        scope.bytes(2, env!("CARGO_PKG_VERSION").as_bytes());
    });
    items.for_each(|item| scoped.bytes(2, item));
    scoped.bytes(3, SCHEMA.as_bytes());
    let mut request = Message::default();
    request.nested(1, |resourced| {
        resourced.message(1, resource);
        resourced.message(2, &scoped);
        resourced.bytes(3, SCHEMA.as_bytes());
    });
    request.into_bytes()
}

/// Returns the nanoseconds since 1970.
pub(super) fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Cuts a text to its largest length, between two characters.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT))
        .unwrap_or(text)
}
