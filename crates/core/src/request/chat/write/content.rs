//! Content parts of chat messages.

use super::{REMEDY, extras};
use crate::model::error::ApiError;
use crate::model::json::{ObjectWriter, push_array, quote};
use crate::request::canonical::{Part, PartKind};

/// Writes one text as a string, which every server accepts; anything else as an array of parts.
pub(super) fn push_parts(out: &mut String, parts: &[Part<'_>]) -> Result<(), ApiError> {
    match parts {
        [] => out.push_str("\"\""),
        [only] if only.plain_text().is_some() => {
            out.push_str(only.plain_text().map_or("\"\"", |text| text.json()));
        }
        _ => {
            let parts: Vec<String> = parts.iter().map(part).collect::<Result<_, _>>()?;
            push_array(out, &parts, |out, part| out.push_str(part));
        }
    }
    Ok(())
}

/// Writes a part. Members that are not modelled are kept.
fn part(part: &Part<'_>) -> Result<String, ApiError> {
    let mut out = String::new();
    let mut object = ObjectWriter::begin(&mut out);
    let reserved: &[&str] = match &part.kind {
        PartKind::Text(text) => {
            object.raw("type", "\"text\"");
            object.raw("text", text.json());
            &["type", "text"]
        }
        PartKind::Refusal(refusal) => {
            object.raw("type", "\"refusal\"");
            object.raw("refusal", refusal.json());
            &["type", "refusal"]
        }
        PartKind::Image {
            url,
            file_id,
            detail,
        } => {
            let Some(url) = url else {
                let id = file_id.as_ref().unwrap_or(&part.name);
                return Err(id.unsupported("A chat-completions upstream cannot fetch it. Give the image itself as a data URL, or its address, in 'image_url'."));
            };
            object.raw("type", "\"image_url\"");
            let mut image = ObjectWriter::begin(object.name("image_url"));
            image.raw("url", url.json());
            if let Some(detail) = detail {
                image.raw("detail", detail.json());
            }
            image.end();
            &["type", "image_url"]
        }
        PartKind::Audio { data, format } => {
            object.raw("type", "\"input_audio\"");
            let mut audio = ObjectWriter::begin(object.name("input_audio"));
            audio.raw("data", data.json());
            audio.raw("format", format.json());
            audio.end();
            &["type", "input_audio"]
        }
        PartKind::File {
            filename,
            data,
            file_id,
            url,
        } => {
            if let Some(other) = file_id.as_ref().or(url.as_ref()) {
                return Err(other.unsupported("A chat-completions upstream cannot fetch it. Give the file itself in 'file_data', with a 'filename'."));
            }
            object.raw("type", "\"file\"");
            let mut file = ObjectWriter::begin(object.name("file"));
            for (name, value) in [("filename", filename), ("file_data", data)] {
                if let Some(value) = value {
                    file.raw(name, value.json());
                }
            }
            file.end();
            // `text` would change the type of the part.
            &["type", "file", "text"]
        }
        PartKind::Other => {
            let known = "'input_text', 'output_text', 'refusal', 'input_image', 'input_file' and 'input_audio'";
            let found = part.name.text().unwrap_or_default();
            return Err(part.name.unsupported(&format!(
                "A chat-completions upstream takes parts of type {known}, not '{}'. {REMEDY}",
                quote(&found)
            )));
        }
    };
    extras(&mut object, &part.extra, reserved)?;
    object.end();
    Ok(out)
}
