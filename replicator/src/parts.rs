//! Large blobs go on from where their fetching stopped. While one is received, what is durable of it and where the store goes on are kept in the index;
//! after a crash, a stop, or a lost connection that much is read from the disk instead of the network. It is hashed with the rest, as if it had just come.
//!
//! Costs: one sync of the file and one shared commit of the index for each [`STEP`], beside the transfer.

use crate::node::{ApplyError, Node};
use bytes::Bytes;
use common::{
    blobs::{BlobError, BlobStore, Mark},
    hash::{ContentHash, Hasher},
    index::{Fetch, Index, IndexError},
    log::{EventLog, Logged},
    resolve::blocking,
    root::{Root, TempFile},
    time::Timestamp,
};
use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{runtime::Handle, sync::Notify, task::JoinHandle};

/// How many bytes are fetched anew after a crash at most, and what is still in memory then.
const STEP: u64 = 16 << 20;
/// What is half fetched and was not gone on with for so many seconds is dropped.
const FORGOTTEN: f64 = 86_400.0;
/// Bytes hashed at once of what is there already.
const BLOCK: usize = 256 * 1024;

/// One fetch of a blob at a time: two would write one file, and the second can copy what the first has placed.
#[derive(Default)]
pub struct Claims {
    held: Mutex<HashSet<ContentHash>>,
    freed: Notify,
}

/// The right to fetch a blob, until it is dropped.
pub struct Claim {
    claims: Arc<Claims>,
    content: ContentHash,
}

impl Claims {
    fn held(&self) -> MutexGuard<'_, HashSet<ContentHash>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_claim(self: &Arc<Self>, content: ContentHash) -> Option<Claim> {
        self.held().insert(content).then(|| Claim { claims: Arc::clone(self), content })
    }

    /// Waits until nobody else fetches this blob.
    pub async fn claim(self: &Arc<Self>, content: ContentHash) -> Claim {
        loop {
            let freed = self.freed.notified();
            if let Some(claim) = self.try_claim(content) {
                return claim;
            }
            freed.await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.held().remove(&self.content);
        self.claims.freed.notify_waiters();
    }
}

/// A temp file that chunks are written to, with what it holds already.
pub struct Begun {
    pub temp: TempFile,
    pub hasher: Hasher,
    pub length: u64,
    /// Keeps how far it is; `None` where there is no index, or nothing to gain.
    pub progress: Option<Progress>,
}

impl Begun {
    /// From nothing.
    pub fn new(root: &Root, content: ContentHash, keep_in: Option<&Index>) -> io::Result<Self> {
        let temp = root.create_temp(content)?;
        let progress = keep_in.map(|index| Progress::new(index, content, &temp.name, 0));
        Ok(Self { temp, hasher: Hasher::new(), length: 0, progress })
    }

    /// From what is there; reads it. `None`: it is not as it was left.
    fn again(root: &Root, fetch: &Fetch, index: &Index) -> io::Result<Option<Self>> {
        let mut file = root.reopen_temp(&fetch.temp)?;
        if file.metadata()?.len() < fetch.bytes {
            return Ok(None);
        }
        // What came after the mark is not known to be durable, and comes again.
        file.set_len(fetch.bytes)?;
        let (mut hasher, mut block, mut left) = (Hasher::new(), vec![0; BLOCK], fetch.bytes);
        while left > 0 {
            let most = BLOCK.min(usize::try_from(left).unwrap_or(BLOCK));
            let n = file.read(&mut block[..most])?;
            if n == 0 {
                return Ok(None);
            }
            hasher.update(&block[..n]);
            root.got_on(n);
            left -= n as u64;
        }
        let progress = Some(Progress::new(index, fetch.sha256, &fetch.temp, fetch.bytes));
        Ok(Some(Self {
            temp: TempFile { name: fetch.temp.clone(), file },
            hasher,
            length: fetch.bytes,
            progress,
        }))
    }

    /// Takes up what was kept, where the store goes on from there; else it is thrown away, and the blob begun anew.
    pub async fn resume<B: BlobStore>(
        placing: &crate::fetch::Placing,
        blobs: &B,
        limit: &common::limits::RateLimit,
        fetch: Fetch,
        index: &Index,
    ) -> Result<Option<(Self, B::Reader)>, ApplyError> {
        let (content, size) = (placing.content, placing.attributes.size);
        let goes_on = blobs.get_from(content, size, fetch.bytes, &fetch.mark, limit).await;
        let (reader, from) = goes_on.map_err(ApplyError::Blob)?;
        let (root, it, at) = (Arc::clone(&placing.root), fetch.clone(), index.clone());
        let begun = match from == fetch.bytes {
            // A file that cannot be read again is fetched again.
            true => blocking(move || Self::again(&root, &it, &at)).await.unwrap_or_default(),
            false => None,
        };
        match begun {
            Some(begun) => {
                tracing::info!(path = %placing.path, sha256 = %content, from_bytes = from, bytes = size, "going on with a large file");
                Ok(Some((begun, reader)))
            }
            None => {
                discard(&placing.root, index, &fetch).await?;
                Ok(None)
            }
        }
    }
}

