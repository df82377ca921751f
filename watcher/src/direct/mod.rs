//! What programs ask for over HTTP: the event first, then the disk, so that what the log refuses is never seen here.
//!
//! No offer stands for such an event, since the disk does not have what it says. It answers to the rules as another node's event would: the replicator of this node places it
//! when we die in between, and finds it done otherwise. Placing is that of the replicator (rules 3 and 4), under intents of our own.

mod decide;
mod look;
mod place;
mod spool;

pub use decide::Refusal;
pub use spool::{Name, Spooled};

use crate::{
    node::{Node, PublishError},
    publish::{Cause, Outcome, publish},
    removals,
};
use common::{
    blobs::BlobStore,
    event::{Attributes, Event, Version},
    hash::ContentHash,
    index::IndexError,
    log::{EventLog, Published},
    path::MediaPath,
    place::PlaceError,
    root::RenameError,
    time::Timestamp,
    trust::Session,
};
use decide::{Put, Remove};
use place::Applied;
use std::time::Duration;
use tokio::time::sleep;

/// How often a path is looked at again when it changes under our hands.
const TRIES: usize = 20;
/// How long work on the path that is under way is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);
/// Who uploads says nothing of it.
const MODE: u32 = 0o644;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// An event was published for it.
    pub created: bool,
    /// The path's event.
    pub version: Option<Version>,
}

/// Why it was not, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// Nothing was done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Other work on the path goes on for over 5 s, or it keeps changing.
    #[error("other work on this path does not come to an end")]
    Busy,
    /// Publishing failed. The event may be in the log all the same.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Nothing could be written.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The event is in the log, and this node is not at it yet: asked again, it goes on from there.
    #[error("version {version} is in the log, and not on the disk of this node yet")]
    Unplaced {
        /// The event.
        version: Version,
        /// Why.
        #[source]
        source: Box<DirectError>,
    },
}

/// What both requests work with.
pub struct Direct<'a, L, B> {
    pub node: &'a Node<L, B>,
    pub session: &'a Session,
    pub path: &'a MediaPath,
}

