//! A chat request as a responses request: the members around the conversation.
//!
//! The other way round, in `request/translation.rs`, what is not known goes up unchanged, since
//! chat servers each have members of their own. Here nothing does: a member that this module does
//! not know was meant for a chat server, and one that speaks Responses would drop it or refuse it
//! under a name that the client never used.

use super::items::{REMEDY, input};
use crate::model::error::ApiError;
use crate::request::json::{ObjectWriter, push_array, quoted};
use crate::request::node::{Kind, Node, Object, invalid, quote, unsupported};

/// What is called the same in both dialects, and means the same.
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

/// What is translated here.
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

/// What Responses has no word for, the values that ask for nothing, and what to do instead of the
/// others.
const WORDLESS: &[(&str, &[&str], &str)] = &[
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
    ("function_call", &[], "Say it with 'tool_choice'."),
];

pub(super) fn to_responses(request: &Object<'_>, model: &str) -> Result<Vec<u8>, ApiError> {
    refuse(request)?;
    let mut out = String::new();
    let mut body = ObjectWriter::begin(&mut out);
    body.raw("model", &quoted(model));
    body.raw("input", &input(&request.require("messages")?)?);
    tools(request, &mut body)?;
    text(request, &mut body)?;
    if let Some(effort) = request.get("reasoning_effort") {
        let mut reasoning = ObjectWriter::begin(body.name("reasoning"));
        reasoning.raw("effort", effort.of_kind(Kind::String)?);
        reasoning.end();
    }
    if let Some(limit) = limit(request)? {
        body.raw("max_output_tokens", limit);
    }
    logprobs(request, &mut body)?;
    for &name in SAME {
        if let Some(value) = request.get(name) {
            body.raw(name, value.raw.get());
        }
    }
    body.raw("stream", "true");
    // Chat keeps nothing unless told to, Responses everything.
    body.raw(
        "store",
        if request
            .get("store")
            .map(|node| node.boolean())
            .transpose()?
            == Some(true)
        {
            "true"
        } else {
            "false"
        },
    );
    if let Some(options) = request.get("stream_options") {
        let options = options.object()?;
        options.only(&["include_usage", "include_obfuscation"], REMEDY)?;
        if let Some(padding) = options.get("include_obfuscation") {
            let mut options = ObjectWriter::begin(body.name("stream_options"));
            options.raw("include_obfuscation", padding.raw.get());
            options.end();
        }
    }
    body.end();
    Ok(out.into_bytes())
}

fn refuse(request: &Object<'_>) -> Result<(), ApiError> {
    for (name, raw) in request.others(&[SAME, TRANSLATED].concat()) {
        match WORDLESS.iter().find(|(known, ..)| *known == name) {
            Some((_, idle, _)) if idle.contains(&raw.get()) => {}
            Some((.., why)) => return Err(unsupported(name, why)),
            None => {
                return Err(unsupported(
                    &quote(name),
                    &format!(
                        "It cannot be said to an upstream that speaks the Responses API. {REMEDY}"
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// The two names for one limit.
fn limit<'a>(request: &Object<'a>) -> Result<Option<&'a str>, ApiError> {
    let of = |name| {
        request
            .get(name)
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

fn logprobs(request: &Object<'_>, body: &mut ObjectWriter<'_>) -> Result<(), ApiError> {
    let wanted = request
        .get("logprobs")
        .map(|node| node.boolean())
        .transpose()?
        .unwrap_or(false);
    let top = request.get("top_logprobs");
    if wanted {
        body.raw("include", "[\"message.output_text.logprobs\"]");
    }
    match top {
        // 0 is what holds when nothing is said.
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

fn tools(request: &Object<'_>, body: &mut ObjectWriter<'_>) -> Result<(), ApiError> {
    let tools = request
        .get("tools")
        .map(|node| node.array())
        .transpose()?
        .unwrap_or_default();
    if !tools.is_empty() {
        let translated = tools.iter().map(tool).collect::<Result<Vec<_>, _>>()?;
        push_array(body.name("tools"), &translated, |out, tool| {
            out.push_str(tool)
        });
    }
    if let Some(choice) = request.get("tool_choice") {
        body.raw("tool_choice", &tool_choice(&choice)?);
    }
    if let Some(parallel) = request.get("parallel_tool_calls") {
        body.raw("parallel_tool_calls", parallel.of_kind(Kind::Boolean)?);
    }
    Ok(())
}

/// The inside of something that has its members under the name of its type; only functions are
/// known in both dialects.
fn function_of<'a>(object: &Object<'a>, known: &[&str]) -> Result<Object<'a>, ApiError> {
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
    if let Some(description) = function.get("description") {
        tool.raw("description", description.of_kind(Kind::String)?);
    }
    // Responses wants both said, and means `strict` where chat does not.
    let parameters = function
        .get("parameters")
        .map(|node| node.of_kind(Kind::Object))
        .transpose()?;
    tool.raw(
        "parameters",
        parameters.unwrap_or(r#"{"type":"object","properties":{}}"#),
    );
    let strict = function
        .get("strict")
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

fn function_choice(object: &Object<'_>) -> Result<String, ApiError> {
    let function = function_of(object, &["name"])?;
    let mut out = String::new();
    let mut choice = ObjectWriter::begin(&mut out);
    choice.raw("type", "\"function\"");
    choice.raw("name", function.require("name")?.of_kind(Kind::String)?);
    choice.end();
    Ok(out)
}

// === text ===

fn text(request: &Object<'_>, body: &mut ObjectWriter<'_>) -> Result<(), ApiError> {
    let (format, verbosity) = (request.get("response_format"), request.get("verbosity"));
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

/// `response_format`, which holds a schema under `json_schema`, as `text.format`, which holds it
/// directly.
fn text_format(format: &Object<'_>) -> Result<String, ApiError> {
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
            if let Some(description) = schema.get("description") {
                object.raw("description", description.of_kind(Kind::String)?);
            }
            object.raw("schema", schema.require("schema")?.of_kind(Kind::Object)?);
            if let Some(strict) = schema.get("strict") {
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
