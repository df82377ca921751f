//! What is known of one path, and what of it differs: a plain decision, without input or output.

use crate::plan::OnDisk;
use common::{
    event::{Kind, Version},
    hash::ContentHash,
    index::{Generation, Row},
};
use std::fmt;

/// The path's last message in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// There is none.
    Nothing,
    /// An event.
    Event { kind: Kind, content: ContentHash, version: Version },
    /// No event: it says nothing of the content.
    Poison,
}

/// What stands at the path, read to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// A file, or nothing.
    Disk(OnDisk),
    /// Something that is never mirrored or replaced.
    InTheWay(&'static str),
    /// It kept changing while it was read.
    Changing,
    /// It cannot be read.
    Unreadable(String),
}

/// The blob of the path's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blob {
    /// There, as far as was looked; or none is needed.
    Whole,
    Missing,
    Damaged,
}

/// Everything about one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    pub last: Last,
    pub found: Found,
    pub blob: Blob,
    pub row: Option<Row>,
    pub generation: Generation,
    /// Why the path's event is parked, when one is.
    pub parked: Option<String>,
    /// Its removal waits for an operator.
    pub held: bool,
    /// An ignore rule covers it.
    pub ignored: bool,
}

/// What differs between log, index, disk and store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// The log has it, the disk does not.
    Absent,
    /// Its removal is held.
    Held,
    /// Other bytes under the stat that the index knows.
    Rotten,
    /// Other content than the log's, written by somebody here.
    Other,
    /// On the disk, and not in the log.
    Unpublished,
    /// Removed in the log, and still on the disk.
    NotRemoved,
    /// The path's last event is not applied here.
    NotApplied { parked: Option<String> },
    /// Something stands there that is never replaced.
    InTheWay(&'static str),
    /// It kept changing.
    Changing,
    /// It cannot be read.
    Unreadable(String),
    /// The store lacks the blob.
    BlobMissing,
    /// The store has other bytes under the blob's name.
    BlobDamaged,
}

/// What is done about a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// The replicator brings the log's content to the disk.
    Fetch,
    /// The replicator tries the parked event again.
    Retry,
    /// The watcher looks at the path, and publishes what stands there.
    AskWatcher,
    /// A watcher stores the blob again.
    Want,
    /// Only a person can tell.
    Nothing,
}

impl Difference {
    /// What is done about it.
    pub fn repair(&self) -> Repair {
        match self {
            Self::Absent | Self::Rotten | Self::NotApplied { parked: None } => Repair::Fetch,
            Self::NotApplied { parked: Some(_) } => Repair::Retry,
            Self::Other | Self::Unpublished | Self::NotRemoved => Repair::AskWatcher,
            Self::BlobMissing | Self::BlobDamaged => Repair::Want,
            Self::Held | Self::InTheWay(_) | Self::Changing | Self::Unreadable(_) => Repair::Nothing,
        }
    }

    /// For programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Held => "held",
            Self::Rotten => "rotten",
            Self::Other => "other-content",
            Self::Unpublished => "unpublished",
            Self::NotRemoved => "not-removed",
            Self::NotApplied { parked: None } => "not-applied",
            Self::NotApplied { parked: Some(_) } => "parked",
            Self::InTheWay(_) => "in-the-way",
            Self::Changing => "changing",
            Self::Unreadable(_) => "unreadable",
            Self::BlobMissing => "blob-missing",
            Self::BlobDamaged => "blob-damaged",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "in the log, and not on the disk"),
            Self::Held => write!(f, "removed here; the removal is held (`watcher approve [--revert]`)"),
            Self::Rotten => write!(f, "its bytes changed without a write"),
            Self::Other => write!(f, "other content here than in the log"),
            Self::Unpublished => write!(f, "on the disk, and not in the log"),
            Self::NotRemoved => write!(f, "removed in the log, and still on the disk"),
            Self::NotApplied { parked: None } => write!(f, "its last event is not applied here"),
            Self::NotApplied { parked: Some(why) } => write!(f, "its last event is parked: {why}"),
            Self::InTheWay(what) => write!(f, "{what} stands there"),
            Self::Changing => write!(f, "it kept changing while it was read"),
            Self::Unreadable(why) => write!(f, "it cannot be read: {why}"),
            Self::BlobMissing => write!(f, "its blob is missing in the store"),
            Self::BlobDamaged => write!(f, "its blob is damaged in the store"),
        }
    }
}

