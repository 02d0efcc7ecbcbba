//! Until when a certificate is valid (RFC 5280, section 4.1.2.5).

use std::time::{Duration, SystemTime};

/// Tags of ASN.1 (X.690, section 8).
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

// === impl Validity ===

impl Validity {
    /// Reads it from a certificate in DER. `None` if that is none.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let (certificate, _) = element(certificate, SEQUENCE)?;
        let (signed, _) = element(certificate, SEQUENCE)?;
        let rest = element(signed, VERSION).map_or(signed, |(_, rest)| rest);
        // The serial number, the algorithm and the issuer come before.
        let rest = skip(skip(skip(rest)?)?)?;
        let (validity, _) = element(rest, SEQUENCE)?;
        let (from, rest) = time(validity)?;
        let (until, _) = time(rest)?;
        Some(Self { from, until })
    }
}

/// Returns the content of the first element, if it has this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = split(bytes)?;
    (found == tag).then_some((content, rest))
}

fn skip(bytes: &[u8]) -> Option<&[u8]> {
    split(bytes).map(|(_, _, rest)| rest)
}

fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits
                .iter()
                .fold(0, |sum, &digit| sum << 8 | usize::from(digit));
            (length, rest)
        }
        0x80 | 0x85.. => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn time(bytes: &[u8]) -> Option<(SystemTime, &[u8])> {
    let (tag, text, rest) = split(bytes)?;
    let text = str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |at: std::ops::Range<usize>| text.get(at)?.parse::<u64>().ok();
    let (year, rest_at) = match tag {
        UTC_TIME => match number(0..2)? {
            year @ 0..50 => (2000 + year, 2),
            year => (1900 + year, 2),
        },
        GENERALIZED_TIME => (number(0..4)?, 4),
        _ => return None,
    };
    let part = |at: usize| number(rest_at + at * 2..rest_at + at * 2 + 2);
    let (month, day) = (part(0)?, part(1)?);
    let (hour, minute, second) = (part(2)?, part(3)?, part(4)?);
    if !(1..=12).contains(&month) || year < 1970 {
        return None;
    }
    let days = days_before(year, month) + day.checked_sub(1)?;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    Some((time, rest))
}

/// Returns the days from 1970 to the first of a month.
fn days_before(year: u64, month: u64) -> u64 {
    // Years that begin in March end with the leap day.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let leap = year / 4 - year / 100 + year / 400;
    // 719,468 days lie between March of year 0 and 1970.
    365 * year + leap + (153 * month + 2) / 5 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (year, month, days) in [
            (1970, 1, 0),
            (1970, 3, 59),
            (1972, 3, 790),
            (2000, 3, 11_017),
            (2026, 11, 20_758),
            (2100, 3, 47_541),
        ] {
            assert_eq!(days_before(year, month), days, "{year}-{month}");
        }
    }

    #[test]
    fn both_kinds_of_time_are_read() {
        let read = |tag, text: &str| {
            let bytes = [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            let (time, rest) = time(&bytes)?;
            assert!(rest.is_empty());
            Some(
                time.duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
                    .as_secs(),
            )
        };
        assert_eq!(read(UTC_TIME, "700101000001Z"), Some(1));
        assert_eq!(read(UTC_TIME, "261127163615Z"), Some(1_795_797_375));
        assert_eq!(
            read(GENERALIZED_TIME, "20261127163615Z"),
            Some(1_795_797_375)
        );
        assert_eq!(read(UTC_TIME, "269927163615Z"), None);
        assert_eq!(read(UTC_TIME, "26"), None);
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        for bytes in [&b""[..], &[0x30], &[0x30, 0x85], &[0x30, 0x02, 0x30, 0x7f]] {
            assert_eq!(Validity::of(bytes), None);
        }
    }
}
