//! What an event comes to on this node: a plain decision on facts (rules 1, 2, 5, 6 and 10). No input or output, no clock.

use common::{
    event::{Event, Kind, StreamCreated, Version},
    hash::ContentHash,
    index::{Generation, PathState, Row, RowState, Stat},
    known::Known,
};

/// What stands at the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDisk {
    /// Nothing, or a folder.
    Absent,
    /// A regular file with this content.
    File(ContentHash, Stat),
}

/// Decided by the index alone, before the disk is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByIndex {
    /// Not newer than the row, or than what the watcher is about to publish on top: acknowledged, nothing done.
    Superseded,
    /// Answers a standing offer of this node: only the row is committed, with the offer's stat.
    AnswersOffer,
    /// The watcher is about to publish on top of just this event: only the row is committed, the disk is the user's.
    UnderOffer,
    /// Look at the disk.
    Look,
}

/// Decides by the index.
pub fn by_index(seen: &PathState, generation: Generation, event: &Event, version: Version) -> ByIndex {
    let row = seen.row.as_ref().filter(|row| row.generation == generation);
    if row.is_some_and(|row| version <= row.version) {
        return ByIndex::Superseded;
    }
    let Some(offer) = seen.offer.as_ref().filter(|offer| offer.generation == generation) else {
        return ByIndex::Look;
    };
    if (offer.kind, offer.sha256, offer.replaces) == (event.kind(), event.sha256, event.replaces) {
        return ByIndex::AnswersOffer;
    }
    match (offer.kind, event.kind()) {
        (Kind::Added, _) if offer.replaces > version => ByIndex::Superseded,
        (Kind::Added, Kind::Added) if offer.replaces == version => ByIndex::UnderOffer,
        _ => ByIndex::Look,
    }
}

/// Decided by index and disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// The same content stands there: the row is committed with its stat, mtime and mode are set.
    Adopt,
    /// A removal, and nothing is there: the row is committed.
    Gone,
    /// A removal, and what stands there is not what was removed, or was written again: the row is committed, the file left alone.
    LeaveAlone,
    /// A removal under `--removals ignore`: the row is committed and keeps the content that is not to be published.
    Ignore,
    /// Fetch and rename. `known`: what stands there, if anything, is an old version of ours; else it goes to the trash as a lost conflict.
    Place { known: bool },
    /// Take out of the tree. `known`: as an old version; else as a lost conflict, since the history that would tell is not complete.
    Remove { known: bool },
    /// Nothing: the watcher publishes what stands here over it.
    Leave,
}

/// What becomes of removed files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removals {
    /// They go to the trash.
    Trash,
    /// They go to the trash, and from there at once.
    Delete,
    /// They stay, and are not published again.
    Ignore,
}

/// What a decision rests on besides the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// The generation in force.
    pub generation: Generation,
    /// The path's row is of an older life of the log, and the event's `was` stands above it there (rule 10).
    pub above_row: bool,
    /// What becomes of removed files.
    pub removals: Removals,
    /// The event is the one that the path's row, of an older generation, had replaced.
    pub replaced_by_row: bool,
}

/// Whether a row of an older life of the log, named by its creation, lies below an event's `was`.
pub fn is_above_row(event: &Event, row: &Row, row_created: Option<&StreamCreated>) -> bool {
    event.was.as_ref().is_some_and(|was| Some(&was.0) == row_created && was.1 > row.version)
}

/// Whether an event is just the one that a row of an older generation, but of the same life of the log, had replaced, and the disk is as that row left it: the log
/// was rolled back, and the watcher publishes ours over it (rule 10). Not when the watcher has, and ours has lost: then another event has taken the place.
pub fn is_replaced_by_row(event: &Event, version: Version, row: &Row, same_life: bool, disk: OnDisk) -> bool {
    let as_left = match (row.state, disk) {
        (RowState::Present, OnDisk::File(content, _)) => {
            row.sha256 == Some(content)
                && row.lost != Some(content)
                && (event.added.is_none() || event.sha256 != content)
        }
        (RowState::Removed, OnDisk::Absent) => event.added.is_some(),
        _ => false,
    };
    same_life && row.replaced == version && as_left
}

/// Whether the log must be asked if the content on disk is known there: only when the index does not say so already.
pub fn must_ask_log(seen: &PathState, terms: Terms, event: &Event, disk: OnDisk) -> bool {
    match disk {
        OnDisk::Absent => false,
        OnDisk::File(content, _) => {
            let the_same = event.added.is_some() && content == event.sha256;
            !the_same && !known_to_index(seen, terms, content)
        }
    }
}

fn known_to_index(seen: &PathState, terms: Terms, content: ContentHash) -> bool {
    let row = seen.row.as_ref().filter(|row| row.content() == Some(content));
    row.is_some_and(|row| {
        row.lost != Some(content) && (row.generation == terms.generation || terms.above_row)
    })
}

