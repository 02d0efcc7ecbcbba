//! Input items as the gateway keeps them, for `input_items` and for the history of later turns.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node, ObjectWriter, missing, push_array, raw_value};

/// The id of an item, or the prefix of the id that the item gets.
pub(super) type ItemId = Result<String, &'static str>;

/// Returns the type of an item. As in OpenAI's API it is optional for a message (which has a
/// `role`) and for a reference (which has an `id`).
pub(super) fn type_of<'a>(item: &Members<'a>) -> Result<Cow<'a, str>, ApiError> {
    match item.node("type") {
        Some(node) => node.text(),
        None if item.node("role").is_some() => Ok(Cow::Borrowed("message")),
        None if item.node("id").is_some() => Ok(Cow::Borrowed("item_reference")),
        None => Err(missing(&item.path_of("type"))),
    }
}

/// Checks `input` as far as listing its items needs, and returns their ids.
pub(super) fn identify(input: &Node<'_>) -> Result<Vec<ItemId>, ApiError> {
    match input.kind() {
        Kind::String => {
            input.text()?;
            Ok(vec![Err("msg_")])
        }
        Kind::Array => input.array()?.iter().map(identify_item).collect(),
        _ => Err(input.wrong_type("a string or an array of items")),
    }
}

fn identify_item(item: &Node<'_>) -> Result<ItemId, ApiError> {
    if item.kind() != Kind::Object {
        return Err(item.wrong_type("an item, which is an object"));
    }
    let object = item.object()?;
    let kind = type_of(&object)?;
    if kind == "message" {
        object.require("role")?.text()?;
        let content = object.require("content")?;
        match content.kind() {
            Kind::String => {}
            Kind::Array => {
                for part in content.array()? {
                    part.object()?.require("type")?.text()?;
                }
            }
            _ => return Err(content.wrong_type("a string or an array of parts")),
        }
    }
    if let Some(id) = object.node("id") {
        return Ok(Ok(id.text()?.into_owned()));
    }
    Ok(Err(match kind.as_ref() {
        "message" => "msg_",
        "function_call" => "fc_",
        "function_call_output" => "fco_",
        "reasoning" => "rs_",
        "item_reference" => return Err(missing(&object.path_of("id"))),
        _ => "item_",
    }))
}

/// Returns the items of an `input` in the form in which they are listed. `ids` has one
/// for each. References are left out: the item that they name is listed where it was first
/// sent.
pub(super) fn listed(input: &Node<'_>, ids: &[String]) -> Vec<Box<RawValue>> {
    let Ok(items) = input.array() else {
        return ids
            .first()
            .map(|id| prompt(input.raw.get(), id))
            .into_iter()
            .collect();
    };
    let mut list = Vec::with_capacity(items.len());
    for (item, id) in items.iter().zip(ids) {
        // `identify` has read the same, so neither fails.
        let Ok(object) = item.object() else { continue };
        let Ok(kind) = type_of(&object) else { continue };
        if kind != "item_reference" {
            list.push(complete(&object, &kind, id));
        }
    }
    list
}

/// Writes a string input as a user message.
fn prompt(text: &str, id: &str) -> Box<RawValue> {
    let mut out = String::with_capacity(text.len() + 160);
    let mut item = ObjectWriter::begin(&mut out);
    item.raw("type", "\"message\"");
    item.string("id", id);
    item.raw("status", "\"completed\"");
    item.raw("role", "\"user\"");
    push_text_content(item.name("content"), text, false);
    item.end();
    raw_value(out)
}

/// Writes an item with every member that a listed item requires.
fn complete(object: &Members<'_>, kind: &str, id: &str) -> Box<RawValue> {
    let mut out = String::new();
    let mut item = ObjectWriter::begin(&mut out);
    item.string("type", kind);
    item.string("id", id);
    if matches!(kind, "message" | "function_call" | "function_call_output") {
        let status = object.node("status");
        item.raw(
            "status",
            status
                .as_ref()
                .map_or("\"completed\"", |status| status.raw.get()),
        );
    }
    if kind == "reasoning" && object.node("summary").is_none() {
        item.raw("summary", "[]");
    }
    let assistant = object
        .node("role")
        .is_some_and(|role| role.raw.get() == "\"assistant\"");
    for (name, raw) in object.others(&["type", "id", "status"]) {
        if kind == "message" && name == "content" {
            push_content(item.name("content"), &Node::new(raw, "content"), assistant);
        } else if kind == "function_call_output" && name == "output" && Kind::of(raw) == Kind::Array
        {
            push_content(item.name("output"), &Node::new(raw, "output"), false);
        } else {
            item.raw(name, raw.get());
        }
    }
    item.end();
    raw_value(out)
}

fn push_content(out: &mut String, content: &Node<'_>, assistant: bool) {
    match content.array() {
        Ok(parts) => push_array(out, &parts, |out, part| match part.object() {
            Ok(object) => push_part(out, &object),
            Err(_) => out.push_str(part.raw.get()),
        }),
        Err(_) => push_text_content(out, content.raw.get(), assistant),
    }
}

/// Writes one text part. `text` is a JSON string.
fn push_text_content(out: &mut String, text: &str, assistant: bool) {
    out.push('[');
    let mut part = ObjectWriter::begin(out);
    part.raw(
        "type",
        if assistant {
            "\"output_text\""
        } else {
            "\"input_text\""
        },
    );
    part.raw("text", text);
    if assistant {
        part.raw("annotations", "[]");
    }
    part.end();
    out.push(']');
}

/// Writes a part with every member that a listed part requires.
fn push_part(out: &mut String, object: &Members<'_>) {
    let mut part = ObjectWriter::begin(out);
    let mut required: &[(&str, &str)] = &[];
    if let Some(kind) = object.node("type") {
        required = match kind.raw.get() {
            "\"output_text\"" => &[("annotations", "[]")],
            "\"input_image\"" => &[("image_url", "null"), ("detail", "\"auto\"")],
            _ => &[],
        };
    }
    for (name, raw) in object.others(&[]) {
        part.raw(name, raw.get());
    }
    for (name, default) in required {
        if object.node(name).is_none() {
            part.raw(name, default);
        }
    }
    part.end();
}
