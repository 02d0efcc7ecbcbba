//! The fields of a response object that repeat the request.

use std::fmt;
use std::sync::{Arc, LazyLock};

use serde_json::value::RawValue;

use crate::model::json::{Kind, Members, Node, ObjectWriter, RawObject, push_array};

/// The fields that a response object repeats from its request, in the order of Open Responses'
/// schema, with the kind that the schema requires and the default. `user` is OpenAI's and comes
/// last.
const FIELDS: &[(&str, Kind, &str)] = &[
    ("previous_response_id", Kind::String, "null"),
    ("instructions", Kind::String, "null"),
    ("tools", Kind::Array, "[]"),
    ("tool_choice", Kind::String, "\"auto\""),
    ("truncation", Kind::String, "\"disabled\""),
    ("parallel_tool_calls", Kind::Boolean, "true"),
    ("text", Kind::Object, r#"{"format":{"type":"text"}}"#),
    ("top_p", Kind::Number, "1.0"),
    ("presence_penalty", Kind::Number, "0.0"),
    ("frequency_penalty", Kind::Number, "0.0"),
    ("top_logprobs", Kind::Number, "0"),
    ("temperature", Kind::Number, "1.0"),
    (
        "reasoning",
        Kind::Object,
        r#"{"effort":null,"summary":null}"#,
    ),
    ("max_output_tokens", Kind::Number, "null"),
    ("max_tool_calls", Kind::Number, "null"),
    ("store", Kind::Boolean, "true"),
    ("background", Kind::Boolean, "false"),
    ("service_tier", Kind::String, "\"auto\""),
    ("metadata", Kind::Object, "{}"),
    ("safety_identifier", Kind::String, "null"),
    ("prompt_cache_key", Kind::String, "null"),
    ("user", Kind::String, "null"),
];

/// Bytes of the fields at their defaults, with some reserve.
const CAPACITY: usize = 768;

/// The members of a response object that come from the request, ready to be written:
/// `"name":value` for each field, with commas between them. Cheap to clone.
///
/// `Debug` shows no contents.
#[derive(Clone)]
pub struct RequestFields {
    json: Arc<str>,
    max_output: Option<u64>,
}

/// Every field at its default, shared by most requests.
static DEFAULT: LazyLock<RequestFields> =
    LazyLock::new(|| RequestFields::write(&[const { None }; FIELDS.len()]));

impl RequestFields {
    pub(super) fn from_chat(object: &Members<'_>) -> Self {
        Self::build(|name, kind| match name {
            "tools" => Some(tools(&object.node("tools")?, flat_tool)),
            "tool_choice" => chat_tool_choice(&object.node("tool_choice")?),
            "text" => chat_text(object),
            "reasoning" => Some(reasoning(Some(&object.node("reasoning_effort")?), None)),
            "max_output_tokens" => ["max_completion_tokens", "max_tokens"]
                .iter()
                .find_map(|name| integer(&object.node(name)?)),
            "top_logprobs" => integer(&object.node(name)?),
            // These have no meaning in a chat request.
            "previous_response_id"
            | "instructions"
            | "truncation"
            | "max_tool_calls"
            | "background" => None,
            _ => of_kind(&object.node(name)?, kind),
        })
    }

    pub(super) fn from_responses(raw: &RawObject) -> Self {
        Self::build(|name, kind| {
            let node = raw.node(name)?;
            match name {
                "tools" => Some(tools(&node, |tool| Some(complete_tool(tool)))),
                "tool_choice" => Some(node.raw.get().to_owned()),
                "text" => text(&node.object().ok()?),
                "reasoning" => {
                    let object = node.object().ok()?;
                    Some(reasoning(
                        object.node("effort").as_ref(),
                        object.node("summary").as_ref(),
                    ))
                }
                _ => of_kind(&node, kind),
            }
        })
    }

    fn build(value: impl Fn(&str, Kind) -> Option<String>) -> Self {
        let mut given = [const { None }; FIELDS.len()];
        for (given, &(name, kind, default)) in given.iter_mut().zip(FIELDS) {
            *given = value(name, kind).filter(|value| value != default);
        }
        if given.iter().all(Option::is_none) {
            DEFAULT.clone()
        } else {
            Self::write(&given)
        }
    }

    fn write(given: &[Option<String>; FIELDS.len()]) -> Self {
        let mut json = String::with_capacity(CAPACITY);
        let mut object = ObjectWriter::members(&mut json);
        for (given, &(name, _, default)) in given.iter().zip(FIELDS) {
            object.raw(name, given.as_deref().unwrap_or(default));
        }
        let max_output = FIELDS.iter().zip(given);
        let max_output = max_output
            .filter(|((name, ..), _)| *name == "max_output_tokens")
            .find_map(|(_, given)| given.as_deref()?.parse().ok());
        Self {
            json: json.into(),
            max_output,
        }
    }

    /// Returns the most output tokens of the answer, if the request says so.
    pub(crate) fn max_output(&self) -> Option<u64> {
        self.max_output
    }

    /// Returns `"field":value` for every field, with commas between them, to be spliced into an
    /// object.
    #[must_use]
    pub fn into_json(self) -> Arc<str> {
        self.json
    }
}

impl Default for RequestFields {
    /// Every field at its default.
    fn default() -> Self {
        DEFAULT.clone()
    }
}

impl fmt::Debug for RequestFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestFields")
            .field("bytes", &self.json.len())
            .finish_non_exhaustive()
    }
}

