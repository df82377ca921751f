//! Reading an object in ranges, the next on its way while one is used. What a lost connection has cut off goes on with a range.

use super::{Objects, fault::fault};
use crate::{
    blobs::{BlobError, BlobReader, Mark},
    hash::ContentHash,
    limits::RateLimit,
};
use async_trait::async_trait;
use bytes::Bytes;
use object_store::{GetOptions, GetRange};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

/// Bytes of a range: the least and the most.
const RANGE: (u64, u64) = (1 << 20, 8 << 20);
/// A range that comes faster than this is followed by a longer one, and one that takes longer by a shorter.
const PACE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// For a range: some 35 KB/s at least.
const PATIENCE: Duration = Duration::from_secs(30);
/// Under a limit, what passes in so many seconds is asked for at once; a chunk at least.
const RANGE_SECONDS: usize = 2;

/// Where a reader stands: what a [`Mark`] of this store says, as JSON.
#[derive(Serialize, Deserialize)]
struct Place {
    /// Bytes that were handed out.
    at: u64,
}

pub fn stands_at(mark: &Mark) -> Option<u64> {
    serde_json::from_slice::<Place>(mark.as_bytes()).ok().map(|place| place.at)
}

/// Reads one blob.
pub struct ObjectReader {
    objects: Arc<Objects>,
    hash: ContentHash,
    size: u64,
    /// Handed out.
    at: u64,
    /// Here, and not yet handed out.
    ready: Bytes,
    /// On its way.
    coming: Option<Coming>,
    range: u64,
    limit: RateLimit,
}

type Coming = AbortOnDropHandle<Result<(Bytes, Duration), BlobError>>;

impl ObjectReader {
    pub(super) async fn begin(
        objects: Arc<Objects>,
        hash: ContentHash,
        size: u64,
        from: u64,
        limit: &RateLimit,
    ) -> Result<Self, BlobError> {
        let (range, limit) = (RANGE.0, limit.clone());
        let mut reader =
            Self { objects, hash, size, at: from, ready: Bytes::new(), coming: None, range, limit };
        if from < size {
            reader.ask(from);
            // Whether it is there is known from now on.
            reader.come().await?;
        }
        Ok(reader)
    }

    fn ask(&mut self, from: u64) {
        let chunk = self.objects.chunk_size as u64;
        let passes = self.limit.in_seconds(RANGE_SECONDS) as u64 / chunk * chunk;
        let length = self.range.min(passes).max(chunk).min(self.size - from);
        let (objects, hash, size, limit) =
            (Arc::clone(&self.objects), self.hash, self.size, self.limit.clone());
        let request = async move {
            limit.take(usize::try_from(length).unwrap_or(usize::MAX)).await;
            let began = Instant::now();
            objects.range(hash, size, (from, length)).await.map(|bytes| (bytes, began.elapsed()))
        };
        self.coming = Some(AbortOnDropHandle::new(tokio::spawn(request)));
    }

    async fn come(&mut self) -> Result<(), BlobError> {
        let Some(coming) = &mut self.coming else { return Ok(()) };
        let come = coming.await;
        self.coming = None;
        let (bytes, took) = match come {
            Ok(come) => come?,
            Err(stopped) => std::panic::resume_unwind(stopped.into_panic()),
        };
        self.range = match took {
            took if took < PACE.0 => (self.range * 2).min(RANGE.1),
            took if took > PACE.1 => (self.range / 2).max(RANGE.0),
            _ => self.range,
        };
        self.ready = bytes;
        let next = self.at + self.ready.len() as u64;
        if next < self.size {
            self.ask(next);
        }
        Ok(())
    }
}

impl Objects {
    async fn range(
        &self,
        hash: ContentHash,
        size: u64,
        (from, length): (u64, u64),
    ) -> Result<Bytes, BlobError> {
        let doing = || format!("reading blob {hash}");
        let range = Some(GetRange::Bounded(from..from + length));
        let options = GetOptions { range, ..GetOptions::default() };
        let damaged = |reason| Err(BlobError::Damaged { hash, reason });
        let other_size = |found: u64| damaged(format!("it has {found} bytes, and not {size}"));
        let request = async {
            self.is_mounted(doing).await?;
            let got = match self.store.get_opts(&self.blob(hash), options).await {
                Ok(got) => got,
                Err(object_store::Error::NotFound { .. }) => return Err(BlobError::Missing(hash)),
                // A range behind the end of a shorter one is an error, and stores have their own words for it.
                Err(error) => {
                    return match self.look(hash).await {
                        Ok(Some(found)) if found.size != size => other_size(found.size),
                        _ => Err(fault(doing(), &error)),
                    };
                }
            };
            if got.meta.size != size {
                return other_size(got.meta.size);
            }
            let bytes = got.bytes().await.map_err(|error| fault(doing(), &error))?;
            if bytes.len() as u64 != length {
                return damaged(format!("{} bytes came of {length}", bytes.len()));
            }
            Ok(bytes)
        };
        timeout(PATIENCE, request).await.unwrap_or_else(|_| Err(super::fault::slow(doing(), PATIENCE)))
    }
}

#[async_trait]
impl BlobReader for ObjectReader {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.ready.is_empty() {
            self.come().await?;
        }
        if self.ready.is_empty() {
            return Ok(None);
        }
        let chunk = self.ready.split_to(self.objects.chunk_size.min(self.ready.len()));
        self.at += chunk.len() as u64;
        Ok(Some(chunk))
    }

    fn mark(&self) -> Option<Mark> {
        serde_json::to_vec(&Place { at: self.at }).ok().map(Mark)
    }
}
