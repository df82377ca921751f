//! What the stages of this process share, and how their failures are answered.

use crate::{facts::Facing, turns::Turns};
use common::{
    blobs::{BlobError, BlobStore},
    broker::BrokerError,
    hash::ContentHash,
    index::{Index, IndexError, Intent, Stage},
    limits::RateLimit,
    local_lock::LocalLock,
    log::EventLog,
    names::NodeName,
    nodes::Role,
    path::MediaPath,
    place::Placer,
    resolve::{Name, ResolveError, Resolved, resolve},
    root::{IgnoreRules, MarkerClock, MarkerError, Ownership, Root},
    settings::MinFree,
    space::Space,
    trust::{Gate, Session, TrustError},
};
use std::{
    collections::{HashMap, HashSet},
    io,
    path::PathBuf,
    sync::{Arc, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// Bytes of small files held in memory at most, in KiB: what a permit of [`Node::memory`] stands for.
pub const SMALL_KIB: usize = 16 * 1024;
/// Large files that are read at the same time; small ones pass them by.
const LARGE_FILES: usize = 2;
/// Bytes of files of a few chunks held in memory at most, in KiB: four of the longest at once.
pub const MEDIUM_KIB: usize = 8 * 1024;

/// A blob is uploaded again on request at most this often.
const UPLOAD_AGAIN: Duration = Duration::from_secs(60);

/// The ignore rules in force, shared by all who ask. Cheap to clone.
#[derive(Clone)]
pub struct Rules(Arc<RwLock<Arc<IgnoreRules>>>);

impl Rules {
    pub fn new(rules: IgnoreRules) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(rules))))
    }

    pub fn get(&self) -> Arc<IgnoreRules> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set(&self, rules: IgnoreRules) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }
}

/// What is worked with as long as the log is trusted.
pub type Working<L, B> = Option<(Arc<Node<L, B>>, Session)>;

/// What the stages share.
pub struct Node<L, B> {
    pub root: Arc<Root>,
    pub index: Index,
    pub facing: Facing,
    pub log: L,
    pub blobs: B,
    pub name: NodeName,
    pub upload_limit: RateLimit,
    /// One permit for each KiB of small files in memory.
    pub memory: Arc<Semaphore>,
    /// The same for files of a few chunks.
    pub medium: Arc<Semaphore>,
    pub large: Arc<Semaphore>,
    pub placer: Placer,
    pub space: Space,
    /// Who owns what is placed; `None`: as its folder.
    pub owner: Option<Ownership>,
    /// A file here that the index does not know goes over the log's where it is the later one.
    pub prefer_newest: bool,
    /// This run of the process, by which its intents are known.
    pub run: String,
    /// Who is at a path: a user's file, or what was asked for over HTTP.
    pub turns: Turns<MediaPath>,
    placing: std::sync::Mutex<HashSet<MediaPath>>,
    rules: Rules,
    state_dir: PathBuf,
    gate: Gate,
    marker: MarkerClock,
    uploaded: std::sync::Mutex<HashMap<ContentHash, Instant>>,
}

/// Where things are, and who we are.
pub struct Parts<L, B> {
    pub root: Arc<Root>,
    pub index: Index,
    pub log: L,
    pub blobs: B,
    pub name: NodeName,
    pub upload_limit: RateLimit,
    pub owner: Option<Ownership>,
    pub min_free: MinFree,
    pub rules: Rules,
    pub state_dir: PathBuf,
    pub gate: Gate,
}

