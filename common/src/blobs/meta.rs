//! The meta message of an object: which chunks it has. ADR-20; fields that we do not know stay when it is rewritten.

use super::BlobError;
use crate::{broker::wire::Stored, hash::ContentHash, time::Timestamp};
use base64::{Engine, prelude::BASE64_URL_SAFE};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

/// What we need of a meta message, whoever wrote it.
#[derive(Deserialize, Debug, Clone)]
pub(super) struct Meta {
    /// The last token of its chunks' subject.
    pub(super) nuid: String,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) chunks: u64,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    options: Option<Options>,
}

#[derive(Deserialize, Debug, Clone)]
struct Options {
    /// It names another object and has no chunks itself.
    link: Option<serde_json::Value>,
}

/// What stands under a blob's name.
pub(super) struct Entry {
    /// The sequence of the meta message; 0 when there is none.
    pub(super) sequence: u64,
    /// The message as it was stored.
    pub(super) payload: Bytes,
    /// Parsed; `None` when there is no blob, or the message is no meta.
    meta: Option<Meta>,
}

impl Entry {
    pub(super) fn of(stored: Option<Stored>) -> Self {
        let Some(stored) = stored else {
            return Self { sequence: 0, payload: Bytes::new(), meta: None };
        };
        let meta = serde_json::from_slice::<Meta>(&stored.payload).ok();
        let live = |meta: &Meta| !meta.deleted && meta.options.as_ref().is_none_or(|o| o.link.is_none());
        Self { sequence: stored.sequence, payload: stored.payload, meta: meta.filter(live) }
    }

    /// Whether the store says that the blob is there.
    pub(super) fn is_live(&self) -> bool {
        self.meta.is_some()
    }

    pub(super) fn live(&self) -> Option<&Meta> {
        self.meta.as_ref()
    }

    /// The chunks of a blob of this size (above 0).
    pub(super) fn of_size(self, hash: ContentHash, size: u64) -> Result<Meta, BlobError> {
        let damaged = |reason| Err(BlobError::Damaged { hash, reason });
        match self.meta {
            None => Err(BlobError::Missing(hash)),
            Some(meta) if meta.size != size => {
                damaged(format!("{} bytes are stored under its name, not {size}", meta.size))
            }
            Some(meta) if meta.chunks == 0 || meta.chunks > size => {
                damaged(format!("its {size} bytes are said to be in {} chunks", meta.chunks))
            }
            Some(meta) if meta.nuid.is_empty() || meta.nuid.contains(['.', '*', '>', ' ']) => {
                damaged("its chunks have no valid name".into())
            }
            Some(meta) => Ok(meta),
        }
    }
}

/// The meta message that says that a blob was taken away.
pub(super) fn tombstone(bucket: &str, hash: ContentHash, nuid: &str) -> Bytes {
    let meta = json!({
        "name": hash.to_string(),
        "bucket": bucket,
        "nuid": nuid,
        "size": 0,
        "mtime": Timestamp::now(),
        "chunks": 0,
        "deleted": true,
    });
    meta.to_string().into()
}

/// The meta message of a blob that was uploaded now.
pub(super) fn new_meta(
    bucket: &str,
    hash: ContentHash,
    (nuid, size, chunks): (&str, u64, u64),
    chunk_size: usize,
) -> Bytes {
    let meta = json!({
        "name": hash.to_string(),
        "options": { "max_chunk_size": chunk_size },
        "bucket": bucket,
        "nuid": nuid,
        "size": size,
        "mtime": Timestamp::now(),
        "chunks": chunks,
        "digest": format!("SHA-256={}", BASE64_URL_SAFE.encode(hash.raw())),
    });
    meta.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(payload: &str) -> Entry {
        Entry::of(Some(Stored {
            sequence: 7,
            time: Timestamp::from_nanos(0),
            subject: String::new(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
        }))
    }

    #[test]
    fn what_is_written_is_read() {
        let hash = ContentHash::of(b"abc");
        let text = new_meta("B", hash, ("n", 3, 1), 4);
        let meta = entry(std::str::from_utf8(&text).expect("JSON")).of_size(hash, 3).expect("our own");
        assert_eq!((meta.nuid.as_str(), meta.chunks), ("n", 1));
    }

    #[test]
    fn what_names_no_chunks_is_no_blob() {
        let hash = ContentHash::of(b"abc");
        for (payload, why) in [
            (r#"{"nuid":"n","size":3,"chunks":1,"deleted":true}"#, "not in the store"),
            (r#"{"nuid":"n","size":3,"options":{"link":{"bucket":"b"}}}"#, "not in the store"),
            ("no JSON", "not in the store"),
            (r#"{"nuid":"n","size":4,"chunks":1}"#, "4 bytes are stored under its name, not 3"),
            (r#"{"nuid":"n","size":3}"#, "its 3 bytes are said to be in 0 chunks"),
            (r#"{"nuid":"n","size":3,"chunks":4}"#, "its 3 bytes are said to be in 4 chunks"),
            (r#"{"nuid":">","size":3,"chunks":1}"#, "its chunks have no valid name"),
        ] {
            let error = entry(payload).of_size(hash, 3).expect_err(payload);
            assert!(error.to_string().contains(why), "{payload}: {error}");
        }
    }
}
