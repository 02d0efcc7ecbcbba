//! An OpenAI-compatible server over HTTP.
//!
//! async-openai brings the configuration, the URLs and the headers. The bodies are ours both ways:
//! its typed requests drop what they do not know, and its stream reader sits on an unbounded
//! channel and cannot tell an end from a cut.

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

use super::body::{Source, UpstreamBody};
use super::http1::{self, SendError};
use super::{OpenError, Opened, Refusal, Server, UpstreamHead, UpstreamRequest};
use crate::model::error::{ApiError, ErrorCode};
use crate::model::snapshot::Api;

/// The most of an error body that is passed on.
const REFUSAL_BYTES: usize = 1024 * 1024;
/// How long the body of a refusal may take.
const REFUSAL_WAIT: Duration = Duration::from_secs(10);

const AGENT: &str = concat!("tokenwire/", env!("CARGO_PKG_VERSION"));

/// How to reach one server.
#[derive(Clone, Debug)]
pub struct OpenAiOptions {
    /// Its name in logs.
    pub name: String,
    /// What stands before `/chat/completions`.
    pub base_url: String,
    /// The bearer token; without one, no `Authorization` is sent.
    pub api_key: Option<SecretString>,
    /// How long the connection may take, TLS included.
    pub connect_timeout: Duration,
    /// The largest event, and the largest body that is not streamed, in bytes.
    pub max_event: usize,
    /// Whether a client's own key goes in the place of `api_key` where a request brings one.
    pub accept_client_key: bool,
}

/// A client of one OpenAI-compatible server. It belongs to the runtime that it is first used on:
/// one per worker.
#[derive(Clone)]
pub struct OpenAi(Arc<Inner>);

struct Inner {
    options: OpenAiOptions,
    client: reqwest::Client,
    /// Takes the general client's place where there is no TLS.
    plain: Option<http1::Client>,
    config: OpenAIConfig,
    headers: HeaderMap,
    /// The headers of a request for a stream.
    streaming: HeaderMap,
    /// What of the base URL stands in a request's first line.
    base_path: String,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi")
            .field("name", &self.0.options.name)
            .finish_non_exhaustive()
    }
}

impl OpenAi {
    /// A client.
    ///
    /// # Errors
    /// A base URL or key that cannot be used, or TLS that cannot be set up; the text says which.
    pub fn new(options: OpenAiOptions) -> Result<Self, String> {
        // Another part of the process may have chosen a provider already; that is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let key = options
            .api_key
            .as_ref()
            .map(|key| key.expose_secret().to_owned());
        let config = OpenAIConfig::new()
            .with_api_base(options.base_url.trim_end_matches('/'))
            .with_api_key(key.clone().unwrap_or_default());
        let mut headers = HeaderMap::new();
        if let Some(key) = &key {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| "the API key holds characters that a header cannot".to_owned())?;
            value.set_sensitive(true);
            headers = config.headers();
            headers.insert(AUTHORIZATION, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let client = reqwest::Client::builder()
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
        })))
    }
}

impl Server for OpenAi {
    fn name(&self) -> &str {
        &self.0.options.name
    }

