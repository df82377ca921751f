//! What a collector does with the bucket: it lists what is there, and takes away what nobody needs, so that no put that runs beside it is lost.
//!
//! A blob goes in this order: its meta message is replaced by one that says "deleted", by compare-and-set on the one that was listed; then its chunks are
//! purged, up to the sequence of that message. A put that found the blob has rewritten the meta before, so that the first step fails; one that comes after it
//! stores chunks that are newer than what is purged. What a crash leaves in between are chunks without a name, which the next pass takes.

use super::{
    BlobError, NatsBlobs,
    meta::{Entry, tombstone},
};
use crate::{
    broker::wire::{Ack, Stored},
    hash::ContentHash,
    time::Timestamp,
};
use base64::{Engine, prelude::BASE64_URL_SAFE};
use std::collections::HashSet;

/// Names read at once: many, since the server counts all that are left for each page.
const PAGE: usize = 10_000;
const PAGE_BYTES: usize = 8 << 20;
/// Names looked up at once.
const LOOKED_UP: usize = 500;

/// A blob that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub hash: ContentHash,
    /// Its length, as the store says it.
    pub size: u64,
    /// When it was stored, or last marked as in use, by the broker's clock.
    pub used: Timestamp,
    /// Of how many messages it consists besides its name.
    pub chunks: u64,
    sequence: u64,
    nuid: String,
}

impl Listed {
    /// Of a store that keeps a blob as one object.
    pub(super) fn object(hash: ContentHash, size: u64, used: Timestamp) -> Self {
        Self { hash, size, used, chunks: 0, sequence: 0, nuid: hash.to_string() }
    }

    /// The name of its chunks where that does not follow from its own.
    pub fn chunks_name(&self) -> Option<&str> {
        Some(self.nuid.as_str()).filter(|nuid| *nuid != self.hash.to_string())
    }
}

/// What is left of a blob that was taken away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tombstone {
    /// When it was taken away.
    pub since: Timestamp,
    subject: String,
    sequence: u64,
}

impl Tombstone {
    pub(super) fn object(since: Timestamp, path: String) -> Self {
        Self { since, subject: path, sequence: 0 }
    }

    pub(super) fn path(&self) -> &str {
        &self.subject
    }
}

/// A page of what the bucket has.
#[derive(Default, Debug)]
pub struct Listing {
    /// Blobs.
    pub blobs: Vec<Listed>,
    /// What others were.
    pub tombstones: Vec<Tombstone>,
    /// Names of the chunks of objects that are no blobs: somebody else's, and left alone.
    pub foreign: Vec<String>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<u64>,
}

/// Chunks that belong to no blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Orphan {
    nuid: String,
    /// Where the newest of them stands.
    newest: u64,
    /// Of which blob they might become the chunks without being uploaded, and where its meta message stands that says "deleted" (0: none).
    name: Option<(ContentHash, u64)>,
    /// Of a bucket: the id of the upload.
    upload: Option<String>,
}

impl Orphan {
    pub(super) fn file(path: String) -> Self {
        Self { nuid: path, newest: 0, name: None, upload: None }
    }

    pub(super) fn upload(key: String, id: String) -> Self {
        Self { nuid: key, newest: 0, name: None, upload: Some(id) }
    }

    /// A file, or the key of an upload and its id.
    pub(super) fn place(&self) -> (&str, Option<&str>) {
        (&self.nuid, self.upload.as_deref())
    }
}

impl NatsBlobs {
    /// A page of the bucket, in the order in which blobs were stored or last used. What is stored meanwhile may be on a later page once more.
    pub async fn list(&self, from: u64) -> Result<Listing, BlobError> {
        let bucket = &self.0;
        let names = format!("$O.{}.M.*", bucket.name);
        let page = bucket.wire.page(&bucket.stream, &names, from, PAGE, PAGE_BYTES).await?;
        let mut listing = Listing {
            next: page.messages.last().filter(|_| !page.end).map(|last| last.sequence + 1),
            ..Listing::default()
        };
        for stored in page.messages {
            let Some(hash) = name_of(&stored.subject) else {
                listing.foreign.extend(Entry::of(Some(stored)).live().map(|meta| meta.nuid.clone()));
                continue;
            };
            let (sequence, used, subject) = (stored.sequence, stored.time, stored.subject.clone());
            match Entry::of(Some(stored)).live() {
                Some(meta) => {
                    let (nuid, chunks) = (meta.nuid.clone(), meta.chunks);
                    listing.blobs.push(Listed { hash, size: meta.size, used, chunks, sequence, nuid });
                }
                None => listing.tombstones.push(Tombstone { since: used, subject, sequence }),
            }
        }
        Ok(listing)
    }

