//! What tokens cost.

use tokenwire_core::model::usage::TokenUsage;

use crate::config::client_limits::Price;

/// Prices are for this many tokens.
const TOKENS: u128 = 1_000_000;

/// Returns the cost in millionths, rounded up once.
pub(super) fn cost(price: &Price, usage: TokenUsage) -> u64 {
    let cached = price.cached.unwrap_or(price.input);
    let parts = [
        (usage.input.saturating_sub(usage.cached), price.input),
        (usage.cached.min(usage.input), cached),
        (usage.output, price.output),
    ];
    let sum: u128 = parts
        .iter()
        .map(|(tokens, price)| u128::from(*tokens) * u128::from(price.micros()))
        .sum();
    u64::try_from(sum.div_ceil(TOKENS)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::money::Money;

    #[test]
    fn each_kind_of_token_has_its_price() {
        let amount = |text: &str| Money::parse(text).unwrap();
        let price = Price {
            input: amount("2.5"),
            output: amount("10"),
            cached: Some(amount("0.25")),
            max_output: None,
        };
        let usage = |input, cached, output| TokenUsage {
            input,
            cached,
            output,
        };
        assert_eq!(cost(&price, usage(1_000_000, 0, 0)), 2_500_000);
        assert_eq!(cost(&price, usage(1000, 400, 100)), 1500 + 100 + 1000);
        assert_eq!(cost(&price, usage(1, 0, 0)), 3, "rounded up");
        assert_eq!(cost(&price, TokenUsage::default()), 0);
        let plain = Price {
            cached: None,
            ..price
        };
        assert_eq!(cost(&plain, usage(1000, 400, 0)), 2500);
        let most = usage(u64::MAX, 0, u64::MAX);
        assert_eq!(cost(&price, most), u64::MAX);
    }
}
