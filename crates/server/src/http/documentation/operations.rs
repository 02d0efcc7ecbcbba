//! The operations of the API: one entry per path and method.

use tokenwire_core::model::error::ErrorCode;

/// One path and method.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// The operation id, for generated clients.
    pub(super) id: &'static str,
    pub(super) group: Group,
    pub(super) summary: &'static str,
    pub(super) about: &'static str,
    pub(super) parameters: &'static [Parameter],
    /// The schema of the body, if the operation takes one.
    pub(super) body: Option<&'static str>,
    pub(super) answers: &'static [Answer],
    /// The gateway's own errors that are likely here. Errors of an upstream pass through as well.
    pub(super) errors: &'static [ErrorCode],
    /// A command that shows it. The gateway is at `localhost:3000`.
    pub(super) example: &'static str,
}

/// The topic of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Streams,
    Responses,
    Chat,
    WebSocket,
    Tickets,
    Webhooks,
    Models,
    Operation,
}

/// A parameter of a request outside its body.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) place: Place,
    pub(super) kind: Kind,
    pub(super) about: &'static str,
}

/// The place of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Always required.
    Path,
    Query,
    /// A required query parameter.
    RequiredQuery,
    Header,
}

/// The type of a parameter.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Text,
    Number,
    Switch,
    /// One of these. The first is the default.
    OneOf(&'static [&'static str]),
}

/// A successful response.
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
        Self::Tickets,
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
            Self::Tickets => "Tickets",
            Self::Webhooks => "Webhooks",
            Self::Models => "Models",
            Self::Operation => "Operation",
        }
    }

    pub(super) const fn about(self) -> &'static str {
        match self {
            Self::Streams => {
                "Numbered events for a browser's EventSource, which reconnects by itself and continues with the next token. A browser opens at most six HTTP/1.1 connections per origin."
            }
            Self::Responses => "OpenAI's Responses API, over chat and Responses upstreams alike.",
            Self::Chat => {
                "OpenAI's chat completions. A chat upstream's own chunks are passed on byte for byte."
            }
            Self::WebSocket => {
                "Many answers on one connection, each on its own lane. The messages are listed under “WebSocket messages”."
            }
            Self::Tickets => {
                "Credentials for browsers, which cannot send a header with an EventSource or a WebSocket. A ticket goes in the query, `?ticket=…`, or for a WebSocket in the subprotocol `tokenwire-ticket.<ticket>` beside `tokenwire.v1`."
            }
            Self::Webhooks => {
                "Notification of the end of a background response: `webhook: {\"url\", \"secret\"}` in its request, or `webhooks.url` in the configuration. Events are Standard Webhooks, signed with HMAC-SHA256; OpenAI's SDKs check them with `client.webhooks.unwrap`. The body is `{\"id\":\"evt_…\",\"object\":\"event\",\"type\":\"response.completed\",\"created_at\":…,\"data\":{\"id\":\"resp_…\"}}`, the type may also be `response.incomplete`, `response.failed` or `response.cancelled`. Any 2xx is success. 410 disables the endpoint. Other answers are retried for a day, after random waits of up to 5 s, 10 s, 20 s, … 2 h, or after `Retry-After`, up to an hour. The `webhook-id` is the same at every attempt, so a receiver can tell repetitions."
            }
            Self::Models => "The models of the upstreams, and what clients have used of them.",
            Self::Operation => "Activity, health, metrics and documentation.",
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
    about: "`<response id>.<number>` of the last received event. A request with it resumes that stream and never starts one.",
};
const IDEMPOTENCY_KEY: Parameter = Parameter {
    name: "Idempotency-Key",
    place: Place::Header,
    kind: Kind::Text,
    about: "Up to 255 bytes. The same key with the same body attaches to the generation of the first request. With another body it is 422.",
};
const CACHE_CONTROL: Parameter = Parameter {
    name: "Cache-Control",
    place: Place::Header,
    kind: Kind::Text,
    about: "Where answers are shared (`reuse` in the configuration): `no-cache` asks the model, `no-store` also keeps the answer from other requests. A browser's own `no-cache`, which comes with `Pragma: no-cache`, does not count. The response header `Tokenwire-Cache` says `hit`, `miss`, `coalesced` or `bypass`.",
};
const DIALECT: Parameter = Parameter {
    name: "dialect",
    place: Place::Query,
    kind: Kind::OneOf(&["responses", "chat", "text"]),
    about: "The JSON of the events. Numbers are the same in each. `Accept: text/plain` also selects `text`.",
};
const HEARTBEAT: Parameter = Parameter {
    name: "heartbeat",
    place: Place::Query,
    kind: Kind::OneOf(&["comment", "event"]),
    about: "How silence is filled: with comments, or with events of type `tokenwire:heartbeat`, which a page can see.",
};

