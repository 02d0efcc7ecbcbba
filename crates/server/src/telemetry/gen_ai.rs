//! Names and metrics of the semantic conventions for generative AI.
//!
//! The released names are those of version 1.37 of the semantic conventions. With
//! `gen_ai_latest_experimental` the metrics are `gen_ai.client.inference.*` in place of them, as the
//! repository `semantic-conventions-genai` had them in October 2026. Spans are the same in both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokenwire_core::engine::GenerationEnd;
use tokenwire_core::model::error::ErrorCode;
use tokenwire_core::model::snapshot::Status;
use url::Url;

use super::points::{Distribution, Family, FamilyKind, Point, PointValue};
use crate::config::schema::Upstream;

/// `gen_ai.operation.name` of all generations.
pub(super) const OPERATION: &str = "chat";

/// `error.type` of a code that is not the gateway's own.
pub(super) const OTHER_ERROR: &str = "_OTHER";

/// Label of models beyond [`MAX_MODELS`].
const OTHER_MODEL: &str = "other";

/// Most names of models in metrics. Clients choose them, where an upstream takes any.
const MAX_MODELS: usize = 100;

const DURATION_BOUNDS: [f64; 14] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];

const FIRST_CHUNK_BOUNDS: [f64; 13] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5,
];

const TOKEN_BOUNDS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// An upstream as attributes name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Server {
    /// `gen_ai.provider.name`.
    pub(super) provider: &'static str,
    /// `server.address`.
    pub(super) address: String,
    /// `server.port`.
    pub(super) port: u16,
}

/// The metrics of generations, by the names of the conventions.
#[derive(Debug)]
pub(super) struct GenAiMetrics {
    latest: bool,
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    models: BTreeSet<Arc<str>>,
    series: BTreeMap<Key, Distribution>,
    counters: BTreeMap<Key, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    metric: &'static str,
    server: Arc<Server>,
    model: Arc<str>,
    /// `gen_ai.token.type`, or else empty.
    token_type: &'static str,
    /// `error.type`, or else empty.
    error: &'static str,
}

// === impl Server ===

impl Server {
    /// Returns how an upstream is named. Of an unknown server the provider is `openai`, whose API
    /// it speaks.
    pub(crate) fn of(upstream: &Upstream) -> Self {
        let url = Url::parse(&upstream.base_url).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
        Self {
            provider: provider(host),
            address: host.to_owned(),
            port: url
                .as_ref()
                .and_then(Url::port_or_known_default)
                .unwrap_or_default(),
        }
    }
}

/// Returns the provider of a host, as the conventions name it.
fn provider(host: &str) -> &'static str {
    let is = |domain: &str| {
        let rest = host.strip_suffix(domain);
        rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if is("openai.azure.com") || is("cognitiveservices.azure.com") || is("services.ai.azure.com") {
        "azure.ai.openai"
    } else if is("amazonaws.com") || is("api.aws") {
        "aws.bedrock"
    } else if is("aiplatform.googleapis.com") || host.ends_with("-aiplatform.googleapis.com") {
        "gcp.vertex_ai"
    } else if is("generativelanguage.googleapis.com") {
        "gcp.gemini"
    } else if is("anthropic.com") {
        "anthropic"
    } else if is("cohere.com") || is("cohere.ai") {
        "cohere"
    } else if is("deepseek.com") {
        "deepseek"
    } else if is("groq.com") {
        "groq"
    } else if is("mistral.ai") {
        "mistral_ai"
    } else if is("perplexity.ai") {
        "perplexity"
    } else if is("x.ai") {
        "x_ai"
    } else {
        "openai"
    }
}

/// Returns the `error.type` of a code: one of the gateway's, since an upstream's own may be any text.
pub(super) fn error_type(code: &str) -> &'static str {
    let mut known = ErrorCode::ALL.iter().map(|known| known.as_str());
    known.find(|known| *known == code).unwrap_or(OTHER_ERROR)
}

// === impl GenAiMetrics ===

impl GenAiMetrics {
    /// With `latest` the names that are not released yet.
    pub(super) fn new(latest: bool) -> Self {
        Self {
            latest,
            sums: Mutex::default(),
        }
    }

