//! Timeouts of upstreams, and the overrides of one upstream or model.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units::duration;

/// Maximum times of an upstream. A stream that exceeds one fails with a terminal event that names
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// For the connection, including TLS.
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

/// Timeouts of one upstream or of one of its models. A value that is left out is inherited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutOverrides {
    /// As [`Timeouts::connect`]. Not allowed for a model, since models share connections.
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

// === impl Timeouts ===

impl Timeouts {
    /// Returns these timeouts with the values of `overrides`.
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
