//! Bodies: from a file as it stands, from one that is being fetched, and from the blob store. Each sends blocks as the client takes them, and holds a few of
//! them at most. What turns out to be wrong ends the connection before the last byte that was promised.

use crate::{
    arrivals::{Arrival, Arrived},
    blobs::BlobReader,
    hash::{ContentHash, Hasher},
    resolve::blocking,
    root::FileStat,
    time::Timestamp,
};
use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt, sync::Arc};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Read at once: the memory of a client, twice.
pub const BLOCK: usize = 256 * 1024;

/// A file whose bytes are known to be the content for as long as it has this length and time of change.
#[derive(Clone)]
pub struct Standing {
    /// It, open.
    pub file: Arc<File>,
    /// Its content.
    pub content: ContentHash,
    /// Its length.
    pub size: u64,
    /// Its time of change.
    pub mtime: Timestamp,
}

impl Standing {
    /// These bytes of it, if they still are; blocks.
    pub fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let bytes = read(&self.file, range)?;
        let now = FileStat::of(&self.file)?;
        if (now.stat.size, now.mtime) != (self.size, self.mtime) {
            return Err(io::Error::other("the file was changed while it was read"));
        }
        Ok(bytes)
    }

    /// These bytes as a body. One block at most is read at once, before the answer begins.
    pub async fn body(self, range: Range<u64>, place: OwnedSemaphorePermit) -> io::Result<Body> {
        if range.end - range.start > BLOCK as u64 {
            return Ok(sent(Sending {
                at: range.start,
                end: range.end,
                from: From::Standing(self),
                _place: place,
            }));
        }
        Ok(Body::from(blocking(move || self.read(range)).await?))
    }
}

/// These bytes of a file that is being fetched. The last of them is sent when the whole file has been checked.
pub fn arriving(
    arrival: Arrival,
    content: ContentHash,
    range: Range<u64>,
    place: OwnedSemaphorePermit,
) -> Body {
    sent(Sending { at: range.start, end: range.end, from: From::Arriving(arrival, content), _place: place })
}

fn read(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let mut block = vec![0; usize::try_from(range.end - range.start).unwrap_or(BLOCK)];
    file.read_exact_at(&mut block, range.start)?;
    Ok(block.into())
}

struct Sending {
    at: u64,
    end: u64,
    from: From,
    _place: OwnedSemaphorePermit,
}

enum From {
    Standing(Standing),
    Arriving(Arrival, ContentHash),
}

fn sent(sending: Sending) -> Body {
    Body::from_stream(stream::try_unfold(sending, Sending::next))
}

impl Sending {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let ready = match &mut self.from {
            From::Standing(_) => self.end,
            From::Arriving(arrival, content) => match ready(&mut arrival.arrived, self.at, self.end).await? {
                Ready::Some(bytes) => bytes,
                Ready::All => {
                    let Arrival { file, size, mtime, .. } = arrival.clone();
                    self.from = From::Standing(Standing { file, content: *content, size, mtime });
                    self.end
                }
            },
        };
        let range = self.at..ready.min(self.at + BLOCK as u64);
        let next = range.end;
        let bytes = match &self.from {
            From::Standing(standing) => {
                let standing = standing.clone();
                blocking(move || standing.read(range)).await?
            }
            From::Arriving(arrival, _) => {
                let file = Arc::clone(&arrival.file);
                blocking(move || read(&file, range)).await?
            }
        };
        self.at = next;
        Ok(Some((bytes, self)))
    }
}

enum Ready {
    Some(u64),
    All,
}

/// Waits until there is something to send after `at`.
async fn ready(arrived: &mut watch::Receiver<Arrived>, at: u64, end: u64) -> io::Result<Ready> {
    let may_go = |arrived: &Arrived| match arrived {
        Arrived::Bytes(bytes) => (*bytes).min(end - 1) > at,
        Arrived::Whole | Arrived::Failed => true,
    };
    match arrived.wait_for(may_go).await.as_deref() {
        Ok(Arrived::Bytes(bytes)) => Ok(Ready::Some((*bytes).min(end - 1))),
        Ok(Arrived::Whole) => Ok(Ready::All),
        Ok(Arrived::Failed) | Err(_) => Err(io::Error::other("the file could not be fetched")),
    }
}

/// These bytes of a blob, which is read to its end however few they are: only then is it known that they are its own.
pub fn stored<R: BlobReader>(
    reader: R,
    (content, size): (ContentHash, u64),
    range: Range<u64>,
    places: [OwnedSemaphorePermit; 2],
) -> Body {
    let (hasher, held) = (Some(Hasher::new()), Bytes::new());
    let stored = Stored { reader, content, size, range, at: 0, hasher, held, _places: places };
    Body::from_stream(stream::try_unfold(stored, Stored::next))
}

struct Stored<R> {
    reader: R,
    content: ContentHash,
    size: u64,
    range: Range<u64>,
    /// Bytes read so far.
    at: u64,
    /// `None`: the end was reached.
    hasher: Option<Hasher>,
    /// Read, and not sent before more is, or the end.
    held: Bytes,
    _places: [OwnedSemaphorePermit; 2],
}

impl<R: BlobReader> Stored<R> {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let Some(mut hasher) = self.hasher.take() else { return Ok(None) };
        loop {
            let Some(chunk) = self.reader.next().await.map_err(io::Error::other)? else {
                if self.at != self.size || hasher.finish() != self.content {
                    return Err(io::Error::other("the blob has other bytes than its name says"));
                }
                return Ok(Some((std::mem::take(&mut self.held), self)));
            };
            let piece = piece(&chunk, self.at, &self.range);
            self.at += chunk.len() as u64;
            hasher = blocking(move || {
                hasher.update(&chunk);
                hasher
            })
            .await;
            if !piece.is_empty() {
                let before = std::mem::replace(&mut self.held, piece);
                if !before.is_empty() {
                    self.hasher = Some(hasher);
                    return Ok(Some((before, self)));
                }
            }
        }
    }
}

/// What of a chunk that begins at `at` lies within the range.
fn piece(chunk: &Bytes, at: u64, range: &Range<u64>) -> Bytes {
    let within =
        |position: u64| usize::try_from(position.saturating_sub(at)).unwrap_or(usize::MAX).min(chunk.len());
    chunk.slice(within(range.start)..within(range.end).max(within(range.start)))
}
