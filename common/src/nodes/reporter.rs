//! Writing a process's record: on change, at most 5 times a second, and every 5 s, from the loop that does the work, so that a
//! stalled loop looks stalled.

use super::{
    CHANGES, Claim, ClaimError, Diverged, HEARTBEAT, MAX_PARKED, NodeBucket, NodeRecord, NodeRunState, Role,
    Underway,
};
use crate::{
    blobs::Blobs,
    broker::{BrokerError, Connection},
    event::Version,
    hash::ContentHash,
    index::{Index, IndexError},
    names::NodeName,
    root::Root,
    time::Timestamp,
};
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Until a broker that does not answer is asked for the name again.
const RETRY: Duration = Duration::from_millis(500);
/// How long a process that ends waits for its last record.
const FAREWELL: Duration = Duration::from_secs(1);

/// Who writes.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node.
    pub node: NodeName,
    /// Which of its processes.
    pub role: Role,
    /// This installation.
    pub instance: String,
    /// What is known of the broker's durability.
    pub durable: Option<bool>,
    /// Where its HTTP is, if anywhere.
    pub http: Option<String>,
}

/// What the loop knows of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What it is doing.
    pub state: NodeRunState,
    /// The newest event that it knows of; `None`: no more than the index does.
    pub head: Option<Version>,
    /// Its version; `None`: that of the index.
    pub version: Option<Version>,
    /// Ranges applied past it.
    pub beyond: Vec<(Version, Version)>,
    /// What is known and not finished.
    pub pending: u64,
    /// How the node's files differ from those of the others, if they do.
    pub diverged: Option<Diverged>,
    /// Something long that it is at.
    pub underway: Option<Underway>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

impl Progress {
    /// At a start.
    pub fn starting() -> Self {
        Self {
            state: NodeRunState::Starting,
            head: None,
            version: None,
            beyond: Vec::new(),
            pending: 0,
            diverged: None,
            underway: None,
            last_error: None,
        }
    }
}

/// Why a record could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The name is another's.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The index failed.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// Writes the record of one process.
pub struct Reporter {
    connection: watch::Receiver<Connection>,
    identity: Identity,
    boot: String,
    started: Timestamp,
    claim: Option<Claim>,
    /// Where it stores.
    blobs: Option<Blobs>,
    last: Option<(Instant, NodeRecord)>,
    /// What it would write now, for who asks this process itself.
    now: watch::Sender<Option<NodeRecord>>,
}

impl Reporter {
    /// Reports nothing yet. A command that is no service never does.
    pub fn new(connection: watch::Receiver<Connection>, identity: Identity) -> Self {
        let boot = format!("{:016x}", rand::random::<u64>());
        Self {
            connection,
            identity,
            boot,
            started: Timestamp::now(),
            claim: None,
            blobs: None,
            last: None,
            now: watch::Sender::default(),
        }
    }

    /// From now on it tells where the process stores blobs.
    pub fn stores_in(&mut self, blobs: &Blobs) {
        self.blobs = Some(blobs.clone());
    }

    /// Takes the node's name for this process. A broker that does not answer is asked again until `stop`, with one warning; one that has lost the bucket since it
    /// was opened gets it again. False: it was told to stop.
    pub async fn claim(
        &mut self,
        bucket: NodeBucket,
        index: &Index,
        root: &Root,
        stop: &CancellationToken,
    ) -> Result<bool, ReportError> {
        let mut warned = false;
        while !stop.is_cancelled() {
            let record = self.record(index, root, Progress::starting())?;
            let take = async {
                match Claim::take(bucket.clone(), &record).await {
                    Err(ClaimError::Broker(BrokerError::Absent { .. })) => {
                        bucket.make().await?;
                        Claim::take(bucket.clone(), &record).await
                    }
                    taken => taken,
                }
            };
            let taken = tokio::select! {
                taken = take => taken,
                () = stop.cancelled() => return Ok(false),
            };
            let error = match taken {
                Ok(claim) => {
                    self.claim = Some(claim);
                    return Ok(true);
                }
                Err(ClaimError::Broker(error)) if error.passes() => error,
                Err(error) => return Err(error.into()),
            };
            if !std::mem::replace(&mut warned, true) {
                tracing::warn!(%error, "the node's name cannot be taken yet; still trying");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(RETRY) => {}
            }
        }
        Ok(false)
    }

