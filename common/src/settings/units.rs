//! Sizes such as `64MiB` and durations such as `10s`, as they are typed.

use std::{fmt, str::FromStr, time::Duration};

/// A number of bytes; a rate where it is said to be one, then in bytes per second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Size(u64);

/// The text is not a size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a size: a whole number of bytes, or one with kB, MB, GB, TB, KiB, MiB, GiB or TiB")]
pub struct InvalidSize;

/// The text is not a duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a duration: a whole number with ms, s, m, h or d, for example 10s")]
pub struct InvalidDuration;

const UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

impl Size {
    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// This many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }
}

/// A whole number, and what follows it without the space between.
fn number(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

impl FromStr for Size {
    type Err = InvalidSize;
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let (count, unit) = number(text).ok_or(InvalidSize)?;
        let (_, factor) =
            UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or(InvalidSize)?;
        count.checked_mul(*factor).map(Self).ok_or(InvalidSize)
    }
}

impl fmt::Display for Size {
    /// In the largest unit that needs no fraction, so that it comes back by parsing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let whole = |(_, bits): &(&str, u32)| self.0 != 0 && self.0.trailing_zeros() >= *bits;
        match binary.into_iter().find(whole) {
            Some((name, bits)) => write!(f, "{}{name}", self.0 >> bits),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Reads a duration such as `10s`. A number without a unit is refused: nobody can tell seconds from milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let (count, unit) = number(text).ok_or(InvalidDuration)?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(InvalidDuration),
    };
    count.checked_mul(milliseconds).map(Duration::from_millis).ok_or(InvalidDuration)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1500", 1_500),
            ("64MiB", 64 << 20),
            ("10MB", 10_000_000),
            ("1 kB", 1_000),
            ("2gib", 2 << 30),
            (" 7B ", 7),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text:?}");
        }
        for bad in ["", "MiB", "-1", "1.5MiB", "64M", "64MiB/s", "99999999999999999999", "20000000TiB"] {
            assert_eq!(bad.parse::<Size>(), Err(InvalidSize), "{bad:?}");
        }
    }

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2 d"), Ok(Duration::from_secs(172_800)));
        for bad in ["", "10", "s", "1.5s", "-1s", "10 sec", "99999999999999999999s"] {
            assert_eq!(parse_duration(bad), Err(InvalidDuration), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn the_text_form_of_a_size_round_trips(bytes: u64) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }
    }
}
