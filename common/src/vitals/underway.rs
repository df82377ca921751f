//! Something long that a process is at: how far it has come and how long it will take, for the record and, every 10 s, for the log.

use crate::nodes::Underway;
use std::time::Duration;
use tokio::time::Instant;

/// What lasts less than this is not worth a word, and between two words on the same as much passes.
const EVERY: Duration = Duration::from_secs(10);

/// Something long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Long {
    /// What, for people.
    pub what: &'static str,
    /// How much of it is done.
    pub done: u64,
    /// How much it is, as far as that is known.
    pub total: u64,
}

/// Since when it has been going on.
#[derive(Clone, Copy, Debug)]
struct Since {
    what: &'static str,
    began: Instant,
    first: u64,
    last: u64,
    said: Instant,
}

/// Follows what a process is at from turn to turn.
#[derive(Debug, Default)]
pub(super) struct Course(Option<Since>);

impl Course {
    /// What is to be said of it, and whether in the log, too.
    pub fn turn(&mut self, now: Instant, long: Option<Long>) -> (Option<Underway>, bool) {
        let Some(Long { what, done, total }) = long else {
            self.0 = None;
            return (None, false);
        };
        let anew = Since { what, began: now, first: done, last: done, said: now };
        let since = match &mut self.0 {
            Some(since) if since.what == what && since.last <= done => since,
            known => known.insert(anew),
        };
        since.last = done;
        if now.duration_since(since.began) < EVERY {
            return (None, false);
        }
        let elapsed = now.duration_since(since.began).as_secs_f64();
        // Of what was there to do when it began: a node that was away for an hour is not at 99 % because it had a year before.
        let (gone, whole) = (done - since.first, total.saturating_sub(since.first));
        let percent = gone.saturating_mul(100).checked_div(whole).unwrap_or(0).min(100);
        let left = whole.saturating_sub(gone) as f64 * elapsed / gone as f64;
        let left_s = (gone > 0).then_some(left.ceil() as u64);
        let say = now.duration_since(since.said) >= EVERY;
        if say {
            since.said = now;
        }
        (Some(Underway { what: what.into(), percent, left_s }), say)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_over_10_s_is_told_with_percent_and_time_left_of_its_own_course() {
        let mut course = Course::default();
        let began = Instant::now();
        let mut turn = |seconds, what, done| {
            let long = Some(Long { what, done, total: 1_100 }).filter(|_| !what.is_empty());
            let (underway, said) = course.turn(began + Duration::from_secs(seconds), long);
            (underway.map(|underway| (underway.percent, underway.left_s)), said)
        };
        assert_eq!(turn(0, "scan", 100), (None, false));
        assert_eq!(turn(9, "scan", 100), (None, false));
        assert_eq!(turn(10, "scan", 100), (Some((0, None)), true));
        assert_eq!(turn(15, "scan", 600), (Some((50, Some(15))), false));
        assert_eq!(turn(20, "scan", 600), (Some((50, Some(20))), true));
        assert_eq!(turn(21, "scan", 1_100), (Some((100, Some(0))), false));
        // What begins anew, or is something else, has its own beginning.
        assert_eq!(turn(22, "scan", 0), (None, false));
        assert_eq!(turn(32, "scan", 550), (Some((50, Some(10))), true));
        assert_eq!(turn(33, "check", 550), (None, false));
        assert_eq!(turn(34, "", 0), (None, false));
        assert_eq!(turn(50, "check", 550), (None, false));
    }
}
