//! What the stages of this process share, and how their failures are answered.

use crate::{
    facts::{Facing, facing},
    hold::Replacing,
    parts::Claims,
    plan::Removals,
    space::Space,
};
use common::{
    arrivals::Arrivals,
    blobs::{BlobError, BlobStore},
    broker::BrokerError,
    hash::ContentHash,
    index::{Index, IndexError, Intent, Stage},
    limits::{Hurried, RateLimit},
    local_lock::LocalLock,
    log::EventLog,
    names::NodeName,
    path::MediaPath,
    place::{LeftError, PlaceError, Placer},
    resolve::{Name, ResolveError, resolve},
    root::{MarkerClock, MarkerError, Ownership, RenameError, Root, is_full},
    settings::MinFree,
    space::Lack,
    trust::{Gate, Session, TrustError},
    vitals::Vitals,
};
use std::{
    io,
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// Large files that are fetched at the same time; small ones pass them by.
const LARGE_FILES: usize = 4;
/// Those of a few chunks, beside them.
const MEDIUM_FILES: usize = 8;
/// And as many more of those that somebody waits for.
const LARGE_HURRIED: usize = 2;

/// How often files of the trash are dropped.
const DROPS: Duration = Duration::from_secs(3600);

/// What the stages share.
pub struct Node<L, B> {
    pub root: Arc<Root>,
    pub index: Index,
    pub log: L,
    pub blobs: B,
    pub name: NodeName,
    pub download_limit: RateLimit,
    pub owner: Option<Ownership>,
    pub removals: Removals,
    pub facing: Facing,
    pub placer: Placer,
    /// Lanes of files of a few chunks.
    pub medium: Arc<Semaphore>,
    pub large: Arc<Semaphore>,
    pub large_hurried: Arc<Semaphore>,
    /// Contents that somebody waits for.
    pub hurried: Hurried,
    /// Large files that are being fetched.
    pub arrivals: Arrivals,
    /// Unknown files that were replaced lately (rule 8).
    pub replacing: Arc<Replacing>,
    pub claims: Arc<Claims>,
    pub space: Space,
    pub vitals: Arc<Vitals>,
    /// This run of the process, by which its intents are known.
    pub run: String,
    state_dir: PathBuf,
    gate: Gate,
    marker: MarkerClock,
    dropped: std::sync::Mutex<Option<Instant>>,
}

/// Where things are, and who we are.
pub struct Parts<L, B> {
    pub root: Arc<Root>,
    pub index: Index,
    pub log: L,
    pub blobs: B,
    pub name: NodeName,
    pub download_limit: RateLimit,
    pub owner: Option<Ownership>,
    pub removals: Removals,
    pub min_free: MinFree,
    pub state_dir: PathBuf,
    pub gate: Gate,
    pub vitals: Arc<Vitals>,
}

/// Why an event could not be applied. Nothing of it is in the tree, or an intent stands that finishes it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The broker was lost, or the other process began a new generation: look at the log first.
    #[error("the log must be looked at again first")]
    SessionOver,
    /// The path kept changing.
    #[error("the path keeps changing")]
    Changing,
    /// The other process is placing something there, for over 5 s.
    #[error("the watcher is placing something there")]
    Placing,
    /// Something that is never replaced stands at the path.
    #[error("{0} stands at the path")]
    InTheWay(&'static str),
    /// One of many unknown files that would be replaced.
    #[error("the file here is not known to the log, and one of many: it is held until an operator agrees")]
    Held,
    /// The log.
    #[error(transparent)]
    Log(#[from] BrokerError),
    /// The blob store.
    #[error("cannot fetch the content")]
    Blob(#[source] BlobError),
    /// The bytes of the blob do not hash to its name.
    #[error("blob {0} has other bytes in the store than its name says")]
    WrongContent(ContentHash),
    /// It does not fit above the floor of the disk, and there is no trash to drop for it.
    #[error("{0}")]
    NoRoom(Lack),
    /// The disk.
    #[error("cannot write below the root")]
    Disk(#[source] io::Error),
    /// The rename.
    #[error(transparent)]
    Rename(RenameError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The root is not the one we know.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// The intent stands, and is finished by the next try.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// What the loop does after a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Look at the log, then apply the event again.
    NewSession,
    /// Try again; after 30 s without success it is parked, and tried from there.
    Retry,
    /// The same, and ask the other nodes for the blob.
    Want(ContentHash),
    /// Wait until there is room.
    Pause,
    /// Try again, for as long as the blob store is away: nothing is parked because of it.
    StoreAway,
    /// Park it now: only a person or a newer event helps.
    Park,
    /// Park it until an operator answers.
    Hold,
    /// End the process: nothing here can be trusted.
    Halt,
}

impl ApplyError {
    /// What the loop does next. `content`: what the event wants.
    pub fn next(&self, content: ContentHash) -> Next {
        match self {
            Self::SessionOver => Next::NewSession,
            Self::Held => Next::Hold,
            Self::Log(error) | Self::Blob(BlobError::Broker(error)) => match error {
                BrokerError::Timeout { .. } | BrokerError::Away { .. } | BrokerError::Absent { .. } => {
                    Next::NewSession
                }
                BrokerError::Full { .. } => Next::Pause,
                BrokerError::Refused { .. } | BrokerError::Answer { .. } => Next::Retry,
            },
            Self::Blob(error) if error.is_full() => Next::Pause,
            Self::Blob(error) if error.is_store_away() => Next::StoreAway,
            Self::Blob(BlobError::Store { .. }) => Next::Retry,
            Self::Blob(_) | Self::WrongContent(_) => Next::Want(content),
            Self::Marker(error) if error.halts() => Next::Halt,
            Self::NoRoom(lack) if lack.is_hopeless() => Next::Retry,
            Self::NoRoom(_) => Next::Pause,
            _ if self.is_full() => Next::Pause,
            Self::Disk(error) | Self::Rename(RenameError::Io(error)) => match error.kind() {
                io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput => Next::Park,
                _ => Next::Retry,
            },
            Self::Changing | Self::Placing | Self::InTheWay(_) | Self::Rename(_) => Next::Retry,
            Self::Index(_) | Self::Marker(_) | Self::Resolve(_) => Next::Retry,
        }
    }

    /// What was being done, and why it failed, for metrics.
    pub fn label(&self) -> (&'static str, &'static str) {
        match self {
            Self::SessionOver => ("log", "session_over"),
            Self::Log(error) => ("log", error.label()),
            Self::Blob(error) => ("fetch", error.label()),
            Self::WrongContent(_) => ("fetch", "wrong_content"),
            Self::NoRoom(_) => ("fetch", "no_room"),
            Self::Index(_) if self.is_full() => ("index", "no_room"),
            Self::Index(_) => ("index", "failed"),
            Self::Marker(_) => ("root", "marker"),
            Self::Held => ("plan", "held"),
            Self::Disk(_) | Self::Rename(_) | Self::Resolve(_) if self.is_full() => ("place", "no_room"),
            Self::Disk(_) | Self::Rename(RenameError::Io(_)) => ("place", "io"),
            Self::Changing => ("place", "changing"),
            Self::Placing => ("place", "watcher"),
            Self::InTheWay(_) | Self::Rename(_) => ("place", "in_the_way"),
            Self::Resolve(_) => ("place", "intent"),
        }
    }

    /// The disk under the root, or the one under the index, refused for want of room, or a quota did.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Disk(error) | Self::Rename(RenameError::Io(error)) => is_full(error),
            Self::Marker(error) => error.is_full(),
            Self::Resolve(error) => error.is_full(),
            Self::Index(error) => error.is_full(),
            _ => false,
        }
    }
}

impl From<TrustError> for ApplyError {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Broker(error) => Self::Log(error),
            TrustError::Index(error) => Self::Index(error),
        }
    }
}

impl From<LeftError> for ApplyError {
    fn from(error: LeftError) -> Self {
        match error {
            LeftError::Disk(error) => Self::Disk(error),
            LeftError::Index(error) => Self::Index(error),
        }
    }
}

impl From<PlaceError> for ApplyError {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Disk(error) => Self::Disk(error),
            PlaceError::Rename(error) => error.into(),
            PlaceError::Index(error) => Self::Index(error),
            PlaceError::Resolve(error) => Self::Resolve(error),
        }
    }
}

