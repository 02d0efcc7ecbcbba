//! The answer to paths that are not served.

use actix_web::{HttpRequest, HttpResponse};
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::outbound::error_response;

/// Parts of OpenAI's API that are not served, below `/v1`.
const NOT_SERVED: [&str; 15] = [
    "assistants",
    "audio",
    "batches",
    "completions",
    "conversations",
    "embeddings",
    "files",
    "fine_tuning",
    "images",
    "moderations",
    "realtime",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
];

/// Paths that are served where the upstream has them.
const RELAYED: [&str; 2] = ["/v1/responses/compact", "/v1/responses/input_tokens"];

/// First segments of the paths that are served below `/v1`.
const SERVED: [&[&str]; 6] = [
    &["chat", "completions"],
    &["models"],
    &["responses"],
    &["streams"],
    &["webhooks", "deliveries"],
    &["ws"],
];

/// Segments that stand before a path in a wrong base URL.
const BASES: [&str; 5] = ["api", "openai", "v1", "v1beta", "v2"];

/// Answers a path that is not served with 404, and names the right path where one is meant.
pub(super) async fn unknown(request: HttpRequest) -> HttpResponse {
    let path: String = request.path().chars().take(200).collect();
    let why = match meant(&path) {
        Meant::NotServed => {
            "Tokenwire does not serve this part of OpenAI's API, only chat completions, responses and models."
                .to_owned()
        }
        Meant::Path(path) => {
            format!("The path is {path}: the base URL of the API ends with /v1.")
        }
        Meant::Base => {
            "The base URL of the API ends with /v1; below it are /chat/completions, /responses and /models."
                .to_owned()
        }
        Meant::Nothing => "All paths are listed at /docs.".to_owned(),
    };
    error_response(&ApiError::new(
        ErrorCode::UnknownUrl,
        format!("Unknown request URL: {} {path}. {why}", request.method()),
    ))
}

/// What an unknown path probably means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meant {
    /// A part of OpenAI's API that is not served.
    NotServed,
    /// This path, which is served.
    Path(String),
    /// A base URL.
    Base,
    /// None of these.
    Nothing,
}

fn meant(path: &str) -> Meant {
    let segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    // The last place counts: before it stand a base URL, or a deployment's name.
    let place = (0..segments.len()).rev().find(|at| {
        SERVED
            .iter()
            .any(|served| segments[*at..].starts_with(served))
    });
    if let Some(place) = place {
        let below = &segments[place..];
        let right = format!("/v1/{}", below.join("/"));
        if right == path && RELAYED.contains(&path) {
            return Meant::NotServed;
        }
        if right != path {
            return Meant::Path(right);
        }
    }
    let mut below = segments.iter().skip_while(|part| BASES.contains(part));
    match below.next() {
        Some(part) if NOT_SERVED.contains(part) => Meant::NotServed,
        None if !segments.is_empty() => Meant::Base,
        _ => Meant::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_paths_name_the_right_one() {
        for (path, expected) in [
            ("/chat/completions", "/v1/chat/completions"),
            ("/v1/v1/chat/completions", "/v1/chat/completions"),
            ("//v1/chat/completions", "/v1/chat/completions"),
            ("/v1/chat/completions/", "/v1/chat/completions"),
            ("/openai/v1/chat/completions", "/v1/chat/completions"),
            (
                "/openai/deployments/gpt/chat/completions",
                "/v1/chat/completions",
            ),
            (
                "/openai/deployments/responses/chat/completions",
                "/v1/chat/completions",
            ),
            ("/responses", "/v1/responses"),
            (
                "/api/v1/responses/resp_a/cancel",
                "/v1/responses/resp_a/cancel",
            ),
            ("/models", "/v1/models"),
            ("/streams/resp_a", "/v1/streams/resp_a"),
            ("/ws", "/v1/ws"),
        ] {
            assert_eq!(meant(path), Meant::Path(expected.to_owned()), "{path}");
        }
        for path in [
            "/v1/embeddings",
            "/embeddings",
            "/openai/v1/images/generations",
            "/v1/completions",
            "/v1/responses/compact",
            "/v1/responses/input_tokens",
        ] {
            assert_eq!(meant(path), Meant::NotServed, "{path}");
        }
        for path in ["/v1", "/v1/", "/openai/v1"] {
            assert_eq!(meant(path), Meant::Base, "{path}");
        }
        for path in [
            "/nowhere",
            "/v1/nothing",
            "/v1/chat",
            "/v1/chat/completions",
        ] {
            assert_eq!(meant(path), Meant::Nothing, "{path}");
        }
    }
}
