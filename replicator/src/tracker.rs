//! The node's version: the highest position up to which every event that was delivered is applied, superseded or parked.
//!
//! An event may be applied out of turn, before it is delivered ([`urgent`](crate::service)). What lies before it and was not delivered yet is not known here, so the
//! version does not pass the frontier, which only what was delivered or read in turn moves.

use common::{event::Version, index::Landmark};
use std::collections::{BTreeMap, BTreeSet};

/// Ranges that a record names past the version at most.
pub const BEYOND: usize = 64;

/// What is in work and what is done.
#[derive(Default)]
pub struct Tracker {
    version: Version,
    at_version: Option<Landmark>,
    /// The highest event that was delivered, or read in turn.
    frontier: Version,
    working: BTreeSet<Version>,
    done: BTreeMap<Version, Landmark>,
    /// Events from here on are still to be read by Direct Get, up to and including the second.
    reading: Option<(Version, Version)>,
}

impl Tracker {
    /// Goes on from what the index holds.
    pub fn new(version: Version, at_version: Option<Landmark>) -> Self {
        Self { version, at_version, frontier: version, ..Self::default() }
    }

    /// Everything after the version and up to what the consumer believes to have delivered is still to be read, for it delivers nothing of that again: the version
    /// does not pass it unread. It may lie beyond the end of a log that was rolled back, and is read as the log comes to have it.
    pub fn read_after(&mut self, delivered: Version) {
        let from = self.version.next();
        self.reading = (from <= delivered).then_some((from, delivered));
        self.frontier = self.frontier.max(delivered);
    }

    /// What of that can be read from a log that ends at `last`.
    pub fn to_read(&self, last: Version) -> Option<(Version, Version)> {
        self.reading.map(|(from, to)| (from, to.min(last))).filter(|(from, to)| from <= to)
    }

    /// Whether some of that lies beyond the end of the log, so that it must be asked for its end again.
    pub fn reads_beyond(&self, last: Version) -> bool {
        self.reading.is_some_and(|(_, to)| to > last)
    }

    /// The range has been read up to, not including, `next`.
    pub fn read_up_to(&mut self, next: Version) {
        self.reading = self.reading.filter(|(_, to)| next <= *to).map(|(_, to)| (next, to));
        self.advance();
    }

    /// An event was taken into work in its turn: delivered, or read.
    pub fn begin(&mut self, version: Version) {
        self.frontier = self.frontier.max(version);
        if version > self.version && !self.done.contains_key(&version) {
            self.working.insert(version);
        }
    }

    /// An event is applied, superseded or parked, in its turn or before.
    pub fn end(&mut self, landmark: Landmark) {
        self.working.remove(&landmark.version);
        if landmark.version > self.version {
            self.done.insert(landmark.version, landmark);
        }
        self.advance();
    }

    fn advance(&mut self) {
        let limit =
            [self.working.first().copied(), self.reading.map(|(from, _)| from)].into_iter().flatten().min();
        while let Some(first) = self.done.first_entry() {
            // Nothing lies between the version and the next one.
            let in_turn = *first.key() <= self.frontier || *first.key() == self.version.next();
            if !in_turn || limit.is_some_and(|limit| *first.key() >= limit) {
                break;
            }
            let (version, landmark) = first.remove_entry();
            (self.version, self.at_version) = (version, Some(landmark));
        }
    }

    /// The version, and the event there.
    pub fn version(&self) -> (Version, Option<&Landmark>) {
        (self.version, self.at_version.as_ref())
    }

    /// Ranges applied past the version, ascending, the newest [`BEYOND`]: those who wait for a file wait for a new one. An event in between that was never delivered does not part two ranges;
    /// one that is in work does, and what is still to be read or delivered.
    pub fn beyond(&self) -> Vec<(Version, Version)> {
        let mut ranges: Vec<(Version, Version)> = Vec::new();
        for &version in self.done.keys().rev() {
            let full = ranges.len() == BEYOND;
            match ranges.last_mut() {
                Some((start, _)) if !self.lacks_between(version, *start) => *start = version,
                _ if full => break,
                _ => ranges.push((version, version)),
            }
        }
        ranges.reverse();
        ranges
    }

