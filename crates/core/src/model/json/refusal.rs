//! Errors that name the parameter that a request has wrong.

use crate::model::error::{ApiError, ErrorCode};

/// The longest part of a client's own value that an error repeats, in characters.
const QUOTE_CHARS: usize = 64;

/// `missing_required_parameter` for the parameter at `path`.
pub(crate) fn missing(path: &str) -> ApiError {
    ApiError::new(
        ErrorCode::MissingParameter,
        format!("Missing required parameter: '{path}'."),
    )
    .param(path)
}

/// `invalid_value` for the parameter at `path`. `found` is shown to the client as it is.
pub(crate) fn invalid(path: &str, expected: &str, found: &str) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidValue,
        format!("Invalid value for '{path}': expected {expected}, but got {found}."),
    )
    .param(path)
}

/// `invalid_value` for the parameter at `path`, which is given more than once.
pub(crate) fn repeats(path: &str) -> ApiError {
    ApiError::new(
        ErrorCode::InvalidValue,
        format!("Duplicate parameter: '{path}' is given more than once. Send it once."),
    )
    .param(path)
}

/// `unsupported_parameter` for the parameter at `path`. `why` is one or more sentences.
pub(crate) fn unsupported(path: &str, why: &str) -> ApiError {
    ApiError::new(
        ErrorCode::UnsupportedParameter,
        format!("Unsupported parameter: '{path}'. {why}"),
    )
    .param(path)
}

/// Returns the start of a client's own value, for an error to repeat. Not for message contents.
pub(crate) fn quote(value: &str) -> String {
    match value.char_indices().nth(QUOTE_CHARS) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}
