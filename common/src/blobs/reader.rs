//! Reading the chunks of one blob in order, the next page on its way while one is used.

use super::{BlobError, BlobReader, Mark, meta::Meta, nats::CHUNK};
use crate::{
    broker::{
        BrokerError,
        wire::{Page, Stored, Wire},
    },
    hash::ContentHash,
    limits::RateLimit,
};
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use tokio_util::task::AbortOnDropHandle;

/// Chunks asked for at once. Two pages are in memory at most.
const PAGE: u64 = 8;
/// The most bytes of a page: other clients may have stored larger chunks.
const PAGE_BYTES: usize = 2 * 1024 * 1024;
/// Under a limit, what passes in so many seconds is asked for at once; a chunk at least.
const PAGE_SECONDS: usize = 2;

/// Where a reader stands: what a [`Mark`] of this store says, as JSON.
#[derive(Serialize, Deserialize, Clone, Debug)]
pub(super) struct Place {
    /// The blob's chunks: another upload of it has others.
    pub(super) nuid: String,
    /// Chunks that were handed out.
    pub(super) chunks: u64,
    /// The next ones have at least this sequence.
    from: u64,
}

impl Place {
    pub(super) fn start(nuid: &str) -> Self {
        Self { nuid: nuid.into(), chunks: 0, from: 1 }
    }

    pub(super) fn of(mark: &Mark) -> Option<Self> {
        serde_json::from_slice(mark.as_bytes()).ok()
    }
}

/// Reads one blob.
pub struct NatsReader(State);

enum State {
    /// At most one chunk, here already.
    Whole(Option<Bytes>),
    Chunks(Box<Chunks>),
}

struct Chunks {
    wire: Wire,
    stream: String,
    subject: String,
    hash: ContentHash,
    place: Place,
    /// Not yet handed out, as the meta message says.
    chunks: u64,
    bytes: u64,
    /// Here, not yet handed out.
    ready: VecDeque<Stored>,
    /// On its way; none after the last.
    page: Option<AbortOnDropHandle<Result<Page, BrokerError>>>,
    limit: RateLimit,
}

impl NatsReader {
    pub(super) fn of_nothing() -> Self {
        Self(State::Whole(None))
    }

    pub(super) fn of_one(chunk: Bytes) -> Self {
        Self(State::Whole(Some(chunk)))
    }

    pub(super) fn of_chunks(
        (wire, stream, subject): (Wire, String, String),
        hash: ContentHash,
        meta: Meta,
        place: Place,
        done: u64,
        limit: RateLimit,
    ) -> Self {
        let (chunks, bytes) = (meta.chunks - place.chunks, meta.size - done);
        let (ready, from) = (VecDeque::new(), place.from);
        let mut reader =
            Chunks { wire, stream, subject, hash, place, chunks, bytes, ready, page: None, limit };
        reader.ask(from);
        Self(State::Chunks(Box::new(reader)))
    }
}

impl Chunks {
    /// Asks for one chunk more than there should be, so that one too many is noticed without another request.
    fn ask(&mut self, from: u64) {
        let coming = self.chunks.saturating_sub(self.ready.len() as u64);
        let count = (coming + 1).min(PAGE) as usize;
        let (wire, stream, subject) = (self.wire.clone(), self.stream.clone(), self.subject.clone());
        let here: u64 = self.ready.iter().map(|chunk| chunk.payload.len() as u64).sum();
        // A limit lets a page pass as a whole: something has to come every few seconds, or it looks like a standstill.
        let most = (self.limit.in_seconds(PAGE_SECONDS) / CHUNK * CHUNK).clamp(CHUNK, PAGE_BYTES);
        let bytes = usize::try_from(self.bytes.saturating_sub(here)).unwrap_or(most).min(most);
        let limit = self.limit.clone();
        let page = async move {
            limit.take(bytes).await;
            wire.page(&stream, &subject, from, count, most).await
        };
        self.page = Some(AbortOnDropHandle::new(tokio::spawn(page)));
    }

    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return self.count(chunk).map(Some);
            }
            let Some(page) = &mut self.page else {
                return match (self.chunks, self.bytes) {
                    (0, 0) => Ok(None),
                    (chunks, bytes) => self.damaged(format!("{chunks} chunks and {bytes} bytes are missing")),
                };
            };
            let page = page.await.unwrap_or_else(|stopped| {
                let doing = format!("reading {}", self.subject);
                Err(BrokerError::Away { doing, reason: stopped.to_string() })
            });
            self.page = None;
            let page = page?;
            let last = page.messages.last().map(|stored| stored.sequence);
            self.ready.extend(page.messages);
            if let Some(last) = last.filter(|_| !page.end) {
                self.ask(last + 1);
            }
        }
    }

    fn count(&mut self, chunk: Stored) -> Result<Bytes, BlobError> {
        let length = chunk.payload.len() as u64;
        if self.chunks == 0 {
            return self.damaged("there are more chunks than its meta message says".into());
        }
        if length == 0 {
            return self.damaged("a chunk is empty".into());
        }
        if length > self.bytes {
            return self.damaged(format!("its chunks have at least {} bytes too many", length - self.bytes));
        }
        (self.chunks, self.bytes) = (self.chunks - 1, self.bytes - length);
        (self.place.chunks, self.place.from) = (self.place.chunks + 1, chunk.sequence + 1);
        Ok(chunk.payload)
    }

    fn damaged<T>(&self, reason: String) -> Result<T, BlobError> {
        Err(BlobError::Damaged { hash: self.hash, reason })
    }
}

#[async_trait]
impl BlobReader for NatsReader {
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        match &mut self.0 {
            State::Whole(chunk) => Ok(chunk.take()),
            State::Chunks(chunks) => chunks.next().await,
        }
    }

    fn mark(&self) -> Option<Mark> {
        let State::Chunks(chunks) = &self.0 else { return None };
        serde_json::to_vec(&chunks.place).ok().map(Mark)
    }
}
