//! What the replicator answers over HTTP besides health: the nodes, the log, and waiting. One file for each route.
//!
//! All of it reads, and names files: where tokens are in force it needs the scope `read`.

mod events;
mod log;
mod nodes;
mod wait;

use axum::{Router, routing::get};
use common::{
    broker::BrokerError,
    error_chain,
    http::{ASK_AGAIN, Problem, Routes, Scope, needs},
    log::JetStreamLog,
    nodes::NodeBucket,
    sightings::Sightings,
};
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Live logs at once: each costs four looks a second and a page of the log.
const STREAMS: usize = 16;
/// Requests that wait at once: half of the connections.
const WAITS: usize = 64;

/// What the routes share.
pub struct Api {
    /// Once the broker was reached.
    online: OnceLock<Sightings>,
    /// The process is told to end.
    stop: CancellationToken,
    streams: Arc<Semaphore>,
    waits: Semaphore,
}

impl Api {
    /// Knows nothing yet.
    pub fn new(stop: CancellationToken) -> Arc<Self> {
        let (streams, waits) = (Arc::new(Semaphore::new(STREAMS)), Semaphore::new(WAITS));
        Arc::new(Self { online: OnceLock::new(), stop, streams, waits })
    }

    /// The broker is reached.
    pub fn reached(&self, log: JetStreamLog, nodes: NodeBucket) {
        // A second time would be the same broker.
        let _ = self.online.set(Sightings::new(log, nodes));
    }

    /// What is answered.
    pub fn routes(self: &Arc<Self>) -> Routes {
        let in_time = Router::new()
            .route("/api/v1/nodes", get(nodes::answer))
            .route("/api/v1/log", get(log::answer))
            .route("/api/v1/events", get(events::answer));
        let patient = Router::new().route("/api/v1/wait", get(wait::answer));
        let state = |routes: Router<Arc<Self>>| needs(Scope::Read, routes.with_state(Arc::clone(self)));
        Routes { in_time: state(in_time), patient: state(patient) }
    }

    fn sightings(&self) -> Result<&Sightings, Problem> {
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
