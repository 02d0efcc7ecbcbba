//! An OpenAI-compatible server over HTTP.
//!
//! async-openai gives the configuration, the URLs and the headers. Bodies are written and read
//! here: its typed requests drop unknown fields, and its stream reader uses an unbounded channel
//! and cannot tell an end from a cut.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_openai::config::{Config as _, OpenAIConfig};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, USER_AGENT,
};
use secrecy::{ExposeSecret as _, SecretString};

use super::body::{BodySource, UpstreamBody};
use super::endpoint::Endpoint;
use super::http1;
use super::response_meta::ResponseMeta;
use super::tls::UpstreamTls;
use super::transport_error::{self, truncated};
use super::{
    AttachRequest, OpenError, Refusal, Timeouts, UpstreamHead, UpstreamRequest, UpstreamResponse,
};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::secret::Secret;
use crate::model::snapshot::Api;

/// Largest part of an error body that is passed on, in bytes.
const REFUSAL_BYTES: usize = 1024 * 1024;
/// Largest model list, in bytes.
const MODELS_BYTES: usize = 4 * 1024 * 1024;
/// Time limit of a request whose answer is not streamed.
const RELAY_WAIT: Duration = Duration::from_secs(120);
/// Time limit of a request that ends a response.
const CANCEL_WAIT: Duration = Duration::from_secs(10);
/// Time limit for reading the body of a refusal.
const REFUSAL_WAIT: Duration = Duration::from_secs(10);

const AGENT: &str = concat!("tokenwire/", env!("CARGO_PKG_VERSION"));

/// How to reach one endpoint.
#[derive(Clone, Debug)]
pub struct OpenAiOptions {
    /// Its name in logs.
    pub name: String,
    /// The URL up to `/chat/completions`, without a slash at its end.
    pub base_url: String,
    /// The bearer token. Without one, no `Authorization` header is sent.
    pub api_key: Option<SecretString>,
    /// Time limit of connecting, TLS included.
    pub connect_timeout: Duration,
    /// Largest event, and largest body that is not streamed, in bytes.
    pub max_event: usize,
    /// Whether a client's own key replaces `api_key` where a request has one.
    pub accept_client_key: bool,
    /// The header that carries the key, in lower case. Only `authorization` has `Bearer` before it.
    pub key_header: String,
    /// Headers of every request, which replace those of clients.
    pub headers: Vec<(String, SecretString)>,
    /// Authorities and a certificate of its own.
    pub tls: UpstreamTls,
}

impl Default for OpenAiOptions {
    /// OpenAI's own server, without a key. 10 s to connect, and events of up to 16 MiB.
    fn default() -> Self {
        Self {
            name: "openai".to_owned(),
            base_url: "https://api.openai.com/v1".to_owned(),
            api_key: None,
            connect_timeout: Timeouts::default().connect,
            max_event: 16 << 20,
            accept_client_key: false,
            key_header: AUTHORIZATION.as_str().to_owned(),
            headers: Vec::new(),
            tls: UpstreamTls::default(),
        }
    }
}

impl OpenAiOptions {
    /// Reads `OPENAI_BASE_URL` and `OPENAI_API_KEY`, as OpenAI's own clients do. A variable that is
    /// not set or empty leaves the default.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let default = Self::default();
        Self {
            base_url: set("OPENAI_BASE_URL").unwrap_or_else(|| default.base_url.clone()),
            api_key: set("OPENAI_API_KEY").map(Into::into),
            ..default
        }
    }
}

/// A client of one OpenAI-compatible server. Belongs to the runtime that it is first used on: one
/// per worker.
#[derive(Clone)]
pub struct OpenAi(Arc<Inner>);

struct Inner {
    options: OpenAiOptions,
    client: reqwest::Client,
    /// Used instead of `client` where there is no TLS.
    plain: Option<http1::Client>,
    config: OpenAIConfig,
    headers: HeaderMap,
    /// Headers of a request for a stream.
    streaming: HeaderMap,
    /// Path of the base URL.
    base_path: String,
    key_header: HeaderName,
    /// Names of the configured headers.
    fixed: Vec<HeaderName>,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field("name", &self.0.options.name)
            .finish_non_exhaustive()
    }
}

