//! Blobs in a JetStream object store bucket (ADR-20), written and read by our own means.
//!
//! Any client reads them by name (the hash), and what any client put under its hash is read here. Nothing here makes a consumer.
//! On a cluster a replica that is behind may answer a read: then a blob that was just stored may seem missing or short, so who knows of it asks again.
//!
//! A blob of one chunk has its hash as NUID too, so that its chunk can be asked for without its meta message. That chunk is published expecting none
//! there, and the meta with it expecting none too: one round trip for a new blob. What deletes blobs must write the deleted meta by
//! compare-and-set before it purges chunks, also those that no meta names, and purge only up to the sequence that it saw: then a put and a deletion cannot
//! both succeed.

use super::{
    BlobError, BlobStore, Mark, Source,
    lookups::Lookups,
    meta::{Entry, Meta},
    reader::{NatsReader, Place},
};
use crate::{
    broker::{
        BrokerError,
        wire::{StreamInfo, Wire},
    },
    hash::ContentHash,
    limits::RateLimit,
    names::MirrorName,
};
use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_URL_SAFE};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;

/// Chunks of this many bytes: a window of eight of them keeps the connection busy, and bounds the memory of a transfer to a few MiB.
pub(super) const CHUNK: usize = 256 * 1024;
/// Left of the server's `max_payload` for headers.
const HEADROOM: usize = 4 * 1024;

/// How a bucket is made when it is not there.
#[derive(Clone, Debug)]
pub struct BlobOptions {
    /// Whose blobs.
    pub mirror: MirrorName,
    /// Copies in the cluster, 1 to 5.
    pub replicas: usize,
    /// Acknowledge a blob only when it is as safe as an event. Otherwise, where the server offers it and there is one replica, the disk follows
    /// later: several times faster, and what is lost is uploaded again by a node that holds it.
    pub durable: bool,
}

/// A handle to the store. Cheap to clone.
#[derive(Clone)]
pub struct NatsBlobs(pub(super) Arc<Bucket>);

/// The bucket on the wire.
pub(super) struct Bucket {
    pub(super) wire: Wire,
    pub(super) name: String,
    pub(super) stream: String,
    pub(super) lookups: Lookups,
    pub(super) chunk_size: usize,
    durable: bool,
}

impl NatsBlobs {
    /// The bucket of a mirror, made when it is not there. One that is there is used as it is. Several processes may do this at once.
    pub async fn open(client: async_nats::Client, options: BlobOptions) -> Result<Self, BrokerError> {
        let (wire, name) = (Wire::new(client), options.mirror.blob_bucket());
        let mut config = json!({
            "name": stream_of(&name),
            "description": format!("mediamirror: the blobs of {}", options.mirror),
            "subjects": subjects_of(&name),
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "num_replicas": options.replicas,
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
            "allow_rollup_hdrs": true,
            "allow_direct": true,
        });
        if options.replicas == 1 && !options.durable {
            config["persist_mode"] = json!("async");
        }
        let info = wire.stream_or_create(&stream_of(&name), &config).await?;
        Self::over(wire, name, &info)
    }

    /// The bucket of a mirror if it is there: for processes that may not make one. `Absent` when it is not.
    pub async fn attach(client: async_nats::Client, mirror: &MirrorName) -> Result<Self, BrokerError> {
        let (wire, name) = (Wire::new(client), mirror.blob_bucket());
        let info = wire.stream_info(&stream_of(&name)).await?;
        Self::over(wire, name, &info)
    }

    fn over(wire: Wire, name: String, info: &StreamInfo) -> Result<Self, BrokerError> {
        let stream = stream_of(&name);
        Wire::require(&stream, info, &subjects_of(&name))?;
        let chunk_size = chunk_size_of(wire.client());
        let durable = info.config.persist_mode.as_deref() != Some("async");
        let lookups = Lookups::start(wire.clone(), stream.clone());
        Ok(Self(Arc::new(Bucket { wire, name, stream, lookups, chunk_size, durable })))
    }

    /// How long the store says that a blob is; `None`: it has none of this name.
    pub async fn length(&self, hash: ContentHash) -> Result<Option<u64>, BlobError> {
        Ok(self.0.look(hash).await?.live().map(|meta| meta.size))
    }

    /// Whether an acknowledged blob is as safe as an acknowledged event: false when the bucket's stream is written to disk later.
    pub fn is_durable(&self) -> bool {
        self.0.durable
    }
}

