//! Points in time as the log and the disk write them. Order is never decided by one of these.

use std::{fmt, str::FromStr, time::SystemTime};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// A moment with nanoseconds, years 0 to 9999; text form RFC 3339 in UTC. What lies outside is moved to the nearest end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timestamp(OffsetDateTime);

/// The text is not an RFC 3339 date and time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an RFC 3339 date and time")]
pub struct InvalidTimestamp;

const FIRST: i128 = -62_167_219_200 * 1_000_000_000;
const LAST: i128 = 253_402_300_799 * 1_000_000_000 + 999_999_999;

impl Timestamp {
    /// The wall clock: the one place where it enters.
    pub fn now() -> Self {
        Self(SystemTime::now().into())
    }

    /// From nanoseconds since 1970.
    pub fn from_nanos(nanos: i128) -> Self {
        let nanos = nanos.clamp(FIRST, LAST);
        Self(OffsetDateTime::from_unix_timestamp_nanos(nanos).expect("clamped to what the type can hold"))
    }

    /// Nanoseconds since 1970.
    pub fn nanos(&self) -> i128 {
        self.0.unix_timestamp_nanos()
    }

    /// Seconds from `earlier` to this moment; negative when `earlier` is later.
    pub fn seconds_since(&self, earlier: Self) -> f64 {
        (self.0 - earlier.0).as_seconds_f64()
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(time: OffsetDateTime) -> Self {
        Self::from_nanos(time.unix_timestamp_nanos())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTimestamp)?;
        Ok(time.checked_to_offset(UtcOffset::UTC).ok_or(InvalidTimestamp)?.into())
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_file_time_has_a_text_form_that_comes_back(nanos in any::<i128>()) {
            let time = Timestamp::from_nanos(nanos);
            prop_assert_eq!(time.to_string().parse(), Ok(time));
        }
    }

    #[test]
    fn other_offsets_are_read_as_the_same_moment() {
        let utc: Timestamp = "2026-02-16T16:44:02.5Z".parse().expect("a good time");
        assert_eq!("2026-02-16T17:44:02.5+01:00".parse(), Ok(utc));
        assert!("2026-02-16".parse::<Timestamp>().is_err());
    }
}
