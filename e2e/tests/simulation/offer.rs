//! The watcher's glue around its decisions: offers, publishing and refusals (`watcher/src/publish/offer.rs`).

use crate::{
    process::{Over, Process},
    watcher::{Change, commit_of, known, last_event},
};
use ::watcher::look::{self, Last, Refused};
use common::{
    event::{Attributes, Event, Kind, Version},
    index::{Commit, HeldKind, Offer, PathState, Stat},
    log::{EventLog, Published},
    path::MediaPath,
    time::Timestamp,
    trust::Session,
};

/// `offer_and_publish`. False: look again.
pub async fn offer_and_publish(
    p: &Process,
    session: &Session,
    path: &MediaPath,
    seen: &PathState,
    change: Change,
    stat: Option<Stat>,
) -> Result<bool, Over> {
    let offered_at = p.world().tick();
    let offer = Offer {
        kind: change.kind,
        sha256: change.sha256,
        size: stat.map_or(0, |stat| stat.size),
        stat,
        racy: false,
        replaces: change.replaces,
        was: change.was,
        generation: session.generation,
    };
    let still = |stat: Option<Stat>| stat.is_none() || p.stat(path) == stat;
    let (at, before, it) = (path.clone(), seen.clone(), offer.clone());
    if !still(stat) || !p.index.write(move |tx| tx.offer(&at, &before, &it)).await? {
        return Ok(false);
    }
    p.note(format!("offers {:?} {path}={} over #{}", offer.kind, p.name_of(offer.sha256), offer.replaces));
    p.pause("offered").await;
    if offer.kind == Kind::Added {
        if !p.world().up {
            withdraw(p, path, &offer).await?;
            return Err(Over);
        }
        // `upload::store`: what is there already is not read.
        let holds = p.content(path, None).is_some_and(|(content, _)| content == offer.sha256);
        if !holds && !p.world().blobs.contains(&offer.sha256) {
            withdraw(p, path, &offer).await?;
            return Ok(false);
        }
        p.world().blobs.insert(offer.sha256);
        p.pause("stored").await;
    }
    let unchanged = if offer.kind == Kind::Added { still(stat) } else { p.stat(path).is_none() };
    if !unchanged {
        withdraw(p, path, &offer).await?;
        return Ok(false);
    }
    p.pause("unchanged").await;
    let event = event_of(p, path, &offer);
    p.check(session)?;
    p.world().set_clock();
    let published = p.log.publish(&event).await?;
    if let Published::Stored(version) = published {
        p.world().published(version, &event, offered_at);
    }
    p.pause("published").await;
    p.check(session)?;
    match published {
        Published::Stored(version) => {
            let commit = Commit {
                path: path.clone(),
                kind: offer.kind,
                sha256: offer.sha256,
                size: offer.size,
                stat: offer.stat,
                racy: false,
                version,
                replaced: offer.replaces,
                subject: p.log.subjects().of(path),
                event: event.identity(p.log.subjects()),
                generation: session.generation,
            };
            commit_and_withdraw(p, commit, &offer).await?;
            Ok(true)
        }
        Published::Refused => after_refusal(p, session, path, &offer).await,
    }
}

fn event_of(p: &Process, path: &MediaPath, offer: &Offer) -> Event {
    let mtime = |stat: Stat| Timestamp::from_nanos(i128::from(stat.mtime));
    let attributes = offer.stat.map(|stat| Attributes { size: stat.size, mtime: mtime(stat), mode: 0o644 });
    Event {
        path: path.clone(),
        sha256: offer.sha256,
        added: attributes,
        node: p.name.clone(),
        replaces: offer.replaces,
        detected: Timestamp::from_nanos(0),
        was: offer.was.clone(),
    }
}

/// `withdraw`.
async fn withdraw(p: &Process, path: &MediaPath, offer: &Offer) -> Result<(), Over> {
    let (path, offer) = (path.clone(), offer.clone());
    p.index.write(move |tx| tx.withdraw(&path, &offer)).await?;
    Ok(())
}

/// `commit_and_withdraw`.
async fn commit_and_withdraw(p: &Process, commit: Commit, offer: &Offer) -> Result<(), Over> {
    p.note(format!("row {}={} {:?} #{}", commit.path, p.name_of(commit.sha256), commit.kind, commit.version));
    let offer = offer.clone();
    let done = p.index.write(move |tx| {
        tx.commit(&commit)?;
        tx.withdraw(&commit.path, &offer)?;
        tx.release(&commit.path, HeldKind::Removal)
    });
    done.await?;
    Ok(())
}