impl OpenAi {
    /// Creates a client.
    ///
    /// # Errors
    /// An invalid base URL or key, or TLS that cannot be set up; the text says which.
    pub fn new(options: OpenAiOptions) -> Result<Self, String> {
        // Fails if another part of the process has installed a provider, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = options
            .api_key
            .as_ref()
            .map(|key| key.expose_secret().to_owned());
        let config = OpenAIConfig::new()
            .with_api_base(options.base_url.trim_end_matches('/'))
            .with_api_key(key.clone().unwrap_or_default());
        let key_header = HeaderName::try_from(&options.key_header)
            .map_err(|_| format!("'{}' is not the name of a header", options.key_header))?;
        let mut headers = HeaderMap::new();
        if let Some(key) = &key {
            let value = key_value(&key_header, key)
                .ok_or_else(|| "the API key holds characters that a header cannot".to_owned())?;
            if key_header == AUTHORIZATION {
                headers = config.headers();
            }
            headers.insert(key_header.clone(), value);
        }
        let mut fixed = Vec::new();
        for (name, value) in &options.headers {
            let invalid = || format!("the header '{name}' cannot be sent");
            let header = HeaderName::try_from(name).map_err(|_| invalid())?;
            let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| invalid())?;
            value.set_sensitive(true);
            headers.insert(header.clone(), value);
            fixed.push(header);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let client = options
            .tls
            .apply(reqwest::Client::builder())?
            .connect_timeout(options.connect_timeout)
            .pool_idle_timeout(http1::MAX_IDLE)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(AGENT)
            .build()
            .map_err(|error| format!("the HTTP client cannot be set up: {error}"))?;
        let url = reqwest::Url::parse(&config.url("/models"))
            .map_err(|error| format!("the base URL cannot be used: {error}"))?;
        let plain = if url.scheme() == "http" {
            http1::Client::new(&url, options.connect_timeout)
        } else {
            None
        };
        let base_path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let base_path = base_path
            .strip_suffix("/models")
            .unwrap_or(base_path)
            .to_owned();
        let mut streaming = headers.clone();
        streaming.insert(
            ACCEPT,
            HeaderValue::from_static("text/event-stream, application/json"),
        );
        streaming.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        Ok(Self(Arc::new(Inner {
            options,
            client,
            plain,
            config,
            headers,
            streaming,
            base_path,
            key_header,
            fixed,
        })))
    }
}

impl Endpoint for OpenAi {
    fn name(&self) -> &str {
        &self.0.options.name
    }

    fn accepts_client_key(&self) -> bool {
        self.0.options.accept_client_key
    }

    fn credential(&self, secret: &Secret, client_key: Option<&SecretString>) -> Option<String> {
        let options = &self.0.options;
        let own = client_key.filter(|_| options.accept_client_key);
        let key = own.or(options.api_key.as_ref());
        let key = key.map_or("", |key| key.expose_secret());
        Some(secret.tag(&[&options.base_url, key]))
    }

    fn open(
        &self,
        request: UpstreamRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        let inner = self.0.clone();
        async move { inner.open(request).await }.boxed()
    }

    fn relay(
        &self,
        request: UpstreamRequest,
        path: &'static str,
    ) -> BoxFuture<'static, Result<Bytes, OpenError>> {
        let inner = self.0.clone();
        async move { inner.relay(request, path).await }.boxed()
    }

    fn attach(
        &self,
        request: AttachRequest,
    ) -> BoxFuture<'static, Result<UpstreamResponse, OpenError>> {
        let inner = self.0.clone();
        async move { inner.attach(&request).await }.boxed()
    }

    fn cancel(&self, request: AttachRequest) -> BoxFuture<'static, Result<(), OpenError>> {
        let inner = self.0.clone();
        async move { inner.cancel(&request).await }.boxed()
    }

    fn models(&self, timeout: Duration) -> BoxFuture<'static, Result<Bytes, OpenError>> {
        let inner = self.0.clone();
        async move {
            let response = inner.get("/models", timeout).await?;
            let status = response.status();
            let head = ResponseMeta::of(response.headers());
            let body = read_limited(response, MODELS_BYTES)
                .await
                .map_err(|()| OpenError::Failed(truncated()))?;
            if status.is_success() {
                Ok(body)
            } else {
                Err(inner.refusal(status.as_u16(), head, body, false))
            }
        }
        .boxed()
    }

    fn probe(&self, path: &str, timeout: Duration) -> BoxFuture<'static, Result<u16, OpenError>> {
        let (inner, path) = (self.0.clone(), path.to_owned());
        async move { Ok(inner.get(&path, timeout).await?.status().as_u16()) }.boxed()
    }
}

