//! What a collector does with an object store. Names begin with two letters of 256, and each of these is a page: so memory does not grow with the store, also where a
//! store lists in no order.

use super::{
    ObjectBlobs, Objects,
    fault::{bounded, fault},
    uploads,
};
use crate::{
    blobs::{BlobError, Listed, Listing, Orphan, StoreFault, Tombstone},
    hash::ContentHash,
    time::Timestamp,
};
use futures_util::TryStreamExt;
use object_store::{ObjectMeta, ObjectStoreExt, path::Path};
use std::{
    collections::HashMap,
    fs, io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// Pages, from 1.
const PAGES: u64 = 256;
/// For the names of a page: a thousand come with each answer of S3.
const LIST: Duration = Duration::from_secs(120);
const DELETE: Duration = Duration::from_secs(10);

impl ObjectBlobs {
    /// A page of the store.
    pub async fn list(&self, page: u64) -> Result<Listing, BlobError> {
        let (blobs, used) = (self.0.names("blobs", page).await?, self.0.names("used", page).await?);
        let mut used: HashMap<ContentHash, (Timestamp, Path)> =
            used.into_iter().map(|(hash, meta)| (hash, (time_of(&meta), meta.location))).collect();
        let blobs = blobs.into_iter().map(|(hash, meta)| {
            let marked = used.remove(&hash).map(|(time, _)| time);
            Listed::object(hash, meta.size, time_of(&meta).max(marked.unwrap_or(Timestamp::from_nanos(0))))
        });
        let blobs = blobs.collect();
        let tombstones =
            used.into_values().map(|(since, path)| Tombstone::object(since, path.to_string())).collect();
        Ok(Listing { blobs, tombstones, foreign: Vec::new(), next: (page < PAGES).then_some(page + 1) })
    }

    /// Takes a blob away. False: it was stored or marked as in use since it was listed, and stays.
    pub async fn take_away(&self, listed: &Listed) -> Result<bool, BlobError> {
        let (objects, hash) = (&self.0, listed.hash);
        let doing = || format!("taking blob {hash} away");
        let Some(blob) = objects.look(hash).await? else { return Ok(true) };
        let mark = objects.look_at(&objects.used(hash), doing).await?;
        if [Some(blob), mark].into_iter().flatten().any(|meta| time_of(&meta) > listed.used) {
            return Ok(false);
        }
        for key in [objects.blob(hash), objects.used(hash)] {
            objects.delete(&key, doing).await?;
        }
        Ok(true)
    }

    /// Drops the mark of a blob that is not there. Where one came meanwhile, it has an age of its own.
    pub async fn drop_tombstone(&self, path: &str) -> Result<(), BlobError> {
        let key = Path::parse(path).map_err(|error| fault(format!("dropping {path}"), &error.into()))?;
        self.0.delete(&key, || format!("dropping {path}")).await
    }

    /// What broken uploads have left, and is older than this.
    pub async fn orphans(&self, before: Timestamp) -> Result<Vec<Orphan>, BlobError> {
        if let Some(s3) = &self.0.s3 {
            return uploads::broken(s3, &self.0.base.clone().join("blobs"), before).await;
        }
        // Others end uploads by themselves.
        let Some(folder) = self.0.folder.clone() else { return Ok(Vec::new()) };
        let doing = || "looking for broken uploads".to_owned();
        self.0.is_mounted(doing).await?;
        let found = crate::resolve::blocking(move || left_in(folder.join("blobs"), before)).await;
        found.map_err(|error| failed(doing(), &error))
    }

    /// Takes one away. False: it is gone.
    pub async fn take_orphan_away(&self, orphan: &Orphan) -> Result<bool, BlobError> {
        match (orphan.place(), &self.0.s3) {
            ((key, Some(id)), Some(s3)) => uploads::end(s3, key, id).await,
            ((path, _), _) => {
                let path = PathBuf::from(path);
                let doing = format!("removing {}", path.display());
                match crate::resolve::blocking(move || fs::remove_file(path)).await {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                    removed => removed.map(|()| true).map_err(|error| failed(doing, &error)),
                }
            }
        }
    }
}

fn failed(doing: String, error: &io::Error) -> BlobError {
    BlobError::Store { doing, reason: error.to_string(), fault: StoreFault::Refused }
}

impl Objects {
    async fn names(&self, kind: &str, page: u64) -> Result<Vec<(ContentHash, ObjectMeta)>, BlobError> {
        let doing = || format!("listing {}", self.location);
        self.is_mounted(doing).await?;
        let prefix = self.base.clone().join(kind).join(format!("{:02x}", page.saturating_sub(1)));
        let names = self.store.list(Some(&prefix)).try_filter_map(async |meta| {
            let hash = meta.location.filename().and_then(|name| name.parse().ok());
            Ok(hash.map(|hash| (hash, meta)))
        });
        bounded(LIST, doing, names.try_collect()).await
    }

    pub(super) async fn delete(&self, key: &Path, doing: impl Fn() -> String) -> Result<(), BlobError> {
        match self.within(DELETE, doing, self.store.delete(key)).await {
            Err(BlobError::Store { fault: StoreFault::Absent, .. }) => Ok(()),
            done => done,
        }
    }
}

fn time_of(meta: &ObjectMeta) -> Timestamp {
    let time = meta.last_modified;
    Timestamp::from_nanos(
        i128::from(time.timestamp()) * 1_000_000_000 + i128::from(time.timestamp_subsec_nanos()),
    )
}

/// The crate writes into files whose names end with `#` and a number, and renames them.
fn left_in(blobs: PathBuf, before: Timestamp) -> io::Result<Vec<Orphan>> {
    let mut orphans = Vec::new();
    let folders = match fs::read_dir(blobs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(orphans),
        folders => folders?,
    };
    for folder in folders {
        let folder = folder?;
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(folder.path())? {
            let entry = entry?;
            let name = entry.file_name();
            let staged = name.to_str().and_then(|name| name.split_once('#'));
            let ours = staged.is_some_and(|(hash, number)| {
                hash.parse::<ContentHash>().is_ok()
                    && !number.is_empty()
                    && number.bytes().all(|b| b.is_ascii_digit())
            });
            if !ours {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            let age = meta.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            if Timestamp::from_nanos(age.as_nanos() as i128) < before {
                orphans.push(Orphan::file(entry.path().to_string_lossy().into_owned()));
            }
        }
    }
    Ok(orphans)
}
