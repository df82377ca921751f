//! Room for what is placed: where it does not fit above the floor of `--min-free`, trash is dropped early; where that does not help, the event waits.

use crate::{
    node::{ApplyError, Node},
    upkeep,
};
use common::{
    blobs::BlobStore,
    index::IndexError,
    log::EventLog,
    root::Root,
    settings::MinFree,
    space::{self, Reservation, Room},
    time::Timestamp,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::sleep;

/// How often a full disk is looked at for what waits.
const LOOK: Duration = Duration::from_millis(500);
/// Looks, after which an event is tried whatever they said: trash may have become old enough to be dropped.
const LOOKS: usize = 10;
/// Until an event is tried again for which nobody can say how much room it lacks.
const BLIND_PAUSE: Duration = Duration::from_secs(1);

/// Who has reserved what, and who makes room.
pub struct Space {
    room: space::Space,
    /// One at a time drops trash, so that no more is dropped than is needed.
    dropping: tokio::sync::Mutex<()>,
}

impl Space {
    pub fn new(root: Arc<Root>, min_free: MinFree) -> Self {
        Self { room: space::Space::new(root, min_free), dropping: tokio::sync::Mutex::default() }
    }

    /// Waits until it is worth while to try an event again. `need`: the length of what it has to write, where that is what there is no room for.
    pub async fn wait(&self, need: Option<u64>) {
        let Some(need) = need else { return sleep(BLIND_PAUSE).await };
        for _ in 0..LOOKS {
            sleep(LOOK).await;
            if self.room.has_room(need) {
                return;
            }
        }
    }
}

/// Reserves room for a file of this length, dropping trash where it must and where that is enough.
pub async fn reserve<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    need: u64,
) -> Result<Reservation, ApplyError> {
    loop {
        match node.space.room.try_reserve(need).map_err(ApplyError::Disk)? {
            Ok(reservation) => return Ok(reservation),
            Err(lack) if make_room(node, need, false).await? => tracing::debug!(%lack, "there is room now"),
            Err(lack) => return Err(ApplyError::NoRoom(lack)),
        }
    }
}

/// Drops trash early, oldest first, and only if it comes to what is missing: nothing is dropped in vain. `refused`: the disk had no room although it seemed
/// to have, as with a quota. False: nothing could be done.
pub async fn make_room<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    need: u64,
    refused: bool,
) -> Result<bool, ApplyError> {
    let _alone = node.space.dropping.lock().await;
    let missing = match node.space.room.lack(need).map_err(ApplyError::Disk)? {
        Some(lack) => lack.missing,
        None if refused => Room { bytes: need.max(1), files: 1 },
        None => return Ok(true),
    };
    let settled = upkeep::settled_before(Timestamp::now());
    let (bytes, files) = node.index.trash_to_spare(settled)?;
    if bytes < missing.bytes || files < missing.files {
        return Ok(false);
    }
    let freed = drop_trash(node, settled, missing).await?;
    if freed.files > 0 {
        tracing::info!(bytes = freed.bytes, files = freed.files, "dropped from the trash early, for space");
    }
    Ok(freed.files > 0)
}

async fn drop_trash<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    settled: Timestamp,
    missing: Room,
) -> Result<Room, IndexError> {
    let mut freed = Room::default();
    loop {
        let before = freed;
        for entry in node.index.trash_for_space(settled)? {
            if freed.bytes >= missing.bytes && freed.files >= missing.files {
                return Ok(freed);
            }
            let size = entry.stat.size;
            if upkeep::drop_early(node, entry).await? {
                freed = Room { bytes: freed.bytes + size, files: freed.files + 1 };
            }
        }
        if freed == before {
            return Ok(freed);
        }
    }
}

/// What waits for room, by what it is called, and what is said of it.
#[derive(Default)]
pub struct Waiting {
    reasons: BTreeMap<String, String>,
    said: bool,
}

impl Waiting {
    /// One warning when it begins, not one for each event.
    pub fn add(&mut self, what: &str, reason: String) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(%reason, "no room: waiting for it, and going on with what fits");
        }
        self.reasons.insert(what.into(), reason);
    }

    /// This one waits no longer.
    pub fn remove(&mut self, what: &str) {
        if self.reasons.remove(what).is_some() && self.reasons.is_empty() {
            self.said = false;
            tracing::info!("there is room again");
        }
    }

    /// Whether this one waits.
    pub fn has(&self, what: &str) -> bool {
        self.reasons.contains_key(what)
    }

    /// Forgets what comes again by itself, and keeps `but`. What is still short of room then is no news.
    pub fn forget_all_but(&mut self, but: &str) {
        self.reasons.retain(|what, _| what == but);
    }

    /// Nothing is under way that could still be short of room.
    pub fn idle(&mut self) {
        self.said = !self.reasons.is_empty();
    }

    /// What is needed, for people.
    pub fn reason(&self) -> Option<String> {
        let first = self.reasons.values().next()?;
        Some(match self.reasons.len() {
            1 => first.clone(),
            all => format!("{first} (and {} more wait for room)", all - 1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_is_told_and_the_others_are_counted() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.reason(), None);
        waiting.add("a", "needs 1".into());
        waiting.add("b", "needs 2".into());
        waiting.add("a", "needs 3".into());
        assert_eq!(waiting.reason(), Some("needs 3 (and 1 more wait for room)".into()));
        waiting.forget_all_but("b");
        assert_eq!(waiting.reason(), Some("needs 2".into()));
        waiting.remove("b");
        waiting.remove("b");
        assert!(waiting.reason().is_none() && !waiting.said);
    }
}
