//! A chat request as a responses request: the members around the conversation.
//!
//! In the other direction (`responses/translation.rs`) unknown members go up unchanged, since chat
//! servers each have members of their own. Here an unknown member is refused. It was meant for a
//! chat server; a Responses server would drop it, or refuse it under a name that the client never
//! used.

use super::items::{REMEDY, input};
use crate::model::error::ApiError;
use crate::model::json::{
    Kind, Members, Node, ObjectWriter, invalid, push_array, quote, quoted, unsupported,
};

/// Members with the same name and meaning in both dialects.
const SAME: &[&str] = &[
    "temperature",
    "top_p",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
];

/// Members that are translated here.
const TRANSLATED: &[&str] = &[
    "model",
    "messages",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "verbosity",
    "reasoning_effort",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "store",
];

/// Members without a counterpart in Responses: the name, the values that have no effect, and the
/// advice for any other value.
const NO_COUNTERPART: &[(&str, &[&str], &str)] = &[
    (
        "n",
        &["1"],
        "An upstream that speaks the Responses API gives one answer. Send the request several times.",
    ),
    ("presence_penalty", &["0", "0.0"], REMEDY),
    ("frequency_penalty", &["0", "0.0"], REMEDY),
    ("logit_bias", &["{}"], REMEDY),
    ("stop", &["[]"], REMEDY),
    (
        "modalities",
        &["[\"text\"]"],
        "An upstream that speaks the Responses API is asked for text only.",
    ),
    (
        "functions",
        &["[]"],
        "Declare them as 'tools' of type 'function'.",
    ),
    ("function_call", &[], "Use 'tool_choice'."),
];

pub(super) fn to_responses(request: &Members<'_>, model: &str) -> Result<Vec<u8>, ApiError> {
    refuse_untranslatable(request)?;
    let mut out = String::new();
    let mut body = ObjectWriter::begin(&mut out);
    body.raw("model", &quoted(model));
    body.raw("input", &input(&request.require("messages")?)?);
    tools(request, &mut body)?;
    text(request, &mut body)?;
    if let Some(effort) = request.node("reasoning_effort") {
        let mut reasoning = ObjectWriter::begin(body.name("reasoning"));
        reasoning.raw("effort", effort.of_kind(Kind::String)?);
        reasoning.end();
    }
    if let Some(limit) = limit(request)? {
        body.raw("max_output_tokens", limit);
    }
    logprobs(request, &mut body)?;
    for &name in SAME {
        if let Some(value) = request.node(name) {
            body.raw(name, value.raw.get());
        }
    }
    body.raw("stream", "true");
    // Chat does not store by default, Responses does.
    body.raw(
        "store",
        if request
            .node("store")
            .map(|node| node.boolean())
            .transpose()?
            == Some(true)
        {
            "true"
        } else {
            "false"
        },
    );
    if let Some(options) = request.node("stream_options") {
        let options = options.object()?;
        options.only(&["include_usage", "include_obfuscation"], REMEDY)?;
        if let Some(padding) = options.node("include_obfuscation") {
            let mut options = ObjectWriter::begin(body.name("stream_options"));
            options.raw("include_obfuscation", padding.raw.get());
            options.end();
        }
    }
    body.end();
    Ok(out.into_bytes())
}

