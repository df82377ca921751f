//! What every service and command does before its own work, in the order in which failures must show: settings, root, state, locks, broker.

use crate::{
    blobs::{BlobOptions, Blobs, Reach, StoreError},
    broker::{Broker, BrokerError, Caller, ConnectError, Patience},
    exit::{Exit, Failure, Fault},
    http::{Routes, Serving},
    index::{Index, IndexError},
    limits::RateLimit,
    local_lock::{LocalLock, LockError},
    log::{JetStreamLog, LogOptions},
    mirror_record::{Follower, RecordError},
    nodes::{Identity, NodeBucket, Role, instance_of},
    path::OWN_FOLDER,
    root::{IgnoreError, MarkerError, Root, RootError, raise_marker},
    settings::{Folders, Settings},
    vitals::Vitals,
};
use std::{
    fs, io, os::unix::fs::DirBuilderExt, path::Path, path::PathBuf, pin::Pin, sync::Arc, time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long commands wait for the broker.
pub const COMMAND_PATIENCE: Duration = Duration::from_secs(5);
/// Until a broker that does not do what is asked is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// How often it is looked whether the blobs have moved.
const FOLLOW: Duration = Duration::from_secs(2);

impl Fault for RootError {
    fn exit(&self) -> Exit {
        Exit::Failed
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing(path) => Some(format!("mkdir {}, or mount it", path.display())),
            Self::NotWritable(_) => Some("run as the user who owns the files".into()),
            Self::NotAFolder(_) | Self::Unsupported(..) | Self::Io(..) => None,
        }
    }
}

impl Fault for MarkerError {
    fn exit(&self) -> Exit {
        if self.halts() { Exit::Halted } else { Exit::Failed }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing(_) => {
                Some("mount the root; if the folder is meant to be new, give it a new --state".into())
            }
            Self::Swapped { .. } => {
                Some("this folder belongs to another node or mirror; check --root and --state".into())
            }
            Self::Io(..) | Self::Held(_) | Self::Index(_) => None,
        }
    }
}

impl Fault for IndexError {
    fn exit(&self) -> Exit {
        Exit::Failed
    }
}

impl Fault for IgnoreError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }
}

/// A state directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the state directory {} cannot be used", .path.display())]
pub struct StateError {
    path: PathBuf,
    source: io::Error,
}

impl Fault for StateError {
    fn exit(&self) -> Exit {
        Exit::Failed
    }
}

/// A node's folders, opened and locked for one process.
pub struct Local {
    /// The tree.
    pub root: Arc<Root>,
    /// The state directory.
    pub state: PathBuf,
    /// The index.
    pub index: Index,
    _locks: [LocalLock; 2],
}

/// A node's root in use by another process under another state directory.
#[derive(Debug, thiserror::Error)]
#[error("another {role} works on {}", .root.display())]
pub struct RootInUse {
    role: Role,
    root: PathBuf,
    source: LockError,
}

impl Fault for RootInUse {
    fn exit(&self) -> Exit {
        Exit::Failed
    }

    fn hint(&self) -> Option<String> {
        self.source.hint()
    }
}

impl Local {
    /// Opens what is this node's own. The root is checked first, and nothing is made when it cannot be used; one process of each role at a time.
    /// While a disk is full a service waits until `wait` is cancelled, with one warning; a command does not.
    pub async fn open(
        settings: &Settings,
        role: Role,
        wait: Option<&CancellationToken>,
    ) -> Result<Self, Failure> {
        let folders = settings.folders()?;
        let root = Arc::new(Root::open(&folders.root)?);
        make_state(&folders.state)?;
        let name = format!("{role}.lock");
        let in_use = |source| RootInUse { role, root: folders.root.clone(), source };
        let lock = LocalLock::take(&folders.state.join(&name)).map_err(in_use)?;
        let in_root = LocalLock::take(&folders.root.join(OWN_FOLDER).join(&name)).map_err(in_use)?;
        let path = folders.state.join("index.db");
        let index = once_there_is_room(wait, IndexError::is_full, async || Index::open(&path)).await?;
        once_there_is_room(wait, MarkerError::is_full, async || raise_marker(&root, &index).await).await?;
        Ok(Self { root, state: folders.state, index, _locks: [lock, in_root] })
    }
}

/// The index of this node, for a command that works beside its running processes.
pub fn index_of(settings: &Settings) -> Result<(Folders, Index), Failure> {
    let folders = settings.folders()?;
    let path = folders.state.join("index.db");
    if !path.exists() {
        let text = format!("there is no index at {}: nothing has run here", path.display());
        return Err(Failure::new(Exit::Failed, text));
    }
    let index = Index::open(&path)?;
    Ok((folders, index))
}

