//! Getting content: from this node where it stands already, else from the blob store. Every byte is hashed while it is written to `.mirror/tmp`, and
//! what comes out is a [`Verified`] file: complete, with its attributes, durable.
//!
//! Costs for a small file: one message to the store (many share one where the server batches), one sync of the file. Memory: a chunk for a small file,
//! a window of chunks for a large one. Large files have a lane of their own.

use crate::{
    node::{ApplyError, Node},
    parts::{Begun, Claim, Piece},
    space,
};
use common::{
    arrivals::{Arrivals, Arriving},
    blobs::{BlobReader, BlobStore},
    event::{Attributes, Event},
    hash::{ContentHash, Hasher},
    index::Index,
    limits::RateLimit,
    log::EventLog,
    path::MediaPath,
    place,
    resolve::blocking,
    root::{Folder, Look, Ownership, Root, TempFile},
    space::Reservation,
};
use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    sync::Arc,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// A file of so many chunks, one page of the store, does not wait for those that take minutes.
const MEDIUM: usize = 8;
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
    /// Of a large one: others that want the same content wait until it is placed, and copy it.
    pub claim: Option<Claim>,
}

/// Fetches the content of an addition. `here`: it may stand elsewhere on this node already.
pub async fn fetch<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    event: &Event,
    attributes: Attributes,
    here: bool,
) -> Result<Verified, ApplyError> {
    let (content, size) = (event.sha256, attributes.size);
    let large = size > node.blobs.chunk_size() as u64;
    let _decided = large.then(|| node.arrivals.decide(&event.path));
    let claim = if large { Some(node.claims.claim(content).await) } else { None };
    let begun = if large { node.index.fetch_of(content)?.filter(|begun| begun.bytes < size) } else { None };
    let room = space::reserve(node, size - begun.as_ref().map_or(0, |begun| begun.bytes)).await?;
    let job = Placing {
        root: Arc::clone(&node.root),
        path: event.path.clone(),
        content,
        attributes,
        owner: node.owner,
        room: Some(Arc::new(room)),
        arrivals: Some(node.arrivals.clone()),
    };
    let copied = match begun {
        None if size > 0 && (here || large) => copy_local(&node.index, &job).await?,
        _ => None,
    };
    let fetched = match copied {
        Some(copied) => copied,
        None => {
            let _lane = if large { Some(lane(node, content, size).await) } else { None };
            let limit = node.download_limit.of(&node.hurried, content);
            fetch_blob(&node.blobs, &limit, &job, Some(&node.index)).await?
        }
    };
    Ok(Verified { claim, ..fetched })
}

/// The right to fetch a large file. Those that somebody waits for have lanes of their own.
async fn lane<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    content: ContentHash,
    size: u64,
) -> OwnedSemaphorePermit {
    let lanes = if size <= (MEDIUM * node.blobs.chunk_size()) as u64 { &node.medium } else { &node.large };
    let hurried = async {
        node.hurried.until(content).await;
        Arc::clone(&node.large_hurried).acquire_owned().await
    };
    let permit = tokio::select! {
        permit = Arc::clone(lanes).acquire_owned() => permit,
        permit = hurried => permit,
    };
    permit.expect("never closed")
}

/// Fetches content from the blob store. `keep_in`: where it is kept how far a large one is; the caller is alone in fetching this one then.
pub async fn fetch_blob<B: BlobStore>(
    blobs: &B,
    limit: &RateLimit,
    placing: &Placing,
    keep_in: Option<&Index>,
) -> Result<Verified, ApplyError> {
    let (content, size) = (placing.content, placing.attributes.size);
    let keep_in = keep_in.filter(|_| size > blobs.chunk_size() as u64);
    if let Some(index) = keep_in
        && let Some(begun) = index.fetch_of(content)?
        && let Some((begun, reader)) = Begun::resume(placing, blobs, limit, begun, index).await?
        && let Some(verified) = placing.receive_large(reader, begun).await?
    {
        return Ok(verified);
    }
    let by_name = blobs.get(content, size, limit).await.map_err(ApplyError::Blob)?;
    if let Some(verified) = placing.receive(by_name, blobs, keep_in).await? {
        return Ok(verified);
    }
    // The chunk that goes by the blob's name has other bytes: the meta message decides.
    let by_meta = blobs.get_by_meta(content, size, limit).await.map_err(ApplyError::Blob)?;
    placing.receive(by_meta, blobs, keep_in).await?.ok_or(ApplyError::WrongContent(content))
}

/// What is being fetched, and where it goes.
#[derive(Clone)]
pub struct Placing {
    pub root: Arc<Root>,
    pub path: MediaPath,
    pub content: ContentHash,
    pub attributes: Attributes,
    pub owner: Option<Ownership>,
    /// Room on the disk that was reserved for it.
    pub room: Option<Arc<Reservation>>,
    /// Where a large one is shown while it is fetched.
    pub arrivals: Option<Arrivals>,
}

