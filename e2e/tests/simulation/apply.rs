//! The replicator's glue around its decisions: the data path of one event (`replicator/src/apply.rs`).

use crate::{
    disk::{File, SIZE},
    process::{Abandoned, Over, Process},
    world::{World, stamp},
};
use ::replicator::{
    hold::{Verdict, judge},
    plan::{
        ByIndex, OnDisk, Plan, Removals, Terms, by_index, is_above_row, is_replaced_by_row, must_ask_log,
        plan,
    },
};
use common::{
    event::{Attributes, Event},
    hash::ContentHash,
    index::{Commit, HeldKind, Intent, PathState, Row, Stat},
    known::{Known, known_to_log},
    log::{EventLog, Logged},
    path::MediaPath,
    trust::Session,
};

/// `apply::TRIES`.
pub const TRIES: usize = 20;

/// An event could not be applied now.
pub enum Failed {
    Over,
    /// The blob is missing.
    Want(ContentHash),
    Changing,
    /// Rule 8.
    Held,
}

impl<E: Into<Over>> From<E> for Failed {
    fn from(error: E) -> Self {
        let Over = error.into();
        Self::Over
    }
}

/// `settled`, one look. `None`: an intent stood, and it has to be looked again.
pub async fn settled(p: &Process, path: &MediaPath) -> Result<Option<PathState>, Failed> {
    let seen = p.index.path_state(path)?;
    if let Some(intent) = &seen.intent {
        if p.resolve_abandoned(path, intent).await? == Abandoned::No {
            p.resolve(path, intent).await?;
        }
        return Ok(None);
    }
    p.pause("path state read").await;
    Ok(Some(seen))
}

/// `apply`.
pub async fn apply(p: &Process, session: &Session, logged: &Logged, event: &Event) -> Result<(), Failed> {
    for _ in 0..TRIES {
        p.check(session)?;
        let Some(seen) = settled(p, &event.path).await? else { continue };
        match by_index(&seen, session.generation, event, logged.version) {
            ByIndex::Superseded => return Ok(()),
            ByIndex::AnswersOffer => {
                let stat = seen.offer.as_ref().and_then(|offer| offer.stat);
                if p.commit(&seen, commit_of(p, session, logged, event, stat), session, false).await? {
                    return Ok(());
                }
                continue;
            }
            ByIndex::UnderOffer => {
                if p.commit(&seen, commit_of(p, session, logged, event, None), session, false).await? {
                    return Ok(());
                }
                continue;
            }
            ByIndex::Look => {}
        }
        let stat = p.stat(&event.path);
        p.pause("looked at").await;
        if p.stat(&event.path) != stat {
            continue;
        }
        let disk = on_disk(p, &event.path, seen.row.as_ref());
        let decision = decide(p, session, logged, event, &seen, disk).await?;
        p.pause("planned").await;
        let row =
            async |stat, ask| p.commit(&seen, commit_of(p, session, logged, event, stat), session, ask).await;
        let applied = match (decision, event.added) {
            (Plan::Adopt, Some(attributes)) => match adopt(p, &event.path, attributes, disk) {
                Some(stat) => row(Some(stat), false).await?,
                None => false,
            },
            (Plan::Place { known }, Some(attributes)) => {
                let verdict = match disk {
                    OnDisk::File(..) if !known => may_replace(p, &event.path).await?,
                    _ => Verdict::Replace,
                };
                match verdict {
                    Verdict::Hold => return Err(Failed::Held),
                    Verdict::Keep if row(None, true).await? => return Ok(()),
                    Verdict::Keep => continue,
                    Verdict::Replace => {}
                }
                let temp = fetch(p, event, attributes).await?;
                place(p, session, logged, event, &seen, disk, known, Some(temp)).await?
            }
            (Plan::Remove { known }, _) => place(p, session, logged, event, &seen, disk, known, None).await?,
            (Plan::Leave, _) => true,
            (Plan::Gone, _) => row(None, false).await?,
            (Plan::LeaveAlone, _) => row(None, true).await?,
            (Plan::Ignore, _) => unreachable!("removals go to the trash here"),
            (Plan::Adopt | Plan::Place { .. }, None) => unreachable!("only additions are adopted or placed"),
        };
        if applied {
            return Ok(());
        }
    }
    Err(Failed::Changing)
}

pub fn on_disk(p: &Process, path: &MediaPath, row: Option<&Row>) -> OnDisk {
    p.content(path, row).map_or(OnDisk::Absent, |(content, stat)| OnDisk::File(content, stat))
}

/// `may_replace`.
async fn may_replace(p: &Process, path: &MediaPath) -> Result<Verdict, Over> {
    let answer = p.index.held_answer(path, HeldKind::Replacement)?;
    let others = answer.is_none() && p.index.held_count()?.replacements > 0;
    let verdict = judge(answer, others, answer.is_none() && p.world().nodes[p.node].bulk);
    if verdict == Verdict::Hold && answer.is_none() {
        p.note(format!("holds the replacement of {path}"));
        let path = path.clone();
        p.index.write(move |tx| tx.hold(&[path], HeldKind::Replacement)).await?;
    }
    Ok(verdict)
}

