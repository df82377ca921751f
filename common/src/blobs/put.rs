//! Storing blobs: one round trip for a small new one, a window of chunks for a large one, and never a name before its chunks.

use super::{
    BlobError, Source,
    meta::{Entry, new_meta},
    nats::Bucket,
};
use crate::{
    broker::{
        BrokerError,
        wire::{Ack, PATIENCE, fresh_id},
    },
    hash::ContentHash,
};
use async_nats::{
    HeaderMap, HeaderName, HeaderValue,
    header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{io, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// Chunks on their way: more gain nothing, and eight processes of 64 such uploads stay far below what the server queues.
const WINDOW: usize = 8;
/// How often a lost race for the meta message is run again. Each loss means that another process won it, so more than a few do not happen.
const RACES: usize = 10;
/// How long a replica may be behind before we believe it, and how often it is asked meanwhile.
const CATCH_UP: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// For taking back chunks that nobody needs: what stays is for gc.
const TIDY: Duration = Duration::from_secs(2);

/// Chunks that were uploaded: their NUID, bytes, and number.
struct Uploaded {
    nuid: String,
    size: u64,
    chunks: u64,
}

/// What stands under a name after we wanted it there.
enum Standing {
    /// A live blob with these chunks, marked as in use now.
    Live { nuid: String },
    /// None; the sequence of what tells that, or 0.
    Gone { sequence: u64 },
}

fn only(name: HeaderName, value: impl Into<HeaderValue>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(name, value.into());
    headers
}

impl Bucket {
    pub(super) async fn put(&self, hash: ContentHash, bytes: Bytes) -> Result<(), BlobError> {
        let (nuid, size) = (hash.to_string(), bytes.len() as u64);
        let ours = Uploaded { nuid, size, chunks: size.min(1) };
        let expect_none = only(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, 0u64);
        let chunk = async {
            if bytes.is_empty() {
                return Ok(None);
            }
            let subject = self.chunks_of(&ours.nuid);
            self.wire.publish(&self.stream, &subject, expect_none, bytes.clone()).await.map(Some)
        };
        // Both fly together; done when both are acknowledged.
        let (chunk, meta) = tokio::join!(chunk, self.write_meta(hash, &ours, Some(0)));
        let (chunk, meta) = (chunk?, meta?);
        let standing = match meta {
            Ack::Stored { .. } if !matches!(chunk, Some(Ack::WrongLast { .. })) => return Ok(()),
            // A chunk that no meta named may have any bytes. Ours names it now, so it stays: if it is what it should be.
            Ack::Stored { .. } if self.chunk_is(&ours.nuid, &bytes).await? => return Ok(()),
            Ack::Stored { sequence, .. } => Standing::Gone { sequence },
            Ack::WrongLast { last } => self.renew(hash, size, last.unwrap_or(1)).await?,
        };
        match (standing, chunk) {
            (Standing::Live { nuid }, Some(Ack::Stored { .. })) if nuid != ours.nuid => {
                self.take_back(&ours.nuid).await;
                Ok(())
            }
            (Standing::Live { .. }, _) => Ok(()),
            // Deleted before our chunk came: whoever deletes does not touch what is newer than the deletion.
            (Standing::Gone { sequence }, Some(Ack::Stored { sequence: chunk, .. })) if chunk > sequence => {
                self.give_name(hash, &ours, sequence).await
            }
            (Standing::Gone { sequence }, None) => self.give_name(hash, &ours, sequence).await,
            (Standing::Gone { sequence }, Some(_)) => {
                let fresh = Uploaded { nuid: fresh_id(), ..ours };
                self.upload_chunk(&self.chunks_of(&fresh.nuid), bytes).await?;
                self.give_name(hash, &fresh, sequence).await
            }
        }
    }

    pub(super) async fn touch(&self, hash: ContentHash) -> Result<bool, BlobError> {
        let entry = self.look(hash).await?;
        let Some(size) = entry.live().map(|meta| meta.size) else {
            return Ok(false);
        };
        Ok(matches!(self.renew(hash, size, entry.sequence).await?, Standing::Live { .. }))
    }

    pub(super) async fn put_stream(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        let (hash, ours) = self.upload(source).await?;
        self.give_name(hash, &ours, 0).await?;
        Ok((hash, ours.size))
    }

    pub(super) async fn put_again(&self, source: Source) -> Result<(ContentHash, u64), BlobError> {
        let (hash, ours) = self.upload(source).await?;
        let nuid = |entry: &Entry| entry.live().map(|meta| meta.nuid.clone());
        let mut stands = self.look(hash).await?;
        let replaced = nuid(&stands);
        for _ in 0..RACES {
            match self.write_meta(hash, &ours, Some(stands.sequence)).await? {
                Ack::Stored { .. } => {
                    if let Some(replaced) = replaced {
                        self.take_back(&replaced).await;
                    }
                    return Ok((hash, ours.size));
                }
                Ack::WrongLast { last } => {
                    stands = self.look_from(hash, last.unwrap_or(stands.sequence + 1)).await?;
                }
            }
            // Another node has repaired it meanwhile; else it was marked as in use, or taken away.
            if nuid(&stands).is_some_and(|now| replaced.as_ref() != Some(&now)) {
                self.take_back(&ours.nuid).await;
                return Ok((hash, ours.size));
            }
        }
        Err(self.contested(hash))
    }

    /// All chunks of a source under a fresh NUID, all of them acknowledged.
    async fn upload(&self, source: Source) -> Result<(ContentHash, Uploaded), BlobError> {
        let nuid = fresh_id();
        match self.upload_chunks(source, &self.chunks_of(&nuid)).await {
            Ok((hash, size, chunks)) => Ok((hash, Uploaded { nuid, size, chunks })),
            Err(error) => {
                self.take_back(&nuid).await;
                Err(error)
            }
        }
    }

    async fn upload_chunks(
        &self,
        mut source: Source,
        subject: &str,
    ) -> Result<(ContentHash, u64, u64), BlobError> {
        let (mut size, mut chunks, mut more, mut failed) = (0, 0, true, None);
        let mut under_way = FuturesUnordered::new();
        // After a failure too: a chunk still on its way could come after all were taken back.
        while more || !under_way.is_empty() {
            tokio::select! {
                Some(acknowledged) = under_way.next(), if !under_way.is_empty() => {
                    if let Err(error) = acknowledged {
                        (more, failed) = (false, failed.or(Some(error)));
                    }
                }
                chunk = source.chunks.recv(), if more && under_way.len() < WINDOW => match chunk {
                    // An empty chunk would end the reading of other clients.
                    Some(Ok(bytes)) if bytes.is_empty() => {}
                    Some(Ok(bytes)) => {
                        (size, chunks) = (size + bytes.len() as u64, chunks + 1);
                        under_way.push(self.upload_chunk(subject, bytes));
                    }
                    Some(Err(error)) => (more, failed) = (false, Some(BlobError::Source(error))),
                    None => more = false,
                },
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let changed = |_| BlobError::Source(io::Error::other("it changed while it was read"));
        Ok((source.hash.await.map_err(changed)?, size, chunks))
    }

    async fn upload_chunk(&self, subject: &str, bytes: Bytes) -> Result<(), BlobError> {
        self.wire.publish(&self.stream, subject, HeaderMap::new(), bytes).await?;
        Ok(())
    }

    /// Names uploaded chunks, unless the blob is there by now: then that is marked as in use and ours are taken back. `expected`: the sequence of
    /// the meta message that stood there.
    async fn give_name(
        &self,
        hash: ContentHash,
        ours: &Uploaded,
        mut expected: u64,
    ) -> Result<(), BlobError> {
        for _ in 0..RACES {
            let Ack::WrongLast { last } = self.write_meta(hash, ours, Some(expected)).await? else {
                return Ok(());
            };
            match self.renew(hash, ours.size, last.unwrap_or(expected + 1)).await? {
                Standing::Live { nuid } => {
                    if nuid != ours.nuid {
                        self.take_back(&ours.nuid).await;
                    }
                    return Ok(());
                }
                Standing::Gone { sequence } => expected = sequence,
            }
        }
        Err(self.contested(hash))
    }

    /// Rewrites the meta message of a live blob of this size as it is, by compare-and-set, so that it is the newest there is: a deletion decided on before
    /// fails. `floor`: the sequence that is known to be there.
    async fn renew(&self, hash: ContentHash, size: u64, mut floor: u64) -> Result<Standing, BlobError> {
        let mut before = None;
        for _ in 0..RACES {
            let entry = self.look_from(hash, floor).await?;
            let sequence = entry.sequence;
            let Some(meta) = entry.live().filter(|meta| meta.size == size) else {
                return Ok(Standing::Gone { sequence });
            };
            let live = Standing::Live { nuid: meta.nuid.clone() };
            if before.is_some_and(|before| sequence > before) {
                // Another process marked it since we looked first.
                return Ok(live);
            }
            match self.publish_meta(hash, entry.payload.clone(), Some(sequence)).await? {
                Ack::Stored { .. } => return Ok(live),
                Ack::WrongLast { last } => {
                    before = before.or(Some(sequence));
                    floor = last.unwrap_or(sequence + 1);
                }
            }
        }
        Err(self.contested(hash))
    }

    /// What stands under the name, not older than `floor`, which a replica that is behind may not know yet.
    async fn look_from(&self, hash: ContentHash, floor: u64) -> Result<Entry, BlobError> {
        let believe = Instant::now() + CATCH_UP;
        loop {
            let entry = self.look(hash).await?;
            if entry.sequence >= floor || Instant::now() > believe {
                return Ok(entry);
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn chunk_is(&self, nuid: &str, bytes: &Bytes) -> Result<bool, BlobError> {
        let stored = self.wire.last_of(&self.stream, &self.chunks_of(nuid)).await?;
        Ok(stored.is_some_and(|stored| stored.payload == *bytes))
    }

    async fn write_meta(
        &self,
        hash: ContentHash,
        ours: &Uploaded,
        expected: Option<u64>,
    ) -> Result<Ack, BlobError> {
        let meta = new_meta(&self.name, hash, (&ours.nuid, ours.size, ours.chunks), self.chunk_size);
        self.publish_meta(hash, meta, expected).await
    }

    pub(super) async fn publish_meta(
        &self,
        hash: ContentHash,
        meta: Bytes,
        expected: Option<u64>,
    ) -> Result<Ack, BlobError> {
        let mut headers = only(NATS_ROLLUP, "sub");
        if let Some(sequence) = expected {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, HeaderValue::from(sequence));
        }
        Ok(self.wire.publish(&self.stream, &self.meta_of(hash), headers, meta).await?)
    }

    /// Deletes chunks that have no name. Not every process may; then, or when the broker is slow, gc does it.
    async fn take_back(&self, nuid: &str) {
        let _ = timeout(TIDY, self.wire.purge(&self.stream, &self.chunks_of(nuid))).await;
    }

    fn contested(&self, hash: ContentHash) -> BlobError {
        BrokerError::Timeout { doing: format!("naming blob {hash}"), waited: PATIENCE }.into()
    }
}