impl Placing {
    /// `None`: the bytes are not the content.
    async fn receive<B: BlobStore>(
        &self,
        mut reader: B::Reader,
        blobs: &B,
        keep_in: Option<&Index>,
    ) -> Result<Option<Verified>, ApplyError> {
        let job = self.clone();
        if self.attributes.size > blobs.chunk_size() as u64 {
            let keep_in = keep_in.cloned();
            let begun = blocking(move || Begun::new(&job.root, job.content, keep_in.as_ref()));
            return self.receive_large(reader, begun.await.map_err(ApplyError::Disk)?).await;
        }
        let mut chunks = Vec::new();
        while let Some(chunk) = reader.next().await.map_err(ApplyError::Blob)? {
            chunks.push((chunk, None));
        }
        blocking(move || {
            let mut chunks = chunks.into_iter();
            let begun = Begun::new(&job.root, job.content, None).map_err(ApplyError::Disk)?;
            job.fill(begun, None, || Ok(chunks.next()))
        })
        .await
    }

    /// Network, hash and disk overlap: the disk's thread takes chunks from a bounded channel.
    async fn receive_large<R: BlobReader>(
        &self,
        mut reader: R,
        begun: Begun,
    ) -> Result<Option<Verified>, ApplyError> {
        let (chunks, mut received) = mpsc::channel::<Result<Option<Piece>, ApplyError>>(WINDOW);
        let job = self.clone();
        let arriving = self.arrivals.as_ref().map(|arrivals| {
            let whole = (self.attributes.size, self.attributes.mtime);
            arrivals.begin((&self.path, self.content), whole, &begun.temp.file, begun.length)
        });
        let arriving = arriving.transpose().map_err(ApplyError::Disk)?;
        let disk = tokio::task::spawn_blocking(move || {
            job.fill(begun, arriving, || {
                // A sender that is gone without an end was given up: as if the connection had been lost.
                received.blocking_recv().unwrap_or(Err(ApplyError::SessionOver))
            })
        });
        loop {
            let next = reader.next().await.map_err(ApplyError::Blob);
            let next = next.map(|chunk| chunk.map(|chunk| (chunk, reader.mark())));
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

    /// Writes a temp file from chunks, hashing as it goes; blocks. A failure leaves nothing behind, or a file that the next try goes on with.
    fn fill(
        &self,
        begun: Begun,
        arriving: Option<Arriving>,
        mut next: impl FnMut() -> Result<Option<Piece>, ApplyError>,
    ) -> Result<Option<Verified>, ApplyError> {
        let Begun { temp, mut hasher, mut length, mut progress } = begun;
        let (name, before) = (temp.name.clone(), length);
        let filled = (|| {
            let mut file = &temp.file;
            while let Some((chunk, mark)) = next()? {
                hasher.update(&chunk);
                file.write_all(&chunk).map_err(ApplyError::Disk)?;
                self.wrote(chunk.len());
                length += chunk.len() as u64;
                if let Some(progress) = &mut progress {
                    progress.wrote(file, length, mark.as_ref())?;
                }
                if let Some(arriving) = &arriving {
                    arriving.got(length);
                }
            }
            if length != self.attributes.size || hasher.finish() != self.content {
                return Ok(None);
            }
            self.finish(temp, length - before).map(Some)
        })();
        let stays = progress.map_or(Ok(false), |progress| progress.end(&filled));
        if !matches!((&filled, &stays), (Ok(Some(_)), Ok(_)) | (_, Ok(true))) {
            let _ = self.root.remove_temp(&name);
            let _ = self.root.remove_temp(name.trim_end_matches(".part"));
        }
        let filled = stays.and(filled)?;
        if let Some(arriving) = arriving.filter(|_| filled.is_some()) {
            arriving.whole();
        }
        Ok(filled)
    }

    fn wrote(&self, bytes: usize) {
        if let Some(room) = &self.room {
            room.written(bytes as u64);
        }
    }

    fn finish(&self, mut temp: TempFile, fetched: u64) -> Result<Verified, ApplyError> {
        let folder = self.root.make_folder(&self.path)?;
        let travels = (self.attributes.mode, self.attributes.mtime);
        let stat = place::finish(&self.root, &mut temp, &folder, self.owner, travels);
        let stat = stat.map_err(ApplyError::Disk)?;
        let (ino, size, mtime) = (stat.ino, stat.size, stat.mtime);
        Ok(Verified { temp: temp.name, ino, size, mtime, folder, fetched, claim: None })
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
                self.root.got_on(n);
                length += n as u64;
                if !shared {
                    target.write_all(&block[..n]).map_err(ApplyError::Disk)?;
                    self.wrote(n);
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
