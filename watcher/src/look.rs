//! What the watcher does about a path: plain decisions on facts (rules 2, 6, 7, 8 and 10). No input or output, no clock.

use common::{
    event::{Kind, StreamCreated, Version, Was},
    hash::ContentHash,
    index::{Generation, Offer, PathState, Row, RowState, Stat},
    known::Known,
};

/// What stands at the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDisk {
    /// Proven absent.
    Absent,
    /// A regular file with this content.
    File(ContentHash, Stat),
}

impl OnDisk {
    fn content(self) -> Option<ContentHash> {
        match self {
            Self::Absent => None,
            Self::File(content, _) => Some(content),
        }
    }
}

/// What can be decided without asking the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The index knows it already.
    Nothing,
    /// The row's content under another stat: the row takes the stat. `rewritten`: a user wrote the same bytes again.
    Refresh { rewritten: bool },
    /// Publish.
    Offer { kind: Kind, sha256: ContentHash, replaces: Version },
    /// No row of this generation, or what stands here has lost: what the log says of the path decides.
    AskLog,
}

/// Decides by the index. `parked`: the path's event that is parked here for a permanent reason.
pub fn decide(
    seen: &PathState,
    generation: Generation,
    fresh: bool,
    parked: Option<Version>,
    disk: OnDisk,
) -> Decision {
    let row = seen.row.as_ref();
    let over = |version: Version| parked.map_or(version, |parked| version.max(parked));
    let Some(row) = row.filter(|row| row.generation == generation) else {
        return match (row, disk) {
            (None, OnDisk::Absent) if !fresh => Decision::Nothing,
            (None, OnDisk::File(sha256, _)) if !fresh => {
                Decision::Offer { kind: Kind::Added, sha256, replaces: over(Version::ZERO) }
            }
            _ => Decision::AskLog,
        };
    };
    match disk {
        OnDisk::Absent => match row.content().filter(|_| row.lost.is_none()) {
            Some(sha256) => Decision::Offer { kind: Kind::Removed, sha256, replaces: over(row.version) },
            None => Decision::Nothing,
        },
        OnDisk::File(sha256, stat) if row.content() == Some(sha256) => {
            let written = |known: Stat| (known.ino, known.mtime) != (stat.ino, stat.mtime);
            match row.stat {
                Some(known) if known == stat && !row.racy => Decision::Nothing,
                known => Decision::Refresh { rewritten: known.is_none_or(written) },
            }
        }
        OnDisk::File(sha256, _) if row.ignored == Some(sha256) => Decision::Nothing,
        // What won may be gone from a log that was rolled back.
        OnDisk::File(sha256, _) if row.lost == Some(sha256) => Decision::AskLog,
        OnDisk::File(sha256, _) => Decision::Offer { kind: Kind::Added, sha256, replaces: over(row.version) },
    }
}

/// The path's last event, as far as it matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Last {
    pub kind: Kind,
    pub sha256: ContentHash,
    pub version: Version,
    pub was: Option<Was>,
}

/// What a look at the log decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// The log wins, or says the same.
    Nothing,
    /// The log's last event is what stands here.
    Adopt,
    /// Publish.
    Offer { kind: Kind, sha256: ContentHash, replaces: Version, was: Option<Was> },
    /// Another node's content stands; ours is kept until the replicator moves it out.
    MarkLost(ContentHash),
}

/// What [`ask`] rests on besides the path.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The life of the log in force.
    pub created: &'a StreamCreated,
    /// The life of the log that the row is from.
    pub row_created: Option<&'a StreamCreated>,
    /// The root was restored with this generation: nothing is published on top of its rows.
    pub restored: bool,
    /// What the log's history says of the content on disk.
    pub known: Known,
    /// The file is later than what the last event added, and the later one is to win where no row tells who has seen what (`scan --prefer newest`).
    pub newer: bool,
}

