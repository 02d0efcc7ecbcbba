//! What can be asked, and what comes back: one entry a path and method.

use tokenwire_core::model::error::ErrorCode;

/// One path and method.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// Its name for generated clients.
    pub(super) id: &'static str,
    pub(super) group: Group,
    pub(super) summary: &'static str,
    pub(super) about: &'static str,
    pub(super) parameters: &'static [Parameter],
    /// The schema of the body, if there is one.
    pub(super) body: Option<&'static str>,
    pub(super) answers: &'static [Answer],
    /// The gateway's own errors that are likely here; an upstream's pass through besides.
    pub(super) errors: &'static [ErrorCode],
    /// A command that shows it; the gateway is `localhost:3000`.
    pub(super) example: &'static str,
}

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Streams,
    Responses,
    Chat,
    WebSocket,
    Webhooks,
    Models,
    Operation,
}

/// A part of the request beside its body.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) kind: Kind,
    pub(super) about: &'static str,
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Always required.
    Path,
    Query,
    /// A query parameter that must be there.
    RequiredQuery,
    Header,
}

/// A parameter's type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Text,
    Number,
    Switch,
    /// One of these, of which the first is the default.
    OneOf(&'static [&'static str]),
}

/// What comes back if all goes well.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) about: &'static str,
    /// Media type and schema.
    pub(super) content: &'static [(&'static str, &'static str)],
}

// === impl Group ===

impl Group {
    pub(super) const ALL: &[Self] = &[
        Self::Streams,
        Self::Responses,
        Self::Chat,
        Self::WebSocket,
        Self::Webhooks,
        Self::Models,
        Self::Operation,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Streams => "Streams",
            Self::Responses => "Responses",
            Self::Chat => "Chat completions",
            Self::WebSocket => "WebSocket",
            Self::Webhooks => "Webhooks",
            Self::Models => "Models",
            Self::Operation => "Operation",
        }
    }

    pub(super) const fn about(self) -> &'static str {
        match self {
            Self::Streams => {
                "Numbered events as a browser's EventSource reads them: it reconnects by itself and goes on at the next token."
            }
            Self::Responses => "OpenAI's Responses API, over chat and Responses upstreams alike.",
            Self::Chat => "OpenAI's chat completions: the upstream's own chunks, byte for byte.",
            Self::WebSocket => {
                "Many answers on one connection, each on a lane of its own. The messages are listed under “WebSocket messages”."
            }
            Self::Webhooks => {
                "Being told that a background response has ended: `webhook: {\"url\", \"secret\"}` in its request, or `webhooks.url` in the configuration. What is sent is Standard Webhooks, signed with HMAC-SHA256; OpenAI's SDKs check it with `client.webhooks.unwrap`. The body is `{\"id\":\"evt_…\",\"object\":\"event\",\"type\":\"response.completed\",\"created_at\":…,\"data\":{\"id\":\"resp_…\"}}`, the type also `response.incomplete`, `response.failed` or `response.cancelled`. Any 2xx is success; 410 disables the endpoint; everything else is tried again for a day, after random waits of up to 5 s, 10 s, 20 s, … 2 h, or what `Retry-After` asks for, up to an hour. The `webhook-id` is the same at every attempt: a receiver that has seen it has seen the event."
            }
            Self::Models => "What the upstreams offer.",
            Self::Operation => "For those who run the gateway.",
        }
    }
}

const ID: Parameter = Parameter {
    name: "id",
    place: Place::Path,
    kind: Kind::Text,
    about: "The response's id, `resp_…`.",
};
const LAST_EVENT_ID: Parameter = Parameter {
    name: "Last-Event-ID",
    place: Place::Header,
    kind: Kind::Text,
    about: "`<response id>.<number>` of the last event that was received. A request with it resumes that stream and never starts one.",
};
const IDEMPOTENCY_KEY: Parameter = Parameter {
    name: "Idempotency-Key",
    place: Place::Header,
    kind: Kind::Text,
    about: "Up to 255 bytes. The same key with the same body attaches to what the first request started; with another body it is refused.",
};
const CACHE_CONTROL: Parameter = Parameter {
    name: "Cache-Control",
    place: Place::Header,
    kind: Kind::Text,
    about: "Where answers are shared (`reuse` in the configuration): `no-cache` has the model asked, `no-store` keeps the answer from others besides. A browser's own `no-cache`, which comes with `Pragma: no-cache`, does not count. The answer's `Tokenwire-Cache` says `hit`, `miss`, `coalesced` or `bypass`.",
};
const DIALECT: Parameter = Parameter {
    name: "dialect",
    place: Place::Query,
    kind: Kind::OneOf(&["responses", "chat", "text"]),
    about: "Which JSON the events hold. The numbers are the same in each. `Accept: text/plain` asks for `text` as well.",
};

