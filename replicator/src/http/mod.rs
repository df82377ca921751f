//! What the replicator answers over HTTP besides health: the nodes, the log, waiting, and a page for people. One file for each route.
//!
//! Nearly all of it reads, and names files: where tokens are in force it needs the scope `read`. The page itself holds no data, and needs none.

mod activity;
mod events;
mod files;
mod log;
mod misses;
mod nodes;
mod page;
mod paths;
mod retry;
mod wait;

use crate::{node::Node, service::Urgent};
use common::{
    arrivals::Arrivals,
    blobs::Blobs,
    broker::BrokerError,
    error_chain,
    http::{ASK_AGAIN, Problem, Routes, content::Shelf, openapi::Table},
    index::Index,
    log::JetStreamLog,
    nodes::NodeBucket,
    sightings::Sightings,
    vitals::Vitals,
};
use misses::Misses;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Live logs at once: each costs four looks a second and a page of the log.
const STREAMS: usize = 16;
/// Requests that wait at once: half of the connections.
const WAITS: usize = 64;

/// What the routes share.
pub struct Api {
    shelf: Arc<Shelf>,
    index: Index,
    misses: Misses,
    /// How long what is not there is waited for.
    miss_wait: Duration,
    /// Once the broker was reached.
    online: OnceLock<Online>,
    /// The process is told to end.
    stop: CancellationToken,
    streams: Arc<Semaphore>,
    waits: Semaphore,
}

/// What there is once the broker was reached.
struct Online {
    sightings: Sightings,
    urgent: Urgent,
    arrivals: Arrivals,
    vitals: Arc<Vitals>,
}

impl Api {
    /// Knows what the disk has.
    pub fn new(shelf: Shelf, index: Index, miss_wait: Duration, stop: CancellationToken) -> Arc<Self> {
        let (streams, waits) = (Arc::new(Semaphore::new(STREAMS)), Semaphore::new(WAITS));
        let (shelf, misses, online) = (Arc::new(shelf), Misses::default(), OnceLock::new());
        Arc::new(Self { shelf, index, misses, miss_wait, online, stop, streams, waits })
    }

    /// The broker is reached.
    pub fn reached(&self, node: &Node<JetStreamLog, Blobs>, urgent: Urgent, nodes: NodeBucket) {
        self.shelf.reached(node.blobs.clone(), node.download_limit.clone());
        let (sightings, arrivals) = (Sightings::new(node.log.clone(), nodes), node.arrivals.clone());
        // A second time would be the same broker.
        let _ = self.online.set(Online { sightings, urgent, arrivals, vitals: Arc::clone(&node.vitals) });
    }

    /// What is answered.
    pub fn routes(self: &Arc<Self>) -> Routes {
        let in_time = Table::default()
            .route(activity::operation(), activity::answer)
            .route(nodes::operation(), nodes::answer)
            .route(log::operation(), log::answer)
            .route(events::operation(), events::answer)
            .route(files::operation(), files::answer)
            .route(retry::operation(), retry::answer)
            .with_state(Arc::clone(self));
        let patient = Table::default()
            .route(wait::operation(), wait::answer)
            .route(paths::operation(), paths::answer)
            .with_state(Arc::clone(self));
        Routes { in_time, patient, open: page::routes() }
    }

    fn sightings(&self) -> Result<&Sightings, Problem> {
        Ok(&self.online()?.sightings)
    }

    fn online(&self) -> Result<&Online, Problem> {
        let unreached =
            || Problem::passing("the process has not reached the broker since it was started", ASK_AGAIN);
        self.online.get().ok_or_else(unreached)
    }
}

/// The broker did not answer as it should.
fn away(error: BrokerError) -> Problem {
    Problem::passing(error_chain(&error), ASK_AGAIN)
}

/// As many as there may be ask for this already.
fn crowded(most: usize, what: &str) -> Problem {
    Problem::passing(format!("{most} {what} already"), ASK_AGAIN)
}
