//! Rule 2 and rule 6: an offer that is durable, the publish, and what a refusal comes to.

use super::{Change, Outcome, commit_of, known, last_event};
use crate::{
    facts::still,
    look::{self, Last, Refused},
    node::{Node, PublishError},
    removals,
    upload::{self, Content},
};
use common::{
    blobs::BlobStore,
    event::{Attributes, Event, Kind},
    index::{Commit, HeldKind, Offer, PathState},
    log::{EventLog, Logged, Published},
    path::MediaPath,
    root::FileStat,
    time::Timestamp,
    trust::Session,
};
use std::sync::Arc;

/// Rule 2: the offer is durable before the event is published, the blob is stored before it, and the file is still the one that was read.
/// `None`: it changed; look again.
pub(super) async fn offer_and_publish<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    path: &MediaPath,
    seen: &PathState,
    change: Change,
    content: Option<Content>,
    detected: Timestamp,
) -> Result<Option<Outcome>, PublishError> {
    node.before_change().await?;
    let stored_in = node.blobs.generation();
    let file = content.as_ref().map(|content| content.stat);
    let offer = Offer {
        kind: change.kind,
        sha256: change.sha256,
        size: file.map_or(0, |file| file.stat.size),
        stat: file.map(|file| file.stat),
        racy: content.as_ref().is_some_and(|content| content.racy),
        replaces: change.replaces,
        was: change.was,
        generation: session.generation,
    };
    let offered = {
        let (root, path, seen, offer) = (Arc::clone(&node.root), path.clone(), seen.clone(), offer.clone());
        node.index.write(move |tx| Ok(still(&root, &path, offer.stat) && tx.offer(&path, &seen, &offer)?))
    };
    let offered = match content {
        // The blob may go up while the offer is written: without its event it is only bytes.
        Some(content) => {
            let (offered, stored) = tokio::join!(offered, upload::store(node, path, content));
            match (offered?, stored) {
                (true, Ok(true)) => true,
                (true, failed) => {
                    withdraw(node, path, &offer).await?;
                    failed?;
                    false
                }
                (false, _) => false,
            }
        }
        None => offered.await?,
    };
    if !offered {
        return Ok(None);
    }
    let event = Event {
        path: path.clone(),
        sha256: offer.sha256,
        added: file.map(|file| Attributes {
            size: file.stat.size,
            mtime: file.mtime,
            mode: file.mode & 0o777,
        }),
        node: node.name.clone(),
        replaces: offer.replaces,
        detected,
        was: offer.was.clone(),
    };
    let now = node.facing.still(path, offer.stat).await?;
    let unchanged = match offer.kind {
        Kind::Added => now.unchanged,
        Kind::Removed => removals::proven(node, path).await?,
    };
    if !unchanged {
        withdraw(node, path, &offer).await?;
        return Ok(None);
    }
    node.check_at(session, now.stage)?;
    let published = node.log.publish(&event).await?;
    // A log that was reached over another connection may be another log: the offer stands, and is settled after the next look at the log.
    node.check_connection(session)?;
    match published {
        Published::Stored(version) => {
            let commit = Commit {
                path: path.clone(),
                kind: offer.kind,
                sha256: offer.sha256,
                size: offer.size,
                stat: offer.stat,
                racy: offer.racy,
                version,
                replaced: offer.replaces,
                subject: node.log.subjects().of(path),
                event: event.identity(node.log.subjects()),
                generation: session.generation,
            };
            if !commit_and_withdraw(node, commit, &offer).await? {
                return Err(PublishError::SessionOver);
            }
            let bytes = (offer.kind == Kind::Added).then_some(offer.size);
            if bytes.is_some() {
                upload::look_again(node, offer.sha256, stored_in).await;
            }
            Ok(Some(Outcome::Published { version, bytes, racy: offer.racy }))
        }
        Published::Refused => after_refusal(node, session, path, &offer, file).await,
    }
}

async fn withdraw<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    offer: &Offer,
) -> Result<(), PublishError> {
    let (path, offer) = (path.clone(), offer.clone());
    node.index.write(move |tx| tx.withdraw(&path, &offer)).await?;
    Ok(())
}

/// False: another generation has begun meanwhile, and the offer stands until its log was looked at.
async fn commit_and_withdraw<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    commit: Commit,
    offer: &Offer,
) -> Result<bool, PublishError> {
    let offer = offer.clone();
    let committed = node.index.write(move |tx| {
        if tx.node().generation != commit.generation || tx.node().restored {
            return Ok(false);
        }
        tx.commit(&commit)?;
        tx.withdraw(&commit.path, &offer)?;
        tx.release(&commit.path, HeldKind::Removal)?;
        Ok(true)
    });
    Ok(committed.await?)
}

