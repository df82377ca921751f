//! Room on the root's disk. What is about to be written is reserved first, so that the files that a process has in flight together leave the floor of `--min-free`
//! alone.

use crate::{
    root::{Disk, Root},
    settings::MinFree,
};
use indicatif::HumanBytes;
use std::{
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Bytes and files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// Files.
    pub files: u64,
}

/// There is not enough room for a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lack {
    /// Length of what was to be written.
    pub need: u64,
    /// What the disk lacks for it.
    pub missing: Room,
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
    /// Nothing is reserved yet.
    pub fn new(root: Arc<Root>, min_free: MinFree) -> Self {
        Self { root, min_free, reserved: Arc::default() }
    }

    /// What is missing now for a file of this many bytes.
    pub fn lack(&self, need: u64) -> io::Result<Option<Lack>> {
        let reserved = *lock(&self.reserved);
        self.lack_beside(need, reserved)
    }

    fn lack_beside(&self, need: u64, reserved: Room) -> io::Result<Option<Lack>> {
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

    /// Reserves room for a file of this many bytes, or says what is missing.
    pub fn try_reserve(&self, need: u64) -> io::Result<Result<Reservation, Lack>> {
        let mut reserved = lock(&self.reserved);
        if let Some(lack) = self.lack_beside(need, *reserved)? {
            return Ok(Err(lack));
        }
        reserved.bytes += need;
        reserved.files += 1;
        Ok(Ok(Reservation { reserved: Arc::clone(&self.reserved), left: AtomicU64::new(need) }))
    }

    /// Whether there is room for a file of this many bytes.
    pub fn has_room(&self, need: u64) -> bool {
        // A disk that cannot be asked is for the next try to complain about.
        self.lack(need).map_or(true, |lack| lack.is_none())
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
}