    /// Counts a generation that this upstream has answered.
    pub(super) fn add(&self, server: &Arc<Server>, end: &GenerationEnd<'_>) {
        let mut sums = self.sums.lock();
        let model = sums.model(&end.meta.model, end.status == Status::Completed);
        let error = match end.status {
            Status::Failed => end.code.map_or(OTHER_ERROR, error_type),
            _ => "",
        };
        let key = |metric, token_type, error| Key {
            metric,
            server: server.clone(),
            model: model.clone(),
            token_type,
            error,
        };
        let seconds = end.duration.as_secs_f64();
        let duration = match self.latest {
            true => "gen_ai.client.inference.duration",
            false => "gen_ai.client.operation.duration",
        };
        sums.observe(key(duration, "", error), &DURATION_BOUNDS, seconds);
        if let (true, Some(time)) = (self.latest, end.first_token) {
            let key = key("gen_ai.client.inference.time_to_first_chunk", "", "");
            sums.observe(key, &FIRST_CHUNK_BOUNDS, time.as_secs_f64());
        }
        let Some(usage) = end.token_usage else {
            return;
        };
        let (input, output) = (usage.input, usage.output);
        if self.latest {
            for (metric, tokens) in [
                ("gen_ai.client.inference.usage.input_tokens", input),
                ("gen_ai.client.inference.usage.output_tokens", output),
                (
                    "gen_ai.client.inference.usage.cache_read.input_tokens",
                    usage.cached,
                ),
            ] {
                *sums.counters.entry(key(metric, "", "")).or_default() += tokens;
            }
            for (metric, tokens) in [
                ("gen_ai.client.inference.operation.input_tokens", input),
                ("gen_ai.client.inference.operation.output_tokens", output),
            ] {
                sums.observe(key(metric, "", ""), &TOKEN_BOUNDS, tokens as f64);
            }
        } else {
            for (kind, tokens) in [("input", input), ("output", output)] {
                let key = key("gen_ai.client.token.usage", kind, "");
                sums.observe(key, &TOKEN_BOUNDS, tokens as f64);
            }
        }
    }

    /// Returns the metrics with their present values.
    pub(super) fn families(&self) -> Vec<Family> {
        let sums = self.sums.lock();
        let histograms = sums.series.iter().map(|(key, distribution)| {
            let value = PointValue::Histogram(distribution.clone());
            (key, FamilyKind::Histogram, value)
        });
        let counters = sums.counters.iter().map(|(key, count)| {
            let value = PointValue::Number(*count as f64);
            (key, FamilyKind::Counter, value)
        });
        let mut families: Vec<Family> = Vec::new();
        for (key, kind, value) in histograms.chain(counters) {
            let attributes = key.attributes(kind);
            let point = Point { attributes, value };
            match families.last_mut().filter(|last| last.name == key.metric) {
                Some(family) => family.points.push(point),
                None => families.push(Family {
                    name: key.metric.to_owned(),
                    description: String::new(),
                    unit: match key.metric.contains("token") {
                        true => "{token}",
                        false => "s",
                    },
                    kind,
                    points: vec![point],
                }),
            }
        }
        families
    }
}

// === impl Sums ===

impl Sums {
    fn model(&mut self, name: &str, is_served: bool) -> Arc<str> {
        if let Some(known) = self.models.get(name) {
            return known.clone();
        }
        if !is_served || self.models.len() >= MAX_MODELS {
            return OTHER_MODEL.into();
        }
        let name: Arc<str> = name.into();
        self.models.insert(name.clone());
        name
    }

    fn observe(&mut self, key: Key, bounds: &[f64], value: f64) {
        let series = self.series.entry(key);
        let series = series.or_insert_with(|| Distribution::new(bounds));
        series.add(value);
    }
}

// === impl Key ===

impl Key {
    fn attributes(&self, kind: FamilyKind) -> Vec<(String, String)> {
        let modality = match kind {
            FamilyKind::Counter => "unknown",
            _ => "",
        };
        [
            ("gen_ai.operation.name", OPERATION),
            ("gen_ai.provider.name", self.server.provider),
            ("gen_ai.request.model", &self.model),
            ("gen_ai.token.type", self.token_type),
            ("gen_ai.token.modality", modality),
            ("server.address", &self.server.address),
            ("error.type", self.error),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_named_by_their_hosts() {
        for (host, expected) in [
            ("api.openai.com", "openai"),
            ("acme.openai.azure.com", "azure.ai.openai"),
            ("bedrock-runtime.us-east-1.amazonaws.com", "aws.bedrock"),
            ("us-east1-aiplatform.googleapis.com", "gcp.vertex_ai"),
            ("api.x.ai", "x_ai"),
            ("api.netflix.ai", "openai"),
            ("127.0.0.1", "openai"),
            ("", "openai"),
        ] {
            assert_eq!(provider(host), expected, "{host}");
        }
    }

    #[test]
    fn error_types_are_bounded() {
        assert_eq!(error_type("first_token_timeout"), "first_token_timeout");
        assert_eq!(error_type("what an upstream says"), OTHER_ERROR);
    }

    #[test]
    fn names_of_models_are_bounded() {
        let mut sums = Sums::default();
        assert_eq!(&*sums.model("refused", false), OTHER_MODEL);
        for index in 0..MAX_MODELS {
            let name = format!("m{index}");
            assert_eq!(*sums.model(&name, true), *name);
        }
        assert_eq!(&*sums.model("one-more", true), OTHER_MODEL);
        assert_eq!(&*sums.model("m7", false), "m7");
    }
}
