//! Syntax of durations and sizes: `15s`, `1h30m`, `1MiB`.
//!
//! `humantime` and `bytesize` parse them. Their formatters round (`1.5 MiB`) or use unusual units
//! (`1day`), so [`duration::format`] and [`size::format`] write them: exactly, and readable as the
//! same value.

use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Deserializer};

/// Deserializes an enum from a variant's name. serde alone would also accept the number of a
/// variant.
pub(super) fn word<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<T, D::Error> {
    T::deserialize(String::deserialize(deserializer)?.into_deserializer())
}

/// A [`std::time::Duration`] written as numbers with units: `250ms`, `15s`, `5m`, `1h30m`, `0s`.
pub mod duration {
    use std::fmt;
    use std::time::Duration;

    use serde::de::{Error, Unexpected, Visitor};
    use serde::{Deserializer, Serializer};

    /// Expectation in errors.
    pub const EXPECTED: &str = "a duration with its unit, such as 250ms, 15s, 5m or 1h30m";

    /// Writes `value` so that it reads back unchanged: `1h30m`, `250ms`, `0s`.
    #[must_use]
    pub fn format(value: Duration) -> String {
        let (seconds, nanos) = (value.as_secs(), u64::from(value.subsec_nanos()));
        let parts = [
            (seconds / 3600, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (nanos / 1_000_000, "ms"),
            (nanos / 1000 % 1000, "us"),
            (nanos % 1000, "ns"),
        ];
        let text: String = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, unit)| format!("{count}{unit}"))
            .collect();
        if text.is_empty() {
            "0s".to_owned()
        } else {
            text
        }
    }

    /// Writes a duration for serde.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*value))
    }

    /// Reads a duration for serde. A bare `0` needs no unit; every other number does.
    ///
    /// # Errors
    /// The value is not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(Reader)
    }

    /// The longest duration, 100 years. The clocks of the gateway add durations to the present.
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

    struct Reader;

    impl Visitor<'_> for Reader {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(EXPECTED)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
            humantime::parse_duration(text)
                .ok()
                .filter(|duration| *duration <= LONGEST)
                .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<Duration, E> {
            if number == 0 {
                Ok(Duration::ZERO)
            } else {
                Err(E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<Duration, E> {
            if number == 0 {
                Ok(Duration::ZERO)
            } else {
                Err(E::invalid_value(Unexpected::Signed(number), &self))
            }
        }
    }

    /// The same for an optional value.
    pub mod option {
        use super::{Deserializer, Duration, Serializer};
        use serde::{Deserialize, Serialize};

        #[derive(Deserialize, Serialize)]
        struct Written(#[serde(with = "super")] Duration);

        /// Writes an optional duration for serde.
        ///
        /// # Errors
        /// Those of the serializer.
        pub fn serialize<S: Serializer>(
            value: &Option<Duration>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            value.map(Written).serialize(serializer)
        }

        /// Reads an optional duration for serde.
        ///
        /// # Errors
        /// The value is neither null nor a duration.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Duration>, D::Error> {
            Ok(Option::<Written>::deserialize(deserializer)?.map(|written| written.0))
        }
    }
}

/// A whole number that may be left out. Environment variables give it as text.
pub mod count {
    use std::fmt;

    use serde::Deserializer;
    use serde::de::{Error, Unexpected, Visitor};

    /// Expectation in errors.
    pub const EXPECTED: &str = "a whole number, 0 or more";

    struct Reader;

    impl Visitor<'_> for Reader {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(EXPECTED)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            let number = text.trim().parse();
            number.map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
            u64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
        }
    }

    /// The same for an optional value.
    pub mod option {
        use super::{Deserializer, Reader};
        use serde::{Deserialize, Serialize, Serializer};

        struct Read(u64);

        impl<'de> Deserialize<'de> for Read {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Reader).map(Self)
            }
        }

        /// Writes an optional number for serde.
        ///
        /// # Errors
        /// Those of the serializer.
        pub fn serialize<S: Serializer>(
            value: &Option<u64>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            value.serialize(serializer)
        }

        /// Reads an optional number for serde.
        ///
        /// # Errors
        /// The value is neither null nor a whole number.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<u64>, D::Error> {
            Ok(Option::<Read>::deserialize(deserializer)?.map(|read| read.0))
        }
    }
}

/// A number of bytes, written with a unit: `512B`, `64KiB`, `1MiB`, `1GB`.
pub mod size {
    use std::fmt;

    use bytesize::ByteSize;
    use serde::de::{Error, Unexpected, Visitor};
    use serde::{Deserializer, Serializer};

