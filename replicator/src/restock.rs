//! Blobs in the store that are read for their own sake: whether they are whole, and until when the watchers are asked for those that are not.

use crate::node::{ApplyError, Node};
use common::{
    blobs::{BlobError, BlobReader, BlobStore},
    hash::{ContentHash, Hasher},
    index::WantedBlob,
    limits::RateLimit,
    log::EventLog,
    time::Timestamp,
};

/// A blob that no node stored again for this long, in seconds, makes room for others on the list.
const IN_VAIN: f64 = 86_400.0;

/// Reads a blob of the store by its meta message, which decides, and hashes it. False: it is missing, or its bytes are not what its name says.
pub async fn is_whole<B: BlobStore>(
    blobs: &B,
    content: ContentHash,
    size: u64,
    limit: &RateLimit,
) -> Result<bool, BlobError> {
    let read = async {
        let mut reader = blobs.get_by_meta(content, size, limit).await?;
        let (mut hasher, mut length) = (Hasher::new(), 0);
        while let Some(chunk) = reader.next().await? {
            hasher.update(&chunk);
            length += chunk.len() as u64;
        }
        Ok((length, hasher.finish()) == (size, content))
    };
    match read.await {
        Err(BlobError::Missing(_) | BlobError::Damaged { .. }) => Ok(false),
        read => read,
    }
}

/// Takes the blobs that are whole again off the list, and those that were asked for in vain for a day.
pub async fn look<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    wanted: Vec<WantedBlob>,
) -> Result<(), ApplyError> {
    for WantedBlob { content, size, since } in wanted {
        if Timestamp::now().seconds_since(since) > IN_VAIN {
            tracing::error!(%content, "no node has stored the blob again for a day: given up");
            node.index.write(move |tx| tx.want_no_more(content)).await?;
        } else if is_whole(&node.blobs, content, size, &node.download_limit)
            .await
            .map_err(ApplyError::Blob)?
        {
            tracing::info!(%content, "the blob is whole in the store again");
            node.index.write(move |tx| tx.want_no_more(content)).await?;
        }
    }
    Ok(())
}
