//! When a path is ripe to be looked at. Pure: time is handed in.
//!
//! A closed or renamed file is ripe at once. Others wait until they have stood still, since nobody said that they are finished.

use common::{index::Stat, path::MediaPath, time::Timestamp};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, hash_map::Entry},
    time::Duration,
};
use tokio::time::Instant;

/// A file found without an event, with a live watch on its folder, is published after it stood still this long.
pub const STILL: Duration = Duration::from_millis(200);
/// A name that was made and never closed by a writer (a hard link to one, or an `O_TMPFILE` given a name) is looked at after it stood still this long;
/// a file that is being written is closed long before, or goes on changing.
pub const STILL_UNCLOSED: Duration = Duration::from_secs(5);
/// A file found at a start whose ctime is younger than this is given this long.
pub const YOUNG: Duration = Duration::from_secs(2);
/// The second look at a removal.
pub const REMOVAL: Duration = Duration::from_secs(2);
/// Paths waiting at most, some 60 MB; beyond it, one scan finds what was not kept.
pub const CAPACITY: usize = 100_000;

/// Why a path waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Closed after writing, or renamed in.
    Finished,
    /// A name was made.
    Created,
    /// Found by a scan, as it was then.
    Found(Stat),
    /// A name was made, and the file was this when it was looked at; nobody has closed it since.
    Unclosed(Stat),
    /// Not there any more.
    Gone,
    /// Work on it could not be finished, or was found outdated.
    Again,
}

/// A path that waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// Why.
    pub why: Why,
    /// When the change was first noticed.
    pub detected: Timestamp,
    /// The same by the monotonic clock.
    pub since: Instant,
    due: Instant,
}

impl Waiting {
    /// For work that no notice stands behind.
    pub fn held(now: Instant) -> Self {
        Self { why: Why::Again, detected: Timestamp::now(), since: now, due: now }
    }
}

/// What a look at a waiting file comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ripe {
    /// Publish it.
    Now,
    /// It must stand still this long.
    Wait(Duration, Why),
}

/// The paths that wait, by when they are due.
#[derive(Default)]
pub struct Settle {
    waiting: HashMap<MediaPath, Waiting>,
    due: BinaryHeap<Reverse<(Instant, MediaPath)>>,
    removals: usize,
}

impl Settle {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many wait that are not removals: those are what a scan must not run ahead of. Removals may wait for the scan.
    pub fn additions(&self) -> usize {
        self.waiting.len() - self.removals
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a path waits.
    pub fn contains(&self, path: &MediaPath) -> bool {
        self.waiting.contains_key(path)
    }

    /// Keeps a path until `due`. A path is kept once: what ends a change takes the place of what only hints at one, and the first notice of it stays.
    /// False: there is no room; remember that a scan is needed.
    pub fn add(
        &mut self,
        path: MediaPath,
        why: Why,
        detected: Timestamp,
        since: Instant,
        due: Instant,
    ) -> bool {
        let full = self.waiting.len() >= CAPACITY;
        match self.waiting.entry(path.clone()) {
            Entry::Vacant(_) if full => return false,
            Entry::Vacant(entry) => {
                self.removals += usize::from(why == Why::Gone);
                entry.insert(Waiting { why, detected, since, due });
            }
            Entry::Occupied(mut entry) => {
                let held = *entry.get();
                // A hint about a name never holds back what is known to be finished.
                let hint = matches!(why, Why::Created | Why::Found(_) | Why::Unclosed(_) | Why::Again);
                if hint && matches!(held.why, Why::Finished) {
                    return true;
                }
                // A scan that meets a file whose writer has not closed it knows less than we do.
                if matches!((held.why, why), (Why::Created | Why::Unclosed(_), Why::Found(_))) {
                    return true;
                }
                self.removals -= usize::from(held.why == Why::Gone);
                self.removals += usize::from(why == Why::Gone);
                let (detected, since) = match (held.why, why) {
                    (Why::Gone, Why::Gone) | (_, Why::Found(_)) => (held.detected, held.since),
                    _ => (detected, since),
                };
                entry.insert(Waiting { why, detected, since, due });
            }
        }
        self.due.push(Reverse((due, path)));
        true
    }

    /// When the next one is due.
    pub fn next_due(&mut self) -> Option<Instant> {
        loop {
            let Reverse((due, path)) = self.due.peek()?;
            if self.waiting.get(path).is_some_and(|waiting| waiting.due == *due) {
                return Some(*due);
            }
            self.due.pop();
        }
    }

    /// Takes one that is due.
    pub fn take_due(&mut self, now: Instant) -> Option<(MediaPath, Waiting)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((_, path)) = self.due.pop()?;
        let waiting = self.waiting.remove(&path)?;
        self.removals -= usize::from(waiting.why == Why::Gone);
        Some((path, waiting))
    }

    /// When the oldest notice came that is not of a removal. Looks at all that wait.
    pub fn oldest_addition(&self) -> Option<Instant> {
        self.waiting.values().filter(|waiting| waiting.why != Why::Gone).map(|waiting| waiting.since).min()
    }