    fn lacks_between(&self, done: Version, later: Version) -> bool {
        let unread = self.reading.is_some_and(|(from, to)| {
            let first = from.max(done.next());
            first <= to && first < later
        });
        let undelivered = self.frontier.max(done).next() < later;
        unread || undelivered || self.working.range(done..later).next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::{event::EventId, hash::ContentHash};

    fn v(version: u64) -> Version {
        Version::new(version)
    }

    fn landmark(version: u64) -> Landmark {
        let event = EventId::from_hash(ContentHash::of_nothing());
        Landmark { version: v(version), subject: "s".into(), event }
    }

    #[test]
    fn the_version_waits_for_the_oldest_event_in_work() {
        let mut tracker = Tracker::new(v(3), None);
        [4, 5, 7, 9].into_iter().for_each(|n| tracker.begin(v(n)));
        tracker.end(landmark(7));
        tracker.end(landmark(5));
        assert_eq!((tracker.version().0, tracker.beyond()), (v(3), vec![(v(5), v(7))]));
        tracker.end(landmark(4));
        assert_eq!((tracker.version().0, tracker.beyond()), (v(7), vec![]));
        tracker.end(landmark(9));
        assert_eq!(tracker.version(), (v(9), Some(&landmark(9))));
    }

    #[test]
    fn the_version_does_not_pass_what_is_still_to_be_read() {
        let mut tracker = Tracker::new(v(0), None);
        tracker.read_after(v(10));
        tracker.begin(v(12));
        tracker.end(landmark(12));
        assert_eq!((tracker.version().0, tracker.beyond()), (v(0), vec![(v(12), v(12))]));
        tracker.begin(v(2));
        tracker.read_up_to(v(11));
        assert_eq!(tracker.version().0, v(0));
        tracker.end(landmark(2));
        assert_eq!(tracker.version().0, v(12));
    }

    #[test]
    fn what_is_still_to_be_read_is_in_no_range() {
        let mut tracker = Tracker::new(v(0), None);
        tracker.read_after(v(10));
        [2, 4, 12].into_iter().for_each(|n| tracker.begin(v(n)));
        tracker.read_up_to(v(6));
        [4, 12].into_iter().for_each(|n| tracker.end(landmark(n)));
        assert_eq!(tracker.beyond(), vec![(v(4), v(4)), (v(12), v(12))]);
        tracker.read_up_to(v(11));
        assert_eq!(tracker.beyond(), vec![(v(4), v(12))]);
    }

    /// Its consumer has delivered up to 5 of a log that was rolled back to 3, so it will not deliver the next 4 and 5.
    #[test]
    fn the_version_does_not_pass_what_a_consumer_ahead_of_its_log_leaves_out() {
        let mut tracker = Tracker::new(v(3), None);
        tracker.read_after(v(5));
        assert_eq!((tracker.to_read(v(3)), tracker.reads_beyond(v(3))), (None, true));
        tracker.begin(v(6));
        tracker.end(landmark(6));
        assert_eq!((tracker.version().0, tracker.beyond()), (v(3), vec![(v(6), v(6))]));
        assert_eq!(tracker.to_read(v(4)), Some((v(4), v(4))));
        tracker.read_up_to(v(5));
        assert_eq!(
            (tracker.version().0, tracker.to_read(v(4)), tracker.reads_beyond(v(4))),
            (v(3), None, true)
        );
        assert_eq!((tracker.to_read(v(6)), tracker.reads_beyond(v(6))), (Some((v(5), v(5))), false));
        tracker.begin(v(5));
        tracker.read_up_to(v(6));
        tracker.end(landmark(5));
        assert_eq!((tracker.version().0, tracker.to_read(v(6))), (v(6), None));
    }

    /// 8 and 9 are applied out of turn while 2 is in work, and 3 to 7 are not delivered yet.
    #[test]
    fn the_version_does_not_pass_what_is_not_delivered_yet() {
        let mut tracker = Tracker::new(v(0), None);
        [1, 2].into_iter().for_each(|n| tracker.begin(v(n)));
        [1, 8, 9].into_iter().for_each(|n| tracker.end(landmark(n)));
        assert_eq!((tracker.version().0, tracker.beyond()), (v(1), vec![(v(8), v(9))]));
        tracker.end(landmark(2));
        assert_eq!((tracker.version().0, tracker.beyond()), (v(2), vec![(v(8), v(9))]));
        // 3 to 5 were never delivered: newer events of their paths are.
        tracker.begin(v(6));
        tracker.begin(v(7));
        tracker.end(landmark(7));
        assert_eq!((tracker.version().0, tracker.beyond()), (v(2), vec![(v(7), v(9))]));
        tracker.end(landmark(6));
        assert_eq!((tracker.version(), tracker.beyond()), ((v(9), Some(&landmark(9))), vec![]));
        // Delivered again in turn, they are known as done.
        tracker.begin(v(8));
        tracker.end(landmark(8));
        assert_eq!(tracker.version().0, v(9));
    }

    #[test]
    fn what_was_applied_out_of_turn_parts_from_what_is_before_it_by_what_is_not_delivered() {
        let mut tracker = Tracker::new(v(0), None);
        [1, 2, 3].into_iter().for_each(|n| tracker.begin(v(n)));
        [2, 3, 7].into_iter().for_each(|n| tracker.end(landmark(n)));
        assert_eq!(tracker.beyond(), vec![(v(2), v(3)), (v(7), v(7))]);
        tracker.begin(v(7));
        assert_eq!(tracker.beyond(), vec![(v(2), v(7))]);
        tracker.end(landmark(1));
        assert_eq!(tracker.version().0, v(7));
    }

    #[test]
    fn the_next_event_needs_no_delivery() {
        let mut tracker = Tracker::new(v(4), None);
        tracker.read_after(v(4));
        tracker.end(landmark(5));
        assert_eq!((tracker.version().0, tracker.beyond()), (v(5), vec![]));
        tracker.end(landmark(7));
        assert_eq!((tracker.version().0, tracker.beyond()), (v(5), vec![(v(7), v(7))]));
    }

    #[test]
    fn an_event_that_comes_again_changes_nothing() {
        let mut tracker = Tracker::new(v(5), Some(landmark(5)));
        tracker.begin(v(4));
        tracker.end(landmark(4));
        assert_eq!(tracker.version(), (v(5), Some(&landmark(5))));
        tracker.begin(v(6));
        tracker.end(landmark(6));
        assert_eq!(tracker.version().0, v(6), "and is not waited for");
    }

    #[test]
    fn a_record_names_a_bounded_number_of_ranges() {
        let mut tracker = Tracker::new(v(0), None);
        for n in 1..=400 {
            tracker.begin(v(n));
        }
        for n in (2..=400).step_by(2) {
            tracker.end(landmark(n));
        }
        let ranges = tracker.beyond();
        assert_eq!((ranges.len(), ranges[BEYOND - 1]), (BEYOND, (v(400), v(400))));
        assert!(ranges.is_sorted());
    }
}