    /// How many messages the bucket has: those of its blobs, what is left of others, and chunks of no blob.
    pub async fn messages(&self) -> Result<u64, BlobError> {
        Ok(self.0.wire.stream_info(&self.0.stream).await?.state.messages)
    }

    /// Takes a blob away. False: it was marked as in use since it was listed, and stays.
    pub async fn take_away(&self, listed: &Listed) -> Result<bool, BlobError> {
        let Listed { hash, nuid, sequence, .. } = listed;
        self.bury(*hash, nuid, *sequence).await
    }

    /// Drops what tells that a blob was taken away. A blob of that name that was stored since stays.
    pub async fn drop_tombstone(&self, tombstone: &Tombstone) -> Result<(), BlobError> {
        let bucket = &self.0;
        Ok(bucket.wire.purge_below(&bucket.stream, &tombstone.subject, tombstone.sequence + 1).await?)
    }

    /// Chunks whose newest was stored before `before`, and which neither one of `large` has ([`Listed::chunks_name`] of all blobs there are, and
    /// [`Listing::foreign`]) nor a blob whose hash is their name. The names of all chunks are in memory by turns, 100,000 at once, and the server lists them all for each turn.
    pub async fn orphans(
        &self,
        large: &HashSet<String>,
        before: Timestamp,
    ) -> Result<Vec<Orphan>, BlobError> {
        let (bucket, mut orphans, mut offset) = (&self.0, Vec::new(), 0);
        loop {
            let filter = bucket.chunks_of("*");
            let (subjects, total) = bucket.wire.subjects(&bucket.stream, &filter, offset).await?;
            if subjects.is_empty() {
                return Ok(orphans);
            }
            offset += subjects.len() as u64;
            let mut hashes = Vec::new();
            for nuid in subjects.iter().filter_map(|subject| subject.rsplit('.').next()) {
                match nuid.parse::<ContentHash>() {
                    Ok(hash) => hashes.push(hash),
                    Err(_) if large.contains(nuid) => {}
                    Err(_) => orphans.extend(self.orphan(nuid.into(), None, before).await?),
                }
            }
            for hashes in hashes.chunks(LOOKED_UP) {
                let metas: Vec<String> = hashes.iter().map(|&hash| bucket.meta_of(hash)).collect();
                let found = bucket.wire.lasts_of(&bucket.stream, &metas).await?;
                for (&hash, stored) in hashes.iter().zip(found) {
                    let (entry, nuid) = (Entry::of(stored), hash.to_string());
                    match entry.live() {
                        Some(meta) if meta.nuid == nuid => {}
                        // It has other chunks, so these are looked at by nobody.
                        Some(_) => orphans.extend(self.orphan(nuid, None, before).await?),
                        None => {
                            orphans.extend(self.orphan(nuid, Some((hash, entry.sequence)), before).await?)
                        }
                    }
                }
            }
            if offset >= total {
                return Ok(orphans);
            }
        }
    }

    async fn orphan(
        &self,
        nuid: String,
        name: Option<(ContentHash, u64)>,
        before: Timestamp,
    ) -> Result<Option<Orphan>, BlobError> {
        let bucket = &self.0;
        let newest = bucket.wire.last_of(&bucket.stream, &bucket.chunks_of(&nuid)).await?;
        let old = |newest: &Stored| newest.time < before;
        Ok(newest.filter(old).map(|newest| Orphan { nuid, newest: newest.sequence, name, upload: None }))
    }

    /// Takes chunks without a blob away. False: a blob has them by now.
    pub async fn take_orphan_away(&self, orphan: &Orphan) -> Result<bool, BlobError> {
        let bucket = &self.0;
        if let Some((hash, sequence)) = orphan.name {
            return self.bury(hash, &orphan.nuid, sequence).await;
        }
        let chunks = bucket.chunks_of(&orphan.nuid);
        bucket.wire.purge_below(&bucket.stream, &chunks, orphan.newest + 1).await?;
        Ok(true)
    }

    async fn bury(&self, hash: ContentHash, nuid: &str, sequence: u64) -> Result<bool, BlobError> {
        let bucket = &self.0;
        let deleted = tombstone(&bucket.name, hash, nuid);
        let Ack::Stored { sequence, .. } = bucket.publish_meta(hash, deleted, Some(sequence)).await? else {
            return Ok(false);
        };
        bucket.wire.purge_below(&bucket.stream, &bucket.chunks_of(nuid), sequence).await?;
        Ok(true)
    }
}

/// The blob that a meta message is of.
fn name_of(subject: &str) -> Option<ContentHash> {
    let name = BASE64_URL_SAFE.decode(subject.rsplit('.').next()?).ok()?;
    std::str::from_utf8(&name).ok()?.parse().ok()
}
