//! Every dialect in every framing.
//!
//! The framings are compiled in from the adapters' sources: through the adapters themselves,
//! actix-web would have to be built for every run.

use std::sync::Arc;

use tokenwire_core::dialect::{Dialect, Framing};

#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "there it is a library, here a part"
)]
#[path = "../../crates/sse/src/framing.rs"]
mod sse;
#[allow(
    dead_code,
    unused_imports,
    reason = "there it is a library, here a part"
)]
#[path = "../../crates/ws/src/framing.rs"]
mod websocket;

/// A dialect in a framing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    ResponsesSdk,
    ResponsesEventSource,
    ResponsesWebSocket,
    ChatSdk,
    ChatEventSource,
    ChatWebSocket,
    TextSdk,
    TextEventSource,
    TextWebSocket,
}

impl Shape {
    /// All of them.
    #[allow(dead_code, reason = "one of the two benchmarks names them one by one")]
    pub(crate) const ALL: [Self; 9] = [
        Self::ResponsesSdk,
        Self::ResponsesEventSource,
        Self::ResponsesWebSocket,
        Self::ChatSdk,
        Self::ChatEventSource,
        Self::ChatWebSocket,
        Self::TextSdk,
        Self::TextEventSource,
        Self::TextWebSocket,
    ];

    /// As the benchmark is called.
    #[allow(
        dead_code,
        reason = "one of the two benchmarks has its names in the source"
    )]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ResponsesSdk => "responses_sdk",
            Self::ResponsesEventSource => "responses_eventsource",
            Self::ResponsesWebSocket => "responses_websocket",
            Self::ChatSdk => "chat_sdk",
            Self::ChatEventSource => "chat_eventsource",
            Self::ChatWebSocket => "chat_websocket",
            Self::TextSdk => "text_sdk",
            Self::TextEventSource => "text_eventsource",
            Self::TextWebSocket => "text_websocket",
        }
    }

    pub(crate) fn dialect(self) -> Dialect {
        match self {
            Self::ResponsesSdk | Self::ResponsesEventSource | Self::ResponsesWebSocket => {
                Dialect::Responses
            }
            Self::ChatSdk | Self::ChatEventSource | Self::ChatWebSocket => Dialect::Chat,
            Self::TextSdk | Self::TextEventSource | Self::TextWebSocket => Dialect::Text,
        }
    }

    pub(crate) fn framing(self) -> Arc<dyn Framing> {
        match self {
            Self::ResponsesSdk | Self::ChatSdk | Self::TextSdk => Arc::new(sse::Sdk),
            Self::ResponsesEventSource | Self::ChatEventSource | Self::TextEventSource => {
                Arc::new(sse::EventSource)
            }
            Self::ResponsesWebSocket | Self::ChatWebSocket | Self::TextWebSocket => {
                Arc::new(websocket::TextFrames { stream_id: None })
            }
        }
    }
}
