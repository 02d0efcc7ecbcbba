//! Chat messages as response items.
//!
//! The two dialects cut a conversation differently: in chat an assistant's message holds its calls,
//! in Responses each call is an item of its own, and so is each tool's answer.

use crate::model::error::ApiError;
use crate::request::json::{ObjectWriter, push_array};
use crate::request::node::{Kind, Node, Object, quote};

/// What every refusal advises.
pub(super) const REMEDY: &str = "Leave it out, or use an upstream that speaks chat completions.";

/// What an assistant's message may repeat of an earlier answer, or a client library may have added
/// to it, without its being sent: Responses takes reasoning back only with the server's own items
/// around it, and the rest says again what the text and the calls say.
const REPEATED: &[&str] = &[
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking_blocks",
    "annotations",
    "parsed",
    "provider_specific_fields",
];

/// Writes the items that the messages come to, as a JSON array.
pub(super) fn input(messages: &Node<'_>) -> Result<String, ApiError> {
    let mut items = Vec::new();
    for message in messages.array()? {
        push_items(&message.object()?, &mut items)?;
    }
    let mut out = String::new();
    push_array(&mut out, &items, |out, item| out.push_str(item));
    Ok(out)
}

fn push_items(message: &Object<'_>, items: &mut Vec<String>) -> Result<(), ApiError> {
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
            "Functions are called as tools here: answer with a message of the role 'tool'.",
        )),
        other => Err(role.invalid(
            "'system', 'developer', 'user', 'assistant' or 'tool'",
            &format!("'{}'", quote(other)),
        )),
    }
}

/// What was said, if anything, and then the calls, each an item.
fn assistant(message: &Object<'_>, items: &mut Vec<String>) -> Result<(), ApiError> {
    let known = [&["role", "content", "refusal", "tool_calls"], REPEATED].concat();
    message.only(&known, REMEDY)?;
    let calls = message
        .get("tool_calls")
        .map(|node| node.array())
        .transpose()?
        .unwrap_or_default();
    let said = message.get("content");
    let refusal = message
        .get("refusal")
        .map(|node| node.of_kind(Kind::String))
        .transpose()?;
    // Beside calls an empty text says nothing, and an empty message would stand between them and
    // what they answer.
    let silent = said
        .as_ref()
        .is_none_or(|said| matches!(said.raw.get(), "\"\"" | "[]"));
    if let Some(refusal) = refusal {
        let mut parts: Vec<String> = match &said {
            Some(said) if !silent && said.kind() == Kind::String => {
                vec![text_part("output_text", said.raw.get())]
            }
            Some(said) if !silent => said
                .array()?
                .iter()
                .map(|node| part(node, "output_text"))
                .collect::<Result<_, _>>()?,
            _ => Vec::new(),
        };
        parts.push(refusal_part(refusal));
        items.push(message_item("\"assistant\"", &array(&parts)));
    } else if let Some(said) = said.filter(|_| !silent) {
        items.push(message_item(
            "\"assistant\"",
            &content(&said, "output_text")?,
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

fn function_call(call: &Object<'_>) -> Result<String, ApiError> {
    call.only(&["id", "type", "function", "index"], REMEDY)?;
    if let Some(kind) = call.get("type")
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

/// The content of a message as it is sent: one text is a plain string, which every server takes;
/// anything else is an array of parts.
fn content(node: &Node<'_>, text: &str) -> Result<String, ApiError> {
    match node.kind() {
        Kind::String => Ok(node.raw.get().to_owned()),
        Kind::Array => {
            let parts = node.array()?;
            if let [only] = parts.as_slice()
                && let Some(text) = plain(only)?
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

/// The text of a part that holds nothing else.
fn plain<'a>(node: &Node<'a>) -> Result<Option<&'a str>, ApiError> {
    let object = node.object()?;
    if object.require("type")?.text()? != "text"
        || object.others(&["type", "text"]).next().is_some()
    {
        return Ok(None);
    }
    object.require("text")?.of_kind(Kind::String).map(Some)
}

/// A part of chat as a part of Responses. `text` is what a text is called there, which depends on
/// who said it.
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
                .get("detail")
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
                if let Some(value) = file.get(name) {
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
