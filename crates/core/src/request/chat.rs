//! A request for a chat completion: looked into, and passed on as it came, or as a responses
//! request.

mod items;
mod translation;

use std::fmt;
use std::ops::Range;

use super::json::push_string;
use super::node::{Kind, Node, Object, Written, invalid};
use super::object::read;
use crate::model::error::ApiError;

/// The most choices that one request may ask for.
const MAX_CHOICES: u64 = 128;

/// The body of `POST /v1/chat/completions`.
///
/// Only what the gateway needs is read and checked; everything else is the upstream's to judge.
/// `Debug` shows no contents.
#[derive(Clone)]
pub struct ChatRequest {
    body: Box<str>,
    /// Where the values of `model` stand in the body: none, one, or several if the name is
    /// repeated.
    model_spans: Vec<Range<usize>>,
    model: Option<String>,
    stream: bool,
    n: u32,
    include_usage: bool,
    include_obfuscation: Option<bool>,
}

impl ChatRequest {
    /// Reads and checks a body.
    ///
    /// # Errors
    /// As [`RawObject::parse`](super::RawObject::parse); and `missing_required_parameter`,
    /// `invalid_type` or `invalid_value` that name the parameter if `messages` is not a non-empty
    /// array of objects, or `model`, `stream`, `n` or `stream_options` is not what it must be;
    /// `unsupported_parameter` for a `webhook`.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let (text, written) = read(body)?;
        Self::from_written(text, written)
    }

    pub(super) fn from_written(text: &str, written: Written<'_>) -> Result<Self, ApiError> {
        let model_spans = written
            .0
            .iter()
            .filter(|(name, _)| name == "model")
            .map(|(_, raw)| {
                // The raw value borrows from the text, so the locality of the two is its place.
                let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
                start..start + raw.get().len()
            })
            .collect();
        let object = Object {
            path: String::new(),
            members: written.last_of_each(),
        };

        let messages = object.require("messages")?;
        if messages.kind() != Kind::Array {
            return Err(messages.wrong_type("an array of messages"));
        }
        let list = messages.array()?;
        if list.is_empty() {
            return Err(invalid(
                "messages",
                "an array with at least one message",
                "an empty one",
            ));
        }
        if let Some(odd) = list.iter().find(|message| message.kind() != Kind::Object) {
            return Err(odd.wrong_type("a message, which is an object"));
        }

        // It would go up as it came, its secret with it, and nobody would ever be told of anything.
        if let Some(webhook) = object.get("webhook") {
            return Err(webhook.unsupported(
                "A webhook tells of the end of a background response: POST /v1/responses.",
            ));
        }
        let model = object.get("model").map(|node| node.text()).transpose()?;
        let stream = object
            .get("stream")
            .map(|node| node.boolean())
            .transpose()?;
        let n = object
            .get("n")
            .map(|node| node.integer(1, MAX_CHOICES))
            .transpose()?;
        let options = object
            .get("stream_options")
            .map(|node| node.object())
            .transpose()?;
        let option = |name| {
            options
                .as_ref()
                .and_then(|options| options.get(name))
                .as_ref()
                .map(Node::boolean)
                .transpose()
        };
        Ok(Self {
            body: text.into(),
            model_spans,
            model: model.map(|model| model.into_owned()),
            stream: stream.unwrap_or(false),
            n: n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            include_usage: option("include_usage")?.unwrap_or(false),
            include_obfuscation: option("include_obfuscation")?,
        })
    }

    /// The model asked for.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether the answer is wanted as a stream.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// How many choices are asked for, 1 to 128.
    #[must_use]
    pub fn n(&self) -> u32 {
        self.n
    }

    /// Whether the client asks for the usage chunk.
    #[must_use]
    pub fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// What the client says about the padding of deltas, if it says anything.
    #[must_use]
    pub fn include_obfuscation(&self) -> Option<bool> {
        self.include_obfuscation
    }

    /// The body as it came.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.body.as_bytes()
    }

    /// The body for the upstream: as it came, but for the model's name if one is given. A repeated
    /// `model` is renamed everywhere, since upstreams differ in which one they take.
    #[must_use]
    pub fn upstream_body(&self, model: Option<&str>) -> Vec<u8> {
        let Some(model) = model else {
            return self.body().to_vec();
        };
        if self.model_spans.len() == 1 && self.model.as_deref() == Some(model) {
            return self.body().to_vec();
        }
        let mut out = String::with_capacity(self.body.len() + model.len() + 16);
        let mut copied = 0;
        for span in &self.model_spans {
            out.push_str(&self.body[copied..span.start]);
            push_string(&mut out, model);
            copied = span.end;
        }
        if self.model_spans.is_empty() {
            // There is a brace, and a member after it: `messages` was found.
            copied = self.body.find('{').map_or(0, |brace| brace + 1);
            out.push_str(&self.body[..copied]);
            out.push_str("\"model\":");
            push_string(&mut out, model);
            out.push(',');
        }
        out.push_str(&self.body[copied..]);
        out.into_bytes()
    }

    /// The body of a streaming responses request that asks for the same.
    ///
    /// Accepted and not sent: members that are `null` or at the value that holds without them (`n:
    /// 1`, penalties of 0, `logprobs: false`, an empty list of tools, …), `stream` and
    /// `stream_options.include_usage`, which are the gateway's to honour, and what a message of the
    /// assistant's repeats of an earlier answer beside its text and calls (reasoning, annotations,
    /// what an SDK parsed).
    ///
    /// # Errors
    /// `unsupported_parameter` for whatever else Responses has no word for, unknown members
    /// included; `invalid_type`, `invalid_value` or `missing_required_parameter` for messages,
    /// parts and tools that are not as they must be. Each names the parameter, down to the part.
    pub fn to_responses(&self, model: &str) -> Result<Vec<u8>, ApiError> {
        let (_, written) = read(self.body())?;
        translation::to_responses(
            &Object {
                path: String::new(),
                members: written.last_of_each(),
            },
            model,
        )
    }
}

