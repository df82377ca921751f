//! The watcher's glue around its decisions: scans, and the data path of one path (`watcher/src/publish/mod.rs`, `service`), one path at a time.

use crate::{
    offer::{offer_and_publish, settle, settle_offers},
    process::{Abandoned, Over, Process},
    world::{PATHS, path, stamp},
};
use ::watcher::look::{self, Asked, Decision, Last, OnDisk, Terms};
use common::{
    event::{Kind, Version, Was},
    hash::ContentHash,
    index::{self, Answer, Commit, Generation, HeldKind, PathState, Row, RowState, Stat},
    known::{Known, known_to_log},
    log::{EventLog, Logged},
    path::MediaPath,
    time::Timestamp,
    trust::Session,
};
use rand::seq::SliceRandom;
use std::collections::BTreeMap;

/// `publish::TRIES`.
const TRIES: usize = 20;

/// Whether the work on a path has come to its end (`Outcome::is_end`).
#[derive(PartialEq, Eq)]
enum Looked {
    Settled,
    /// It changes, or the replicator is placing something there.
    Again,
}

/// What is published.
pub struct Change {
    pub kind: Kind,
    pub sha256: ContentHash,
    pub replaces: Version,
    pub was: Option<Was>,
}

/// What the loop keeps from one session to the next.
#[derive(Default)]
pub struct Kept {
    /// The broker was away.
    pub away: bool,
    rescan: bool,
    last_full: Option<(Generation, bool)>,
    checking: Option<Generation>,
    /// What of the outbox is in work, each as it was noted.
    taken: BTreeMap<MediaPath, Timestamp>,
}

/// `Service::run` between two looks at the log.
pub async fn session(p: &Process, session: &Session, kept: &mut Kept) -> Result<(), Over> {
    let other = kept.last_full.is_none_or(|(generation, _)| generation != session.generation);
    kept.rescan |= other || std::mem::take(&mut kept.away);
    (kept.checking, kept.taken) = (None, BTreeMap::new());
    for path in settle_offers(p, session).await? {
        p.world().notice(p.node, &path);
    }
    loop {
        if std::mem::take(&mut kept.rescan) {
            scan(p, kept).await?;
        }
        for asked in p.index.outbox(None, PATHS.len())? {
            p.world().notice(p.node, &asked.path);
            kept.taken.insert(asked.path, asked.since);
        }
        let mut paths: Vec<MediaPath> = p.world().nodes[p.node].noticed.iter().cloned().collect();
        paths.shuffle(&mut p.world().rng);
        for path in paths {
            p.world().nodes[p.node].noticed.remove(&path);
            let looked = publish(p, session, &path).await;
            match &looked {
                Ok(Looked::Settled) => leave_outbox(p, kept.taken.remove_entry(&path)).await?,
                Ok(Looked::Again) | Err(Over) => p.world().notice(p.node, &path),
            }
            looked?;
            p.pause("between paths").await;
        }
        look_after(p, kept).await?;
        serve_wanted(p).await?;
        p.check(session)?;
        p.pause("scanned").await;
    }
}

/// `Scan::run`, of the whole tree.
async fn scan(p: &Process, kept: &mut Kept) -> Result<(), Over> {
    let began = p.index.node()?;
    for path in PATHS.map(path) {
        let (row, stat) = (p.index.path_state(&path)?.row, p.stat(&path));
        let row = row.as_ref();
        let current = |row: &&Row| row.generation == began.generation;
        let told = match stat {
            // `needs_look`.
            Some(_) => !row.filter(current).is_some_and(|row| row.content().is_some() && row.stat == stat),
            None => row.is_some_and(|row| {
                row.state == RowState::Present || !current(&row) && row.state == RowState::Removed
            }),
        };
        if told {
            p.world().notice(p.node, &path);
        }
        p.pause("scanning").await;
    }
    kept.last_full = Some((began.generation, began.log_read));
    kept.checking = began.log_read.then_some(began.generation);
    Ok(())
}

/// `look_after`, `end_checking`, `release_held`.
async fn look_after(p: &Process, kept: &mut Kept) -> Result<(), Over> {
    let idle = p.world().nodes[p.node].noticed.is_empty();
    if let Some(generation) = kept.checking.take_if(|_| idle) {
        let ended = p.index.write(move |tx| {
            if tx.node().generation == generation {
                tx.node_mut().fresh = false;
            }
            Ok(())
        });
        ended.await?;
        p.note("full check ended".into());
    }
    let node = p.index.node()?;
    kept.rescan |= kept.last_full.is_some_and(|(_, log_read)| !log_read) && node.fresh && node.log_read;
    for (path, approved) in p.index.held()? {
        let present = p.index.path_state(&path)?.row.is_some_and(|row| row.content().is_some());
        if !present || p.stat(&path).is_some() {
            p.index.write(move |tx| tx.release(&path, HeldKind::Removal)).await?;
        } else if approved {
            p.world().notice(p.node, &path);
        }
    }
    Ok(())
}

