//! What an upload or a removal over HTTP comes to: plain decisions on facts. No input or output, no clock.
//!
//! Both stand on what this node has applied, as a user's change does: where the log, or the disk, has something that this node's index has not, they are refused.

use crate::look::OnDisk;
use common::{
    event::{Kind, Version},
    hash::ContentHash,
    index::{Generation, Row, RowState},
};

/// The path's last message in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Last {
    /// There is none.
    None,
    /// An event.
    Event(Kind, ContentHash, Version),
    /// One that is no event.
    Other(Version),
}

/// What is known of a path.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub row: Option<&'a Row>,
    pub generation: Generation,
    /// The path's event that is parked here for a permanent reason.
    pub parked: Option<Version>,
    pub last: Last,
    pub disk: OnDisk,
}

/// Why nothing is done. The same request may succeed later.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The log has an event that this node has not applied.
    #[error("the log has moved on: version {0} of this path is not applied on this node")]
    MovedOn(Version),
    /// A user's change, that is not in the log yet.
    #[error("the file on this node has changes that are not published yet")]
    Unpublished,
    /// There is something, and only something new is wanted.
    #[error("there is a file at this path")]
    Exists,
    /// This node has just lost the log, or is new, and knows the path from before.
    #[error("this node is still comparing its files with the log")]
    Comparing,
    /// Something that is never replaced.
    #[error("{0}")]
    InTheWay(&'static str),
    /// An ignore rule covers it.
    #[error("an ignore rule covers this path")]
    Ignored,
    /// Too many removals at once.
    #[error("many removals at once: more than 100 files and a tenth of all within a minute are not removed")]
    TooMany,
}

/// What an upload comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Put {
    /// It is in the log, and here.
    There(Version),
    /// It is the path's last event, and is to be brought to the disk.
    Place(Version),
    /// A user has put the same here: published as any file is.
    AsUsual,
    /// Publish it over this version, then place it.
    Publish(Version),
    Refused(Refusal),
}

/// What a removal comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Remove {
    /// The path is gone, by this event or without one.
    Gone(Option<Version>),
    /// It is removed in the log, and is to be taken off the disk.
    TakeOut(ContentHash, Version),
    /// A user has removed it here: published as any removal is.
    AsUsual,
    /// Publish the removal of this content over this version, then take it off the disk.
    Publish(ContentHash, Version),
    Refused(Refusal),
}

/// What stands at a path, to those who would replace it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Nothing,
    /// What the row says, or what it says is to be ignored.
    Known(ContentHash),
    /// A user's.
    Foreign(ContentHash),
}

impl<'a> Facts<'a> {
    /// The row, where it is of this generation.
    fn row(&self) -> Option<&'a Row> {
        self.row.filter(|row| row.generation == self.generation)
    }

    /// A row of an older life of the log is a fact about the disk that the log may not know yet.
    fn is_comparing(&self) -> bool {
        self.row.is_some_and(|row| row.generation != self.generation && row.state != RowState::Marked)
    }

    fn applied(&self) -> Version {
        self.row().map_or(Version::ZERO, |row| row.version)
    }

    fn standing(&self) -> Standing {
        let OnDisk::File(content, _) = self.disk else { return Standing::Nothing };
        match is_known(self.row(), content) {
            true => Standing::Known(content),
            false => Standing::Foreign(content),
        }
    }

    /// Whether this node has done with the path's last event, an addition.
    fn has_applied(&self, version: Version) -> bool {
        self.applied() == version || self.parked == Some(version)
    }
}

/// Whether content on the disk is what the index has there.
pub fn is_known(row: Option<&Row>, content: ContentHash) -> bool {
    row.is_some_and(|row| {
        row.lost != Some(content) && (row.content() == Some(content) || row.ignored == Some(content))
    })
}