/// Returns the raw value if it is of that kind. A string must be valid Unicode.
fn of_kind(node: &Node<'_>, kind: Kind) -> Option<String> {
    let raw = node.of_kind(kind).ok()?;
    (kind != Kind::String || node.text().is_ok()).then(|| raw.to_owned())
}

fn integer(node: &Node<'_>) -> Option<String> {
    node.integer(0, u64::MAX)
        .ok()
        .map(|number| number.to_string())
}

fn or_null(node: Option<Node<'_>>, kind: Kind) -> String {
    node.and_then(|node| of_kind(&node, kind))
        .unwrap_or_else(|| "null".to_owned())
}

// === tools ===

fn tools(node: &Node<'_>, each: impl Fn(&Node<'_>) -> Option<String>) -> String {
    let tools: Vec<String> = node
        .array()
        .unwrap_or_default()
        .iter()
        .filter_map(each)
        .collect();
    let mut out = String::new();
    push_array(&mut out, &tools, |out, tool| out.push_str(tool));
    out
}

/// Completes a tool of the Responses API. A function gets every member that the schema requires;
/// any other tool is unchanged.
fn complete_tool(node: &Node<'_>) -> String {
    match node.object() {
        Ok(object)
            if object
                .node("type")
                .is_some_and(|kind| kind.raw.get() == "\"function\"") =>
        {
            function(&object, &object)
        }
        _ => node.raw.get().to_owned(),
    }
}

/// Translates a function tool of a chat request; `None` for tools without a counterpart.
fn flat_tool(node: &Node<'_>) -> Option<String> {
    let object = node.object().ok()?;
    let inner = object.node("function")?.object().ok()?;
    inner.node("name")?.of_kind(Kind::String).ok()?;
    Some(function(&inner, &object))
}

fn function(inner: &Members<'_>, outer: &Members<'_>) -> String {
    let mut out = String::new();
    let mut tool = ObjectWriter::begin(&mut out);
    tool.raw("type", "\"function\"");
    for (name, kind) in [
        ("name", Kind::String),
        ("description", Kind::String),
        ("parameters", Kind::Object),
        ("strict", Kind::Boolean),
    ] {
        tool.raw(name, &or_null(inner.node(name), kind));
    }
    for (name, value) in outer.others(&[
        "type",
        "function",
        "name",
        "description",
        "parameters",
        "strict",
    ]) {
        tool.raw(name, value.get());
    }
    tool.end();
    out
}

