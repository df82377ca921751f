//! Waiting for room, on the broker's disk or on the one under the index, or for a blob store that is away. Nothing is given up; one path at a time is tried until one gets through. Time is handed in.

use common::index::IndexError;
use std::time::Duration;
use tokio::time::Instant;

/// Between two tries while there is no room.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// A store that is nearly full takes what is small and refuses what is large: that is said once in this time.
const QUIET: Duration = Duration::from_secs(60);

/// What is waited for.
#[derive(Default)]
pub(super) struct Pause {
    /// Why, and when something last failed because of it.
    now: Option<(String, Instant)>,
    /// When a warning was last given, and whether it is of this pause.
    said: Option<(Instant, bool)>,
}

impl Pause {
    /// There is no room: one warning when it begins, not one for each path.
    pub(super) fn begin(&mut self, reason: String, now: Instant) {
        self.begin_with("no room", reason, now);
    }

    /// The broker does not answer, as one that is full may do.
    pub(super) fn begin_unanswered(&mut self, reason: String, now: Instant) {
        self.begin_with("no answer", reason, now);
    }

    /// The blob store does not do what is asked.
    pub(super) fn begin_store_away(&mut self, reason: String, now: Instant) {
        self.begin_with("the blob store is away", reason, now);
    }

    fn begin_with(&mut self, what: &str, reason: String, now: Instant) {
        if self.now.is_none() && self.said.is_none_or(|(said, _)| now.duration_since(said) > QUIET) {
            tracing::warn!(%reason, "{what}: publishing is paused");
            self.said = Some((now, true));
        }
        self.now = Some((reason, now));
    }

    /// Something got through that was begun then.
    pub(super) fn got_through(&mut self, begun: Instant) {
        if self.now.as_ref().is_some_and(|(_, failed)| begun > *failed) {
            self.end();
        }
    }

    /// Nothing is left that waits.
    pub(super) fn end(&mut self) {
        if self.now.take().is_some()
            && let Some((_, of_this @ true)) = &mut self.said
        {
            *of_this = false;
            tracing::info!("publishing goes on");
        }
    }

    /// Why it waits.
    pub(super) fn reason(&self) -> Option<&str> {
        self.now.as_ref().map(|(reason, _)| reason.as_str())
    }

    /// How many paths may be in work, of so many at best.
    pub(super) fn room(&self, transfers: usize, now: Instant) -> usize {
        match &self.now {
            None => transfers,
            Some((_, failed)) if now.duration_since(*failed) >= PAUSE => 1,
            Some(_) => 0,
        }
    }

    /// A failure of the index that only waiting cures is none of the service.
    pub(super) fn unless_full(&mut self, written: Result<(), IndexError>) -> Result<(), IndexError> {
        match written {
            Err(error) if error.is_full() => {
                self.begin(error.to_string(), Instant::now());
                Ok(())
            }
            written => written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_at_a_time_is_tried_until_one_that_began_since_gets_through() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pause = Pause::default();
        assert_eq!(pause.room(64, at(0)), 64);
        pause.begin("full".into(), at(5));
        assert_eq!((pause.room(64, at(5)), pause.reason()), (0, Some("full")));
        // In flight when the first one failed: it says nothing about what comes.
        pause.got_through(at(4));
        assert_eq!((pause.room(64, at(1004)), pause.room(64, at(1005))), (0, 1));
        pause.got_through(at(1005));
        assert_eq!((pause.room(64, at(1005)), pause.reason()), (64, None));
    }
}
