//! Any store that blobs may be kept in, as one type.

use super::{
    BlobError, BlobOptions, BlobReader, BlobStore, Listed, Listing, Location, Mark, NatsBlobs, NatsReader,
    ObjectBlobs, Orphan, Source, Tombstone,
    nats::chunk_size_of,
    objects::{ObjectReader, OpenError},
};
use crate::{broker::BrokerError, hash::ContentHash, limits::RateLimit, time::Timestamp};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashSet;

/// One store.
#[derive(Clone)]
pub enum Store {
    /// That of the broker.
    Nats(NatsBlobs),
    /// Another.
    Objects(ObjectBlobs),
}

/// How a store is reached.
#[derive(Clone)]
pub struct Reach {
    /// The broker.
    pub client: async_nats::Client,
    /// How its bucket is made.
    pub options: BlobOptions,
    /// The environment's variables.
    pub environment: Vec<(String, String)>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The broker's.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Another.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl Reach {
    /// Opens a store. `make`: a bucket of the broker that is not there is made.
    pub async fn open(&self, location: &Location, make: bool) -> Result<Store, StoreError> {
        Ok(match location {
            Location::Nats if make => {
                Store::Nats(NatsBlobs::open(self.client.clone(), self.options.clone()).await?)
            }
            Location::Nats => {
                Store::Nats(NatsBlobs::attach(self.client.clone(), &self.options.mirror).await?)
            }
            Location::Url(_) => {
                let chunk_size = chunk_size_of(&self.client);
                Store::Objects(ObjectBlobs::open(location, self.environment.iter().cloned(), chunk_size)?)
            }
        })
    }
}

/// A reader of either store.
pub enum Reader {
    /// Of the broker's.
    Nats(NatsReader),
    /// Of another.
    Objects(ObjectReader),
}

#[async_trait]
impl BlobReader for Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        match self {
            Self::Nats(reader) => reader.next().await,
            Self::Objects(reader) => reader.next().await,
        }
    }

    fn mark(&self) -> Option<Mark> {
        match self {
            Self::Nats(reader) => reader.mark(),
            Self::Objects(reader) => reader.mark(),
        }
    }
}

/// The same of either store.
macro_rules! either {
    ($self:expr, $store:ident => $done:expr) => {
        match $self {
            Store::Nats($store) => $done,
            Store::Objects($store) => $done,
        }
    };
}

impl Store {
    /// Where it is.
    pub fn location(&self) -> Location {
        match self {
            Self::Nats(_) => Location::Nats,
            Self::Objects(blobs) => blobs.location().clone(),
        }
    }

    /// Whether a blob may be taken away although it was found, and marked as in use, a moment ago.
    pub fn is_unguarded(&self) -> bool {
        matches!(self, Self::Objects(_))
    }

    /// How long the store says that a blob is; `None`: it has none of this name.
    pub async fn length(&self, hash: ContentHash) -> Result<Option<u64>, BlobError> {
        either!(self, store => store.length(hash).await)
    }

    /// A page of what it has; the first is 1.
    pub async fn list(&self, page: u64) -> Result<Listing, BlobError> {
        either!(self, store => store.list(page).await)
    }

    /// Takes a blob away. False: it was marked as in use since it was listed, and stays.
    pub async fn take_away(&self, listed: &Listed) -> Result<bool, BlobError> {
        either!(self, store => store.take_away(listed).await)
    }

    /// What broken uploads have left before some time. `known`: the names of chunks that belong to something, and how many messages do.
    pub async fn orphans(
        &self,
        known: (&HashSet<String>, u64),
        before: Timestamp,
    ) -> Result<Vec<Orphan>, BlobError> {
        match self {
            // Listing all chunks is work for the broker: where each message belongs to a blob there is nothing to find.
            Self::Nats(blobs) if blobs.messages().await? <= known.1 => Ok(Vec::new()),
            Self::Nats(blobs) => blobs.orphans(known.0, before).await,
            Self::Objects(blobs) => blobs.orphans(before).await,
        }
    }

    /// Takes it away. False: a blob has it by now.
    pub async fn take_orphan_away(&self, orphan: &Orphan) -> Result<bool, BlobError> {
        match self {
            Self::Nats(blobs) => blobs.take_orphan_away(orphan).await,
            Self::Objects(blobs) => blobs.take_orphan_away(orphan).await,
        }
    }

    /// Drops what is left of a blob that was taken away. A blob of that name that was stored since stays.
    pub async fn drop_tombstone(&self, tombstone: &Tombstone) -> Result<(), BlobError> {
        match self {
            Self::Nats(blobs) => blobs.drop_tombstone(tombstone).await,
            Self::Objects(blobs) => blobs.drop_tombstone(tombstone.path()).await,
        }
    }
}

#[async_trait]
impl BlobStore for Store {
    type Reader = Reader;

    fn chunk_size(&self) -> usize {
        either!(self, store => store.chunk_size())
    }

    fn needs_names(&self) -> bool {
        either!(self, store => store.needs_names())
    }

    async fn contains(&self, hashes: &[ContentHash]) -> Result<Vec<bool>, BlobError> {
        either!(self, store => store.contains(hashes).await)
    }

    async fn put(&self, hash: ContentHash, bytes: Bytes) -> Result<(), BlobError> {
        either!(self, store => store.put(hash, bytes).await)
    }

    async fn touch(&self, hash: ContentHash) -> Result<bool, BlobError> {
        either!(self, store => store.touch(hash).await)
    }

    async fn put_stream(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        either!(self, store => store.put_stream(source).await)
    }

    async fn put_again(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        either!(self, store => store.put_again(source).await)
    }

    async fn get(&self, hash: ContentHash, size: u64, limit: &RateLimit) -> Result<Reader, BlobError> {
        Ok(match self {
            Self::Nats(store) => Reader::Nats(store.get(hash, size, limit).await?),
            Self::Objects(store) => Reader::Objects(store.get(hash, size, limit).await?),
        })
    }

    async fn get_from(
        &self,
        hash: ContentHash,
        size: u64,
        done: u64,
        mark: &Mark,
        limit: &RateLimit,
    ) -> Result<(Reader, u64), BlobError> {
        match self {
            Self::Nats(store) => store
                .get_from(hash, size, done, mark, limit)
                .await
                .map(|(got, from)| (Reader::Nats(got), from)),
            Self::Objects(store) => store
                .get_from(hash, size, done, mark, limit)
                .await
                .map(|(got, from)| (Reader::Objects(got), from)),
        }
    }

    async fn get_by_meta(
        &self,
        hash: ContentHash,
        size: u64,
        limit: &RateLimit,
    ) -> Result<Reader, BlobError> {
        Ok(match self {
            Self::Nats(store) => Reader::Nats(store.get_by_meta(hash, size, limit).await?),
            Self::Objects(store) => Reader::Objects(store.get_by_meta(hash, size, limit).await?),
        })
    }
}
