//! Configuration of the model servers, and of retries, hedging and circuit breakers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::chat::Chat;
use super::models::Models;
use super::secret::Secret;
use super::timeouts::TimeoutOverrides;
use super::units::{duration, word};

/// One model server that speaks OpenAI's API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Unique name in logs and metrics, of `A-Z a-z 0-9 _ . -`.
    pub name: String,
    /// API of the upstream.
    #[serde(deserialize_with = "word")]
    pub api: Api,
    /// URL before `/chat/completions`: `https://api.openai.com/v1`.
    pub base_url: String,
    /// Bearer token. Without one no `Authorization` header is sent.
    pub api_key: Option<Secret>,
    /// Header that carries the key. Only in `authorization` it follows `Bearer`.
    pub key_header: String,
    /// Whether a client's own `Authorization` replaces `api_key`.
    pub accept_client_key: bool,
    /// Headers of every request, which replace those of clients.
    pub headers: BTreeMap<String, Secret>,
    /// Authorities and a certificate of its own.
    pub tls: UpstreamTls,
    /// Models of the upstream. Empty means every model.
    pub models: Models,
    /// Relative share of the requests for a model that several upstreams serve. Among equal weights
    /// the latency decides.
    pub weight: u32,
    /// Region of the upstream. Upstreams outside `server.region` are used only while none inside is
    /// up.
    pub region: Option<String>,
    /// Limits of concurrent and queued requests.
    pub limits: UpstreamLimits,
    /// Active health checks.
    pub health_check: HealthCheck,
    /// Whether and how the upstream continues a text that another upstream cut off.
    #[serde(deserialize_with = "word")]
    pub continuation: Continuation,
    /// Whether responses that are stored are asked for in the background, and read again after the
    /// connection is lost. Only with `api: responses`.
    pub reattach: bool,
    /// How long after its request a response can be read again.
    #[serde(with = "duration")]
    pub reattach_window: Duration,
    /// What differs between servers that speak chat completions.
    pub chat: Chat,
    /// Overrides of the general timeouts.
    pub timeouts: TimeoutOverrides,
}

/// Files in PEM that TLS to one upstream is set up with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamTls {
    /// Certificates of the authorities that sign the upstream's. They replace those of the system.
    pub ca: Option<String>,
    /// Certificate that the gateway shows, followed by those that lead to its authority.
    pub cert: Option<String>,
    /// Key of `cert`.
    pub key: Option<String>,
}

/// How a request marks the last assistant message as the beginning of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Continuation {
    /// The upstream never continues the answer of another.
    #[default]
    None,
    /// The message alone.
    Message,
    /// `"prefix": true` in the message: Mistral, DeepSeek.
    Prefix,
    /// `continue_final_message`: vLLM, SGLang.
    FinalMessage,
}

/// API of an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `POST {base_url}/chat/completions`.
    #[default]
    Chat,
    /// `POST {base_url}/responses`.
    Responses,
}

/// Limits of concurrent and queued requests of an upstream. Beyond them clients get 429.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamLimits {
    /// Maximum number of concurrent requests; 0 is unlimited.
    pub concurrent: usize,
    /// Maximum number of queued requests.
    pub queued: usize,
    /// Maximum time in the queue.
    #[serde(with = "duration")]
    pub wait: Duration,
}

/// Active health checks: a periodic GET below the base URL. Two failures in a row mark the upstream
/// as down, one success as up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// Time between two checks. `0s` disables them.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Maximum time for the response.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Path below the base URL. Any status under 500 counts as a success.
    pub path: String,
}

/// Retries. A request is repeated only before any part of an answer was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Maximum number of retries, including those at other upstreams; 0 disables them.
    pub attempts: u32,
    /// Maximum wait before the first retry at the same upstream. The wait is random, and its maximum
    /// doubles with each retry.
    #[serde(with = "duration")]
    pub backoff: Duration,
    /// Maximum total wait of one request. A longer `Retry-After` is passed to the client. Keep it
    /// under `streams.commit_after`, so that a client still gets the status of the last failure.
    #[serde(with = "duration")]
    pub max_wait: Duration,
    /// Retries per hundred requests. Ten per second are always allowed.
    pub budget_percent: u32,
    /// When a second upstream is asked, while the first is slow to send its first token.
    pub hedge: Hedging,
}

/// When a second upstream is asked for the same answer: `off`, `p95` or a duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hedging {
    /// Never.
    #[default]
    Off,
    /// After the 95th percentile of the upstream's time to the first token.
    P95,
    /// After this time.
    After(Duration),
}

/// Circuit breaker of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Failures in a row, before the first token, that open it; 0 disables it.
    pub failures: u32,
    /// Time until a trial request is let through. It doubles with each failed trial, up to sixteen
    /// times the value.
    #[serde(with = "duration")]
    pub cooldown: Duration,
    /// Upper bound of the pause that an upstream asks for with status 429 (`Retry-After`).
    #[serde(with = "duration")]
    pub max_rest: Duration,
}

// === impl Upstream ===

impl Upstream {
    /// Returns the URL of a path below the base: `url("/models")`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!(
            "{}/{}",
            self.base_url.trim_end_matches('/'),
            path.trim_start_matches('/')
        )
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            name: String::new(),
            api: Api::default(),
            base_url: String::new(),
            api_key: None,
            key_header: "authorization".to_owned(),
            accept_client_key: false,
            headers: BTreeMap::new(),
            tls: UpstreamTls::default(),
            models: Models::default(),
            weight: 1,
            region: None,
            limits: UpstreamLimits::default(),
            health_check: HealthCheck::default(),
            continuation: Continuation::None,
            reattach: false,
            reattach_window: Duration::from_secs(5 * 60),
            chat: Chat::default(),
            timeouts: TimeoutOverrides::default(),
        }
    }
}

impl Default for UpstreamLimits {
    fn default() -> Self {
        Self {
            concurrent: 0,
            queued: 100,
            wait: Duration::from_secs(30),
        }
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            interval: Duration::ZERO,
            timeout: Duration::from_secs(5),
            path: "/models".to_owned(),
        }
    }
}

// === impl Retry ===

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            backoff: Duration::from_millis(250),
            max_wait: Duration::from_secs(4),
            budget_percent: 20,
            hedge: Hedging::Off,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            failures: 5,
            cooldown: Duration::from_secs(10),
            max_rest: Duration::from_secs(60),
        }
    }
}

// === impl Hedging ===

impl Serialize for Hedging {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("off"),
            Self::P95 => serializer.serialize_str("p95"),
            Self::After(time) => duration::serialize(time, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Hedging {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HedgingReader)
    }
}

struct HedgingReader;

impl Visitor<'_> for HedgingReader {
    type Value = Hedging;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`off`, `p95`, or a duration with its unit, such as 800ms")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Hedging, E> {
        match text {
            "off" => Ok(Hedging::Off),
            "p95" => Ok(Hedging::P95),
            text => humantime::parse_duration(text)
                .map(Hedging::After)
                .map_err(|_| E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_bool<E: de::Error>(self, on: bool) -> Result<Hedging, E> {
        // `off` without quotes is a boolean to some writers of YAML.
        if on {
            Err(E::invalid_value(Unexpected::Bool(on), &self))
        } else {
            Ok(Hedging::Off)
        }
    }
}
