//! A responses request as a chat request: the members around the conversation.

use serde_json::value::RawValue;

use super::REMEDY;
use super::messages::Conversation;
use super::tools::{tool, tool_choice};
use super::validation::GATEWAY_MEMBERS;
use crate::model::error::{ApiError, ErrorCode};
use crate::model::json::{
    Kind, Members, ObjectWriter, RawObject, invalid, missing, push_array, quote, quoted,
    unsupported,
};

/// Members with the same name and meaning in both dialects.
const SAME: &[&str] = &[
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
];

/// Members that are translated here, or accepted and not sent.
const TRANSLATED: &[&str] = &[
    "model",
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "text",
    "reasoning",
    "max_output_tokens",
    "max_tool_calls",
    "top_logprobs",
    "include",
    "truncation",
    "conversation",
    "prompt",
    "context_management",
    "metadata",
    "store",
    "background",
    "previous_response_id",
    "stream",
    "stream_options",
    "messages",
];

/// The only value of `include` that a chat server has.
const LOGPROBS: &str = "message.output_text.logprobs";

/// The translated members of the chat request, in their order.
#[derive(Default)]
struct ChatMembers(Vec<(&'static str, String)>);

pub(super) fn to_chat(
    raw: &RawObject,
    history: &[&RawValue],
    model: &str,
) -> Result<Vec<u8>, ApiError> {
    refuse_untranslatable(raw)?;
    let input = raw.node("input").ok_or_else(|| missing("input"))?;
    let mut members = ChatMembers::default();
    members.put("model", quoted(model));
    members.put(
        "messages",
        Conversation::messages(raw.get("instructions"), history, &input)?,
    );
    members.tools(raw)?;
    if let Some(text) = raw.node("text") {
        members.text(&text.object()?)?;
    }
    if let Some(reasoning) = raw.node("reasoning") {
        members.reasoning(&reasoning.object()?)?;
    }
    if let Some(limit) = raw.get("max_output_tokens") {
        members.put("max_completion_tokens", limit.get().to_owned());
    }
    members.logprobs(raw)?;
    for &name in SAME {
        if let Some(value) = raw.get(name) {
            members.put(name, value.get().to_owned());
        }
    }
    members.put("stream", "true".to_owned());
    members.put("stream_options", stream_options(raw)?);

    let ChatMembers(members) = members;
    let mut out = String::new();
    let mut body = ObjectWriter::begin(&mut out);
    for (name, json) in &members {
        body.raw(name, json);
    }
    for (name, value) in raw.iter() {
        if TRANSLATED.contains(&name) || GATEWAY_MEMBERS.contains(&name) || SAME.contains(&name) {
            continue;
        }
        match members.iter().find(|(made, _)| *made == name) {
            None => body.raw(name, value.get()),
            Some((_, json)) if json == value.get() || Kind::of(value) == Kind::Null => {}
            Some(_) => return Err(contradiction(name)),
        }
    }
    body.end();
    Ok(out.into_bytes())
}

/// Refuses what a chat server has no counterpart for.
fn refuse_untranslatable(raw: &RawObject) -> Result<(), ApiError> {
    for name in ["conversation", "prompt", "context_management"] {
        if raw.get(name).is_some() {
            return Err(unsupported(
                name,
                &format!("A chat-completions upstream stores nothing to refer to. {REMEDY}"),
            ));
        }
    }
    match raw.get_str("truncation").as_deref() {
        None | Some("disabled") => Ok(()),
        Some("auto") => Err(unsupported(
            "truncation",
            "A chat-completions upstream does not shorten the conversation. Send 'disabled', or leave it out.",
        )),
        Some(other) => Err(invalid(
            "truncation",
            "'auto' or 'disabled'",
            &format!("'{}'", quote(other)),
        )),
    }
}

fn stream_options(raw: &RawObject) -> Result<String, ApiError> {
    let mut out = String::new();
    let mut options = ObjectWriter::begin(&mut out);
    options.raw("include_usage", "true");
    if let Some(node) = raw.node("stream_options") {
        for (name, value) in node.object()?.others(&["include_usage"]) {
            options.raw(name, value.get());
        }
    }
    options.end();
    Ok(out)
}

fn contradiction(name: &str) -> ApiError {
    let message = format!(
        "Invalid value for '{name}': it contradicts another member of the request that is sent as '{name}' to a chat-completions upstream. Leave one of the two out."
    );
    ApiError::new(ErrorCode::InvalidValue, message).param(name)
}

impl ChatMembers {
    fn put(&mut self, name: &'static str, json: String) {
        self.0.push((name, json));
    }

    /// Adds the tools and the choice among them. A chat server refuses an empty list, and a choice
    /// without a list.
    fn tools(&mut self, raw: &RawObject) -> Result<(), ApiError> {
        let tools = raw
            .node("tools")
            .map(|node| node.array())
            .transpose()?
            .unwrap_or_default();
        if !tools.is_empty() {
            let mut out = String::new();
            let translated = tools.iter().map(tool).collect::<Result<Vec<_>, _>>()?;
            push_array(&mut out, &translated, |out, tool| out.push_str(tool));
            self.put("tools", out);
        }
        if let Some(node) = raw.node("tool_choice") {
            let idle = tools.is_empty() && matches!(node.raw.get(), "\"auto\"" | "\"none\"");
            if !idle {
                self.put("tool_choice", tool_choice(&node)?);
            }
        }
        if let Some(parallel) = raw.get("parallel_tool_calls")
            && !tools.is_empty()
        {
            self.put("parallel_tool_calls", parallel.get().to_owned());
        }
        Ok(())
    }

    fn text(&mut self, text: &Members<'_>) -> Result<(), ApiError> {
        text.only(&["format", "verbosity"], REMEDY)?;
        if let Some(format) = text.node("format") {
            self.put("response_format", response_format(&format.object()?)?);
        }
        if let Some(verbosity) = text.node("verbosity") {
            self.put("verbosity", verbosity.raw.get().to_owned());
        }
        Ok(())
    }

    fn reasoning(&mut self, reasoning: &Members<'_>) -> Result<(), ApiError> {
        reasoning.only(&["effort", "summary", "generate_summary"], REMEDY)?;
        for name in ["summary", "generate_summary"] {
            if let Some(summary) = reasoning.node(name)
                && summary.text()? != "auto"
            {
                return Err(summary
                    .unsupported("A chat-completions upstream makes no summaries. Send 'auto', which allows for none, or leave it out."));
            }
        }
        if let Some(effort) = reasoning.node("effort") {
            self.put("reasoning_effort", effort.raw.get().to_owned());
        }
        Ok(())
    }

    fn logprobs(&mut self, raw: &RawObject) -> Result<(), ApiError> {
        let mut wanted = false;
        if let Some(include) = raw.node("include") {
            for name in include.array()? {
                if name.text()? != LOGPROBS {
                    return Err(name.unsupported(&format!(
                        "A chat-completions upstream can include '{LOGPROBS}' only. {REMEDY}"
                    )));
                }
                wanted = true;
            }
        }
        // 0 is the default.
        let top = raw
            .get("top_logprobs")
            .map(RawValue::get)
            .filter(|top| wanted || *top != "0");
        if wanted || top.is_some() {
            self.put("logprobs", "true".to_owned());
        }
        if let Some(top) = top {
            self.put("top_logprobs", top.to_owned());
        }
        Ok(())
    }
}

/// Translates `text.format`, which holds a schema directly, to `response_format`, which holds it
/// under `json_schema`.
fn response_format(format: &Members<'_>) -> Result<String, ApiError> {
    let kind = format.require("type")?;
    let mut out = String::new();
    let mut object = ObjectWriter::begin(&mut out);
    object.raw("type", kind.raw.get());
    match kind.text()?.as_ref() {
        "text" | "json_object" => {
            for (name, value) in format.others(&["type"]) {
                object.raw(name, value.get());
            }
        }
        "json_schema" => {
            format.require("name")?.of_kind(Kind::String)?;
            format.require("schema")?.of_kind(Kind::Object)?;
            let mut schema = ObjectWriter::begin(object.name("json_schema"));
            for (name, value) in format.others(&["type"]) {
                schema.raw(name, value.get());
            }
            schema.end();
        }
        other => {
            let why = "A chat-completions upstream takes the formats 'text', 'json_object' and 'json_schema', not";
            return Err(kind.unsupported(&format!("{why} '{}'. {REMEDY}", quote(other))));
        }
    }
    object.end();
    Ok(out)
}
