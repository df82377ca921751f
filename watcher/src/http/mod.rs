//! What the watcher takes and gives over HTTP: files, and removals. One file for each route.
//!
//! What changes something needs the scope `write` where tokens are in force.

mod body;
mod files;
mod put;
mod refused;
mod remove;

pub use files::routes as files;
pub use refused::Refused;

use crate::{
    node::{Node, PublishError, Working},
    turns::{Turn, Turns},
};
use common::{
    blobs::Blobs,
    bulk::Counter,
    hash::ContentHash,
    http::{ASK_AGAIN, Problem, Routes, openapi::Table},
    log::JetStreamLog,
    nodes::NodeBucket,
    path::MediaPath,
    sightings::Sightings,
    trust::Session,
    vitals::Vitals,
};
use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Uploads and removals at once. A large upload has some 3 MiB in memory, and a file open.
const AT_ONCE: u32 = 32;
/// How long a place is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests that wait for other nodes at once.
const WAITS: usize = 64;
/// What is under way when the process ends gets this long.
const WIND_DOWN: Duration = Duration::from_secs(5);

type Live = watch::Receiver<Working<JetStreamLog, Blobs>>;

/// What the routes share.
pub struct Api {
    live: Live,
    /// Once the broker was reached.
    sightings: OnceLock<Sightings>,
    /// Once it is there.
    vitals: OnceLock<Arc<Vitals>>,
    /// The largest file, in bytes.
    most: u64,
    /// Removals of the last minute, those of users among them.
    removals: Arc<Mutex<Counter>>,
    naming: Turns<ContentHash>,
    places: Arc<Semaphore>,
    waits: Arc<Semaphore>,
    /// The process is told to end.
    stop: CancellationToken,
}

impl Api {
    /// Knows nothing yet.
    pub fn new(live: Live, most: u64, removals: Arc<Mutex<Counter>>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            live,
            sightings: OnceLock::new(),
            vitals: OnceLock::new(),
            most,
            removals,
            naming: Turns::default(),
            places: Arc::new(Semaphore::new(AT_ONCE as usize)),
            waits: Arc::new(Semaphore::new(WAITS)),
            stop,
        })
    }

    /// What counts is counted there.
    pub fn tells(&self, vitals: &Arc<Vitals>) {
        let _ = self.vitals.set(Arc::clone(vitals));
    }

    /// The broker is reached.
    pub fn reached(&self, log: JetStreamLog, nodes: NodeBucket) {
        // A second time would be the same broker.
        let _ = self.sightings.set(Sightings::new(log, nodes));
    }

    /// What is answered.
    pub fn routes(self: &Arc<Self>) -> Routes {
        let patient = Table::default()
            .route(put::operation(), put::answer)
            .route(remove::operation(), remove::answer)
            .with_state(Arc::clone(self));
        Routes { patient, ..Routes::default() }
    }

    /// Lets what has been received come to its end.
    pub async fn end(&self) {
        let _ = timeout(WIND_DOWN, self.places.acquire_many(AT_ONCE)).await;
    }

    fn working(&self) -> Result<(Arc<Node<JetStreamLog, Blobs>>, Session), Problem> {
        let away = || Problem::passing("the broker is away, or the log is not trusted yet", ASK_AGAIN);
        self.live.borrow().clone().ok_or_else(away)
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let crowded =
            || Problem::passing(format!("{AT_ONCE} uploads and removals at once already"), ASK_AGAIN);
        match timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(crowded()),
        }
    }

    /// Waits until it is our turn at a path. Others may be at it: users' files are published one at a time there, too, and a large one takes its time.
    async fn turn(&self, node: &Node<JetStreamLog, Blobs>, path: &MediaPath) -> Result<Turn, Problem> {
        let turn = timeout(PATIENCE, node.turns.take(path.clone())).await;
        turn.map_err(|_| Problem::passing("other work on this path does not come to an end", ASK_AGAIN))
    }

    /// Whether one more file may be removed (rule 8). It is counted with that.
    fn may_remove(&self, files: u64) -> Result<bool, PublishError> {
        let mut removals = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = !removals.is_too_many(now, 1, files);
        if may {
            removals.add(now, 1);
        }
        Ok(may)
    }
}
