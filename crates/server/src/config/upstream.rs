//! The configuration of the model servers, and of what is done when one of them fails or is slow.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::models::Models;
use super::schema::word;
use super::secret::Secret;
use super::units::duration;

/// One model server that speaks OpenAI's API.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Its name in logs and metrics: unique, of `A-Z a-z 0-9 _ . -`.
    pub name: String,
    /// Which API it is asked through.
    #[serde(deserialize_with = "word")]
    pub api: Api,
    /// What stands before `/chat/completions`: `https://api.openai.com/v1`.
    pub base_url: String,
    /// The bearer token it wants. Without one no `Authorization` header is sent.
    pub api_key: Option<Secret>,
    /// Whether a client's own `Authorization` goes to it in the place of `api_key`.
    pub accept_client_key: bool,
    /// The models it serves; empty: every model.
    pub models: Models,
    /// Its share of the requests for a model that several upstreams serve, relative to the others.
    /// Among equal ones speed decides.
    pub weight: u32,
    /// Where it stands. Upstreams of another region than `server.region` are asked only while none
    /// of the same is up.
    pub region: Option<String>,
    /// How many requests it gets at once.
    pub limits: UpstreamLimits,
    /// How it is looked after between requests.
    pub health_check: HealthCheck,
    /// Whether, and how, it goes on with a plain text that another upstream broke off in the
    /// middle.
    #[serde(deserialize_with = "word")]
    pub continuation: Continuation,
    /// What it overrides of the general timeouts.
    pub timeouts: TimeoutOverrides,
}

/// How an upstream is told that the last message of the assistant is a beginning and not a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Continuation {
    /// It never goes on with another's answer.
    #[default]
    None,
    /// By the message alone.
    Message,
    /// By `"prefix": true` in the message: Mistral, DeepSeek.
    Prefix,
    /// By `continue_final_message`: vLLM, SGLang.
    FinalMessage,
}

/// The API that an upstream is asked through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Api {
    /// `POST {base_url}/chat/completions`.
    #[default]
    Chat,
    /// `POST {base_url}/responses`.
    Responses,
}

/// How many requests an upstream gets at once, and how many may wait for that. Beyond, clients get
/// 429.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamLimits {
    /// Requests at the upstream; 0: as many as come.
    pub concurrent: usize,
    /// Requests that may wait for their turn.
    pub queued: usize,
    /// How long one waits at most.
    #[serde(with = "duration")]
    pub wait: Duration,
}

/// An active check: a GET below the base URL, at intervals. Two failures in a row mark the upstream
/// as down, one success as up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// The time between two checks; `0s`: none are made.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// How long an answer may take.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// What is asked for. Any status under 500 is an answer of a server that is up.
    pub path: String,
}

/// How long an upstream may take. When one of these runs out the stream fails with a terminal event
/// that names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// To accept the connection, TLS included.
    #[serde(with = "duration")]
    pub connect: Duration,
    /// From the request to the first token.
    #[serde(with = "duration")]
    pub first_token: Duration,
    /// From one token to the next.
    #[serde(with = "duration")]
    pub between_tokens: Duration,
    /// From the request to the end.
    #[serde(with = "duration")]
    pub total: Duration,
}

/// The timeouts of one upstream or of one of its models; what is left out is as one level up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutOverrides {
    /// As [`Timeouts::connect`]; of no effect for a model, since connections are an upstream's.
    #[serde(with = "duration::option")]
    pub connect: Option<Duration>,
    /// As [`Timeouts::first_token`].
    #[serde(with = "duration::option")]
    pub first_token: Option<Duration>,
    /// As [`Timeouts::between_tokens`].
    #[serde(with = "duration::option")]
    pub between_tokens: Option<Duration>,
    /// As [`Timeouts::total`].
    #[serde(with = "duration::option")]
    pub total: Option<Duration>,
}

/// When a request is sent again: only before anything of an answer was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// How often at most, at other upstreams included; 0: never.
    pub attempts: u32,
    /// The wait before the first repetition at the same upstream is drawn between 0 and this, and
    /// doubles with each.
    #[serde(with = "duration")]
    pub backoff: Duration,
    /// The waits of one request together are no longer; a longer `Retry-After` is left to the
    /// client. Keep it under `streams.commit_after`, so that a client still gets the status of what
    /// failed in the end.
    #[serde(with = "duration")]
    pub max_wait: Duration,
    /// Retries for a hundred requests. Ten a second are always allowed.
    pub budget_percent: u32,
    /// When another upstream is asked beside one that is slow to give its first token.
    pub hedge: Hedging,
}

/// When a second upstream is asked for the same answer: `off`, `p95` or a duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hedging {
    /// Never.
    #[default]
    Off,
    /// After the time to the first token that 95 % of the upstream's requests keep to.
    P95,
    /// After this time.
    After(Duration),
}

/// When an upstream that keeps failing is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Failures in a row, before the first token, that open it; 0: it never opens.
    pub failures: u32,
    /// How long it stays open before one request is let through to see; doubled each time that
    /// fails, up to sixteen times.
    #[serde(with = "duration")]
    pub cooldown: Duration,
}

// === impl Upstream ===

impl Upstream {
    /// The URL of a path below the base: `url("/models")`.
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
            accept_client_key: false,
            models: Models::default(),
            weight: 1,
            region: None,
            limits: UpstreamLimits::default(),
            health_check: HealthCheck::default(),
            continuation: Continuation::None,
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

// === impl Timeouts ===

impl Timeouts {
    /// These, with what `overrides` says instead.
    #[must_use]
    pub fn with(&self, overrides: &TimeoutOverrides) -> Self {
        Self {
            connect: overrides.connect.unwrap_or(self.connect),
            first_token: overrides.first_token.unwrap_or(self.first_token),
            between_tokens: overrides.between_tokens.unwrap_or(self.between_tokens),
            total: overrides.total.unwrap_or(self.total),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_token: Duration::from_secs(120),
            between_tokens: Duration::from_secs(60),
            total: Duration::from_secs(30 * 60),
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