/// What differs. Empty: log, index, disk and store agree on the path.
pub fn judge(facts: &Facts) -> Vec<Difference> {
    let blob = match facts.blob {
        Blob::Whole => None,
        Blob::Missing => Some(Difference::BlobMissing),
        Blob::Damaged => Some(Difference::BlobDamaged),
    };
    on_disk(facts).into_iter().chain(blob).collect()
}

fn on_disk(facts: &Facts) -> Option<Difference> {
    let disk = match &facts.found {
        Found::Disk(disk) => *disk,
        Found::Changing => return Some(Difference::Changing),
        Found::Unreadable(why) => return Some(Difference::Unreadable(why.clone())),
        Found::InTheWay(what) => {
            let wanted = matches!(facts.last, Last::Event { kind: Kind::Added, .. });
            return wanted.then_some(Difference::InTheWay(what));
        }
    };
    let row = facts.row.as_ref().filter(|row| row.generation == facts.generation);
    let not_applied = || Some(Difference::NotApplied { parked: facts.parked.clone() });
    let (kind, content, version) = match facts.last {
        Last::Event { kind, content, version } => (kind, content, version),
        Last::Nothing | Last::Poison => {
            let here = matches!(disk, OnDisk::File(..)) && !facts.ignored;
            return here.then_some(Difference::Unpublished);
        }
    };
    let Some(row) = row.filter(|row| row.version >= version) else {
        // A removal of what is not here, and was never, needs no row.
        let nothing_to_do = kind == Kind::Removed && disk == OnDisk::Absent;
        return if nothing_to_do { None } else { not_applied() };
    };
    match (kind, disk) {
        (Kind::Added, OnDisk::Absent) if facts.held => Some(Difference::Held),
        (Kind::Added, OnDisk::Absent) => Some(Difference::Absent),
        (Kind::Added, OnDisk::File(here, _)) if here == content => None,
        (Kind::Added, OnDisk::File(_, stat)) if row.stat == Some(stat) && !row.racy => {
            Some(Difference::Rotten)
        }
        (Kind::Added, OnDisk::File(..)) => Some(Difference::Other),
        (Kind::Removed, OnDisk::Absent) => None,
        (Kind::Removed, OnDisk::File(here, _)) => {
            (row.ignored != Some(here) && !facts.ignored).then_some(Difference::NotRemoved)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::index::{RowState, Stat};

    fn hash(text: &str) -> ContentHash {
        ContentHash::of(text.as_bytes())
    }

    fn file(content: &str, mtime: i64) -> OnDisk {
        OnDisk::File(hash(content), Stat { ino: 1, size: 1, mtime, ctime: mtime })
    }

    fn row(state: RowState, content: &str, version: u64, generation: u64) -> Option<Row> {
        Some(Row {
            state,
            sha256: Some(hash(content)),
            size: 1,
            stat: Some(Stat { ino: 1, size: 1, mtime: 1, ctime: 1 }),
            racy: false,
            version: Version::new(version),
            replaced: Version::ZERO,
            generation: Generation(generation),
            lost: None,
            rewritten: false,
            ignored: None,
        })
    }

    fn last(kind: Kind, content: &str) -> Last {
        Last::Event { kind, content: hash(content), version: Version::new(5) }
    }

    fn facts(last: Last, row: Option<Row>, disk: OnDisk) -> Facts {
        Facts {
            last,
            found: Found::Disk(disk),
            blob: Blob::Whole,
            row,
            generation: Generation(1),
            parked: None,
            held: false,
            ignored: false,
        }
    }

    #[test]
    fn log_index_and_disk_agree_or_the_difference_has_a_name() {
        use Difference::*;
        use Kind::{Added, Removed};
        use RowState as State;
        let ignored = row(State::Removed, "a", 5, 1).map(|row| Row { ignored: Some(hash("a")), ..row });
        let racy = row(State::Present, "a", 5, 1).map(|row| Row { racy: true, ..row });
        let not_applied = || Some(NotApplied { parked: None });
        for (last, row, disk, expected) in [
            (last(Added, "a"), row(State::Present, "a", 5, 1), file("a", 1), None),
            (last(Added, "a"), row(State::Present, "a", 5, 1), file("a", 9), None),
            (last(Added, "a"), row(State::Present, "a", 5, 1), OnDisk::Absent, Some(Absent)),
            (last(Added, "a"), row(State::Present, "a", 5, 1), file("b", 1), Some(Rotten)),
            (last(Added, "a"), row(State::Present, "a", 5, 1), file("b", 9), Some(Other)),
            (last(Added, "a"), racy, file("b", 1), Some(Other)),
            (last(Added, "a"), row(State::Present, "a", 4, 1), file("a", 1), not_applied()),
            (last(Added, "a"), row(State::Present, "a", 5, 0), file("a", 1), not_applied()),
            (last(Added, "a"), None, OnDisk::Absent, not_applied()),
            (last(Removed, "a"), row(State::Removed, "a", 5, 1), OnDisk::Absent, None),
            (last(Removed, "a"), row(State::Removed, "a", 5, 1), file("a", 1), Some(NotRemoved)),
            (last(Removed, "a"), ignored, file("a", 1), None),
            (last(Removed, "a"), row(State::Present, "a", 4, 1), file("a", 1), not_applied()),
            (last(Removed, "a"), None, OnDisk::Absent, None),
            (Last::Nothing, None, file("a", 1), Some(Unpublished)),
            (Last::Nothing, row(State::Present, "a", 5, 0), file("a", 1), Some(Unpublished)),
            (Last::Nothing, row(State::Present, "a", 5, 0), OnDisk::Absent, None),
            (Last::Poison, None, OnDisk::Absent, None),
            (Last::Poison, None, file("a", 1), Some(Unpublished)),
        ] {
            let facts = facts(last, row, disk);
            assert_eq!(judge(&facts).pop(), expected, "{facts:?}");
        }
    }

    #[test]
    fn marks_and_what_is_not_a_file_change_the_verdict() {
        use Kind::{Added, Removed};
        let there = || row(RowState::Present, "a", 5, 1);
        let wanted = || facts(last(Added, "a"), there(), OnDisk::Absent);
        let parked = Some("why".to_owned());
        for (facts, expected) in [
            (Facts { held: true, ..wanted() }, vec![Difference::Held]),
            (Facts { found: Found::InTheWay("a FIFO"), ..wanted() }, vec![Difference::InTheWay("a FIFO")]),
            (Facts { found: Found::InTheWay("a FIFO"), last: last(Removed, "a"), ..wanted() }, vec![]),
            (Facts { found: Found::Changing, ..wanted() }, vec![Difference::Changing]),
            (
                Facts { row: None, parked: parked.clone(), ..wanted() },
                vec![Difference::NotApplied { parked }],
            ),
            (Facts { ignored: true, ..facts(Last::Nothing, None, file("a", 1)) }, vec![]),
            (Facts { blob: Blob::Missing, ..wanted() }, vec![Difference::Absent, Difference::BlobMissing]),
            (
                Facts { blob: Blob::Damaged, ..facts(last(Added, "a"), there(), file("a", 1)) },
                vec![Difference::BlobDamaged],
            ),
        ] {
            assert_eq!(judge(&facts), expected, "{facts:?}");
        }
    }

    #[test]
    fn each_difference_has_its_repair() {
        let parked = Some(String::new());
        for (difference, repair) in [
            (Difference::Absent, Repair::Fetch),
            (Difference::Rotten, Repair::Fetch),
            (Difference::NotApplied { parked: None }, Repair::Fetch),
            (Difference::NotApplied { parked }, Repair::Retry),
            (Difference::Other, Repair::AskWatcher),
            (Difference::Unpublished, Repair::AskWatcher),
            (Difference::NotRemoved, Repair::AskWatcher),
            (Difference::BlobMissing, Repair::Want),
            (Difference::Held, Repair::Nothing),
        ] {
            assert_eq!(difference.repair(), repair, "{difference:?}");
        }
    }
}
