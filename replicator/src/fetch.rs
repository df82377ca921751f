//! Getting content: from this node where it stands already, else from the blob store. Every byte is hashed while it is written to `.mirror/tmp`, and
//! what comes out is a [`Verified`] file: complete, with its attributes, durable.
//!
//! Costs for a small file: one message to the store (many share one where the server batches), one sync of the file. Memory: a chunk for a small file,
//! a window of chunks for a large one. Large files have a lane of their own.

use crate::node::{ApplyError, Node};
use bytes::Bytes;
use common::{
    blobs::{BlobReader, BlobStore},
    event::{Attributes, Event},
    hash::{ContentHash, Hasher},
    index::Index,
    limits::RateLimit,
    log::EventLog,
    path::MediaPath,
    resolve::blocking,
    root::{FileStat, Folder, Look, Ownership, Root, TempFile, copy_attributes},
};
use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    sync::Arc,
};
use tokio::sync::mpsc;

/// Chunks between the network and the disk.
const WINDOW: usize = 4;

/// A complete temp file whose bytes were seen to hash to its name, durable, with the attributes it is to have.
pub struct Verified {
    /// Its name in `.mirror/tmp`.
    pub temp: String,
    /// Its inode.
    pub ino: u64,
    /// Its length.
    pub size: u64,
    /// The mtime that was set.
    pub mtime: i64,
    /// The folder it is to stand in.
    pub folder: Folder,
    /// Bytes that came over the network for it.
    pub fetched: u64,
}

/// Fetches the content of an addition.
pub async fn fetch<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    event: &Event,
    attributes: Attributes,
) -> Result<Verified, ApplyError> {
    let job = Placing {
        root: Arc::clone(&node.root),
        path: event.path.clone(),
        content: event.sha256,
        attributes,
        owner: node.owner,
    };
    if attributes.size > 0
        && let Some(copied) = copy_local(&node.index, &job).await?
    {
        return Ok(copied);
    }
    let _lane = match attributes.size <= node.blobs.chunk_size() as u64 {
        true => None,
        false => Some(Arc::clone(&node.large).acquire_owned().await.expect("never closed")),
    };
    fetch_blob(&node.blobs, &node.download_limit, &job).await
}

/// Fetches content from the blob store.
pub async fn fetch_blob<B: BlobStore>(
    blobs: &B,
    limit: &RateLimit,
    placing: &Placing,
) -> Result<Verified, ApplyError> {
    let (content, size) = (placing.content, placing.attributes.size);
    let small = size <= blobs.chunk_size() as u64;
    let by_name = blobs.get(content, size, limit).await.map_err(ApplyError::Blob)?;
    if let Some(verified) = placing.receive(by_name, small).await? {
        return Ok(verified);
    }
    // The chunk that goes by the blob's name has other bytes: the meta message decides.
    let by_meta = blobs.get_by_meta(content, size, limit).await.map_err(ApplyError::Blob)?;
    placing.receive(by_meta, small).await?.ok_or(ApplyError::WrongContent(content))
}

/// What is being fetched, and where it goes.
#[derive(Clone)]
pub struct Placing {
    pub root: Arc<Root>,
    pub path: MediaPath,
    pub content: ContentHash,
    pub attributes: Attributes,
    pub owner: Option<Ownership>,
}

impl Placing {
    /// `None`: the bytes are not the content.
    async fn receive<R: BlobReader>(
        &self,
        mut reader: R,
        small: bool,
    ) -> Result<Option<Verified>, ApplyError> {
        if !small {
            return self.receive_large(reader).await;
        }
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next().await.map_err(ApplyError::Blob)? {
            chunks.push(chunk);
        }
        self.write(chunks).await
    }

    async fn write(&self, chunks: Vec<Bytes>) -> Result<Option<Verified>, ApplyError> {
        let job = self.clone();
        blocking(move || {
            let mut chunks = chunks.into_iter();
            job.fill(|| Ok(chunks.next()))
        })
        .await
    }

