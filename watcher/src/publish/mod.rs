//! The data path of the watcher, for one path: look, decide, offer, upload, publish, record.
//!
//! Costs for a new small file: one read of it, two look-ups and two commits of the index (each shared with all files in flight), two messages to the blob
//! store, one to the log. Memory: a small file's bytes, at most [`SMALL_BYTES`] for all; a large one's window of chunks.

mod offer;

pub use offer::settle_offers;

use crate::{
    facts::Facts,
    look::{self, Asked, Decision, Last, OnDisk, Terms},
    node::{Node, PublishError},
    removals,
    upload::{self, Content},
};
use common::{
    blobs::BlobStore,
    event::{Kind, Version, Was},
    hash::ContentHash,
    index::{Commit, HeldKind, PathState, Row, RowState, Stage, Stat},
    known::{Known, known_to_log},
    log::{EventLog, Logged},
    path::MediaPath,
    root::Look,
    time::Timestamp,
    trust::Session,
};
use offer::{offer_and_publish, settle_offer};

/// How often a path is looked at again when it changes under our hands, before its next event is waited for.
const TRIES: usize = 20;
/// The kernel's clock for file times moves in steps of up to 10 ms.
const TICK_NANOS: i64 = 10_000_000;

/// What became of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The log says it already.
    Unchanged,
    /// Published, or found published.
    Published {
        /// The event.
        version: Version,
        /// Length of the content; `None` for a removal.
        bytes: Option<u64>,
        /// Look again once later writes can no longer carry this stat.
        racy: bool,
    },
    /// Another node's content stands at the path; ours waits to be moved to the trash.
    Lost,
    /// It changed while it was read: look again when it has stood still.
    Unstable(Option<Stat>),
    /// The replicator is placing something there.
    Placing,
    /// Absence that is not proven, or held.
    NotProven,
    /// Never mirrored; why.
    Skipped(&'static str),
}

impl Outcome {
    /// Nothing is left to do about the path, as far as is known.
    pub fn is_end(self) -> bool {
        match self {
            Self::Unchanged | Self::Published { .. } | Self::Lost | Self::NotProven | Self::Skipped(_) => {
                true
            }
            Self::Unstable(_) | Self::Placing => false,
        }
    }
}

/// What is published.
struct Change {
    kind: Kind,
    sha256: ContentHash,
    replaces: Version,
    was: Option<Was>,
}

/// Why a path is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// A writer has closed it, or it was renamed in.
    Finished,
    /// Absence has been seen twice: a third look proves it.
    Removal,
    /// A scan, or an earlier try.
    Other,
}

/// Brings the log up to what stands at a path.
pub async fn publish<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    path: &MediaPath,
    detected: Timestamp,
    cause: Cause,
) -> Result<Outcome, PublishError> {
    for _ in 0..TRIES {
        let facts = node.facing.of(path).await?;
        node.check_at(session, facts.stage)?;
        let (seen, stage, parked) = (facts.state.clone(), facts.stage, facts.parked);
        if let Some(intent) = &seen.intent {
            if !node.resolve_abandoned(path, intent).await? {
                return Ok(Outcome::Placing);
            }
            continue;
        }
        // A path is in work once: an offer that stands now was left by an earlier try, which may have been published all the same.
        if let Some(offer) = seen.offer.clone() {
            settle_offer(node, session, path, offer).await?;
            continue;
        }
        let (disk, content) = match look_at(node, session, path, facts, cause).await? {
            Looked::Unchanged => return Ok(Outcome::Unchanged),
            Looked::Unstable(stat) => return Ok(Outcome::Unstable(stat)),
            Looked::Skipped(why) => return Ok(Outcome::Skipped(why)),
            Looked::Absent if cause != Cause::Removal => return Ok(Outcome::NotProven),
            Looked::Absent => (OnDisk::Absent, None),
            Looked::File(content) => (OnDisk::File(content.hash, content.stat.stat), Some(content)),
        };
        let change = match decide(node, session, path, &seen, (stage, parked), disk, content.as_ref()).await?
        {
            Step::Done(outcome) => {
                if cause == Cause::Removal {
                    // Held or not, there is nothing left to agree with.
                    let path = path.clone();
                    node.index.write(move |tx| tx.release(&path, HeldKind::Removal)).await?;
                }
                return Ok(outcome);
            }
            Step::Again => continue,
            Step::Publish(change) => change,
        };
        if change.kind == Kind::Removed && !removals::proven(node, path).await? {
            return Ok(Outcome::NotProven);
        }
        match offer_and_publish(node, session, path, &seen, change, content, detected).await? {
            Some(outcome) => return Ok(outcome),
            None => continue,
        }
    }
    Ok(Outcome::Unstable(None))
}

