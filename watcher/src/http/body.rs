//! A file as it comes in: every byte is hashed once, and goes to `.mirror/tmp` and into the blob store on the way, as far as it is wanted there. Memory is a window of chunks for
//! each upload, however long the file is.
//!
//! What is refused or ends early leaves nothing: the temp file goes with its owner, and chunks without a name are taken back.

use super::Refused;
use crate::{
    direct::{Name, Spooled},
    turns::Turns,
};
use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use common::{
    blobs::{BlobStore, Blobs, Source},
    hash::{ContentHash, Hasher},
    limits::RateLimit,
    resolve::blocking,
    root::{Root, TempFile},
    space::{Reservation, Space},
};
use futures_util::StreamExt;
use std::{future::pending, io, io::Write, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Chunks between the network and the disk.
const WINDOW: usize = 4;
/// A client that sends nothing for this long is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// After this long a client must have sent so many bytes a second since: a place is not for who sends a byte now and then.
const SLOW: (Duration, u64) = (Duration::from_secs(60), 8 << 10);
/// Room is reserved in steps of this where the length is not known before.
const STEP: u64 = 16 << 20;

/// What is known of a file before it comes, and where it is to go.
pub struct Incoming<'a> {
    pub root: &'a Arc<Root>,
    pub space: &'a Space,
    pub blobs: &'a Blobs,
    pub limit: &'a RateLimit,
    pub naming: &'a Turns<ContentHash>,
    pub stop: &'a CancellationToken,
    /// What it must hash to.
    pub name: ContentHash,
    /// How long it must be, where that is known.
    pub size: Option<u64>,
    /// How long it may be.
    pub most: u64,
    /// It is to be placed.
    pub spool: bool,
    /// What becomes of it in the store.
    pub store: Store,
}

/// What is done with the blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Store {
    /// It is stored.
    Put,
    /// It is there, and is marked as in use.
    Touch,
    /// Nothing.
    Leave,
}

/// A file that has come, and is what its name says.
pub struct Received {
    /// For placing, where that was wanted.
    pub spooled: Option<Spooled>,
    /// The store did not have it.
    pub is_new: bool,
}

/// Takes a file. With the answer it is in the store, where it is wanted there.
pub async fn receive(incoming: &Incoming<'_>, body: Body) -> Result<Received, Refused> {
    let mut chunks = Chunks::of(incoming, body)?;
    // The second tells a large file from one of a single chunk.
    let first = chunks.next().await?.unwrap_or_default();
    match chunks.next().await? {
        Some(second) => large(incoming, [first, second], chunks).await,
        None => small(incoming, first, chunks).await,
    }
}

async fn small(incoming: &Incoming<'_>, bytes: Bytes, chunks: Chunks<'_>) -> Result<Received, Refused> {
    let mut hasher = Hasher::new();
    hasher.update(&bytes);
    chunks.check(hasher.finish())?;
    let mut spooled = None;
    if incoming.spool {
        let (root, name, bytes) = (Arc::clone(incoming.root), incoming.name, bytes.clone());
        let written = blocking(move || {
            let (temp, name) = create(&root, name)?;
            (&temp.file).write_all(&bytes)?;
            Spooled::new(root, temp, name, bytes.len() as u64)
        });
        spooled = Some(written.await.map_err(Refused::Disk)?);
    }
    let put = async {
        incoming.limit.take(bytes.len()).await;
        incoming.blobs.put(incoming.name, bytes).await.map_err(Refused::Store)
    };
    Ok(Received { spooled, is_new: store(incoming, put).await? })
}

async fn large(
    incoming: &Incoming<'_>,
    begin: [Bytes; 2],
    mut chunks: Chunks<'_>,
) -> Result<Received, Refused> {
    let (to_disk, disk) = mpsc::channel(WINDOW);
    let (root, name, spool) = (Arc::clone(incoming.root), incoming.name, incoming.spool);
    let disk = tokio::spawn(write(root, name, spool, disk));
    let (to_store, source) = mpsc::channel(1);
    let (hash, hash_out) = oneshot::channel();
    let source = Source { chunks: source, hash: hash_out, name: Some(incoming.name) };
    let put = async { incoming.blobs.put_stream(source).await.map(drop).map_err(Refused::Store) };
    let to_store = (incoming.store == Store::Put).then_some(to_store);
    let mut put = std::pin::pin!(put);
    let taken = tokio::select! {
        taken = take(incoming, begin, &mut chunks, to_disk, to_store) => taken,
        // Before it was told a name, this can only be a failure.
        failed = &mut put, if incoming.store == Store::Put => failed,
    };
    let written = match disk.await {
        Ok(written) => written.map_err(Refused::Disk),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    };
    let checked = taken.and(written).and_then(|(found, spooled)| chunks.check(found).map(|()| spooled));
    match checked {
        Ok(spooled) => {
            let put = async {
                let _ = hash.send(incoming.name);
                put.await
            };
            Ok(Received { spooled, is_new: store(incoming, put).await? })
        }
        Err(refused) => {
            drop(hash);
            if incoming.store == Store::Put && !matches!(refused, Refused::Store(_)) {
                // Takes back what is stored of it.
                let _ = put.await;
            }
            Err(refused)
        }
    }
}

/// Hands the chunks on as they come.
async fn take(
    incoming: &Incoming<'_>,
    begin: [Bytes; 2],
    chunks: &mut Chunks<'_>,
    to_disk: mpsc::Sender<Bytes>,
    to_store: Option<mpsc::Sender<io::Result<Bytes>>>,
) -> Result<(), Refused> {
    let mut begin = begin.into_iter();
    loop {
        let chunk = match begin.next() {
            Some(chunk) => Some(chunk),
            None => chunks.next().await?,
        };
        let Some(chunk) = chunk else { return Ok(()) };
        if let Some(to_store) = &to_store {
            incoming.limit.take(chunk.len()).await;
            if to_store.send(Ok(chunk.clone())).await.is_err() {
                // The store has given up, and says why.
                return pending().await;
            }
        }
        if to_disk.send(chunk).await.is_err() {
            // The disk has, and says why.
            return Ok(());
        }
    }
}

