//! Chat messages as response items.
//!
//! In chat an assistant message holds its tool calls. In Responses each call is an item, and so is
//! each tool output.

use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node, ObjectWriter, push_array, quote};

/// The advice in every refusal.
pub(super) const REMEDY: &str = "Leave it out, or use an upstream that speaks chat completions.";

/// Members of an assistant message that are accepted and not sent. Responses takes reasoning back
/// only with the server's own items around it. The others repeat the text and the calls, or were
/// added by a client library.
const REPEATED: &[&str] = &[
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking_blocks",
    "annotations",
    "parsed",
    "provider_specific_fields",
];

/// Writes the messages as items, in a JSON array.
pub(super) fn input(messages: &Node<'_>) -> Result<String, ApiError> {
    let mut items = Vec::new();
    for message in messages.array()? {
        push_items(&message.object()?, &mut items)?;
    }
    let mut out = String::new();
    push_array(&mut out, &items, |out, item| out.push_str(item));
    Ok(out)
}

fn push_items(message: &Members<'_>, items: &mut Vec<String>) -> Result<(), ApiError> {
    let role = message.require("role")?;
    match role.text()?.as_ref() {
        "system" | "developer" | "user" => {
            message.only(&["role", "content"], REMEDY)?;
            let given = message.require("content")?;
            items.push(message_item(
                role.raw.get(),
                &content(&given, "input_text")?,
            ));
            Ok(())
        }
        "assistant" => assistant(message, items),
        "tool" => {
            message.only(&["role", "content", "tool_call_id"], REMEDY)?;
            let output = content(&message.require("content")?, "input_text")?;
            let mut out = String::new();
            let mut item = ObjectWriter::begin(&mut out);
            item.raw("type", "\"function_call_output\"");
            item.raw(
                "call_id",
                message.require("tool_call_id")?.of_kind(Kind::String)?,
            );
            item.raw("output", &output);
            item.end();
            items.push(out);
            Ok(())
        }
        "function" => Err(role.unsupported(
            "Functions are called as tools: answer with a message of the role 'tool'.",
        )),
        other => Err(role.invalid(
            "'system', 'developer', 'user', 'assistant' or 'tool'",
            &format!("'{}'", quote(other)),
        )),
    }
}

/// Writes the text, if there is any, then each call as an item.
fn assistant(message: &Members<'_>, items: &mut Vec<String>) -> Result<(), ApiError> {
    let known = [&["role", "content", "refusal", "tool_calls"], REPEATED].concat();
    message.only(&known, REMEDY)?;
    let calls = message
        .node("tool_calls")
        .map(|node| node.array())
        .transpose()?
        .unwrap_or_default();
    let given = message.node("content");
    let refusal = message
        .node("refusal")
        .map(|node| node.of_kind(Kind::String))
        .transpose()?;
    // An empty message would stand between the calls and the message that they answer.
    let silent = given
        .as_ref()
        .is_none_or(|given| matches!(given.raw.get(), "\"\"" | "[]"));
    if let Some(refusal) = refusal {
        let mut parts: Vec<String> = match &given {
            Some(given) if !silent && given.kind() == Kind::String => {
                vec![text_part("output_text", given.raw.get())]
            }
            Some(given) if !silent => given
                .array()?
                .iter()
                .map(|node| part(node, "output_text"))
                .collect::<Result<_, _>>()?,
            _ => Vec::new(),
        };
        parts.push(refusal_part(refusal));
        items.push(message_item("\"assistant\"", &array(&parts)));
    } else if let Some(given) = given.filter(|_| !silent) {
        items.push(message_item(
            "\"assistant\"",
            &content(&given, "output_text")?,
        ));
    } else if calls.is_empty() {
        items.push(message_item("\"assistant\"", "\"\""));
    }
    for call in &calls {
        items.push(function_call(&call.object()?)?);
    }
    Ok(())
}

fn message_item(role: &str, content: &str) -> String {
    let mut out = String::new();
    let mut item = ObjectWriter::begin(&mut out);
    item.raw("type", "\"message\"");
    item.raw("role", role);
    item.raw("content", content);
    item.end();
    out
}

fn function_call(call: &Members<'_>) -> Result<String, ApiError> {
    call.only(&["id", "type", "function", "index"], REMEDY)?;
    if let Some(kind) = call.node("type")
        && kind.text()? != "function"
    {
        return Err(kind.unsupported(&format!(
            "Calls of functions can be sent to a Responses upstream, no others. {REMEDY}"
        )));
    }
    let function = call.require("function")?.object()?;
    function.only(&["name", "arguments", "parsed_arguments"], REMEDY)?;
    let mut out = String::new();
    let mut item = ObjectWriter::begin(&mut out);
    item.raw("type", "\"function_call\"");
    item.raw("call_id", call.require("id")?.of_kind(Kind::String)?);
    item.raw("name", function.require("name")?.of_kind(Kind::String)?);
    item.raw(
        "arguments",
        function.require("arguments")?.of_kind(Kind::String)?,
    );
    item.end();
    Ok(out)
}

