//! One translator for whichever language an upstream speaks.

use super::{BodyEnd, ChatTranslator, Progress, ResponsesTranslator, Scribe, Translated};
use crate::decode::SseEvent;
use crate::event::Ending;
use crate::id::GenerationId;
use crate::snapshot::Api;

#[derive(Debug)]
pub(crate) enum Translator {
    Chat(ChatTranslator),
    Responses(ResponsesTranslator),
}

impl Translator {
    /// `id` and `previous_response_id` are what a relayed stream is to name; `choices` is how many
    /// a chat was asked for.
    pub(crate) fn new(
        api: Api,
        id: &GenerationId,
        choices: u32,
        previous_response_id: Option<&str>,
    ) -> Self {
        match api {
            Api::Chat => Self::Chat(ChatTranslator::new(choices)),
            Api::Responses => Self::Responses(ResponsesTranslator::new(id, previous_response_id)),
        }
    }

    pub(crate) fn event(&mut self, event: SseEvent<'_>, scribe: &mut Scribe) -> Translated {
        match (self, event) {
            (
                Self::Chat(chat),
                SseEvent::Data {
                    name,
                    data,
                    terminated,
                },
            ) => chat.payload(name, data, terminated, scribe),
            (Self::Chat(chat), SseEvent::ErrorField(value)) => Translated {
                progress: Progress::Over(chat.error_field(value)),
                tokens: false,
            },
            (
                Self::Responses(responses),
                SseEvent::Data {
                    data, terminated, ..
                },
            ) => responses.payload(data, terminated, scribe),
            (Self::Responses(_), SseEvent::ErrorField(_)) => Translated {
                progress: Progress::Open,
                tokens: false,
            },
        }
    }

    pub(crate) fn body_ended(&self, end: BodyEnd) -> Ending {
        match self {
            Self::Chat(chat) => chat.body_ended(end),
            Self::Responses(responses) => responses.body_ended(end),
        }
    }

    pub(crate) fn end(&mut self, ending: Ending, at: u64, scribe: &mut Scribe) {
        match self {
            Self::Chat(chat) => chat.end(ending, at, scribe),
            Self::Responses(responses) => responses.end(ending, at, scribe),
        }
    }
}
