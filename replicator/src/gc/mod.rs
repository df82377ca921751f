//! `replicator gc`, and the same on a timer: blobs that nothing needs are taken away, so that the store does not grow for ever.
//!
//! What is needed is what an event of the log names, however old, or with `--blob-retention applied` what a node has not got yet; and what was stored or used within the time of grace.

mod collector;
mod lease;
mod plan;
pub mod timer;

use collector::{Collector, Done, GcError, Plan};
use common::{
    broker::Broker,
    exit::{Exit, Failure},
    log::JetStreamLog,
    nodes::NodeBucket,
    settings::{Retention, Settings},
    startup::{blobs_of, connect_command, stop_on_signals},
};
pub use lease::Lease;
use serde_json::json;
use std::time::Duration;

/// What was asked for.
pub struct Asked {
    pub retention: Retention,
    /// How long what no event names is left alone.
    pub grace: Duration,
    pub dry_run: bool,
    /// The operator agrees with whatever is unusual about it.
    pub yes: bool,
    pub json: bool,
}

/// 0: done, or nothing to do; 5: refused, until an operator agrees.
pub async fn run(settings: Settings, asked: Asked) -> Result<Exit, Failure> {
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    let broker = connect_command(&settings, "replicator-gc").await?;
    let done = tokio::select! {
        done = collect(&broker, &settings, &asked) => done,
        () = stop.cancelled() => Ok(Exit::NotCaughtUp),
    };
    broker.shutdown().await;
    done
}

async fn collect(broker: &Broker, settings: &Settings, asked: &Asked) -> Result<Exit, Failure> {
    let failed = |error: GcError| match error {
        GcError::Broker(error) => Failure::from(error),
        error => Failure::new(Exit::Failed, error),
    };
    let collector = Collector {
        log: JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?,
        blobs: blobs_of(broker, settings).await?,
        nodes: NodeBucket::attach(broker.client().clone(), &settings.mirror).await?,
        retention: asked.retention,
        grace: asked.grace,
    };
    let mut lease = None;
    if !asked.dry_run {
        match Lease::take(&collector.nodes, format!("{} (command)", settings.node), asked.retention).await? {
            Ok(taken) => lease = Some(taken),
            Err(held) => {
                let text = format!("{} collects already, and said so {} s ago", held.holder, held.seconds);
                return Err(
                    Failure::new(Exit::Failed, text).with_hint("try again when it is done, or in a minute")
                );
            }
        }
    }
    let plan = collector.plan(lease.as_mut()).await.map_err(failed)?;
    let refusal = plan.refusal().filter(|_| !asked.yes).map(ToString::to_string);
    if refusal.is_some()
        && let Some(lease) = lease.take()
    {
        lease.release().await?;
    }
    let Some(lease) = lease else {
        tell_plan(&plan, refusal.as_deref(), asked.json);
        let Some(why) = refusal.filter(|_| !asked.dry_run) else { return Ok(Exit::Done) };
        let hint = "look at it with --dry-run; --yes takes them away all the same";
        return Err(Failure::new(Exit::Halted, format!("nothing was taken away: {why}")).with_hint(hint));
    };
    let done = collector.carry_out(plan, lease).await.map_err(failed)?;
    tell(&done, asked.json);
    Ok(Exit::Done)
}

fn tell_plan(plan: &Plan, refusal: Option<&str>, json: bool) {
    let (unnamed, applied, orphans) = (plan.unnamed.len(), plan.applied.len(), plan.orphans.len());
    if json {
        let told = json!({
            "blobs": plan.blobs, "unnamed": unnamed, "applied": applied, "bytes": plan.bytes(), "orphans": orphans, "refused": refusal,
        });
        println!("{told}");
        return;
    }
    println!(
        "{} blobs; would take away {unnamed} that no event names, {applied} that all nodes have ({} bytes), and the chunks of {orphans} broken uploads",
        plan.blobs,
        plan.bytes()
    );
    if let Some(why) = refusal {
        println!("would be refused: {why}");
    }
}

fn tell(done: &Done, json: bool) {
    let Done { blobs, bytes, kept, orphans } = done;
    if json {
        println!(
            "{}",
            json!({ "taken_away": blobs, "bytes": bytes, "in_use_again": kept, "orphans": orphans })
        );
        return;
    }
    println!(
        "{blobs} blobs taken away ({bytes} bytes), {kept} in use again, the chunks of {orphans} broken uploads"
    );
}
