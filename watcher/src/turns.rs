//! One at a time for each path, or for each content; others wait their turn.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::sync::OwnedMutexGuard;

type Queue = tokio::sync::Mutex<()>;

/// Ends the turn when it is dropped.
pub type Turn = OwnedMutexGuard<()>;

/// As many entries as there are who work or wait, and some that are over.
pub struct Turns<K>(Mutex<HashMap<K, Weak<Queue>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq> Turns<K> {
    /// Waits until it is our turn, which ends with what is returned.
    pub async fn take(&self, key: K) -> Turn {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let standing = turns.get(&key).and_then(Weak::upgrade);
            standing.unwrap_or_else(|| {
                let turn = Arc::new(Queue::default());
                turns.insert(key, Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn one_at_a_time_has_the_turn_of_its_key_and_nothing_is_kept() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        assert!(turns.take("a").now_or_never().is_none());
        let other = turns.take("b").now_or_never();
        assert!(other.is_some());
        drop((first, other));
        assert!(turns.take("a").now_or_never().is_some());
        drop(turns.take("c").await);
        assert_eq!(turns.0.lock().expect("no panic").len(), 1);
    }
}
