//! A request of any language.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use super::canonical::CanonicalRequest;
use super::chat::ChatRequest;
use super::responses::{ResponsesRequest, both_dialects};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::json::read_object;

/// A request that starts a stream. In `/v1/streams` `messages` make it a chat request, `input` a
/// responses request.
#[derive(Clone, Debug)]
pub enum StreamRequest {
    /// A chat completion.
    Chat(ChatRequest),
    /// A response.
    Responses(ResponsesRequest),
    /// A request in a language that this crate does not know.
    Canonical(Box<ForeignRequest>),
}

/// A request in a language that this crate does not know, read into canonical form.
///
/// `Debug` shows no contents.
#[derive(Clone)]
pub struct ForeignRequest {
    /// The requested model.
    pub model: Option<String>,
    /// The request in canonical form.
    pub request: CanonicalRequest<'static>,
    /// The body as the client sent it. Two requests under one idempotency key must have it in
    /// common, and it counts as the memory that the request takes.
    pub body: Bytes,
}

impl fmt::Debug for ForeignRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignRequest")
            .field("bytes", &self.body.len())
            .field("model", &self.model)
            .field("request", &self.request)
            .finish()
    }
}

impl StreamRequest {
    /// Reads and checks a body of either dialect.
    ///
    /// # Errors
    /// As [`ChatRequest::parse`] and [`ResponsesRequest::parse`]; `invalid_value` if it has both
    /// `messages` and `input`, and `missing_required_parameter` if it has neither. A `null` counts
    /// as absent.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let (text, members) = read_object(body)?;
        let has = |name: &str| members.get(name).is_some();
        match (has("messages"), has("input")) {
            (true, false) => ChatRequest::from_members(text, members).map(Self::Chat),
            (false, true) => ResponsesRequest::from_object(members.into()).map(Self::Responses),
            (true, true) => Err(both_dialects()),
            (false, false) => {
                let message = "Missing required parameter: 'input' (for a responses request) or 'messages' (for a chat request).";
                Err(ApiError::new(ErrorCode::MissingParameter, message).param("input"))
            }
        }
    }

    /// Returns the bytes that it holds.
    #[must_use]
    pub fn memory_size(&self) -> usize {
        match self {
            Self::Chat(chat) => chat.body().len(),
            Self::Responses(responses) => responses.memory_size(),
            // The values are copies of pieces of the body.
            Self::Canonical(foreign) => 2 * foreign.body.len(),
        }
    }

    /// Returns the bytes that two requests under one idempotency key must have in common.
    pub(crate) fn fingerprint(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Chat(chat) => chat.body().into(),
            Self::Responses(responses) => responses.fingerprint().into(),
            Self::Canonical(foreign) => (&*foreign.body).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(body: &str, expected: &str) {
        let found = match StreamRequest::parse(body.as_bytes()) {
            Ok(StreamRequest::Chat(_)) => "chat".to_owned(),
            Ok(StreamRequest::Responses(_)) => "responses".to_owned(),
            Ok(StreamRequest::Canonical(_)) => "another language".to_owned(),
            Err(error) => format!(
                "{} {}",
                error.code.unwrap_or_default(),
                error.param.unwrap_or_default()
            ),
        };
        assert_eq!(found, expected, "{body}");
    }

    #[test]
    fn members_select_the_dialect() {
        check(r#"{"input":"hi"}"#, "responses");
        check(r#"{"input":"hi","messages":null}"#, "responses");
        check(r#"{"messages":[{"role":"user","content":"hi"}]}"#, "chat");
        check(r#"{"messages":[{}],"input":null}"#, "chat");
        check(
            r#"{"messages":[{}],"input":"hi","input":null}"#,
            "invalid_value input",
        );
        check(
            r#"{"messages":[{}],"input":"hi"}"#,
            "invalid_value messages",
        );
        check(r#"{"model":"m"}"#, "missing_required_parameter input");
        check(r#"{"messages":[]}"#, "invalid_value messages");
        check(r#"{"input":7}"#, "invalid_type input");
        check("input=hi", "invalid_json ");
        check("[]", "invalid_type ");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = StreamRequest::parse(&body);
        }
    }
}
