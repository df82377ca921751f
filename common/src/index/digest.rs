//! The digest of a node: what makes "every file is everywhere" a comparison of two numbers.

use crate::{
    hash::{ContentHash, Hasher},
    path::MediaPath,
};
use std::fmt;

/// The sum modulo 2^256 of SHA-256(path, NUL, raw hash) over a set of paths. Independent of order; text form 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Digest([u64; 4]);

impl Digest {
    /// From the index: 32 bytes, big endian.
    pub fn from_raw(raw: [u8; 32]) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(raw.chunks_exact(8)) {
            *word = u64::from_be_bytes(bytes.try_into().expect("chunks of 8"));
        }
        Self(words)
    }

    /// For the index.
    pub fn raw(&self) -> [u8; 32] {
        let mut raw = [0; 32];
        for (word, bytes) in self.0.iter().zip(raw.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        raw
    }

    /// From its text form: 64 hex digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut words = [0; 4];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (at, word) in words.iter_mut().enumerate() {
            *word = u64::from_str_radix(&text[at * 16..][..16], 16).ok()?;
        }
        Some(Self(words))
    }

    /// How far this one is from another: the sum over what only this one has, less that over what only the other has.
    pub fn less(mut self, other: Self) -> Self {
        self.subtract(other);
        self
    }

    /// A path with this content came in.
    pub fn add(&mut self, path: &MediaPath, content: ContentHash) {
        let Self(term) = Self::term(path, content);
        let mut carry = false;
        for (word, add) in self.0.iter_mut().zip(term).rev() {
            let (sum, over) = word.overflowing_add(add);
            let (sum, over_again) = sum.overflowing_add(u64::from(carry));
            (*word, carry) = (sum, over || over_again);
        }
    }

    /// A path with this content went out.
    pub fn remove(&mut self, path: &MediaPath, content: ContentHash) {
        self.subtract(Self::term(path, content));
    }

    fn subtract(&mut self, Self(term): Self) {
        let mut borrow = false;
        for (word, sub) in self.0.iter_mut().zip(term).rev() {
            let (rest, under) = word.overflowing_sub(sub);
            let (rest, under_again) = rest.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (rest, under || under_again);
        }
    }

    fn term(path: &MediaPath, content: ContentHash) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(path.as_bytes());
        hasher.update(b"\0");
        hasher.update(content.raw());
        Self::from_raw(*hasher.finish().raw())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn order_does_not_matter_and_removing_undoes_adding(set in prop::collection::vec(("[a-c]{1,9}", any::<[u8; 32]>()), 0..20)) {
            let set: Vec<_> = set.into_iter().map(|(p, h)| (p.parse::<MediaPath>().expect("letters"), ContentHash::from_raw(h))).collect();
            let mut forward = Digest::default();
            let mut backward = Digest::default();
            set.iter().for_each(|(p, h)| forward.add(p, *h));
            set.iter().rev().for_each(|(p, h)| backward.add(p, *h));
            prop_assert_eq!(forward, backward);
            prop_assert_eq!(Digest::from_raw(forward.raw()), forward);
            prop_assert_eq!(Digest::from_hex(&forward.to_string()), Some(forward));
            set.iter().for_each(|(p, h)| forward.remove(p, *h));
            prop_assert_eq!(forward, Digest::default());
        }
    }

    #[test]
    fn the_digest_of_one_path_is_its_hash() {
        let (path, content) = ("a".parse().expect("a path"), ContentHash::of_nothing());
        let mut digest = Digest::default();
        digest.add(&path, content);
        let mut bytes = b"a\0".to_vec();
        bytes.extend(content.raw());
        assert_eq!(digest.to_string(), ContentHash::of(&bytes).to_string());
    }
}
