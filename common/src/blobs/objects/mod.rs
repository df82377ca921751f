//! Blobs in an object store, by the `object_store` crate: S3 and what speaks like it, a folder that all nodes share, and others.
//!
//! Below the prefix: `blobs/ab/abcd…`, one object for each blob, under its hash; `used/ab/abcd…`, empty, whose age tells when the blob was last found in use;
//! `mediamirror.json`, which says whose store it is. Objects appear whole or not at all, so that what a crash leaves behind are parts of an upload, for gc.
//!
//! There is no compare-and-set here: who stored or found a blob looks again once its event is in the log ([`BlobStore::still_has`]), and a collector reads the log again after
//! it has taken blobs away. So one of both sees it.
//!
//! Costs: a small blob is one request to put (three when it was there) and one to get; a look is one. A large blob goes up in parts of 8 MiB, three at once, up to
//! 80 GB, and its file is read twice: its hash is the object's name, and must be known before. It comes down in ranges of 1 to 8 MiB, two in memory.

mod collect;
mod fault;
mod mark;
mod open;
mod put;
mod reader;
mod tree;
mod uploads;

pub use mark::MarkError;
pub use open::OpenError;
pub use reader::ObjectReader;
pub use tree::ObjectTree;

use super::{BlobError, BlobStore, Location, Mark, Source};
use crate::{hash::ContentHash, limits::RateLimit};
use async_trait::async_trait;
use bytes::Bytes;
use fault::fault;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, aws::AmazonS3, path::Path};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::timeout;

/// For a request that carries nothing of length.
const PATIENCE: Duration = Duration::from_secs(10);
/// Looks at once.
const LOOKS: usize = 32;

/// A handle to the store. Cheap to clone.
#[derive(Clone)]
pub struct ObjectBlobs(Arc<Objects>);

struct Objects {
    store: Arc<dyn ObjectStore>,
    location: Location,
    /// Below which all of it is.
    base: Path,
    chunk_size: usize,
    /// Of an S3 server: what the others have no word for.
    s3: Option<AmazonS3>,
    /// Of a store that is a folder.
    folder: Option<PathBuf>,
}

impl ObjectBlobs {
    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.0.location
    }

    /// How long a blob is; `None`: the store has none of this name.
    pub async fn length(&self, hash: ContentHash) -> Result<Option<u64>, BlobError> {
        Ok(self.0.look(hash).await?.map(|meta| meta.size))
    }
}

impl Objects {
    fn key(&self, kind: &str, name: &str) -> Path {
        self.base.clone().join(kind).join(&name[..2]).join(name)
    }

    fn blob(&self, hash: ContentHash) -> Path {
        self.key("blobs", &hash.to_string())
    }

    fn used(&self, hash: ContentHash) -> Path {
        self.key("used", &hash.to_string())
    }

    async fn look(&self, hash: ContentHash) -> Result<Option<ObjectMeta>, BlobError> {
        self.look_at(&self.blob(hash), || format!("looking for blob {hash}")).await
    }

    async fn look_at(&self, key: &Path, doing: impl Fn() -> String) -> Result<Option<ObjectMeta>, BlobError> {
        match self.within(PATIENCE, &doing, self.store.head(key)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(BlobError::Store { fault: super::StoreFault::Absent, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One request, bounded.
    async fn within<T>(
        &self,
        patience: Duration,
        doing: impl Fn() -> String,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, BlobError> {
        let all = async {
            self.is_mounted(&doing).await?;
            request.await.map_err(|error| fault(doing(), &error))
        };
        timeout(patience, all).await.unwrap_or_else(|_| Err(fault::slow(doing(), patience)))
    }

    /// A folder that is not mounted looks like an empty store, and would be filled: it is a store only while the mark is in it.
    async fn is_mounted(&self, doing: impl Fn() -> String) -> Result<(), BlobError> {
        match &self.folder {
            Some(folder) if !tokio::fs::try_exists(folder.join(mark::NAME)).await.unwrap_or(false) => {
                Err(fault::unmounted(doing(), folder))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl BlobStore for ObjectBlobs {
    type Reader = ObjectReader;

    fn chunk_size(&self) -> usize {
        self.0.chunk_size
    }

    fn needs_names(&self) -> bool {
        true
    }

    async fn contains(&self, hashes: &[ContentHash]) -> Result<Vec<bool>, BlobError> {
        let looks: Vec<_> = hashes.iter().map(|&hash| self.0.look(hash)).collect();
        stream::iter(looks).buffered(LOOKS).map_ok(|found| found.is_some()).try_collect().await
    }

    async fn still_has(&self, hash: ContentHash, _since: u64) -> Result<bool, BlobError> {
        Ok(self.0.look(hash).await?.is_some())
    }

    async fn put(&self, hash: ContentHash, bytes: Bytes) -> Result<(), BlobError> {
        self.0.put(hash, bytes).await
    }

    async fn touch(&self, hash: ContentHash) -> Result<bool, BlobError> {
        if self.0.look(hash).await?.is_none() {
            return Ok(false);
        }
        self.0.mark_used(hash).await?;
        Ok(true)
    }

    async fn put_stream(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        self.0.put_stream(source).await
    }

    async fn put_again(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        self.0.put_stream(source).await
    }

    async fn get(&self, hash: ContentHash, size: u64, limit: &RateLimit) -> Result<ObjectReader, BlobError> {
        ObjectReader::begin(Arc::clone(&self.0), hash, size, 0, limit).await
    }

    async fn get_from(
        &self,
        hash: ContentHash,
        size: u64,
        done: u64,
        mark: &Mark,
        limit: &RateLimit,
    ) -> Result<(ObjectReader, u64), BlobError> {
        let from = if reader::stands_at(mark) == Some(done) && done < size { done } else { 0 };
        Ok((ObjectReader::begin(Arc::clone(&self.0), hash, size, from, limit).await?, from))
    }

    async fn get_by_meta(
        &self,
        hash: ContentHash,
        size: u64,
        limit: &RateLimit,
    ) -> Result<ObjectReader, BlobError> {
        self.get(hash, size, limit).await
    }
}
