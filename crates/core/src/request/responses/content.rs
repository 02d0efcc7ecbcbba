//! Content parts of response items as content parts of chat messages.

use super::REMEDY;
use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node, ObjectWriter, push_array, quote, unsupported};

/// A translated part of a message's content. All strings are JSON.
pub(super) enum Part<'a> {
    /// A text without other members.
    Text(&'a str),
    /// A complete content part.
    Object(String),
}

/// Writes one text as a string, which every server accepts; anything else as an array of parts.
pub(super) fn push_parts(out: &mut String, parts: &[Part<'_>]) {
    match parts {
        [] => out.push_str("\"\""),
        [Part::Text(text)] => out.push_str(text),
        _ => push_array(out, parts, |out, part| match part {
            Part::Text(text) => {
                let mut object = ObjectWriter::begin(out);
                object.raw("type", "\"text\"");
                object.raw("text", text);
                object.end();
            }
            Part::Object(part) => out.push_str(part),
        }),
    }
}

/// Translates the content of a message or the output of a tool: a string or an array of parts.
pub(super) fn parts<'a>(node: &Node<'a>, assistant: bool) -> Result<Vec<Part<'a>>, ApiError> {
    match node.kind() {
        Kind::String => Ok(vec![Part::Text(node.raw.get())]),
        Kind::Array => node
            .array()?
            .iter()
            .map(|element| part(element, assistant))
            .collect(),
        _ => Err(node.wrong_type("a string or an array of parts")),
    }
}

/// Translates a part. Members that neither dialect knows are kept.
fn part<'a>(node: &Node<'a>, assistant: bool) -> Result<Part<'a>, ApiError> {
    let object = node.object()?;
    let kind = object.require("type")?;
    let mut out = String::new();
    let mut part = ObjectWriter::begin(&mut out);
    let known: &[&str] = match kind.text()?.as_ref() {
        "input_text" | "output_text" | "text" => {
            let known = &["type", "text", "annotations", "logprobs"];
            let text = object.require("text")?.of_kind(Kind::String)?;
            if object.others(known).next().is_none() {
                return Ok(Part::Text(text));
            }
            part.raw("type", "\"text\"");
            part.raw("text", text);
            known
        }
        "refusal" if assistant => {
            part.raw("type", "\"refusal\"");
            part.raw("refusal", object.require("refusal")?.of_kind(Kind::String)?);
            &["type", "refusal"]
        }
        "input_image" => {
            refuse(
                &object,
                &["file_id"],
                "Give the image itself as a data URL, or its address, in 'image_url'.",
            )?;
            part.raw("type", "\"image_url\"");
            let mut image = ObjectWriter::begin(part.name("image_url"));
            image.raw("url", object.require("image_url")?.of_kind(Kind::String)?);
            if let Some(detail) = object.node("detail") {
                image.raw("detail", detail.of_kind(Kind::String)?);
            }
            image.end();
            &["type", "image_url", "detail", "file_id"]
        }
        "input_file" => {
            refuse(
                &object,
                &["file_id", "file_url"],
                "Give the file itself in 'file_data', with a 'filename'.",
            )?;
            part.raw("type", "\"file\"");
            let data = object.require("file_data")?.of_kind(Kind::String)?;
            let mut file = ObjectWriter::begin(part.name("file"));
            if let Some(name) = object.node("filename") {
                file.raw("filename", name.of_kind(Kind::String)?);
            }
            file.raw("file_data", data);
            file.end();
            &["type", "file_data", "filename", "file_id", "file_url"]
        }
        "input_audio" => {
            part.raw("type", "\"input_audio\"");
            part.raw(
                "input_audio",
                object.require("input_audio")?.of_kind(Kind::Object)?,
            );
            &["type", "input_audio"]
        }
        "refusal" => {
            return Err(kind.invalid(
                "a part that this role may hold",
                "'refusal', which only an assistant may send",
            ));
        }
        other => {
            let known = "'input_text', 'output_text', 'refusal', 'input_image', 'input_file' and 'input_audio'";
            return Err(kind.unsupported(&format!(
                "A chat-completions upstream takes parts of type {known}, not '{}'. {REMEDY}",
                quote(other)
            )));
        }
    };
    for (name, raw) in object.others(known) {
        // Such as `text` of a file: it would change the type of the part.
        if matches!(name, "file" | "text") {
            return Err(unsupported(
                &object.path_of(name),
                "A part of this type has no such member. Leave it out.",
            ));
        }
        part.raw(name, raw.get());
    }
    part.end();
    Ok(Part::Object(out))
}

fn refuse(object: &Members<'_>, names: &[&str], why: &str) -> Result<(), ApiError> {
    match names.iter().find_map(|name| object.node(name)) {
        Some(node) => Err(node.unsupported(&format!(
            "A chat-completions upstream cannot fetch it. {why}"
        ))),
        None => Ok(()),
    }
}
