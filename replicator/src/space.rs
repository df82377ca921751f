//! Room on the root's disk. What is about to be written is reserved first, so that the files in flight together leave the floor of `--min-free` alone. Where it
//! does not fit, trash is dropped early; where that does not help, the event waits.

use crate::{
    node::{ApplyError, Node},
    upkeep,
};
use common::{
    blobs::BlobStore,
    index::IndexError,
    log::EventLog,
    root::{Disk, Root},
    settings::MinFree,
    time::Timestamp,
};
use indicatif::HumanBytes;
use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;

/// How often a full disk is looked at for what waits.
const LOOK: Duration = Duration::from_millis(500);
/// Looks, after which an event is tried whatever they said: trash may have become old enough to be dropped.
const LOOKS: usize = 10;
/// Until an event is tried again for which nobody can say how much room it lacks.
const BLIND_PAUSE: Duration = Duration::from_secs(1);

/// Bytes and files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Room {
    bytes: u64,
    files: u64,
}

/// There is not enough room for a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lack {
    /// Length of what was to be written.
    pub need: u64,
    missing: Room,
    /// Free for it.
    above: u64,
    floor: u64,
    disk: u64,
    root: String,
}

impl Lack {
    /// The whole disk would not be enough: nothing that could be waited for.
    pub fn is_hopeless(&self) -> bool {
        self.need > self.disk
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (need, root) = (HumanBytes(self.need), &self.root);
        if self.is_hopeless() {
            return write!(
                f,
                "needs {need}, more than the {} of the whole disk under {root}",
                HumanBytes(self.disk)
            );
        }
        if self.missing.bytes == 0 {
            return write!(f, "needs {need}, and no more files can be made on {root}: it is out of inodes");
        }
        let (above, floor) = (HumanBytes(self.above), HumanBytes(self.floor));
        write!(f, "needs {need}, {above} free above the floor of {floor} on {root}")
    }
}

/// What a disk lacks for `need` beside what is `reserved` already; in what is free for it, both are taken into account.
fn missing(disk: &Disk, floor: u64, reserved: Room, need: Room) -> Option<Room> {
    let bytes = floor.saturating_add(reserved.bytes).saturating_add(need.bytes).saturating_sub(disk.free);
    let files = (reserved.files + need.files).saturating_sub(disk.files_free);
    (bytes > 0 || files > 0).then_some(Room { bytes, files })
}

/// Who has reserved what.
pub struct Space {
    root: Arc<Root>,
    min_free: MinFree,
    reserved: Arc<Mutex<Room>>,
    /// One at a time drops trash, so that no more is dropped than is needed.
    dropping: tokio::sync::Mutex<()>,
}

/// Room that nobody else is given; what of it was not written is given back when it is dropped.
pub struct Reservation {
    reserved: Arc<Mutex<Room>>,
    left: AtomicU64,
}

fn lock(reserved: &Mutex<Room>) -> MutexGuard<'_, Room> {
    reserved.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reservation {
    /// So many bytes of it are on the disk now, and no longer free there.
    pub fn written(&self, bytes: u64) {
        let mut reserved = lock(&self.reserved);
        let bytes = bytes.min(self.left.load(Ordering::Relaxed));
        self.left.fetch_sub(bytes, Ordering::Relaxed);
        reserved.bytes -= bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut reserved = lock(&self.reserved);
        reserved.bytes -= self.left.load(Ordering::Relaxed);
        reserved.files -= 1;
    }
}

impl Space {
    pub fn new(root: Arc<Root>, min_free: MinFree) -> Self {
        Self { root, min_free, reserved: Arc::default(), dropping: tokio::sync::Mutex::default() }
    }

    /// What is missing for a file of this many bytes.
    fn lack(&self, need: u64, reserved: Room) -> io::Result<Option<Lack>> {
        let disk = self.root.disk()?;
        let floor = self.min_free.of(disk.size);
        // A file takes whole blocks, an empty one an entry in its folder.
        let room = Room { bytes: need.max(1).next_multiple_of(disk.block), files: 1 };
        Ok(missing(&disk, floor, reserved, room).map(|missing| {
            let above = disk.free.saturating_sub(floor).saturating_sub(reserved.bytes);
            let root = self.root.path().display().to_string();
            Lack { need, missing, above, floor, disk: disk.size, root }
        }))
    }

