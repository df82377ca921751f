//! The blob store, the second of two seams: immutable bytes, named by their SHA-256.
//!
//! Implementations pass [`contract`].

mod collect;
pub mod contract;
mod location;
mod lookups;
mod meta;
mod nats;
pub mod objects;
mod put;
mod reader;
mod store;
mod switch;

pub use collect::{Listed, Listing, Orphan, Tombstone};
pub use location::{InvalidLocation, Location};
pub use nats::{BlobOptions, NatsBlobs};
pub use objects::ObjectBlobs;
pub use reader::NatsReader;
pub use store::{Reach, Reader, Store, StoreError};
pub use switch::Blobs;

use crate::{broker::BrokerError, hash::ContentHash, limits::RateLimit};
use async_trait::async_trait;
use bytes::Bytes;
use std::{fmt, io, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// A blob that no path names stays at least so long after it was stored, or marked as in use: who stored it has this time to give it a path.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Why a blob could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The store has no complete blob of this name.
    #[error("blob {0} is not in the store")]
    Missing(ContentHash),
    /// What the store has under this name is not the blob: chunks are missing, doubled or empty, or it has another length.
    #[error("blob {hash} is damaged in the store: {reason}")]
    Damaged {
        /// Its name.
        hash: ContentHash,
        /// What is wrong.
        reason: String,
    },
    /// The source failed, or took its word back, before its end; nothing is stored under a name.
    #[error("the source of an upload ended early: {0}")]
    Source(#[source] io::Error),
    /// The broker did not do it.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A store that is not the broker's did not do it.
    #[error("{doing}: {fault}: {reason}")]
    Store {
        /// What was being done, to what.
        doing: String,
        /// Its words.
        reason: String,
        /// What that means.
        fault: StoreFault,
    },
}

/// What the failure of a store means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreFault {
    /// No answer, or one that says "later": it is down, slow, or has too much to do.
    Away,
    /// Who asked may not: wrong credentials, or rights that are missing.
    Denied,
    /// It has no room.
    Full,
    /// There is no such object, or no such bucket.
    Absent,
    /// There is one already.
    Exists,
    /// It does not know how.
    Unsupported,
    /// It refused for another reason.
    Refused,
}

impl StoreFault {
    /// In one word, for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Denied => "denied",
            Self::Full => "no_room",
            Self::Absent => "absent",
            Self::Exists => "exists",
            Self::Unsupported => "unsupported",
            Self::Refused => "refused",
        }
    }
}

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Away => "the blob store is away",
            Self::Denied => "denied by the blob store",
            Self::Full => "the blob store has no room",
            Self::Absent => "there is no such bucket or object",
            Self::Exists => "the object is there already",
            Self::Unsupported => "the blob store cannot do that",
            Self::Refused => "refused by the blob store",
        })
    }
}

impl BlobError {
    /// In one word, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::Damaged { .. } => "damaged",
            Self::Source(_) => "source",
            Self::Broker(error) => error.label(),
            Self::Store { fault, .. } => fault.label(),
        }
    }

    /// Waiting for the store is the cure, or a person who gives it the rights: nothing is wrong with the blob.
    pub fn is_store_away(&self) -> bool {
        matches!(self, Self::Store { fault: StoreFault::Away | StoreFault::Denied | StoreFault::Absent, .. })
    }

    /// The store has no room. Cleared by a person.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Broker(error) => error.is_full(),
            Self::Store { fault, .. } => *fault == StoreFault::Full,
            _ => false,
        }
    }
}

/// The bytes of a large upload as they are read: chunks of exactly [`BlobStore::chunk_size`] but for the last, and at their end the hash of all.
pub struct Source {
    /// The chunks; closed after the last.
    pub chunks: mpsc::Receiver<io::Result<Bytes>>,
    /// The hash of all chunks. Dropped without a value when the source changed while it was read: then no name is given to what was uploaded.
    pub hash: oneshot::Receiver<ContentHash>,
    /// The same, where it is known before: a store that [needs names](BlobStore::needs_names) stores nothing without.
    pub name: Option<ContentHash>,
}

/// A blob being read, chunk by chunk. The bytes are not checked: who asked hashes them.
#[async_trait]
pub trait BlobReader: Send + 'static {
    /// The next chunk, `None` after the last. A chunk that does not come within 10 s, one too many or one too few is an error.
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError>;

    /// Where reading goes on after the chunks that were handed out. `None`: it cannot, as for a blob that came whole.
    fn mark(&self) -> Option<Mark>;
}

/// A place between two chunks of a blob, in the store's own words; who keeps it needs to know the bytes before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark(Vec<u8>);

impl Mark {
    /// As it was kept. Anything may be a mark: a store that does not understand it begins anew.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// To be kept.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A store of blobs. Every wait is bounded; memory is bounded by a window of chunks per call.
#[async_trait]
pub trait BlobStore: Clone + Send + Sync + 'static {
    /// This store's reader.
    type Reader: BlobReader;

    /// The length of a chunk in bytes: a blob up to this long is put and got whole.
    fn chunk_size(&self) -> usize;

    /// Whether a large blob must be known by its hash before it is stored.
    fn needs_names(&self) -> bool {
        false
    }

    /// One more with each move to another store.
    fn generation(&self) -> u64 {
        0
    }

    /// Asked once the event of a blob is published: whether the store that is in force still has the blob that was put, or found, in this generation. Where neither a move nor a
    /// collection can have come between, that is known without asking.
    async fn still_has(&self, _hash: ContentHash, _since: u64) -> Result<bool, BlobError> {
        Ok(true)
    }

    /// For each name, whether a blob of it is there (by what the store says, not by reading it).
    async fn contains(&self, hashes: &[ContentHash]) -> Result<Vec<bool>, BlobError>;

    /// Stores a blob of at most one chunk, whose hash the caller has computed. Done when it is acknowledged. A blob that is there is not stored
    /// again, but marked as in use now. The same put by several nodes at once stores it once.
    async fn put(&self, hash: ContentHash, bytes: Bytes) -> Result<(), BlobError>;

    /// Marks a blob that should be there as in use now. False: it is not there, so upload it.
    async fn touch(&self, hash: ContentHash) -> Result<bool, BlobError>;

    /// Stores a blob of any length while it is read; its hash is known at its end. Returns hash and length. Under a name only after every chunk is
    /// acknowledged; what a failure leaves behind has no name, and is for gc.
    async fn put_stream(&self, source: Source) -> Result<(ContentHash, u64), BlobError>;

    /// Stores a blob again under fresh chunks, whatever is there now: the repair of one that is damaged.
    async fn put_again(&self, source: Source) -> Result<(ContentHash, u64), BlobError>;

    /// Begins to read a blob that should be `size` bytes long. Nothing is asked for before `limit` lets it pass.
    async fn get(&self, hash: ContentHash, size: u64, limit: &RateLimit) -> Result<Self::Reader, BlobError>;

    /// Goes on reading a blob after its first `done` bytes, from the mark that a reader of it gave there. The second value says where the reader begins: at
    /// `done`, or at 0 where the mark means nothing any more, as when the blob was stored again under other chunks.
    async fn get_from(
        &self,
        hash: ContentHash,
        size: u64,
        done: u64,
        mark: &Mark,
        limit: &RateLimit,
    ) -> Result<(Self::Reader, u64), BlobError>;

    /// [`get`](Self::get) without the short way by which it may find a small blob: for a caller that found wrong bytes there.
    async fn get_by_meta(
        &self,
        hash: ContentHash,
        size: u64,
        limit: &RateLimit,
    ) -> Result<Self::Reader, BlobError>;
}
