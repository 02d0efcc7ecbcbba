//! Chat completions: requests as they were received, read into canonical form, and written from it.

mod read;
mod settings;
mod write;

pub use settings::{
    ChatSettings, CustomTools, DeveloperRole, MaxTokensField, ReasoningBack, ReasoningField,
    StreamOptions, UnsupportedTools,
};
pub use write::{ChatBody, write};

use std::fmt;
use std::ops::Range;

use super::canonical::CanonicalRequest;
use super::fields::RequestFields;
use crate::model::error::ApiError;
use crate::model::json::{
    Kind, Members, Node, invalid, is_array_of_unique_objects, quoted, read_object,
};

/// Asks a stream to report its usage.
const ASK_USAGE: &str = r#""stream_options":{"include_usage":true},"#;

/// The most choices that one request may ask for.
const MAX_CHOICES: u64 = 128;

/// The body of `POST /v1/chat/completions`.
///
/// Reads and checks only what the gateway needs. The upstream checks the rest.
/// `Debug` shows no contents.
#[derive(Clone)]
pub struct ChatRequest {
    body: Box<str>,
    /// The byte range of the value of `model` in the body.
    model_span: Option<Range<usize>>,
    model: Option<String>,
    stream: bool,
    n: u32,
    include_usage: bool,
    include_obfuscation: Option<bool>,
    /// Whether the body has `stream_options`, which may be `null`.
    has_stream_options: bool,
    request_fields: RequestFields,
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
        let (text, members) = read_object(body)?;
        Self::from_members(text, members)
    }

    pub(super) fn from_members(text: &str, members: Members<'_>) -> Result<Self, ApiError> {
        let model_span = members.iter().find(|(name, _)| *name == "model");
        let model_span = model_span.map(|(_, raw)| {
            // The raw value borrows from the text, so the distance of the two is its offset.
            let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
            start..start + raw.get().len()
        });

        check_messages(&members.require("messages")?)?;
        refuse_repeated(&members)?;

        // It would go up unchanged, with its secret, and no webhook would ever be sent.
        if let Some(webhook) = members.node("webhook") {
            return Err(webhook.unsupported(
                "A webhook announces the end of a background response: use POST /v1/responses.",
            ));
        }
        let model = members.node("model").map(|node| node.text()).transpose()?;
        let stream = members
            .node("stream")
            .map(|node| node.boolean())
            .transpose()?;
        let n = members
            .node("n")
            .map(|node| node.integer(1, MAX_CHOICES))
            .transpose()?;
        let options = members
            .node("stream_options")
            .map(|node| node.object())
            .transpose()?;
        let option = |name| {
            options
                .as_ref()
                .and_then(|options| options.node(name))
                .as_ref()
                .map(Node::boolean)
                .transpose()
        };
        Ok(Self {
            body: text.into(),
            model_span,
            model: model.map(|model| model.into_owned()),
            stream: stream.unwrap_or(false),
            n: n.and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            include_usage: option("include_usage")?.unwrap_or(false),
            include_obfuscation: option("include_obfuscation")?,
            has_stream_options: members.iter().any(|(name, _)| name == "stream_options"),
            request_fields: RequestFields::from_chat(&members),
        })
    }

    /// The requested model.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether the client asks for a stream.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// The number of choices, 1 to 128.
    #[must_use]
    pub fn n(&self) -> u32 {
        self.n
    }

    /// Whether the client asks for the usage chunk.
    #[must_use]
    pub fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// `stream_options.include_obfuscation`, if the client sets it.
    #[must_use]
    pub fn include_obfuscation(&self) -> Option<bool> {
        self.include_obfuscation
    }

    /// The fields of the response object that repeat this request. A field without a counterpart, or
    /// with an invalid value, gets its default: the request goes up unchanged, and the upstream
    /// checks it.
    #[must_use]
    pub fn request_fields(&self) -> RequestFields {
        self.request_fields.clone()
    }

    /// The body as it was received.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.body.as_bytes()
    }

    /// Returns the body for the upstream: as it was received, except for the model's name if one is
    /// given. With `usage` a stream is asked to report its usage, whether or not the client asks for
    /// that.
    #[must_use]
    pub fn upstream_body(&self, model: Option<&str>, usage: bool) -> Vec<u8> {
        let model = model.filter(|model| self.model.as_deref() != Some(model));
        let usage = usage && self.stream && !self.include_usage;
        if model.is_none() && !usage {
            return self.body().to_vec();
        }
        if usage && self.has_stream_options {
            return self.with_usage(model);
        }
        let name = model.map(quoted);
        let length = name.as_ref().map_or(0, |name| name.len() + 16);
        let mut out = String::with_capacity(self.body.len() + length + ASK_USAGE.len());
        // The object has at least the member `messages`.
        let mut copied = self.body.find('{').map_or(0, |brace| brace + 1);
        out.push_str(&self.body[..copied]);
        if usage {
            out.push_str(ASK_USAGE);
        }
        match (&name, &self.model_span) {
            (Some(name), Some(span)) => {
                out.push_str(&self.body[copied..span.start]);
                out.push_str(name);
                copied = span.end;
            }
            (Some(name), None) => {
                out.push_str("\"model\":");
                out.push_str(name);
                out.push(',');
            }
            (None, _) => {}
        }
        out.push_str(&self.body[copied..]);
        out.into_bytes()
    }

    /// Returns the body with usage asked for among the client's `stream_options`.
    fn with_usage(&self, model: Option<&str>) -> Vec<u8> {
        let Ok((_, members)) = read_object(self.body()) else {
            return self.body().to_vec();
        };
        let options = members.node("stream_options");
        let options = options.and_then(|options| options.object().ok());
        let options = options
            .unwrap_or_default()
            .write_with(&[("include_usage", "true")]);
        let name = model.map(quoted);
        let mut replaced = vec![("stream_options", options.as_str())];
        replaced.extend(name.as_deref().map(|name| ("model", name)));
        members.write_with(&replaced).into_bytes()
    }

    /// Reads the request into canonical form.
    ///
    /// Accepted and not read: members that are `null` or have their default value (`logprobs: false`,
    /// an empty list of tools, …); `stream` and `stream_options.include_usage`, which the gateway
    /// itself handles; and what an assistant message repeats (annotations, what an SDK parsed).
    ///
    /// # Errors
    /// `invalid_type`, `invalid_value`, `missing_required_parameter` or `unsupported_parameter` for
    /// invalid messages, parts and tools. Each names the parameter, down to the part.
    pub fn canonical(&self) -> Result<CanonicalRequest<'_>, ApiError> {
        let (_, members) = read_object(self.body())?;
        read::read(&members)
    }
}

