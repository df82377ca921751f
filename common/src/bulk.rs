//! Rule 8: files that vanish in bulk need an operator, whether they are removed here and would be published, or stand here and would be replaced.

use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Files that are never held, however small the tree.
pub const FREE: u64 = 100;
/// Beyond [`FREE`], one file in this many within [`WINDOW`].
pub const SHARE: u64 = 10;
/// The time over which files are counted.
pub const WINDOW: Duration = Duration::from_secs(60);

/// Counts over the last minute.
#[derive(Default)]
pub struct Counter {
    done: VecDeque<(Instant, u64)>,
    held: VecDeque<(Instant, u64)>,
}

impl Counter {
    /// Counts what is done.
    pub fn add(&mut self, now: Instant, count: u64) {
        self.done.push_back((now, count));
    }

    /// Counts what is held: it does not make room for what comes after it.
    pub fn hold(&mut self, now: Instant, count: u64) {
        self.held.push_back((now, count));
    }

    /// The operator has agreed with what was held.
    pub fn approve(&mut self) {
        self.held.clear();
    }

    /// Whether this many more are too many for a tree of `files`, what is held among them. Nothing more never is.
    pub fn is_too_many(&mut self, now: Instant, more: u64, files: u64) -> bool {
        let sum = |counted: &mut VecDeque<(Instant, u64)>| -> u64 {
            counted.retain(|(at, _)| now.duration_since(*at) <= WINDOW);
            counted.iter().map(|(_, count)| count).sum()
        };
        let (done, held) = (sum(&mut self.done), sum(&mut self.held));
        let (all, tree) = (done + held + more, files + done);
        more > 0 && exceeds(all, tree)
    }
}

/// Whether this many files are too many for a tree of so many.
pub fn exceeds(count: u64, tree: u64) -> bool {
    count > FREE && count.saturating_mul(SHARE) > tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_makes_no_room_for_the_rest_until_it_is_approved() {
        let (now, mut counter) = (Instant::now(), Counter::default());
        assert!(counter.is_too_many(now, 150, 200));
        counter.hold(now, 97);
        assert!(counter.is_too_many(now, 53, 200));
        assert!(!counter.is_too_many(now, 0, 200), "only renames came");
        counter.approve();
        assert!(!counter.is_too_many(now, 53, 200));
    }

    #[test]
    fn a_hundred_are_free_and_a_tenth_is_the_limit_within_a_minute() {
        let now = Instant::now();
        for (before, removals, files, held) in [
            (0, 100, 100, false),
            (0, 101, 1010, false),
            (0, 101, 1009, true),
            (100, 1, 900, true),
            (100, 1, 910, false),
            (0, 5000, 100_000, false),
        ] {
            let mut counter = Counter::default();
            counter.add(now, before);
            assert_eq!(counter.is_too_many(now, removals, files), held, "{before} {removals} {files}");
            assert!(!counter.is_too_many(now + WINDOW * 2, removals.min(100), files));
        }
    }
}
