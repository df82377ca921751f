//! The data path of the replicator, for one event: plan, fetch, verify, place, record.
//!
//! Syncs for a new small file: the file, its temp name, the index (the intent), its folder, the index (the row); all but the first are shared
//! with the files in flight beside it.

use crate::{
    fetch::{Verified, fetch},
    hold::{Verdict, may_replace},
    node::{ApplyError, Node},
    plan::{ByIndex, OnDisk, Plan, Terms, by_index, is_above_row, is_replaced_by_row, must_ask_log, plan},
};
use common::{
    blobs::BlobStore,
    content,
    event::{Attributes, Event},
    index::{Commit, Intent, PathState, Row, Stat},
    known::{Known, known_to_log},
    log::{EventLog, Logged},
    path::MediaPath,
    place::Placed,
    resolve::{Name, blocking, resolve},
    root::{Look, RenameError, Root, UPLOAD, copy_attributes},
    time::Timestamp,
    trust::Session,
};
use std::{io, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often an event is planned anew when its path changes under our hands.
pub const TRIES: usize = 20;
/// How long the other process's intent is waited for.
const INTENT_PATIENCE: Duration = Duration::from_secs(5);
const INTENT_PAUSE: Duration = Duration::from_millis(10);

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Not newer than what this node knows of the path.
    Superseded,
    /// This node's own: only recorded.
    Own,
    /// The content stood there already.
    Adopted,
    /// Placed; so many bytes came over the network.
    Placed { fetched: u64 },
    /// Taken out of the tree.
    Removed,
    /// A removal of what is not there.
    Gone,
    /// A removal, and what stands there is the user's.
    LeftAlone,
    /// An addition, and what stands there stays: the watcher publishes it over the event.
    Kept,
}

/// Applies an event; when this returns, what it did would survive a power cut. A crash at any point leaves the old content or the new one at the path,
/// and an intent that the next start finishes.
pub async fn apply<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    logged: &Logged,
    event: &Event,
) -> Result<Outcome, ApplyError> {
    let mut waited = false;
    for _ in 0..TRIES {
        let facts = node.facing.ask((event.path.clone(), event.sha256)).await?;
        node.check(session, facts.stage)?;
        if facts.state.intent.is_some() {
            settled(node, &event.path).await?;
            continue;
        }
        let (seen, here) = (facts.state, facts.here);
        let done = Committing { node, session, logged, event, seen: &seen };
        match by_index(&seen, session.generation, event, logged.version) {
            ByIndex::Superseded => return Ok(Outcome::Superseded),
            ByIndex::AnswersOffer => {
                if done
                    .row(seen.offer.as_ref().and_then(|offer| Some((offer.stat?, offer.racy))), None)
                    .await?
                {
                    return Ok(Outcome::Own);
                }
                continue;
            }
            ByIndex::UnderOffer => {
                if done.row(None, None).await? {
                    return Ok(Outcome::Own);
                }
                continue;
            }
            ByIndex::Look => {}
        }
        let Some(disk) = on_disk(node, &event.path, &seen, facts.look).await? else { continue };
        let decision = decide(node, session, logged, event, &seen, disk).await?;
        let applied = match (decision, event.added) {
            (Plan::Adopt, Some(attributes)) => adopt(&done, attributes, disk).await?,
            (Plan::Place { known }, Some(attributes)) => {
                let verdict = match disk {
                    OnDisk::File(..) if !known => may_replace(node, &event.path).await?,
                    _ => Verdict::Replace,
                };
                match verdict {
                    Verdict::Hold => return Err(ApplyError::Held),
                    Verdict::Keep => done.row(None, Some(Aside::AskWatcher)).await?.then_some(Outcome::Kept),
                    Verdict::Replace => {
                        if !std::mem::replace(&mut waited, true) && uploaded_here(node, event).await? {
                            continue;
                        }
                        node.before_change().await?;
                        let verified = fetch(node, event, attributes, here).await?;
                        place(&done, disk, known, Some(verified)).await?
                    }
                }
            }
            (Plan::Remove { known }, _) => {
                node.before_change().await?;
                place(&done, disk, known, None).await?
            }
            (Plan::Leave, _) => Some(Outcome::Superseded),
            (Plan::Gone, _) => done.row(None, None).await?.then_some(Outcome::Gone),
            (Plan::LeaveAlone, _) => {
                done.row(None, Some(Aside::AskWatcher)).await?.then_some(Outcome::LeftAlone)
            }
            (Plan::Ignore, _) => {
                done.row(None, Some(Aside::Ignore(disk))).await?.then_some(Outcome::LeftAlone)
            }
            (Plan::Adopt | Plan::Place { .. }, None) => unreachable!("only additions are adopted or placed"),
        };
        if let Some(outcome) = applied {
            return Ok(outcome);
        }
    }
    Err(ApplyError::Changing)
}