/// Rule 6. `None`: look again.
async fn after_refusal<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    path: &MediaPath,
    offer: &Offer,
    file: Option<FileStat>,
) -> Result<Option<Outcome>, PublishError> {
    let last = node.log.last(path).await?;
    let event = last.as_ref().and_then(last_event);
    let row = node.index.path_state(path)?.row.filter(|row| row.generation == session.generation);
    // Poison is no reason to stay silent: ours is published over it, as over any event that cannot be applied.
    if let (Some(last), None) = (&last, &event) {
        withdraw(node, path, offer).await?;
        let change =
            Change { kind: offer.kind, sha256: offer.sha256, replaces: last.version, was: offer.was.clone() };
        return again(node, session, path, change, offer, file).await;
    }
    let refused = look::refused(offer, event.as_ref(), row.as_ref());
    if !matches!(refused, Refused::Same | Refused::MarkLost) {
        withdraw(node, path, offer).await?;
    }
    match refused {
        Refused::LookAgain => Ok(None),
        Refused::Dropped => Ok(Some(Outcome::Unchanged)),
        Refused::Unexplained => Err(PublishError::SessionOver),
        Refused::Same => {
            let stat = offer.stat.map(|stat| (stat, offer.racy));
            let commit = last.as_ref().and_then(|last| commit_of(node, session, last, offer.size, stat));
            let Some(commit) = commit else { return Ok(None) };
            let (version, bytes, racy) = (commit.version, Some(offer.size), offer.racy);
            let offer = offer.clone();
            let settled = node.index.write(move |tx| {
                let settled = tx.settle(&offer, &commit)?;
                if settled {
                    tx.release(&commit.path, HeldKind::Removal)?;
                }
                Ok(settled)
            });
            Ok(settled.await?.then_some(Outcome::Published { version, bytes, racy }))
        }
        Refused::MarkLost => {
            let (path, offer, theirs) = (path.clone(), offer.clone(), event.map(|event| event.version));
            let marked = node.index.write(move |tx| {
                let row = tx.path_state(&path)?.row.filter(|row| row.generation == offer.generation);
                // Once theirs is placed, ours is in the trash, and nothing is left to mark.
                let open = row.is_none_or(|row| Some(row.version) < theirs)
                    && tx.node().generation == offer.generation;
                if tx.withdraw(&path, &offer)? && open {
                    tx.mark(&path, |row| row.lost = Some(offer.sha256))?;
                    return Ok(true);
                }
                Ok(false)
            });
            Ok(marked.await?.then_some(Outcome::Lost))
        }
        Refused::OverRemoval => {
            let rewritten = row.as_ref().is_some_and(|row| row.rewritten);
            let (Some(last), Some(stat)) = (last, file) else { return Ok(None) };
            let content = Content { hash: offer.sha256, stat, racy: offer.racy, held: upload::Held::Stored };
            if !rewritten && known(node, path, &content).await?.is_old() {
                return Ok(Some(Outcome::Unchanged));
            }
            let change = Change {
                kind: Kind::Added,
                sha256: offer.sha256,
                replaces: last.version,
                was: offer.was.clone(),
            };
            again(node, session, path, change, offer, file).await
        }
    }
}

/// Publishes what was refused once more, over what was found there. Its blob is stored.
async fn again<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    path: &MediaPath,
    change: Change,
    offer: &Offer,
    file: Option<FileStat>,
) -> Result<Option<Outcome>, PublishError> {
    let seen = node.index.path_state(path)?;
    if seen.intent.is_some() || seen.offer.is_some() {
        return Ok(None);
    }
    let content =
        file.map(|stat| Content { hash: offer.sha256, stat, racy: offer.racy, held: upload::Held::Stored });
    Box::pin(offer_and_publish(node, session, path, &seen, change, content, Timestamp::now())).await
}

/// Offers that a crash or a lost connection left: the path's last event says whether they were published (rule 2). Returns their paths, to be looked at again.
pub async fn settle_offers<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
) -> Result<Vec<MediaPath>, PublishError> {
    let offers = node.index.offers()?;
    let paths: Vec<MediaPath> = offers.iter().map(|(path, _)| path.clone()).collect();
    let lasts = node.log.lasts(&paths).await?;
    for ((path, offer), last) in offers.into_iter().zip(lasts) {
        settle(node, session, &path, offer, last).await?;
    }
    Ok(paths)
}

/// The same for one path, before anything else is offered there: an own event that is not known as such would look like another node's.
pub(super) async fn settle_offer<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    path: &MediaPath,
    offer: Offer,
) -> Result<(), PublishError> {
    let last = node.log.last(path).await?;
    settle(node, session, path, offer, last).await
}

async fn settle<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    session: &Session,
    path: &MediaPath,
    offer: Offer,
    last: Option<Logged>,
) -> Result<(), PublishError> {
    let answered = last.filter(|last| {
        let same = |event: &Last| (event.kind, event.sha256) == (offer.kind, offer.sha256);
        last.version > offer.replaces && last_event(last).as_ref().is_some_and(same)
    });
    let stat = offer.stat.map(|stat| (stat, offer.racy));
    let commit = answered.as_ref().and_then(|last| commit_of(node, session, last, offer.size, stat));
    let path = path.clone();
    node.index
        .write(move |tx| match commit.filter(|commit| commit.generation == offer.generation) {
            Some(commit) => tx.settle(&offer, &commit),
            None => tx.withdraw(&path, &offer),
        })
        .await?;
    Ok(())
}
