//! Versions of nats-server: what is offered depends on them.

use std::{fmt, str::FromStr};

/// A released version such as `2.15.2`; what follows a dash is left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ServerVersion(u32, u32, u32);

/// The text has no three numbers.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a version of nats-server")]
pub struct InvalidVersion;

impl ServerVersion {
    /// The oldest that works: Debian 12 has it.
    pub const OLDEST: Self = Self(2, 9, 10);
    /// The oldest that can sync each write before it is acknowledged.
    pub const SYNCS: Self = Self(2, 10, 0);

    /// Major, minor, patch.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self(major, minor, patch)
    }
}

impl FromStr for ServerVersion {
    type Err = InvalidVersion;
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let text = text.trim().trim_start_matches('v');
        let text = text.split(['-', '+']).next().unwrap_or_default();
        let mut numbers = text.split('.').map(|number| number.parse().map_err(|_| InvalidVersion));
        let mut next = || numbers.next().unwrap_or(Err(InvalidVersion));
        let version = Self(next()?, next()?, next()?);
        if numbers.next().is_some() { Err(InvalidVersion) } else { Ok(version) }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        let version = |text: &str| text.parse::<ServerVersion>();
        assert!(
            version("2.9.10").is_ok_and(|old| old < ServerVersion::SYNCS && old == ServerVersion::OLDEST)
        );
        assert_eq!(version("v2.15.2-RC.1"), Ok(ServerVersion::new(2, 15, 2)));
        for bad in ["", "2", "2.9", "2.9.x", "2.9.10.1", "dev"] {
            assert_eq!(version(bad), Err(InvalidVersion), "{bad:?}");
        }
    }
}