/// Waits while the watcher of this node has the content as an upload, which it is about to place: it would be fetched for nothing. False: it has not. Only an event
/// that names this node is looked at, since a look lists all temp files.
async fn uploaded_here<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    event: &Event,
) -> Result<bool, ApplyError> {
    if event.node != node.name {
        return Ok(false);
    }
    let (began, upload) = (Instant::now(), format!("{UPLOAD}{}.", event.sha256));
    let mut waited = false;
    // One that was left behind by a crash costs this once.
    while began.elapsed() < INTENT_PATIENCE {
        let (root, upload) = (Arc::clone(&node.root), upload.clone());
        let complete = move |name: &String| name.starts_with(&upload) && !name.ends_with(".part");
        let stands = blocking(move || Ok(root.temp_names()?.iter().any(complete)));
        if !stands.await.map_err(ApplyError::Disk)? {
            break;
        }
        waited = true;
        tokio::time::sleep(INTENT_PAUSE).await;
    }
    Ok(waited)
}

/// The path's state once no intent stands: that of the other process is waited for, and finished when its maker is dead.
pub async fn settled<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
) -> Result<PathState, ApplyError> {
    let began = Instant::now();
    loop {
        let seen = node.index.path_state(path)?;
        let Some(intent) = &seen.intent else { return Ok(seen) };
        if node.is_abandoned(intent)? {
            node.finish_abandoned(path, intent, Name::Unsynced).await?;
        } else {
            if intent.owner == node.run {
                // Left by a try of ours that failed after its rename.
                resolve(&node.root, &node.index, node.log.subjects(), path, intent, Name::Unsynced).await?;
            } else if began.elapsed() > INTENT_PATIENCE {
                return Err(ApplyError::Placing);
            } else {
                tokio::time::sleep(INTENT_PAUSE).await;
            }
        }
    }
}

/// What a look has found at the path; the file is read only when its stat does not tell its content. `None`: it changed meanwhile.
pub async fn on_disk<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    seen: &PathState,
    look: io::Result<Look>,
) -> Result<Option<OnDisk>, ApplyError> {
    let stat = match look.map_err(ApplyError::Disk)? {
        Look::Absent => return Ok(Some(OnDisk::Absent)),
        // An empty one gives way when the file is placed; a removal has nothing to do with it.
        Look::Folder => return Ok(Some(OnDisk::Absent)),
        Look::Other(what) => return Err(ApplyError::InTheWay(what)),
        Look::Unreachable(_) => return Err(RenameError::Unreachable.into()),
        Look::File(stat) => stat,
    };
    let told = seen.row.as_ref().filter(|row| row.stat == Some(stat.stat) && !row.racy);
    if let Some(content) = told.and_then(Row::content) {
        return Ok(Some(OnDisk::File(content, stat.stat)));
    }
    let (root, at) = (Arc::clone(&node.root), path.clone());
    match blocking(move || content::read(&root, &at, 0)).await {
        Ok(reading) => Ok(Some(OnDisk::File(reading.hash, reading.stat.stat))),
        Err(content::ReadError::Io(error)) => Err(ApplyError::Disk(error)),
        Err(content::ReadError::Changed | content::ReadError::GivenUp) => Ok(None),
    }
}

async fn decide<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    logged: &Logged,
    event: &Event,
    seen: &PathState,
    disk: OnDisk,
) -> Result<Plan, ApplyError> {
    let older = seen.row.as_ref().filter(|row| row.generation != session.generation);
    let (above_row, replaced_by_row) = match older {
        Some(row) => {
            let created = node.index.created(row.generation)?;
            let same_life = created.as_ref() == Some(&session.created);
            (
                is_above_row(event, row, created.as_ref()),
                is_replaced_by_row(event, logged.version, row, same_life, disk),
            )
        }
        None => (false, false),
    };
    let terms = Terms { generation: session.generation, above_row, removals: node.removals, replaced_by_row };
    let known = match disk {
        OnDisk::File(content, stat) if must_ask_log(seen, terms, event, disk) => {
            let changed = Timestamp::from_nanos(i128::from(stat.ctime));
            known_to_log(&node.log, &event.path, content, Some(logged.version), changed).await?
        }
        _ => Known::No,
    };
    Ok(plan(seen, terms, event, disk, known))
}

/// What else a row commit does.
enum Aside {
    /// What stands there is looked at by the watcher, and published over the removal.
    AskWatcher,
    /// What stands there stays and is not published.
    Ignore(OnDisk),
}

/// An event that is being applied, and what its path was like when it was looked at.
pub struct Committing<'a, L, B> {
    pub node: &'a Node<L, B>,
    pub session: &'a Session,
    pub logged: &'a Logged,
    pub event: &'a Event,
    pub seen: &'a PathState,
}

