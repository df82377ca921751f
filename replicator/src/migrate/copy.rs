//! Copying what the log names from one store to another.
//!
//! Memory: 32 bytes and some for each blob; a chunk for each small one that is under way, some 40 MiB for each of the four large ones.

use crate::restock::is_whole;
use bytes::BytesMut;
use common::{
    bar::Bar,
    blobs::{BlobError, BlobReader, BlobStore, Blobs, Source, Store},
    broker::BrokerError,
    event::Version,
    hash::{ContentHash, Hasher},
    limits::RateLimit,
    log::{EventLog, JetStreamLog},
};
use futures_util::{StreamExt, stream};
use indicatif::HumanBytes;
use std::{
    collections::{HashMap, HashSet},
    io,
    sync::Arc,
};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Events read at once.
const PAGE: usize = 500;
/// Large blobs at once.
const LARGE: usize = 4;
/// Chunks between both stores.
const WINDOW: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// What a pass came to.
#[derive(Default, Debug)]
pub struct Copied {
    pub blobs: u64,
    pub bytes: u64,
    /// The new store had them.
    pub there: u64,
    /// The old store has not got them, or other bytes under their names.
    pub missing: u64,
}

enum One {
    Copied(u64),
    There,
    Missing,
}

pub struct Copying {
    from: Blobs,
    /// None: it is not there yet, and nothing is in it.
    to: Option<Store>,
    limit: RateLimit,
    at_once: usize,
    dry_run: bool,
    /// Blobs that were looked after.
    seen: HashSet<ContentHash>,
    large: Arc<Semaphore>,
    pub sum: Copied,
}

impl Copying {
    pub fn new(from: Blobs, to: Option<Store>, limit: RateLimit, at_once: usize, dry_run: bool) -> Self {
        let (seen, large, sum) = (HashSet::new(), Arc::new(Semaphore::new(LARGE)), Copied::default());
        Self { from, to, limit, at_once, dry_run, seen, large, sum }
    }

    /// All blobs that events up to this one name, but for those that an earlier pass of this run has looked after.
    pub async fn named(&mut self, log: &JetStreamLog, last: Version, bar: &Bar) -> Result<(), CopyError> {
        let mut from = Version::ZERO.next();
        while from <= last {
            let page = log.read(from, PAGE).await?;
            let Some(end) = page.last() else { break };
            from = end.version.next();
            let mut named: HashMap<ContentHash, Option<u64>> = HashMap::new();
            for event in page.iter().filter_map(|logged| logged.event.as_ref().ok()) {
                let size = named.entry(event.sha256).or_default();
                *size = size.or(event.added.map(|added| added.size));
            }
            named.retain(|hash, _| !self.seen.contains(hash));
            self.all(&named).await?;
            self.seen.extend(named.into_keys());
            bar.counter().set_position(from.get().saturating_sub(1));
            bar.counter().set_message(format!("{} blobs  {}", self.sum.blobs, HumanBytes(self.sum.bytes)));
        }
        Ok(())
    }

    async fn all(&mut self, named: &HashMap<ContentHash, Option<u64>>) -> Result<(), CopyError> {
        let hashes: Vec<ContentHash> = named.keys().copied().collect();
        let there = match &self.to {
            Some(to) => to.contains(&hashes).await?,
            None => vec![false; hashes.len()],
        };
        let work = hashes.into_iter().zip(there).map(|(hash, there)| self.one(hash, named[&hash], there));
        let done: Vec<Result<One, BlobError>> =
            stream::iter(work).buffer_unordered(self.at_once).collect().await;
        for one in done {
            match one? {
                One::Copied(size) => {
                    (self.sum.blobs, self.sum.bytes) = (self.sum.blobs + 1, self.sum.bytes + size)
                }
                One::There => self.sum.there += 1,
                One::Missing => self.sum.missing += 1,
            }
        }
        Ok(())
    }

