//! A responses request in canonical form: the members around the conversation.

use serde_json::value::RawValue;

use super::items::Items;
use super::tools::{tool, tool_choice};
use super::validation::GATEWAY_MEMBERS;
use super::{LOGPROBS, REMEDY};
use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node, RawObject, invalid, missing, quote};
use crate::request::canonical::{CanonicalRequest, Extra, Format, FormatKind, Setting, Value};

/// Members with the same name and meaning in canonical form.
const SETTINGS: &[Setting] = &[
    Setting::Temperature,
    Setting::TopP,
    Setting::PresencePenalty,
    Setting::FrequencyPenalty,
    Setting::Metadata,
    Setting::User,
    Setting::SafetyIdentifier,
    Setting::PromptCacheKey,
    Setting::PromptCacheRetention,
    Setting::ServiceTier,
];

/// Members that are read here, or that have an effect in the gateway only.
const KNOWN: &[&str] = &[
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
    "store",
    "background",
    "previous_response_id",
    "stream",
    "stream_options",
    "messages",
];

/// Members that refer to what a server of the Responses API has stored.
const STORED: &[&str] = &["conversation", "prompt", "context_management"];

/// The other values of `include`. They ask for what only some upstreams have.
const INCLUDES: &[&str] = &[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
];

/// Reads a request. `history` are the items of the earlier turns in their order.
pub(super) fn read<'a>(
    raw: &'a RawObject,
    history: &[&'a RawValue],
) -> Result<CanonicalRequest<'a>, ApiError> {
    let input = raw.node("input").ok_or_else(|| missing("input"))?;
    let mut request = CanonicalRequest {
        instructions: raw.node("instructions").map(Value::from),
        items: Items::read(history, &input)?,
        parallel_tool_calls: raw.node("parallel_tool_calls").map(Value::from),
        max_output_tokens: raw.node("max_output_tokens").map(Value::from),
        ..CanonicalRequest::default()
    };
    if let Some(tools) = raw.node("tools") {
        request.tools = tools
            .array()?
            .into_iter()
            .map(tool)
            .collect::<Result<_, _>>()?;
    }
    request.tool_choice = raw.node("tool_choice").map(tool_choice).transpose()?;
    if let Some(text) = raw.node("text") {
        read_text(&text.object()?, &mut request)?;
    }
    if let Some(reasoning) = raw.node("reasoning") {
        // A summary is asked for, and an upstream without summaries makes none.
        let reasoning = reasoning.object()?;
        reasoning.only(&["effort", "summary", "generate_summary"], REMEDY)?;
        for name in ["summary", "generate_summary"] {
            reasoning
                .node(name)
                .map(|node| node.text().map(drop))
                .transpose()?;
        }
        request.reasoning_effort = reasoning.node("effort").map(Value::from);
    }
    read_logprobs(raw, &mut request)?;
    read_truncation(raw, &mut request)?;
    if let Some(options) = raw.node("stream_options") {
        let options = options.object()?;
        request.include_obfuscation = options.node("include_obfuscation").map(Value::from);
        request.stream_extra = Extra::others(&options, &["include_usage", "include_obfuscation"]);
    }
    for (name, value) in raw.iter() {
        let setting = SETTINGS.iter().find(|setting| setting.name() == name);
        if KNOWN.contains(&name) || GATEWAY_MEMBERS.contains(&name) {
            continue;
        }
        let present = Kind::of(value) != Kind::Null;
        match setting {
            Some(&setting) if present => request.settings.push((setting, Value::new(value, name))),
            Some(_) => {}
            None if STORED.contains(&name) && present => request.specific.push(Extra {
                advice: "Only an upstream that speaks the Responses API stores what it refers to. Leave it out, or use such an upstream.",
                ..Extra::new(name, Value::new(value, name))
            }),
            None if STORED.contains(&name) => {}
            None => request.extra.push(Extra::new(name, Value::new(value, quote(name)))),
        }
    }
    Ok(request)
}

fn read_text<'a>(text: &Members<'a>, request: &mut CanonicalRequest<'a>) -> Result<(), ApiError> {
    text.only(&["format", "verbosity"], REMEDY)?;
    request.verbosity = text.node("verbosity").map(Value::from);
    if let Some(format) = text.node("format") {
        request.format = Some(read_format(&format.object()?)?);
    }
    Ok(())
}

/// Reads `text.format`, which holds a schema directly.
fn read_format<'a>(format: &Members<'a>) -> Result<Format<'a>, ApiError> {
    let name = format.require("type")?;
    let mut known = vec!["type"];
    let kind = match name.text()?.as_ref() {
        "text" => FormatKind::Text,
        "json_object" => FormatKind::JsonObject,
        "json_schema" => {
            known.extend(["name", "description", "schema", "strict"]);
            FormatKind::JsonSchema {
                name: Value::of_kind(format.require("name")?, Kind::String)?,
                description: format.node("description").map(Value::from),
                schema: Value::of_kind(format.require("schema")?, Kind::Object)?,
                strict: format.node("strict").map(Value::from),
            }
        }
        _ => FormatKind::Other,
    };
    Ok(Format {
        kind,
        name: name.into(),
        extra: Extra::others(format, &known),
    })
}

fn read_logprobs<'a>(
    raw: &'a RawObject,
    request: &mut CanonicalRequest<'a>,
) -> Result<(), ApiError> {
    if let Some(include) = raw.node("include") {
        for name in include.array()? {
            let value = name.text()?;
            if value == LOGPROBS {
                request.logprobs = true;
            } else if !INCLUDES.contains(&value.as_ref()) {
                return Err(unknown_include(&name, &value));
            }
        }
    }
    // 0 is the default.
    let top = raw.node("top_logprobs").map(Value::from);
    request.top_logprobs = top.filter(|top| request.logprobs || top.json() != "0");
    request.logprobs |= request.top_logprobs.is_some();
    Ok(())
}

fn unknown_include(node: &Node<'_>, value: &str) -> ApiError {
    node.unsupported(&format!(
        "No answer can include '{}'. Known values are '{LOGPROBS}', '{}'.",
        quote(value),
        INCLUDES.join("', '")
    ))
}

fn read_truncation<'a>(
    raw: &'a RawObject,
    request: &mut CanonicalRequest<'a>,
) -> Result<(), ApiError> {
    let Some(node) = raw.node("truncation") else {
        return Ok(());
    };
    match node.text()?.as_ref() {
        "disabled" => Ok(()),
        "auto" => {
            request.specific.push(Extra {
                advice: "Only an upstream that speaks the Responses API shortens the conversation. Send 'disabled', or leave it out.",
                ..Extra::new("truncation", node.into())
            });
            Ok(())
        }
        other => Err(invalid(
            "truncation",
            "'auto' or 'disabled'",
            &format!("'{}'", quote(other)),
        )),
    }
}