/// Keeps how far a blob is received.
pub struct Progress {
    index: Index,
    content: ContentHash,
    temp: String,
    runtime: Handle,
    /// Up to here it is kept, or about to be.
    kept: u64,
    /// Something is kept: the file is worth something to the next try.
    worth: bool,
    under_way: Option<JoinHandle<Result<(), ApplyError>>>,
}

impl Progress {
    fn new(index: &Index, content: ContentHash, temp: &str, kept: u64) -> Self {
        let (index, runtime) = (index.clone(), Handle::current());
        Self { index, content, temp: temp.into(), runtime, kept, worth: kept > 0, under_way: None }
    }

    /// `length` bytes are written, and the store goes on at `mark`. Every [`STEP`] they are made durable, then kept, while the next ones come. A disk that is slower than the network
    /// does so less often.
    pub fn wrote(&mut self, file: &File, length: u64, mark: Option<&Mark>) -> Result<(), ApplyError> {
        let Some(mark) = mark.filter(|_| length - self.kept >= STEP) else { return Ok(()) };
        if self.under_way.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        self.settle()?;
        let file = file.try_clone().map_err(ApplyError::Disk)?;
        let (index, temp, sha256, mark) = (self.index.clone(), self.temp.clone(), self.content, mark.clone());
        self.kept = length;
        self.under_way = Some(self.runtime.spawn(async move {
            blocking(move || file.sync_data()).await.map_err(ApplyError::Disk)?;
            let fetch = Fetch { sha256, temp, bytes: length, mark, kept: Timestamp::now() };
            Ok(index.write(move |tx| tx.keep_fetch(&fetch)).await?)
        }));
        Ok(())
    }

    /// Waits for what is under way. A sync that failed is final for the file; an index that could not be written only makes a crash cost more.
    fn settle(&mut self) -> Result<(), ApplyError> {
        let Some(task) = self.under_way.take() else { return Ok(()) };
        match self.runtime.block_on(task) {
            Ok(Ok(())) => self.worth = true,
            Ok(Err(error @ ApplyError::Disk(_))) => return Err(error),
            Ok(Err(error)) => tracing::debug!(%error, "how far a file is fetched could not be kept"),
            // The process is stopping.
            Err(_) => {}
        }
        Ok(())
    }

    /// The file is complete, or failed. True: it stays, for the next try to go on from.
    pub fn end<T>(mut self, ended: &Result<Option<T>, ApplyError>) -> Result<bool, ApplyError> {
        self.settle()?;
        let interrupted = matches!(
            ended,
            Err(ApplyError::SessionOver | ApplyError::Log(_) | ApplyError::Blob(BlobError::Broker(_)))
        );
        if interrupted && self.worth {
            return Ok(true);
        }
        if self.worth {
            let content = self.content;
            let forgotten = self.index.write(move |tx| tx.forget_fetch(content));
            // A row without its file is nothing to go on from; it is dropped with the next look.
            if let Err(error) = self.runtime.block_on(forgotten) {
                tracing::debug!(%error, "a fetch that ended could not be forgotten");
            }
        }
        Ok(false)
    }
}

/// A chunk, and where the store goes on after it.
pub type Piece = (Bytes, Option<Mark>);

async fn discard(root: &Arc<Root>, index: &Index, fetch: &Fetch) -> Result<(), ApplyError> {
    let (root, temp, content) = (Arc::clone(root), fetch.temp.clone(), fetch.sha256);
    blocking(move || root.remove_temp(&temp)).await.map_err(ApplyError::Disk)?;
    Ok(index.write(move |tx| tx.forget_fetch(content)).await?)
}

/// Drops what is half fetched and is not wanted any more: nobody has gone on with it for a day, or nothing is left to be applied (`idle`) and no parked event names it.
pub async fn drop_unwanted<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    idle: bool,
) -> Result<(), ApplyError> {
    let now = Timestamp::now();
    for fetch in node.index.fetches()? {
        let forgotten = now.seconds_since(fetch.kept) > FORGOTTEN;
        if !forgotten && (!idle || parked_want(node, fetch.sha256)?) {
            continue;
        }
        // Whoever fetches it now wants it, or takes it away.
        let Some(_claim) = node.claims.try_claim(fetch.sha256) else { continue };
        if node.index.fetch_of(fetch.sha256)?.as_ref() == Some(&fetch) {
            tracing::info!(sha256 = %fetch.sha256, bytes = fetch.bytes, "a half fetched file that nothing wants any more is dropped");
            discard(&node.root, &node.index, &fetch).await?;
        }
    }
    Ok(())
}

fn parked_want<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    content: ContentHash,
) -> Result<bool, IndexError> {
    let subjects = node.log.subjects();
    let wants = |parked: common::index::Parked| {
        let logged =
            Logged::new(subjects, parked.version, parked.stamp, parked.subject, parked.payload.into());
        logged.event.is_ok_and(|event| event.sha256 == content)
    };
    Ok(node.index.parked()?.into_iter().any(wants))
}