    /// The connection that it writes over.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// The record as it would be written now, also while the broker is away; `None`: the loop has not turned yet.
    pub fn now(&self) -> watch::Receiver<Option<NodeRecord>> {
        self.now.subscribe()
    }

    /// The bucket that it writes to.
    pub fn bucket(&self) -> Option<NodeBucket> {
        self.claim.as_ref().map(|claim| claim.bucket().clone())
    }

    /// Writes the record if it is time to. A broker that is away is no failure: its age tells.
    pub async fn write(&mut self, index: &Index, root: &Root, progress: Progress) -> Result<(), ReportError> {
        let age = self.last.as_ref().map(|(at, _)| at.elapsed());
        if self.claim.is_none() || age.is_some_and(|age| age < CHANGES) {
            return Ok(());
        }
        let record = self.record(index, root, progress)?;
        self.now.send_replace(Some(record.clone()));
        if !self.connection.borrow().connected {
            return Ok(());
        }
        let changed = self
            .last
            .as_ref()
            .is_none_or(|(_, last)| NodeRecord { disk_free: last.disk_free, ..record.clone() } != *last);
        if changed || age.is_none_or(|age| age >= HEARTBEAT) {
            self.put(record).await?;
        }
        Ok(())
    }

    async fn put(&mut self, record: NodeRecord) -> Result<(), ReportError> {
        let Some(claim) = &mut self.claim else { return Ok(()) };
        self.last = Some((Instant::now(), record.clone()));
        match claim.write(&record).await {
            Err(ClaimError::Broker(error)) => tracing::debug!(%error, "the record could not be written"),
            written => written?,
        }
        Ok(())
    }

    /// Says that the process ends. Best effort.
    pub async fn stopping(&mut self, index: &Index, root: &Root) {
        let progress = Progress { state: NodeRunState::Stopping, ..Progress::starting() };
        let connected = self.connection.borrow().connected;
        if let (Ok(record), true) = (self.record(index, root, progress), connected) {
            let _ = timeout(FAREWELL, self.put(record)).await;
        }
    }

    /// Asks the other nodes for blobs, beside the loop.
    pub fn want(&self, wanted: Vec<ContentHash>) {
        let (Some(bucket), node) = (self.bucket(), self.identity.node.clone()) else { return };
        tokio::spawn(async move {
            if let Err(error) = bucket.want(&node, wanted).await {
                tracing::debug!(%error, "the list of wanted blobs could not be written");
            }
        });
    }

    fn record(&self, index: &Index, root: &Root, progress: Progress) -> Result<NodeRecord, IndexError> {
        let node = index.node()?;
        let version = progress.version.unwrap_or(node.version);
        let newest = node.top.as_ref().map_or(Version::ZERO, |top| top.version);
        Ok(NodeRecord {
            v: 1,
            node: self.identity.node.clone(),
            role: self.identity.role,
            boot: self.boot.clone(),
            instance: self.identity.instance.clone(),
            state: progress.state,
            stream_created: node.created,
            version,
            head: progress.head.unwrap_or_default().max(version).max(newest),
            beyond: progress.beyond,
            pending: progress.pending,
            parked: index.parked_count()?,
            parked_at: index.parked_at(MAX_PARKED)?,
            digest: node.digest.to_string(),
            files: node.files,
            bytes: node.bytes,
            disk_free: root.disk_free().ok(),
            http: self.identity.http.clone(),
            build: env!("CARGO_PKG_VERSION").into(),
            durable: self.identity.durable,
            store: self.blobs.as_ref().map_or_else(|| "nats".into(), |blobs| blobs.location().to_string()),
            diverged: progress.diverged,
            underway: progress.underway,
            started: self.started,
            last_error: progress.last_error,
        })
    }
}
