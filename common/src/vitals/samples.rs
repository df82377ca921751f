//! An hour of what came, for people who look at it now and collect no metrics: a sample for every 10 s, in memory.

use crate::time::Timestamp;
use serde::Serialize;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// The time of one sample.
const STEP: Duration = Duration::from_secs(10);
/// An hour of them.
const MOST: usize = 360;

/// What came in 10 s.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Sample {
    /// Their end.
    pub at: Timestamp,
    /// Files placed.
    pub files: u64,
    /// Bytes of content received.
    pub bytes: u64,
    /// The mean time in seconds from a file's change to its place here; none: no file came.
    pub latency: Option<f64>,
    /// The longest.
    pub latency_max: Option<f64>,
}

/// What is being counted, and what was.
#[derive(Default)]
pub struct Samples(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    began: Option<(Instant, u64)>,
    files: u64,
    sum: f64,
    longest: f64,
    past: VecDeque<Sample>,
    away: Option<Timestamp>,
}

impl Samples {
    /// Since when there is no connection to the broker, if there is none.
    pub fn away(&self) -> Option<Timestamp> {
        self.counted().away
    }

    /// What came in the last hour, oldest first.
    pub fn past(&self) -> Vec<Sample> {
        self.counted().past.iter().cloned().collect()
    }

    /// A file was placed, so many seconds after its change was noticed.
    pub(super) fn placed(&self, latency: f64) {
        let mut counted = self.counted();
        counted.files += 1;
        counted.sum += latency;
        counted.longest = counted.longest.max(latency);
    }

    /// The loop turns. `passed`: bytes since the start. `connected`: to the broker.
    pub(super) fn turn(&self, now: Instant, at: Timestamp, passed: u64, connected: bool) {
        let mut counted = self.counted();
        counted.away = if connected { None } else { counted.away.or(Some(at)) };
        counted.turn(now, at, passed);
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    fn turn(&mut self, now: Instant, at: Timestamp, passed: u64) {
        let (began, before) = *self.began.get_or_insert((now, passed));
        if now.saturating_duration_since(began) < STEP {
            return;
        }
        let some = self.files > 0;
        self.past.push_back(Sample {
            at,
            files: self.files,
            bytes: passed.saturating_sub(before),
            latency: some.then(|| self.sum / self.files as f64),
            latency_max: some.then_some(self.longest),
        });
        if self.past.len() > MOST {
            self.past.pop_front();
        }
        (self.began, self.files, self.sum, self.longest) = (Some((now, passed)), 0, 0.0, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_what_came_in_its_time_and_an_hour_of_them_is_kept() {
        let (samples, began) = (Samples::default(), Instant::now());
        let turn = |second: u64, passed| {
            let at = Timestamp::from_nanos(i128::from(second) * 1_000_000_000);
            samples.turn(began + Duration::from_secs(second), at, passed, true);
        };
        turn(0, 100);
        samples.placed(0.1);
        samples.placed(0.3);
        turn(9, 500);
        assert_eq!(samples.past(), []);
        turn(10, 600);
        let first = &samples.past()[0];
        assert_eq!((first.files, first.bytes, first.latency_max), (2, 500, Some(0.3)));
        assert!((first.latency.expect("a mean") - 0.2).abs() < 1e-9);
        turn(20, 600);
        let second = &samples.past()[1];
        assert_eq!((second.files, second.bytes, second.latency), (0, 0, None));
        (3..1000).for_each(|n| turn(n * 10, 600));
        assert_eq!(samples.past().len(), MOST);
        assert_eq!(samples.past()[0].at, Timestamp::from_nanos((9990 - 3590) * 1_000_000_000));
    }
}
