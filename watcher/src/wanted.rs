//! Blobs that a replicator asks for, because the store has lost or damaged them: whoever holds one uploads it.

use crate::{
    node::{Node, PublishError},
    upload::store_again,
};
use common::{blobs::BlobStore, hash::ContentHash, log::EventLog, nodes::NodeBucket};
use std::{collections::HashSet, time::Duration};

/// How often the lists are read.
pub const EVERY: Duration = Duration::from_secs(5);
/// Nodes that hold the same blob wait at random up to this long, and look again, so that one of them uploads it.
const SPREAD: Duration = Duration::from_secs(2);

/// Uploads what is wanted and stands here. One read of the lists when nothing is.
pub async fn serve<L: EventLog, B: BlobStore>(
    node: &Node<L, B>,
    bucket: &NodeBucket,
) -> Result<(), PublishError> {
    let held = |wanted: HashSet<ContentHash>| {
        let mut held = Vec::new();
        for hash in wanted {
            if node.may_upload_again(hash) && !node.index.paths_with(hash)?.is_empty() {
                held.push(hash);
            }
        }
        Ok::<_, PublishError>(held)
    };
    if held(all(bucket).await?)?.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(SPREAD.mul_f64(rand::random::<f64>())).await;
    for hash in held(all(bucket).await?)? {
        if store_again(node, hash).await? {
            node.uploaded_again(hash);
            tracing::info!(%hash, "uploaded again on request");
        }
    }
    Ok(())
}

async fn all(bucket: &NodeBucket) -> Result<HashSet<ContentHash>, PublishError> {
    Ok(bucket.all_wanted().await?.into_iter().collect())
}