/// `decide`.
async fn decide(
    p: &Process,
    session: &Session,
    logged: &Logged,
    event: &Event,
    seen: &PathState,
    disk: OnDisk,
) -> Result<Plan, Over> {
    let older = seen.row.as_ref().filter(|row| row.generation != session.generation);
    let (above_row, replaced_by_row) = match older {
        Some(row) => {
            let created = p.index.created(row.generation)?;
            let same_life = created.as_ref() == Some(&session.created);
            (
                is_above_row(event, row, created.as_ref()),
                is_replaced_by_row(event, logged.version, row, same_life, disk),
            )
        }
        None => (false, false),
    };
    let terms =
        Terms { generation: session.generation, above_row, removals: Removals::Trash, replaced_by_row };
    let known = match disk {
        OnDisk::File(content, stat) if must_ask_log(seen, terms, event, disk) => {
            known_to_log(&p.log, &event.path, content, Some(logged.version), stamp(stat.ctime)).await?
        }
        _ => Known::No,
    };
    let decision = plan(seen, terms, event, disk, known);
    p.note(format!("plans #{} {}: {decision:?}", logged.version, event.path));
    Ok(decision)
}

/// `Committing::commit`.
fn commit_of(p: &Process, session: &Session, logged: &Logged, event: &Event, stat: Option<Stat>) -> Commit {
    Commit {
        path: event.path.clone(),
        kind: event.kind(),
        sha256: event.sha256,
        size: event.added.map_or(0, |added| added.size),
        stat,
        racy: false,
        version: logged.version,
        replaced: event.replaces,
        subject: logged.subject.clone(),
        event: logged.id(p.log.subjects()),
        generation: session.generation,
    }
}

/// `adopt`: mtime and mode are set, the content is read again. `None`: it changed.
fn adopt(p: &Process, path: &MediaPath, attributes: Attributes, disk: OnDisk) -> Option<Stat> {
    let OnDisk::File(content, stat) = disk else { return None };
    let mtime = i64::try_from(attributes.mtime.nanos()).ok()?;
    let mut world = p.world();
    let tick = world.tick();
    let file = world.nodes[p.node].disk.tree.get_mut(path)?;
    if file.stat != stat || file.content != content {
        return None;
    }
    if stat.mtime != mtime {
        (file.stat.mtime, file.stat.ctime) = (mtime, tick);
    }
    Some(file.stat)
}

/// `fetch`: from this node or from the store, into a temp file.
pub async fn fetch(p: &Process, event: &Event, attributes: Attributes) -> Result<String, Failed> {
    let here = p.index.paths_with(event.sha256)?;
    let temp = take_blob(&mut p.world(), p.node, event.sha256, &here, attributes)?;
    p.pause("fetched").await;
    Ok(temp)
}

fn take_blob(
    world: &mut World,
    node: usize,
    content: ContentHash,
    here: &[(MediaPath, Row)],
    attributes: Attributes,
) -> Result<String, Failed> {
    let tree = &world.nodes[node].disk.tree;
    let local = here.iter().any(|(path, _)| tree.get(path).is_some_and(|file| file.content == content));
    match local || world.blobs.contains(&content) {
        _ if !local && !world.up => return Err(Failed::Over),
        false => return Err(Failed::Want(content)),
        true => {}
    }
    let tick = world.tick();
    let mut file = File::new(content, tick);
    file.stat.mtime = i64::try_from(attributes.mtime.nanos()).unwrap_or(i64::MAX);
    let temp = format!("{content}.{tick}");
    world.nodes[node].disk.temp.insert(temp.clone(), file);
    Ok(temp)
}

/// `place`: intent, rename, row. False: the path changed.
#[allow(clippy::too_many_arguments)]
pub async fn place(
    p: &Process,
    session: &Session,
    logged: &Logged,
    event: &Event,
    seen: &PathState,
    disk: OnDisk,
    known: bool,
    temp: Option<String>,
) -> Result<bool, Failed> {
    let old = match disk {
        OnDisk::File(content, stat) => Some((content, stat)),
        OnDisk::Absent => None,
    };
    let placing = temp.is_some();
    let temp = temp.unwrap_or_else(|| format!("{}.{}", event.sha256, p.world().tick()));
    let file = p.world().nodes[p.node].disk.temp.get(&temp).map(|file| file.stat);
    let intent = Intent {
        kind: event.kind(),
        sha256: event.sha256,
        size: event.added.map_or(0, |_| SIZE),
        mtime: file.map_or(0, |stat| stat.mtime),
        version: logged.version,
        replaced: event.replaces,
        event: logged.id(p.log.subjects()),
        old,
        known,
        temp: temp.clone(),
        temp_ino: file.map(|stat| stat.ino),
        role: "replicator".into(),
        owner: p.run.clone(),
        generation: session.generation,
    };
    let stands = p.stat(&event.path) == old.map(|(_, stat)| stat);
    let (path, before, it) = (event.path.clone(), seen.clone(), intent.clone());
    if !stands || !p.index.write(move |tx| tx.intend(&path, &before, &it)).await? {
        p.world().nodes[p.node].disk.temp.remove(&temp);
        return Ok(false);
    }
    p.pause("intended").await;
    {
        let mut world = p.world();
        let tick = world.tick();
        let disk = &mut world.nodes[p.node].disk;
        let renamed = match (old.is_some(), placing) {
            (true, true) => disk.exchange(&temp, &event.path, tick),
            (false, true) => disk.place_new(&temp, &event.path, tick),
            (_, false) => disk.take_out(&temp, &event.path, tick),
        };
        let said = format!("{} renames {} #{}: {renamed}", p.name, event.path, logged.version);
        world.note(said);
        world.notice(p.node, &event.path);
    }
    p.pause("renamed").await;
    Ok(p.resolve(&event.path, &intent).await?)
}