/// Whether a process of this node is running on this machine.
pub fn is_running(folders: &Folders, role: Role) -> bool {
    LocalLock::is_free(&folders.state.join(format!("{role}.lock"))).is_ok_and(|free| !free)
}

/// Tries until there is room, or `wait` is cancelled.
async fn once_there_is_room<T, E: std::error::Error>(
    wait: Option<&CancellationToken>,
    is_full: impl Fn(&E) -> bool,
    attempt: impl AsyncFn() -> Result<T, E>,
) -> Result<T, E> {
    let mut warned = false;
    loop {
        let (error, stop) = match (attempt().await, wait) {
            (Err(error), Some(stop)) if is_full(&error) => (error, stop),
            (done, _) => return done,
        };
        if !std::mem::replace(&mut warned, true) {
            tracing::warn!(error = %crate::error_chain(&error), "no room: waiting for it before the start");
        }
        tokio::select! {
            () = stop.cancelled() => return Err(error),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

fn make_state(state: &Path) -> Result<(), StateError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(state);
    made.map_err(|source| StateError { path: state.into(), source })
}

/// See [`Stores::keeper`].
pub type Keeper =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), BrokerError>> + Send>> + Send + Sync>;

/// Log, blobs and node records, made where they are not there yet.
pub struct Stores {
    /// The log.
    pub log: JetStreamLog,
    /// The blobs.
    pub blobs: Blobs,
    /// The node records.
    pub nodes: NodeBucket,
}

impl Stores {
    /// Opens them. A broker or a blob store that is away, or not ready, is waited for until `stop`, with one warning. `state`: what this node knew of the
    /// mirror's record.
    pub async fn open(
        broker: &Broker,
        settings: &Settings,
        state: &Path,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, RecordError> {
        let mut warned = false;
        loop {
            let opened = tokio::select! {
                opened = Self::opened(broker, settings, Some(state)) => opened,
                () = stop.cancelled() => return Ok(None),
            };
            let error = match opened {
                Ok(stores) => return Ok(Some(stores)),
                Err(error) if !error.passes() => return Err(error),
                Err(error) => error,
            };
            if !std::mem::replace(&mut warned, true) {
                let error = crate::error_chain(&error);
                tracing::warn!(error, "the broker or the blob store is not ready; waiting for it");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }

    /// What makes log, blobs and node records again when the broker has lost them, and follows the blobs where they have moved; asked before every look at the log. One
    /// round trip for each when they are there.
    pub fn keeper(broker: &Broker, settings: &Settings, state: &Path, blobs: &Blobs) -> Keeper {
        let (broker, settings, state, blobs) =
            (broker.clone(), settings.clone(), state.to_owned(), blobs.clone());
        Box::new(move || {
            let (broker, settings, state, blobs) =
                (broker.clone(), settings.clone(), state.clone(), blobs.clone());
            Box::pin(async move {
                let (_, nodes) = streams(&broker, &settings).await?;
                let follower = follower(&broker, &settings, Some(&state));
                let kept = async {
                    follower.follow(&blobs, &nodes).await?;
                    follower.keep(&blobs).await
                };
                kept.await.or_else(|error| may_stay(error, &blobs))
            })
        })
    }

    /// Follows the blobs where they move, until the handle is dropped. `state`: of a node, which remembers it.
    pub fn follow(
        broker: &Broker,
        settings: &Settings,
        state: Option<&Path>,
        blobs: &Blobs,
        nodes: &NodeBucket,
    ) -> AbortOnDropHandle<()> {
        let (follower, blobs, nodes) = (follower(broker, settings, state), blobs.clone(), nodes.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                tokio::time::sleep(FOLLOW).await;
                // A broker that is away is said elsewhere; what cannot be followed is asked for again before the next session.
                match follower.follow(&blobs, &nodes).await {
                    Err(error) if !error.passes() => {
                        let error = crate::error_chain(&error);
                        tracing::warn!(error, "the blobs of the mirror have moved, and cannot be followed");
                    }
                    _ => {}
                }
            }
        }))
    }

    /// Makes what is not there yet, for an operator: no node's state is needed for it.
    pub async fn provision(broker: &Broker, settings: &Settings) -> Result<Self, RecordError> {
        Self::opened(broker, settings, None).await
    }

    async fn opened(broker: &Broker, settings: &Settings, state: Option<&Path>) -> Result<Self, RecordError> {
        let (log, nodes) = streams(broker, settings).await?;
        let blobs = follower(broker, settings, state).open(&nodes).await?;
        Ok(Self { log, blobs, nodes })
    }
}

/// Who cannot follow to the store that the mirror moves to goes on with the one before, for as long as that is read.
fn may_stay(error: RecordError, blobs: &Blobs) -> Result<(), BrokerError> {
    let told = match error {
        RecordError::Broker(error) | RecordError::Store(StoreError::Broker(error)) => return Err(error),
        RecordError::Left { .. } => crate::error_chain(&error),
        error => {
            let (error, stays) = (crate::error_chain(&error), blobs.location());
            tracing::warn!(error, %stays, "the blobs of the mirror are moving, and this node cannot follow");
            return Ok(());
        }
    };
    Err(BrokerError::Away { doing: "following the blobs of the mirror".into(), reason: told })
}

async fn streams(broker: &Broker, settings: &Settings) -> Result<(JetStreamLog, NodeBucket), BrokerError> {
    let (mirror, store) = (settings.mirror.clone(), settings.store);
    let client = || broker.client().clone();
    let log = LogOptions {
        mirror: mirror.clone(),
        replicas: store.replicas,
        history: store.history.map(std::num::NonZeroU64::get),
    };
    tokio::try_join!(JetStreamLog::open(client(), log), NodeBucket::open(client(), &mirror, store.replicas),)
}

/// How stores are reached, as these settings say.
pub fn reach(broker: &Broker, settings: &Settings) -> Reach {
    let (mirror, store) = (settings.mirror.clone(), settings.store);
    Reach {
        client: broker.client().clone(),
        options: BlobOptions { mirror, replicas: store.replicas, durable: store.durable_blobs },
        environment: settings.environment.variables(),
    }
}

fn follower(broker: &Broker, settings: &Settings, state: Option<&Path>) -> Follower {
    Follower {
        reach: reach(broker, settings),
        told: settings.blobs.clone(),
        state: state.map(Path::to_owned),
    }
}

/// The blobs of a mirror, for a command: nothing is made.
pub async fn blobs_of(broker: &Broker, settings: &Settings) -> Result<Blobs, RecordError> {
    let nodes = NodeBucket::named(broker.client().clone(), &settings.mirror);
    follower(broker, settings, None).attach(&nodes).await
}

/// Connects a service: it keeps trying until it is told to stop. `None`: it was.
pub async fn connect_service(
    settings: &Settings,
    role: Role,
    stop: &CancellationToken,
) -> Result<Option<Broker>, ConnectError> {
    let caller = Caller { role: role.as_str(), node: &settings.node };
    match Broker::connect(&settings.nats, caller, Patience::KeepTrying(stop.clone())).await {
        Err(ConnectError::Cancelled) => Ok(None),
        connected => connected.map(Some),
    }
}

/// Connects a command, which gives up after 5 s.
pub async fn connect_command(settings: &Settings, role: &str) -> Result<Broker, ConnectError> {
    let caller = Caller { role, node: &settings.node };
    Broker::connect(&settings.nats, caller, Patience::GiveUpAfter(COMMAND_PATIENCE)).await
}

/// Who this process is to the other nodes.
pub fn identity(
    settings: &Settings,
    state: &Path,
    role: Role,
    broker: &Broker,
    http: Option<String>,
) -> Result<Identity, StateError> {
    let instance = instance_of(state).map_err(|source| StateError { path: state.into(), source })?;
    Ok(Identity { node: settings.node.clone(), role, instance, durable: broker.durable(), http })
}

/// What a service tells of itself: over HTTP, and to the service manager.
pub struct Told {
    /// How it is.
    pub vitals: Arc<Vitals>,
    http: Option<Serving>,
    stop: CancellationToken,
    stopping: tokio::task::JoinHandle<()>,
}

impl Told {
    /// Begins, once the service has what it needs on this machine. `meter`: what its content passes through. `routes`: what it answers
    /// over HTTP of its own.
    pub async fn start(
        settings: &Settings,
        role: Role,
        max_lag: Duration,
        meter: RateLimit,
        stop: &CancellationToken,
        routes: Routes,
    ) -> Result<Self, Failure> {
        let vitals = Vitals::new(role, max_lag, meter, settings.notify.as_ref(), stop.clone());
        let vitals = Arc::new(vitals);
        let http = Serving::start(&settings.http, role, &vitals, routes).await?;
        vitals.ready();
        let (stop, told) = (stop.clone(), Arc::clone(&vitals));
        let stopping = tokio::spawn({
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                told.stopping();
            }
        });
        Ok(Self { vitals, http, stop, stopping })
    }

    /// Where its HTTP is, if anywhere.
    pub fn url(&self) -> Option<String> {
        self.http.as_ref().map(Serving::url)
    }

    /// Ends with the service.
    pub async fn end(self) {
        if self.stop.is_cancelled() {
            // However fast the loop has ended, the service manager has heard why.
            let _ = self.stopping.await;
        }
        if let Some(http) = self.http {
            http.end().await;
        }
    }
}

/// A token that SIGTERM and SIGINT cancel.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!("stopping");
        cancel.cancel();
    });
    Ok(stop)
}

/// The runtime of both programs: two threads for the network, and up to 24 for the disk: enough for its syncs to share what they cost.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(24)
        .enable_all()
        .build()
}
