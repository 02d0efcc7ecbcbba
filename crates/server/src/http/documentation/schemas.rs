//! Schemas of bodies, events and WebSocket messages.

use serde_json::Value;
use tokenwire_core::model::error::ErrorCode;

/// A message or an event.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: &'static str,
    pub(super) about: &'static str,
}

/// The events of a stream in the responses dialect.
pub(super) const EVENTS: &[Message] = &[
    Message {
        kind: "response.created",
        about: "Always the first event. Carries `response`.",
    },
    Message {
        kind: "response.queued",
        about: "In the background, and while waiting for an upstream's permit.",
    },
    Message {
        kind: "response.in_progress",
        about: "The upstream started to answer. Carries `response`.",
    },
    Message {
        kind: "response.output_item.added",
        about: "A message, reasoning or function call starts.",
    },
    Message {
        kind: "response.content_part.added",
        about: "A part of a message starts.",
    },
    Message {
        kind: "response.output_text.delta",
        about: "A piece of text, in `delta`.",
    },
    Message {
        kind: "response.output_text.annotation.added",
        about: "A citation.",
    },
    Message {
        kind: "response.output_text.done",
        about: "The complete text of the part.",
    },
    Message {
        kind: "response.refusal.delta",
        about: "A piece of a refusal.",
    },
    Message {
        kind: "response.refusal.done",
        about: "The complete refusal.",
    },
    Message {
        kind: "response.reasoning_text.delta",
        about: "A piece of reasoning.",
    },
    Message {
        kind: "response.reasoning_text.done",
        about: "The complete reasoning.",
    },
    Message {
        kind: "response.function_call_arguments.delta",
        about: "A piece of the arguments of a call.",
    },
    Message {
        kind: "response.function_call_arguments.done",
        about: "The complete arguments.",
    },
    Message {
        kind: "response.custom_tool_call_input.delta",
        about: "A piece of the input of a custom tool call.",
    },
    Message {
        kind: "response.custom_tool_call_input.done",
        about: "The complete input of a custom tool call.",
    },
    Message {
        kind: "response.content_part.done",
        about: "The part is complete.",
    },
    Message {
        kind: "response.output_item.done",
        about: "The item is complete.",
    },
    Message {
        kind: "response.completed",
        about: "The terminal event of a complete answer. Carries `response`.",
    },
    Message {
        kind: "response.incomplete",
        about: "The terminal event of an answer that a length limit, a filter or a cancellation ended. Carries `response`.",
    },
    Message {
        kind: "response.failed",
        about: "The terminal event of a failed answer. `response.error` says why. The output so far is kept.",
    },
    Message {
        kind: "tokenwire:reset",
        about: "Replaces everything that the reader has with `response`. Its number is the new position. Always applies.",
    },
    Message {
        kind: "tokenwire:chunk",
        about: "A chunk of the upstream that causes no other event. Not sent on the SDK routes.",
    },
];

/// Messages that a client sends over a WebSocket.
pub(super) const COMMANDS: &[Message] = &[
    Message {
        kind: "response.create",
        about: "Starts an answer. Takes the body of `POST /v1/responses`, a `stream_id` (1 to 256 of `[A-Za-z0-9_.-]`) that names its lane, and an `idempotency_key`. Lanes run side by side, the answers of one lane in order.",
    },
    Message {
        kind: "tokenwire:resume",
        about: "Reads `response_id` after `starting_after`, or from the beginning, on the lane `stream_id`. A second one repositions.",
    },
    Message {
        kind: "tokenwire:cancel",
        about: "Stops the generation `response_id`.",
    },
    Message {
        kind: "tokenwire:unsubscribe",
        about: "Stops reading `response_id`.",
    },
    Message {
        kind: "tokenwire:watch",
        about: "Sends the events of `GET /v1/activity` beside those of the streams, after the event with the id `after` if it has that.",
    },
    Message {
        kind: "tokenwire:unwatch",
        about: "Sends them no longer.",
    },
    Message {
        kind: "tokenwire:ping",
        about: "Answered with `tokenwire:pong`. Browsers cannot send protocol pings.",
    },
    Message {
        kind: "tokenwire:auth",
        about: "Goes on with another `ticket` of the same owner, one for a WebSocket. Nothing answers it but an error.",
    },
];

/// Messages that the gateway sends over a WebSocket beside events.
pub(super) const REPLIES: &[Message] = &[
    Message {
        kind: "tokenwire:resumed",
        about: "Confirms a resume: `response_id`, `from`, `head` and `status`. The events follow.",
    },
    Message {
        kind: "tokenwire:tools_dropped",
        about: "The upstream of `response_id` cannot run the tools of the types in `tools`, so they were left out. Comes before the first event, only to a client of `tokenwire:` messages.",
    },
    Message {
        kind: "tokenwire:pong",
        about: "Answers a ping.",
    },
    Message {
        kind: "tokenwire:auth_expiring",
        about: "The socket's credential ends in `expires_in` seconds. Comes 25 s before, only to a client of `tokenwire:` messages.",
    },
    Message {
        kind: "tokenwire:stream.started",
        about: "And `tokenwire:stream.first_token`, `tokenwire:stream.ended`, `tokenwire:stream.matched`, `tokenwire:rates`, `tokenwire:upstream.changed`: after `tokenwire:watch`, as `GET /v1/activity` has them.",
    },
    Message {
        kind: "tokenwire:error",
        about: "A `tokenwire:` command failed: `status`, `error` and the `response_id` if it named one.",
    },
    Message {
        kind: "error",
        about: "A `response.create` started nothing: `status`, `error` and the lane's `stream_id`. Later failures are `response.failed`.",
    },
];

/// Returns the schemas by name, as JSON Schema. `schemas.json` has all but the lists of names that
/// the code knows.
pub(super) fn schemas() -> Value {
    // A literal of this size in `json!` is one function of 27,000 lines for the compiler.
    // The file is valid: a test reads it.
    let mut schemas: Value = serde_json::from_str(include_str!("schemas.json")).unwrap_or_default();
    let codes = ErrorCode::ALL.iter().map(|code| code.as_str());
    schemas["ErrorCode"]["enum"] = codes.collect();
    schemas["Event"]["properties"]["type"]["examples"] = kinds(EVENTS);
    schemas["Command"]["properties"]["type"]["enum"] = kinds(COMMANDS);
    schemas["Reply"]["properties"]["type"]["enum"] = kinds(REPLIES);
    schemas
}

fn kinds(messages: &[Message]) -> Value {
    messages.iter().map(|message| message.kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_of_the_file_is_there() {
        let schemas = schemas();
        assert_eq!(schemas["Response"]["type"], "object");
        assert_eq!(
            schemas["ErrorCode"]["enum"].as_array().unwrap().len(),
            ErrorCode::ALL.len()
        );
    }
}