/// `after_refusal`. False: look again.
async fn after_refusal(
    p: &Process,
    session: &Session,
    path: &MediaPath,
    offer: &Offer,
) -> Result<bool, Over> {
    let last = p.log.last(path).await?;
    p.pause("last event read").await;
    let event = last.as_ref().and_then(last_event);
    let row = p.index.path_state(path)?.row.filter(|row| row.generation == session.generation);
    let refused = look::refused(offer, event.as_ref(), row.as_ref());
    p.note(format!("refused {path}={}: {refused:?}", p.name_of(offer.sha256)));
    if !matches!(refused, Refused::Same | Refused::MarkLost) {
        withdraw(p, path, offer).await?;
    }
    match refused {
        Refused::LookAgain => Ok(false),
        Refused::Dropped => Ok(true),
        Refused::Unexplained => Err(Over),
        Refused::Same => {
            let commit = last.as_ref().and_then(|last| commit_of(p, session, last, offer.stat));
            let Some(commit) = commit else { return Ok(false) };
            let offer = offer.clone();
            let settled = p.index.write(move |tx| {
                let settled = tx.settle(&offer, &commit)?;
                if settled {
                    tx.release(&commit.path, HeldKind::Removal)?;
                }
                Ok(settled)
            });
            Ok(settled.await?)
        }
        Refused::MarkLost => mark_lost(p, path, offer, event.map(|event| event.version)).await,
        Refused::OverRemoval => {
            let rewritten = row.as_ref().is_some_and(|row| row.rewritten);
            let (Some(last), Some(stat)) = (last, offer.stat) else { return Ok(false) };
            if !rewritten && known(p, path, offer.sha256, stat).await?.is_old() {
                return Ok(true);
            }
            p.pause("history read").await;
            // `again`.
            let seen = p.index.path_state(path)?;
            if seen.intent.is_some() || seen.offer.is_some() {
                return Ok(false);
            }
            let was = offer.was.clone();
            let change = Change { kind: Kind::Added, sha256: offer.sha256, replaces: last.version, was };
            Box::pin(offer_and_publish(p, session, path, &seen, change, offer.stat)).await
        }
    }
}

async fn mark_lost(
    p: &Process,
    path: &MediaPath,
    offer: &Offer,
    theirs: Option<Version>,
) -> Result<bool, Over> {
    let (path, offer) = (path.clone(), offer.clone());
    let marked = p.index.write(move |tx| {
        let row = tx.path_state(&path)?.row.filter(|row| row.generation == offer.generation);
        let open =
            row.is_none_or(|row| Some(row.version) < theirs) && tx.node().generation == offer.generation;
        if tx.withdraw(&path, &offer)? && open {
            tx.mark(&path, |row| row.lost = Some(offer.sha256))?;
            return Ok(true);
        }
        Ok(false)
    });
    Ok(marked.await?)
}

/// `settle_offers`.
pub async fn settle_offers(p: &Process, session: &Session) -> Result<Vec<MediaPath>, Over> {
    let mut paths = Vec::new();
    for (path, offer) in p.index.offers()? {
        settle(p, session, &path, offer).await?;
        paths.push(path);
        p.pause("offer settled").await;
    }
    Ok(paths)
}

/// `settle`.
pub async fn settle(p: &Process, session: &Session, path: &MediaPath, offer: Offer) -> Result<(), Over> {
    let last = p.log.last(path).await?;
    p.pause("last event read").await;
    let answered = last.filter(|last| {
        let same = |event: &Last| (event.kind, event.sha256) == (offer.kind, offer.sha256);
        last.version > offer.replaces && last_event(last).as_ref().is_some_and(same)
    });
    let commit = answered.as_ref().and_then(|last| commit_of(p, session, last, offer.stat));
    let path = path.clone();
    p.note(format!(
        "settles its offer of {path}: {}",
        if commit.is_some() { "published" } else { "dropped" }
    ));
    let settled =
        p.index.write(move |tx| match commit.filter(|commit| commit.generation == offer.generation) {
            Some(commit) => tx.settle(&offer, &commit),
            None => tx.withdraw(&path, &offer),
        });
    settled.await?;
    Ok(())
}
