//! Schemas of bodies, events and WebSocket messages.

use serde_json::{Value, json};
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
        kind: "tokenwire:ping",
        about: "Answered with `tokenwire:pong`. Browsers cannot send protocol pings.",
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
        kind: "tokenwire:error",
        about: "A `tokenwire:` command failed: `status`, `error` and the `response_id` if it named one.",
    },
    Message {
        kind: "error",
        about: "A `response.create` started nothing: `status`, `error` and the lane's `stream_id`. Later failures are `response.failed`.",
    },
];

/// Returns the schemas by name, as JSON Schema.
pub(super) fn schemas() -> Value {
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    let kinds = |messages: &[Message]| {
        messages
            .iter()
            .map(|message| message.kind)
            .collect::<Vec<_>>()
    };
    let text = || json!({"type": "string"});
    let object = || json!({"type": "object"});
    json!({
        "Anything": {},
        "Text": {"type": "string"},
        "Error": {
            "type": "object",
            "description": "Every error, in OpenAI's shape.",
            "required": ["error"],
            "properties": {"error": {"$ref": "#/components/schemas/ErrorObject"}},
        },
        "ErrorObject": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "For people."},
                "type": {"type": "string", "description": "The coarse class, such as `invalid_request_error`."},
                "param": {"type": ["string", "null"], "description": "The parameter at fault, such as `input[0].content`."},
                "code": {
                    "description": "One of the gateway's codes, or the upstream's own.",
                    "anyOf": [{"$ref": "#/components/schemas/ErrorCode"}, {"type": ["string", "null"]}],
                },
            },
        },
        "ErrorCode": {"type": "string", "enum": codes, "description": "The gateway's own codes. None is ever renamed."},
        "StreamRequest": {
            "description": "`messages` make it a chat request, `input` a responses request.",
            "anyOf": [{"$ref": "#/components/schemas/ResponsesRequest"}, {"$ref": "#/components/schemas/ChatRequest"}],
        },
        "ResponsesRequest": {
            "type": "object",
            "description": "OpenAI's `POST /responses`. What cannot be honoured is refused, never dropped.",
            "required": ["input"],
            "properties": {
                "input": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}], "description": "A text, or items."},
                "model": {"type": "string", "description": "Default: `default_model` of the configuration."},
                "instructions": text(),
                "stream": {"type": "boolean", "default": false, "description": "Whether to answer with events."},
                "background": {"type": "boolean", "default": false, "description": "Whether to answer at once and to run to the end without readers."},
                "store": {"type": "boolean", "default": true, "description": "Whether the object is kept longer than the events."},
                "webhook": {
                    "type": "object",
                    "description": "With `background: true`: the receiver of the end event.",
                    "required": ["url"],
                    "properties": {
                        "url": {"type": "string", "format": "uri", "maxLength": 2048, "description": "http or https, at a public address."},
                        "secret": {"type": "string", "description": "`whsec_` and the base64 of 24 to 64 bytes. Default: `webhooks.secret` of the configuration."},
                    },
                    "additionalProperties": false,
                },
                "previous_response_id": {"type": "string", "description": "The response that this one continues."},
                "idempotency_key": {"type": "string", "maxLength": 255, "description": "As the header `Idempotency-Key`."},
                "tools": {"type": "array", "items": {"type": "object"}, "description": "Functions; over a Responses upstream also its built-in tools."},
                "tool_choice": {"anyOf": [{"type": "string"}, {"type": "object"}]},
                "text": object(),
                "reasoning": object(),
                "temperature": {"type": "number", "minimum": 0, "maximum": 2},
                "top_p": {"type": "number", "minimum": 0, "maximum": 1},
                "max_output_tokens": {"type": "integer", "minimum": 1},
                "metadata": object(),
            },
            "additionalProperties": true,
        },
        "ChatRequest": {
            "type": "object",
            "description": "OpenAI's `POST /chat/completions`. A chat upstream gets all its members as they are.",
            "required": ["messages"],
            "properties": {
                "messages": {"type": "array", "minItems": 1, "items": {"type": "object"}},
                "model": {"type": "string", "description": "Default: `default_model` of the configuration."},
                "stream": {"type": "boolean", "default": false},
            },
            "additionalProperties": true,
        },
        "ChatCompletion": {"type": "object", "description": "OpenAI's `chat.completion`; from a chat upstream as it was sent."},
        "ChatChunk": {"type": "object", "description": "OpenAI's `chat.completion.chunk`; from a chat upstream as it was sent."},
        "Response": {
            "type": "object",
            "description": "OpenAI's response object, with every member that Open Responses requires.",
            "required": ["id", "object", "created_at", "status", "model", "output", "error", "incomplete_details", "usage"],
            "properties": {
                "id": {"type": "string", "pattern": "^resp_[A-Za-z0-9]+$"},
                "object": {"const": "response"},
                "created_at": {"type": "integer", "description": "Seconds since 1970."},
                "status": {"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]},
                "model": text(),
                "previous_response_id": {"type": ["string", "null"]},
                "output": {"type": "array", "items": {"type": "object"}, "description": "Messages, reasoning and function calls."},
                "error": {"type": ["object", "null"]},
                "incomplete_details": {"type": ["object", "null"]},
                "usage": {"type": ["object", "null"], "description": "`input_tokens`, `output_tokens`, `total_tokens` and their details."},
            },
            "additionalProperties": true,
        },
        "Event": {
            "type": "object",
            "description": "One numbered event. Apply it if its number is greater than the last one applied.",
            "required": ["type", "sequence_number"],
            "properties": {
                "type": {"type": "string", "examples": kinds(EVENTS)},
                "sequence_number": {"type": "integer", "minimum": 0, "description": "From 0, ascending. The terminal event may leave out two numbers, which chat readers see as those of the finish and usage chunks."},
                "stream_id": {"type": "string", "description": "The lane, on a WebSocket."},
                "delta": text(),
                "response": {"$ref": "#/components/schemas/Response"},
            },
            "additionalProperties": true,
        },
        "Command": {
            "type": "object",
            "description": "A message that a client sends over a WebSocket, as one text frame.",
            "required": ["type"],
            "properties": {
                "type": {"enum": kinds(COMMANDS)},
                "stream_id": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,256}$"},
                "response_id": text(),
                "starting_after": {"type": "integer", "minimum": 0},
            },
            "additionalProperties": true,
        },
        "Reply": {
            "type": "object",
            "description": "A message that the gateway sends over a WebSocket beside events.",
            "required": ["type"],
            "properties": {
                "type": {"enum": kinds(REPLIES)},
                "stream_id": text(),
                "response_id": text(),
                "status": {"type": ["string", "integer"]},
                "error": {"$ref": "#/components/schemas/ErrorObject"},
            },
            "additionalProperties": true,
        },
        "Deleted": {
            "type": "object",
            "required": ["id", "object", "deleted"],
            "properties": {"id": text(), "object": {"const": "response"}, "deleted": {"const": true}},
        },
        "UpstreamAnswer": {"type": "object", "description": "As the upstream sent it."},
        "InputItems": {
            "type": "object",
            "required": ["object", "data", "first_id", "last_id", "has_more"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"type": "object"}},
                "first_id": {"type": ["string", "null"]},
                "last_id": {"type": ["string", "null"]},
                "has_more": {"type": "boolean"},
            },
        },
        "WebhookDelivery": {
            "type": "object",
            "required": ["id", "object", "status", "type", "response_id", "host", "created_at", "attempts", "last_status", "last_error", "next_attempt_at", "reason"],
            "properties": {
                "id": {"type": "string", "pattern": "^evt_[A-Za-z0-9]+$", "description": "The event's id, which is the header `webhook-id`."},
                "object": {"const": "webhook.delivery"},
                "status": {"enum": ["pending", "delivered", "failed"]},
                "type": {"enum": ["response.completed", "response.incomplete", "response.failed", "response.cancelled"]},
                "response_id": text(),
                "host": {"type": "string", "description": "The host of the endpoint. The rest of its URL is not shown."},
                "created_at": {"type": "integer", "description": "When the response ended, in seconds since 1970."},
                "attempts": {"type": "integer", "minimum": 0},
                "last_status": {"type": ["integer", "null"], "description": "The last status of the endpoint."},
                "last_error": {"type": ["string", "null"], "description": "The error of the last attempt."},
                "next_attempt_at": {"type": ["integer", "null"], "description": "The time of the next attempt, in seconds since 1970."},
                "reason": {
                    "enum": ["exhausted", "gone", "disabled", "queue_full", "stopped", null],
                    "description": "Why it was given up: the retries are over, the endpoint answered 410, the endpoint had answered 410 before, too many deliveries were pending, the gateway stopped.",
                },
            },
        },
        "WebhookDeliveryList": {
            "type": "object",
            "required": ["object", "data", "first_id", "last_id", "has_more"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": {"$ref": "#/components/schemas/WebhookDelivery"}},
                "first_id": {"type": ["string", "null"]},
                "last_id": {"type": ["string", "null"]},
                "has_more": {"type": "boolean"},
            },
        },
        "Model": {
            "type": "object",
            "required": ["id", "object", "created", "owned_by"],
            "properties": {"id": text(), "object": text(), "created": {"type": "integer"}, "owned_by": text()},
            "additionalProperties": true,
        },
        "ModelList": {
            "type": "object",
            "required": ["object", "data"],
            "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}},
        },
        "Health": {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}},
        "Ready": {
            "type": "object",
            "required": ["status", "open_streams"],
            "properties": {"status": {"const": "ready"}, "open_streams": {"type": "integer", "minimum": 0}},
        },
    })
}
