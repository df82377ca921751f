//! The store that a mirror keeps its blobs in, whichever that is, and while it moves the one before.
//!
//! All clones switch together, when the record of the mirror does ([`crate::mirror_record`]): what is stored goes to the new one from then on, what is read is looked for there and then
//! in the one before. A put that was under way counts only if it went to the store that is in force when it ends.

use super::{BlobError, BlobStore, Location, Mark, Reader, Source, Store, objects::MarkError};
use crate::{hash::ContentHash, limits::RateLimit, mirror_record::MirrorRecord};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    io,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// Where blobs are, at one time.
#[derive(Clone)]
struct Standing {
    record: MirrorRecord,
    current: Store,
    previous: Option<Store>,
}

/// The blobs of a mirror. Cheap to clone.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

struct Inner {
    standing: RwLock<Standing>,
    /// The same for all stores of a mirror, so that what was read as one chunk is put as one.
    chunk_size: usize,
    away: AtomicBool,
}

impl Blobs {
    /// In this store, as the mirror's record has it.
    pub fn new(record: MirrorRecord, current: Store, previous: Option<Store>) -> Self {
        let chunk_size = current.chunk_size();
        let standing = RwLock::new(Standing { record, current, previous });
        Self(Arc::new(Inner { standing, chunk_size, away: AtomicBool::new(false) }))
    }

    /// Changes the store, of all clones.
    pub fn switch(&self, record: MirrorRecord, current: Store, previous: Option<Store>) {
        *self.0.standing.write().unwrap_or_else(PoisonError::into_inner) =
            Standing { record, current, previous };
    }

    /// The mirror's record that it follows.
    pub fn record(&self) -> MirrorRecord {
        self.standing().record
    }

    /// Where it is.
    pub fn location(&self) -> Location {
        self.standing().current.location()
    }

    /// Whether it is moving from one store to another.
    pub fn is_moving(&self) -> bool {
        self.standing().previous.is_some()
    }

    /// The store itself.
    pub fn current(&self) -> Store {
        self.standing().current
    }

    /// Makes sure that the store is this mirror's, before anything in it is deleted.
    pub async fn is_ours(&self) -> Result<(), MarkError> {
        let Standing { record, current, .. } = self.standing();
        match current {
            Store::Nats(_) => Ok(()),
            Store::Objects(store) => store.check(None, record.current.id.as_deref()).await.map(drop),
        }
    }

    /// The last thing that was asked of the store found it away.
    pub fn is_away(&self) -> bool {
        self.0.away.load(Ordering::Relaxed)
    }

    fn standing(&self) -> Standing {
        self.0.standing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether nothing was switched since.
    fn stands(&self, generation: u64) -> bool {
        self.0.standing.read().unwrap_or_else(PoisonError::into_inner).record.generation == generation
    }

    fn noted<T>(&self, done: Result<T, BlobError>) -> Result<T, BlobError> {
        match &done {
            Err(error) if error.is_store_away() => self.0.away.store(true, Ordering::Relaxed),
            // It has answered.
            Ok(_) | Err(BlobError::Missing(_) | BlobError::Damaged { .. }) => {
                self.0.away.store(false, Ordering::Relaxed);
            }
            Err(_) => {}
        }
        done
    }

    /// How long the store says that a blob is; `None`: it has none of this name.
    pub async fn length(&self, hash: ContentHash) -> Result<Option<u64>, BlobError> {
        let Standing { current, previous, .. } = self.standing();
        match (self.noted(current.length(hash).await)?, previous) {
            (None, Some(previous)) => previous.length(hash).await,
            (length, _) => Ok(length),
        }
    }

    async fn stored(&self, source: Source, again: bool) -> Result<(ContentHash, u64), BlobError> {
        let Standing { record: MirrorRecord { generation, .. }, current, .. } = self.standing();
        let stored = match again {
            true => current.put_again(source).await,
            false => current.put_stream(source).await,
        };
        let stored = self.noted(stored)?;
        match self.stands(generation) {
            true => Ok(stored),
            // What can be read only once is for the caller to read again.
            false => Err(BlobError::Source(io::Error::other("the blobs moved to another store meanwhile"))),
        }
    }

    async fn reader(
        &self,
        hash: ContentHash,
        size: u64,
        limit: &RateLimit,
        by_meta: bool,
    ) -> Result<Reader, BlobError> {
        let Standing { current, previous, .. } = self.standing();
        let get = async |store: &Store| match by_meta {
            true => store.get_by_meta(hash, size, limit).await,
            false => store.get(hash, size, limit).await,
        };
        match (self.noted(get(&current).await), previous) {
            (Err(BlobError::Missing(_) | BlobError::Damaged { .. }), Some(previous)) => get(&previous).await,
            (got, _) => got,
        }
    }
}

#[async_trait]
impl BlobStore for Blobs {
    type Reader = Reader;

