//! Writes a canonical request as a chat completion request: the members around the conversation.

mod content;
mod messages;
mod tools;

use super::settings::{ChatSettings, StreamOptions};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::json::{ObjectWriter, quote, quoted};
use crate::request::canonical::{CanonicalRequest, Extra, Format, FormatKind, Setting};
use crate::request::tool_names::ToolNames;

/// The advice for what only an upstream of another language has.
const REMEDY: &str = "Leave it out, or use an upstream that speaks the Responses API.";

/// A request as it goes to a chat server.
#[derive(Clone)]
pub struct ChatBody {
    /// The JSON body.
    pub body: Vec<u8>,
    /// The tools that the server knows under another name or as another kind.
    pub tool_names: ToolNames,
    /// The types of the tools that were left out, each once.
    pub dropped_tools: Vec<String>,
}

impl std::fmt::Debug for ChatBody {
    /// Omits the body, which holds the conversation.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatBody")
            .field("bytes", &self.body.len())
            .field("dropped_tools", &self.dropped_tools)
            .finish_non_exhaustive()
    }
}

/// The members of the body, in their order.
#[derive(Default)]
struct ChatMembers(Vec<(&'static str, String)>);

/// Writes the body of a streaming request for a server with these settings.
///
/// # Errors
/// `unsupported_parameter` for what chat completions have no counterpart for, `invalid_value` where
/// two members contradict each other or the conversation is empty. Each names the parameter that
/// the client sent.
pub fn write(
    request: &CanonicalRequest<'_>,
    model: &str,
    settings: &ChatSettings,
) -> Result<ChatBody, ApiError> {
    if let Some(extra) = request.specific.first() {
        return Err(extra.refuse("A chat-completions upstream has no such parameter.", REMEDY));
    }
    let mut members = ChatMembers::default();
    members.put("model", quoted(model));
    members.put("messages", messages::write(request, settings)?);
    let tools = tools::write(request, settings, &mut members)?;
    if let Some(format) = &request.format {
        members.put("response_format", response_format(format)?);
    }
    for (name, value) in [
        ("verbosity", &request.verbosity),
        ("reasoning_effort", &request.reasoning_effort),
        (settings.max_tokens_field.name(), &request.max_output_tokens),
    ] {
        if let Some(value) = value {
            members.put(name, value.json().to_owned());
        }
    }
    if request.logprobs {
        members.put("logprobs", "true".to_owned());
        if let Some(top) = &request.top_logprobs {
            members.put("top_logprobs", top.json().to_owned());
        }
    }
    for &setting in Setting::ALL {
        // Servers that store nothing refuse metadata, or ignore it. It stays in the response object.
        if setting == Setting::Metadata {
            continue;
        }
        let given = request.settings.iter().find(|(given, _)| *given == setting);
        if let Some((_, value)) = given {
            members.put(setting.name(), value.json().to_owned());
        }
    }
    members.put("stream", "true".to_owned());
    match settings.stream_options {
        StreamOptions::Send => members.put("stream_options", stream_options(request)),
        StreamOptions::LeaveOut => {
            if let Some(extra) = request.stream_extra.first() {
                return Err(extra.refuse("This upstream takes no 'stream_options'.", REMEDY));
            }
        }
    }
    Ok(ChatBody {
        body: members.body(&request.extra)?,
        tool_names: tools.names,
        dropped_tools: tools.dropped,
    })
}

fn stream_options(request: &CanonicalRequest<'_>) -> String {
    let mut out = String::new();
    let mut options = ObjectWriter::begin(&mut out);
    options.raw("include_usage", "true");
    if let Some(padding) = &request.include_obfuscation {
        options.raw("include_obfuscation", padding.json());
    }
    for extra in &request.stream_extra {
        options.raw(&extra.name, extra.value.json());
    }
    options.end();
    out
}

/// Writes the format, which has the schema under `json_schema`.
fn response_format(format: &Format<'_>) -> Result<String, ApiError> {
    let mut out = String::new();
    let mut object = ObjectWriter::begin(&mut out);
    object.raw("type", format.name.json());
    match &format.kind {
        FormatKind::Text | FormatKind::JsonObject => {
            extras(&mut object, &format.extra, &["type", "json_schema"])?;
        }
        FormatKind::JsonSchema {
            name,
            description,
            schema,
            strict,
        } => {
            let mut inner = ObjectWriter::begin(object.name("json_schema"));
            inner.raw("name", name.json());
            for (name, value) in [("description", description), ("strict", strict)] {
                if let Some(value) = value {
                    inner.raw(name, value.json());
                }
            }
            inner.raw("schema", schema.json());
            extras(
                &mut inner,
                &format.extra,
                &["name", "description", "strict", "schema"],
            )?;
            inner.end();
        }
        FormatKind::Other => {
            let found = format.name.text().unwrap_or_default();
            let why = "A chat-completions upstream takes the formats 'text', 'json_object' and 'json_schema', not";
            return Err(format
                .name
                .unsupported(&format!("{why} '{}'. {REMEDY}", quote(&found))));
        }
    }
    object.end();
    Ok(out)
}

/// Writes members that are not modelled. Those that would contradict one of `reserved` are refused.
fn extras(
    object: &mut ObjectWriter<'_>,
    extras: &[Extra<'_>],
    reserved: &[&str],
) -> Result<(), ApiError> {
    for extra in extras {
        if reserved.contains(&&*extra.name) {
            return Err(extra.value.unsupported(
                "A part of this type has other members for it where a chat-completions upstream is asked. Leave it out.",
            ));
        }
        object.raw(&extra.name, extra.value.json());
    }
    Ok(())
}

// === impl ChatMembers ===

impl ChatMembers {
    fn put(&mut self, name: &'static str, json: String) {
        self.0.push((name, json));
    }

    /// Writes the body, with the members that are not modelled at its end.
    fn body(self, extra: &[Extra<'_>]) -> Result<Vec<u8>, ApiError> {
        let Self(members) = self;
        let size: usize = members
            .iter()
            .map(|(name, json)| name.len() + json.len() + 4)
            .sum();
        let mut out = String::with_capacity(size + 2);
        let mut body = ObjectWriter::begin(&mut out);
        let mut unmodelled = Vec::with_capacity(extra.len());
        for Extra { name, value, .. } in extra {
            match members.iter().find(|(made, _)| *made == name) {
                None => unmodelled.push((name, value)),
                Some((_, json)) if json == value.json() || value.json() == "null" => {}
                Some(_) => return Err(contradiction(name)),
            }
        }
        // Each is freed once it is written: the messages are as large as the body.
        for (name, json) in members {
            body.raw(name, &json);
        }
        for (name, value) in unmodelled {
            body.raw(name, value.json());
        }
        body.end();
        Ok(out.into_bytes())
    }
}

fn contradiction(name: &str) -> ApiError {
    let message = format!(
        "Invalid value for '{name}': it contradicts another member of the request that is sent as '{name}' to a chat-completions upstream. Leave one of the two out."
    );
    ApiError::new(ErrorCode::InvalidValue, message).param(name)
}