impl Inner {
    async fn get(&self, path: &str, timeout: Duration) -> Result<reqwest::Response, OpenError> {
        let mut headers = self.headers.clone();
        headers.remove(CONTENT_TYPE);
        let response = self
            .client
            .get(self.config.url(path))
            .headers(headers)
            .timeout(timeout)
            .send()
            .await;
        response.map_err(|error| self.reqwest_error(&error))
    }

    /// Sends the body to a path and returns the body of the answer.
    async fn relay(&self, request: UpstreamRequest, path: &str) -> Result<Bytes, OpenError> {
        let (headers, has_client_key) = self.headers_of(&request);
        let mut headers = headers.into_owned();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let sent = self
            .client
            .post(self.config.url(path))
            .headers(headers)
            .timeout(RELAY_WAIT)
            .body(request.body)
            .send()
            .await;
        let response = sent.map_err(|error| self.reqwest_error(&error))?;
        let status = response.status();
        let head = ResponseMeta::of(response.headers());
        let body = read_limited(response, self.options.max_event)
            .await
            .map_err(|()| OpenError::Failed(truncated()))?;
        if status.is_success() {
            Ok(body)
        } else {
            Err(self.refusal(status.as_u16(), head, body, has_client_key))
        }
    }

    /// Reads a response again. Waits for the head.
    async fn attach(&self, request: &AttachRequest) -> Result<UpstreamResponse, OpenError> {
        let mut path = format!("/responses/{}?stream=true", request.attachment.id);
        if let Some(after) = request.after {
            path.push_str(&format!("&starting_after={after}"));
        }
        let (headers, has_client_key) =
            self.keyed_headers(&request.headers, request.client_key.as_ref());
        let mut headers = headers.into_owned();
        headers.remove(CONTENT_TYPE);
        let sent = self.client.get(self.config.url(&path)).headers(headers);
        let response = sent.send().await;
        let response = response.map_err(|error| self.reqwest_error(&error))?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let source = BodySource::Reqwest(Box::pin(response.into()));
        self.response(status, &headers, source, has_client_key)
            .await
    }