impl From<RenameError> for ApplyError {
    fn from(error: RenameError) -> Self {
        match error {
            RenameError::Changed => Self::Changing,
            other => Self::Rename(other),
        }
    }
}

impl<L: EventLog, B: BlobStore> Node<L, B> {
    pub fn new(parts: Parts<L, B>) -> Self {
        Self {
            facing: facing(&parts.root, &parts.index),
            placer: Placer::start(Arc::clone(&parts.root), parts.index.clone()),
            space: Space::new(Arc::clone(&parts.root), parts.min_free),
            root: parts.root,
            index: parts.index,
            log: parts.log,
            blobs: parts.blobs,
            name: parts.name,
            download_limit: parts.download_limit,
            owner: parts.owner,
            removals: parts.removals,
            medium: Arc::new(Semaphore::new(MEDIUM_FILES)),
            large: Arc::new(Semaphore::new(LARGE_FILES)),
            large_hurried: Arc::new(Semaphore::new(LARGE_HURRIED)),
            hurried: Hurried::default(),
            arrivals: Arrivals::default(),
            replacing: Arc::default(),
            claims: Arc::default(),
            vitals: parts.vitals,
            run: format!("{:016x}", rand::random::<u64>()),
            state_dir: parts.state_dir,
            gate: parts.gate,
            marker: MarkerClock::default(),
            dropped: std::sync::Mutex::default(),
        }
    }