/// Decides without a row of this generation (rules 7 and 10), or with one whose content has lost.
pub fn ask(row: Option<&Row>, disk: OnDisk, last: Option<&Last>, terms: Terms<'_>) -> Asked {
    let row = row.filter(|row| row.state != RowState::Marked);
    // The disk is as the row of the older life left it.
    let same = row.filter(|row| match row.state {
        RowState::Present => row.sha256 == disk.content(),
        _ => disk == OnDisk::Absent,
    });
    let was = same.zip(terms.row_created).map(|(row, created)| Was(created.clone(), row.version));
    let kind = if disk == OnDisk::Absent { Kind::Removed } else { Kind::Added };
    let publish_row = |row: &Row, replaces| match row.sha256 {
        Some(sha256) => Asked::Offer { kind, sha256, replaces, was: was.clone() },
        None => Asked::Nothing,
    };
    let Some(last) = last else {
        return match (disk, same) {
            // The path's last message is no event; before it the path had just this.
            (OnDisk::File(..), _) if terms.known.is_old() => Asked::Nothing,
            (OnDisk::File(sha256, _), _) => Asked::Offer { kind, sha256, replaces: Version::ZERO, was },
            (OnDisk::Absent, Some(row)) => publish_row(row, Version::ZERO),
            (OnDisk::Absent, None) => Asked::Nothing,
        };
    };
    match (last.kind, disk) {
        (Kind::Added, OnDisk::File(sha256, _)) if sha256 == last.sha256 => return Asked::Adopt,
        (Kind::Removed, OnDisk::Absent) => return Asked::Nothing,
        _ => {}
    }
    let has_lost = |row: &Row| row.lost.is_some() && row.lost == disk.content();
    if row.is_some_and(|row| has_lost(row) && last.version > row.version) {
        return Asked::Nothing;
    }
    if let Some(row) = same {
        let higher = match (&was, &last.was) {
            (Some(ours), Some(theirs)) => ours.0 == theirs.0 && ours.1 > theirs.1,
            _ => false,
        };
        let replaced_it = terms.row_created == Some(terms.created) && row.replaced == last.version;
        if higher || replaced_it {
            return publish_row(row, last.version);
        }
        return Asked::Nothing; // Unchanged content is never published over another.
    }
    let OnDisk::File(sha256, _) = disk else { return Asked::Nothing };
    if terms.newer && row.is_none() && last.kind == Kind::Added {
        return Asked::Offer { kind, sha256, replaces: last.version, was: None };
    }
    if terms.known.is_old() {
        return Asked::Nothing;
    }
    let on_our_base = row.and_then(Row::content) == Some(last.sha256) && !terms.restored;
    match last.kind {
        Kind::Removed => Asked::Offer { kind, sha256, replaces: last.version, was: None },
        Kind::Added if on_our_base => Asked::Offer { kind, sha256, replaces: last.version, was: None },
        Kind::Added if row.is_some() => Asked::MarkLost(sha256),
        Kind::Added => Asked::Nothing, // The replicator finds it when it places theirs.
    }
}

/// What a refused publish comes to (rule 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Look at the path again.
    LookAgain,
    /// Our event was a removal, and the path has a newer one: nothing is left to remove.
    Dropped,
    /// The log ends below what this index knows (rule 9).
    Unexplained,
    /// The same content is there: the row is committed at that event.
    Same,
    /// Theirs stands; ours is marked.
    MarkLost,
    /// The path was removed: ours is published over it, unless it is old content that nobody wrote again.
    OverRemoval,
}