    /// Network, hash and disk overlap: the disk's thread takes chunks from a bounded channel.
    async fn receive_large<R: BlobReader>(&self, mut reader: R) -> Result<Option<Verified>, ApplyError> {
        let (chunks, mut received) = mpsc::channel::<Result<Option<Bytes>, ApplyError>>(WINDOW);
        let job = self.clone();
        let disk = tokio::task::spawn_blocking(move || {
            job.fill(|| {
                // A sender that is gone without an end was given up: what was written is thrown away.
                received.blocking_recv().unwrap_or(Err(ApplyError::SessionOver))
            })
        });
        loop {
            let next = reader.next().await.map_err(ApplyError::Blob);
            let last = !matches!(next, Ok(Some(_)));
            // Fails when the disk's side has ended; its error says why.
            if chunks.send(next).await.is_err() || last {
                break;
            }
        }
        drop(chunks);
        match disk.await {
            Ok(filled) => filled,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Writes a temp file from chunks, hashing as it goes; blocks. A failure leaves nothing behind.
    fn fill(
        &self,
        mut next: impl FnMut() -> Result<Option<Bytes>, ApplyError>,
    ) -> Result<Option<Verified>, ApplyError> {
        let temp = self.root.create_temp(self.content).map_err(ApplyError::Disk)?;
        let name = temp.name.clone();
        let filled = (|| {
            let mut file = &temp.file;
            let mut hasher = Hasher::new();
            let mut fetched = 0;
            while let Some(chunk) = next()? {
                hasher.update(&chunk);
                file.write_all(&chunk).map_err(ApplyError::Disk)?;
                fetched += chunk.len() as u64;
            }
            if fetched != self.attributes.size || hasher.finish() != self.content {
                return Ok(None);
            }
            self.finish(temp, fetched).map(Some)
        })();
        if !matches!(filled, Ok(Some(_))) {
            let _ = self.root.remove_temp(&name);
        }
        filled
    }

    /// Attributes, then the sync: a file that is durable is durable as it will stand. A sync that fails is final for this file.
    fn finish(&self, mut temp: TempFile, fetched: u64) -> Result<Verified, ApplyError> {
        let folder = self.root.make_folder(&self.path)?;
        self.root.give(&temp.file, &folder, self.owner).map_err(ApplyError::Disk)?;
        copy_attributes(&temp.file, self.attributes.mode, self.attributes.mtime).map_err(ApplyError::Disk)?;
        temp.file.sync_all().map_err(ApplyError::Disk)?;
        self.root.complete_temp(&mut temp).map_err(ApplyError::Disk)?;
        let stat = FileStat::of(&temp.file).map_err(ApplyError::Disk)?.stat;
        Ok(Verified { temp: temp.name, ino: stat.ino, size: stat.size, mtime: stat.mtime, folder, fetched })
    }

    /// Copies from an open file of this node: as a reflink where the file system can, and read back and hashed either way.
    pub fn copy(&self, source: &mut File) -> Result<Option<Verified>, ApplyError> {
        let temp = self.root.create_temp(self.content).map_err(ApplyError::Disk)?;
        let name = temp.name.clone();
        let copied = (|| {
            let mut target = &temp.file;
            let mut hasher = Hasher::new();
            let mut length = 0;
            let mut block = vec![0; 256 * 1024];
            let shared = rustix::fs::ioctl_ficlone(target, &*source).is_ok();
            if source.rewind().is_err() {
                return Ok(None);
            }
            loop {
                let read = if shared { target.read(&mut block) } else { source.read(&mut block) };
                let n = match read {
                    Ok(0) => break,
                    Ok(n) => n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return Ok(None), // The store, or another copy, has it.
                };
                hasher.update(&block[..n]);
                length += n as u64;
                if !shared {
                    target.write_all(&block[..n]).map_err(ApplyError::Disk)?;
                }
            }
            if length != self.attributes.size || hasher.finish() != self.content {
                return Ok(None);
            }
            self.finish(temp, 0).map(Some)
        })();
        if !matches!(copied, Ok(Some(_))) {
            let _ = self.root.remove_temp(&name);
        }
        copied
    }
}

/// The same content elsewhere on this node, in the tree or in the trash.
pub async fn copy_local(index: &Index, job: &Placing) -> Result<Option<Verified>, ApplyError> {
    for (path, row) in index.paths_with(job.content)? {
        let job = job.clone();
        let copied = blocking(move || {
            let unchanged = matches!(job.root.look(&path), Ok(Look::File(now)) if Some(now.stat) == row.stat);
            match job.root.open_file(&path) {
                Ok((mut source, _)) if unchanged => job.copy(&mut source),
                _ => Ok(None),
            }
        })
        .await?;
        if copied.is_some() {
            return Ok(copied);
        }
    }
    for trashed in index.trashed_with(job.content)? {
        let job = job.clone();
        let copied = blocking(move || match job.root.open_trashed(&trashed.id, &trashed.path) {
            Ok((mut source, _)) => job.copy(&mut source),
            Err(_) => Ok(None), // Being moved, or dropped: the store has it.
        })
        .await?;
        if copied.is_some() {
            return Ok(copied);
        }
    }
    Ok(None)
}