/// Decides about an upload. `only_new`: nothing is to be replaced.
pub fn put(wanted: ContentHash, facts: Facts<'_>, only_new: bool) -> Put {
    let standing = facts.standing();
    let in_log = matches!(facts.last, Last::Event(Kind::Added, ..));
    if only_new && (in_log || standing != Standing::Nothing) {
        return Put::Refused(Refusal::Exists);
    }
    if facts.is_comparing() {
        return Put::Refused(Refusal::Comparing);
    }
    if let Last::Event(Kind::Added, content, version) = facts.last
        && content == wanted
    {
        return match standing {
            Standing::Known(here) if here == wanted && facts.applied() == version => Put::There(version),
            Standing::Foreign(here) | Standing::Known(here) if here == wanted => Put::AsUsual,
            Standing::Foreign(_) => Put::Refused(Refusal::Unpublished),
            Standing::Known(_) | Standing::Nothing => Put::Place(version),
        };
    }
    let over = match facts.last {
        Last::None if facts.applied() > Version::ZERO => return Put::Refused(Refusal::Comparing),
        Last::None => Version::ZERO,
        Last::Other(version) | Last::Event(Kind::Removed, _, version) => version,
        Last::Event(Kind::Added, _, version) if facts.has_applied(version) => version,
        Last::Event(Kind::Added, _, version) => return Put::Refused(Refusal::MovedOn(version)),
    };
    match standing {
        Standing::Foreign(here) if here == wanted => Put::AsUsual,
        Standing::Foreign(_) => Put::Refused(Refusal::Unpublished),
        Standing::Known(_) | Standing::Nothing => Put::Publish(over),
    }
}