    fn chunk_size(&self) -> usize {
        self.0.chunk_size
    }

    fn needs_names(&self) -> bool {
        self.standing().current.needs_names()
    }

    fn generation(&self) -> u64 {
        self.record().generation
    }

    async fn still_has(&self, hash: ContentHash, since: u64) -> Result<bool, BlobError> {
        let Standing { record, current, .. } = self.standing();
        match current {
            Store::Nats(_) if record.generation == since => Ok(true),
            current => self.noted(current.contains(&[hash]).await).map(|there| there == [true]),
        }
    }

    async fn contains(&self, hashes: &[ContentHash]) -> Result<Vec<bool>, BlobError> {
        let Standing { current, previous, .. } = self.standing();
        let mut there = self.noted(current.contains(hashes).await)?;
        if let Some(previous) = previous.filter(|_| there.contains(&false)) {
            let missing: Vec<usize> = (0..hashes.len()).filter(|&n| !there[n]).collect();
            let asked: Vec<ContentHash> = missing.iter().map(|&n| hashes[n]).collect();
            for (n, found) in missing.into_iter().zip(previous.contains(&asked).await?) {
                there[n] = found;
            }
        }
        Ok(there)
    }

    async fn put(&self, hash: ContentHash, bytes: Bytes) -> Result<(), BlobError> {
        loop {
            let Standing { record: MirrorRecord { generation, .. }, current, .. } = self.standing();
            self.noted(current.put(hash, bytes.clone()).await)?;
            if self.stands(generation) {
                return Ok(());
            }
        }
    }

    async fn touch(&self, hash: ContentHash) -> Result<bool, BlobError> {
        loop {
            // What only the store before has must be stored in the new one.
            let Standing { record: MirrorRecord { generation, .. }, current, .. } = self.standing();
            let there = self.noted(current.touch(hash).await)?;
            if self.stands(generation) {
                return Ok(there);
            }
        }
    }

    async fn put_stream(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        self.stored(source, false).await
    }

    async fn put_again(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        self.stored(source, true).await
    }

    async fn get(&self, hash: ContentHash, size: u64, limit: &RateLimit) -> Result<Reader, BlobError> {
        self.reader(hash, size, limit, false).await
    }

    async fn get_from(
        &self,
        hash: ContentHash,
        size: u64,
        done: u64,
        mark: &Mark,
        limit: &RateLimit,
    ) -> Result<(Reader, u64), BlobError> {
        let Standing { current, previous, .. } = self.standing();
        match (self.noted(current.get_from(hash, size, done, mark, limit).await), previous) {
            (Err(BlobError::Missing(_) | BlobError::Damaged { .. }), Some(previous)) => {
                previous.get_from(hash, size, done, mark, limit).await
            }
            (got, _) => got,
        }
    }

    async fn get_by_meta(
        &self,
        hash: ContentHash,
        size: u64,
        limit: &RateLimit,
    ) -> Result<Reader, BlobError> {
        self.reader(hash, size, limit, true).await
    }
}
