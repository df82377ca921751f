//! `replicator migrate`: the blobs of a mirror move to another store while it works.
//!
//! 1. What the log names is copied, each blob hashed on its way; what the new store has already is read and hashed there.
//! 2. The record of the mirror names the new store, and the old one as the one before: running nodes store in the new one from then on, and read from both.
//! 3. When the record of every node that is up names the new store, what came to the old one meanwhile is copied; then the one before is dropped from the record.
//!
//! It may be killed at any time: the record says how far it is, and the next run goes on from there. The old store stays as it is, for its owner to delete. A node that is down follows
//! the record when it starts. What a process had stored in the old store and publishes after all this, it stores once more.

mod copy;

use common::{
    bar::{self, Bar},
    blobs::{Blobs, Location, Reach, Store, StoreError, objects::MarkError},
    broker::{Broker, BrokerError},
    exit::{Exit, Failure},
    limits::RateLimit,
    log::{EventLog, JetStreamLog},
    mirror_record::{Kept, MirrorRecord, RecordError},
    nodes::{NodeBucket, NodeRunState, is_down},
    settings::{Settings, TransferSettings},
    startup::{connect_command, reach, stop_on_signals},
};
pub use copy::source_of;
use copy::{Copied, Copying};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often the nodes' records are read.
const LOOK: Duration = Duration::from_secs(1);

pub struct Asked {
    pub to: Location,
    pub dry_run: bool,
    pub timeout: Duration,
    pub json: bool,
}

pub async fn run(settings: Settings, asked: Asked, transfer: TransferSettings) -> Result<Exit, Failure> {
    let stop = stop_on_signals().map_err(|error| Failure::new(Exit::Failed, error))?;
    // Where the blobs are is in the record, whatever --blobs says by now.
    let broker = connect_command(&settings, "replicator-migrate").await?;
    let moving = async {
        let nodes = NodeBucket::attach(broker.client().clone(), &settings.mirror).await?;
        let log = JetStreamLog::attach(broker.client().clone(), &settings.mirror).await?;
        Migration { reach: reach(&broker, &settings), nodes, log, transfer, asked }.run(&broker).await
    };
    let done = tokio::select! {
        done = moving => done,
        () = stop.cancelled() => Ok(Exit::NotCaughtUp),
    };
    broker.shutdown().await;
    done
}

struct Migration {
    reach: Reach,
    nodes: NodeBucket,
    log: JetStreamLog,
    transfer: TransferSettings,
    asked: Asked,
}

impl Migration {
    async fn run(self, broker: &Broker) -> Result<Exit, Failure> {
        let (mut record, mut revision) = MirrorRecord::read_or_unwritten(&self.nodes).await?;
        let to = &self.asked.to;
        if let Some(previous) =
            record.previous.as_ref().filter(|previous| !record.reads(to) && previous.blobs != *to)
        {
            let text = format!(
                "the blobs are on their way from {} to {} already",
                previous.blobs, record.current.blobs
            );
            let hint = format!("end that first: replicator migrate --to {}", record.current.blobs);
            return Err(Failure::new(Exit::Failed, text).with_hint(hint));
        }
        if record.current.blobs == *to && record.previous.is_none() {
            self.tell(&Copied::default(), "nothing to do");
            return Ok(Exit::Done);
        }
        let (current, previous) = record.open(&self.reach, false).await?;
        let from = Blobs::new(record.clone(), current.clone(), previous);
        let switched = record.current.blobs == *to;
        let (target, id) = match switched {
            true => (Some(current), record.current.id.clone()),
            false => self.target().await?,
        };
        let limit = RateLimit::new(self.transfer.limit.map(|size| size.bytes()));
        let mut copying =
            Copying::new(from, target.clone(), limit, self.transfer.transfers, self.asked.dry_run);
        let Some(target) = target.filter(|_| !self.asked.dry_run) else {
            self.copy(&mut copying).await?;
            self.tell(&copying.sum, "would be copied");
            return Ok(Exit::Done);
        };
        if !switched {
            self.copy(&mut copying).await?;
            let before = record.current.clone();
            record = record.next(Kept { blobs: target.location(), id }, Some(before));
            revision = self.write(&record, revision).await?;
            tracing::info!(blobs = %to, "the mirror stores in the new store from now on, and reads from both");
        }
        if let Err(waiting) = self.followed(broker).await? {
            let text =
                format!("{} did not follow within {} s", waiting.join(", "), self.asked.timeout.as_secs());
            let hint = "nothing is lost, both stores are read: look at their logs, and run this again";
            return Err(Failure::new(Exit::NotCaughtUp, text).with_hint(hint));
        }
        self.copy(&mut copying).await?;
        record = record.next(record.current.clone(), None);
        self.write(&record, revision).await?;
        self.tell(&copying.sum, "copied");
        Ok(Exit::Done)
    }

