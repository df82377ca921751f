//! A tree of files in a bucket: each under its path, with its content type, and its hash in the metadata. What has no such hash was not put there by us, and is left alone.

use super::{ObjectBlobs, Objects, OpenError, PATIENCE};
use crate::{
    blobs::{BlobError, Location, Source, StoreFault},
    hash::ContentHash,
    path::MediaPath,
};
use bytes::Bytes;
use object_store::{Attribute, Attributes, GetOptions, ObjectStoreExt, PutOptions, path::Path};
use std::sync::Arc;

/// The metadata field with the hash, in lower-case hex.
const SHA256: &str = "sha256";
/// The folder that no path of a tree begins with.
const CURSOR: &str = ".mirror/export.json";

/// The tree. Cheap to clone.
#[derive(Clone)]
pub struct ObjectTree(Arc<Objects>);

impl ObjectTree {
    /// The tree at a location; nothing is asked of it yet.
    pub fn open(
        location: &Location,
        environment: impl IntoIterator<Item = (String, String)>,
        chunk_size: usize,
    ) -> Result<Self, OpenError> {
        if location.folder().is_some() {
            let reason =
                "a folder keeps no content types: replicator replay --root builds a tree in one".into();
            return Err(OpenError::Settings { location: location.clone(), reason });
        }
        Ok(Self(ObjectBlobs::open(location, environment, chunk_size)?.0))
    }

    /// The key of a path, as it is. `None`: it has bytes that no key may have.
    fn key(&self, path: &MediaPath) -> Option<Path> {
        let path = path.as_path().to_str()?;
        let path = Path::parse(path).ok()?;
        Some(path.parts().fold(self.0.base.clone(), |key, part| key.join(part)))
    }

    fn cursor_key(&self) -> Path {
        CURSOR.split('/').fold(self.0.base.clone(), |key, part| key.join(part))
    }

    /// What stands at a path: `None`: nothing. `Some(None)`: an object that is none of ours.
    pub async fn at(&self, path: &MediaPath) -> Result<Option<Option<ContentHash>>, BlobError> {
        let doing = || format!("looking at {path}");
        let key = self.key(path).ok_or_else(|| no_key(path))?;
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.0.within(PATIENCE, doing, self.0.store.get_opts(&key, options)).await {
            Ok(got) => {
                let hash = got.attributes.get(&Attribute::Metadata(SHA256.into()));
                Ok(Some(hash.and_then(|hash| hash.parse().ok())))
            }
            Err(BlobError::Store { fault: StoreFault::Absent, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a file, over whatever stands there. What the source's name does not say is not put.
    pub async fn put(&self, path: &MediaPath, source: Source) -> Result<(), BlobError> {
        let key = self.key(path).ok_or_else(|| no_key(path))?;
        let kind = mime_guess::from_path(path.as_path()).first_or_octet_stream();
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::ContentType, kind.essence_str().to_owned().into());
        if let Some(name) = source.name {
            attributes.insert(Attribute::Metadata(SHA256.into()), name.to_string().into());
        }
        self.0.put_at(&key, source, attributes).await.map(drop)
    }

    /// Takes an object away.
    pub async fn remove(&self, path: &MediaPath) -> Result<(), BlobError> {
        let key = self.key(path).ok_or_else(|| no_key(path))?;
        self.0.delete(&key, || format!("removing {path}")).await
    }

    /// What was kept of how far an export is.
    pub async fn cursor(&self) -> Result<Option<Bytes>, BlobError> {
        let doing = || format!("reading {CURSOR}");
        let get = async { self.0.store.get(&self.cursor_key()).await?.bytes().await };
        match self.0.within(PATIENCE, doing, get).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(BlobError::Store { fault: StoreFault::Absent, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps it.
    pub async fn keep_cursor(&self, text: Vec<u8>) -> Result<(), BlobError> {
        let key = self.cursor_key();
        let kept = self.0.store.put_opts(&key, text.into(), PutOptions::default());
        self.0.within(PATIENCE, || format!("writing {CURSOR}"), kept).await.map(drop)
    }
}

fn no_key(path: &MediaPath) -> BlobError {
    let (doing, reason) = (format!("exporting {path}"), "a key is UTF-8 without control characters".into());
    BlobError::Store { doing, reason, fault: StoreFault::Unsupported }
}