/// Decides about a removal.
pub fn remove(facts: Facts<'_>) -> Remove {
    if facts.is_comparing() {
        return Remove::Refused(Refusal::Comparing);
    }
    let standing = facts.standing();
    // After a removal under `--removals ignore` it is to stay.
    let kept = |content| facts.row().is_some_and(|row| row.ignored == Some(content));
    match (facts.last, standing) {
        (_, Standing::Foreign(_)) => Remove::Refused(Refusal::Unpublished),
        (Last::None, _) if facts.applied() > Version::ZERO => Remove::Refused(Refusal::Comparing),
        (Last::None, _) => Remove::Gone(None),
        (Last::Event(Kind::Removed, _, version), Standing::Known(content)) if !kept(content) => {
            Remove::TakeOut(content, version)
        }
        (Last::Event(Kind::Removed, _, version), _) => Remove::Gone(Some(version)),
        (Last::Other(version), Standing::Known(content)) => Remove::Publish(content, version),
        (Last::Other(version), Standing::Nothing) => Remove::Gone(Some(version)),
        (Last::Event(Kind::Added, _, version), _) if !facts.has_applied(version) => {
            Remove::Refused(Refusal::MovedOn(version))
        }
        (Last::Event(Kind::Added, ..), Standing::Nothing) if facts.parked.is_none() => Remove::AsUsual,
        (Last::Event(Kind::Added, content, version), _) => Remove::Publish(content, version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::index::Stat;

    const NOW: Generation = Generation(2);

    fn hash(text: &str) -> ContentHash {
        ContentHash::of(text.as_bytes())
    }

    fn row(state: RowState, content: &str, version: u64) -> Row {
        Row {
            state,
            sha256: Some(hash(content)),
            size: 1,
            stat: None,
            racy: false,
            version: Version::new(version),
            replaced: Version::ZERO,
            generation: NOW,
            lost: None,
            rewritten: false,
            ignored: None,
        }
    }

    fn has(content: &str, version: u64) -> Option<Row> {
        Some(row(RowState::Present, content, version))
    }

    fn gone(content: &str, version: u64) -> Option<Row> {
        Some(row(RowState::Removed, content, version))
    }

    fn file(content: &str) -> OnDisk {
        OnDisk::File(hash(content), Stat { ino: 1, size: 1, mtime: 1, ctime: 1 })
    }

    fn added(content: &str, version: u64) -> Last {
        Last::Event(Kind::Added, hash(content), Version::new(version))
    }

    fn removed(content: &str, version: u64) -> Last {
        Last::Event(Kind::Removed, hash(content), Version::new(version))
    }

    fn facts(row: &Option<Row>, last: Last, disk: OnDisk) -> Facts<'_> {
        Facts { row: row.as_ref(), generation: NOW, parked: None, last, disk }
    }

    #[test]
    fn an_upload_stands_on_what_this_node_has_applied() {
        use OnDisk::Absent;
        let over = |version| Put::Publish(Version::new(version));
        let place = |version| Put::Place(Version::new(version));
        let moved_on = |version| Put::Refused(Refusal::MovedOn(Version::new(version)));
        let unpublished = Put::Refused(Refusal::Unpublished);
        let lost = Some(Row { lost: Some(hash("b")), ..row(RowState::Present, "a", 5) });
        let ignored = Some(Row { ignored: Some(hash("a")), ..row(RowState::Removed, "a", 6) });
        let older = Some(Row { generation: Generation(1), ..row(RowState::Present, "a", 5) });
        for (row, last, disk, expected) in [
            (None, Last::None, Absent, over(0)),
            (None, Last::Other(Version::new(3)), Absent, over(3)),
            (has("a", 5), added("a", 5), file("a"), over(5)),
            (has("a", 5), added("a", 5), Absent, over(5)),
            (gone("a", 6), removed("a", 6), Absent, over(6)),
            // The removal comes to this node later, and is older than ours then.
            (has("a", 5), removed("a", 6), file("a"), over(6)),
            (ignored, removed("a", 6), file("a"), over(6)),
            // Another node was faster.
            (has("a", 5), added("b", 6), file("a"), moved_on(6)),
            (None, added("b", 6), Absent, moved_on(6)),
            // What a user does here is published first.
            (has("a", 5), added("a", 5), file("b"), unpublished.clone()),
            (None, Last::None, file("b"), unpublished.clone()),
            (lost, added("a", 5), file("b"), unpublished.clone()),
            (None, Last::None, file("new"), Put::AsUsual),
            (has("a", 5), added("a", 5), file("new"), Put::AsUsual),
            // Repeats.
            (has("new", 7), added("new", 7), file("new"), Put::There(Version::new(7))),
            (has("new", 7), added("new", 7), Absent, place(7)),
            (has("new", 7), added("new", 7), file("b"), unpublished.clone()),
            (has("a", 5), added("new", 7), file("a"), place(7)),
            (None, added("new", 7), Absent, place(7)),
            (None, added("new", 7), file("new"), Put::AsUsual),
            (has("new", 5), added("new", 7), file("new"), Put::AsUsual),
            // A log that has lost what we know, or is another.
            (has("a", 5), Last::None, file("a"), Put::Refused(Refusal::Comparing)),
            (older, added("a", 1), file("a"), Put::Refused(Refusal::Comparing)),
        ] {
            assert_eq!(
                put(hash("new"), facts(&row, last, disk), false),
                expected,
                "{row:?} {last:?} {disk:?}"
            );
        }
        let parked = Facts { parked: Some(Version::new(6)), ..facts(&None, added("b", 6), Absent) };
        assert_eq!(put(hash("new"), parked, false), over(6));
    }

    #[test]
    fn only_what_is_new_may_be_asked_for() {
        use OnDisk::Absent;
        for (row, last, disk, exists) in [
            (None, Last::None, Absent, false),
            (gone("a", 6), removed("a", 6), Absent, false),
            (has("new", 7), added("new", 7), file("new"), true),
            (has("a", 5), added("a", 5), Absent, true),
            (None, Last::None, file("b"), true),
        ] {
            let put = put(hash("new"), facts(&row, last, disk), true);
            assert_eq!(put == Put::Refused(Refusal::Exists), exists, "{row:?} {last:?} {disk:?}");
        }
    }

    #[test]
    fn a_removal_takes_away_what_this_node_has_and_nothing_else() {
        use OnDisk::Absent;
        let publish = |content: &str, version| Remove::Publish(hash(content), Version::new(version));
        let no = Remove::Refused;
        let moved_on = |version| no(Refusal::MovedOn(Version::new(version)));
        let is_gone = |version| Remove::Gone(Some(Version::new(version)));
        let ignored = Some(Row { ignored: Some(hash("a")), ..row(RowState::Removed, "a", 6) });
        for (row, last, disk, expected) in [
            (None, Last::None, Absent, Remove::Gone(None)),
            (has("a", 5), added("a", 5), file("a"), publish("a", 5)),
            (has("a", 5), added("a", 5), Absent, Remove::AsUsual),
            (has("a", 5), added("a", 5), file("b"), no(Refusal::Unpublished)),
            (None, Last::None, file("b"), no(Refusal::Unpublished)),
            (has("a", 5), added("b", 6), file("a"), moved_on(6)),
            (None, added("b", 6), Absent, moved_on(6)),
            (gone("a", 6), removed("a", 6), Absent, is_gone(6)),
            (ignored, removed("a", 6), file("a"), is_gone(6)),
            (has("a", 5), removed("a", 6), file("a"), Remove::TakeOut(hash("a"), Version::new(6))),
            (has("a", 5), removed("a", 6), Absent, is_gone(6)),
            (has("a", 5), Last::Other(Version::new(6)), file("a"), publish("a", 6)),
            (has("a", 5), Last::None, file("a"), no(Refusal::Comparing)),
        ] {
            assert_eq!(remove(facts(&row, last, disk)), expected, "{row:?} {last:?} {disk:?}");
        }
        let parked = Facts { parked: Some(Version::new(6)), ..facts(&None, added("b", 6), Absent) };
        assert_eq!(remove(parked), publish("b", 6));
    }
}