fn refuse_untranslatable(request: &Members<'_>) -> Result<(), ApiError> {
    for (name, raw) in request.others(&[SAME, TRANSLATED].concat()) {
        match NO_COUNTERPART.iter().find(|(known, ..)| *known == name) {
            Some((_, idle, _)) if idle.contains(&raw.get()) => {}
            Some((.., why)) => return Err(unsupported(name, why)),
            None => {
                return Err(unsupported(
                    &quote(name),
                    &format!(
                        "An upstream that speaks the Responses API has no such parameter. {REMEDY}"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Returns the output limit, which has two names.
fn limit<'a>(request: &Members<'a>) -> Result<Option<&'a str>, ApiError> {
    let of = |name| {
        request
            .node(name)
            .map(|node| node.of_kind(Kind::Number))
            .transpose()
    };
    match (of("max_completion_tokens")?, of("max_tokens")?) {
        (Some(new), Some(old)) if new != old => Err(invalid(
            "max_tokens",
            "the value of 'max_completion_tokens', which means the same, or none",
            &quote(old),
        )),
        (new, old) => Ok(new.or(old)),
    }
}

fn logprobs(request: &Members<'_>, body: &mut ObjectWriter<'_>) -> Result<(), ApiError> {
    let wanted = request
        .node("logprobs")
        .map(|node| node.boolean())
        .transpose()?
        .unwrap_or(false);
    let top = request.node("top_logprobs");
    if wanted {
        body.raw("include", "[\"message.output_text.logprobs\"]");
    }
    match top {
        // 0 is the default.
        Some(top) if !wanted && top.raw.get() != "0" => Err(invalid(
            "top_logprobs",
            "'logprobs': true beside it",
            "none",
        )),
        Some(top) if wanted => {
            body.raw("top_logprobs", top.of_kind(Kind::Number)?);
            Ok(())
        }
        _ => Ok(()),
    }
}

// === tools ===

fn tools(request: &Members<'_>, body: &mut ObjectWriter<'_>) -> Result<(), ApiError> {
    let tools = request
        .node("tools")
        .map(|node| node.array())
        .transpose()?
        .unwrap_or_default();
    if !tools.is_empty() {
        let translated = tools.iter().map(tool).collect::<Result<Vec<_>, _>>()?;
        push_array(body.name("tools"), &translated, |out, tool| {
            out.push_str(tool)
        });
    }
    if let Some(choice) = request.node("tool_choice") {
        body.raw("tool_choice", &tool_choice(&choice)?);
    }
    if let Some(parallel) = request.node("parallel_tool_calls") {
        body.raw("parallel_tool_calls", parallel.of_kind(Kind::Boolean)?);
    }
    Ok(())
}

/// Returns the `function` object of a tool or a choice. Only functions exist in both dialects.
fn function_of<'a>(object: &Members<'a>, known: &[&str]) -> Result<Members<'a>, ApiError> {
    let kind = object.require("type")?;
    let name = kind.text()?;
    if name != "function" {
        let why = "A chat request can offer an upstream that speaks the Responses API tools of type 'function', not";
        return Err(kind.unsupported(&format!(
            "{why} '{}'. Ask with POST /v1/responses for others.",
            quote(&name)
        )));
    }
    object.only(&["type", "function"], REMEDY)?;
    let function = object.require("function")?.object()?;
    function.only(known, REMEDY)?;
    Ok(function)
}

fn tool(node: &Node<'_>) -> Result<String, ApiError> {
    let function = function_of(
        &node.object()?,
        &["name", "description", "parameters", "strict"],
    )?;
    let mut out = String::new();
    let mut tool = ObjectWriter::begin(&mut out);
    tool.raw("type", "\"function\"");
    tool.raw("name", function.require("name")?.of_kind(Kind::String)?);
    if let Some(description) = function.node("description") {
        tool.raw("description", description.of_kind(Kind::String)?);
    }
    // Responses requires both, and defaults to `strict`; chat does not.
    let parameters = function
        .node("parameters")
        .map(|node| node.of_kind(Kind::Object))
        .transpose()?;
    tool.raw(
        "parameters",
        parameters.unwrap_or(r#"{"type":"object","properties":{}}"#),
    );
    let strict = function
        .node("strict")
        .map(|node| node.of_kind(Kind::Boolean))
        .transpose()?;
    tool.raw("strict", strict.unwrap_or("false"));
    tool.end();
    Ok(out)
}

fn tool_choice(node: &Node<'_>) -> Result<String, ApiError> {
    if node.kind() == Kind::String {
        return Ok(node.raw.get().to_owned());
    }
    let object = node.object()?;
    if object.require("type")?.text()? != "allowed_tools" {
        return function_choice(&object);
    }
    object.only(&["type", "allowed_tools"], REMEDY)?;
    let allowed = object.require("allowed_tools")?.object()?;
    allowed.only(&["mode", "tools"], REMEDY)?;
    let tools = allowed.require("tools")?.array()?;
    let tools = tools
        .iter()
        .map(|tool| function_choice(&tool.object()?))
        .collect::<Result<Vec<_>, _>>()?;
    let mut out = String::new();
    let mut choice = ObjectWriter::begin(&mut out);
    choice.raw("type", "\"allowed_tools\"");
    choice.raw("mode", allowed.require("mode")?.of_kind(Kind::String)?);
    push_array(choice.name("tools"), &tools, |out, tool| out.push_str(tool));
    choice.end();
    Ok(out)
}

fn function_choice(object: &Members<'_>) -> Result<String, ApiError> {
    let function = function_of(object, &["name"])?;
    let mut out = String::new();
    let mut choice = ObjectWriter::begin(&mut out);
    choice.raw("type", "\"function\"");
    choice.raw("name", function.require("name")?.of_kind(Kind::String)?);
    choice.end();
    Ok(out)
}

// === text ===

fn text(request: &Members<'_>, body: &mut ObjectWriter<'_>) -> Result<(), ApiError> {
    let (format, verbosity) = (request.node("response_format"), request.node("verbosity"));
    if format.is_none() && verbosity.is_none() {
        return Ok(());
    }
    let mut text = ObjectWriter::begin(body.name("text"));
    if let Some(format) = format {
        text.raw("format", &text_format(&format.object()?)?);
    }
    if let Some(verbosity) = verbosity {
        text.raw("verbosity", verbosity.of_kind(Kind::String)?);
    }
    text.end();
    Ok(())
}

/// Translates `response_format`, which holds a schema under `json_schema`, to `text.format`, which
/// holds it directly.
fn text_format(format: &Members<'_>) -> Result<String, ApiError> {
    let kind = format.require("type")?;
    let name = kind.text()?;
    let mut out = String::new();
    let mut object = ObjectWriter::begin(&mut out);
    object.raw("type", kind.raw.get());
    match name.as_ref() {
        "text" | "json_object" => format.only(&["type"], REMEDY)?,
        "json_schema" => {
            format.only(&["type", "json_schema"], REMEDY)?;
            let schema = format.require("json_schema")?.object()?;
            schema.only(&["name", "description", "schema", "strict"], REMEDY)?;
            object.raw("name", schema.require("name")?.of_kind(Kind::String)?);
            if let Some(description) = schema.node("description") {
                object.raw("description", description.of_kind(Kind::String)?);
            }
            object.raw("schema", schema.require("schema")?.of_kind(Kind::Object)?);
            if let Some(strict) = schema.node("strict") {
                object.raw("strict", strict.of_kind(Kind::Boolean)?);
            }
        }
        other => {
            let why = "An upstream that speaks the Responses API takes the formats 'text', 'json_object' and 'json_schema', not";
            return Err(kind.unsupported(&format!("{why} '{}'. {REMEDY}", quote(other))));
        }
    }
    object.end();
    Ok(out)
}

#[cfg(test)]
mod tests;