    /// Looks at the log (rule 9). `None`: there is no connection.
    pub async fn trust(&self) -> Result<Option<Session>, ApplyError> {
        Ok(self.gate.open(&self.log, &self.index).await?)
    }

    /// Whether a session still stands, where the node stands so.
    pub fn check(&self, session: &Session, stage: Stage) -> Result<(), ApplyError> {
        if self.gate.stands_at(session, stage) { Ok(()) } else { Err(ApplyError::SessionOver) }
    }

    /// Whether the maker of an intent has died, or was an earlier run of ours.
    pub fn is_abandoned(&self, intent: &Intent) -> Result<bool, ApplyError> {
        match intent.role.as_str() {
            "replicator" => Ok(intent.owner != self.run),
            role => {
                LocalLock::is_free(&self.state_dir.join(format!("{role}.lock"))).map_err(ApplyError::Disk)
            }
        }
    }

    /// Finishes an abandoned intent.
    pub async fn finish_abandoned(
        &self,
        path: &MediaPath,
        intent: &Intent,
        name: Name,
    ) -> Result<(), ApplyError> {
        let resolved = resolve(&self.root, &self.index, self.log.subjects(), path, intent, name).await?;
        tracing::info!(%path, version = %intent.version, ?resolved, "finished what an earlier run had begun");
        Ok(())
    }

    /// Whether files of the trash may be dropped now: once an hour. What is to be deleted anyway goes at once.
    pub fn may_drop(&self, at_once: bool) -> bool {
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        let due = at_once || dropped.is_none_or(|at| at.elapsed() > DROPS);
        if due {
            *dropped = Some(Instant::now());
        }
        due
    }

    /// Looks whether the root still stands, and raises its number when it is time to.
    pub async fn before_change(&self) -> Result<(), ApplyError> {
        Ok(self.marker.before_change(&self.root, &self.index).await?)
    }
}