    fn try_reserve(&self, need: u64) -> io::Result<Result<Reservation, Lack>> {
        let mut reserved = lock(&self.reserved);
        if let Some(lack) = self.lack(need, *reserved)? {
            return Ok(Err(lack));
        }
        reserved.bytes += need;
        reserved.files += 1;
        Ok(Ok(Reservation { reserved: Arc::clone(&self.reserved), left: AtomicU64::new(need) }))
    }

    fn has_room(&self, need: u64) -> bool {
        let reserved = *lock(&self.reserved);
        // A disk that cannot be asked is for the event's next try to complain about.
        self.lack(need, reserved).map_or(true, |lack| lack.is_none())
    }

    /// Waits until it is worth while to try an event again. `need`: the length of what it has to write, where that is what there is no room for.
    pub async fn wait(&self, need: Option<u64>) {
        let Some(need) = need else { return sleep(BLIND_PAUSE).await };
        for _ in 0..LOOKS {
            sleep(LOOK).await;
            if self.has_room(need) {
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
        match node.space.try_reserve(need).map_err(ApplyError::Disk)? {
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
    let reserved = *lock(&node.space.reserved);
    let missing = match node.space.lack(need, reserved).map_err(ApplyError::Disk)? {
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

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_floor_and_what_is_in_flight_are_kept() {
        let disk = Disk { size: 100 * MIB, free: 10 * MIB, files_free: 5, block: 4096 };
        let room = |bytes, files| Room { bytes: bytes * MIB, files };
        for (floor, reserved, need, expected) in [
            (0, room(0, 0), room(10, 1), None),
            (0, room(0, 0), room(11, 1), Some(room(1, 0))),
            (4, room(0, 0), room(6, 1), None),
            (4, room(2, 1), room(6, 1), Some(room(2, 0))),
            (12, room(0, 0), room(1, 1), Some(room(3, 0))),
            (0, room(1, 5), room(1, 1), Some(room(0, 1))),
        ] {
            assert_eq!(
                missing(&disk, floor * MIB, reserved, need),
                expected,
                "{floor} {reserved:?} {need:?}"
            );
        }
        assert!(missing(&disk, u64::MAX, room(9, 0), room(1, 1)).is_some());
    }

    #[test]
    fn what_is_written_is_no_longer_reserved() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = Arc::new(Root::open(dir.path()).expect("a root"));
        let space = Space::new(root, "0".parse().expect("a floor"));
        let reserved = || *lock(&space.reserved);
        let one = space.try_reserve(100).expect("a disk").expect("room");
        let two = space.try_reserve(50).expect("a disk").expect("room");
        assert_eq!(reserved(), Room { bytes: 150, files: 2 });
        one.written(30);
        two.written(60);
        assert_eq!(reserved(), Room { bytes: 70, files: 2 });
        drop(one);
        assert_eq!(reserved(), Room { bytes: 0, files: 1 });
        drop(two);
        assert_eq!(reserved(), Room::default());
        let lack = space.try_reserve(1 << 60).expect("a disk").err().expect("an exbibyte");
        let text = lack.to_string();
        assert!(lack.is_hopeless() && text.starts_with("needs 1.00 EiB, more than the "), "{text}");
        let free = space.root.disk().expect("a disk").free;
        let lack = space.try_reserve(free + MIB).expect("a disk").err().expect("more than is free");
        let text = lack.to_string();
        assert!(!lack.is_hopeless() && text.contains("the floor of 0 B on /"), "{text}");
        let floor: MinFree = "99%".parse().expect("a floor");
        let full = Space::new(Arc::clone(&space.root), floor);
        assert!(!full.has_room(0) && space.has_room(1));
    }

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