    /// Expectation in errors.
    pub const EXPECTED: &str = "a size such as 512B, 64KiB, 1MiB or 1GB";

    const UNITS: [(usize, &str); 4] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1 << 10, "KiB"),
    ];

    /// Writes `bytes` in the largest binary unit that divides it, so that it reads back unchanged.
    #[must_use]
    pub fn format(bytes: usize) -> String {
        UNITS
            .iter()
            .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
            .map_or_else(
                || format!("{bytes}B"),
                |(unit, name)| format!("{}{name}", bytes / unit),
            )
    }

    /// Writes a size for serde.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*value))
    }

    /// Reads a size for serde. A bare whole number is a number of bytes.
    ///
    /// # Errors
    /// The value is not a size, or exceeds `usize`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        deserializer.deserialize_any(Reader)
    }

    struct Reader;

    impl Visitor<'_> for Reader {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(EXPECTED)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<usize, E> {
            let size = text
                .parse::<ByteSize>()
                .ok()
                .and_then(|size| usize::try_from(size.0).ok());
            size.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<usize, E> {
            usize::try_from(number)
                .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<usize, E> {
            usize::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
        }
    }

    /// The same for an optional value.
    pub mod option {
        use super::{Deserializer, Serializer};
        use serde::{Deserialize, Serialize};

        #[derive(Deserialize, Serialize)]
        struct Written(#[serde(with = "super")] usize);

        /// Writes an optional size for serde.
        ///
        /// # Errors
        /// Those of the serializer.
        pub fn serialize<S: Serializer>(
            value: &Option<usize>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            value.map(Written).serialize(serializer)
        }

        /// Reads an optional size for serde.
        ///
        /// # Errors
        /// The value is neither null nor a size.
        pub fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<usize>, D::Error> {
            Ok(Option::<Written>::deserialize(deserializer)?.map(|written| written.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::value::Error;
    use std::time::Duration;

    fn duration_of(text: &str) -> Option<Duration> {
        let reader: serde::de::value::StrDeserializer<'_, Error> = text.into_deserializer();
        duration::deserialize(reader).ok()
    }

    fn size_of(text: &str) -> Option<usize> {
        let reader: serde::de::value::StrDeserializer<'_, Error> = text.into_deserializer();
        size::deserialize(reader).ok()
    }

    #[test]
    fn durations_are_parsed_with_units() {
        for (text, millis) in [
            ("15s", 15_000),
            ("250ms", 250),
            ("0s", 0),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
        ] {
            assert_eq!(
                duration_of(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        assert!(duration_of("36500d").is_some());
        for text in [
            "",
            "15",
            "15 parsecs",
            "-1s",
            "s",
            "soon",
            "36501d",
            "584542046090years",
        ] {
            assert_eq!(duration_of(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_parsed_with_units() {
        for (text, bytes) in [
            ("1MiB", 1 << 20),
            ("64KiB", 65_536),
            ("512B", 512),
            ("1GiB", 1 << 30),
            ("5kB", 5000),
            ("2MB", 2_000_000),
            ("7", 7),
        ] {
            assert_eq!(size_of(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "1 furlong", "-1MiB", "lots"] {
            assert_eq!(size_of(text), None, "{text}");
        }
    }

    #[test]
    fn formatted_values_read_back_unchanged() {
        for nanos in [
            0,
            1,
            999,
            1_000,
            1_500_000,
            250_000_000,
            15_000_000_000,
            5_400_000_000_000,
            86_400_000_000_000,
            86_399_999_999_999,
        ] {
            let value = Duration::from_nanos(nanos);
            assert_eq!(
                duration_of(&duration::format(value)),
                Some(value),
                "{}",
                duration::format(value)
            );
        }
        for bytes in [
            0,
            1,
            512,
            1023,
            1024,
            1025,
            65_536,
            1_000_000,
            32 << 20,
            (32 << 20) + 1,
            3 << 30,
            5 << 40,
        ] {
            assert_eq!(
                size_of(&size::format(bytes)),
                Some(bytes),
                "{}",
                size::format(bytes)
            );
        }
    }

    #[test]
    fn missing_optional_value_is_none() {
        #[derive(Deserialize)]
        struct Both {
            #[serde(with = "duration::option")]
            wait: Option<Duration>,
            #[serde(with = "size::option")]
            room: Option<usize>,
        }
        let both: Both = serde_json::from_str(r#"{"wait":null,"room":"1KiB"}"#).unwrap();
        assert_eq!((both.wait, both.room), (None, Some(1024)));
    }
}
