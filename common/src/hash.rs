//! The SHA-256 of content: the name of a blob, and the check of every byte we place.
//!
//! `ring` does the work (about twice as fast as `sha2` where the CPU has no SHA extensions); the tests
//! hold it against `sha2`.

use std::{fmt, str::FromStr};

/// A SHA-256. Its text form is 64 lower-case hex digits; nothing else parses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 32]);

/// The text is not 64 lower-case hex digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a SHA-256 in lower-case hex (64 digits)")]
pub struct InvalidHash;

impl ContentHash {
    /// The hash of no bytes at all.
    pub fn of_nothing() -> Self {
        Self::of(b"")
    }

    /// Hashes bytes that are in memory. About 3 ms for each MiB; keep off the async threads.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Takes the 32 raw bytes as they are stored in the index.
    pub fn from_raw(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// The 32 raw bytes.
    pub fn raw(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Hashes content as it streams by.
pub struct Hasher(ring::digest::Context);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes added.
    pub fn finish(self) -> ContentHash {
        let mut raw = [0; 32];
        raw.copy_from_slice(self.0.finish().as_ref());
        ContentHash(raw)
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContentHash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(InvalidHash);
        }
        let digit = |c: u8| match c {
            b'0'..=b'9' => Ok(c - b'0'),
            b'a'..=b'f' => Ok(c - b'a' + 10),
            _ => Err(InvalidHash),
        };
        let mut raw = [0; 32];
        for (byte, pair) in raw.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(raw))
    }
}

impl serde::Serialize for ContentHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ContentHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::Digest;

    proptest! {
        #[test]
        fn ring_and_sha2_agree_however_the_bytes_are_cut(bytes: Vec<u8>, cut in 0usize..4096) {
            let cut = cut.min(bytes.len());
            let mut ours = Hasher::new();
            ours.update(&bytes[..cut]);
            ours.update(&bytes[cut..]);
            let theirs: [u8; 32] = sha2::Sha256::digest(&bytes).into();
            prop_assert_eq!(ours.finish(), ContentHash::from_raw(theirs));
        }

        #[test]
        fn the_text_form_round_trips(raw: [u8; 32]) {
            let hash = ContentHash::from_raw(raw);
            prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        }
    }

    #[test]
    fn only_lower_case_hex_of_the_right_length_parses() {
        let good = ContentHash::of_nothing().to_string();
        for bad in [&good[1..], &good.to_uppercase(), &format!("{good}0"), "", &good.replace('e', "g")] {
            assert_eq!(bad.parse::<ContentHash>(), Err(InvalidHash), "{bad:?}");
        }
    }
}
