//! Content parts of response items in canonical form.

use crate::model::error::ApiError;
use crate::model::json::{Kind, Members, Node, missing};
use crate::request::canonical::{Extra, Part, PartKind, Value};

/// Reads the content of a message or the output of a tool: a string or an array of parts.
pub(super) fn parts(node: Node<'_>, assistant: bool) -> Result<Vec<Part<'_>>, ApiError> {
    Part::read_content(&node, |element| part(element, assistant))
}

fn part<'a>(node: &Node<'a>, assistant: bool) -> Result<Part<'a>, ApiError> {
    let object = node.object()?;
    let name = object.require("type")?;
    let required = |name| Value::of_kind(object.require(name)?, Kind::String);
    let (kind, known): (_, &[&str]) = match name.text()?.as_ref() {
        "input_text" | "output_text" | "text" => (
            PartKind::Text(required("text")?),
            &["type", "text", "annotations", "logprobs"],
        ),
        "refusal" if assistant => (
            PartKind::Refusal(required("refusal")?),
            &["type", "refusal"],
        ),
        "refusal" => {
            return Err(name.invalid(
                "a part that this role may hold",
                "'refusal', which only an assistant may send",
            ));
        }
        "input_image" => (image(&object)?, &["type", "image_url", "detail", "file_id"]),
        "input_file" => (
            file(&object)?,
            &["type", "file_data", "filename", "file_id", "file_url"],
        ),
        "input_audio" => {
            let audio = object.require("input_audio")?.object()?;
            let of = |name| Value::of_kind(audio.require(name)?, Kind::String);
            (
                PartKind::Audio {
                    data: of("data")?,
                    format: of("format")?,
                },
                &["type", "input_audio"],
            )
        }
        _ => (PartKind::Other, &[]),
    };
    Ok(Part {
        extra: match kind {
            PartKind::Other => Vec::new(),
            _ => Extra::others(&object, known),
        },
        kind,
        name: name.into(),
    })
}

fn image<'a>(object: &Members<'a>) -> Result<PartKind<'a>, ApiError> {
    let (url, file_id) = (string(object, "image_url")?, string(object, "file_id")?);
    if url.is_none() && file_id.is_none() {
        return Err(missing(&object.path_of("image_url")));
    }
    Ok(PartKind::Image {
        url,
        file_id,
        // The default of the API, which items have once they are listed.
        detail: string(object, "detail")?.filter(|detail| detail.json() != "\"auto\""),
    })
}

fn file<'a>(object: &Members<'a>) -> Result<PartKind<'a>, ApiError> {
    let data = string(object, "file_data")?;
    let (file_id, url) = (string(object, "file_id")?, string(object, "file_url")?);
    if data.is_none() && file_id.is_none() && url.is_none() {
        return Err(missing(&object.path_of("file_data")));
    }
    Ok(PartKind::File {
        filename: string(object, "filename")?,
        data,
        file_id,
        url,
    })
}

fn string<'a>(object: &Members<'a>, name: &str) -> Result<Option<Value<'a>>, ApiError> {
    object
        .node(name)
        .map(|node| Value::of_kind(node, Kind::String))
        .transpose()
}