// === content ===

/// Translates the content of a message. A single text becomes a string, which every server accepts;
/// anything else an array of parts.
fn content(node: &Node<'_>, text: &str) -> Result<String, ApiError> {
    match node.kind() {
        Kind::String => Ok(node.raw.get().to_owned()),
        Kind::Array => {
            let parts = node.array()?;
            if let [only] = parts.as_slice()
                && let Some(text) = single_text(only)?
            {
                return Ok(text.to_owned());
            }
            let parts = parts
                .iter()
                .map(|node| part(node, text))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(array(&parts))
        }
        _ => Err(node.wrong_type("a string or an array of parts")),
    }
}

fn array(parts: &[String]) -> String {
    let mut out = String::new();
    push_array(&mut out, parts, |out, part| out.push_str(part));
    out
}

/// Returns the text of a text part that has no other members.
fn single_text<'a>(node: &Node<'a>) -> Result<Option<&'a str>, ApiError> {
    let object = node.object()?;
    if object.require("type")?.text()? != "text"
        || object.others(&["type", "text"]).next().is_some()
    {
        return Ok(None);
    }
    object.require("text")?.of_kind(Kind::String).map(Some)
}

/// Translates a content part. `text` is the type of a text part in Responses: `input_text`, or
/// `output_text` for an assistant.
fn part(node: &Node<'_>, text: &str) -> Result<String, ApiError> {
    let object = node.object()?;
    let kind = object.require("type")?;
    let name = kind.text()?;
    let assistant = text == "output_text";
    let inner = |known: &[&str]| {
        object.only(&["type", &*name], REMEDY)?;
        let inner = object.require(&name)?.object()?;
        inner.only(known, REMEDY).map(|()| inner)
    };
    let mut out = String::new();
    let mut part = ObjectWriter::begin(&mut out);
    match name.as_ref() {
        "text" => {
            object.only(&["type", "text"], REMEDY)?;
            return Ok(text_part(
                text,
                object.require("text")?.of_kind(Kind::String)?,
            ));
        }
        "refusal" if assistant => {
            object.only(&["type", "refusal"], REMEDY)?;
            return Ok(refusal_part(
                object.require("refusal")?.of_kind(Kind::String)?,
            ));
        }
        "image_url" if !assistant => {
            let image = inner(&["url", "detail"])?;
            part.raw("type", "\"input_image\"");
            part.raw("image_url", image.require("url")?.of_kind(Kind::String)?);
            let detail = image
                .node("detail")
                .map(|node| node.of_kind(Kind::String))
                .transpose()?;
            part.raw("detail", detail.unwrap_or("\"auto\""));
        }
        "input_audio" if !assistant => {
            let audio = inner(&["data", "format"])?;
            part.raw("type", "\"input_audio\"");
            let mut object = ObjectWriter::begin(part.name("input_audio"));
            object.raw("data", audio.require("data")?.of_kind(Kind::String)?);
            object.raw("format", audio.require("format")?.of_kind(Kind::String)?);
            object.end();
        }
        "file" if !assistant => {
            const NAMES: &[&str] = &["filename", "file_data", "file_id"];
            let file = inner(NAMES)?;
            part.raw("type", "\"input_file\"");
            for name in NAMES {
                if let Some(value) = file.node(name) {
                    part.raw(name, value.of_kind(Kind::String)?);
                }
            }
        }
        other => {
            let known = if assistant {
                "'text' and 'refusal'"
            } else {
                "'text', 'image_url', 'input_audio' and 'file'"
            };
            let why = format!(
                "A message of this role takes parts of type {known}, not '{}'. {REMEDY}",
                quote(other)
            );
            return Err(kind.unsupported(&why));
        }
    }
    part.end();
    Ok(out)
}

fn text_part(kind: &str, text: &str) -> String {
    let mut out = String::new();
    let mut part = ObjectWriter::begin(&mut out);
    part.string("type", kind);
    part.raw("text", text);
    part.end();
    out
}

fn refusal_part(refusal: &str) -> String {
    let mut out = String::new();
    let mut part = ObjectWriter::begin(&mut out);
    part.raw("type", "\"refusal\"");
    part.raw("refusal", refusal);
    part.end();
    out
}