impl<L: EventLog, B: BlobStore> Direct<'_, L, B> {
    /// What an upload of this content would come to now: whether it would have to be written, and stored. Nothing is changed.
    pub async fn foresee(&self, wanted: ContentHash, only_new: bool) -> Result<bool, DirectError> {
        let looked = self.look(false).await?;
        match self.decide(&looked, |facts| decide::put(wanted, facts, only_new)).await?.0 {
            Put::There(_) | Put::AsUsual => Ok(false),
            Put::Place(_) | Put::Publish(_) => Ok(true),
            Put::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Publishes an upload whose blob is stored, and places it. It must be our turn at the path. `file`: what was received; without it, nothing that would have to be written is done.
    pub async fn put(
        &self,
        wanted: ContentHash,
        mut file: Option<Spooled>,
        only_new: bool,
    ) -> Result<Done, DirectError> {
        let _placing = self.node.begin_placing(self.path);
        for _ in 0..TRIES {
            self.node.check(self.session)?;
            let looked = self.look(true).await?;
            let (put, last) = self.decide(&looked, |facts| decide::put(wanted, facts, only_new)).await?;
            match (put, &mut file) {
                (Put::Refused(refusal), _) => return Err(refusal.into()),
                (Put::There(version), _) => return Ok(Done { created: false, version: Some(version) }),
                (Put::AsUsual, _) => {
                    if let Some(done) = self.as_usual(Cause::Finished).await? {
                        return Ok(done);
                    }
                }
                (Put::Place(_) | Put::Publish(_), None) => return Err(DirectError::Busy),
                (Put::Place(version), Some(spooled)) => {
                    let Some((applied, attributes)) = last.and_then(|last| self.addition(&last)) else {
                        continue;
                    };
                    self.finish(spooled, attributes.mode, attributes.mtime).await?;
                    self.place(&applied, file.take()).await?;
                    return Ok(Done { created: false, version: Some(version) });
                }
                (Put::Publish(replaces), Some(spooled)) => {
                    let mtime = Timestamp::now();
                    self.finish(spooled, MODE, mtime).await?;
                    let added = Attributes { size: spooled.size(), mtime, mode: MODE };
                    if let Some(applied) = self.publish(wanted, replaces, Some(added)).await? {
                        let version = applied.version;
                        self.place(&applied, file.take()).await.map_err(|e| unplaced(version, e))?;
                        return Ok(Done { created: true, version: Some(version) });
                    }
                }
            }
        }
        Err(DirectError::Busy)
    }

    /// Publishes a removal, and takes the file out. It must be our turn at the path. `may_remove`: asked before a file is removed from the mirror.
    pub async fn remove(
        &self,
        may_remove: impl Fn() -> Result<bool, PublishError>,
    ) -> Result<Done, DirectError> {
        let _placing = self.node.begin_placing(self.path);
        let mut permitted = false;
        for _ in 0..TRIES {
            self.node.check(self.session)?;
            let looked = self.look(true).await?;
            let (remove, last) = self.decide(&looked, decide::remove).await?;
            match remove {
                Remove::Refused(refusal) => return Err(refusal.into()),
                Remove::Gone(version) => return Ok(Done { created: false, version }),
                Remove::TakeOut(..) => {
                    let Some(applied) = last.and_then(|last| self.applied(&last)) else { continue };
                    let version = Some(applied.version);
                    self.place(&applied, None).await?;
                    return Ok(Done { created: false, version });
                }
                Remove::AsUsual | Remove::Publish(..) if !permitted => {
                    permitted = may_remove()?;
                    if !permitted {
                        return Err(Refusal::TooMany.into());
                    }
                }
                Remove::AsUsual => {
                    if removals::proven(self.node, self.path).await?
                        && let Some(done) = self.as_usual(Cause::Removal).await?
                    {
                        return Ok(done);
                    }
                }
                Remove::Publish(content, replaces) => {
                    if let Some(applied) = self.publish(content, replaces, None).await? {
                        let version = applied.version;
                        self.place(&applied, None).await.map_err(|e| unplaced(version, e))?;
                        return Ok(Done { created: true, version: Some(version) });
                    }
                }
            }
        }
        Err(DirectError::Busy)
    }

    /// The way of users' files. `None`: look again.
    async fn as_usual(&self, cause: Cause) -> Result<Option<Done>, DirectError> {
        match publish(self.node, self.session, self.path, Timestamp::now(), cause).await? {
            Outcome::Published { version, .. } => Ok(Some(Done { created: true, version: Some(version) })),
            Outcome::Skipped(why) => Err(Refusal::InTheWay(why).into()),
            Outcome::Lost => Err(Refusal::Unpublished.into()),
            Outcome::Unchanged | Outcome::NotProven | Outcome::Placing | Outcome::Unstable(_) => {
                sleep(PAUSE).await;
                Ok(None)
            }
        }
    }

    /// Makes the file durable as it will stand. A second time sets what changed.
    async fn finish(&self, spooled: &mut Spooled, mode: u32, mtime: Timestamp) -> Result<(), DirectError> {
        self.node.before_change().await?;
        let (path, owner) = (self.path.clone(), self.node.owner);
        match spooled.finish(path, owner, mode, mtime).await {
            Ok(()) => Ok(()),
            Err(PlaceError::Rename(RenameError::FolderInTheWay)) => {
                Err(Refusal::InTheWay("a folder stands at this path").into())
            }
            Err(PlaceError::Rename(RenameError::FileInTheWay)) => {
                Err(Refusal::InTheWay("a file stands where a folder of this path should be").into())
            }
            Err(PlaceError::Rename(RenameError::Unreachable)) => {
                Err(Refusal::InTheWay("a folder of this path is a symbolic link or a mount point").into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `None`: the path's last event is another by now.
    async fn publish(
        &self,
        sha256: ContentHash,
        replaces: Version,
        added: Option<Attributes>,
    ) -> Result<Option<Applied>, DirectError> {
        let (node, path) = (self.node, self.path.clone());
        node.before_change().await?;
        let (name, detected) = (node.name.clone(), Timestamp::now());
        let event = Event { path, sha256, added, node: name, replaces, detected, was: None };
        node.check(self.session)?;
        let published = node.log.publish(&event).await.map_err(PublishError::Log)?;
        // A log that was reached over another connection may be another log.
        node.check(self.session)?;
        let Published::Stored(version) = published else { return Ok(None) };
        let kind = event.kind();
        tracing::info!(%version, path = %self.path, kind = kind.as_str(), bytes = added.map(|added| added.size), "published on request");
        let id = event.identity(node.log.subjects());
        Ok(Some(Applied { kind, sha256, version, replaced: replaces, id }))
    }
}

fn unplaced(version: Version, source: DirectError) -> DirectError {
    DirectError::Unplaced { version, source: Box::new(source) }
}

impl From<IndexError> for DirectError {
    fn from(error: IndexError) -> Self {
        Self::Publish(error.into())
    }
}