impl<L: EventLog, B: BlobStore> Committing<'_, L, B> {
    fn commit(&self, stat: Option<Stat>, racy: bool) -> Commit {
        Commit {
            path: self.event.path.clone(),
            kind: self.event.kind(),
            sha256: self.event.sha256,
            size: self.event.added.map_or(0, |added| added.size),
            stat,
            racy,
            version: self.logged.version,
            replaced: self.event.replaces,
            subject: self.logged.subject.clone(),
            event: self.logged.id(self.node.log.subjects()),
            generation: self.session.generation,
        }
    }

    /// Commits the row when nothing about the path changed since it was looked at, and takes an offer away that this answers. False: it did.
    async fn row(&self, stat: Option<(Stat, bool)>, aside: Option<Aside>) -> Result<bool, ApplyError> {
        let commit = self.commit(stat.map(|(stat, _)| stat), stat.is_some_and(|(_, racy)| racy));
        let seen = self.seen.clone();
        let answered = seen.offer.clone().filter(|offer| {
            (offer.kind, offer.sha256, offer.replaces) == (commit.kind, commit.sha256, commit.replaced)
                && offer.generation == commit.generation
        });
        let done = self.node.index.write(move |tx| {
            if tx.node().generation != commit.generation || tx.path_state(&commit.path)? != seen {
                return Ok(false);
            }
            match aside {
                Some(_) => tx.commit_unlike(&commit)?,
                None => tx.commit(&commit)?,
            };
            if let Some(offer) = answered {
                tx.withdraw(&commit.path, &offer)?;
            }
            match aside {
                Some(Aside::AskWatcher) => tx.ask_watcher(&commit.path)?,
                Some(Aside::Ignore(OnDisk::File(content, _))) => {
                    tx.mark(&commit.path, |row| row.ignored = Some(content))?;
                }
                Some(Aside::Ignore(OnDisk::Absent)) | None => {}
            }
            Ok(true)
        });
        Ok(done.await?)
    }
}

/// The same content stands there: mtime and mode are set, and the row takes the stat. A write that came in between would be hidden by the mtime that was set, so the
/// file is read again when anything was.
async fn adopt<L: EventLog, B: BlobStore>(
    done: &Committing<'_, L, B>,
    attributes: Attributes,
    disk: OnDisk,
) -> Result<Option<Outcome>, ApplyError> {
    let OnDisk::File(content, stat) = disk else { return Ok(None) };
    let (root, path) = (Arc::clone(&done.node.root), done.event.path.clone());
    let adopted = blocking(move || {
        let Ok((file, now)) = root.open_file(&path) else { return None };
        if now.stat != stat {
            return None;
        }
        if now.mtime == attributes.mtime && now.mode & 0o777 == attributes.mode {
            return Some((stat, content::is_racy(now.mtime)));
        }
        // Another owner's file keeps its attributes; its content is what matters.
        copy_attributes(&file, attributes.mode, attributes.mtime).ok();
        let again = content::read(&root, &path, 0).ok()?;
        (again.hash == content).then_some((again.stat.stat, again.racy))
    })
    .await;
    match adopted {
        Some(stat) => Ok(done.row(Some(stat), None).await?.then_some(Outcome::Adopted)),
        None => Ok(None),
    }
}

/// Rules 3 and 4: intent, rename, folder sync, row. `verified`: the new content; `None` takes the old one out. `None` as answer: the path changed.
pub async fn place<L: EventLog, B: BlobStore>(
    done: &Committing<'_, L, B>,
    disk: OnDisk,
    known: bool,
    verified: Option<Verified>,
) -> Result<Option<Outcome>, ApplyError> {
    let (node, event) = (done.node, done.event);
    let fetched = verified.as_ref().map(|verified| verified.fetched);
    let intent = Intent {
        kind: event.kind(),
        sha256: event.sha256,
        size: verified.as_ref().map_or(0, |verified| verified.size),
        mtime: verified.as_ref().map_or(0, |verified| verified.mtime),
        version: done.logged.version,
        replaced: event.replaces,
        event: done.logged.id(node.log.subjects()),
        old: match disk {
            OnDisk::Absent => None,
            OnDisk::File(content, stat) => Some((content, stat)),
        },
        known,
        temp: verified
            .as_ref()
            .map_or_else(|| Root::temp_name(event.sha256), |verified| verified.temp.clone()),
        temp_ino: verified.as_ref().map(|verified| verified.ino),
        role: "replicator".into(),
        owner: node.run.clone(),
        generation: done.session.generation,
    };
    // Others that want the same content wait until it stands.
    let (folder, _claim) = verified.map_or((None, None), |verified| (Some(verified.folder), verified.claim));
    match node.placer.place(node.log.subjects(), &event.path, done.seen, &intent, folder).await? {
        Placed::Done => Ok(Some(fetched.map_or(Outcome::Removed, |fetched| Outcome::Placed { fetched }))),
        Placed::Undone => Ok(None),
        Placed::Changed => {
            if intent.temp_ino.is_some() {
                let root = Arc::clone(&node.root);
                blocking(move || root.remove_temp(&intent.temp)).await.map_err(ApplyError::Disk)?;
            }
            Ok(None)
        }
    }
}
