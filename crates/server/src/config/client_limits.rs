//! What clients may use: limits of keys and owners, and the prices that budgets are counted by.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::models::matches;
use super::money::Money;
use super::units::count;

/// Limits of one key, or of one owner with all its keys. What is left out is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientLimits {
    /// Requests per minute that start an answer.
    #[serde(with = "count::option")]
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute, of requests and answers together.
    #[serde(with = "count::option")]
    pub tokens_per_minute: Option<u64>,
    /// Answers that are written at the same time.
    #[serde(with = "count::option")]
    pub streams: Option<u64>,
    /// Cost per calendar day, UTC.
    pub budget_per_day: Option<Money>,
    /// Cost per calendar month, UTC.
    pub budget_per_month: Option<Money>,
}

/// What happens to an answer that outgrows what its owner may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overrun {
    /// It goes on, and what follows waits for longer.
    #[default]
    Continue,
    /// It ends with the reason `max_output_tokens`.
    Stop,
}

/// What happens to requests with limits while the counters of all nodes cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreAway {
    /// The node counts on its own, and tells the others later.
    #[default]
    Local,
    /// They are refused.
    Refuse,
}

/// The price of a model's tokens, for a million of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// Tokens of requests.
    pub input: Money,
    /// Tokens of answers.
    pub output: Money,
    /// Tokens of requests that the upstream had in its cache; as `input` if left out.
    pub cached: Option<Money>,
    /// The most tokens of one answer, which are reserved where a request sets no limit.
    #[serde(with = "count::option")]
    pub max_output: Option<u64>,
}

/// Prices by the names that clients use for models, or by patterns of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Prices(pub BTreeMap<String, Price>);

// === impl ClientLimits ===

impl ClientLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a budget is set.
    #[must_use]
    pub fn has_budget(&self) -> bool {
        self.budget_per_day.is_some() || self.budget_per_month.is_some()
    }

    /// Whether tokens are limited, by their number or their cost.
    #[must_use]
    pub fn has_tokens(&self) -> bool {
        self.tokens_per_minute.is_some() || self.has_budget()
    }

    /// Returns the lower one of each limit.
    #[must_use]
    pub fn lower(&self, other: &Self) -> Self {
        fn least<T: Ord + Copy>(a: Option<T>, b: Option<T>) -> Option<T> {
            a.into_iter().chain(b).min()
        }
        Self {
            requests_per_minute: least(self.requests_per_minute, other.requests_per_minute),
            tokens_per_minute: least(self.tokens_per_minute, other.tokens_per_minute),
            streams: least(self.streams, other.streams),
            budget_per_day: least(self.budget_per_day, other.budget_per_day),
            budget_per_month: least(self.budget_per_month, other.budget_per_month),
        }
    }

    /// Returns the limits that are set, by name, as they are written.
    pub(crate) fn written(&self) -> Vec<(&'static str, String)> {
        let numbers = [
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_minute", self.tokens_per_minute),
            ("streams", self.streams),
        ];
        let amounts = [
            ("budget_per_day", self.budget_per_day),
            ("budget_per_month", self.budget_per_month),
        ];
        let numbers = numbers
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_ref()?.to_string())));
        let amounts = amounts
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_ref()?.to_string())));
        numbers.chain(amounts).collect()
    }

    /// Returns the limits that nothing fits into.
    pub(crate) fn zeros(&self) -> impl Iterator<Item = &'static str> {
        let zero = Some(Money::default());
        [
            ("requests_per_minute", self.requests_per_minute == Some(0)),
            ("tokens_per_minute", self.tokens_per_minute == Some(0)),
            ("streams", self.streams == Some(0)),
            ("budget_per_day", self.budget_per_day == zero),
            ("budget_per_month", self.budget_per_month == zero),
        ]
        .into_iter()
        .filter_map(|(name, is_zero)| is_zero.then_some(name))
    }
}

// === impl Prices ===

impl Prices {
    /// Returns the price of a model: that of its name, else of the longest pattern that matches.
    #[must_use]
    pub fn of(&self, model: &str) -> Option<&Price> {
        if let Some(price) = self.0.get(model) {
            return Some(price);
        }
        let patterns = self.0.iter();
        let fitting = patterns.filter(|(pattern, _)| matches(pattern, model));
        fitting
            .max_by_key(|(pattern, _)| pattern.len())
            .map(|(_, price)| price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_limit_wins_and_what_is_left_out_does_not_count() {
        let common = ClientLimits {
            requests_per_minute: Some(60),
            streams: Some(5),
            ..ClientLimits::default()
        };
        let own = ClientLimits {
            requests_per_minute: Some(600),
            streams: Some(2),
            budget_per_day: Money::parse("1.5"),
            ..ClientLimits::default()
        };
        let lower = common.lower(&own);
        assert_eq!(lower, own.lower(&common));
        assert_eq!(
            (lower.requests_per_minute, lower.streams),
            (Some(60), Some(2))
        );
        assert_eq!(lower.tokens_per_minute, None);
        assert_eq!(lower.budget_per_day, Money::parse("1.5"));
    }

    #[test]
    fn price_of_the_name_or_of_the_longest_pattern_counts() {
        let json =
            r#"{"*":{"input":0},"gpt-*":{"input":1},"gpt-4*":{"input":2},"gpt-4o":{"input":3}}"#;
        let prices: Prices = serde_json::from_str(json).unwrap();
        for (model, input) in [("gpt-4o", 3), ("gpt-4.1", 2), ("gpt-5", 1), ("llama", 0)] {
            let price = prices.of(model).unwrap();
            assert_eq!(price.input.micros(), input * 1_000_000, "{model}");
        }
        assert_eq!(Prices::default().of("gpt-4o"), None);
    }
}