const STREAM: Answer = Answer {
    status: 200,
    about: "The stream; `Location` says where it can be read again.",
    content: &[("text/event-stream", "Event"), ("text/plain", "Text")],
};
const UPGRADE: Answer = Answer {
    status: 101,
    about: "The connection is a WebSocket from here on.",
    content: &[],
};

/// What may be wrong with a request that starts something, and why it may not be started now.
const START: &[ErrorCode] = &[
    ErrorCode::InvalidJson,
    ErrorCode::MissingParameter,
    ErrorCode::InvalidType,
    ErrorCode::InvalidValue,
    ErrorCode::UnsupportedParameter,
    ErrorCode::InvalidCursor,
    ErrorCode::OriginForbidden,
    ErrorCode::NotFound,
    ErrorCode::PositionGone,
    ErrorCode::BodyTooLarge,
    ErrorCode::UnsupportedMediaType,
    ErrorCode::IdempotencyMismatch,
    ErrorCode::Overloaded,
    ErrorCode::ShuttingDown,
    ErrorCode::UpstreamUnreachable,
    ErrorCode::UpstreamAuth,
    ErrorCode::UpstreamDisconnected,
    ErrorCode::ConnectTimeout,
    ErrorCode::FirstTokenTimeout,
];

/// Every operation, in the order of the page.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        method: "POST",
        path: "/v1/streams",
        id: "createStream",
        group: Group::Streams,
        summary: "Start an answer and read it",
        about: "The body is a responses request (`input`) or a chat request (`messages`), of any content type. The head leaves at once; what fails after it is an event.",
        parameters: &[DIALECT, IDEMPOTENCY_KEY, LAST_EVENT_ID, CACHE_CONTROL],
        body: Some("StreamRequest"),
        answers: &[
            STREAM,
            Answer {
                status: 204,
                about: "Resumed, and nothing is left: the end was seen.",
                content: &[],
            },
        ],
        errors: START,
        example: r#"curl -N localhost:3000/v1/streams -d '{"input":"hello"}' -H 'Accept: text/plain'"#,
    },
    Operation {
        method: "GET",
        path: "/v1/streams",
        id: "createStreamByQuery",
        group: Group::Streams,
        summary: "The same from a URL, for a bare EventSource",
        about: "`new EventSource(\"/v1/streams?input=hello&key=…\")`. With a `key`, a reconnect before the first event does not ask the model twice.",
        parameters: &[
            Parameter {
                name: "input",
                place: Place::RequiredQuery,
                kind: Kind::Text,
                about: "The question.",
            },
            Parameter {
                name: "model",
                place: Place::Query,
                kind: Kind::Text,
                about: "Default: `default_model` of the configuration.",
            },
            Parameter {
                name: "key",
                place: Place::Query,
                kind: Kind::Text,
                about: "As `Idempotency-Key`, which an EventSource cannot send.",
            },
            DIALECT,
            LAST_EVENT_ID,
            CACHE_CONTROL,
        ],
        body: None,
        answers: &[
            STREAM,
            Answer {
                status: 204,
                about: "Resumed, and nothing is left: an EventSource stays away.",
                content: &[],
            },
        ],
        errors: &[
            ErrorCode::MissingParameter,
            ErrorCode::InvalidValue,
            ErrorCode::InvalidCursor,
            ErrorCode::OriginForbidden,
            ErrorCode::NotFound,
            ErrorCode::IdempotencyMismatch,
            ErrorCode::Overloaded,
            ErrorCode::ShuttingDown,
        ],
        example: "curl -N 'localhost:3000/v1/streams?input=hello&key=my-first-question'",
    },
    Operation {
        method: "GET",
        path: "/v1/streams/{id}",
        id: "readStream",
        group: Group::Streams,
        summary: "Attach to a stream, or resume it",
        about: "From after `Last-Event-ID`, else from after `after`, else from the beginning; then live. Any number of readers may be attached. Where the events are not kept any more, a `tokenwire:reset` brings the whole object.",
        parameters: &[
            ID,
            Parameter {
                name: "after",
                place: Place::Query,
                kind: Kind::Number,
                about: "The number of the last event that is known.",
            },
            DIALECT,
            LAST_EVENT_ID,
        ],
        body: None,
        answers: &[
            STREAM,
            Answer {
                status: 204,
                about: "Nothing is left: the end was seen.",
                content: &[],
            },
        ],
        errors: &[
            ErrorCode::InvalidCursor,
            ErrorCode::InvalidValue,
            ErrorCode::NotFound,
            ErrorCode::PositionGone,
        ],
        example: "curl -N 'localhost:3000/v1/streams/resp_…?after=41'",
    },
    Operation {
        method: "POST",
        path: "/v1/responses",
        id: "createResponse",
        group: Group::Responses,
        summary: "Create a response",
        about: "Streamed with `stream: true`; answered at once and run to its end, whoever listens, with `background: true`; else answered when it is whole. `previous_response_id` continues a conversation.",
        parameters: &[IDEMPOTENCY_KEY, LAST_EVENT_ID, CACHE_CONTROL],
        body: Some("ResponsesRequest"),
        answers: &[Answer {
            status: 200,
            about: "The object, or its events.",
            content: &[
                ("application/json", "Response"),
                ("text/event-stream", "Event"),
            ],
        }],
        errors: &[
            ErrorCode::InvalidJson,
            ErrorCode::MissingParameter,
            ErrorCode::InvalidType,
            ErrorCode::InvalidValue,
            ErrorCode::UnsupportedParameter,
            ErrorCode::PreviousResponseUnusable,
            ErrorCode::OriginForbidden,
            ErrorCode::PreviousResponseNotFound,
            ErrorCode::BodyTooLarge,
            ErrorCode::UnsupportedMediaType,
            ErrorCode::IdempotencyMismatch,
            ErrorCode::Overloaded,
            ErrorCode::ShuttingDown,
            ErrorCode::UpstreamUnreachable,
            ErrorCode::UpstreamAuth,
            ErrorCode::UpstreamDisconnected,
            ErrorCode::ConnectTimeout,
            ErrorCode::FirstTokenTimeout,
        ],
        example: "curl -N localhost:3000/v1/responses -H 'Content-Type: application/json' \\\n     -d '{\"input\":\"hello\",\"stream\":true}'",
    },
    Operation {
        method: "GET",
        path: "/v1/responses/{id}",
        id: "retrieveResponse",
        group: Group::Responses,
        summary: "The response object now, or its events",
        about: "Polls, or with `stream=true` streams from after `starting_after` on.",
        parameters: &[
            ID,
            Parameter {
                name: "stream",
                place: Place::Query,
                kind: Kind::Switch,
                about: "Whether to stream the events.",
            },
            Parameter {
                name: "starting_after",
                place: Place::Query,
                kind: Kind::Number,
                about: "With `stream=true`: the number of the last event that is known.",
            },
        ],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The object, or its events.",
            content: &[
                ("application/json", "Response"),
                ("text/event-stream", "Event"),
            ],
        }],
        errors: &[
            ErrorCode::InvalidCursor,
            ErrorCode::InvalidValue,
            ErrorCode::NotFound,
            ErrorCode::PositionGone,
        ],
        example: "curl -N 'localhost:3000/v1/responses/resp_…?stream=true&starting_after=41'",
    },
    Operation {
        method: "POST",
        path: "/v1/responses/{id}/cancel",
        id: "cancelResponse",
        group: Group::Responses,
        summary: "Stop a response",
        about: "Immediate in every phase; what came before is kept. Cancelling what has ended changes nothing.",
        parameters: &[ID],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The object as it then is.",
            content: &[("application/json", "Response")],
        }],
        errors: &[ErrorCode::OriginForbidden, ErrorCode::NotFound],
        example: "curl -X POST localhost:3000/v1/responses/resp_…/cancel",
    },
    Operation {
        method: "DELETE",
        path: "/v1/responses/{id}",
        id: "deleteResponse",
        group: Group::Responses,
        summary: "Stop a response and forget it",
        about: "Its events and its object are gone when this answers.",
        parameters: &[ID],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "It is gone.",
            content: &[("application/json", "Deleted")],
        }],
        errors: &[ErrorCode::OriginForbidden, ErrorCode::NotFound],
        example: "curl -X DELETE localhost:3000/v1/responses/resp_…",
    },
    Operation {
        method: "GET",
        path: "/v1/responses/{id}/input_items",
        id: "listInputItems",
        group: Group::Responses,
        summary: "What went in",
        about: "The whole conversation that the model saw, in pages.",
        parameters: &[
            ID,
            Parameter {
                name: "order",
                place: Place::Query,
                kind: Kind::OneOf(&["desc", "asc"]),
                about: "Newest or oldest first.",
            },
            Parameter {
                name: "limit",
                place: Place::Query,
                kind: Kind::Number,
                about: "1 to 100; default 20.",
            },
            Parameter {
                name: "after",
                place: Place::Query,
                kind: Kind::Text,
                about: "The id of the last item of the page before.",
            },
        ],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "One page.",
            content: &[("application/json", "InputItems")],
        }],
        errors: &[ErrorCode::InvalidValue, ErrorCode::NotFound],
        example: "curl 'localhost:3000/v1/responses/resp_…/input_items?order=asc'",
    },
    Operation {
        method: "POST",
        path: "/v1/chat/completions",
        id: "createChatCompletion",
        group: Group::Chat,
        summary: "Create a chat completion",
        about: "Sent to a chat upstream as it came, unknown parameters and all; for a Responses upstream translated, and what it has no word for is refused. A stream that breaks off ends with an error object and without `[DONE]`.",
        parameters: &[IDEMPOTENCY_KEY, LAST_EVENT_ID, CACHE_CONTROL],
        body: Some("ChatRequest"),
        answers: &[Answer {
            status: 200,
            about: "The completion, or its chunks.",
            content: &[
                ("application/json", "ChatCompletion"),
                ("text/event-stream", "ChatChunk"),
            ],
        }],
        errors: START,
        example: "curl -N localhost:3000/v1/chat/completions -H 'Content-Type: application/json' \\\n     -d '{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}'",
    },
    Operation {
        method: "GET",
        path: "/v1/ws",
        id: "connect",
        group: Group::WebSocket,
        summary: "Open a WebSocket",
        about: "The subprotocol `tokenwire.v1` is optional. An offered `permessage-deflate` is declined.",
        parameters: &[],
        body: None,
        answers: &[UPGRADE],
        errors: &[
            ErrorCode::InvalidUpgrade,
            ErrorCode::OriginForbidden,
            ErrorCode::ShuttingDown,
        ],
        example: "npx wscat -c ws://localhost:3000/v1/ws -w -1 -x '{\"type\":\"response.create\",\"input\":\"hello\"}'",
    },
    Operation {
        method: "GET",
        path: "/v1/responses",
        id: "connectResponses",
        group: Group::WebSocket,
        summary: "Open a WebSocket where OpenAI's SDKs look for it",
        about: "The same socket as `/v1/ws`; `client.responses.connect()` works unmodified. Without an upgrade there is nothing to get.",
        parameters: &[],
        body: None,
        answers: &[UPGRADE],
        errors: &[
            ErrorCode::InvalidUpgrade,
            ErrorCode::OriginForbidden,
            ErrorCode::MethodNotAllowed,
            ErrorCode::ShuttingDown,
        ],
        example: "npx wscat -c ws://localhost:3000/v1/responses -w -1 -x '{\"type\":\"response.create\",\"input\":\"hello\"}'",
    },
    Operation {
        method: "GET",
        path: "/v1/webhooks/deliveries",
        id: "listWebhookDeliveries",
        group: Group::Webhooks,
        summary: "What became of webhooks",
        about: "Newest first: those that are pending, and the last of those that were delivered and of those that were given up.",
        parameters: &[
            Parameter {
                name: "status",
                place: Place::Query,
                kind: Kind::Text,
                about: "`pending`, `delivered` or `failed`; default: all.",
            },
            Parameter {
                name: "limit",
                place: Place::Query,
                kind: Kind::Number,
                about: "1 to 100; default 20.",
            },
            Parameter {
                name: "after",
                place: Place::Query,
                kind: Kind::Text,
                about: "The id of the last delivery of the page before.",
            },
        ],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "One page.",
            content: &[("application/json", "WebhookDeliveryList")],
        }],
        errors: &[ErrorCode::InvalidValue],
        example: "curl 'localhost:3000/v1/webhooks/deliveries?status=failed'",
    },
    Operation {
        method: "POST",
        path: "/v1/webhooks/deliveries/{id}/retry",
        id: "retryWebhookDelivery",
        group: Group::Webhooks,
        summary: "Send a webhook again, now",
        about: "Whatever became of it, with another day of retries. An endpoint that a 410 had disabled is tried again.",
        parameters: &[Parameter {
            name: "id",
            place: Place::Path,
            kind: Kind::Text,
            about: "The delivery's id, `evt_…`.",
        }],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The delivery as it is now.",
            content: &[("application/json", "WebhookDelivery")],
        }],
        errors: &[
            ErrorCode::OriginForbidden,
            ErrorCode::NotFound,
            ErrorCode::Overloaded,
        ],
        example: "curl -X POST localhost:3000/v1/webhooks/deliveries/evt_…/retry",
    },
    Operation {
        method: "GET",
        path: "/v1/models",
        id: "listModels",
        group: Group::Models,
        summary: "The models",
        about: "Of all upstreams, under the names by which they may be asked for.",
        parameters: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The list.",
            content: &[("application/json", "ModelList")],
        }],
        errors: &[ErrorCode::UpstreamUnreachable, ErrorCode::UpstreamAuth],
        example: "curl localhost:3000/v1/models",
    },
    Operation {
        method: "GET",
        path: "/v1/models/{id}",
        id: "retrieveModel",
        group: Group::Models,
        summary: "One model",
        about: "Its name may hold slashes.",
        parameters: &[Parameter {
            name: "id",
            place: Place::Path,
            kind: Kind::Text,
            about: "The model's name.",
        }],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The model.",
            content: &[("application/json", "Model")],
        }],
        errors: &[
            ErrorCode::NotFound,
            ErrorCode::UpstreamUnreachable,
            ErrorCode::UpstreamAuth,
        ],
        example: "curl localhost:3000/v1/models/simulator",
    },
    Operation {
        method: "GET",
        path: "/healthz",
        id: "health",
        group: Group::Operation,
        summary: "Whether the process answers",
        about: "Always, as long as it does.",
        parameters: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "It does.",
            content: &[("application/json", "Health")],
        }],
        errors: &[],
        example: "curl localhost:3000/healthz",
    },
    Operation {
        method: "GET",
        path: "/readyz",
        id: "ready",
        group: Group::Operation,
        summary: "Whether new streams are taken",
        about: "While the gateway shuts down they are not.",
        parameters: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "They are.",
            content: &[("application/json", "Ready")],
        }],
        errors: &[ErrorCode::ShuttingDown],
        example: "curl localhost:3000/readyz",
    },
    Operation {
        method: "GET",
        path: "/metrics",
        id: "metrics",
        group: Group::Operation,
        summary: "What is counted, for Prometheus",
        about: "Open streams, readers by transport, generations by outcome, tokens, time to first token, clocks that ran out, what sharing answers did, bytes held, and the process. OpenMetrics if `Accept` names it, else the text format 0.0.4. Labels hold names out of the configuration and the gateway's own error codes only.",
        parameters: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The metrics.",
            content: &[
                ("text/plain", "Text"),
                ("application/openmetrics-text", "Text"),
            ],
        }],
        errors: &[],
        example: "curl localhost:3000/metrics",
    },
    Operation {
        method: "GET",
        path: "/openapi.json",
        id: "openapi",
        group: Group::Operation,
        summary: "This description, for programs",
        about: "OpenAPI 3.1.",
        parameters: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The document.",
            content: &[("application/json", "Anything")],
        }],
        errors: &[],
        example: "curl localhost:3000/openapi.json",
    },
    Operation {
        method: "GET",
        path: "/docs",
        id: "docs",
        group: Group::Operation,
        summary: "This description, for people",
        about: "Without scripts.",
        parameters: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The page.",
            content: &[("text/html", "Text")],
        }],
        errors: &[],
        example: "curl localhost:3000/docs",
    },
];