const STREAM: Answer = Answer {
    status: 200,
    about: "The stream. `Location` names where it can be read again.",
    content: &[("text/event-stream", "Event"), ("text/plain", "Text")],
};
const UPGRADE: Answer = Answer {
    status: 101,
    about: "The connection becomes a WebSocket.",
    content: &[],
};

/// Errors of a request that is passed on.
const RELAY: &[ErrorCode] = &[
    ErrorCode::InvalidJson,
    ErrorCode::MissingParameter,
    ErrorCode::InvalidValue,
    ErrorCode::PreviousResponseNotFound,
    ErrorCode::UnknownUrl,
    ErrorCode::BodyTooLarge,
];

/// Errors of requests that start a generation.
const START: &[ErrorCode] = &[
    ErrorCode::InvalidJson,
    ErrorCode::MissingParameter,
    ErrorCode::InvalidType,
    ErrorCode::InvalidValue,
    ErrorCode::UnsupportedParameter,
    ErrorCode::InvalidCursor,
    ErrorCode::OriginForbidden,
    ErrorCode::HostNotAllowed,
    ErrorCode::NotFound,
    ErrorCode::RequestTimeout,
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

/// Every operation, in the order of the API page.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        method: "POST",
        path: "/v1/streams",
        id: "createStream",
        group: Group::Streams,
        summary: "Start an answer and stream it",
        about: "The body is a responses request (`input`) or a chat request (`messages`), with any content type. The head is sent at once; later failures are events.",
        parameters: &[
            DIALECT,
            HEARTBEAT,
            IDEMPOTENCY_KEY,
            LAST_EVENT_ID,
            CACHE_CONTROL,
        ],
        body: Some("StreamRequest"),
        answers: &[
            STREAM,
            Answer {
                status: 204,
                about: "Resumed after the last event: nothing is left.",
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
        summary: "The same from a URL, for EventSource",
        about: "`new EventSource(\"/v1/streams?input=hello&key=…\")`. With a `key`, a reconnect before the first event does not start a second answer.",
        parameters: &[
            Parameter {
                name: "input",
                place: Place::RequiredQuery,
                kind: Kind::Text,
                about: "The input text.",
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
                about: "As `Idempotency-Key`, since EventSource cannot send headers.",
            },
            Parameter {
                name: "previous_response_id",
                place: Place::Query,
                kind: Kind::Text,
                about: "Continues the conversation of this response.",
            },
            DIALECT,
            HEARTBEAT,
            LAST_EVENT_ID,
            CACHE_CONTROL,
        ],
        body: None,
        answers: &[
            STREAM,
            Answer {
                status: 204,
                about: "Resumed after the last event: EventSource stops reconnecting.",
                content: &[],
            },
        ],
        errors: &[
            ErrorCode::MissingParameter,
            ErrorCode::InvalidValue,
            ErrorCode::InvalidCursor,
            ErrorCode::OriginForbidden,
            ErrorCode::NotFound,
            ErrorCode::PreviousResponseNotFound,
            ErrorCode::PreviousResponseUnusable,
            ErrorCode::PositionGone,
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
        about: "Streams the events after `Last-Event-ID`, else after `after`, else from the beginning, then live. Any number of readers may attach. Where the events are no longer kept, `tokenwire:reset` carries the whole object.",
        parameters: &[
            ID,
            Parameter {
                name: "after",
                place: Place::Query,
                kind: Kind::Number,
                about: "The number of the last received event.",
            },
            DIALECT,
            HEARTBEAT,
            LAST_EVENT_ID,
        ],
        body: None,
        answers: &[
            STREAM,
            Answer {
                status: 204,
                about: "Nothing is left after this position.",
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
        about: "Streams with `stream: true`. With `background: true` it answers at once and runs to its end without readers. Otherwise it answers when the response is complete. `previous_response_id` continues a conversation.",
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
            ErrorCode::HostNotAllowed,
            ErrorCode::PreviousResponseNotFound,
            ErrorCode::RequestTimeout,
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
        about: "Returns the object, or with `stream=true` streams the events after `starting_after`.",
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
                about: "With `stream=true`: the number of the last received event.",
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
        about: "Takes effect at once in every phase. The output so far is kept. Cancelling an ended response changes nothing.",
        parameters: &[ID],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The object after the cancellation.",
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
        summary: "Stop a response and remove it",
        about: "Its events and its object are removed when this answers.",
        parameters: &[ID],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "It is removed.",
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
        summary: "The input items",
        about: "The whole conversation that was sent to the model, in pages.",
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
                about: "The id of the last item of the previous page.",
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
        path: "/v1/responses/input_tokens",
        id: "countInputTokens",
        group: Group::Responses,
        summary: "Count the input tokens",
        about: "Passed on to a Responses upstream that has it, with the conversation that the request names. Over a chat upstream 404.",
        parameters: &[],
        body: Some("ResponsesRequest"),
        answers: &[Answer {
            status: 200,
            about: "The upstream's answer.",
            content: &[("application/json", "UpstreamAnswer")],
        }],
        errors: RELAY,
        example: "curl localhost:3000/v1/responses/input_tokens -H 'Content-Type: application/json' -d '{\"input\":\"hello\"}'",
    },
    Operation {
        method: "POST",
        path: "/v1/responses/compact",
        id: "compactConversation",
        group: Group::Responses,
        summary: "Compact a conversation",
        about: "Passed on to a Responses upstream that has it, with the conversation that the request names. The output is the input of the next request. Over a chat upstream 404.",
        parameters: &[],
        body: Some("ResponsesRequest"),
        answers: &[Answer {
            status: 200,
            about: "The upstream's answer.",
            content: &[("application/json", "UpstreamAnswer")],
        }],
        errors: RELAY,
        example: "curl localhost:3000/v1/responses/compact -H 'Content-Type: application/json' -d '{\"previous_response_id\":\"resp_…\"}'",
    },
    Operation {
        method: "POST",
        path: "/v1/chat/completions",
        id: "createChatCompletion",
        group: Group::Chat,
        summary: "Create a chat completion",
        about: "Passed on to a chat upstream as it came, unknown parameters included. Translated for a Responses upstream; parameters without a counterpart are refused. A stream that breaks off ends with an error object and without `[DONE]`.",
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
        summary: "Open a WebSocket at the path of OpenAI's SDKs",
        about: "The same socket as `/v1/ws`; `client.responses.connect()` works unmodified. Needs an upgrade.",
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
        method: "POST",
        path: "/v1/tickets",
        id: "createTicket",
        group: Group::Tickets,
        summary: "Make a ticket",
        about: "With `stream`: it reads that stream, from its first use on. With `may: [\"start\"]`: it starts one answer, and then reads that. Else it opens one WebSocket, once. With `cookie`: it is the session of a browser, and comes as a cookie. A ticket has its key's owner, and no more rights. It ends with the key, and is revoked with it.",
        parameters: &[],
        body: Some("TicketRequest"),
        answers: &[Answer {
            status: 200,
            about: "The ticket.",
            content: &[("application/json", "Ticket")],
        }],
        errors: &[
            ErrorCode::InvalidValue,
            ErrorCode::InvalidApiKey,
            ErrorCode::TicketNotAllowed,
            ErrorCode::RoleRequired,
            ErrorCode::NotFound,
        ],
        example: "curl localhost:3000/v1/tickets -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' -d '{\"stream\":\"resp_…\"}'",
    },
    Operation {
        method: "POST",
        path: "/v1/tickets/revoke",
        id: "revokeTickets",
        group: Group::Tickets,
        summary: "Revoke a ticket, an owner or a key",
        about: "Ends what it has open: its answers are cancelled, its streams break off, and its WebSockets close with 4401. That is done when the answer comes, and within a second at every other node. A key revokes tickets of its owner, and owners below it. Other owners, and keys, need the role `operator`.",
        parameters: &[],
        body: Some("RevocationRequest"),
        answers: &[Answer {
            status: 200,
            about: "It is revoked.",
            content: &[("application/json", "Revoked")],
        }],
        errors: &[
            ErrorCode::InvalidValue,
            ErrorCode::InvalidApiKey,
            ErrorCode::InvalidTicket,
            ErrorCode::TicketNotAllowed,
            ErrorCode::RoleRequired,
            ErrorCode::NotFound,
            ErrorCode::StoreUnavailable,
        ],
        example: "curl localhost:3000/v1/tickets/revoke -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' -d '{\"ticket\":\"tkt_…\"}'",
    },
    Operation {
        method: "GET",
        path: "/v1/webhooks/deliveries",
        id: "listWebhookDeliveries",
        group: Group::Webhooks,
        summary: "List webhook deliveries",
        about: "Newest first: pending deliveries, and the last delivered and failed ones.",
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
                about: "The id of the last delivery of the previous page.",
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
        summary: "Send a webhook again",
        about: "In any state, with another day of retries. An endpoint that a 410 disabled is enabled again.",
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
        path: "/v1/usage",
        id: "listUsage",
        group: Group::Models,
        summary: "What was used",
        about: "From the counters that enforce the limits. A key sees what its owner has used, an operator sees all.",
        parameters: &[
            Parameter {
                name: "by",
                place: Place::Query,
                kind: Kind::OneOf(&["owner", "key", "model"]),
                about: "What the rows are.",
            },
            Parameter {
                name: "from",
                place: Place::Query,
                kind: Kind::Text,
                about: "The first day, UTC; default: the first of the month of `to`.",
            },
            Parameter {
                name: "to",
                place: Place::Query,
                kind: Kind::Text,
                about: "The last day, UTC; default: today.",
            },
        ],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The usage of each owner, key or model.",
            content: &[("application/json", "UsageList")],
        }],
        errors: &[ErrorCode::InvalidValue],
        example: "curl 'localhost:3000/v1/usage?by=model'",
    },
    Operation {
        method: "GET",
        path: "/v1/activity",
        id: "watchActivity",
        group: Group::Operation,
        summary: "Watch what happens",
        about: "Starts, first tokens, ends and matches of watch rules, and rates once a second, without any content, until the client closes. A key sees what its owner has, an operator sees all, and upstreams as well. A client that has missed events gets `tokenwire:reset`. Over a WebSocket: `tokenwire:watch`.",
        parameters: &[
            Parameter {
                name: "after",
                place: Place::Query,
                kind: Kind::Text,
                about: "The id of the last received event.",
            },
            Parameter {
                name: "Last-Event-ID",
                place: Place::Header,
                kind: Kind::Text,
                about: "The same, as an EventSource sends it.",
            },
        ],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The events.",
            content: &[("text/event-stream", "ActivityEvent")],
        }],
        errors: &[
            ErrorCode::OriginForbidden,
            ErrorCode::TicketNotAllowed,
            ErrorCode::Overloaded,
        ],
        example: "curl -N localhost:3000/v1/activity",
    },
    Operation {
        method: "GET",
        path: "/v1/models",
        id: "listModels",
        group: Group::Models,
        summary: "List the models",
        about: "The models of all upstreams, under their public names.",
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
        about: "The name may contain slashes.",
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
        summary: "Liveness",
        about: "Answers while the process runs, under any host. `/health` is the same.",
        parameters: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The process runs.",
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
        summary: "Readiness",
        about: "503 while the gateway shuts down or no upstream is up. Describes each upstream; under a host that is not served it tells the status only.",
        parameters: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "New streams are accepted.",
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
        summary: "Metrics for Prometheus",
        about: "Streams, readers, generations by outcome, tokens, time to first token, timeouts, upstreams, webhooks, memory, the process. OpenMetrics if `Accept` names it, else the text format 0.0.4. Labels hold names from the configuration and the gateway's own error codes only. The page `/docs/metrics` lists them.",
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
        method: "POST",
        path: "/admin/reload",
        id: "reload",
        group: Group::Operation,
        summary: "Read the configuration again",
        about: "As SIGHUP does. Needs a key with the role `operator` in a header; without `auth` it is for clients on the gateway's machine. Running streams keep what they started with.",
        parameters: &[],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The configuration is in force, but for the keys in `needs_restart`.",
            content: &[("application/json", "Reload")],
        }],
        errors: &[
            ErrorCode::InvalidApiKey,
            ErrorCode::RoleRequired,
            ErrorCode::OriginForbidden,
            ErrorCode::ReloadFailed,
        ],
        example: "curl -X POST localhost:3000/admin/reload",
    },
    Operation {
        method: "GET",
        path: "/openapi.json",
        id: "openapi",
        group: Group::Operation,
        summary: "The API description for programs",
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
        summary: "The API description for people",
        about: "HTML without scripts, with links to the reference pages.",
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
    Operation {
        method: "GET",
        path: "/docs/{page}",
        id: "docsPage",
        group: Group::Operation,
        summary: "A reference page",
        about: "`api`, `parameters`, `clients`, `network`, `upstreams`, `sharing`, `webhooks`, `metrics` or `configuration`.",
        parameters: &[Parameter {
            name: "page",
            place: Place::Path,
            kind: Kind::Text,
            about: "The name of the page.",
        }],
        body: None,
        answers: &[Answer {
            status: 200,
            about: "The page.",
            content: &[("text/html", "Text")],
        }],
        errors: &[ErrorCode::UnknownUrl],
        example: "curl localhost:3000/docs/configuration",
    },
];
