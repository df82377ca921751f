#![allow(clippy::unwrap_used)]
use super::*;
use crate::{
    event::{EventId, Kind, StreamCreated, Version},
    hash::ContentHash,
    path::MediaPath,
    time::Timestamp,
};

fn open() -> (tempfile::TempDir, Index) {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("index.db")).unwrap();
    (dir, index)
}

fn path(text: &str) -> MediaPath {
    text.parse().unwrap()
}

fn commit(at: &str, version: u64, kind: Kind, generation: u64) -> Commit {
    Commit {
        path: path(at),
        kind,
        sha256: ContentHash::of(&version.to_le_bytes()),
        size: 10,
        stat: Some(Stat { ino: 7, size: 10, mtime: 1, ctime: 2 }),
        racy: false,
        version: Version::new(version),
        replaced: Version::ZERO,
        subject: format!("mirror.media.{at}"),
        event: EventId::from_hash(ContentHash::of_nothing()),
        generation: Generation(generation),
    }
}

async fn apply(index: &Index, commit: Commit) -> bool {
    index.write(move |tx| tx.commit(&commit)).await.unwrap()
}

fn life(second: i128) -> StreamCreated {
    StreamCreated(Timestamp::from_nanos(second * 1_000_000_000))
}

#[tokio::test]
async fn a_commit_survives_reopening_and_an_older_event_never_replaces_a_newer() {
    let (dir, index) = open();
    assert!(apply(&index, commit("a/b", 5, Kind::Added, 0)).await);
    assert!(!apply(&index, commit("a/b", 4, Kind::Removed, 0)).await);
    drop(index);
    let index = Index::open(&dir.path().join("index.db")).unwrap();
    let row = index.path_state(&path("a/b")).unwrap().row.unwrap();
    assert_eq!((row.state, row.version, row.stat.unwrap().ino), (RowState::Present, Version::new(5), 7));
    assert_eq!(index.node().unwrap().top.unwrap().version, Version::new(5));
}

#[tokio::test]
async fn the_row_of_a_removed_path_stays_and_leaves_the_digest() {
    let (_dir, index) = open();
    apply(&index, commit("a", 1, Kind::Added, 0)).await;
    assert_eq!(index.node().unwrap().files, 1);
    apply(&index, commit("a", 2, Kind::Removed, 0)).await;
    let node = index.node().unwrap();
    assert_eq!((node.files, node.bytes, node.digest), (0, 0, Digest::default()));
    assert_eq!(index.path_state(&path("a")).unwrap().row.unwrap().state, RowState::Removed);
}

#[tokio::test]
async fn a_new_generation_drops_offers_and_parked_events_and_keeps_rows_as_facts() {
    let (_dir, index) = open();
    index.write(|tx| tx.begin_generation(&life(1), "a test")).await.unwrap();
    apply(&index, commit("a", 9, Kind::Added, 1)).await;
    let offer = Offer {
        kind: Kind::Added,
        sha256: ContentHash::of_nothing(),
        size: 0,
        stat: None,
        racy: false,
        replaces: Version::new(9),
        was: None,
        generation: Generation(1),
    };
    let seen = index.path_state(&path("a")).unwrap();
    assert!(index.write(move |tx| tx.offer(&path("a"), &seen, &offer)).await.unwrap());
    index.write(|tx| tx.begin_generation(&life(2), "a test")).await.unwrap();

    let node = index.node().unwrap();
    assert_eq!((node.generation, node.version, node.created), (Generation(2), Version::ZERO, Some(life(2))));
    assert!(node.fresh && !node.log_read && node.top.is_none());
    let state = index.path_state(&path("a")).unwrap();
    assert!(state.offer.is_none());
    assert_eq!(state.row.unwrap().generation, Generation(1));
    assert_eq!(index.created(Generation(1)).unwrap(), Some(life(1)));

    // Version 2 of the new life is below 9 of the old one, and applies all the same; the old one does not any more.
    assert!(apply(&index, commit("a", 2, Kind::Added, 2)).await);
    assert!(!apply(&index, commit("a", 99, Kind::Added, 1)).await);
    assert_eq!(index.node().unwrap().files, 1);
}