/// Refuses anything but a non-empty array of objects without repeated members.
fn check_messages(messages: &Node<'_>) -> Result<(), ApiError> {
    if messages.kind() != Kind::Array {
        return Err(messages.wrong_type("an array of messages"));
    }
    // Most requests need no more. The rest of this function finds the error, if there is one.
    if is_array_of_unique_objects(messages.raw.get()) {
        return Ok(());
    }
    let list = messages.array()?;
    if list.is_empty() {
        return Err(invalid(
            "messages",
            "an array with at least one message",
            "an empty one",
        ));
    }
    for message in &list {
        if message.kind() != Kind::Object {
            return Err(message.wrong_type("a message, which is an object"));
        }
        message.object()?;
    }
    Ok(())
}

/// Refuses repeated members of the nested objects that the gateway reads. The upstream checks their
/// types.
fn refuse_repeated(request: &Members<'_>) -> Result<(), ApiError> {
    let tools = request
        .node("tools")
        .filter(|tools| tools.kind() == Kind::Array)
        .map(|tools| tools.array())
        .transpose()?;
    let choice = ["tool_choice", "response_format"]
        .into_iter()
        .filter_map(|name| request.node(name));
    for node in tools.into_iter().flatten().chain(choice) {
        if node.kind() != Kind::Object {
            continue;
        }
        let object = node.object()?;
        for name in ["function", "custom", "allowed_tools", "json_schema"] {
            if let Some(inner) = object.node(name)
                && inner.kind() == Kind::Object
            {
                inner.object()?;
            }
        }
    }
    Ok(())
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
#[path = "chat/tests.rs"]
mod translation_tests;

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
    fn invalid_parameters_are_refused_by_name() {
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
    fn repeated_members_are_refused_where_they_are_read() {
        for (body, param) in [
            (r#"{"messages":[{}],"messages":[{}]}"#, "messages"),
            (r#"{"model":"a","messages":[{}],"model":"b"}"#, "model"),
            (r#"{"messages":[{}],"x":1,"x":1}"#, "x"),
            (r#"{"messages":[{}],"stream":true,"stream":null}"#, "stream"),
            (
                r#"{"messages":[{}],"stream_options":{"include_usage":true,"include_usage":false}}"#,
                "stream_options.include_usage",
            ),
            (
                r#"{"messages":[{},{"role":"user","content":"a","role":"system"}]}"#,
                "messages[1].role",
            ),
            (
                r#"{"messages":[{"content":"a","c\u006fntent":"b"}]}"#,
                "messages[0].content",
            ),
            (
                r#"{"messages":[{}],"tools":[{"type":"function","type":"x"}]}"#,
                "tools[0].type",
            ),
            (
                r#"{"messages":[{}],"tools":[{"function":{"name":"a","name":"b"}}]}"#,
                "tools[0].function.name",
            ),
            (
                r#"{"messages":[{}],"tool_choice":{"function":{"name":"a","name":"b"}}}"#,
                "tool_choice.function.name",
            ),
            (
                r#"{"messages":[{}],"response_format":{"json_schema":{"name":"a","name":"b"}}}"#,
                "response_format.json_schema.name",
            ),
        ] {
            refused(body, "invalid_value", param, "more than once");
        }
        let unread = r#"{"messages":[{"content":[{"type":"text","text":"a","text":"b"}]}],"tools":[{"function":{"parameters":{"a":1,"a":2}}}],"x":{"y":1,"y":2}}"#;
        let request = ChatRequest::parse(unread.as_bytes()).unwrap();
        assert_eq!(request.upstream_body(None, false), unread.as_bytes());
    }

    #[test]
    fn options_of_the_gateway_are_read() {
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
    fn upstream_body_changes_only_the_model() {
        let check = |body: &str, model: Option<&str>, expected: &str| {
            let upstream = ChatRequest::parse(body.as_bytes())
                .unwrap()
                .upstream_body(model, false);
            assert_eq!(String::from_utf8_lossy(&upstream), expected, "{body}");
        };
        let odd =
            " { \"x\" : 1.0 ,\t\"model\" : \"\\u0061\" , \"messages\" : [ {} ] , \"y\" : 2 } ";
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
    }

    #[test]
    fn usage_is_asked_for_beside_the_clients_own_options() {
        let check = |body: &str, model: Option<&str>, expected: &str| {
            let request = ChatRequest::parse(body.as_bytes()).unwrap();
            let upstream = request.upstream_body(model, true);
            assert_eq!(String::from_utf8_lossy(&upstream), expected, "{body}");
        };
        let plain = r#"{"model":"a","messages":[{}],"stream":true}"#;
        let asked = r#"{"stream_options":{"include_usage":true},"model":"a","messages":[{}],"stream":true}"#;
        check(plain, None, asked);
        check(plain, Some("b"), &asked.replace("\"a\"", "\"b\""));
        check(
            r#"{"messages":[{}],"stream":true}"#,
            Some("b"),
            r#"{"stream_options":{"include_usage":true},"model":"b","messages":[{}],"stream":true}"#,
        );
        check(
            r#"{"messages":[{}],"stream":true,"stream_options":{"include_usage":false,"x":1}}"#,
            None,
            r#"{"messages":[{}],"stream":true,"stream_options":{"include_usage":true,"x":1}}"#,
        );
        check(
            r#"{"messages":[{}],"stream":true,"stream_options":null}"#,
            None,
            r#"{"messages":[{}],"stream":true,"stream_options":{"include_usage":true}}"#,
        );
        // Nothing has to be asked for.
        for body in [
            r#"{"messages":[{}],"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"messages":[{}]}"#,
        ] {
            check(body, None, body);
        }
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
                prop_assert!(ChatRequest::parse(&request.upstream_body(Some("m"), true)).is_ok());
            }
        }
    }
}
