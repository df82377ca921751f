//! A writer of events and blobs that is no node: what a test wants to be in the log, without waiting for a watcher.

use async_nats::Client;
use bytes::Bytes;
use common::{
    blobs::{BlobStore, NatsBlobs, Source},
    event::{Attributes, Event, Version},
    hash::ContentHash,
    log::{EventLog, JetStreamLog, Published},
    names::MirrorName,
    time::Timestamp,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
};

/// Publishes for the mirror `media`, whose log and bucket must be there.
pub struct Writer {
    runtime: Runtime,
    log: JetStreamLog,
    blobs: NatsBlobs,
    _client: Client,
}

impl Writer {
    /// Connects.
    pub fn connect(url: &str) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("start a runtime");
        let mirror: MirrorName = "media".parse().expect("a good name");
        let (client, log, blobs) = runtime.block_on(async {
            let client = async_nats::connect(url).await.expect("connect to the broker");
            let log = JetStreamLog::attach(client.clone(), &mirror).await.expect("a log");
            let blobs = NatsBlobs::attach(client.clone(), &mirror).await.expect("a bucket");
            (client, log, blobs)
        });
        Self { runtime, log, blobs, _client: client }
    }

    /// Stores the bytes, then publishes that they stand at the path. Returns the version.
    pub fn add(&self, path: &str, bytes: &[u8]) -> u64 {
        let hash = self.runtime.block_on(self.store(bytes));
        self.announce(path, hash, bytes.len() as u64)
    }

    /// Publishes an addition without storing its bytes.
    pub fn announce(&self, path: &str, sha256: ContentHash, size: u64) -> u64 {
        self.publish(path, sha256, Some(Attributes { size, mtime: Timestamp::now(), mode: 0o644 }))
    }

    /// Publishes that the path, which held the bytes, is gone.
    pub fn remove(&self, path: &str, bytes: &[u8]) -> u64 {
        self.publish(path, ContentHash::of(bytes), None)
    }

    async fn store(&self, bytes: &[u8]) -> ContentHash {
        let hash = ContentHash::of(bytes);
        let size = self.blobs.chunk_size();
        if bytes.len() <= size {
            self.blobs.put(hash, Bytes::copy_from_slice(bytes)).await.expect("store a blob");
            return hash;
        }
        let (chunks, source) = mpsc::channel(bytes.len() / size + 1);
        for chunk in bytes.chunks(size) {
            chunks.send(Ok(Bytes::copy_from_slice(chunk))).await.expect("room for every chunk");
        }
        drop(chunks);
        let (named, name) = oneshot::channel();
        named.send(hash).expect("an open channel");
        self.blobs.put_stream(Source { chunks: source, hash: name, name: None }).await.expect("store a blob");
        hash
    }

    fn publish(&self, path: &str, sha256: ContentHash, added: Option<Attributes>) -> u64 {
        let path = path.parse().expect("a good path");
        self.runtime.block_on(async {
            let last = self.log.last(&path).await.expect("the last event of a path");
            let event = Event {
                path,
                sha256,
                added,
                node: "writer".parse().expect("a good name"),
                replaces: last.map_or(Version::ZERO, |last| last.version),
                detected: Timestamp::now(),
                was: None,
            };
            match self.log.publish(&event).await.expect("publish") {
                Published::Stored(version) => version.get(),
                Published::Refused => panic!("another writer at {}", event.path),
            }
        })
    }
}