/// Brings the store to where it is to be. True: it did not have the blob.
async fn store(
    incoming: &Incoming<'_>,
    put: impl Future<Output = Result<(), Refused>>,
) -> Result<bool, Refused> {
    if incoming.store == Store::Leave {
        return Ok(false);
    }
    let (blobs, name) = (incoming.blobs, incoming.name);
    let _turn = incoming.naming.take(name).await;
    if incoming.store == Store::Touch {
        let there = blobs.touch(name).await.map_err(Refused::Store)?;
        return if there { Ok(false) } else { Err(Refused::Again("the blob has just been collected")) };
    }
    let known = blobs.contains(&[name]).await.map_err(Refused::Store)?.contains(&true);
    put.await?;
    Ok(!known)
}

fn create(root: &Arc<Root>, content: ContentHash) -> io::Result<(TempFile, Name)> {
    let temp = root.create_upload(content)?;
    let name = Name::of(Arc::clone(root), &temp);
    Ok((temp, name))
}

/// A file as far as it has come.
struct Writing {
    hasher: Hasher,
    size: u64,
    file: Option<(TempFile, Name)>,
}

/// Hashes what comes, and writes it where it is to be placed. A thread is taken for each chunk, and not for the file: a slow client would keep it from others.
async fn write(
    root: Arc<Root>,
    content: ContentHash,
    spool: bool,
    mut chunks: mpsc::Receiver<Bytes>,
) -> io::Result<(ContentHash, Option<Spooled>)> {
    let of = Arc::clone(&root);
    let file = blocking(move || if spool { create(&of, content).map(Some) } else { Ok(None) }).await?;
    let mut writing = Writing { hasher: Hasher::new(), size: 0, file };
    while let Some(chunk) = chunks.recv().await {
        root.got_on(chunk.len());
        writing = blocking(move || {
            writing.hasher.update(&chunk);
            writing.size += chunk.len() as u64;
            if let Some((temp, _)) = &writing.file {
                (&temp.file).write_all(&chunk)?;
            }
            Ok::<_, io::Error>(writing)
        })
        .await?;
    }
    let Writing { hasher, size, file } = writing;
    let spooled = file.map(|(temp, name)| Spooled::new(root, temp, name, size)).transpose()?;
    Ok((hasher.finish(), spooled))
}

/// The body, cut into chunks of the store, within its limits of length and time, and with room for it on the disk.
struct Chunks<'a> {
    incoming: &'a Incoming<'a>,
    body: BodyDataStream,
    buffer: BytesMut,
    received: u64,
    room: Vec<Reservation>,
    reserved: u64,
    /// How long the client was waited for, all in all.
    waited: Duration,
}

impl<'a> Chunks<'a> {
    fn of(incoming: &'a Incoming<'a>, body: Body) -> Result<Self, Refused> {
        let (body, buffer) = (body.into_data_stream(), BytesMut::new());
        let (room, waited) = (Vec::new(), Duration::ZERO);
        let mut chunks = Self { incoming, body, buffer, received: 0, room, reserved: 0, waited };
        chunks.reserve(incoming.size.unwrap_or(0))?;
        Ok(chunks)
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), Refused> {
        if self.incoming.spool {
            let reserved = self.incoming.space.try_reserve(bytes).map_err(Refused::Disk)?;
            self.room.push(reserved.map_err(|lack| Refused::NoRoom(lack.to_string()))?);
            self.reserved += bytes;
        }
        Ok(())
    }

    /// The next chunk, the last one shorter; `None`: that was all.
    async fn next(&mut self) -> Result<Option<Bytes>, Refused> {
        let chunk = self.incoming.blobs.chunk_size();
        while self.buffer.len() < chunk {
            match self.piece().await? {
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None => break,
            }
        }
        let length = self.buffer.len().min(chunk);
        Ok((length > 0).then(|| self.buffer.split_to(length).freeze()))
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Refused> {
        let began = Instant::now();
        let piece = tokio::select! {
            piece = timeout(SILENCE, self.body.next()) => piece.map_err(|_| Refused::Slow)?,
            () = self.incoming.stop.cancelled() => return Err(Refused::Again("the process ends")),
        };
        self.waited += began.elapsed();
        let Some(piece) = piece.transpose().map_err(|_| Refused::CutOff)? else { return self.end() };
        self.received += piece.len() as u64;
        let Incoming { size, most, .. } = self.incoming;
        if let Some(size) = size.filter(|size| self.received > *size) {
            return Err(Refused::Size { said: size, more: true });
        }
        if self.received > *most {
            return Err(Refused::TooLarge(*most));
        }
        if self.received > self.reserved {
            self.reserve(STEP)?;
        }
        if let Some(room) = self.room.last() {
            room.written(piece.len() as u64);
        }
        let (grace, rate) = SLOW;
        let due = self.waited.saturating_sub(grace).as_secs() * rate;
        if self.received < due { Err(Refused::Slow) } else { Ok(Some(piece)) }
    }

    fn end(&self) -> Result<Option<Bytes>, Refused> {
        match self.incoming.size {
            Some(said) if self.received < said => Err(Refused::Size { said, more: false }),
            _ => Ok(None),
        }
    }

    fn check(&self, found: ContentHash) -> Result<(), Refused> {
        if found == self.incoming.name { Ok(()) } else { Err(Refused::WrongContent(found)) }
    }
}