impl fmt::Debug for ChatRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatRequest")
            .field("bytes", &self.body.len())
            .field("model", &self.model)
            .field("stream", &self.stream)
            .field("n", &self.n)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(body: &str, code: &str, param: &str, part: &str) {
        let error = ChatRequest::parse(body.as_bytes()).unwrap_err();
        assert_eq!(
            (error.code.as_deref(), error.param.as_deref()),
            (Some(code), Some(param)),
            "{body}: {error}"
        );
        assert!(error.message.contains(part), "{body}: {}", error.message);
    }

    #[test]
    fn a_body_without_sound_messages_is_refused() {
        refused(
            "{}",
            "missing_required_parameter",
            "messages",
            "Missing required parameter: 'messages'.",
        );
        refused(
            r#"{"messages":null}"#,
            "missing_required_parameter",
            "messages",
            "Missing",
        );
        refused(
            r#"{"messages":"hi"}"#,
            "invalid_type",
            "messages",
            "expected an array of messages, but got a string instead",
        );
        refused(
            r#"{"messages":[]}"#,
            "invalid_value",
            "messages",
            "at least one",
        );
        refused(
            r#"{"messages":[{}],"webhook":{"url":"https://x"}}"#,
            "unsupported_parameter",
            "webhook",
            "background response",
        );
        refused(
            r#"{"messages":[{},"x"]}"#,
            "invalid_type",
            "messages[1]",
            "but got a string",
        );
        refused(
            r#"{"messages":[{}],"model":7}"#,
            "invalid_type",
            "model",
            "expected a string, but got a number",
        );
        refused(
            r#"{"messages":[{}],"model":"\ud800"}"#,
            "invalid_value",
            "model",
            "surrogate",
        );
        refused(
            r#"{"messages":[{}],"stream":"true"}"#,
            "invalid_type",
            "stream",
            "expected a boolean",
        );
        refused(
            r#"{"messages":[{}],"n":0}"#,
            "invalid_value",
            "n",
            "an integer from 1 to 128, but got 0",
        );
        refused(r#"{"messages":[{}],"n":129}"#, "invalid_value", "n", "129");
        refused(r#"{"messages":[{}],"n":-1}"#, "invalid_value", "n", "-1");
        refused(
            r#"{"messages":[{}],"n":1.5}"#,
            "invalid_type",
            "n",
            "an integer",
        );
        refused(
            r#"{"messages":[{}],"stream_options":[]}"#,
            "invalid_type",
            "stream_options",
            "an object",
        );
        refused(
            r#"{"messages":[{}],"stream_options":{"include_usage":1}}"#,
            "invalid_type",
            "stream_options.include_usage",
            "boolean",
        );
    }

    #[test]
    fn what_the_gateway_needs_is_read() {
        let body =
            br#"{"model":"m","messages":[{}],"stream":true,"n":3,"stream_options":{"include_usage":true,"include_obfuscation":false}}"#;
        let request = ChatRequest::parse(body).unwrap();
        assert_eq!(
            (request.model(), request.stream(), request.n()),
            (Some("m"), true, 3)
        );
        assert_eq!(
            (request.include_usage(), request.include_obfuscation()),
            (true, Some(false))
        );
        let request = ChatRequest::parse(br#"{"messages":[{}],"stream":null}"#).unwrap();
        assert_eq!(
            (request.model(), request.stream(), request.n()),
            (None, false, 1)
        );
        assert_eq!(
            (request.include_usage(), request.include_obfuscation()),
            (false, None)
        );
    }

    #[test]
    fn only_the_model_is_changed_on_the_way_up() {
        let check = |body: &str, model: Option<&str>, expected: &str| {
            let upstream = ChatRequest::parse(body.as_bytes())
                .unwrap()
                .upstream_body(model);
            assert_eq!(String::from_utf8_lossy(&upstream), expected, "{body}");
        };
        let odd =
            " { \"x\" : 1.0 ,\t\"model\" : \"\\u0061\" , \"messages\" : [ {} ] , \"x\" : 2 } ";
        check(odd, None, odd);
        check(odd, Some("a"), odd);
        check(odd, Some("b\""), &odd.replace("\\u0061", "b\\\""));
        check(
            r#"{"messages":[{}]}"#,
            Some("m"),
            r#"{"model":"m","messages":[{}]}"#,
        );
        check(
            r#"{"messages":[{}],"model":null}"#,
            Some("m"),
            r#"{"messages":[{}],"model":"m"}"#,
        );
        check(
            r#"{"model":"a","messages":[{"model":"a"}],"model":"b"}"#,
            Some("b"),
            r#"{"model":"b","messages":[{"model":"a"}],"model":"b"}"#,
        );
    }

    #[test]
    fn debug_shows_no_contents() {
        let request = ChatRequest::parse(br#"{"messages":[{"content":"secret"}]}"#).unwrap();
        assert!(!format!("{request:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = ChatRequest::parse(&body);
            let mut close = br#"{"messages":[{}],"model":"#.to_vec();
            close.extend_from_slice(&body);
            close.push(b'}');
            if let Ok(request) = ChatRequest::parse(&close) {
                prop_assert!(ChatRequest::parse(&request.upstream_body(Some("m"))).is_ok());
            }
        }
    }
}