async fn leave_outbox(p: &Process, taken: Option<(MediaPath, Timestamp)>) -> Result<(), Over> {
    let Some(taken) = taken else { return Ok(()) };
    Ok(p.index.write(move |tx| tx.leave_outbox(&[taken])).await?)
}

/// `set_aside`, `write_outbox`: what ripens while the broker is away.
pub async fn set_aside(p: &Process) -> Result<(), Over> {
    let paths: Vec<MediaPath> = p.world().nodes[p.node].noticed.iter().cloned().collect();
    let mut noted = Vec::new();
    for path in paths {
        p.world().nodes[p.node].noticed.remove(&path);
        if p.stat(&path).is_some() || p.index.path_state(&path)?.row.is_some() {
            noted.push(index::Asked { path, since: stamp(p.world().tick()), finished: true });
        }
    }
    if !noted.is_empty() {
        p.note(format!("notes {} paths", noted.len()));
        p.index.write(move |tx| tx.note(&noted)).await?;
    }
    Ok(())
}

/// `publish`: brings the log up to what stands at a path.
async fn publish(p: &Process, session: &Session, path: &MediaPath) -> Result<Looked, Over> {
    for _ in 0..TRIES {
        p.check(session)?;
        let seen = p.index.path_state(path)?;
        if let Some(intent) = &seen.intent {
            if p.resolve_abandoned(path, intent).await? == Abandoned::No {
                return Ok(Looked::Again);
            }
            continue;
        }
        if let Some(offer) = seen.offer.clone() {
            settle(p, session, path, offer).await?;
            continue;
        }
        p.pause("path state read").await;
        let stat = p.stat(path);
        if let (Some(stat), Some(row)) = (stat, &seen.row)
            && row.stat == Some(stat)
            && row.content().is_some()
            && row.generation == session.generation
        {
            return Ok(Looked::Settled);
        }
        // The file is read, and absence seen twice, while time passes.
        p.pause("looked at").await;
        if p.stat(path) != stat {
            return Ok(Looked::Again);
        }
        let disk = match p.content(path, seen.row.as_ref()) {
            Some((content, stat)) => OnDisk::File(content, stat),
            // Somebody asked for the file: that it is not there yet is no removal.
            None if p.index.awaits_repair(path)? => return Ok(Looked::Settled),
            None => OnDisk::Absent,
        };
        let change = match decide(p, session, path, &seen, disk).await? {
            Step::Done => {
                let at = path.clone();
                p.index.write(move |tx| tx.release(&at, HeldKind::Removal)).await?;
                return Ok(Looked::Settled);
            }
            Step::Again => continue,
            Step::Publish(change) => change,
        };
        p.pause("decided").await;
        if change.kind == Kind::Removed && (p.stat(path).is_some() || is_held(p, path, &seen).await?) {
            return Ok(Looked::Settled); // `removals::proven` says no, or there are too many.
        }
        if offer_and_publish(p, session, path, &seen, change, stat).await? {
            return Ok(Looked::Settled);
        }
        p.pause("to look again").await;
    }
    Ok(Looked::Again)
}

/// `dispatch_removals`.
async fn is_held(p: &Process, path: &MediaPath, seen: &PathState) -> Result<bool, Over> {
    let present = seen.row.as_ref().is_some_and(|row| row.content().is_some());
    let agreed = p.index.held_answer(path, HeldKind::Removal)? == Some(Answer::Approved);
    let held = present && !agreed && p.world().nodes[p.node].bulk;
    if held {
        p.note(format!("holds the removal of {path}"));
        let at = path.clone();
        p.index.write(move |tx| tx.hold(&[at], HeldKind::Removal)).await?;
    }
    Ok(held)
}

enum Step {
    Done,
    Again,
    Publish(Change),
}

/// `decide`.
async fn decide(
    p: &Process,
    session: &Session,
    path: &MediaPath,
    seen: &PathState,
    disk: OnDisk,
) -> Result<Step, Over> {
    let fresh = p.index.node()?.fresh;
    let parked = p.index.parked_of(path)?.filter(|parked| parked.permanent).map(|parked| parked.version);
    match look::decide(seen, session.generation, fresh, parked, disk) {
        Decision::Nothing => Ok(Step::Done),
        Decision::Offer { kind, sha256, replaces } => {
            Ok(Step::Publish(Change { kind, sha256, replaces, was: None }))
        }
        Decision::Refresh { rewritten } => {
            let stat = stat_of(disk);
            p.note(format!("takes the stat of {path}{}", if rewritten { ", rewritten" } else { "" }));
            let done = if_unchanged(p, session, path, seen, move |row| {
                (row.stat, row.racy) = (stat, false);
                row.rewritten |= rewritten;
            });
            Ok(if done.await? { Step::Done } else { Step::Again })
        }
        Decision::AskLog => ask_log(p, session, path, seen, disk).await,
    }
}