    /// The store to move to, and its id. A dry run makes none.
    async fn target(&self) -> Result<(Option<Store>, Option<String>), RecordError> {
        let (to, mirror) = (&self.asked.to, &self.reach.options.mirror);
        let store = match self.reach.open(to, !self.asked.dry_run).await {
            Err(StoreError::Broker(BrokerError::Absent { .. })) => return Ok((None, None)),
            opened => opened?,
        };
        let id = match &store {
            Store::Nats(_) => None,
            Store::Objects(objects) if self.asked.dry_run => match objects.check(Some(mirror), None).await {
                Err(MarkError::None(_)) => return Ok((None, None)),
                checked => Some(checked?),
            },
            Store::Objects(objects) => Some(objects.claim(mirror, None).await?),
        };
        Ok((Some(store), id))
    }

    async fn copy(&self, copying: &mut Copying) -> Result<(), Failure> {
        let last = self.log.state().await?.last;
        let style = bar::style("{bar:24} {pos}/{len} events  {msg}  {eta} left");
        let bar = Bar::show("copying blobs", last.get(), style);
        copying.named(&self.log, last, &bar).await.map_err(|error| {
            Failure::new(Exit::Failed, error)
                .with_hint("run it again when the cause is gone: it goes on where it stopped")
        })
    }

    async fn write(&self, record: &MirrorRecord, over: u64) -> Result<u64, Failure> {
        match record.replace(&self.nodes, over).await? {
            Some(revision) => Ok(revision),
            None => Err(Failure::new(Exit::Failed, "another process has changed the record of the mirror")
                .with_hint("is another migration at work? Run this again")),
        }
    }

    /// Waits until the processes that are up store in the new store. Returns those that do not, when time is up.
    async fn followed(&self, broker: &Broker) -> Result<Result<(), Vec<String>>, Failure> {
        let until = Instant::now() + self.asked.timeout;
        loop {
            let (now, records) = (self.nodes.now().await?, self.nodes.all().await?);
            let to = self.asked.to.to_string();
            let waits = records.iter().filter(|seen| {
                !is_down(seen, now) && seen.record.state != NodeRunState::Stopping && seen.record.store != to
            });
            let waits: Vec<String> =
                waits.map(|seen| format!("the {} of {}", seen.record.role, seen.record.node)).collect();
            if waits.is_empty() {
                return Ok(Ok(()));
            }
            if Instant::now() >= until || !broker.connection().borrow().connected {
                return Ok(Err(waits));
            }
            sleep(LOOK).await;
        }
    }

    fn tell(&self, sum: &Copied, what: &str) {
        let Copied { blobs, bytes, there, missing } = sum;
        if self.asked.json {
            let told = json!({
                "to": self.asked.to, "done": !self.asked.dry_run, "copied": blobs, "bytes": bytes, "there": there, "missing": missing,
            });
            println!("{told}");
            return;
        }
        println!("{blobs} blobs {what} ({bytes} bytes), {there} there already, {missing} not in the store");
        if *missing > 0 {
            eprintln!("what is not in the store is asked for from the nodes by who needs it");
        }
    }
}
