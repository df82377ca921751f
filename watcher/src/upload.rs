//! A file's content, read once and stored once.
//!
//! A file of at most eight chunks is read whole, so that its hash is known before it is sent. A larger one is stored while it is read, unless it looks as if the log knew its
//! content already, or the store wants its hash before; what was stored for nothing is without a name, and is for gc. Those have a lane of their own, two at a time.
//!
//! Memory: 16 MiB of files of one chunk, 8 MiB of those up to eight, a window of chunks for each large one.

use crate::node::{Node, PublishError};
use bytes::Bytes;
use common::{
    blobs::{BlobError, BlobStore, Source},
    content::{self, ReadError, Reading},
    hash::ContentHash,
    index::Row,
    log::EventLog,
    path::MediaPath,
    resolve::blocking,
    root::FileStat,
};
use std::{io, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Chunks between the disk and the store.
const WINDOW: usize = 4;
/// A file of so many chunks is read whole: what the window of an upload has on its way anyway.
const HELD_CHUNKS: usize = 8;

/// A file's content at one moment.
pub struct Content {
    pub hash: ContentHash,
    pub stat: FileStat,
    /// A later write may carry the same stat.
    pub racy: bool,
    pub held: Held,
}

/// Where the bytes are.
pub enum Held {
    /// On the disk only.
    No,
    /// In memory, counted.
    Bytes(Bytes, #[allow(dead_code)] OwnedSemaphorePermit),
    /// In the store, under their hash.
    Stored,
}

/// Finds out what a file holds. `None`: it changed while it was read.
pub async fn read<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    stat: FileStat,
    row: Option<&Row>,
) -> Result<Option<Content>, PublishError> {
    if stat.stat.size <= held_at_most(node) {
        return read_whole(node, path, stat).await;
    }
    let _lane = Arc::clone(&node.large).acquire_owned().await.expect("never closed");
    if node.blobs.needs_names() || looks_known(node, path, stat, row).await? {
        let (root, at) = (Arc::clone(&node.root), path.clone());
        let reading = blocking(move || content::read(&root, &at, 0)).await;
        return Ok(finish(path, reading)?.map(|reading| Content::of(reading, Held::No)));
    }
    stream(node, path, None).await
}

impl Content {
    fn of(reading: Reading, held: Held) -> Self {
        Self { hash: reading.hash, stat: reading.stat, racy: reading.racy, held }
    }
}

/// Stores a file's content under its hash, if it is not there. False: the file changed.
pub async fn store<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    content: Content,
) -> Result<bool, PublishError> {
    let wrap = |source| PublishError::Blob { path: path.clone(), source };
    match content.held {
        Held::Stored => return Ok(true),
        Held::Bytes(bytes, _counted) => return store_held(node, path, content.hash, bytes).await,
        Held::No => {}
    }
    if node.blobs.touch(content.hash).await.map_err(wrap)? {
        return Ok(true);
    }
    let again = if content.stat.stat.size <= held_at_most(node) {
        read_whole(node, path, content.stat).await?
    } else {
        let _lane = Arc::clone(&node.large).acquire_owned().await.expect("never closed");
        stream(node, path, Some(content.hash)).await?
    };
    match again {
        Some(again) if again.hash == content.hash => Box::pin(store(node, path, again)).await,
        _ => Ok(false),
    }
}

/// A file of up to eight chunks is read once, whole: with its hash known it is looked for before it is sent, and sent from memory.
fn held_at_most<L: EventLog, B: BlobStore>(node: &Node<L, B>) -> u64 {
    (HELD_CHUNKS * node.blobs.chunk_size()) as u64
}

/// True: it is stored. What another of our files holds was stored for that one: only its mark is written. So it is, probably, with what a node brings along that joins.
async fn store_held<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    hash: ContentHash,
    bytes: Bytes,
) -> Result<bool, PublishError> {
    let wrap = |source| PublishError::Blob { path: path.clone(), source };
    let (length, chunk) = (bytes.len(), node.blobs.chunk_size());
    let known = !node.index.paths_with(hash)?.is_empty() || length > chunk && node.index.stage()?.fresh;
    if known && node.blobs.touch(hash).await.map_err(wrap)? {
        return Ok(true);
    }
    if length <= chunk {
        node.upload_limit.take(length).await;
        return node.blobs.put(hash, bytes).await.map(|()| true).map_err(wrap);
    }
    let (chunks, chunks_out) = mpsc::channel(WINDOW);
    let (named, name) = oneshot::channel();
    let _ = named.send(hash);
    let sending = async {
        for at in (0..length).step_by(chunk) {
            let part = bytes.slice(at..length.min(at + chunk));
            node.upload_limit.take(part.len()).await;
            if chunks.send(Ok(part)).await.is_err() {
                break; // The store has given up, and says why.
            }
        }
        drop(chunks);
    };
    let source = Source { chunks: chunks_out, hash: name, name: Some(hash) };
    let ((), stored) = tokio::join!(sending, node.blobs.put_stream(source));
    match stored {
        Ok(_) => Ok(true),
        // The blobs have moved meanwhile.
        Err(BlobError::Source(_)) => Ok(false),
        Err(error) => Err(wrap(error)),
    }
}

