//! `/v1/usage`: what was used, from the counters that enforce the limits.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use serde_json::value::RawValue;
use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::inbound::Query;
use super::outbound::HttpError;
use crate::config::money::Money;
use crate::limits::{Day, Grouping, UsageRow, today};
use crate::service::Service;

#[derive(Serialize)]
struct List {
    object: &'static str,
    from: String,
    to: String,
    by: &'static str,
    data: Vec<Row>,
}

/// The usage of one key, owner or model.
#[derive(Serialize)]
struct Row {
    object: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    requests: u64,
    input_tokens: u64,
    cached_tokens: u64,
    output_tokens: u64,
    /// A decimal number, which no float has rounded.
    cost: Box<RawValue>,
    estimated_requests: u64,
}

/// `GET /v1/usage?from&to&by`
pub(super) async fn list(
    request: HttpRequest,
    service: web::Data<Service>,
) -> Result<HttpResponse, HttpError> {
    let identity = service.identity(&request)?;
    let query = Query::of(&request);
    let to = day(&query, "to")?.unwrap_or_else(today);
    let from = day(&query, "from")?.unwrap_or_else(|| to.first_of_month());
    let (by, name) = match query.get("by") {
        None | Some("owner") => (Grouping::Owner, "owner"),
        Some("key") => (Grouping::Key, "key"),
        Some("model") => (Grouping::Model, "model"),
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            let message = format!("'by' is '{shown}'; expected 'owner', 'key' or 'model'.");
            return Err(ApiError::new(ErrorCode::InvalidValue, message)
                .param("by")
                .into());
        }
    };
    let owner = (!identity.is_operator()).then(|| identity.owner());
    let rows = service.limits.list((from, to), by, owner.as_ref()).await?;
    Ok(HttpResponse::Ok().json(List {
        object: "list",
        from: from.to_string(),
        to: to.to_string(),
        by: name,
        data: rows.into_iter().map(|found| row(found, by)).collect(),
    }))
}

fn row(found: UsageRow, by: Grouping) -> Row {
    let UsageRow {
        group,
        owner,
        usage,
    } = found;
    let text = |name: Option<std::sync::Arc<str>>| name.map(|name| name.to_string());
    let (key, owner, model) = match by {
        Grouping::Key => (Some(text(group)), Some(text(owner)), None),
        Grouping::Owner => (None, Some(text(group)), None),
        Grouping::Model => (None, None, text(group)),
    };
    let cost = Money::from_micros(usage.cost).to_string();
    Row {
        object: "usage",
        key,
        owner,
        model,
        requests: usage.requests,
        input_tokens: usage.input,
        cached_tokens: usage.cached,
        output_tokens: usage.output,
        cost: RawValue::from_string(cost).unwrap_or_default(),
        estimated_requests: usage.estimated,
    }
}

/// Returns the day of a query parameter, if it has one.
fn day(query: &Query, name: &'static str) -> Result<Option<Day>, ApiError> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = Day::parse(text).map(Some);
    parsed.ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        let message = format!("'{name}' is '{shown}'; expected a date such as 2026-11-30.");
        ApiError::new(ErrorCode::InvalidValue, message).param(name)
    })
}
