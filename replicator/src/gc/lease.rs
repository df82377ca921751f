//! The right to collect: one process of a mirror at a time has it, under the key `_gc` of the node bucket. It saves work, and nothing rests on it: two that collect at once take away
//! nothing that is needed.

use common::{
    broker::BrokerError,
    nodes::{NodeBucket, Shared},
    settings::Retention,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;

const KEY: &str = "_gc";
/// Who has not renewed it for so long is gone.
const LASTS: Duration = Duration::from_secs(60);
const RENEWED: Duration = Duration::from_secs(15);

/// What stands under the key.
#[derive(Serialize, Deserialize)]
struct Said {
    v: u64,
    holder: String,
    /// Nobody has it any more.
    free: bool,
    /// When a collection was done last.
    finished: Option<Timestamp>,
    /// The store keeps only what is on its way.
    transit: bool,
}

/// Held until it is finished, or for a minute after the last renewal.
pub struct Lease {
    bucket: NodeBucket,
    holder: String,
    revision: u64,
    renewed: Instant,
    /// When a collection was done before this one.
    before: Option<Timestamp>,
    transit: bool,
}

/// Somebody has it.
pub struct Held {
    pub holder: String,
    pub seconds: u64,
}

impl Lease {
    pub async fn take(
        bucket: &NodeBucket,
        holder: String,
        retention: Retention,
    ) -> Result<Result<Self, Held>, BrokerError> {
        let transit = retention != Retention::All;
        let stored = bucket.shared(KEY).await?;
        let mut before = None;
        if let Some((shared, said)) = stored.as_ref().and_then(understood) {
            before = said.finished;
            let age = bucket.now().await?.seconds_since(shared.written);
            if !said.free && age < LASTS.as_secs_f64() {
                return Ok(Err(Held { holder: said.holder, seconds: age as u64 }));
            }
        }
        let revision = stored.map_or(0, |shared| shared.revision);
        let mut lease =
            Self { bucket: bucket.clone(), holder, revision, renewed: Instant::now(), before, transit };
        Ok(if lease.write(false).await? {
            Ok(lease)
        } else {
            Err(Held { holder: "another process".into(), seconds: 0 })
        })
    }

    /// When a collection of any process ended last.
    pub async fn last_finished(bucket: &NodeBucket) -> Result<Option<Timestamp>, BrokerError> {
        let stored = bucket.shared(KEY).await?;
        Ok(stored.as_ref().and_then(understood).and_then(|(_, said)| said.finished))
    }

    /// Whether who collected last left only what is on its way: that the store has not got a blob is nothing to mend then.
    pub async fn in_transit(bucket: &NodeBucket) -> Result<bool, BrokerError> {
        let stored = bucket.shared(KEY).await?;
        Ok(stored.as_ref().and_then(understood).is_some_and(|(_, said)| said.transit))
    }

    /// To be called while it is held. False: another process has it by now.
    pub async fn renew(&mut self) -> Result<bool, BrokerError> {
        if self.renewed.elapsed() < RENEWED {
            return Ok(true);
        }
        self.write(false).await
    }

    /// The work is done.
    pub async fn finish(mut self) -> Result<(), BrokerError> {
        self.before = Some(self.bucket.now().await?);
        self.release().await
    }

    /// The work is not to be done.
    pub async fn release(mut self) -> Result<(), BrokerError> {
        self.write(true).await.map(drop)
    }

    async fn write(&mut self, free: bool) -> Result<bool, BrokerError> {
        let said =
            Said { v: 1, holder: self.holder.clone(), free, finished: self.before, transit: self.transit };
        let payload = serde_json::to_vec(&said).expect("every field has a JSON form");
        let Some(revision) = self.bucket.put_shared(KEY, payload, self.revision).await? else {
            return Ok(false);
        };
        (self.revision, self.renewed) = (revision, Instant::now());
        Ok(true)
    }
}

fn understood(shared: &Shared) -> Option<(&Shared, Said)> {
    let said: Said = serde_json::from_slice(&shared.payload).ok()?;
    (said.v == 1).then_some((shared, said))
}