/// Stores a blob once more, from the first of our files that still holds it: the repair of one that the store has lost or damaged.
pub async fn store_again<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    hash: ContentHash,
) -> Result<bool, PublishError> {
    for (path, _) in node.index.paths_with(hash)? {
        let (root, at) = (Arc::clone(&node.root), path.clone());
        // What would be uploaded is looked at before anything is: a file that was changed unseen must not take the name.
        let holds =
            blocking(move || content::read(&root, &at, 0)).await.is_ok_and(|reading| reading.hash == hash);
        if !holds {
            continue;
        }
        let (source, reading) = source(node, &path, Some(hash));
        let stored = node.blobs.put_again(source).await;
        let read = reading.await.ok().and_then(Result::ok);
        match stored {
            Ok((stored, _)) if read.is_some() => return Ok(stored == hash),
            Err(BlobError::Source(_)) | Ok(_) => {}
            Err(source) => return Err(PublishError::Blob { path, source }),
        }
    }
    Ok(false)
}

/// After its event is published: looks whether the blob that was stored in this generation is still there: it may have been collected, or left behind by a move. What
/// a failure leaves missing is asked for by who needs it.
pub async fn look_again<L: EventLog, B: BlobStore>(node: &Node<L, B>, hash: ContentHash, since: u64) {
    if let Ok(false) = node.blobs.still_has(hash, since).await {
        match store_again(node, hash).await {
            Ok(_) => {
                tracing::info!(%hash, "the blob went just before its event was published, and is stored again");
            }
            Err(error) => {
                let error = common::error_chain(&error);
                tracing::warn!(%hash, error, "the blob went just before its event was published");
            }
        }
    }
}

async fn read_whole<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    stat: FileStat,
) -> Result<Option<Content>, PublishError> {
    let kib = u32::try_from(stat.stat.size.div_ceil(1024)).unwrap_or(u32::MAX);
    let small = stat.stat.size <= node.blobs.chunk_size() as u64;
    let memory = if small { &node.memory } else { &node.medium };
    let counted = Arc::clone(memory).acquire_many_owned(kib).await.expect("never closed");
    let (root, at) = (Arc::clone(&node.root), path.clone());
    let keep = usize::try_from(held_at_most(node)).unwrap_or(usize::MAX);
    let reading = finish(path, blocking(move || content::read(&root, &at, keep)).await)?;
    Ok(reading.and_then(|mut reading| {
        let bytes = reading.bytes.take()?;
        Some(Content::of(reading, Held::Bytes(bytes, counted)))
    }))
}

/// A large file of the very size of one that this index knows, or that the path's last event names, is probably the same content, copied, touched or adopted: it is
/// hashed first.
async fn looks_known<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    stat: FileStat,
    row: Option<&Row>,
) -> Result<bool, PublishError> {
    if row.is_some_and(|row| row.size == stat.stat.size) || node.index.knows_size(stat.stat.size)? {
        return Ok(true);
    }
    if !node.index.stage()?.fresh {
        return Ok(false);
    }
    let last = node.log.last(path).await?;
    let size =
        last.and_then(|last| last.event.as_ref().ok().and_then(|event| event.added).map(|added| added.size));
    Ok(size == Some(stat.stat.size))
}

async fn stream<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    name: Option<ContentHash>,
) -> Result<Option<Content>, PublishError> {
    let (source, reading) = source(node, path, name);
    let stored = node.blobs.put_stream(source).await;
    let reading = match reading.await {
        Ok(reading) => reading,
        Err(_) => Err(ReadError::GivenUp),
    };
    match (stored, finish(path, reading)?) {
        (Ok((hash, _)), Some(reading)) if hash == reading.hash => {
            Ok(Some(Content::of(reading, Held::Stored)))
        }
        (Ok(_) | Err(BlobError::Source(_)), _) => Ok(None),
        (Err(source), _) => Err(PublishError::Blob { path: path.clone(), source }),
    }
}

/// Reads a file chunk by chunk on a blocking thread, into the store.
fn source<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    path: &MediaPath,
    name: Option<ContentHash>,
) -> (Source, oneshot::Receiver<Result<Reading, ReadError>>) {
    let (chunks, chunks_out) = mpsc::channel(WINDOW);
    let (hash, hash_out) = oneshot::channel();
    let (done, reading) = oneshot::channel();
    let (root, at, chunk, limit) =
        (Arc::clone(&node.root), path.clone(), node.blobs.chunk_size(), node.upload_limit.clone());
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let read = content::stream(&root, &at, chunk, |bytes| {
            runtime.block_on(limit.take(bytes.len()));
            chunks.blocking_send(Ok(bytes)).map_err(|_| ReadError::GivenUp)
        });
        match &read {
            Ok(reading) => {
                let _ = hash.send(reading.hash);
            }
            Err(error) => {
                let _ = chunks.blocking_send(Err(io::Error::other(error.to_string())));
            }
        }
        let _ = done.send(read);
    });
    (Source { chunks: chunks_out, hash: hash_out, name }, reading)
}

fn finish(path: &MediaPath, reading: Result<Reading, ReadError>) -> Result<Option<Reading>, PublishError> {
    match reading {
        Ok(reading) => Ok(Some(reading)),
        // Given up by the store: its own error says why.
        Err(ReadError::Changed | ReadError::GivenUp) => Ok(None),
        Err(ReadError::Io(source)) => Err(PublishError::disk(path, source)),
    }
}
