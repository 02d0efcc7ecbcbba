//! A response that its upstream goes on with although no connection reads it.
//!
//! ```text
//!   POST /responses {background, store} ──cut──▶ GET /responses/{id}?stream=true ──▶ CatchUp ──▶ log
//! ```
//!
//! The first event of the answer holds the [`Attachment`], so that another process finds it in the
//! log.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use secrecy::SecretString;

use super::OpenError;
use crate::model::include::PRIVATE;
use crate::model::json::{Members, quoted};
use crate::model::trace::{TRACEPARENT, TRACESTATE};

/// The longest id of an upstream's response, in bytes.
const LONGEST_ID: usize = 256;

/// Forwarded headers that belong to one request.
const OF_ONE_REQUEST: &[&str] = &[TRACEPARENT, TRACESTATE, "baggage", "x-request-id"];

/// What a response is asked for by: the upstream that writes it, and its id there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The configured name of the upstream.
    pub upstream: String,
    /// The upstream's own id of the response: 1 to 256 bytes of `A-Z a-z 0-9 _ . -`.
    pub id: String,
}

// === impl Attachment ===

impl Attachment {
    /// Returns `None` if the id cannot be a part of a URL.
    pub(crate) fn new(upstream: &str, id: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let usable = !id.is_empty()
            && id.len() <= LONGEST_ID
            && !id.starts_with('.')
            && id.bytes().all(plain);
        usable.then(|| Self {
            upstream: upstream.to_owned(),
            id: id.to_owned(),
        })
    }

    /// Reads the private member of a response object.
    pub(crate) fn of(response: &Members<'_>) -> Option<Self> {
        let private = response.object(PRIVATE)?;
        let text = |name| private.text(name).map(Cow::into_owned);
        Self::new(&text("upstream")?, &text("id")?)
    }

    /// Returns the value of the private member.
    pub(crate) fn to_json(&self) -> String {
        let (upstream, id) = (quoted(&self.upstream), quoted(&self.id));
        format!(r#"{{"upstream":{upstream},"id":{id}}}"#)
    }
}

/// Returns the headers of a request by which its answer can be asked for again.
pub(crate) fn lasting_headers(headers: &[(String, String)]) -> Arc<[(String, String)]> {
    let lasts = |(name, _): &&(String, String)| !OF_ONE_REQUEST.contains(&name.as_str());
    headers.iter().filter(lasts).cloned().collect()
}

/// Returns the body by which the upstream goes on without a connection.
pub(super) fn held_body(body: &Bytes) -> Option<Bytes> {
    let members = serde_json::from_slice::<Members<'_>>(body).ok()?;
    let held = members.write_with(&[("background", "true"), ("store", "true")]);
    Some(held.into())
}

/// Whether an upstream that refuses to be attached to may take it later.
pub(crate) fn may_come_back(error: &OpenError) -> bool {
    match error {
        OpenError::Refused(refusal) => {
            matches!(refusal.status, 408 | 409 | 425 | 429) || refusal.status >= 500
        }
        OpenError::Failed(_) => true,
    }
}

/// How an upstream is asked for a response again.
#[derive(Clone, Debug)]
pub struct AttachRequest {
    /// The response.
    pub attachment: Attachment,
    /// The client's own key, if the response was started with it.
    pub client_key: Option<SecretString>,
    /// The forwarded request headers that the response was started with, without those of its trace:
    /// they may say whose it is. None where another process started it.
    pub headers: Arc<[(String, String)]>,
    /// The number of the upstream's last event that is known; `None` reads from the first one.
    pub after: Option<u64>,
    /// Time after which a missing first event counts as a failure of the endpoint; zero: never.
    pub first_token_timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachment_is_read_back_and_its_id_is_safe_in_a_url() {
        let attachment = Attachment::new("one \"two\"", "resp_a-1.b").unwrap();
        let response = format!(r#"{{"tokenwire":{}}}"#, attachment.to_json());
        let members = serde_json::from_str(&response).unwrap();
        assert_eq!(Attachment::of(&members), Some(attachment));
        for id in ["", "..", "a/b", "a?b", "a b", "é", &"a".repeat(257)] {
            assert_eq!(Attachment::new("one", id), None, "{id}");
        }
    }

    #[test]
    fn held_body_runs_in_the_background() {
        let body = Bytes::from_static(br#"{"model":"m","store":false,"stream":true}"#);
        let held = held_body(&body).unwrap();
        let held: serde_json::Value = serde_json::from_slice(&held).unwrap();
        assert_eq!(
            held,
            serde_json::json!({"model": "m", "store": true, "stream": true, "background": true})
        );
    }
}