    /// Ends a response.
    async fn cancel(&self, request: &AttachRequest) -> Result<(), OpenError> {
        let path = format!("/responses/{}/cancel", request.attachment.id);
        let (headers, has_client_key) =
            self.keyed_headers(&request.headers, request.client_key.as_ref());
        let sent = self
            .client
            .post(self.config.url(&path))
            .headers(headers.into_owned())
            .timeout(CANCEL_WAIT)
            .send()
            .await;
        let response = sent.map_err(|error| self.reqwest_error(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let head = ResponseMeta::of(response.headers());
        let body = read_limited(response, REFUSAL_BYTES).await;
        let body = body.unwrap_or_default();
        Err(self.refusal(status.as_u16(), head, body, has_client_key))
    }

    /// Returns the headers of a request, and whether it carries the client's own key.
    fn headers_of(&self, request: &UpstreamRequest) -> (Cow<'_, HeaderMap>, bool) {
        self.keyed_headers(&request.headers, request.client_key.as_ref())
    }

    fn keyed_headers(
        &self,
        forwarded: &[(String, String)],
        client_key: Option<&SecretString>,
    ) -> (Cow<'_, HeaderMap>, bool) {
        let mut headers = Cow::Borrowed(&self.streaming);
        for (name, value) in forwarded {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
                && !self.fixed.contains(&name)
                && name != self.key_header
            {
                headers.to_mut().insert(name, value);
            }
        }
        let client_key = client_key.filter(|_| self.options.accept_client_key);
        if let Some(key) = client_key
            && let Some(value) = key_value(&self.key_header, key.expose_secret())
        {
            headers.to_mut().insert(self.key_header.clone(), value);
        }
        let has_client_key = client_key.is_some();
        (headers, has_client_key)
    }

    async fn open(&self, request: UpstreamRequest) -> Result<UpstreamResponse, OpenError> {
        let path = match request.api {
            Api::Chat => "/chat/completions",
            Api::Responses => "/responses",
        };
        let (headers, has_client_key) = self.headers_of(&request);
        let (status, headers, source) = match &self.plain {
            Some(client) => {
                let target = [&self.base_path, path].concat();
                let mut exchange = client
                    .post(&target, &headers, &request.body)
                    .await
                    .map_err(|error| {
                        OpenError::Failed(transport_error::of_send(&self.options.name, &error))
                    })?;
                // Frees the head while the stream runs.
                let headers = std::mem::take(&mut exchange.headers);
                (
                    exchange.status,
                    headers,
                    BodySource::Plain(Box::new(exchange)),
                )
            }
            None => {
                let sent = self
                    .client
                    .post(self.config.url(path))
                    .headers(headers.into_owned())
                    .body(request.body)
                    .send()
                    .await;
                let response = sent.map_err(|error| self.reqwest_error(&error))?;
                let (status, headers) = (response.status().as_u16(), response.headers().clone());
                (
                    status,
                    headers,
                    BodySource::Reqwest(Box::pin(response.into())),
                )
            }
        };
        self.response(status, &headers, source, has_client_key)
            .await
    }

    /// Returns the response with this head, whose body is to be read.
    async fn response(
        &self,
        status: u16,
        headers: &HeaderMap,
        source: BodySource,
        has_client_key: bool,
    ) -> Result<UpstreamResponse, OpenError> {
        let head = ResponseMeta::of(headers);
        if !(200..300).contains(&status) {
            // A refusal that does not end in time is cut.
            let body = tokio::time::timeout(REFUSAL_WAIT, source.read_limited(REFUSAL_BYTES)).await;
            return Err(self.refusal(status, head, body.unwrap_or_default(), has_client_key));
        }
        let encoding = headers
            .get(CONTENT_ENCODING)
            .and_then(|value| value.to_str().ok())
            .map(str::to_ascii_lowercase);
        let body = UpstreamBody::new(source, encoding.as_deref(), self.options.max_event)
            .map_err(OpenError::Failed)?;
        Ok(UpstreamResponse {
            head: UpstreamHead {
                headers: head.headers,
            },
            stream: Box::new(body),
        })
    }

    fn reqwest_error(&self, error: &reqwest::Error) -> OpenError {
        OpenError::Failed(transport_error::of_reqwest(&self.options.name, error))
    }

    /// Converts an error response. `client_key` is whether the request carried the client's own
    /// key.
    fn refusal(&self, status: u16, head: ResponseMeta, body: Bytes, client_key: bool) -> OpenError {
        // A status that is not final or has no meaning is never passed on. 101 would end HTTP.
        if !(200..600).contains(&status) {
            tracing::error!(upstream = %self.options.name, status, "the upstream answered with an invalid status");
            return OpenError::Failed(ApiError::new(
                ErrorCode::UpstreamMalformed,
                format!("The upstream answered with status {status}, which is not valid here."),
            ));
        }
        if matches!(status, 401 | 403) && !client_key {
            tracing::error!(upstream = %self.options.name, status, "the upstream refused the gateway's own key");
            // Not the client's fault. The body may quote the key.
            return OpenError::Failed(ApiError::new(
                ErrorCode::UpstreamAuth,
                "The upstream refused the gateway's own credentials.",
            ));
        }
        if (300..400).contains(&status) {
            tracing::error!(upstream = %self.options.name, status, "the upstream redirects; check its base_url");
            return OpenError::Failed(ApiError::new(
                ErrorCode::UpstreamUnreachable,
                "The upstream answered with a redirect, which is not followed.",
            ));
        }
        let ResponseMeta {
            content_type,
            headers,
            should_retry,
        } = head;
        OpenError::Refused(Refusal {
            status,
            content_type,
            body,
            headers,
            should_retry,
        })
    }
}

/// Returns the value of the header that carries a key, if it can be sent.
fn key_value(name: &HeaderName, key: &str) -> Option<HeaderValue> {
    let mut value = match *name {
        AUTHORIZATION => HeaderValue::from_str(&format!("Bearer {key}")),
        _ => HeaderValue::from_str(key),
    }
    .ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Reads a body of at most `limit` bytes. Fails if it is larger or breaks off.
async fn read_limited(mut response: reqwest::Response, limit: usize) -> Result<Bytes, ()> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|_| ())? {
        if body.len() + piece.len() > limit {
            return Err(());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_variables_leave_the_defaults() {
        let options = OpenAiOptions::from_variables(|_| Some(String::new()));
        assert_eq!(options.base_url, OpenAiOptions::default().base_url);
        assert!(options.api_key.is_none());
        let options = OpenAiOptions::from_variables(|name| Some(format!("of {name}")));
        assert_eq!(options.base_url, "of OPENAI_BASE_URL");
        assert!(options.api_key.is_some());
    }
}
