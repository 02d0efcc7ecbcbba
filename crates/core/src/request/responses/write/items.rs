//! Canonical items as response items.

use super::{REMEDY, refuse};
use crate::model::error::ApiError;
use crate::model::json::{ObjectWriter, push_array, quote};
use crate::request::canonical::{Call, Item, Message, Output, Part, PartKind, Role, ToolKind};

/// Writes the items as a JSON array.
pub(super) fn write(items: &[Item<'_>], out: &mut String) -> Result<(), ApiError> {
    let mut written = Ok(());
    // A server takes reasoning back only as it sealed it. Any other is left out.
    let items = items.iter().filter(|item| match item {
        Item::Reasoning(reasoning) => reasoning.encrypted.is_some(),
        Item::Unmodelled(item) => !item.optional,
        _ => true,
    });
    push_array(out, items, |out, item| {
        if written.is_ok() {
            written = push_item(out, item);
        }
    });
    written
}

fn push_item(out: &mut String, item: &Item<'_>) -> Result<(), ApiError> {
    match item {
        Item::Message(message) => self::message(message, out),
        Item::Call(call) => self::call(call, out),
        Item::Output(output) => self::output(output, out),
        Item::Reasoning(reasoning) => {
            let mut object = ObjectWriter::begin(out);
            object.raw("type", "\"reasoning\"");
            if let Some(id) = &reasoning.id {
                object.raw("id", id.json());
            }
            let summary = reasoning.summary.as_ref().map(|summary| summary.json());
            object.raw("summary", summary.unwrap_or("[]"));
            if let Some(encrypted) = &reasoning.encrypted {
                object.raw("encrypted_content", encrypted.json());
            }
            object.end();
            Ok(())
        }
        Item::Unmodelled(item) => {
            let found = item.kind.text().unwrap_or_default();
            Err(item.kind.unsupported(&format!(
                "It has no counterpart in the Responses API: '{}'. {REMEDY}",
                quote(&found)
            )))
        }
    }
}

fn message(message: &Message<'_>, out: &mut String) -> Result<(), ApiError> {
    if let Some(name) = &message.name {
        return Err(name.unsupported(&format!(
            "A message of the Responses API has no name of its participant. Write it into the text. {REMEDY}"
        )));
    }
    refuse(&message.extra)?;
    let mut object = ObjectWriter::begin(out);
    object.raw("type", "\"message\"");
    object.string("role", message.role.as_str());
    content(
        &message.content,
        message.role == Role::Assistant,
        object.name("content"),
    )?;
    object.end();
    Ok(())
}

fn call(call: &Call<'_>, out: &mut String) -> Result<(), ApiError> {
    refuse(&call.extra)?;
    let (kind, input) = match call.kind {
        ToolKind::Function => ("function_call", "arguments"),
        ToolKind::Custom => ("custom_tool_call", "input"),
    };
    let mut object = ObjectWriter::begin(out);
    object.string("type", kind);
    object.raw("call_id", call.call_id.json());
    if let Some(namespace) = &call.namespace {
        object.raw("namespace", namespace.json());
    }
    object.raw("name", call.name.json());
    object.raw(input, call.input.json());
    object.end();
    Ok(())
}

fn output(output: &Output<'_>, out: &mut String) -> Result<(), ApiError> {
    refuse(&output.extra)?;
    let kind = match output.kind {
        ToolKind::Function => "function_call_output",
        ToolKind::Custom => "custom_tool_call_output",
    };
    let mut object = ObjectWriter::begin(out);
    object.string("type", kind);
    object.raw("call_id", output.call_id.json());
    content(&output.content, false, object.name("output"))?;
    object.end();
    Ok(())
}

// === content ===

/// Writes a single text as a string, which every server accepts; anything else as an array of parts.
fn content(parts: &[Part<'_>], assistant: bool, out: &mut String) -> Result<(), ApiError> {
    match parts {
        [] => {
            out.push_str("\"\"");
            Ok(())
        }
        [only] if only.plain_text().is_some() => {
            out.push_str(only.plain_text().map_or("\"\"", |text| text.json()));
            Ok(())
        }
        _ => {
            let mut written = Ok(());
            push_array(out, parts, |out, part| {
                if written.is_ok() {
                    written = push_part(out, part, assistant);
                }
            });
            written
        }
    }
}

fn push_part(out: &mut String, part: &Part<'_>, assistant: bool) -> Result<(), ApiError> {
    refuse(&part.extra)?;
    let mut object = ObjectWriter::begin(out);
    match &part.kind {
        PartKind::Text(text) => {
            let kind = if assistant {
                "output_text"
            } else {
                "input_text"
            };
            object.string("type", kind);
            object.raw("text", text.json());
        }
        PartKind::Refusal(refusal) => {
            object.raw("type", "\"refusal\"");
            object.raw("refusal", refusal.json());
        }
        PartKind::Image {
            url,
            file_id,
            detail,
        } => {
            object.raw("type", "\"input_image\"");
            for (name, value) in [("image_url", url), ("file_id", file_id)] {
                if let Some(value) = value {
                    object.raw(name, value.json());
                }
            }
            let detail = detail.as_ref().map(|detail| detail.json());
            object.raw("detail", detail.unwrap_or("\"auto\""));
        }
        PartKind::Audio { data, format } => {
            object.raw("type", "\"input_audio\"");
            let mut audio = ObjectWriter::begin(object.name("input_audio"));
            audio.raw("data", data.json());
            audio.raw("format", format.json());
            audio.end();
        }
        PartKind::File {
            filename,
            data,
            file_id,
            url,
        } => {
            object.raw("type", "\"input_file\"");
            for (name, value) in [
                ("filename", filename),
                ("file_data", data),
                ("file_id", file_id),
                ("file_url", url),
            ] {
                if let Some(value) = value {
                    object.raw(name, value.json());
                }
            }
        }
        PartKind::Other => {
            let found = part.name.text().unwrap_or_default();
            return Err(part.name.unsupported(&format!(
                "It has no counterpart in the Responses API: '{}'. {REMEDY}",
                quote(&found)
            )));
        }
    }
    object.end();
    Ok(())
}
