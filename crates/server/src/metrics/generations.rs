//! Counters of generations, updated at their starts and ends.

use std::collections::BTreeSet;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokenwire_core::engine::{GenerationEnd, GenerationStart, Observer, Resumption, Reused};
use tokenwire_core::model::error::{ApiError, ErrorCode};
use tokenwire_core::model::snapshot::{Api, Status};

use super::token_intervals::MergedIntervals;
use crate::config::schema::Config;

/// Buckets in seconds, from a small local model to a large reasoning model.
const FIRST_TOKEN_BUCKETS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0,
];

/// Label value for names that are not in the configuration.
const OTHER: &str = "other";
/// Upstream label of generations that share another request's answer.
const SHARED: &str = "shared";

/// What readers get that come back.
const RESUMED: [&str; 5] = ["read", "nothing_left", "reset", "lost", "refused"];

/// Counts generations.
#[derive(Clone, Debug)]
pub(super) struct Generations {
    /// Upstream names in the order of the configuration.
    upstreams: Vec<Arc<str>>,
    /// Model names of the configuration.
    models: BTreeSet<Arc<str>>,
    started: Family<Started, Counter>,
    ended: Family<Ended, Counter>,
    events: Counter,
    tokens: Family<ByUpstream, Counter>,
    first_token: Family<ByUpstream, Histogram>,
    timeouts: Family<Timeout, Counter>,
    reused: Family<Result, Counter>,
    between_tokens: MergedIntervals,
    reported: Family<ByKind, Counter>,
    resumes: Family<Result, Counter>,
    replays: Counter,
    /// The series of most generations. Looking one up takes a lock and hashes its labels.
    frequent: Frequent,
}

/// Series that need no lookup.
#[derive(Clone, Debug, Default)]
struct Frequent {
    chat: FrequentByApi,
    responses: FrequentByApi,
    /// In the order of the configuration.
    upstreams: Vec<FrequentByUpstream>,
}

#[derive(Clone, Debug)]
struct FrequentByUpstream {
    tokens: Counter,
    first_token: Histogram,
    /// Tokens that the upstream reported: input, cached, output.
    reported: [Counter; 3],
}