    fn open(&self, request: UpstreamRequest) -> BoxFuture<'static, Result<Opened, OpenError>> {
        let inner = self.0.clone();
        async move { inner.open(request).await }.boxed()
    }

    fn models(&self, timeout: Duration) -> BoxFuture<'static, Result<Bytes, OpenError>> {
        let inner = self.0.clone();
        async move {
            let response = inner.get("/models", timeout).await?;
            let status = response.status();
            let head = Head::of(response.headers());
            let body = read_limited(response, inner.options.max_event)
                .await
                .map_err(|()| truncated())?;
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
        response.map_err(|error| self.connect_error(&error))
    }

    async fn open(&self, request: UpstreamRequest) -> Result<Opened, OpenError> {
        let path = match request.api {
            Api::Chat => "/chat/completions",
            Api::Responses => "/responses",
        };
        let mut headers = Cow::Borrowed(&self.streaming);
        for (name, value) in &request.headers {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                headers.to_mut().insert(name, value);
            }
        }
        let client_key = request
            .client_key
            .as_ref()
            .filter(|_| self.options.accept_client_key);
        if let Some(key) = client_key
            && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
        {
            value.set_sensitive(true);
            headers.to_mut().insert(AUTHORIZATION, value);
        }
        let clients_own = client_key.is_some();
        let (status, headers, source) = match &self.plain {
            Some(client) => {
                let target = [&self.base_path, path].concat();
                let mut exchange = client
                    .post(&target, &headers, &request.body)
                    .await
                    .map_err(|error| self.send_error(&error))?;
                // A stream lives for long; its head need not.
                let headers = std::mem::take(&mut exchange.headers);
                (exchange.status, headers, Source::Plain(Box::new(exchange)))
            }
            None => {
                let sent = self
                    .client
                    .post(self.config.url(path))
                    .headers(headers.into_owned())
                    .body(request.body)
                    .send()
                    .await;
                let response = sent.map_err(|error| self.connect_error(&error))?;
                let (status, headers) = (response.status().as_u16(), response.headers().clone());
                (status, headers, Source::General(Box::pin(response.into())))
            }
        };
        let head = Head::of(&headers);
        if !(200..300).contains(&status) {
            // Refusals are small; one that never ends is cut.
            let body = tokio::time::timeout(REFUSAL_WAIT, source.read_limited(REFUSAL_BYTES)).await;
            return Err(self.refusal(status, head, body.unwrap_or_default(), clients_own));
        }
        let encoding = headers
            .get(CONTENT_ENCODING)
            .and_then(|value| value.to_str().ok())
            .map(str::to_ascii_lowercase);
        let body = UpstreamBody::new(source, encoding.as_deref(), self.options.max_event)
            .map_err(OpenError::Failed)?;
        Ok(Opened {
            head: UpstreamHead {
                headers: head.headers,
            },
            stream: Box::new(body),
        })
    }

    fn send_error(&self, error: &SendError) -> OpenError {
        tracing::warn!(upstream = %self.options.name, cause = %error, "the upstream could not be asked");
        OpenError::Failed(match error {
            SendError::ConnectTimeout => ApiError::new(
                ErrorCode::ConnectTimeout,
                "The upstream did not accept the connection in time.",
            ),
            SendError::Connect(_) => ApiError::new(
                ErrorCode::UpstreamUnreachable,
                "The upstream could not be connected to.",
            ),
            SendError::Disconnected(_) => ApiError::new(
                ErrorCode::UpstreamDisconnected,
                "The upstream closed the connection before it answered.",
            ),
        })
    }

    /// `clients_own` says whose key it was that may have been refused.
    fn refusal(&self, status: u16, head: Head, body: Bytes, clients_own: bool) -> OpenError {
        if matches!(status, 401 | 403) && !clients_own {
            tracing::error!(upstream = %self.options.name, status, "the upstream refused the gateway's own key");
            // Not the client's fault, and the body may quote the key.
            return OpenError::Failed(ApiError::new(
                ErrorCode::UpstreamAuth,
                "The upstream refused the gateway's own credentials.",
            ));
        }
        if (300..400).contains(&status) {
            tracing::error!(upstream = %self.options.name, status, "the upstream redirects; is its base_url right?");
            return OpenError::Failed(ApiError::new(
                ErrorCode::UpstreamUnreachable,
                "The upstream answered with a redirect, which is not followed.",
            ));
        }
        let Head {
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

    fn connect_error(&self, error: &reqwest::Error) -> OpenError {
        // The URL may hold what belongs to nobody else; the chain of causes says enough.
        tracing::warn!(upstream = %self.options.name, cause = %root_cause(error), "the upstream could not be asked");
        let error = if error.is_timeout() {
            ApiError::new(
                ErrorCode::ConnectTimeout,
                "The upstream did not accept the connection in time.",
            )
        } else if error.is_connect() {
            ApiError::new(
                ErrorCode::UpstreamUnreachable,
                "The upstream could not be connected to.",
            )
        } else {
            ApiError::new(
                ErrorCode::UpstreamDisconnected,
                "The upstream closed the connection before it answered.",
            )
        };
        OpenError::Failed(error)
    }
}

/// What is kept of a response's head.
struct Head {
    content_type: Option<String>,
    headers: Vec<(String, String)>,
    should_retry: Option<bool>,
}

impl Head {
    fn of(headers: &HeaderMap) -> Self {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let kept = |name: &str| {
            name == "retry-after"
                || name == "retry-after-ms"
                || name == "openai-processing-ms"
                || name.starts_with("x-ratelimit-")
        };
        let mut kept: Vec<(String, String)> = headers
            .iter()
            .filter(|(name, _)| kept(name.as_str()))
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?)))
            .collect();
        if let Some(id) = headers.get("x-request-id").and_then(text) {
            kept.push(("x-upstream-request-id".to_owned(), id));
        }
        let should_retry = headers
            .get("x-should-retry")
            .and_then(text)
            .and_then(|value| value.trim().parse().ok());
        Self {
            content_type: headers.get(CONTENT_TYPE).and_then(text),
            headers: kept,
            should_retry,
        }
    }
}

fn truncated() -> OpenError {
    OpenError::Failed(ApiError::new(
        ErrorCode::UpstreamTruncated,
        "The upstream's answer broke off or is too large.",
    ))
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

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