    /// The removals that wait.
    pub fn removals(&self) -> impl Iterator<Item = &MediaPath> {
        self.waiting.iter().filter(|(_, waiting)| waiting.why == Why::Gone).map(|(path, _)| path)
    }

    /// Whether anything waits that was noticed before `moment`.
    pub fn any_before(&self, moment: Instant) -> bool {
        self.waiting.values().any(|waiting| waiting.since <= moment)
    }
}

/// Decides what becomes of a path that is due, where a file with this stat and `links` names stands now.
pub fn ripe(why: Why, stat: Stat, links: u64) -> Ripe {
    match why {
        Why::Finished | Why::Gone | Why::Again => Ripe::Now,
        Why::Found(before) | Why::Unclosed(before) if before == stat => Ripe::Now,
        Why::Found(_) => Ripe::Wait(STILL, Why::Found(stat)),
        Why::Created if links > 1 => Ripe::Wait(STILL, Why::Found(stat)),
        Why::Created | Why::Unclosed(_) => Ripe::Wait(STILL_UNCLOSED, Why::Unclosed(stat)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> MediaPath {
        text.parse().expect("a good path")
    }

    fn stat(mtime: i64) -> Stat {
        Stat { ino: 1, size: 1, mtime, ctime: mtime }
    }

    struct Clock(Instant);

    impl Clock {
        fn at(&self, ms: u64) -> Instant {
            self.0 + Duration::from_millis(ms)
        }
    }

    #[test]
    fn a_path_is_kept_once_and_a_close_overtakes_a_hint() {
        let (clock, mut settle, t) = (Clock(Instant::now()), Settle::default(), Timestamp::from_nanos(0));
        assert!(settle.add(path("f"), Why::Created, t, clock.at(0), clock.at(200)));
        assert!(settle.add(path("f"), Why::Finished, t, clock.at(10), clock.at(10)));
        assert!(settle.add(path("f"), Why::Found(stat(1)), t, clock.at(11), clock.at(211)));
        assert_eq!((settle.len(), settle.next_due()), (1, Some(clock.at(10))));
        assert_eq!(settle.take_due(clock.at(9)), None);
        assert_eq!(settle.take_due(clock.at(10)).map(|(_, w)| w.why), Some(Why::Finished));
        assert_eq!((settle.len(), settle.take_due(clock.at(999))), (0, None));
    }

    #[test]
    fn a_scan_does_not_end_the_wait_for_a_writer() {
        let (clock, mut settle, t) = (Clock(Instant::now()), Settle::default(), Timestamp::from_nanos(0));
        for unclosed in [Why::Created, Why::Unclosed(stat(1))] {
            settle.add(path("f"), unclosed, t, clock.at(0), clock.at(5000));
            settle.add(path("f"), Why::Found(stat(1)), t, clock.at(100), clock.at(300));
            assert_eq!(settle.take_due(clock.at(4999)), None);
            assert_eq!(settle.take_due(clock.at(5000)).map(|(_, w)| w.why), Some(unclosed));
        }
    }

    #[test]
    fn a_file_that_comes_back_is_no_removal() {
        let (clock, mut settle, t) = (Clock(Instant::now()), Settle::default(), Timestamp::from_nanos(0));
        settle.add(path("f"), Why::Gone, t, clock.at(0), clock.at(2000));
        settle.add(path("f"), Why::Finished, t, clock.at(50), clock.at(50));
        assert_eq!((settle.removals().count(), settle.additions()), (0, 1));
        assert_eq!(settle.take_due(clock.at(50)).map(|(_, w)| w.why), Some(Why::Finished));
    }

    #[test]
    fn what_nobody_closed_must_stand_still() {
        assert_eq!(ripe(Why::Finished, stat(1), 1), Ripe::Now);
        assert_eq!(ripe(Why::Found(stat(1)), stat(1), 1), Ripe::Now);
        assert_eq!(ripe(Why::Found(stat(1)), stat(2), 1), Ripe::Wait(STILL, Why::Found(stat(2))));
        assert_eq!(ripe(Why::Created, stat(2), 2), Ripe::Wait(STILL, Why::Found(stat(2))));
        let unclosed = Ripe::Wait(STILL_UNCLOSED, Why::Unclosed(stat(2)));
        assert_eq!(ripe(Why::Created, stat(2), 1), unclosed);
        assert_eq!(ripe(Why::Unclosed(stat(1)), stat(2), 1), unclosed);
        assert_eq!(ripe(Why::Unclosed(stat(2)), stat(2), 1), Ripe::Now);
    }

    #[test]
    fn it_is_bounded() {
        let (now, mut settle, t) = (Instant::now(), Settle::default(), Timestamp::from_nanos(0));
        for n in 0..CAPACITY {
            assert!(settle.add(path(&n.to_string()), Why::Finished, t, now, now));
        }
        assert!(!settle.add(path("x"), Why::Finished, t, now, now));
        assert!(settle.add(path("7"), Why::Gone, t, now, now));
    }
}