#[derive(Clone, Debug, Default)]
struct FrequentByApi {
    started: Counter,
    completed: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Started {
    api: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    api: &'static str,
    status: &'static str,
    /// Empty, which means absent, if nothing failed.
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByUpstream {
    upstream: Arc<str>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByKind {
    upstream: Arc<str>,
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Timeout {
    upstream: Arc<str>,
    model: Arc<str>,
    clock: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

impl Generations {
    pub(super) fn new(config: &Config, registry: &mut Registry) -> Self {
        let mut generations = Self {
            upstreams: upstream_names(config),
            models: model_names(config),
            started: Family::default(),
            ended: Family::default(),
            events: Counter::default(),
            tokens: Family::default(),
            first_token: Family::new_with_constructor(|| Histogram::new(FIRST_TOKEN_BUCKETS)),
            timeouts: Family::default(),
            reused: Family::default(),
            between_tokens: MergedIntervals::default(),
            reported: Family::default(),
            resumes: Family::default(),
            replays: Counter::default(),
            frequent: Frequent::default(),
        };
        generations.begin_at_zero(config);
        let each = &generations;
        registry.register(
            "generations_started",
            "Generations started, by the language of the request",
            each.started.clone(),
        );
        registry.register(
            "generations_ended",
            "Generations ended, by the language of the request, the status, and the code of a failure (other: the upstream's own)",
            each.ended.clone(),
        );
        registry.register(
            "events",
            "Events in the logs of generations that have ended",
            each.events.clone(),
        );
        registry.register(
            "tokens",
            "Pieces of text, reasoning, refusal or arguments in generations that have ended, by upstream (shared: another request's answer)",
            each.tokens.clone(),
        );
        registry.register_with_unit(
            "first_token",
            "Time from the request to an upstream to its first token",
            Unit::Seconds,
            each.first_token.clone(),
        );
        registry.register(
            "upstream_timeouts",
            "Generations that failed because a timeout expired, by upstream, model (other: not named in the configuration) and timeout",
            each.timeouts.clone(),
        );
        registry.register(
            "reuse",
            "Requests by the result of sharing answers, as in the header Tokenwire-Cache",
            each.reused.clone(),
        );
        registry.register_collector(Box::new(each.between_tokens.clone()));
        registry.register(
            "reported_tokens",
            "Tokens that upstreams have reported, by kind (cached ones are part of the input)",
            each.reported.clone(),
        );
        registry.register(
            "resumes",
            "Readers that came back after an event, by what they got",
            each.resumes.clone(),
        );
        registry.register(
            "replays",
            "Readers that attached to a stream from its first event on",
            each.replays.clone(),
        );
        generations
    }

    /// Returns the same series, with the names of another configuration.
    pub(super) fn named_by(&self, config: &Config) -> Self {
        let mut renamed = Self {
            upstreams: upstream_names(config),
            models: model_names(config),
            frequent: Frequent::default(),
            ..self.clone()
        };
        renamed.begin_at_zero(config);
        renamed
    }

    /// Creates series with zeros at the start: a rate includes the first count only if there was a
    /// zero before it.
    fn begin_at_zero(&mut self, config: &Config) {
        let by_api = |asked_in| {
            let api = api(asked_in);
            let completed = Ended {
                api,
                status: Status::Completed.as_str(),
                code: "",
            };
            FrequentByApi {
                started: self.started.get_or_create_owned(&Started { api }),
                completed: self.ended.get_or_create_owned(&completed),
            }
        };
        let by_upstream = |upstream: &Arc<str>| {
            self.between_tokens.begin(upstream);
            let reported = |kind| {
                let upstream = upstream.clone();
                self.reported
                    .get_or_create_owned(&ByKind { upstream, kind })
            };
            let by_upstream = ByUpstream {
                upstream: upstream.clone(),
            };
            FrequentByUpstream {
                tokens: self.tokens.get_or_create_owned(&by_upstream),
                first_token: self.first_token.get_or_create_owned(&by_upstream),
                reported: ["input", "cached", "output"].map(reported),
            }
        };
        let frequent = Frequent {
            chat: by_api(Api::Chat),
            responses: by_api(Api::Responses),
            upstreams: self.upstreams.iter().map(by_upstream).collect(),
        };
        self.frequent = frequent;
        for result in RESUMED {
            let _ = self.resumes.get_or_create(&Result { result });
        }
        if config.reuse.coalesce || config.reuse.cache {
            for result in Reused::ALL.iter().map(|reused| reused.as_str()) {
                let _ = self.reused.get_or_create(&Result { result });
            }
        }
    }

    fn upstream(&self, endpoint: Option<usize>) -> Arc<str> {
        match endpoint {
            None => SHARED.into(),
            Some(endpoint) => self
                .upstreams
                .get(endpoint)
                .cloned()
                .unwrap_or_else(|| OTHER.into()),
        }
    }

    /// Counts the tokens that the upstream reported, and the times between them.
    fn spent(&self, endpoint: usize, end: &GenerationEnd<'_>) {
        let (Some(name), Some(upstream)) = (
            self.upstreams.get(endpoint),
            self.frequent.upstreams.get(endpoint),
        ) else {
            return;
        };
        if let Some(intervals) = end.token_intervals {
            self.between_tokens.add(name, intervals);
        }
        if let Some(usage) = end.token_usage {
            let tokens = [usage.input, usage.cached, usage.output];
            for (counter, tokens) in upstream.reported.iter().zip(tokens) {
                counter.inc_by(tokens);
            }
        }
    }

    fn model(&self, name: &str) -> Arc<str> {
        self.models
            .get(name)
            .cloned()
            .unwrap_or_else(|| OTHER.into())
    }
}

impl Frequent {
    fn by_api(&self, api: Api) -> &FrequentByApi {
        match api {
            Api::Chat => &self.chat,
            Api::Responses => &self.responses,
        }
    }
}

impl Observer for Generations {
    fn started(&self, start: &GenerationStart<'_>) {
        self.frequent.by_api(start.asked_in).started.inc();
        if let Some(result) = start.reused.map(Reused::as_str) {
            self.reused.get_or_create(&Result { result }).inc();
        }
    }

    fn ended(&self, end: &GenerationEnd<'_>) {
        self.events.inc_by(end.events);
        if let Some(endpoint) = end.endpoint {
            self.spent(endpoint, end);
        }
        let frequent = end.endpoint.and_then(|at| self.frequent.upstreams.get(at));
        if let (Some(upstream), Status::Completed, None) = (frequent, end.status, end.code) {
            self.frequent.by_api(end.asked_in).completed.inc();
            upstream.tokens.inc_by(end.tokens);
            if let Some(time) = end.first_token {
                upstream.first_token.observe(time.as_secs_f64());
            }
            return;
        }
        let known = end.code.map(|code| {
            ErrorCode::ALL
                .iter()
                .copied()
                .find(|known| known.as_str() == code)
        });
        let code = match known {
            None => "",
            Some(None) => OTHER,
            Some(Some(code)) => code.as_str(),
        };
        self.ended
            .get_or_create(&Ended {
                api: api(end.asked_in),
                status: end.status.as_str(),
                code,
            })
            .inc();
        let by_upstream = ByUpstream {
            upstream: self.upstream(end.endpoint),
        };
        self.tokens.get_or_create(&by_upstream).inc_by(end.tokens);
        if end.endpoint.is_none() {
            return;
        }
        if let Some(first_token) = end.first_token {
            self.first_token
                .get_or_create(&by_upstream)
                .observe(first_token.as_secs_f64());
        }
        if let Some(clock) = known.flatten().and_then(clock) {
            let ByUpstream { upstream } = by_upstream;
            self.timeouts
                .get_or_create(&Timeout {
                    upstream,
                    model: self.model(&end.meta.model),
                    clock,
                })
                .inc();
        }
    }

    fn resumed(&self, after: Option<u64>, result: &std::result::Result<Resumption, ApiError>) {
        if after.is_none() && result.is_ok() {
            self.replays.inc();
        } else {
            let result = resumed(result);
            self.resumes.get_or_create(&Result { result }).inc();
        }
    }
}

/// Returns the label of what a reader got.
fn resumed(result: &std::result::Result<Resumption, ApiError>) -> &'static str {
    match result {
        Ok(Resumption::Read { .. }) => "read",
        Ok(Resumption::NothingLeft { .. }) => "nothing_left",
        Ok(Resumption::Reset { .. }) => "reset",
        Ok(Resumption::Lost(_)) => "lost",
        Err(_) => "refused",
    }
}

/// Returns the names of the upstreams in the order of the configuration.
fn upstream_names(config: &Config) -> Vec<Arc<str>> {
    if config.uses_simulator() {
        return vec!["simulator".into()];
    }
    let upstreams = config.upstreams.iter();
    upstreams
        .map(|upstream| upstream.name.as_str().into())
        .collect()
}

fn model_names(config: &Config) -> BTreeSet<Arc<str>> {
    let upstreams = config.upstreams.iter();
    let named = upstreams.flat_map(|upstream| upstream.models.names());
    named.chain(config.default_model()).map(Arc::from).collect()
}

fn api(api: Api) -> &'static str {
    match api {
        Api::Chat => "chat",
        Api::Responses => "responses",
    }
}

/// Returns the configuration's name of the timeout that caused this failure.
fn clock(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::ConnectTimeout => Some("connect"),
        ErrorCode::FirstTokenTimeout => Some("first_token"),
        ErrorCode::BetweenTokensTimeout => Some("between_tokens"),
        ErrorCode::TotalTimeout => Some("total"),
        _ => None,
    }
}