fn chat_tool_choice(node: &Node<'_>) -> Option<String> {
    if node.kind() == Kind::String {
        return matches!(node.raw.get(), "\"none\"" | "\"auto\"" | "\"required\"")
            .then(|| node.raw.get().to_owned());
    }
    let object = node.object().ok()?;
    let Some(allowed) = object.node("allowed_tools") else {
        return flat_choice(&object);
    };
    let allowed = allowed.object().ok()?;
    let mut out = String::new();
    let mut choice = ObjectWriter::begin(&mut out);
    choice.raw("type", "\"allowed_tools\"");
    choice.raw("mode", &of_kind(&allowed.node("mode")?, Kind::String)?);
    choice.raw(
        "tools",
        &tools(&allowed.node("tools")?, |tool| {
            flat_choice(&tool.object().ok()?)
        }),
    );
    choice.end();
    Some(out)
}

fn flat_choice(object: &Members<'_>) -> Option<String> {
    let name = of_kind(
        &object.node("function")?.object().ok()?.node("name")?,
        Kind::String,
    )?;
    let mut out = String::new();
    let mut choice = ObjectWriter::begin(&mut out);
    choice.raw("type", "\"function\"");
    choice.raw("name", &name);
    choice.end();
    Some(out)
}

// === text and reasoning ===

fn text(object: &Members<'_>) -> Option<String> {
    let format = object
        .node("format")
        .map(|node| node.object())
        .transpose()
        .ok()?;
    let format = match format {
        Some(format)
            if format
                .node("type")
                .is_some_and(|kind| kind.raw.get() == "\"json_schema\"") =>
        {
            schema_format(&format)
        }
        Some(_) => object.node("format").map(|node| node.raw.get().to_owned()),
        None => None,
    };
    Some(write_text(format, object.node("verbosity").as_ref()))
}

fn chat_text(object: &Members<'_>) -> Option<String> {
    let (format, verbosity) = (object.node("response_format"), object.node("verbosity"));
    if format.is_none() && verbosity.is_none() {
        return None;
    }
    let format = format.and_then(|node| {
        let format = node.object().ok()?;
        match format.node("type")?.raw.get() {
            "\"json_schema\"" => schema_format(&format.node("json_schema")?.object().ok()?),
            "\"json_object\"" => Some(r#"{"type":"json_object"}"#.to_owned()),
            _ => None,
        }
    });
    Some(write_text(format, verbosity.as_ref()))
}

/// Writes a `json_schema` format as Open Responses defines it: every member present, `strict` a
/// boolean, `schema` always `null`, since the schema is not repeated.
fn schema_format(schema: &Members<'_>) -> Option<String> {
    let mut out = String::new();
    let mut format = ObjectWriter::begin(&mut out);
    format.raw("type", "\"json_schema\"");
    format.raw("name", &of_kind(&schema.node("name")?, Kind::String)?);
    format.raw(
        "description",
        &or_null(schema.node("description"), Kind::String),
    );
    format.raw("schema", RawValue::NULL.get());
    let strict = schema
        .node("strict")
        .and_then(|node| of_kind(&node, Kind::Boolean));
    format.raw("strict", strict.as_deref().unwrap_or("false"));
    format.end();
    Some(out)
}

fn write_text(format: Option<String>, verbosity: Option<&Node<'_>>) -> String {
    let mut out = String::new();
    let mut text = ObjectWriter::begin(&mut out);
    text.raw("format", format.as_deref().unwrap_or(r#"{"type":"text"}"#));
    if let Some(verbosity) = verbosity.and_then(|node| of_kind(node, Kind::String)) {
        text.raw("verbosity", &verbosity);
    }
    text.end();
    out
}

fn reasoning(effort: Option<&Node<'_>>, summary: Option<&Node<'_>>) -> String {
    let mut out = String::new();
    let mut object = ObjectWriter::begin(&mut out);
    object.raw("effort", &or_null(effort.cloned(), Kind::String));
    object.raw("summary", &or_null(summary.cloned(), Kind::String));
    object.end();
    out
}
