//! Calendar days and months in UTC.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A day, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Day(pub(super) u32);

/// Returns the present day.
pub(crate) fn today() -> Day {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let days = since.map_or(0, |since| since.as_secs() / 86_400);
    Day(u32::try_from(days).unwrap_or(u32::MAX))
}

// === impl Day ===

impl Day {
    /// Reads a date such as `2026-11-30`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let date = (text.len() == 10).then(|| format!("{text}T00:00:00Z"))?;
        let time = humantime::parse_rfc3339(&date).ok()?;
        let days = time.duration_since(UNIX_EPOCH).ok()?.as_secs() / 86_400;
        u32::try_from(days).ok().map(Self)
    }

    /// Returns the first day of its month.
    pub(crate) fn first_of_month(self) -> Self {
        let (_, _, day) = self.date();
        Self(self.0.saturating_sub(day - 1))
    }

    /// Returns the day this many days earlier.
    pub(super) fn earlier(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// Returns year, month and day. The algorithm is Howard Hinnant's `civil_from_days`.
    fn date(self) -> (u32, u32, u32) {
        // Days since 0000-03-01, in eras of 400 years.
        let days = self.0 + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        // March is the first month of this count.
        let january = month >= 10;
        let month = if january { month - 9 } else { month + 3 };
        (era * 400 + year + u32::from(january), month, day)
    }
}

/// Writes what [`Day::parse`] reads.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.date();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_back_and_months_begin_with_their_first_day() {
        for (text, days, first) in [
            ("1970-01-01", 0, "1970-01-01"),
            ("2000-02-29", 11_016, "2000-02-01"),
            ("2026-11-30", 20_787, "2026-11-01"),
            ("2028-03-01", 21_244, "2028-03-01"),
        ] {
            let day = Day::parse(text).unwrap();
            assert_eq!(day, Day(days), "{text}");
            assert_eq!(day.to_string(), text);
            assert_eq!(day.first_of_month().to_string(), first);
        }
        for days in 0..60_000 {
            let day = Day(days);
            assert_eq!(Day::parse(&day.to_string()), Some(day));
        }
        for text in ["", "2026-13-01", "2026-1-1", "yesterday!"] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
    }
}