#[tokio::test]
async fn an_offer_is_refused_when_the_path_changed_since_it_was_looked_at() {
    let (_dir, index) = open();
    let seen = index.path_state(&path("a")).unwrap();
    apply(&index, commit("a", 1, Kind::Added, 0)).await;
    let offer = offer_over(0);
    assert!(!index.write(move |tx| tx.offer(&path("a"), &seen, &offer)).await.unwrap());
}

fn offer_over(version: u64) -> Offer {
    Offer {
        kind: Kind::Added,
        sha256: commit("a", 2, Kind::Added, 0).sha256,
        size: 0,
        stat: None,
        racy: false,
        replaces: Version::new(version),
        was: None,
        generation: Generation(0),
    }
}

#[tokio::test]
async fn an_offer_that_turns_out_to_be_in_the_log_is_committed_unless_another_event_was_placed_meanwhile() {
    for placed in [false, true] {
        let (_dir, index) = open();
        let (seen, offer) = (index.path_state(&path("a")).unwrap(), offer_over(0));
        let ours = offer.clone();
        assert!(index.write(move |tx| tx.offer(&path("a"), &seen, &ours)).await.unwrap());
        if placed {
            apply(&index, commit("a", 1, Kind::Added, 0)).await;
        }
        let settled = index.write(move |tx| tx.settle(&offer, &commit("a", 2, Kind::Added, 0)));
        assert_eq!(settled.await.unwrap(), !placed);
        let now = index.path_state(&path("a")).unwrap();
        assert_eq!(now.offer, None);
        assert_eq!(now.row.unwrap().version, Version::new(if placed { 1 } else { 2 }));
    }
}

#[tokio::test]
async fn a_job_that_fails_leaves_nothing_and_does_not_hurt_its_group() {
    let (_dir, index) = open();
    let bad = index.write(|tx| {
        tx.commit(&commit("bad", 1, Kind::Added, 0))?;
        Err::<(), _>(IndexError::Closed)
    });
    let good = apply(&index, commit("good", 2, Kind::Added, 0));
    let (bad, good) = tokio::join!(bad, good);
    assert!(bad.is_err() && good);
    assert!(index.path_state(&path("bad")).unwrap().row.is_none());
    let node = index.node().unwrap();
    assert_eq!((node.files, node.top.unwrap().version), (1, Version::new(2)));
}

#[tokio::test]
async fn a_newer_row_drops_the_parked_event_it_covers() {
    let (_dir, index) = open();
    let parked = |version: u64| Parked {
        subject: "mirror.media.a".into(),
        path: Some(path("a")),
        version: Version::new(version),
        stamp: Timestamp::from_nanos(5),
        payload: b"{}".to_vec(),
        reason: "because".into(),
        permanent: true,
        since: Timestamp::from_nanos(6),
        tries: 3,
        next_try: Timestamp::from_nanos(7),
    };
    let event = EventId::from_hash(ContentHash::of_nothing());
    index.write(move |tx| tx.park(&parked(3), event)).await.unwrap();
    // A log that has another event there one day is not to be trusted.
    assert_eq!(index.node().unwrap().top.map(|top| (top.version, top.event)), Some((Version::new(3), event)));
    assert_eq!(index.parked_of(&path("a")).unwrap(), Some(parked(3)));
    apply(&index, commit("a", 2, Kind::Added, 0)).await;
    assert_eq!(index.parked_count().unwrap(), 1);
    apply(&index, commit("a", 4, Kind::Added, 0)).await;
    assert_eq!(index.parked_count().unwrap(), 0);
    // One that is read again after that is old news.
    assert!(!index.write(move |tx| tx.park(&parked(3), event)).await.unwrap());
    assert_eq!(index.parked_count().unwrap(), 0);
}

