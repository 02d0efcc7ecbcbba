//! Amounts of money: `12`, `0.15`, `"19.99"`.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount in millionths of a unit of whatever currency the prices are in. Amounts are added as
/// whole numbers, so no sum is rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Money(u64);

/// Millionths in one unit.
const UNIT: u64 = 1_000_000;
/// The largest amount in units.
const MOST: u64 = 1_000_000_000;
const EXPECTED: &str = "an amount such as 12 or 0.15, with at most six decimals";

// === impl Money ===

impl Money {
    /// Returns this many millionths.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns the amount in millionths.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Reads a decimal number with at most six decimals.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (units, decimals) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if units.is_empty() || !is_number(units) || !is_number(decimals) || decimals.len() > 6 {
            return None;
        }
        let units: u64 = units.parse().ok().filter(|units| *units <= MOST)?;
        let micros: u64 = format!("{decimals:0<6}").parse().ok()?;
        Some(Self(units * UNIT + micros))
    }
}

/// Writes a decimal number, which reads back unchanged.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (units, micros) = (self.0 / UNIT, self.0 % UNIT);
        if micros == 0 {
            return write!(f, "{units}");
        }
        let decimals = format!("{micros:06}");
        write!(f, "{units}.{}", decimals.trim_end_matches('0'))
    }
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(UNIT) {
            return serializer.serialize_u64(self.0 / UNIT);
        }
        serializer.serialize_str(&self.to_string())
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl Visitor<'_> for Reader {
    type Value = Money;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Money, E> {
        Money::parse(text.trim()).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Money, E> {
        Money::parse(&number.to_string())
            .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Money, E> {
        Money::parse(&number.to_string())
            .ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }

    /// The shortest decimal number that means the same float is what the file has.
    fn visit_f64<E: Error>(self, number: f64) -> Result<Money, E> {
        Money::parse(&number.to_string())
            .ok_or_else(|| E::invalid_value(Unexpected::Float(number), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        for (text, micros) in [
            ("0", Some(0)),
            ("12", Some(12_000_000)),
            ("0.15", Some(150_000)),
            ("0.000001", Some(1)),
            ("19.9", Some(19_900_000)),
            ("1000000000", Some(1_000_000_000_000_000)),
            ("0.0000001", None),
            ("-1", None),
            ("1000000001", None),
            (".5", None),
            ("1e3", None),
            ("", None),
        ] {
            assert_eq!(Money::parse(text).map(Money::micros), micros, "{text}");
        }
        for json in ["0.1", "0.15", "2.5", "0.000001", "1234567.891", "\"19.99\""] {
            let money: Money = serde_json::from_str(json).unwrap();
            assert_eq!(money.to_string(), json.trim_matches('"'));
            let written = serde_json::to_string(&money).unwrap();
            assert_eq!(serde_json::from_str::<Money>(&written).unwrap(), money);
        }
        assert!(serde_json::from_str::<Money>("-0.5").is_err());
        assert!(serde_json::from_str::<Money>("true").is_err());
    }
}