/// Why a path could not be brought up to date. What was offered stays offered.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The broker was lost, or the other process began a new generation: look at the log first.
    #[error("the log must be looked at again first")]
    SessionOver,
    /// The log.
    #[error(transparent)]
    Log(#[from] BrokerError),
    /// The blob store.
    #[error("cannot store the content of {path}")]
    Blob {
        /// The path.
        path: MediaPath,
        /// Why.
        #[source]
        source: BlobError,
    },
    /// The disk.
    #[error("cannot read {path}")]
    Disk {
        /// The path.
        path: MediaPath,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The root is not the one we know.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// An intent that was left standing.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// What the loop does after a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Look at the log, then at the path again.
    NewSession,
    /// Look at the path again, after a wait.
    Retry,
    /// The same, and nothing else either until there is room.
    Pause,
    /// End the process: nothing here can be trusted.
    Halt,
}

impl PublishError {
    pub fn disk(path: &MediaPath, source: io::Error) -> Self {
        Self::Disk { path: path.clone(), source }
    }

    /// The blob store does not do what is asked, and is not the broker's.
    pub fn is_store_away(&self) -> bool {
        matches!(self, Self::Blob { source, .. } if source.is_store_away())
    }

    /// The broker did not answer; some that are full say nothing.
    pub fn is_timeout(&self) -> bool {
        let error = match self {
            Self::Log(error) | Self::Blob { source: BlobError::Broker(error), .. } => error,
            _ => return false,
        };
        matches!(error, BrokerError::Timeout { .. })
    }

    /// What was being done, and why it failed, for metrics.
    pub fn label(&self) -> (&'static str, &'static str) {
        match self {
            Self::SessionOver => ("log", "session_over"),
            Self::Log(error) => ("publish", error.label()),
            Self::Blob { source, .. } => ("upload", source.label()),
            Self::Disk { .. } => ("read", "io"),
            Self::Index(error) if error.is_full() => ("index", "no_room"),
            Self::Index(_) => ("index", "failed"),
            Self::Marker(_) => ("root", "marker"),
            Self::Resolve(_) => ("read", "intent"),
        }
    }

    /// What the loop does next.
    pub fn next(&self) -> Next {
        let broker = |error: &BrokerError| match error {
            BrokerError::Timeout { .. } | BrokerError::Away { .. } | BrokerError::Absent { .. } => {
                Next::NewSession
            }
            BrokerError::Full { .. } => Next::Pause,
            BrokerError::Refused { .. } | BrokerError::Answer { .. } => Next::Retry,
        };
        match self {
            Self::SessionOver => Next::NewSession,
            Self::Log(error) | Self::Blob { source: BlobError::Broker(error), .. } => broker(error),
            Self::Blob { source, .. } if source.is_full() || source.is_store_away() => Next::Pause,
            Self::Marker(error) if error.halts() => Next::Halt,
            Self::Marker(error) if error.is_full() => Next::Pause,
            Self::Index(error) if error.is_full() => Next::Pause,
            Self::Resolve(error) if error.is_full() => Next::Pause,
            Self::Blob { .. } | Self::Disk { .. } | Self::Index(_) | Self::Marker(_) | Self::Resolve(_) => {
                Next::Retry
            }
        }
    }
}

struct PlacingEnds<'a>(&'a std::sync::Mutex<HashSet<MediaPath>>, MediaPath);

impl Drop for PlacingEnds<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl From<TrustError> for PublishError {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Broker(error) => Self::Log(error),
            TrustError::Index(error) => Self::Index(error),
        }
    }
}

impl<L: EventLog, B: BlobStore> Node<L, B> {
    pub fn new(parts: Parts<L, B>) -> Self {
        Self {
            facing: Facing::start(&parts.root, &parts.index),
            placer: Placer::start(Arc::clone(&parts.root), parts.index.clone()),
            space: Space::new(Arc::clone(&parts.root), parts.min_free),
            owner: parts.owner,
            prefer_newest: false,
            run: format!("{:016x}", rand::random::<u64>()),
            turns: Turns::default(),
            placing: std::sync::Mutex::default(),
            root: parts.root,
            index: parts.index,
            log: parts.log,
            blobs: parts.blobs,
            name: parts.name,
            upload_limit: parts.upload_limit,
            memory: Arc::new(Semaphore::new(SMALL_KIB)),
            medium: Arc::new(Semaphore::new(MEDIUM_KIB)),
            large: Arc::new(Semaphore::new(LARGE_FILES)),
            rules: parts.rules,
            state_dir: parts.state_dir,
            gate: parts.gate,
            marker: MarkerClock::default(),
            uploaded: std::sync::Mutex::default(),
        }
    }