/// Decides by index and disk. `known`: what the log's history before this event says of the content on disk.
pub fn plan(seen: &PathState, terms: Terms, event: &Event, disk: OnDisk, known: Known) -> Plan {
    let generation = terms.generation;
    if terms.replaced_by_row {
        return Plan::Leave;
    }
    let OnDisk::File(content, stat) = disk else {
        return if event.added.is_some() { Plan::Place { known: true } } else { Plan::Gone };
    };
    let offered = seen.offer.as_ref().is_some_and(|offer| {
        offer.generation == generation && offer.kind == Kind::Added && offer.sha256 == content
    });
    let unknowable = !offered && known == Known::Unknowable;
    let known = !offered && (known_to_index(seen, terms, content) || known == Known::Yes);
    if event.added.is_some() {
        return if content == event.sha256 { Plan::Adopt } else { Plan::Place { known } };
    }
    let written_again = seen.row.as_ref().filter(|row| row.sha256 == Some(content)).is_some_and(|row| {
        let other = |known: Stat| (known.ino, known.mtime, known.size) != (stat.ino, stat.mtime, stat.size);
        row.rewritten
            || row.generation == generation && row.state == RowState::Present && row.stat.is_none_or(other)
    });
    match terms.removals {
        _ if !known && !unknowable || written_again => Plan::LeaveAlone,
        Removals::Ignore => Plan::Ignore,
        Removals::Trash | Removals::Delete => Plan::Remove { known },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::{
        event::{Attributes, Was},
        index::Offer,
        time::Timestamp,
    };

    const NOW: Generation = Generation(1);

    fn hash(text: &str) -> ContentHash {
        ContentHash::of(text.as_bytes())
    }

    fn stat(mtime: i64) -> Stat {
        Stat { ino: 1, size: 1, mtime, ctime: mtime }
    }

    fn event(kind: Kind, content: &str, replaces: u64) -> Event {
        let t = Timestamp::from_nanos(0);
        Event {
            path: "a".parse().expect("a path"),
            sha256: hash(content),
            added: (kind == Kind::Added).then_some(Attributes { size: 1, mtime: t, mode: 0o644 }),
            node: "n".parse().expect("a name"),
            replaces: Version::new(replaces),
            detected: t,
            was: None,
        }
    }

    fn row(content: &str, version: u64, generation: u64) -> Row {
        Row {
            state: RowState::Present,
            sha256: Some(hash(content)),
            size: 1,
            stat: Some(stat(1)),
            racy: false,
            version: Version::new(version),
            replaced: Version::ZERO,
            generation: Generation(generation),
            lost: None,
            rewritten: false,
            ignored: None,
        }
    }

    fn seen(row: Option<Row>, offer: Option<(Kind, &str, u64)>) -> PathState {
        let offer = offer.map(|(kind, content, replaces)| Offer {
            kind,
            sha256: hash(content),
            size: 1,
            stat: None,
            racy: false,
            replaces: Version::new(replaces),
            was: None,
            generation: NOW,
        });
        PathState { row, offer, intent: None }
    }

    #[test]
    fn the_index_supersedes_and_offers_are_answered() {
        use Kind::*;
        for (row, offer, event, version, expected) in [
            (None, None, event(Added, "x", 0), 7, ByIndex::Look),
            (Some(row("a", 7, 1)), None, event(Added, "x", 0), 7, ByIndex::Superseded),
            (Some(row("a", 6, 1)), None, event(Added, "x", 0), 7, ByIndex::Look),
            (Some(row("a", 9, 0)), None, event(Added, "x", 0), 7, ByIndex::Look),
            (None, Some((Added, "x", 3)), event(Added, "x", 3), 7, ByIndex::AnswersOffer),
            (None, Some((Added, "x", 3)), event(Added, "x", 2), 7, ByIndex::Look),
            (None, Some((Added, "x", 8)), event(Added, "y", 2), 7, ByIndex::Superseded),
            (None, Some((Added, "x", 7)), event(Added, "y", 2), 7, ByIndex::UnderOffer),
            (None, Some((Added, "x", 7)), event(Removed, "y", 2), 7, ByIndex::Look),
            (None, Some((Removed, "x", 8)), event(Added, "y", 2), 7, ByIndex::Look),
        ] {
            assert_eq!(by_index(&seen(row, offer), NOW, &event, Version::new(version)), expected);
        }
    }

    const TERMS: Terms =
        Terms { generation: NOW, above_row: false, removals: Removals::Trash, replaced_by_row: false };

    fn decide(state: &PathState, event: &Event, disk: OnDisk, known: Known) -> Plan {
        plan(state, TERMS, event, disk, known)
    }

    fn file(content: &str) -> OnDisk {
        OnDisk::File(hash(content), stat(1))
    }

    #[test]
    fn an_addition_replaces_what_is_known_and_keeps_what_is_not() {
        let add = event(Kind::Added, "new", 0);
        let lost = Row { lost: Some(hash("a")), ..row("a", 3, 1) };
        for (state, disk, known, expected) in [
            (seen(None, None), OnDisk::Absent, Known::No, Plan::Place { known: true }),
            (seen(None, None), file("new"), Known::No, Plan::Adopt),
            (seen(Some(row("a", 3, 1)), None), file("a"), Known::No, Plan::Place { known: true }),
            (seen(Some(row("a", 3, 0)), None), file("a"), Known::No, Plan::Place { known: false }),
            (seen(Some(lost), None), file("a"), Known::No, Plan::Place { known: false }),
            (seen(None, None), file("user"), Known::No, Plan::Place { known: false }),
            (seen(None, None), file("user"), Known::Unknowable, Plan::Place { known: false }),
            (seen(None, None), file("old"), Known::Yes, Plan::Place { known: true }),
            (
                seen(None, Some((Kind::Added, "old", 1))),
                file("old"),
                Known::Yes,
                Plan::Place { known: false },
            ),
        ] {
            assert_eq!(decide(&state, &add, disk, known), expected, "{state:?} {disk:?}");
        }
    }

    #[test]
    fn the_row_of_an_older_life_is_replaced_by_what_was_above_it_there() {
        let life = |second| StreamCreated(Timestamp::from_nanos(second));
        let above =
            |was| Event { was: Some(Was(life(0), Version::new(was))), ..event(Kind::Added, "new", 0) };
        let row = row("a", 3, 0);
        let state = seen(Some(row.clone()), None);
        for (was, created, known) in [(4, 0, true), (2, 0, false), (4, 1, false)] {
            let above_row = is_above_row(&above(was), &row, Some(&life(created)));
            let decided = plan(&state, Terms { above_row, ..TERMS }, &above(was), file("a"), Known::No);
            assert_eq!(decided, Plan::Place { known });
        }
    }

    #[test]
    fn what_a_rolled_back_log_forgot_is_left_to_the_watcher() {
        let forgotten = |state| Row { state, replaced: Version::new(5), ..row("a", 7, 0) };
        let (present, removed) = (forgotten(RowState::Present), forgotten(RowState::Removed));
        let lost = Row { lost: Some(hash("a")), ..forgotten(RowState::Present) };
        let (add, same, remove) =
            (event(Kind::Added, "old", 0), event(Kind::Added, "a", 0), event(Kind::Removed, "a", 0));
        for (row, event, version, same_life, disk, expected) in [
            (&present, &add, 5, true, file("a"), true),
            (&present, &add, 5, false, file("a"), false),
            (&lost, &add, 5, true, file("a"), false),
            (&present, &add, 4, true, file("a"), false),
            (&present, &add, 5, true, file("user"), false),
            (&present, &add, 5, true, OnDisk::Absent, false),
            (&present, &same, 5, true, file("a"), false),
            (&present, &remove, 5, true, file("a"), true),
            (&removed, &add, 5, true, OnDisk::Absent, true),
            (&removed, &add, 5, true, file("a"), false),
            (&removed, &remove, 5, true, OnDisk::Absent, false),
        ] {
            let found = is_replaced_by_row(event, Version::new(version), row, same_life, disk);
            assert_eq!(found, expected, "{row:?} {event:?} {version} {disk:?}");
        }
        let terms = Terms { replaced_by_row: true, ..TERMS };
        assert_eq!(plan(&seen(Some(present), None), terms, &add, file("a"), Known::No), Plan::Leave);
    }

    #[test]
    fn a_removal_takes_only_what_it_names_or_the_log_knows() {
        let remove = event(Kind::Removed, "a", 3);
        let rewritten = Row { rewritten: true, ..row("a", 3, 1) };
        let touched = Row { stat: Some(stat(9)), ..row("a", 3, 1) };
        for (state, disk, known, expected) in [
            (seen(None, None), OnDisk::Absent, Known::No, Plan::Gone),
            (seen(Some(row("a", 3, 1)), None), file("a"), Known::No, Plan::Remove { known: true }),
            (seen(None, None), file("a"), Known::Yes, Plan::Remove { known: true }),
            (seen(None, None), file("old"), Known::Unknowable, Plan::Remove { known: false }),
            (seen(None, None), file("user"), Known::No, Plan::LeaveAlone),
            (seen(Some(rewritten), None), file("a"), Known::No, Plan::LeaveAlone),
            (seen(Some(touched), None), file("a"), Known::No, Plan::LeaveAlone),
            (seen(None, Some((Kind::Added, "a", 1))), file("a"), Known::Yes, Plan::LeaveAlone),
        ] {
            assert_eq!(decide(&state, &remove, disk, known), expected, "{state:?} {disk:?}");
        }
        let state = seen(Some(row("a", 3, 1)), None);
        let ignore = Terms { removals: Removals::Ignore, ..TERMS };
        assert_eq!(plan(&state, ignore, &remove, file("a"), Known::No), Plan::Ignore);
    }
}