enum Looked {
    Unchanged,
    Absent,
    Unstable(Option<Stat>),
    Skipped(&'static str),
    File(Content),
}

/// Looks at the disk, and reads the file when its stat does not tell its content.
async fn look_at<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    path: &MediaPath,
    facts: Facts,
    cause: Cause,
) -> Result<Looked, PublishError> {
    if node.rules().covers_file(path.as_path()) {
        return Ok(Looked::Skipped("an ignore rule covers it"));
    }
    let stat = match facts.look.map_err(|error| PublishError::disk(path, error))? {
        Look::File(stat) => stat,
        Look::Absent => return Ok(Looked::Absent),
        // What was there as a file is there no more, and the folder's files have their own paths.
        Look::Folder => return Ok(Looked::Absent),
        Look::Other(why) | Look::Unreachable(why) => return Ok(Looked::Skipped(why)),
    };
    let row = facts.state.row.as_ref();
    // A write within the kernel's clock tick after our last look leaves the stat as it was. What the replicator placed was renamed later than
    // its mtime says, so that its own event costs no reading.
    let may_hide_a_write = cause == Cause::Finished && stat.stat.ctime - stat.stat.mtime < TICK_NANOS;
    if let Some(row) = row
        && row.stat == Some(stat.stat)
        && !row.racy
        && !may_hide_a_write
        && let Some(hash) = row.content()
    {
        if row.generation == session.generation {
            return Ok(Looked::Unchanged);
        }
        return Ok(Looked::File(Content { hash, stat, racy: false, held: upload::Held::No }));
    }
    // A file in a renamed folder is the same file under another path: nothing is read.
    if let Some(hash) = facts.moved {
        return Ok(Looked::File(Content { hash, stat, racy: false, held: upload::Held::No }));
    }
    Ok(match upload::read(node, path, stat, row).await? {
        Some(content) => Looked::File(content),
        None => Looked::Unstable(Some(stat.stat)),
    })
}

enum Step {
    Done(Outcome),
    Again,
    Publish(Change),
}

async fn decide<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    path: &MediaPath,
    seen: &PathState,
    (stage, parked): (Stage, Option<Version>),
    disk: OnDisk,
    content: Option<&Content>,
) -> Result<Step, PublishError> {
    let ask_anyway = stage.fresh || node.prefer_newest;
    match look::decide(seen, session.generation, ask_anyway, parked, disk) {
        Decision::Nothing => Ok(Step::Done(Outcome::Unchanged)),
        Decision::Offer { kind, sha256, replaces } => {
            Ok(Step::Publish(Change { kind, sha256, replaces, was: None }))
        }
        Decision::Refresh { rewritten } => {
            let stat = content.map(|content| content.stat.stat);
            let racy = content.is_some_and(|content| content.racy);
            let done = if_unchanged(node, session, path, seen, move |row| {
                (row.stat, row.racy) = (stat, racy);
                row.rewritten |= rewritten;
            })
            .await?;
            Ok(if done { Step::Done(Outcome::Unchanged) } else { Step::Again })
        }
        Decision::AskLog => ask_log(node, session, path, seen, stage, disk, content).await,
    }
}

