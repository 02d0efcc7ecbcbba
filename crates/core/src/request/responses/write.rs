//! Writes a canonical request as a responses request: the members around the conversation.
//!
//! A chat server may have members of its own, so the other languages send it what they do not know.
//! Here an unknown member is refused. It was meant for another server; a server of the Responses API
//! would drop it, or refuse it under a name that the client never used.

mod items;
mod tools;

use super::LOGPROBS;
use crate::model::error::ApiError;
use crate::model::json::{ObjectWriter, quote, quoted};
use crate::request::canonical::{CanonicalRequest, Extra, Format, FormatKind, Setting};

/// The advice for what the Responses API does not have.
const REMEDY: &str = "Leave it out, or use an upstream that speaks the language of the request.";

/// Settings that the Responses API does not have: the values that have no effect, and the advice for
/// any other value.
const NO_COUNTERPART: &[(Setting, &[&str], &str)] = &[
    (
        Setting::Choices,
        &["1"],
        "An upstream that speaks the Responses API gives one answer. Send the request several times.",
    ),
    (Setting::PresencePenalty, &["0", "0.0"], REMEDY),
    (Setting::FrequencyPenalty, &["0", "0.0"], REMEDY),
    (Setting::LogitBias, &["{}"], REMEDY),
    (Setting::Stop, &["[]"], REMEDY),
    (Setting::Seed, &[], REMEDY),
];

/// Writes the body of a streaming request.
///
/// # Errors
/// `unsupported_parameter` for what the Responses API has no counterpart for, members that are not
/// modelled included. Each names the parameter that the client sent.
pub fn write(request: &CanonicalRequest<'_>, model: &str) -> Result<Vec<u8>, ApiError> {
    refuse(&request.specific)?;
    refuse(&request.extra)?;
    let mut out = String::new();
    let mut body = ObjectWriter::begin(&mut out);
    body.raw("model", &quoted(model));
    if let Some(instructions) = &request.instructions {
        body.raw("instructions", instructions.json());
    }
    items::write(&request.items, body.name("input"))?;
    tools::write(request, &mut body)?;
    text(request, &mut body)?;
    if let Some(effort) = &request.reasoning_effort {
        let mut reasoning = ObjectWriter::begin(body.name("reasoning"));
        reasoning.raw("effort", effort.json());
        reasoning.end();
    }
    if let Some(limit) = &request.max_output_tokens {
        body.raw("max_output_tokens", limit.json());
    }
    if request.logprobs {
        body.raw("include", &["[\"", LOGPROBS, "\"]"].concat());
        if let Some(top) = &request.top_logprobs {
            body.raw("top_logprobs", top.json());
        }
    }
    settings(request, &mut body)?;
    body.raw("stream", "true");
    // Chat does not store by default, Responses does.
    body.raw("store", if request.store { "true" } else { "false" });
    refuse(&request.stream_extra)?;
    if let Some(padding) = &request.include_obfuscation {
        let mut options = ObjectWriter::begin(body.name("stream_options"));
        options.raw("include_obfuscation", padding.json());
        options.end();
    }
    body.end();
    Ok(out.into_bytes())
}

/// Refuses members that are not modelled.
fn refuse(extras: &[Extra<'_>]) -> Result<(), ApiError> {
    match extras.first() {
        Some(extra) => Err(extra.refuse(
            "An upstream that speaks the Responses API has no such parameter.",
            REMEDY,
        )),
        None => Ok(()),
    }
}

fn settings(request: &CanonicalRequest<'_>, body: &mut ObjectWriter<'_>) -> Result<(), ApiError> {
    for &setting in Setting::ALL {
        let given = request.settings.iter().find(|(given, _)| *given == setting);
        let Some((_, value)) = given else { continue };
        match NO_COUNTERPART.iter().find(|(known, ..)| *known == setting) {
            None => body.raw(setting.name(), value.json()),
            Some((_, idle, _)) if idle.contains(&value.json()) => {}
            Some((.., advice)) => return Err(value.unsupported(advice)),
        }
    }
    Ok(())
}

fn text(request: &CanonicalRequest<'_>, body: &mut ObjectWriter<'_>) -> Result<(), ApiError> {
    if request.format.is_none() && request.verbosity.is_none() {
        return Ok(());
    }
    let mut text = ObjectWriter::begin(body.name("text"));
    if let Some(format) = &request.format {
        text_format(format, text.name("format"))?;
    }
    if let Some(verbosity) = &request.verbosity {
        text.raw("verbosity", verbosity.json());
    }
    text.end();
    Ok(())
}

/// Writes the format, which holds a schema directly.
fn text_format(format: &Format<'_>, out: &mut String) -> Result<(), ApiError> {
    let mut object = ObjectWriter::begin(out);
    object.raw("type", format.name.json());
    match &format.kind {
        FormatKind::Text | FormatKind::JsonObject => {}
        FormatKind::JsonSchema {
            name,
            description,
            schema,
            strict,
        } => {
            object.raw("name", name.json());
            if let Some(description) = description {
                object.raw("description", description.json());
            }
            object.raw("schema", schema.json());
            if let Some(strict) = strict {
                object.raw("strict", strict.json());
            }
        }
        FormatKind::Other => {
            let found = format.name.text().unwrap_or_default();
            let why = "An upstream that speaks the Responses API takes the formats 'text', 'json_object' and 'json_schema', not";
            return Err(format
                .name
                .unsupported(&format!("{why} '{}'. {REMEDY}", quote(&found))));
        }
    }
    refuse(&format.extra)?;
    object.end();
    Ok(())
}
