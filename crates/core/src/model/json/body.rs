//! Reading a request body as an object.

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::members::{Kind, Members};
use crate::model::error::{ApiError, ErrorCode};

/// How deep arrays and objects may be nested: the limit of `serde_json` with default settings.
pub const MAX_DEPTH: usize = 127;

/// Reads a complete body. Returns its text and its members.
///
/// # Errors
/// `invalid_json` where it is not UTF-8, not JSON, or nested too deep; `invalid_type` where it is
/// not an object; `invalid_value` for a repeated member.
pub(crate) fn read_object(body: &[u8]) -> Result<(&str, Members<'_>), ApiError> {
    let invalid = |message: String| ApiError::new(ErrorCode::InvalidJson, message);
    let text = std::str::from_utf8(body).map_err(|error| {
        let at = error.valid_up_to();
        invalid(format!("The request body is not UTF-8: the byte at offset {at} begins no character. Send JSON in UTF-8."))
    })?;
    let first = text.trim_ascii_start().chars().next();
    let not_json = |error: serde_json::Error| {
        invalid(format!(
            "The request body is not valid JSON: {error}. A JSON object was expected."
        ))
    };
    match first {
        None => {
            return Err(invalid(
                "The request body is empty. A JSON object was expected.".to_owned(),
            ));
        }
        Some('{') => {}
        Some(_) => {
            serde_json::from_str::<IgnoredAny>(text).map_err(not_json)?;
            let raw: &RawValue = serde_json::from_str(text).map_err(not_json)?;
            let found = Kind::of(raw).phrase();
            let message = format!(
                "Invalid type for the request body: expected an object, but got {found} instead."
            );
            return Err(ApiError::new(ErrorCode::InvalidType, message));
        }
    }
    let members: Members<'_> = serde_json::from_str(text).map_err(not_json)?;
    if let Some((line, column)) = too_deep(text) {
        return Err(invalid(format!(
            "The request body is nested deeper than {MAX_DEPTH} levels at line {line} column {column}. Send it flatter."
        )));
    }
    Ok((text, members.unique()?))
}

/// Returns line and column where valid JSON is first nested deeper than [`MAX_DEPTH`]. `serde_json`
/// skips raw values without a bound on their depth, so the bound is checked here, before any code
/// that recurses.
fn too_deep(json: &str) -> Option<(usize, usize)> {
    // Few opening brackets, in strings or not, cannot nest too deep. Counting them is much faster
    // than tracking the depth.
    let opening: usize = json
        .as_bytes()
        .iter()
        .map(|byte| usize::from(matches!(byte, b'{' | b'[')))
        .sum();
    if opening <= MAX_DEPTH {
        return None;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in json.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            let before = &json[..at];
            let line = before.matches('\n').count() + 1;
            let column = at - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
            return Some((line, column));
        }
    }
    None
}