/// How long a chunk may be on this broker.
pub(super) fn chunk_size_of(client: &async_nats::Client) -> usize {
    match client.max_payload() {
        0 => CHUNK,
        most => CHUNK.min(most.saturating_sub(HEADROOM)).max(1),
    }
}

fn stream_of(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

fn subjects_of(bucket: &str) -> [String; 2] {
    [format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")]
}

impl Bucket {
    /// Where the chunks with this NUID are.
    pub(super) fn chunks_of(&self, nuid: &str) -> String {
        format!("$O.{}.C.{nuid}", self.name)
    }

    /// Where the meta message of this blob is.
    pub(super) fn meta_of(&self, hash: ContentHash) -> String {
        format!("$O.{}.M.{}", self.name, BASE64_URL_SAFE.encode(hash.to_string()))
    }

    /// What the store says of this blob.
    pub(super) async fn look(&self, hash: ContentHash) -> Result<Entry, BlobError> {
        Ok(Entry::of(self.lookups.last(self.meta_of(hash)).await?))
    }

    async fn reader_by_meta(
        &self,
        hash: ContentHash,
        size: u64,
        limit: &RateLimit,
    ) -> Result<NatsReader, BlobError> {
        if size == 0 {
            return Ok(NatsReader::of_nothing());
        }
        let meta = self.look(hash).await?.of_size(hash, size)?;
        let start = Place::start(&meta.nuid);
        Ok(self.reader(hash, meta, start, 0, limit))
    }

    fn reader(
        &self,
        hash: ContentHash,
        meta: Meta,
        place: Place,
        done: u64,
        limit: &RateLimit,
    ) -> NatsReader {
        let source = (self.wire.clone(), self.stream.clone(), self.chunks_of(&meta.nuid));
        NatsReader::of_chunks(source, hash, meta, place, done, limit.clone())
    }
}

#[async_trait]
impl BlobStore for NatsBlobs {
    type Reader = NatsReader;

    fn chunk_size(&self) -> usize {
        self.0.chunk_size
    }

    async fn contains(&self, hashes: &[ContentHash]) -> Result<Vec<bool>, BlobError> {
        let subjects: Vec<String> = hashes.iter().map(|&hash| self.0.meta_of(hash)).collect();
        let found = self.0.wire.lasts_of(&self.0.stream, &subjects).await?;
        Ok(found.into_iter().map(|stored| Entry::of(stored).is_live()).collect())
    }

    async fn put(&self, hash: ContentHash, bytes: Bytes) -> Result<(), BlobError> {
        self.0.put(hash, bytes).await
    }

    async fn touch(&self, hash: ContentHash) -> Result<bool, BlobError> {
        self.0.touch(hash).await
    }

    async fn put_stream(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        self.0.put_stream(source).await
    }

    async fn put_again(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        self.0.put_again(source).await
    }

    async fn get(&self, hash: ContentHash, size: u64, limit: &RateLimit) -> Result<NatsReader, BlobError> {
        if size > 0 && size <= self.0.chunk_size as u64 {
            limit.take(usize::try_from(size).unwrap_or(usize::MAX)).await;
            let chunk = self.0.lookups.last(self.0.chunks_of(&hash.to_string())).await?;
            if let Some(chunk) = chunk.filter(|chunk| chunk.payload.len() as u64 == size) {
                return Ok(NatsReader::of_one(chunk.payload));
            }
        }
        self.0.reader_by_meta(hash, size, limit).await
    }

    async fn get_from(
        &self,
        hash: ContentHash,
        size: u64,
        done: u64,
        mark: &Mark,
        limit: &RateLimit,
    ) -> Result<(NatsReader, u64), BlobError> {
        let place = Place::of(mark).filter(|_| done < size);
        let Some(place) = place else { return Ok((self.get(hash, size, limit).await?, 0)) };
        let meta = self.0.look(hash).await?.of_size(hash, size)?;
        // Each chunk left has at least one byte.
        let fits = place.nuid == meta.nuid
            && place.chunks < meta.chunks
            && meta.chunks - place.chunks <= size - done;
        let (place, done) = if fits { (place, done) } else { (Place::start(&meta.nuid), 0) };
        Ok((self.0.reader(hash, meta, place, done, limit), done))
    }

    async fn get_by_meta(
        &self,
        hash: ContentHash,
        size: u64,
        limit: &RateLimit,
    ) -> Result<NatsReader, BlobError> {
        self.0.reader_by_meta(hash, size, limit).await
    }
}
