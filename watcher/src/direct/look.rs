//! The facts that [`decide`](super::decide) goes by: index, disk and log of one path.

use super::{
    Direct, DirectError, PATIENCE, PAUSE, Refusal,
    decide::{Facts, Last},
};
use crate::{look::OnDisk, node::PublishError};
use common::{
    blobs::BlobStore,
    content::{self, ReadError},
    index::{PathState, Row},
    log::{EventLog, Logged},
    path::MediaPath,
    resolve::blocking,
    root::{Look, Root},
};
use rustix::fs::Dir;
use std::{io, sync::Arc};
use tokio::time::{Instant, sleep};

/// The path, looked at at one moment.
pub(super) struct Looked {
    pub seen: PathState,
    pub disk: OnDisk,
}

impl<L: EventLog, B: BlobStore> Direct<'_, L, B> {
    /// The path once nothing else is under way there: no intent of the replicator, no offer of a user's file.
    /// `alone`: it is our turn at this path, so that an intent of this run was left by a try that failed after it.
    pub(super) async fn look(&self, alone: bool) -> Result<Looked, DirectError> {
        let (node, path, began) = (self.node, self.path, Instant::now());
        if node.rules().covers_file(path.as_path()) {
            return Err(Refusal::Ignored.into());
        }
        loop {
            let seen = node.index.path_state(path)?;
            match &seen.intent {
                Some(intent) if alone && intent.owner == node.run => node.finish(path, intent).await?,
                Some(intent) => _ = node.resolve_abandoned(path, intent).await?,
                None if seen.offer.is_none() => {
                    if let Some(disk) = self.on_disk(seen.row.clone()).await? {
                        return Ok(Looked { seen, disk });
                    }
                }
                None => {}
            }
            if began.elapsed() > PATIENCE {
                return Err(DirectError::Busy);
            }
            sleep(PAUSE).await;
        }
    }

    /// What stands there; the file is read only when its stat does not tell its content. `None`: it changed meanwhile.
    async fn on_disk(&self, row: Option<Row>) -> Result<Option<OnDisk>, DirectError> {
        let (root, at) = (Arc::clone(&self.node.root), self.path.clone());
        let disk = |error| PublishError::disk(self.path, error);
        blocking(move || match root.look(&at).map_err(Ok)? {
            Look::Absent => Ok(Some(OnDisk::Absent)),
            Look::Folder if is_empty(&root, &at).map_err(Ok)? => Ok(Some(OnDisk::Absent)),
            Look::Folder => Err(Err(Refusal::InTheWay("a folder stands at this path"))),
            Look::Other(what) | Look::Unreachable(what) => Err(Err(Refusal::InTheWay(what))),
            Look::File(stat) => {
                let told = row.filter(|row| row.stat == Some(stat.stat) && !row.racy);
                match told.as_ref().and_then(Row::content) {
                    Some(content) => Ok(Some(OnDisk::File(content, stat.stat))),
                    None => match content::read(&root, &at, 0) {
                        Ok(reading) => Ok(Some(OnDisk::File(reading.hash, reading.stat.stat))),
                        Err(ReadError::Io(error)) => Err(Ok(error)),
                        Err(ReadError::Changed | ReadError::GivenUp) => Ok(None),
                    },
                }
            }
        })
        .await
        .map_err(|failed: Result<io::Error, Refusal>| match failed {
            Ok(error) => disk(error).into(),
            Err(refusal) => refusal.into(),
        })
    }

    pub(super) async fn decide<T>(
        &self,
        looked: &Looked,
        decide: impl FnOnce(Facts<'_>) -> T,
    ) -> Result<(T, Option<Logged>), DirectError> {
        let (node, path) = (self.node, self.path);
        let logged = node.log.last(path).await.map_err(PublishError::Log)?;
        let parked = node.index.parked_of(path)?.filter(|parked| parked.permanent);
        let last = match &logged {
            None => Last::None,
            Some(logged) => match &logged.event {
                Ok(event) => Last::Event(event.kind(), event.sha256, logged.version),
                Err(_) => Last::Other(logged.version),
            },
        };
        let facts = Facts {
            row: looked.seen.row.as_ref(),
            generation: self.session.generation,
            parked: parked.map(|parked| parked.version),
            last,
            disk: looked.disk,
        };
        Ok((decide(facts), logged))
    }
}

fn is_empty(root: &Root, path: &MediaPath) -> io::Result<bool> {
    let names = Dir::read_from(root.folder(path.as_path())?)?;
    for name in names {
        if !matches!(name?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
