//! The translator of either upstream API.

use std::sync::Arc;

use super::{
    BodyEnd, CatchUp, ChatTranslator, Chunking, Progress, RecordWriter, ResponsesTranslator,
    Translated,
};
use crate::log::LogTail;
use crate::model::event::Ending;
use crate::model::id::GenerationId;
use crate::model::secret::Seal;
use crate::model::snapshot::Api;
use crate::request::ToolNames;
use crate::upstream::AnswerOrigin;
use crate::upstream::decode::SseEvent;

#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "most streams are chat streams, whose state needs no allocation of its own"
)]
pub(crate) enum Translator {
    Chat(ChatTranslator),
    Responses(Box<ResponsesTranslator>),
    /// A Responses stream that is read again from its beginning.
    CatchUp(Box<CatchUp>),
}

impl Translator {
    /// Creates a translator. A relayed stream gets `id` and `previous_response_id`; `choices` is
    /// the requested number of chat choices, `tools` what the client calls the tools.
    pub(crate) fn new(
        api: Api,
        id: &GenerationId,
        choices: u32,
        previous_response_id: Option<&str>,
        tools: &ToolNames,
    ) -> Self {
        match api {
            Api::Chat => Self::Chat(ChatTranslator::new(choices).with_tools(tools.clone())),
            Api::Responses => {
                Self::Responses(Box::new(ResponsesTranslator::new(id, previous_response_id)))
            }
        }
    }

    /// Seals the reasoning of a chat stream; keeps who answers with that of a Responses stream.
    pub(crate) fn keeping(self, seal: Option<Seal>, origin: Option<AnswerOrigin>) -> Self {
        match self {
            Self::Chat(chat) => Self::Chat(chat.sealed(seal)),
            Self::Responses(responses) => Self::Responses(Box::new(responses.of(origin))),
            Self::CatchUp(_) => self,
        }
    }

    /// Makes chunks of a chat completion that arrives in one piece.
    pub(crate) fn chunked(self, chunking: Option<Box<Chunking>>) -> Self {
        match self {
            Self::Chat(chat) => Self::Chat(chat.chunked(chunking)),
            Self::Responses(_) | Self::CatchUp(_) => self,
        }
    }

    /// Drops what the log has of a Responses stream that is read again from its beginning.
    pub(crate) fn catching_up(self, log: Arc<LogTail>) -> Self {
        match self {
            Self::Responses(responses) => Self::CatchUp(Box::new(CatchUp::new(responses, log))),
            Self::Chat(_) | Self::CatchUp(_) => self,
        }
    }

    /// Prepares for the stream of another upstream that continues the answer.
    pub(crate) fn continue_elsewhere(&mut self) {
        match self {
            Self::Chat(chat) => chat.continue_elsewhere(),
            // Only chat answers are continued.
            Self::Responses(_) | Self::CatchUp(_) => {}
        }
    }

    pub(crate) fn event(&mut self, event: SseEvent<'_>, records: &mut RecordWriter) -> Translated {
        match (self, event) {
            (_, SseEvent::KeepAlive) => Translated {
                progress: Progress::Open,
                tokens: false,
            },
            (
                Self::Chat(chat),
                SseEvent::Data {
                    name,
                    data,
                    terminated,
                },
            ) => chat.payload(name, data, terminated, records),
            (Self::Chat(chat), SseEvent::ErrorField(value)) => Translated {
                progress: Progress::Over(chat.error_field(value)),
                tokens: false,
            },
            (
                Self::Responses(responses),
                SseEvent::Data {
                    name,
                    data,
                    terminated,
                },
            ) => responses.payload(name, data, terminated, records),
            (
                Self::CatchUp(catch_up),
                SseEvent::Data {
                    name,
                    data,
                    terminated,
                },
            ) => catch_up.payload(name, data, terminated, records),
            (Self::Responses(_) | Self::CatchUp(_), SseEvent::ErrorField(_)) => Translated {
                progress: Progress::Open,
                tokens: false,
            },
        }
    }

    /// Whether the upstream that answers now has reported its usage.
    pub(crate) fn has_usage(&self) -> bool {
        match self {
            Self::Chat(chat) => chat.has_usage(),
            // Only chat answers are continued.
            Self::Responses(_) | Self::CatchUp(_) => false,
        }
    }

    /// Returns the usage so far as raw JSON in the Responses shape, if the upstream has reported it.
    pub(crate) fn usage(&self) -> Option<String> {
        match self {
            Self::Chat(chat) => chat.usage_json(),
            Self::Responses(responses) => responses.usage_json(),
            Self::CatchUp(catch_up) => catch_up.usage_json(),
        }
    }

    /// Prepares for an end that the gateway decides on while the upstream still answers.
    pub(crate) fn end_early(&mut self) {
        match self {
            Self::Chat(chat) => chat.end_early(),
            // All its terminal events leave room for closing chunks.
            Self::Responses(_) | Self::CatchUp(_) => {}
        }
    }

    pub(crate) fn body_ended(&self, end: BodyEnd) -> Ending {
        match self {
            Self::Chat(chat) => chat.body_ended(end),
            Self::Responses(responses) => responses.body_ended(end),
            Self::CatchUp(catch_up) => catch_up.body_ended(end),
        }
    }

    pub(crate) fn end(&mut self, ending: Ending, at: u64, records: &mut RecordWriter) {
        match self {
            Self::Chat(chat) => chat.end(ending, at, records),
            Self::Responses(responses) => responses.end(ending, at, records),
            Self::CatchUp(catch_up) => catch_up.end(ending, at, records),
        }
    }
}
