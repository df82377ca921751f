//! Content that the blob store has no more, asked for from the nodes by a command: by a list of wanted blobs under a name of its own, which is taken away at the end.

use common::{
    broker::BrokerError,
    hash::ContentHash,
    names::NodeName,
    nodes::{MAX_WANTED, NodeBucket},
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is looked whether wanted blobs are there: nodes read the lists every 5 s.
const LOOK: Duration = Duration::from_secs(1);

/// Has the nodes bring back what they hold, and tries again with it. Returns what none of them brings. `patience`: how long they are waited for, from the last that
/// came on.
pub async fn bring_back<T>(
    bucket: &NodeBucket,
    mut missing: Vec<T>,
    patience: Duration,
    content: impl Fn(&T) -> ContentHash,
    mut again: impl AsyncFnMut(Vec<T>) -> Vec<T>,
) -> Result<Vec<T>, BrokerError> {
    if missing.is_empty() {
        return Ok(missing);
    }
    let name: NodeName =
        format!("replay-{:016x}", rand::random::<u64>()).parse().expect("letters and digits");
    tracing::info!(files = missing.len(), "the blob store has not got all of it; the nodes are asked for it");
    let (mut since, mut lost) = (Instant::now(), Vec::new());
    while !missing.is_empty() {
        if since.elapsed() >= patience {
            // The next thousand may be had.
            lost.extend(missing.drain(..missing.len().min(MAX_WANTED)));
            since = Instant::now();
            continue;
        }
        bucket.want(&name, missing.iter().take(MAX_WANTED).map(&content).collect()).await?;
        sleep(LOOK).await;
        let left = missing.len();
        missing = again(missing).await;
        if missing.len() < left {
            since = Instant::now();
        }
    }
    bucket.forget(&name).await?;
    Ok(lost)
}