#[tokio::test]
async fn the_cursor_gives_the_rows_below_a_folder_in_byte_order() {
    let (_dir, index) = open();
    for (version, at) in ["b", "a", "a.txt", "a/c", "a/b/x", "a0"].iter().enumerate() {
        apply(&index, commit(at, version as u64 + 1, Kind::Added, 0)).await;
    }
    let all = |mut cursor: PathCursor| {
        let mut paths = Vec::new();
        while let Some((path, _)) = cursor.next_row().unwrap() {
            paths.push(path.to_string());
        }
        paths
    };
    assert_eq!(all(index.rows_in_order().unwrap()), ["a", "a.txt", "a/b/x", "a/c", "a0", "b"]);
    assert_eq!(all(index.rows_in_order().unwrap().below(b"a")), ["a/b/x", "a/c"]);
}

#[tokio::test]
async fn a_schema_of_a_newer_build_is_refused_and_not_touched() {
    let (dir, index) = open();
    drop(index);
    let file = dir.path().join("index.db");
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Index::open(&file), Err(IndexError::Newer { found: 99, .. })));
}

#[tokio::test]
async fn an_index_of_an_older_build_is_brought_up_to_this_one_with_what_it_knows() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index.db");
    let old = rusqlite::Connection::open(&file).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    let node = NodeState { version: Version::new(7), ..NodeState::default() };
    codec::write_node(&old, &node).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);
    let index = Index::open(&file).unwrap();
    assert_eq!(index.node().unwrap(), node);
    index.write(|tx| tx.record_changes(true)).await.unwrap();
    assert!(apply(&index, commit("a", 8, Kind::Added, 0)).await);
    assert_eq!(index.changes_count().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_handles_write_side_by_side_and_the_digest_stays_right() {
    let (dir, one) = open();
    let two = Index::open(&dir.path().join("index.db")).unwrap();
    let tasks = (0..200u64).map(|n| {
        let index = if n % 2 == 0 { one.clone() } else { two.clone() };
        tokio::spawn(async move { apply(&index, commit(&format!("f{n}"), n + 1, Kind::Added, 0)).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        assert!(task.await.unwrap());
    }
    let mut expected = Digest::default();
    (0..200u64).for_each(|n| expected.add(&path(&format!("f{n}")), ContentHash::of(&(n + 1).to_le_bytes())));
    assert_eq!(one.node().unwrap().digest, expected);
}

#[tokio::test]
async fn a_note_of_the_outbox_outlives_a_look_that_began_before_it() {
    let (_dir, index) = open();
    let at = |nanos| Timestamp::from_nanos(nanos);
    let note = |name: &str, since, finished| Asked { path: path(name), since: at(since), finished };
    let first = vec![note("a", 10, false), note("b", 10, true)];
    index.write(move |tx| tx.note(&first)).await.unwrap();
    // Noted again and no more said: as it was. A close says more.
    let again = vec![note("b", 20, false), note("c", 20, false)];
    index.write(move |tx| tx.note(&again)).await.unwrap();
    let known = index.outbox(None, 10).unwrap();
    assert_eq!(known, [note("a", 10, false), note("b", 10, true), note("c", 20, false)]);
    let closed = vec![note("a", 5, true)];
    index.write(move |tx| tx.note(&closed)).await.unwrap();
    assert_eq!(index.outbox(None, 1).unwrap(), [note("a", 11, true)]);

    index.write(|tx| tx.ask_watcher(&path("c"))).await.unwrap();
    let looked_at = known.into_iter().map(|asked| (asked.path, asked.since)).collect::<Vec<_>>();
    index.write(move |tx| tx.leave_outbox(&looked_at)).await.unwrap();
    let left: Vec<_> = index.outbox(None, 10).unwrap().into_iter().map(|asked| asked.path).collect();
    assert_eq!((left, index.outbox_count().unwrap()), (vec![path("a"), path("c")], 2));
    assert_eq!(index.outbox(Some(&path("a")), 10).unwrap()[0].path, path("c"));
    // Rules 9 and 10: another life of the log does not make what happened here unseen.
    index.write(|tx| tx.begin_generation(&life(1), "another")).await.unwrap();
    assert_eq!(index.outbox_count().unwrap(), 2);
}

#[tokio::test]
async fn coverage_is_what_was_said_last() {
    let (_dir, index) = open();
    assert_eq!(index.coverage().unwrap(), None);
    for watched in [3, 4] {
        index.write(move |tx| tx.set_coverage(Coverage { folders: 4, watched })).await.unwrap();
    }
    assert_eq!(index.coverage().unwrap(), Some(Coverage { folders: 4, watched: 4 }));
}

#[tokio::test]
async fn what_is_held_is_answered_for_each_kind_and_a_commit_releases_a_replacement() {
    let (_dir, index) = open();
    let (removed, replaced, both) = (path("removed"), path("replaced"), path("both"));
    let hold = |kind, paths: Vec<MediaPath>| index.write(move |tx| tx.hold(&paths, kind));
    hold(HeldKind::Removal, vec![removed.clone(), both.clone()]).await.unwrap();
    hold(HeldKind::Replacement, vec![replaced.clone(), both.clone()]).await.unwrap();
    assert_eq!(index.held_count().unwrap(), HeldCount { removals: 2, replacements: 2 });
    apply(&index, commit("both", 3, Kind::Added, 0)).await;
    assert_eq!(index.held_count().unwrap(), HeldCount { removals: 2, replacements: 1 });
    let count = index.write(|tx| tx.approve_held()).await.unwrap();
    assert_eq!(count, HeldCount { removals: 2, replacements: 1 });
    assert_eq!(index.held_count().unwrap(), HeldCount::default());
    // A path that is held again keeps its answer.
    hold(HeldKind::Removal, vec![removed.clone()]).await.unwrap();
    assert_eq!(index.held_answer(&removed, HeldKind::Removal).unwrap(), Some(Answer::Approved));
    index.write(|tx| tx.revert_held()).await.unwrap();
    assert_eq!(index.held_answer(&removed, HeldKind::Removal).unwrap(), None);
    assert_eq!(index.held_answer(&replaced, HeldKind::Replacement).unwrap(), Some(Answer::Reverted));
    assert!(index.awaits_repair(&removed).unwrap() && !index.awaits_repair(&replaced).unwrap());
}

#[tokio::test]
async fn a_repair_rests_after_a_failure_and_ends_only_as_the_one_that_was_asked_for() {
    let (_dir, index) = open();
    let at = path("a");
    let (asked, late) = (at.clone(), Timestamp::from_nanos(Timestamp::now().nanos() + 3_600_000_000_000));
    index.write(move |tx| tx.repair(&asked)).await.unwrap();
    let due = index.repairs_due(Timestamp::now()).unwrap();
    let [repair] = &due[..] else { panic!("{due:?}") };
    let (rests, other) = (at.clone(), repair.clone());
    index.write(move |tx| tx.rest_repair(&rests, late)).await.unwrap();
    assert_eq!(index.repairs_due(Timestamp::now()).unwrap(), []);
    assert_eq!(index.repairs_due(late).unwrap()[0].tries, 1);
    let before = Timestamp::from_nanos(other.since.nanos() - 1);
    let path = at.clone();
    index.write(move |tx| tx.end_repair(&path, before)).await.unwrap();
    assert_eq!(index.repair_count().unwrap(), 1, "another request");
    index.write(move |tx| tx.end_repair(&other.path, other.since)).await.unwrap();
    assert_eq!(index.repair_count().unwrap(), 0);
}

#[tokio::test]
async fn placing_an_event_again_renews_the_stat_of_its_row_and_of_no_other() {
    let (_dir, index) = open();
    apply(&index, commit("a", 5, Kind::Added, 0)).await;
    let mut again = commit("a", 5, Kind::Added, 0);
    again.stat = Some(Stat { ino: 8, size: 10, mtime: 3, ctime: 4 });
    let (older, placed) = (Commit { version: Version::new(4), ..again.clone() }, again.stat);
    index.write(move |tx| tx.placed_again(&older)).await.unwrap();
    assert_eq!(index.path_state(&path("a")).unwrap().row.unwrap().stat.unwrap().ino, 7);
    index.write(move |tx| tx.placed_again(&again)).await.unwrap();
    assert_eq!(index.path_state(&path("a")).unwrap().row.unwrap().stat, placed);
    assert_eq!(index.node().unwrap().files, 1);
}

#[tokio::test]
async fn the_scrub_the_last_verify_and_the_list_of_wanted_blobs_survive_reopening() {
    let (dir, index) = open();
    assert_eq!((index.scrub().unwrap(), index.verified().unwrap()), (Scrub::default(), None));
    let at = |second: i128| Timestamp::from_nanos(second * 1_000_000_000);
    let scrub = Scrub {
        position: Some(path("a/b")),
        started: Some(at(2)),
        finished: Some(at(1)),
        files: 3,
        rotten: 1,
    };
    let (stored, content) = (scrub.clone(), ContentHash::of(b"blob"));
    index
        .write(move |tx| {
            tx.set_scrub(&stored)?;
            tx.set_verified(at(1))?;
            tx.set_verified(at(5))?;
            tx.want(content, 4)?;
            tx.want(content, 4)
        })
        .await
        .unwrap();
    drop(index);
    let index = Index::open(&dir.path().join("index.db")).unwrap();
    assert_eq!((index.scrub().unwrap(), index.verified().unwrap()), (scrub, Some(at(5))));
    let wanted: Vec<_> = index.wanted().unwrap().iter().map(|blob| (blob.content, blob.size)).collect();
    assert_eq!(wanted, [(content, 4)]);
    index.write(move |tx| tx.want_no_more(content)).await.unwrap();
    assert_eq!(index.wanted().unwrap(), []);
}

#[tokio::test]
async fn what_lost_under_a_row_of_an_older_generation_has_its_event_applied_once_more() {
    let (_dir, index) = open();
    for (at, generation) in [("older", 0), ("now", 1)] {
        let begin = move |tx: &mut Tx<'_>| match generation {
            1 => tx.begin_generation(&life(1), "a test"),
            _ => Ok(()),
        };
        index.write(begin).await.unwrap();
        apply(&index, commit(at, 5, Kind::Added, generation)).await;
    }
    for at in ["older", "now"] {
        index.write(move |tx| tx.mark(&path(at), |row| row.lost = row.sha256)).await.unwrap();
    }
    assert!(index.awaits_repair(&path("older")).unwrap());
    assert!(!index.awaits_repair(&path("now")).unwrap());
}

#[tokio::test]
async fn a_row_that_is_forgotten_leaves_the_digest_and_a_wrong_digest_is_counted_anew() {
    let (_dir, index) = open();
    for (at, version) in [("a", 1), ("b", 2)] {
        apply(&index, commit(at, version, Kind::Added, 0)).await;
    }
    apply(&index, commit("b", 3, Kind::Removed, 0)).await;
    let right = index.node().unwrap();
    assert!(!index.write(|tx| tx.recount()).await.unwrap());
    let spoil = |tx: &mut Tx<'_>| {
        let node = tx.node_mut();
        (node.digest, node.files, node.bytes) = (Digest::default(), 7, 7);
        tx.recount()
    };
    assert!(index.write(spoil).await.unwrap());
    assert_eq!(index.node().unwrap(), right);
    index.write(|tx| tx.forget_row(&path("a"))).await.unwrap();
    assert!(index.path_state(&path("a")).unwrap().row.is_none());
    let node = index.node().unwrap();
    assert_eq!((node.digest, node.files, node.bytes), (Digest::default(), 0, 0));
}
