//! The events as JSON. None has a text of a client or a model.

use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokenwire_core::engine::GenerationEnd;
use tokenwire_core::generation::watch::RuleMatch;
use tokenwire_core::generation::{Generation, TokenIntervals};
use tokenwire_core::model::id::{GenerationId, Owner};
use tokenwire_core::model::snapshot::{Api, Meta, Status};
use tokenwire_core::upstream::HealthStatus;

use super::Action;
use super::ring::Event;
use crate::shared_upstream::SharedUpstream;

/// The longest name of a model that is shown, in characters: the client has chosen it.
const MAX_MODEL: usize = 128;

/// Returns an object without its last brace.
pub(super) fn open(value: &Value) -> String {
    let mut text = value.to_string();
    text.pop();
    text
}

fn of(value: &Value) -> Event {
    Event {
        open_json: open(value).into(),
        for_operators: None,
    }
}

/// Adds members that only operators see.
fn for_operators(event: Event, owner: &Owner, upstream: Option<&str>) -> Event {
    let mut members = String::new();
    if let Owner::Named(name) = owner {
        members.push_str(&format!(",\"owner\":{}", Value::from(&**name)));
    }
    if let Some(name) = upstream {
        members.push_str(&format!(",\"upstream\":{}", Value::from(name)));
    }
    Event {
        for_operators: (!members.is_empty()).then(|| members.into()),
        ..event
    }
}

/// `tokenwire:stream.started`
pub(super) fn started(meta: &Meta) -> Event {
    let model: String = meta.model.chars().take(MAX_MODEL).collect();
    let event = of(&json!({
        "type": "tokenwire:stream.started",
        "response_id": meta.id.as_str(),
        "model": model,
        "upstream_api": match meta.api {
            Api::Chat => "chat",
            Api::Responses => "responses",
        },
        "background": meta.background,
        "created_at": meta.created_at,
    }));
    for_operators(event, &meta.owner, None)
}

/// `tokenwire:stream.first_token`
pub(super) fn first_token(meta: &Meta, after: Duration) -> Event {
    let event = of(&json!({
        "type": "tokenwire:stream.first_token",
        "response_id": meta.id.as_str(),
        "first_token_ms": millis(after),
    }));
    for_operators(event, &meta.owner, None)
}

/// `tokenwire:stream.ended`
pub(super) fn ended(end: &GenerationEnd<'_>, upstream: Option<&str>) -> Event {
    let reason = match end.status {
        Status::Failed => end.code,
        _ => end.reason,
    };
    let usage = end.usage.map(|usage| usage.to_owned());
    let usage = usage.and_then(|usage| RawValue::from_string(usage).ok());
    let event = of(&json!({
        "type": "tokenwire:stream.ended",
        "response_id": end.meta.id.as_str(),
        "status": end.status.as_str(),
        "reason": reason,
        "usage": usage,
        "events": end.events,
        "tokens": end.tokens,
        "first_token_ms": end.first_token.map(millis),
        "between_tokens_ms": end.token_intervals.and_then(between),
        "duration_ms": millis(end.duration),
    }));
    for_operators(event, &end.meta.owner, upstream)
}

/// `tokenwire:stream.matched`
pub(super) fn matched(generation: &Generation, found: &RuleMatch, action: Action) -> Event {
    let mut value = match_members(&generation.meta().id, found);
    if let Some(members) = value.as_object_mut() {
        members.insert("type".to_owned(), "tokenwire:stream.matched".into());
        members.insert("action".to_owned(), action.as_str().into());
    }
    for_operators(of(&value), &generation.meta().owner, None)
}

/// Returns where a rule has matched.
pub(super) fn match_members(id: &GenerationId, found: &RuleMatch) -> Value {
    json!({
        "response_id": id.as_str(),
        "rule": &*found.name,
        "sequence_number": found.seq.0,
        "choice": found.choice,
        "output_index": found.output_index(),
        "content_index": found.content_index(),
        "part": found.kind().as_str(),
        "offset": found.offset,
    })
}

/// `tokenwire:upstream.changed`
pub(super) fn upstream(upstream: &SharedUpstream) -> Event {
    of(&json!({
        "type": "tokenwire:upstream.changed",
        "upstream": upstream.config.name,
        "state": health(upstream.stats.health()),
    }))
}

/// Returns the state of an upstream as events name it.
fn health(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Up => "up",
        HealthStatus::HalfOpen => "trial",
        HealthStatus::Down => "down",
    }
}

/// `tokenwire:reset`
pub(super) fn reset(reason: &str, lost: Option<u64>) -> String {
    open(&json!({"type": "tokenwire:reset", "reason": reason, "lost": lost}))
}

/// Rounded to tenths.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Returns mean and percentiles of the times between tokens; the latter are bounds of buckets.
fn between(intervals: &TokenIntervals) -> Option<Value> {
    let counts = intervals.counts();
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    let mean = intervals.sum().checked_div(u32::try_from(total).ok()?)?;
    let at_most = |part: f64| {
        let wanted = (total as f64 * part).ceil() as u64;
        let mut seen = 0;
        let bucket = counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        })?;
        let bound = TokenIntervals::BOUNDS.get(bucket)?;
        Some(f64::from(*bound) / 1000.0)
    };
    Some(json!({"mean": millis(mean), "p50": at_most(0.5), "p95": at_most(0.95)}))
}