    /// The ignore rules in force.
    pub fn rules(&self) -> Arc<IgnoreRules> {
        self.rules.get()
    }

    /// Looks at the log (rule 9). `None`: there is no connection.
    pub async fn trust(&self) -> Result<Option<Session>, PublishError> {
        Ok(self.gate.open(&self.log, &self.index).await?)
    }

    /// Whether a session still stands.
    pub fn check(&self, session: &Session) -> Result<(), PublishError> {
        self.check_at(session, self.index.stage()?)
    }

    /// The same, where it was read already how the node stands.
    pub fn check_at(&self, session: &Session, stage: Stage) -> Result<(), PublishError> {
        if self.gate.stands_at(session, stage) { Ok(()) } else { Err(PublishError::SessionOver) }
    }

    /// Whether the connection is still that of the session; whose node stands where is for the transaction to see.
    pub fn check_connection(&self, session: &Session) -> Result<(), PublishError> {
        if self.gate.connects(session) { Ok(()) } else { Err(PublishError::SessionOver) }
    }

    /// Finishes an intent whose maker has died. False: its maker lives.
    pub async fn resolve_abandoned(&self, path: &MediaPath, intent: &Intent) -> Result<bool, PublishError> {
        if !self.is_abandoned(path, intent)? {
            return Ok(false);
        }
        self.finish(path, intent).await?;
        Ok(true)
    }

    /// Finishes an intent that nobody else works on.
    pub async fn finish(&self, path: &MediaPath, intent: &Intent) -> Result<(), PublishError> {
        let resolved =
            resolve(&self.root, &self.index, self.log.subjects(), path, intent, Name::Unsynced).await?;
        if resolved != Resolved::Elsewhere {
            tracing::info!(%path, version = %intent.version, ?resolved, "finished what another process, or an earlier run, had begun");
        }
        Ok(())
    }

    /// Whether the maker of an intent has died, was an earlier run of ours, or has given up.
    fn is_abandoned(&self, path: &MediaPath, intent: &Intent) -> Result<bool, PublishError> {
        if intent.role == Role::Watcher.as_str() {
            return Ok(intent.owner != self.run || !self.paths_being_placed().contains(path));
        }
        let lock = self.state_dir.join(format!("{}.lock", intent.role));
        LocalLock::is_free(&lock).map_err(|error| PublishError::disk(path, error))
    }

    /// From now on, and until this is dropped, an intent of this run for the path is somebody's work. One at a time is for the caller to see to.
    pub fn begin_placing(&self, path: &MediaPath) -> impl Drop {
        self.paths_being_placed().insert(path.clone());
        PlacingEnds(&self.placing, path.clone())
    }

    fn paths_being_placed(&self) -> MutexGuard<'_, HashSet<MediaPath>> {
        self.placing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a blob that is asked for was not uploaded a moment ago: who asks may need a while to take it.
    pub fn may_upload_again(&self, hash: ContentHash) -> bool {
        let mut uploaded = self.uploaded.lock().unwrap_or_else(PoisonError::into_inner);
        uploaded.retain(|_, at| at.elapsed() < UPLOAD_AGAIN);
        !uploaded.contains_key(&hash)
    }

    /// Remembers it.
    pub fn uploaded_again(&self, hash: ContentHash) {
        self.uploaded.lock().unwrap_or_else(PoisonError::into_inner).insert(hash, Instant::now());
    }

    /// Looks whether the root still stands, and raises its number when it is time to.
    pub async fn before_change(&self) -> Result<(), PublishError> {
        Ok(self.marker.before_change(&self.root, &self.index).await?)
    }
}
