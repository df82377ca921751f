//! Whether the command of `--on-change` does its work.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Since when it has failed each time, if it has.
#[derive(Default)]
pub struct Hook(Mutex<Option<Instant>>);

impl Hook {
    /// A run that began then has failed.
    pub fn fails(&self, began: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(began);
    }

    /// A run ended well.
    pub fn works(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn failing(&self, now: Instant) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}
