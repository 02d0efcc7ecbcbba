//! A chat request in canonical form: the members around the conversation.

mod messages;
mod tools;

use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, invalid, quote};
use crate::request::canonical::{CanonicalRequest, Extra, Format, FormatKind, Setting, Value};

/// The advice for what only an upstream of this language has.
const REMEDY: &str = "Leave it out, or use an upstream that speaks chat completions.";

/// Members that are read here, or that have an effect in the gateway only.
const KNOWN: &[&str] = &[
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

/// Members that no other language has: the name, the values that have no effect, and the advice for
/// any other value.
const SPECIFIC: &[(&str, &[&str], &str)] = &[
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
    ("audio", &[], REMEDY),
    ("prediction", &[], REMEDY),
    ("web_search_options", &[], REMEDY),
];

/// Reads a request.
pub(super) fn read<'a>(members: &Members<'a>) -> Result<CanonicalRequest<'a>, ApiError> {
    let mut request = CanonicalRequest {
        items: messages::items(&members.require("messages")?)?,
        tools: tools::tools(members)?,
        tool_choice: members
            .node("tool_choice")
            .map(tools::tool_choice)
            .transpose()?,
        parallel_tool_calls: of_kind(members, "parallel_tool_calls", Kind::Boolean)?,
        verbosity: of_kind(members, "verbosity", Kind::String)?,
        reasoning_effort: of_kind(members, "reasoning_effort", Kind::String)?,
        max_output_tokens: limit(members)?,
        store: members
            .node("store")
            .map(|node| node.boolean())
            .transpose()?
            .unwrap_or(false),
        ..CanonicalRequest::default()
    };
    if let Some(format) = members.node("response_format") {
        request.format = Some(read_format(&format.object()?)?);
    }
    read_logprobs(members, &mut request)?;
    if let Some(options) = members.node("stream_options") {
        let options = options.object()?;
        request.include_obfuscation = options.node("include_obfuscation").map(Value::from);
        request.stream_extra = Extra::others(&options, &["include_usage", "include_obfuscation"]);
    }
    for (name, raw) in members.others(KNOWN) {
        if let Some(setting) = Setting::of(name) {
            let value = Value::new(raw, name.to_owned());
            request.settings.push((setting, value));
            continue;
        }
        let extra = Extra::of(members, name, raw);
        match SPECIFIC.iter().find(|(known, ..)| *known == name) {
            Some((_, idle, _)) if idle.contains(&raw.get()) => {}
            Some((.., advice)) => request.specific.push(Extra { advice, ..extra }),
            None => request.extra.push(extra),
        }
    }
    Ok(request)
}

fn of_kind<'a>(
    members: &Members<'a>,
    name: &str,
    kind: Kind,
) -> Result<Option<Value<'a>>, ApiError> {
    members
        .node(name)
        .map(|node| Value::of_kind(node, kind))
        .transpose()
}

/// Returns the output limit, which has two names.
fn limit<'a>(members: &Members<'a>) -> Result<Option<Value<'a>>, ApiError> {
    let new = of_kind(members, "max_completion_tokens", Kind::Number)?;
    let old = of_kind(members, "max_tokens", Kind::Number)?;
    match (new, old) {
        (Some(new), Some(old)) if new.json() != old.json() => Err(invalid(
            "max_tokens",
            "the value of 'max_completion_tokens', which means the same, or none",
            &quote(old.json()),
        )),
        (new, old) => Ok(new.or(old)),
    }
}

fn read_logprobs<'a>(
    members: &Members<'a>,
    request: &mut CanonicalRequest<'a>,
) -> Result<(), ApiError> {
    request.logprobs = members
        .node("logprobs")
        .map(|node| node.boolean())
        .transpose()?
        .unwrap_or(false);
    match members.node("top_logprobs") {
        // 0 is the default.
        Some(top) if !request.logprobs && top.raw.get() != "0" => Err(invalid(
            "top_logprobs",
            "'logprobs': true beside it",
            "none",
        )),
        Some(top) if request.logprobs => {
            request.top_logprobs = Some(Value::of_kind(top, Kind::Number)?);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Reads `response_format`, which has the schema under `json_schema`.
fn read_format<'a>(format: &Members<'a>) -> Result<Format<'a>, ApiError> {
    let name = format.require("type")?;
    let (kind, extra) = match name.text()?.as_ref() {
        "text" => (FormatKind::Text, Extra::others(format, &["type"])),
        "json_object" => (FormatKind::JsonObject, Extra::others(format, &["type"])),
        "json_schema" => {
            let schema = format.require("json_schema")?.object()?;
            let mut extra = Extra::others(format, &["type", "json_schema"]);
            extra.extend(Extra::others(
                &schema,
                &["name", "description", "schema", "strict"],
            ));
            let kind = FormatKind::JsonSchema {
                name: Value::of_kind(schema.require("name")?, Kind::String)?,
                description: of_kind(&schema, "description", Kind::String)?,
                schema: Value::of_kind(schema.require("schema")?, Kind::Object)?,
                strict: of_kind(&schema, "strict", Kind::Boolean)?,
            };
            (kind, extra)
        }
        _ => (FormatKind::Other, Vec::new()),
    };
    Ok(Format {
        kind,
        name: name.into(),
        extra,
    })
}
