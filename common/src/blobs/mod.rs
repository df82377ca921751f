//! The blob store, the second of two seams: immutable bytes, named by their SHA-256.
//!
//! Implementations pass [`contract`].

mod collect;
pub mod contract;
mod lookups;
mod meta;
mod nats;
mod put;
mod reader;

pub use collect::{Listed, Listing, Orphan, Tombstone};
pub use nats::{BlobOptions, NatsBlobs};
pub use reader::NatsReader;

use crate::{broker::BrokerError, hash::ContentHash, limits::RateLimit};
use bytes::Bytes;
use std::{future::Future, io, time::Duration};
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
}

impl BlobError {
    /// In one word, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing(_) => "missing",
            Self::Damaged { .. } => "damaged",
            Self::Source(_) => "source",
            Self::Broker(error) => error.label(),
        }
    }
}

/// The bytes of a large upload as they are read: chunks of exactly [`BlobStore::chunk_size`] but for the last, and at their end the hash of all.
pub struct Source {
    /// The chunks; closed after the last.
    pub chunks: mpsc::Receiver<io::Result<Bytes>>,
    /// The hash of all chunks. Dropped without a value when the source changed while it was read: then no name is given to what was uploaded.
    pub hash: oneshot::Receiver<ContentHash>,
}

/// A blob being read, chunk by chunk. The bytes are not checked: who asked hashes them.
pub trait BlobReader: Send + 'static {
    /// The next chunk, `None` after the last. A chunk that does not come within 10 s, one too many or one too few is an error.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, BlobError>> + Send;

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
pub trait BlobStore: Clone + Send + Sync + 'static {
    /// This store's reader.
    type Reader: BlobReader;

    /// The length of a chunk in bytes: a blob up to this long is put and got whole.
    fn chunk_size(&self) -> usize;

    /// For each name, whether a blob of it is there (by what the store says, not by reading it).
    fn contains(&self, hashes: &[ContentHash]) -> impl Future<Output = Result<Vec<bool>, BlobError>> + Send;

    /// Stores a blob of at most one chunk, whose hash the caller has computed. Done when it is acknowledged. A blob that is there is not stored
    /// again, but marked as in use now. The same put by several nodes at once stores it once.
    fn put(&self, hash: ContentHash, bytes: Bytes) -> impl Future<Output = Result<(), BlobError>> + Send;

    /// Marks a blob that should be there as in use now. False: it is not there, so upload it.
    fn touch(&self, hash: ContentHash) -> impl Future<Output = Result<bool, BlobError>> + Send;

    /// Stores a blob of any length while it is read; its hash is known at its end. Returns hash and length. Under a name only after every chunk is
    /// acknowledged; what a failure leaves behind has no name, and is for gc.
    fn put_stream(
        &self,
        source: Source,
    ) -> impl Future<Output = Result<(ContentHash, u64), BlobError>> + Send;

    /// Stores a blob again under fresh chunks, whatever is there now: the repair of one that is damaged.
    fn put_again(&self, source: Source)
    -> impl Future<Output = Result<(ContentHash, u64), BlobError>> + Send;

    /// Begins to read a blob that should be `size` bytes long. Nothing is asked for before `limit` lets it pass.
    fn get(
        &self,
        hash: ContentHash,
        size: u64,
        limit: &RateLimit,
    ) -> impl Future<Output = Result<Self::Reader, BlobError>> + Send;

    /// Goes on reading a blob after its first `done` bytes, from the mark that a reader of it gave there. The second value says where the reader begins: at
    /// `done`, or at 0 where the mark means nothing any more, as when the blob was stored again under other chunks.
    fn get_from(
        &self,
        hash: ContentHash,
        size: u64,
        done: u64,
        mark: &Mark,
        limit: &RateLimit,
    ) -> impl Future<Output = Result<(Self::Reader, u64), BlobError>> + Send;

    /// [`get`](Self::get) without the short way by which it may find a small blob: for a caller that found wrong bytes there.
    fn get_by_meta(
        &self,
        hash: ContentHash,
        size: u64,
        limit: &RateLimit,
    ) -> impl Future<Output = Result<Self::Reader, BlobError>> + Send;
}
