//! `--min-free`: how much of a disk is left alone.

use super::{InvalidSize, Size};
use std::{fmt, str::FromStr};

/// What stays free of a disk: bytes, or a share of it, whichever is less.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MinFree {
    bytes: Size,
    percent: u64,
}

/// The text is neither a size nor a share.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("neither a size such as 1GiB nor a share such as 5%, at most 99%")]
pub struct InvalidMinFree;

impl From<InvalidSize> for InvalidMinFree {
    fn from(_: InvalidSize) -> Self {
        Self
    }
}

impl Default for MinFree {
    /// 1 GiB is room enough for other programs to notice; on a small disk that would be too much of it.
    fn default() -> Self {
        Self { bytes: Size::new(1 << 30), percent: 5 }
    }
}

impl MinFree {
    /// The bytes that stay free on a disk of this size.
    pub fn of(self, disk: u64) -> u64 {
        let share = u128::from(disk) * u128::from(self.percent) / 100;
        self.bytes.bytes().min(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

impl FromStr for MinFree {
    type Err = InvalidMinFree;
    fn from_str(text: &str) -> Result<Self, InvalidMinFree> {
        match text.trim().strip_suffix('%') {
            Some(percent) => match percent.trim_end().parse() {
                Ok(percent @ 0..=99) => Ok(Self { bytes: Size::new(u64::MAX), percent }),
                _ => Err(InvalidMinFree),
            },
            None => Ok(Self { bytes: text.parse()?, percent: 100 }),
        }
    }
}

impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.bytes.bytes(), self.percent) {
            (u64::MAX, percent) => write!(f, "{percent}%"),
            (_, 100) => self.bytes.fmt(f),
            (_, percent) => write!(f, "{percent}%, at most {}", self.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_a_size_or_a_share_of_the_disk() {
        const GIB: u64 = 1 << 30;
        for (text, disk, floor) in [
            ("0", 100 * GIB, 0),
            ("1GiB", 100 * GIB, GIB),
            ("10GiB", 5 * GIB, 5 * GIB),
            ("5%", 100 * GIB, 5 * GIB),
            ("5 %", 100 * GIB, 5 * GIB),
            ("0%", 100 * GIB, 0),
            ("99%", u64::MAX, 18_262_276_632_972_456_098),
        ] {
            assert_eq!(text.parse::<MinFree>().map(|min| min.of(disk)), Ok(floor), "{text}");
        }
        for bad in ["", "%", "100%", "-1%", "5.5%", "x", "5%%", "1%GiB"] {
            assert_eq!(bad.parse::<MinFree>(), Err(InvalidMinFree), "{bad:?}");
        }
        assert_eq!((MinFree::default().of(100 * GIB), MinFree::default().of(GIB)), (GIB, GIB / 20));
        for text in ["5%", "3MiB", "0"] {
            assert_eq!(text.parse::<MinFree>().map(|min| min.to_string()), Ok(text.into()));
        }
        assert_eq!(MinFree::default().to_string(), "5%, at most 1GiB");
    }
}