/// Decides by hash after a refusal. `row`: of this generation.
pub fn refused(offer: &Offer, last: Option<&Last>, row: Option<&Row>) -> Refused {
    let known = row.map_or(Version::ZERO, |row| row.version);
    match last {
        None if known > Version::ZERO || offer.replaces > Version::ZERO => Refused::Unexplained,
        None => Refused::LookAgain,
        Some(last) if last.version < known => Refused::Unexplained,
        Some(last) if last.version == known => Refused::LookAgain,
        Some(_) if offer.kind == Kind::Removed => Refused::Dropped,
        Some(last) => match last.kind {
            Kind::Added if last.sha256 == offer.sha256 => Refused::Same,
            Kind::Added => Refused::MarkLost,
            Kind::Removed => Refused::OverRemoval,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::time::Timestamp;

    fn hash(text: &str) -> ContentHash {
        ContentHash::of(text.as_bytes())
    }

    fn stat(mtime: i64) -> Stat {
        Stat { ino: 1, size: 1, mtime, ctime: mtime }
    }

    fn row(state: RowState, content: &str, version: u64, generation: u64) -> Row {
        Row {
            state,
            sha256: Some(hash(content)),
            size: 1,
            stat: Some(stat(1)),
            racy: false,
            version: Version::new(version),
            replaced: Version::new(2),
            generation: Generation(generation),
            lost: None,
            rewritten: false,
            ignored: None,
        }
    }

    fn file(content: &str, mtime: i64) -> OnDisk {
        OnDisk::File(hash(content), stat(mtime))
    }

    fn offer(kind: Kind, content: &str, replaces: u64) -> Decision {
        Decision::Offer { kind, sha256: hash(content), replaces: Version::new(replaces) }
    }

    #[test]
    fn the_index_decides_what_it_knows() {
        use RowState::*;
        let lost = Row { lost: Some(hash("b")), ..row(Present, "a", 5, 1) };
        let no_stat = Row { stat: None, ..row(Present, "a", 5, 1) };
        let racy = Row { racy: true, ..row(Present, "a", 5, 1) };
        for (row, fresh, parked, disk, expected) in [
            (None, false, None, file("a", 1), offer(Kind::Added, "a", 0)),
            (None, false, Some(9), file("a", 1), offer(Kind::Added, "a", 9)),
            (None, true, None, file("a", 1), Decision::AskLog),
            (None, false, None, OnDisk::Absent, Decision::Nothing),
            (Some(row(Present, "a", 5, 0)), false, None, file("a", 1), Decision::AskLog),
            (Some(row(Present, "a", 5, 1)), false, None, file("a", 1), Decision::Nothing),
            (Some(row(Present, "a", 5, 1)), false, None, file("a", 2), Decision::Refresh { rewritten: true }),
            (Some(racy), false, None, file("a", 1), Decision::Refresh { rewritten: false }),
            (Some(no_stat), false, None, file("a", 1), Decision::Refresh { rewritten: true }),
            (Some(row(Present, "a", 5, 1)), false, None, file("b", 2), offer(Kind::Added, "b", 5)),
            (Some(row(Present, "a", 5, 1)), false, None, OnDisk::Absent, offer(Kind::Removed, "a", 5)),
            (Some(row(Removed, "a", 5, 1)), false, None, OnDisk::Absent, Decision::Nothing),
            (Some(row(Removed, "a", 5, 1)), false, None, file("a", 1), offer(Kind::Added, "a", 5)),
            (Some(lost.clone()), false, None, OnDisk::Absent, Decision::Nothing),
            (Some(lost.clone()), false, None, file("b", 2), Decision::AskLog),
            (Some(lost), false, None, file("c", 2), offer(Kind::Added, "c", 5)),
        ] {
            let seen = PathState { row: row.clone(), ..PathState::default() };
            let decision = decide(&seen, Generation(1), fresh, parked.map(Version::new), disk);
            assert_eq!(decision, expected, "{row:?} {disk:?}");
        }
    }

    #[test]
    fn a_chmod_is_no_rewrite() {
        let seen = PathState { row: Some(row(RowState::Present, "a", 5, 1)), ..PathState::default() };
        let disk = OnDisk::File(hash("a"), Stat { ctime: 99, ..stat(1) });
        assert_eq!(decide(&seen, Generation(1), false, None, disk), Decision::Refresh { rewritten: false });
    }

    fn life(second: i128) -> StreamCreated {
        StreamCreated(Timestamp::from_nanos(second * 1_000_000_000))
    }

    fn last(kind: Kind, content: &str, version: u64) -> Last {
        Last { kind, sha256: hash(content), version: Version::new(version), was: None }
    }

    #[test]
    fn without_a_row_of_this_generation_the_log_wins_unless_the_content_is_news() {
        use Kind::*;
        let publish = |kind, content: &str, replaces, was: Option<u64>| Asked::Offer {
            kind,
            sha256: hash(content),
            replaces: Version::new(replaces),
            was: was.map(|at| Was(life(1), Version::new(at))),
        };
        let present = Some(row(RowState::Present, "a", 5, 0));
        let removed = Some(row(RowState::Removed, "a", 5, 0));
        for (row, disk, last, known, expected) in [
            (None, file("a", 1), None, Known::No, publish(Added, "a", 0, None)),
            (None, OnDisk::Absent, None, Known::No, Asked::Nothing),
            (None, file("a", 1), None, Known::Yes, Asked::Nothing),
            (present.clone(), file("a", 1), None, Known::Yes, Asked::Nothing),
            (present.clone(), file("a", 1), None, Known::No, publish(Added, "a", 0, Some(5))),
            (removed.clone(), OnDisk::Absent, None, Known::No, publish(Removed, "a", 0, Some(5))),
            (None, file("a", 1), Some(last(Added, "a", 3)), Known::Yes, Asked::Adopt),
            (None, file("b", 1), Some(last(Added, "a", 3)), Known::No, Asked::Nothing),
            (None, file("b", 1), Some(last(Removed, "a", 3)), Known::No, publish(Added, "b", 3, None)),
            (None, file("b", 1), Some(last(Removed, "a", 3)), Known::Yes, Asked::Nothing),
            (None, file("b", 1), Some(last(Removed, "a", 3)), Known::Unknowable, Asked::Nothing),
            (
                present.clone(),
                file("b", 2),
                Some(last(Added, "a", 3)),
                Known::No,
                publish(Added, "b", 3, None),
            ),
            (present.clone(), file("b", 2), Some(last(Added, "c", 3)), Known::No, Asked::MarkLost(hash("b"))),
            // Unchanged content is never published over another, except where it replaced just that event.
            (present.clone(), file("a", 1), Some(last(Added, "c", 3)), Known::No, Asked::Nothing),
            (
                present.clone(),
                file("a", 1),
                Some(last(Added, "c", 2)),
                Known::No,
                publish(Added, "a", 2, Some(5)),
            ),
            (
                removed,
                OnDisk::Absent,
                Some(last(Added, "a", 2)),
                Known::No,
                publish(Removed, "a", 2, Some(5)),
            ),
            (
                present.clone(),
                file("a", 1),
                Some(last(Removed, "a", 2)),
                Known::Yes,
                publish(Added, "a", 2, Some(5)),
            ),
            (present, OnDisk::Absent, Some(last(Added, "a", 3)), Known::No, Asked::Nothing),
        ] {
            let created = life(1);
            let terms = Terms {
                created: &created,
                row_created: Some(&created),
                restored: false,
                known,
                newer: false,
            };
            assert_eq!(ask(row.as_ref(), disk, last.as_ref(), terms), expected, "{row:?} {disk:?} {last:?}");
        }
    }

    #[test]
    fn where_the_newest_is_preferred_only_a_file_without_a_row_goes_over_the_log() {
        use Kind::*;
        let created = life(1);
        let publish = |content: &str, replaces| Asked::Offer {
            kind: Added,
            sha256: hash(content),
            replaces: Version::new(replaces),
            was: None,
        };
        let present = Some(row(RowState::Present, "a", 5, 0));
        for (row, disk, last, known, expected) in [
            (None, file("b", 1), last(Added, "a", 3), Known::No, publish("b", 3)),
            (None, file("b", 1), last(Added, "a", 3), Known::Yes, publish("b", 3)),
            (None, file("a", 1), last(Added, "a", 3), Known::Yes, Asked::Adopt),
            (None, file("b", 1), last(Removed, "b", 3), Known::Yes, Asked::Nothing),
            (present.clone(), file("b", 2), last(Added, "c", 3), Known::No, Asked::MarkLost(hash("b"))),
            (present, file("a", 1), last(Added, "c", 3), Known::No, Asked::Nothing),
        ] {
            let terms =
                Terms { created: &created, row_created: Some(&created), restored: false, known, newer: true };
            assert_eq!(ask(row.as_ref(), disk, Some(&last), terms), expected, "{row:?} {disk:?} {last:?}");
        }
    }

    #[test]
    fn the_higher_was_of_one_life_wins() {
        let (old, new) = (life(1), life(2));
        let row = row(RowState::Present, "a", 5, 0);
        let terms =
            Terms { created: &new, row_created: Some(&old), restored: false, known: Known::No, newer: false };
        let over = |was: Was| Last { was: Some(was), ..last(Kind::Added, "b", 8) };
        let asked = |was| ask(Some(&row), file("a", 1), Some(&over(was)), terms);
        assert!(
            matches!(asked(Was(old.clone(), Version::new(4))), Asked::Offer { replaces, .. } if replaces == Version::new(8))
        );
        assert_eq!(asked(Was(old.clone(), Version::new(6))), Asked::Nothing);
        assert_eq!(asked(Was(new.clone(), Version::new(4))), Asked::Nothing);
    }

    #[test]
    fn what_has_lost_is_published_when_what_won_is_gone_from_the_log() {
        let created = life(1);
        let lost = Row { lost: Some(hash("b")), ..row(RowState::Present, "a", 5, 1) };
        let terms = Terms {
            created: &created,
            row_created: Some(&created),
            restored: false,
            known: Known::No,
            newer: false,
        };
        let asked = |last| ask(Some(&lost), file("b", 2), Some(&last), terms);
        assert_eq!(asked(last(Kind::Added, "c", 6)), Asked::Nothing);
        assert_eq!(asked(last(Kind::Removed, "c", 6)), Asked::Nothing);
        let over =
            Asked::Offer { kind: Kind::Added, sha256: hash("b"), replaces: Version::new(5), was: None };
        assert_eq!(asked(last(Kind::Added, "a", 5)), over);
    }

    #[test]
    fn nothing_is_published_on_top_of_the_rows_of_a_restored_root() {
        let created = life(1);
        let row = row(RowState::Present, "a", 5, 0);
        let terms = Terms {
            created: &created,
            row_created: Some(&created),
            restored: true,
            known: Known::No,
            newer: false,
        };
        let asked = ask(Some(&row), file("b", 2), Some(&last(Kind::Added, "a", 3)), terms);
        assert_eq!(asked, Asked::MarkLost(hash("b")));
    }

    #[test]
    fn a_refusal_is_decided_by_hash() {
        use Kind::*;
        let offer = |kind| Offer {
            kind,
            sha256: hash("a"),
            size: 1,
            stat: None,
            racy: false,
            replaces: Version::new(5),
            was: None,
            generation: Generation(1),
        };
        let row = row(RowState::Present, "x", 5, 1);
        for (kind, last, expected) in [
            (Added, Some(last(Added, "a", 6)), Refused::Same),
            (Added, Some(last(Added, "b", 6)), Refused::MarkLost),
            (Added, Some(last(Removed, "b", 6)), Refused::OverRemoval),
            (Removed, Some(last(Added, "b", 6)), Refused::Dropped),
            (Added, Some(last(Added, "b", 5)), Refused::LookAgain),
            (Added, Some(last(Added, "b", 4)), Refused::Unexplained),
            (Added, None, Refused::Unexplained),
        ] {
            assert_eq!(refused(&offer(kind), last.as_ref(), Some(&row)), expected, "{kind:?} {last:?}");
        }
    }
}
