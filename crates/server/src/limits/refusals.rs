//! Why a request is refused, and how often that was.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokenwire_core::model::error::{ApiError, ErrorCode};

use super::shared_use::NoRoom;
use crate::config::client_limits::ClientLimits;

/// The limits that refuse requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Answers at the same time.
    Streams,
    /// The cost of a day or a month.
    Budget,
    /// More tokens, or a higher cost, than the limit allows at all.
    Size,
    /// A budget, and a model without a price.
    Price,
}

/// How many requests each limit has refused.
#[derive(Debug, Default)]
pub(super) struct Refusals([AtomicU64; LimitKind::ALL.len()]);

/// Whose limit it is, and its name in the configuration.
pub(super) struct LimitName {
    pub(super) of_owner: bool,
    pub(super) name: &'static str,
}

// === impl LimitKind ===

impl LimitKind {
    /// All kinds.
    pub const ALL: &'static [Self] = &[
        Self::Requests,
        Self::Tokens,
        Self::Streams,
        Self::Budget,
        Self::Size,
        Self::Price,
    ];

    /// Returns the value of a metric's label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
            Self::Streams => "streams",
            Self::Budget => "budget",
            Self::Size => "size",
            Self::Price => "price",
        }
    }
}

// === impl Refusals ===

impl Refusals {
    pub(super) fn count(&self, kind: LimitKind) -> u64 {
        let count = self.0.get(kind as usize);
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn add(&self, kind: LimitKind) {
        if let Some(count) = self.0.get(kind as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Refuses until a rate has room again.
    pub(super) fn rate(
        &self,
        kind: LimitKind,
        limit: u64,
        of: &LimitName,
        wait: Duration,
    ) -> ApiError {
        self.add(kind);
        let whole = wait.as_millis().div_ceil(1000).max(1);
        let after = Duration::from_secs(u64::try_from(whole).unwrap_or(u64::MAX));
        let message = format!(
            "Rate limit reached: {limit} {} per minute for {} ({}). Try again in {}s.",
            kind.as_str(),
            of.whom(),
            of.name,
            after.as_secs()
        );
        ApiError::new(ErrorCode::RateLimitExceeded, message).retry_after(after)
    }

    /// Refuses until another answer has ended.
    pub(super) fn streams(&self, limit: u64, of: &LimitName) -> ApiError {
        self.add(LimitKind::Streams);
        let message = format!(
            "Rate limit reached: {limit} answers at the same time for {} ({}). Try again when one has ended.",
            of.whom(),
            of.name
        );
        ApiError::new(ErrorCode::RateLimitExceeded, message).retry_after(Duration::from_secs(1))
    }

    /// Refuses what all nodes together have no room for.
    pub(super) fn no_room(
        &self,
        limits: &ClientLimits,
        of_owner: bool,
        found: &NoRoom,
    ) -> ApiError {
        let of = |name| LimitName { of_owner, name };
        match found.why.as_str() {
            "requests" => {
                let limit = limits.requests_per_minute.unwrap_or(0);
                let of = of("requests_per_minute");
                self.rate(LimitKind::Requests, limit, &of, found.wait)
            }
            "tokens" => {
                let limit = limits.tokens_per_minute.unwrap_or(0);
                let of = of("tokens_per_minute");
                self.rate(LimitKind::Tokens, limit, &of, found.wait)
            }
            "budget_per_day" => self.budget(&of("budget_per_day")),
            "budget_per_month" => self.budget(&of("budget_per_month")),
            _ => self.streams(limits.streams.unwrap_or(0), &of("streams")),
        }
    }

    /// Refuses for good: the request needs more tokens than the limit allows.
    pub(super) fn tokens(&self, needed: u64, limit: u64, of: &LimitName) -> ApiError {
        self.add(LimitKind::Size);
        let message = format!(
            "The request needs up to {needed} tokens, and {} may use {limit} per minute ({}). Shorten it, or lower 'max_output_tokens'.",
            of.whom(),
            of.name
        );
        ApiError::new(ErrorCode::RequestTooLargeForLimit, message)
    }

    /// Refuses for good: the request may cost more than the whole budget.
    pub(super) fn cost(&self, of: &LimitName) -> ApiError {
        self.add(LimitKind::Size);
        let message = format!(
            "The request may cost more than the whole budget of {} ({}). Shorten it, or lower 'max_output_tokens'.",
            of.whom(),
            of.name
        );
        ApiError::new(ErrorCode::RequestTooLargeForLimit, message)
    }

    /// Refuses until the budget begins anew, or is raised.
    pub(super) fn budget(&self, of: &LimitName) -> ApiError {
        self.add(LimitKind::Budget);
        let message = format!(
            "The budget of {} ({}) has not enough left for this request.",
            of.whom(),
            of.name
        );
        ApiError::new(ErrorCode::BudgetExceeded, message)
    }

    /// Refuses a model that a budget cannot count.
    pub(super) fn price(&self, model: &str) -> ApiError {
        self.add(LimitKind::Price);
        let message = format!(
            "The model '{model}' has no price, so a budget cannot count it. The operator has to add it to `prices`."
        );
        ApiError::new(ErrorCode::ModelNotAllowed, message)
    }
}

// === impl LimitName ===

impl LimitName {
    fn whom(&self) -> &'static str {
        if self.of_owner {
            "this owner"
        } else {
            "this key"
        }
    }
}
