//! The errors of the API, with OpenAI's structure and texts.

use serde_json::{Value, json};

/// The answer to a request that cannot be served.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) message: String,
    pub(crate) kind: &'static str,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
}

impl ApiError {
    /// Returns a 400 that names the invalid parameter.
    pub(crate) fn invalid(param: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            message: message.into(),
            kind: "invalid_request_error",
            param: Some(param.to_owned()),
            code: Some(code),
        }
    }

    /// Returns a 400 without a parameter.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self {
            status: 400,
            message: message.into(),
            kind: "invalid_request_error",
            param: None,
            code: None,
        }
    }

    pub(crate) fn missing(param: &str) -> Self {
        Self::invalid(
            param,
            "missing_required_parameter",
            format!("Missing required parameter: '{param}'."),
        )
    }

    pub(crate) fn wrong_type(param: &str, expected: &str, got: &Value) -> Self {
        let got = match got {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        Self::invalid(
            param,
            "invalid_type",
            format!("Invalid type for '{param}': expected {expected}, but got {got} instead."),
        )
    }

    pub(crate) fn model_not_found(model: &str) -> Self {
        Self {
            status: 404,
            message: format!("The model `{model}` does not exist or you do not have access to it."),
            kind: "invalid_request_error",
            param: None,
            code: Some("model_not_found"),
        }
    }

    pub(crate) fn key_missing() -> Self {
        Self {
            status: 401,
            message: "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth \
                      (i.e. Authorization: Bearer YOUR_KEY), or as the password field (with blank username) if you're accessing the API \
                      from your browser and are prompted for a username and password. You can obtain an API key from \
                      https://platform.openai.com/account/api-keys."
                .to_owned(),
            kind: "invalid_request_error",
            param: None,
            code: None,
        }
    }

    /// Returns OpenAI's error for a wrong key. It quotes the head and the tail of the key, which a
    /// gateway that relays the text would leak.
    pub(crate) fn key_wrong(key: &str) -> Self {
        let characters: Vec<char> = key.chars().take(256).collect();
        let masked: String = match characters.len() {
            0..=8 => "*".repeat(characters.len()),
            length => characters[..3]
                .iter()
                .copied()
                .chain(std::iter::repeat_n('*', length - 7))
                .chain(characters[length - 4..].iter().copied())
                .collect(),
        };
        Self {
            status: 401,
            message: format!(
                "Incorrect API key provided: {masked}. You can find your API key at https://platform.openai.com/account/api-keys."
            ),
            kind: "invalid_request_error",
            param: None,
            code: Some("invalid_api_key"),
        }
    }

    /// Returns OpenAI's error for an item of a conversation that was not stored.
    pub(crate) fn item_not_found(id: &str) -> Self {
        Self {
            status: 404,
            message: format!(
                "Item with id '{id}' not found. Items are not persisted when `store` is set to false. Try again with `store` set to true, or remove this item from your input."
            ),
            kind: "invalid_request_error",
            param: Some("input".to_owned()),
            code: None,
        }
    }

    /// Returns OpenAI's error for a tool's output whose call is not part of the conversation.
    pub(crate) fn output_without_call(call_id: &str) -> Self {
        Self {
            status: 400,
            message: format!("No tool call found for function call output with call_id {call_id}."),
            kind: "invalid_request_error",
            param: Some("input".to_owned()),
            code: None,
        }
    }

    /// Returns OpenAI's error for a tool's message that answers no call.
    pub(crate) fn tool_message_without_call(number: usize) -> Self {
        Self {
            status: 400,
            message: "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.".to_owned(),
            kind: "invalid_request_error",
            param: Some(format!("messages.[{number}].role")),
            code: None,
        }
    }

    /// Returns OpenAI's error for encrypted content of another item, account or key.
    pub(crate) fn invalid_encrypted(id: &str) -> Self {
        Self {
            status: 400,
            message: format!(
                "The encrypted content for item {id} could not be verified. Reason: Encrypted content could not be decrypted or parsed."
            ),
            kind: "invalid_request_error",
            param: None,
            code: Some("invalid_encrypted_content"),
        }
    }

    /// Returns OpenAI's error for a model without reasoning.
    pub(crate) fn encrypted_unsupported() -> Self {
        Self {
            status: 400,
            message: "Encrypted content is not supported with this model.".to_owned(),
            kind: "invalid_request_error",
            param: Some("include".to_owned()),
            code: None,
        }
    }

    /// Returns DeepSeek's error for a tool turn whose reasoning did not come back.
    pub(crate) fn reasoning_missing() -> Self {
        Self {
            status: 400,
            message: "The `reasoning_content` in the thinking mode must be passed back to the API."
                .to_owned(),
            kind: "invalid_request_error",
            param: None,
            code: Some("invalid_request_error"),
        }
    }

    pub(crate) fn unknown_url(method: &str, path: &str) -> Self {
        Self {
            status: 404,
            message: format!("Invalid URL ({method} {path})"),
            kind: "invalid_request_error",
            param: None,
            code: None,
        }
    }

    pub(crate) fn response_not_found(id: &str) -> Self {
        Self {
            status: 404,
            message: format!("Response with id '{id}' not found."),
            kind: "invalid_request_error",
            param: None,
            code: None,
        }
    }

    pub(crate) fn wrong_method(method: &str, path: &str) -> Self {
        Self {
            status: 405,
            message: format!(
                "Not allowed to {method} on {path}. (HINT: Perhaps you meant to use a different HTTP method?)"
            ),
            kind: "invalid_request_error",
            param: None,
            code: Some("method_not_supported"),
        }
    }

    pub(crate) fn body_not_json() -> Self {
        Self::bad_request(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. \
             The OpenAI API expects a JSON payload, but what was sent was not valid JSON. If you have trouble figuring out how to fix \
             this, please contact us through our help center at help.openai.com.)",
        )
    }

    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self {
            status: 413,
            message: format!("Maximum content size limit ({limit} bytes) exceeded."),
            kind: "invalid_request_error",
            param: None,
            code: Some("request_too_large"),
        }
    }

    pub(crate) fn body_too_slow() -> Self {
        Self {
            status: 408,
            message: "Timed out reading request body. Try again, or use a smaller request size."
                .to_owned(),
            kind: "invalid_request_error",
            param: None,
            code: Some("request_timeout"),
        }
    }

    /// Returns OpenAI's error for `status`; the answer of the fault `status`.
    pub(crate) fn of_status(status: u16, model: &str) -> Self {
        let (message, kind, code) = match status {
            400 => (
                "The request was refused by the simulator's fault `status`.".to_owned(),
                "invalid_request_error",
                None,
            ),
            401 => return Self::key_wrong("sk-simulator-0000"),
            403 => (
                "Country, region, or territory not supported".to_owned(),
                "request_forbidden",
                Some("unsupported_country_region_territory"),
            ),
            404 => return Self::model_not_found(model),
            429 => (
                format!(
                    "Rate limit reached for {model} in organization org-simulator on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s."
                ),
                "requests",
                Some("rate_limit_exceeded"),
            ),
            503 => (
                "The engine is currently overloaded, please try again later".to_owned(),
                "server_error",
                Some("overloaded"),
            ),
            500..=599 => (SERVER_ERROR.to_owned(), "server_error", None),
            _ => (
                format!("The simulator was asked for status {status}."),
                "api_error",
                None,
            ),
        };
        Self {
            status,
            message,
            kind,
            param: None,
            code,
        }
    }

    /// Returns the body `{"error": {…}}`.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

/// The error that OpenAI sends when a stream fails.
pub(crate) const SERVER_ERROR: &str =
    "The server had an error while processing your request. Sorry about that!";