async fn ask_log<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    path: &MediaPath,
    seen: &PathState,
    stage: Stage,
    disk: OnDisk,
    content: Option<&Content>,
) -> Result<Step, PublishError> {
    let last = node.log.last(path).await?;
    let row = seen.row.as_ref();
    let row_created = match row {
        Some(row) => node.index.created(row.generation)?,
        None => None,
    };
    let known = match (content, &last) {
        (Some(content), Some(_)) => known(node, path, content).await?,
        _ => Known::No,
    };
    let terms = Terms {
        created: &session.created,
        row_created: row_created.as_ref(),
        restored: stage.no_base == session.generation,
        known,
        newer: is_newer(node, content, last.as_ref()).await?,
    };
    let event = last.as_ref().and_then(last_event);
    match look::ask(row, disk, event.as_ref(), terms) {
        Asked::Nothing => Ok(Step::Done(Outcome::Unchanged)),
        Asked::Offer { kind, sha256, replaces, was } => {
            Ok(Step::Publish(Change { kind, sha256, replaces, was }))
        }
        Asked::MarkLost(sha256) => {
            let done = if_unchanged(node, session, path, seen, move |row| row.lost = Some(sha256)).await?;
            Ok(if done { Step::Done(Outcome::Lost) } else { Step::Again })
        }
        Asked::Adopt => {
            let (Some(last), Some(content)) = (last, content) else { return Ok(Step::Again) };
            let commit = commit_of(
                node,
                session,
                &last,
                content.stat.stat.size,
                Some((content.stat.stat, content.racy)),
            );
            let (Some(commit), before) = (commit, seen.clone()) else { return Ok(Step::Again) };
            let done = node
                .index
                .write(move |tx| Ok(tx.path_state(&commit.path)? == before && tx.commit(&commit)?))
                .await?;
            Ok(if done { Step::Done(Outcome::Unchanged) } else { Step::Again })
        }
    }
}

/// Whether the file wins by its time, where that was asked for. One that is ahead of the broker's clock does not.
async fn is_newer<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    content: Option<&Content>,
    last: Option<&Logged>,
) -> Result<bool, PublishError> {
    let event = last.filter(|_| node.prefer_newest).and_then(|last| last.event.as_ref().ok());
    let (Some(content), Some(added)) = (content, event.and_then(|event| event.added)) else {
        return Ok(false);
    };
    let changed = Timestamp::from_nanos(i128::from(content.stat.stat.mtime));
    if changed <= added.mtime {
        return Ok(false);
    }
    let now = node.log.state().await?.now.unwrap_or_else(Timestamp::now);
    Ok(changed <= now)
}

/// The row of an event that stands in the log.
fn commit_of<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    last: &Logged,
    size: u64,
    stat: Option<(Stat, bool)>,
) -> Option<Commit> {
    let event = last.event.as_ref().ok()?;
    Some(Commit {
        path: event.path.clone(),
        kind: event.kind(),
        sha256: event.sha256,
        size,
        stat: stat.map(|(stat, _)| stat),
        racy: stat.is_some_and(|(_, racy)| racy),
        version: last.version,
        replaced: event.replaces,
        subject: last.subject.clone(),
        event: last.id(node.log.subjects()),
        generation: session.generation,
    })
}

async fn known<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    content: &Content,
) -> Result<Known, PublishError> {
    let changed = Timestamp::from_nanos(i128::from(content.stat.stat.ctime));
    Ok(known_to_log(&node.log, path, content.hash, None, changed).await?)
}

fn last_event(last: &Logged) -> Option<Last> {
    let event = last.event.as_ref().ok()?;
    Some(Last { kind: event.kind(), sha256: event.sha256, version: last.version, was: event.was.clone() })
}

/// Changes the row's marks when nothing about the path changed since `seen`.
async fn if_unchanged<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    path: &MediaPath,
    seen: &PathState,
    change: impl FnOnce(&mut Row) + Send + 'static,
) -> Result<bool, PublishError> {
    let (path, seen, generation) = (path.clone(), seen.clone(), session.generation);
    Ok(node
        .index
        .write(move |tx| {
            let same = tx.node().generation == generation && tx.path_state(&path)? == seen;
            if same {
                tx.mark(&path, change)?;
            }
            Ok(same)
        })
        .await?)
}

/// Whether a row's file should be looked at by a scan: `stat` is what the walk saw.
pub fn needs_look(row: Option<&Row>, generation: common::index::Generation, stat: Stat) -> bool {
    match row {
        Some(row) if row.generation == generation => {
            !(row.state == RowState::Present && row.stat == Some(stat) && !row.racy)
        }
        _ => true,
    }
}