/// `ask_log`.
async fn ask_log(
    p: &Process,
    session: &Session,
    path: &MediaPath,
    seen: &PathState,
    disk: OnDisk,
) -> Result<Step, Over> {
    let last = p.log.last(path).await?;
    p.pause("last event read").await;
    let row = seen.row.as_ref();
    let row_created = match row {
        Some(row) => p.index.created(row.generation)?,
        None => None,
    };
    let known = match (disk, &last) {
        (OnDisk::File(content, stat), Some(_)) => known(p, path, content, stat).await?,
        _ => Known::No,
    };
    p.pause("history read").await;
    let terms = Terms {
        newer: false,
        created: &session.created,
        row_created: row_created.as_ref(),
        restored: p.index.node()?.no_base == session.generation,
        known,
    };
    let event = last.as_ref().and_then(last_event);
    match look::ask(row, disk, event.as_ref(), terms) {
        Asked::Nothing => Ok(Step::Done),
        Asked::Offer { kind, sha256, replaces, was } => {
            Ok(Step::Publish(Change { kind, sha256, replaces, was }))
        }
        Asked::MarkLost(sha256) => {
            let done = if_unchanged(p, session, path, seen, move |row| row.lost = Some(sha256));
            Ok(if done.await? { Step::Done } else { Step::Again })
        }
        Asked::Adopt => {
            let commit = last.and_then(|last| commit_of(p, session, &last, stat_of(disk)));
            let Some(commit) = commit else { return Ok(Step::Again) };
            Ok(if p.commit(seen, commit, session, false).await? { Step::Done } else { Step::Again })
        }
    }
}

fn stat_of(disk: OnDisk) -> Option<Stat> {
    match disk {
        OnDisk::File(_, stat) => Some(stat),
        OnDisk::Absent => None,
    }
}

pub async fn known(p: &Process, path: &MediaPath, content: ContentHash, stat: Stat) -> Result<Known, Over> {
    let changed = stamp(stat.ctime);
    Ok(known_to_log(&p.log, path, content, None, changed).await?)
}

/// `commit_of`.
pub fn commit_of(p: &Process, session: &Session, last: &Logged, stat: Option<Stat>) -> Option<Commit> {
    let event = last.event.as_ref().ok()?;
    Some(Commit {
        path: event.path.clone(),
        kind: event.kind(),
        sha256: event.sha256,
        size: stat.map_or(0, |stat| stat.size),
        stat,
        racy: false,
        version: last.version,
        replaced: event.replaces,
        subject: last.subject.clone(),
        event: last.id(p.log.subjects()),
        generation: session.generation,
    })
}

/// `last_event`.
pub fn last_event(last: &Logged) -> Option<Last> {
    let event = last.event.as_ref().ok()?;
    Some(Last { kind: event.kind(), sha256: event.sha256, version: last.version, was: event.was.clone() })
}

/// `if_unchanged`.
async fn if_unchanged(
    p: &Process,
    session: &Session,
    path: &MediaPath,
    seen: &PathState,
    change: impl FnOnce(&mut Row) + Send + 'static,
) -> Result<bool, Over> {
    let (path, seen, generation) = (path.clone(), seen.clone(), session.generation);
    let marked = p.index.write(move |tx| {
        let same = tx.node().generation == generation && tx.path_state(&path)? == seen;
        if same {
            tx.mark(&path, change)?;
        }
        Ok(same)
    });
    Ok(marked.await?)
}

/// `wanted::serve`.
async fn serve_wanted(p: &Process) -> Result<(), Over> {
    let wanted: Vec<ContentHash> = p.world().nodes.iter().flat_map(|node| node.wanted.clone()).collect();
    for content in wanted {
        let held = p.index.paths_with(content)?;
        p.pause("wanted").await;
        let mut world = p.world();
        let disk = &world.nodes[p.node].disk;
        let stands = held.iter().any(|(path, _)| disk.tree.get(path).is_some_and(|f| f.content == content));
        if stands && world.up && world.blobs.insert(content) {
            let said = format!("{} stores {} again", p.name, world.name(content));
            world.note(said);
        }
    }
    Ok(())
}
