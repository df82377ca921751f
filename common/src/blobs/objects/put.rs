//! Storing blobs: a small one by one request, a large one in parts that become an object together.

use super::{Objects, PATIENCE, fault::bounded};
use crate::{
    blobs::{BlobError, Source, StoreFault},
    hash::ContentHash,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use object_store::{
    Attributes, MultipartUpload, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    UploadPart, path::Path,
};
use std::{io, time::Duration};
use tokio::time::timeout;

/// Of so many bytes each but the last; S3 takes no smaller ones than 5 MiB, and 10,000 of them.
const PART: usize = 8 << 20;
/// Parts on their way.
const PARTS: usize = 3;
/// For a request that carries a blob of one chunk.
const SMALL: Duration = Duration::from_secs(30);
/// For a part: some 70 KB/s at least.
const LARGE: Duration = Duration::from_secs(120);

impl Objects {
    pub(super) async fn put(&self, hash: ContentHash, bytes: Bytes) -> Result<(), BlobError> {
        let (key, size) = (self.blob(hash), bytes.len() as u64);
        let doing = || format!("storing blob {hash}");
        let as_new = PutOptions::from(PutMode::Create);
        match self.within(SMALL, doing, self.store.put_opts(&key, bytes.clone().into(), as_new)).await {
            Ok(_) => return Ok(()),
            Err(BlobError::Store { fault: StoreFault::Exists, .. }) => {
                // One of another length is none: it is replaced.
                if self.look(hash).await?.is_some_and(|meta| meta.size == size) {
                    return self.mark_used(hash).await;
                }
            }
            // Not every store knows the condition. The bytes would be the same.
            Err(BlobError::Store { fault: StoreFault::Unsupported, .. }) => {}
            Err(error) => return Err(error),
        }
        self.within(SMALL, doing, self.store.put(&key, bytes.into())).await.map(drop)
    }

    /// What gc sees of a blob that is in use.
    pub(super) async fn mark_used(&self, hash: ContentHash) -> Result<(), BlobError> {
        let doing = || format!("marking blob {hash} as in use");
        self.within(PATIENCE, doing, self.store.put(&self.used(hash), PutPayload::new())).await.map(drop)
    }

    pub(super) async fn put_stream(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        let key = source.name.map(|name| self.blob(name)).unwrap_or_default();
        self.put_at(&key, source, Attributes::default()).await
    }

    /// What the source has, under a key, unless it is not what its name says.
    pub(super) async fn put_at(
        &self,
        key: &Path,
        mut source: Source,
        attributes: Attributes,
    ) -> Result<(ContentHash, u64), BlobError> {
        let Some(name) = source.name else {
            // It was begun for a store that gives names at the end.
            return Err(BlobError::Source(io::Error::other("the blobs are kept in another store by now")));
        };
        let doing = || format!("storing blob {name}");
        let (mut gathered, mut more) = (Gathered::default(), true);
        while more && gathered.length < PART {
            more = gathered.take(source.chunks.recv().await)?;
        }
        let (first, size) = gathered.part();
        if !more {
            is_named(source, name).await?;
            let options = PutOptions::from(attributes);
            self.within(LARGE, doing, self.store.put_opts(key, first, options)).await?;
            return Ok((name, size));
        }
        let options = PutMultipartOptions::from(attributes);
        let upload = self.within(PATIENCE, doing, self.store.put_multipart_opts(key, options)).await?;
        let mut upload = Uploading(Some(upload));
        let stored = self.upload(upload.get(), source, name, (first, size)).await;
        upload.end(stored.is_ok()).await;
        Ok((name, stored?))
    }

    async fn upload(
        &self,
        upload: &mut dyn MultipartUpload,
        mut source: Source,
        name: ContentHash,
        (first, mut size): (PutPayload, u64),
    ) -> Result<u64, BlobError> {
        let doing = || format!("storing blob {name}");
        let send = |part: UploadPart| bounded(LARGE, doing, part);
        let mut under_way = FuturesUnordered::from_iter([send(upload.put_part(first))]);
        let (mut gathered, mut more) = (Gathered::default(), true);
        while more || !under_way.is_empty() {
            tokio::select! {
                Some(sent) = under_way.next(), if !under_way.is_empty() => sent?,
                chunk = source.chunks.recv(), if more && under_way.len() < PARTS => {
                    more = gathered.take(chunk)?;
                    if gathered.length >= PART || !more && gathered.length > 0 {
                        let (payload, length) = std::mem::take(&mut gathered).part();
                        under_way.push(send(upload.put_part(payload)));
                        size += length;
                    }
                }
            }
        }
        drop(under_way);
        is_named(source, name).await?;
        bounded(LARGE, doing, upload.complete()).await?;
        Ok(size)
    }
}

/// What was read of a source, and does not make a part yet.
#[derive(Default)]
struct Gathered {
    chunks: Vec<Bytes>,
    length: usize,
}

impl Gathered {
    /// False: that was the end.
    fn take(&mut self, chunk: Option<io::Result<Bytes>>) -> Result<bool, BlobError> {
        let Some(chunk) = chunk else { return Ok(false) };
        let chunk = chunk.map_err(BlobError::Source)?;
        self.length += chunk.len();
        self.chunks.push(chunk);
        Ok(true)
    }

    fn part(self) -> (PutPayload, u64) {
        (self.chunks.into_iter().collect(), self.length as u64)
    }
}

/// What came is what its name says.
async fn is_named(source: Source, name: ContentHash) -> Result<(), BlobError> {
    if source.hash.await == Ok(name) {
        return Ok(());
    }
    Err(BlobError::Source(io::Error::other("it changed while it was read")))
}

/// An upload whose parts are taken back unless it came to its end.
struct Uploading(Option<Box<dyn MultipartUpload>>);

impl Uploading {
    fn get(&mut self) -> &mut dyn MultipartUpload {
        self.0.as_mut().expect("it is there until its end").as_mut()
    }

    async fn end(mut self, complete: bool) {
        if let Some(mut upload) = self.0.take().filter(|_| !complete) {
            let _ = timeout(PATIENCE, upload.abort()).await;
        }
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        // Who asked for it has given it up.
        if let (Some(mut upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { timeout(PATIENCE, upload.abort()).await });
        }
    }
}
