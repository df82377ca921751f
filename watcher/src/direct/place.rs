//! Rules 3 and 4 for what was asked for: an event that is in the log comes to the disk, and into the index.

use super::{Direct, DirectError, TRIES, decide::is_known, look::Looked, spool::Spooled};
use crate::look::OnDisk;
use common::{
    blobs::BlobStore,
    event::{Attributes, EventId, Kind, Version},
    hash::ContentHash,
    index::{Commit, Intent, PathState},
    log::{EventLog, Logged},
    nodes::Role,
    place::{PlaceError, Placed},
    root::Root,
};

/// An event that is to be on the disk.
pub(super) struct Applied {
    pub kind: Kind,
    pub sha256: ContentHash,
    pub version: Version,
    pub replaced: Version,
    pub id: EventId,
}

impl<L: EventLog, B: BlobStore> Direct<'_, L, B> {
    pub(super) fn addition(&self, last: &Logged) -> Option<(Applied, Attributes)> {
        let attributes = last.event.as_ref().ok()?.added?;
        Some((self.applied(last)?, attributes))
    }

    pub(super) fn applied(&self, last: &Logged) -> Option<Applied> {
        let event = last.event.as_ref().ok()?;
        Some(Applied {
            kind: event.kind(),
            sha256: event.sha256,
            version: last.version,
            replaced: event.replaces,
            id: last.id(self.node.log.subjects()),
        })
    }

    /// Brings the disk to an event of the log, as the replicator does, which may be at it, too.
    pub(super) async fn place(&self, event: &Applied, mut file: Option<Spooled>) -> Result<(), DirectError> {
        for _ in 0..TRIES {
            self.node.check(self.session)?;
            let Looked { seen, disk } = self.look(true).await?;
            let row = seen.row.as_ref().filter(|row| row.generation == self.session.generation);
            let at = row.map_or(Version::ZERO, |row| row.version);
            let stands = match (event.kind, disk) {
                (Kind::Added, OnDisk::File(content, _)) => content == event.sha256,
                (Kind::Added, OnDisk::Absent) => false,
                (Kind::Removed, disk) => disk == OnDisk::Absent,
            };
            if at > event.version || at == event.version && stands {
                return Ok(());
            }
            if stands {
                if self.commit(&seen, event, disk).await? {
                    return Ok(());
                }
                continue;
            }
            let known = match disk {
                OnDisk::File(content, _) => is_known(row, content),
                OnDisk::Absent => true,
            };
            if event.kind == Kind::Removed && !known {
                // A user's, since we looked: it is published over the removal.
                return Ok(());
            }
            let intent = self.intent(event, disk, known, file.as_ref());
            let folder = match &file {
                Some(file) => Some(file.folder(self.path.clone()).await.map_err(PlaceError::Rename)?),
                None => None,
            };
            // Whatever comes now, and if it is that we are given up.
            file.iter_mut().for_each(|file| file.give_away(true));
            let subjects = self.node.log.subjects();
            match self.node.placer.place(subjects, self.path, &seen, &intent, folder).await? {
                Placed::Done => return Ok(()),
                Placed::Undone => return Err(DirectError::Busy),
                Placed::Changed => file.iter_mut().for_each(|file| file.give_away(false)),
            }
        }
        Err(DirectError::Busy)
    }

    fn intent(&self, event: &Applied, disk: OnDisk, known: bool, file: Option<&Spooled>) -> Intent {
        Intent {
            kind: event.kind,
            sha256: event.sha256,
            size: file.map_or(0, Spooled::size),
            mtime: file.map_or(0, Spooled::mtime),
            version: event.version,
            replaced: event.replaced,
            event: event.id,
            old: match disk {
                OnDisk::Absent => None,
                OnDisk::File(content, stat) => Some((content, stat)),
            },
            known,
            temp: file.map_or_else(|| Root::temp_name(event.sha256), |file| file.name().to_owned()),
            temp_ino: file.map(Spooled::inode),
            role: Role::Watcher.as_str().into(),
            owner: self.node.run.clone(),
            generation: self.session.generation,
        }
    }

    /// The disk is as the event says: only the row is committed. False: the path changed.
    async fn commit(&self, seen: &PathState, event: &Applied, disk: OnDisk) -> Result<bool, DirectError> {
        let (size, stat) = match disk {
            OnDisk::File(_, stat) => (stat.size, Some(stat)),
            OnDisk::Absent => (0, None),
        };
        let commit = Commit {
            path: self.path.clone(),
            kind: event.kind,
            sha256: event.sha256,
            size,
            stat,
            // It may have been written a moment ago: a scan reads it again.
            racy: true,
            version: event.version,
            replaced: event.replaced,
            subject: self.node.log.subjects().of(self.path),
            event: event.id,
            generation: self.session.generation,
        };
        let (seen, generation) = (seen.clone(), self.session.generation);
        let done = self.node.index.write(move |tx| {
            let same = tx.node().generation == generation && tx.path_state(&commit.path)? == seen;
            Ok(same && tx.commit(&commit)?)
        });
        Ok(done.await?)
    }
}
