//! Input items as the gateway keeps them: what `input_items` lists and what a later turn's history
//! is made of.

use std::borrow::Cow;

use rand::Rng;
use rand::distr::Alphanumeric;
use serde_json::value::RawValue;

use super::json::{ObjectWriter, push_array, raw_value};
use super::node::{Kind, Node, Object, missing};
use crate::model::error::ApiError;

/// Characters after an id's prefix: 32 out of 62 are 190 random bits.
const ID_CHARS: usize = 32;

/// A fresh id, `prefix` and 32 random letters and digits.
fn new_id(prefix: &str) -> String {
    let mut id = String::with_capacity(prefix.len() + ID_CHARS);
    id.push_str(prefix);
    id.extend(
        rand::rng()
            .sample_iter(Alphanumeric)
            .take(ID_CHARS)
            .map(char::from),
    );
    id
}

/// The type of an item. As in OpenAI's API a message may leave it out, and so may a reference,
/// which then is an `id` without a role.
pub(super) fn type_of<'a>(item: &Object<'a>) -> Result<Cow<'a, str>, ApiError> {
    match item.get("type") {
        Some(node) => node.text(),
        None if item.get("role").is_some() => Ok(Cow::Borrowed("message")),
        None if item.get("id").is_some() => Ok(Cow::Borrowed("item_reference")),
        None => Err(missing(&item.path_of("type"))),
    }
}

/// Checks the shape of `input` as far as items can be listed without further errors, and gives each
/// its id: its own, or a new one.
pub(super) fn identify(input: &Node<'_>) -> Result<Vec<String>, ApiError> {
    match input.kind() {
        Kind::String => {
            input.text()?;
            Ok(vec![new_id("msg_")])
        }
        Kind::Array => input.array()?.iter().map(identify_item).collect(),
        _ => Err(input.wrong_type("a string or an array of items")),
    }
}

fn identify_item(item: &Node<'_>) -> Result<String, ApiError> {
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
    if let Some(id) = object.get("id") {
        return Ok(id.text()?.into_owned());
    }
    Ok(new_id(match kind.as_ref() {
        "message" => "msg_",
        "function_call" => "fc_",
        "function_call_output" => "fco_",
        "reasoning" => "rs_",
        "item_reference" => return Err(missing(&object.path_of("id"))),
        _ => "item_",
    }))
}

/// The items of an `input` that [`identify`] has seen, with the ids it gave, in the form in which
/// they are listed. A reference is left out: what it refers to is listed where it was first given.
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
        // `identify` has read the same before, so neither fails.
        let Ok(object) = item.object() else { continue };
        let Ok(kind) = type_of(&object) else { continue };
        if kind != "item_reference" {
            list.push(complete(&object, &kind, id));
        }
    }
    list
}

/// A string input as the message that it stands for.
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

/// An item with everything that a listed item must have.
fn complete(object: &Object<'_>, kind: &str, id: &str) -> Box<RawValue> {
    let mut out = String::new();
    let mut item = ObjectWriter::begin(&mut out);
    item.string("type", kind);
    item.string("id", id);
    if matches!(kind, "message" | "function_call" | "function_call_output") {
        let status = object.get("status");
        item.raw(
            "status",
            status
                .as_ref()
                .map_or("\"completed\"", |status| status.raw.get()),
        );
    }
    if kind == "reasoning" && object.get("summary").is_none() {
        item.raw("summary", "[]");
    }
    let assistant = object
        .get("role")
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

/// `text` is a JSON string.
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

/// A part as it came, with the members that a listed part must have.
fn push_part(out: &mut String, object: &Object<'_>) {
    let mut part = ObjectWriter::begin(out);
    let mut required: &[(&str, &str)] = &[];
    if let Some(kind) = object.get("type") {
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
        if object.get(name).is_none() {
            part.raw(name, default);
        }
    }
    part.end();
}
