//! The watcher's glue around its decisions: scans, and the data path of one path (`watcher/src/publish/mod.rs`, `service`), one path at a time.

use crate::{
    offer::{offer_and_publish, settle, settle_offers},
    process::{Abandoned, Over, Process},
    world::{PATHS, path},
};
use ::watcher::look::{self, Asked, Decision, Last, OnDisk, Terms};
use common::{
    event::{Kind, Version, Was},
    hash::ContentHash,
    index::{Commit, PathState, Row, Stat},
    known::{Known, known_to_log},
    log::{EventLog, Logged},
    path::MediaPath,
    time::Timestamp,
    trust::Session,
};
use rand::seq::SliceRandom;

/// `publish::TRIES`.
const TRIES: usize = 20;

/// Whether the full check may end without this path.
#[derive(PartialEq, Eq)]
enum Looked {
    Settled,
    /// The replicator is placing something there.
    Placing,
}

/// What is published.
pub struct Change {
    pub kind: Kind,
    pub sha256: ContentHash,
    pub replaces: Version,
    pub was: Option<Was>,
}

/// `Service::run` between two looks at the log: scan after scan.
pub async fn session(p: &Process, session: &Session) -> Result<(), Over> {
    settle_offers(p, session).await?;
    loop {
        let began = p.index.node()?;
        let mut paths = PATHS.map(path);
        paths.shuffle(&mut p.world().rng);
        let mut all = true;
        for path in paths {
            all &= publish(p, session, &path).await? == Looked::Settled;
            p.pause("between paths").await;
        }
        // `look_after`: a full scan that began after the log was read to its end is the full check of this generation.
        if began.fresh && began.log_read && all {
            let ended = p.index.write(move |tx| {
                if tx.node().generation == began.generation {
                    tx.node_mut().fresh = false;
                }
                Ok(())
            });
            ended.await?;
            p.note("full check ended".into());
        }
        serve_wanted(p).await?;
        p.check(session)?;
        p.pause("scanned").await;
    }
}

/// `publish`: brings the log up to what stands at a path.
async fn publish(p: &Process, session: &Session, path: &MediaPath) -> Result<Looked, Over> {
    for _ in 0..TRIES {
        p.check(session)?;
        let seen = p.index.path_state(path)?;
        if let Some(intent) = &seen.intent {
            if p.resolve_abandoned(path, intent).await? == Abandoned::No {
                return Ok(Looked::Placing);
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
            return Ok(Looked::Settled);
        }
        let content = p.world().nodes[p.node].disk.tree.get(path).map(|file| file.content);
        let disk = match (content, stat) {
            (Some(content), Some(stat)) => OnDisk::File(content, stat),
            _ => OnDisk::Absent,
        };
        let change = match decide(p, session, path, &seen, disk).await? {
            Step::Done => return Ok(Looked::Settled),
            Step::Again => continue,
            Step::Publish(change) => change,
        };
        p.pause("decided").await;
        if change.kind == Kind::Removed && p.stat(path).is_some() {
            return Ok(Looked::Settled); // `removals::proven` says no.
        }
        if offer_and_publish(p, session, path, &seen, change, stat).await? {
            return Ok(Looked::Settled);
        }
        p.pause("to look again").await;
    }
    Ok(Looked::Settled)
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
            Ok(if p.commit(seen, commit, session).await? { Step::Done } else { Step::Again })
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
    let changed = Timestamp::from_nanos(i128::from(stat.ctime));
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
