//! What a handle knows to be in the log: on this subject the last event is at least this one. A replica that shows less is behind.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
};

/// Subjects remembered twice over, about 1 MiB. What matters are the last moments; forgetting costs a caller on a cluster one refusal.
const MOST: usize = 4096;

#[derive(Default)]
pub(super) struct Floors(Mutex<Generations>);

/// The older is dropped when the younger is full.
#[derive(Default)]
struct Generations {
    young: HashMap<String, u64>,
    old: HashMap<String, u64>,
}

impl Generations {
    fn of(&self, subject: &str) -> u64 {
        let find = |floors: &HashMap<String, u64>| floors.get(subject).copied().unwrap_or(0);
        find(&self.young).max(find(&self.old))
    }
}

impl Floors {
    fn with<T>(&self, act: impl FnOnce(&mut Generations) -> T) -> T {
        // No change leaves it half done: a panic elsewhere does not spoil it.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An event of this subject was seen at this sequence.
    pub(super) fn raise(&self, subject: &str, sequence: u64) {
        self.with(|floors| {
            if floors.young.len() >= MOST {
                floors.old = mem::take(&mut floors.young);
            }
            let floor = sequence.max(floors.of(subject));
            floors.young.insert(subject.to_owned(), floor);
        });
    }

    /// Whether more is known than this.
    pub(super) fn stands_above(&self, subject: &str, seen: u64) -> bool {
        self.with(|floors| floors.of(subject) > seen)
    }

    /// The log has lost events: nothing that was known counts.
    pub(super) fn clear(&self) {
        self.with(|floors| *floors = Generations::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_floors_are_known_and_the_oldest_forgotten() {
        let floors = Floors::default();
        floors.raise("a", 7);
        floors.raise("a", 5);
        assert!(floors.stands_above("a", 6) && !floors.stands_above("a", 7));
        (0..MOST).for_each(|n| floors.raise(&n.to_string(), 1));
        assert!(floors.stands_above("a", 6) && floors.stands_above("0", 0));
        (0..MOST).for_each(|n| floors.raise(&format!("b{n}"), 1));
        assert!(!floors.stands_above("a", 0) && floors.stands_above(&(MOST - 1).to_string(), 0));
        floors.clear();
        assert!(!floors.stands_above("b1", 0));
    }
}
