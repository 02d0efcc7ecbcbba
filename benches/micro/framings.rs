//! Every dialect in every framing.
//!
//! The framings are compiled from the adapters' sources, so that actix-web is not built for a run.

use std::sync::Arc;

use tokenwire_core::dialect::{Dialect, Framing};

#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "public in the adapter, a private module here"
)]
#[path = "../../crates/sse/src/framing.rs"]
mod sse;
#[allow(
    dead_code,
    unused_imports,
    reason = "public in the adapter, a private module here"
)]
#[path = "../../crates/ws/src/text_frames.rs"]
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
    /// All combinations.
    #[allow(dead_code, reason = "only one of the two benchmarks uses it")]
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

    /// The name of the benchmark.
    #[allow(dead_code, reason = "only one of the two benchmarks uses it")]
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
                Arc::new(websocket::TextFrames {
                    stream_id: None,
                    extensions: Arc::default(),
                })
            }
        }
    }
}
