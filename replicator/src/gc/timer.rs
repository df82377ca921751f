//! The collection on a timer: each replicator looks now and then whether one is due, and the first to take the lease does it. Where rights do not allow it, that is
//! said once, and `replicator gc` is for an operator.

use super::{
    collector::{Collector, Done, GcError},
    lease::Lease,
};
use common::{
    blobs::{Blobs, GRACE},
    broker::BrokerError,
    error_chain,
    log::JetStreamLog,
    names::NodeName,
    nodes::NodeBucket,
    settings::CollectSettings,
    troubles::Troubles,
};
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// At most so long until it is noticed that one is due, so that nodes that start together do not all look at once.
const LOOK: Duration = Duration::from_secs(600);

/// Begins; it ends when the handle is dropped. `None`: it is off.
pub fn start(
    settings: CollectSettings,
    (log, blobs, nodes): (JetStreamLog, Blobs, NodeBucket),
    name: &NodeName,
) -> Option<AbortOnDropHandle<()>> {
    let (every, name) = (settings.every?, name.to_string());
    let collector = Collector { log, blobs, nodes, retention: settings.retention, grace: GRACE };
    let mut troubles = Troubles::default();
    Some(AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            sleep(LOOK.min(every).mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            match look(&collector, every, &name).await {
                Ok(None) => {}
                Ok(Some(Done { blobs, bytes, orphans, .. })) => {
                    tracing::info!(blobs, bytes, orphans, "blobs that nothing needs were taken away");
                }
                Err(error) => troubles.say(&format!("blobs are not collected: {error}")),
            }
        }
    })))
}

async fn look(collector: &Collector, every: Duration, name: &str) -> Result<Option<Done>, String> {
    let told = |error: BrokerError| error_chain(&error);
    let now = collector.nodes.now().await.map_err(told)?;
    let last = Lease::last_finished(&collector.nodes).await.map_err(told)?;
    if last.is_some_and(|last| now.seconds_since(last) < every.as_secs_f64()) {
        return Ok(None);
    }
    let Ok(mut lease) =
        Lease::take(&collector.nodes, name.to_owned(), collector.retention).await.map_err(told)?
    else {
        return Ok(None);
    };
    let told = |error: GcError| error_chain(&error);
    let plan = collector.plan(Some(&mut lease)).await.map_err(told)?;
    if let Some(why) = plan.refusal().map(ToString::to_string) {
        // Else each node would plan it again.
        lease.finish().await.map_err(|error| error_chain(&error))?;
        return Err(format!("{why}; look at it with `replicator gc --dry-run`"));
    }
    collector.carry_out(plan, lease).await.map(Some).map_err(told)
}
