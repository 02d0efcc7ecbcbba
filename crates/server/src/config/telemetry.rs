//! Configuration of traces and metrics over OTLP.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::secret::Secret;
use super::units::{duration, word};

/// Traces and metrics for collectors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Traces and metrics over OTLP. Off without an endpoint.
    pub otlp: Otlp,
}

/// Traces and metrics over OTLP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// URL before `/v1/traces` and `/v1/metrics`, such as `http://127.0.0.1:4318`.
    pub endpoint: Option<String>,
    /// Encoding and transport.
    #[serde(deserialize_with = "word")]
    pub protocol: OtlpProtocol,
    /// Headers of each export, such as a credential.
    pub headers: BTreeMap<String, Secret>,
    /// Ratio of the traces that begin here which are recorded, from 0 to 1. A trace of a client is
    /// recorded if its `traceparent` says so, unless the ratio is 0.
    pub traces: Ratio,
    /// Whether metrics are sent.
    pub metrics: bool,
    /// Time between two exports of metrics.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Maximum time of one export.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// `service.name` of what is sent.
    pub service: String,
    /// Names of the GenAI conventions that are not released yet, as
    /// `OTEL_SEMCONV_STABILITY_OPT_IN` lists them.
    pub opt_in: Vec<OptIn>,
}

/// Encoding and transport of OTLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtlpProtocol {
    /// Binary protobuf in the body of a POST.
    #[default]
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// Names of semantic conventions that are not released yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OptIn {
    /// The GenAI metrics `gen_ai.client.inference.*` in place of the released ones.
    #[serde(rename = "gen_ai_latest_experimental")]
    GenAiLatestExperimental,
}

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ratio(pub f64);

// === impl Otlp ===

impl Otlp {
    /// Returns whether traces are recorded.
    #[must_use]
    pub fn has_traces(&self) -> bool {
        self.endpoint.is_some() && self.traces.0 > 0.0
    }

    /// Returns whether metrics are sent.
    #[must_use]
    pub fn has_metrics(&self) -> bool {
        self.endpoint.is_some() && self.metrics
    }
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: OtlpProtocol::default(),
            headers: BTreeMap::new(),
            traces: Ratio::default(),
            metrics: false,
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            service: "tokenwire".to_owned(),
            opt_in: Vec::new(),
        }
    }
}

// === impl Ratio ===

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    /// Reads a number, or the text of one: a variable of the environment has no other.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RatioReader)
    }
}

struct RatioReader;

impl Visitor<'_> for RatioReader {
    type Value = Ratio;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number from 0 to 1, such as 0.01")
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Ratio, E> {
        if (0.0..=1.0).contains(&number) {
            Ok(Ratio(number))
        } else {
            Err(E::invalid_value(Unexpected::Float(number), &self))
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Ratio, E> {
        match number {
            0 => Ok(Ratio(0.0)),
            1 => Ok(Ratio(1.0)),
            _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Ratio, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Ratio, E> {
        let number: f64 = text
            .parse()
            .map_err(|_| E::invalid_value(Unexpected::Str(text), &self))?;
        self.visit_f64(number)
    }
}