    async fn one(&self, hash: ContentHash, size: Option<u64>, there: bool) -> Result<One, BlobError> {
        let size = match size {
            Some(size) => size,
            None => match self.from.length(hash).await? {
                Some(size) => size,
                None => return Ok(if there { One::There } else { One::Missing }),
            },
        };
        let Some(to) = self.to.as_ref().filter(|_| !self.dry_run) else {
            return Ok(match there || self.from.contains(&[hash]).await? != [true] {
                true if there => One::There,
                true => One::Missing,
                false => One::Copied(size),
            });
        };
        if there && is_whole(to, hash, size, &self.limit).await? {
            return Ok(One::There);
        }
        match self.copy(to, hash, size).await {
            Ok(()) => Ok(One::Copied(size)),
            // It is not there, or has other bytes: nothing is stored under its name.
            Err(error @ (BlobError::Missing(_) | BlobError::Damaged { .. } | BlobError::Source(_))) => {
                let error = common::error_chain(&error);
                tracing::warn!(%hash, error, "a blob that the log names cannot be copied");
                Ok(One::Missing)
            }
            Err(error) => Err(error),
        }
    }

    async fn copy(&self, to: &Store, hash: ContentHash, size: u64) -> Result<(), BlobError> {
        let mut reader = self.from.get_by_meta(hash, size, &self.limit).await?;
        if size <= to.chunk_size() as u64 {
            let mut bytes = BytesMut::new();
            while let Some(chunk) = reader.next().await? {
                bytes.extend_from_slice(&chunk);
            }
            if ContentHash::of(&bytes) != hash {
                return Err(other_bytes(hash));
            }
            // What is there is not whole.
            return match to.contains(&[hash]).await? == [true] {
                true => again(to, hash, bytes).await,
                false => to.put(hash, bytes.freeze()).await,
            };
        }
        let _lane = Arc::clone(&self.large).acquire_owned().await.expect("never closed");
        let (source, reading) = source_of(reader, hash, to.chunk_size());
        let (read, stored) = tokio::join!(reading, to.put_again(source));
        read?;
        stored.map(drop)
    }
}

/// What a reader reads, as another store takes it: in chunks of this length, and named only when they hash to the name. Both are to be driven together.
pub fn source_of(
    mut reader: impl BlobReader,
    hash: ContentHash,
    length: usize,
) -> (Source, impl Future<Output = Result<(), BlobError>>) {
    let (chunks, received) = mpsc::channel(WINDOW);
    let (told, hashed) = oneshot::channel();
    let reading = async move {
        let (mut hasher, mut rest) = (Hasher::new(), BytesMut::new());
        while let Some(chunk) = reader.next().await? {
            hasher.update(&chunk);
            rest.extend_from_slice(&chunk);
            while rest.len() >= length {
                if chunks.send(Ok(rest.split_to(length).freeze())).await.is_err() {
                    // The other store has given up, and says why.
                    return Ok(());
                }
            }
        }
        if !rest.is_empty() && chunks.send(Ok(rest.freeze())).await.is_err() {
            return Ok(());
        }
        if hasher.finish() != hash {
            return Err(other_bytes(hash));
        }
        let _ = told.send(hash);
        Ok(())
    };
    (Source { chunks: received, hash: hashed, name: Some(hash) }, reading)
}

async fn again(to: &Store, hash: ContentHash, bytes: BytesMut) -> Result<(), BlobError> {
    let (chunks, received) = mpsc::channel(1);
    let (told, hashed) = oneshot::channel();
    let _ = (chunks.try_send(Ok::<_, io::Error>(bytes.freeze())), told.send(hash));
    drop(chunks);
    to.put_again(Source { chunks: received, hash: hashed, name: Some(hash) }).await.map(drop)
}

fn other_bytes(hash: ContentHash) -> BlobError {
    BlobError::Damaged { hash, reason: "it has other bytes than its name says".into() }
}
