//! Paths that the log did not have a moment ago. A flood of requests for what is not there costs the broker a bounded number of questions.

use common::{event::Version, path::MediaPath};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How long a miss is remembered, unless the log has gone on since.
const REMEMBERED: Duration = Duration::from_secs(1);
/// Misses that are remembered at most: some 1 MB.
const MOST: usize = 4096;
/// Questions in a second that come to nothing. Each is one Direct Get.
const A_SECOND: u32 = 200;

/// What to do with a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Ask the log.
    Now,
    /// It was asked, and has not gone on since.
    Known,
    /// Too many came to nothing within this second.
    TooMany,
}

/// The misses of the last second.
#[derive(Default)]
pub struct Misses(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    /// When each was asked for, and where the log ended then.
    paths: HashMap<MediaPath, (Instant, Version)>,
    second: Option<(Instant, u32)>,
}

impl Misses {
    /// Whether the log, which ends at `head`, is to be asked for this path.
    pub fn ask(&self, path: &MediaPath, head: Version) -> Ask {
        let (now, recent) = (Instant::now(), self.recent());
        let fresh = |at: Instant| now.duration_since(at) < REMEMBERED;
        if recent.paths.get(path).is_some_and(|&(at, ended)| fresh(at) && ended == head) {
            return Ask::Known;
        }
        match recent.second {
            Some((began, A_SECOND..)) if fresh(began) => Ask::TooMany,
            _ => Ask::Now,
        }
    }

    /// The log, which ended at `head`, was asked, and has nothing to read at this path.
    pub fn add(&self, path: &MediaPath, head: Version) {
        let (now, mut recent) = (Instant::now(), self.recent());
        let count = match recent.second {
            Some((began, count)) if now.duration_since(began) < REMEMBERED => (began, count + 1),
            _ => (now, 1),
        };
        recent.second = Some(count);
        if recent.paths.len() >= MOST {
            recent.paths.retain(|_, (at, _)| now.duration_since(*at) < REMEMBERED);
        }
        if recent.paths.len() < MOST {
            recent.paths.insert(path.clone(), (now, head));
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    fn path(n: u32) -> MediaPath {
        n.to_string().parse().expect("a path")
    }

    #[tokio::test(start_paused = true)]
    async fn a_miss_is_known_for_a_second_or_until_the_log_goes_on() {
        let (misses, head) = (Misses::default(), Version::new(7));
        assert_eq!(misses.ask(&path(1), head), Ask::Now);
        misses.add(&path(1), head);
        assert_eq!(misses.ask(&path(1), head), Ask::Known);
        assert_eq!(misses.ask(&path(2), head), Ask::Now);
        assert_eq!(misses.ask(&path(1), head.next()), Ask::Now);
        advance(REMEMBERED).await;
        assert_eq!(misses.ask(&path(1), head), Ask::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_misses_asks_a_bounded_number_of_times_a_second() {
        let (misses, head) = (Misses::default(), Version::ZERO);
        for second in 0..3 {
            let asked = (0..10 * A_SECOND).map(|n| path(second * 10 * A_SECOND + n)).filter(|path| {
                let now = misses.ask(path, head) == Ask::Now;
                if now {
                    misses.add(path, head);
                }
                now
            });
            assert_eq!(asked.count(), A_SECOND as usize);
            advance(REMEMBERED).await;
        }
        let mut recent = misses.recent();
        recent.second = None;
        drop(recent);
        for n in 0..2 * u32::try_from(MOST).expect("a number") {
            misses.add(&path(n), head);
        }
        assert_eq!(misses.recent().paths.len(), MOST);
    }
}
