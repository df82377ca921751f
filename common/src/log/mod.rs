//! The log, the first of two seams: an append-only, ordered stream of events.
//!
//! [`JetStreamLog`] is the real one, [`MemoryLog`] the one of simulations; both pass [`contract`].

pub mod contract;
mod floors;
mod follower;
mod hints;
mod jetstream;
mod memory;
mod newest;
mod publisher;

pub use follower::{JetStreamDelivery, JetStreamFollower};
pub use hints::{Hint, Hints};
pub use jetstream::{JetStreamLog, LogOptions};
pub use memory::{MemoryDelivery, MemoryFollower, MemoryLog};
pub use newest::{Window, newest_of};

use crate::{
    broker::BrokerError,
    event::{Event, EventId, InvalidEvent, StreamCreated, Version},
    names::NodeName,
    path::MediaPath,
    subject::Subjects,
    time::Timestamp,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;

/// What the log says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogState {
    /// The name of this life of the log.
    pub created: StreamCreated,
    /// The oldest event still kept; 0 when there was never one.
    pub first: Version,
    /// The newest event; 0 when there was never one.
    pub last: Version,
    /// At most this many events of each path are kept; `None`: all.
    pub history: Option<u64>,
    /// The broker's clock when it answered, where the server tells it (2.10 on).
    pub now: Option<Timestamp>,
}

/// A message of the log as it was stored.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Its position.
    pub version: Version,
    /// When the broker stored it.
    pub time: Timestamp,
    /// The subject it came on.
    pub subject: String,
    /// The exact bytes.
    pub payload: Bytes,
    /// The event, or why it is none.
    pub event: Result<Event, Arc<InvalidEvent>>,
}

impl Logged {
    /// Checks what was stored.
    pub fn new(
        subjects: &Subjects,
        version: Version,
        time: Timestamp,
        subject: String,
        payload: Bytes,
    ) -> Self {
        let mut event = Event::decode(subjects, &subject, &payload).map_err(Arc::new);
        if let Ok(event) = &mut event {
            // A writer's clock that runs ahead would make latencies negative.
            event.detected = event.detected.min(time);
        }
        Self { version, time, subject, payload, event }
    }

    /// The digest of this position (rule 9).
    pub fn id(&self, subjects: &Subjects) -> EventId {
        match &self.event {
            Ok(event) => event.identity(subjects),
            Err(_) => EventId::of_other(&self.subject, &self.payload),
        }
    }
}

/// What became of a publish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Published {
    /// Stored at this version and durable as far as the broker promises it; also when an earlier attempt of the same event had been stored.
    Stored(Version),
    /// The path's last event is not the one that `replaces` names. Nothing was stored.
    Refused,
}

/// How far the durable consumer of a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConsumerState {
    /// Every event up to this one that was delivered is acknowledged.
    pub acknowledged: Version,
    /// The newest event ever delivered.
    pub delivered: Version,
    /// Events not yet delivered.
    pub pending: u64,
}

/// An event handed to this node by its consumer. Unacknowledged for 30 s (without [`progress`](Delivery::progress)), it comes again.
#[async_trait]
pub trait Delivery: Send + Sync + 'static {
    /// What was delivered.
    fn logged(&self) -> &Logged;
    /// Events that were still to be delivered after this one.
    fn pending(&self) -> u64;
    /// Applied, superseded or parked here: never deliver it again. Best effort; when it is lost the event comes again, and is found superseded.
    async fn acknowledge(&self);
    /// Still being worked on: starts the acknowledgement wait anew.
    async fn progress(&self);
}

/// The durable consumer of one node.
#[async_trait]
pub trait Follower: Send + 'static {
    /// One delivered event.
    type Delivery: Delivery;

    /// The next event. Safe to drop between calls (nothing is lost, it comes again). An error ends this follower: check the log (rule 9), then follow
    /// anew. A consumer that was deleted, or a broker that does not answer for 10 s, is an error; waiting for a new event is not bounded.
    async fn next(&mut self) -> Result<Self::Delivery, BrokerError>;

    /// How far it is.
    async fn state(&mut self) -> Result<ConsumerState, BrokerError>;
}

/// An event log. Every call is bounded in time, 5 s unless it says otherwise.
#[async_trait]
pub trait EventLog: Clone + Send + Sync + 'static {
    /// This log's consumer.
    type Follower: Follower;

    /// The subjects of this log.
    fn subjects(&self) -> &Subjects;

    /// What the log says of itself now.
    async fn state(&self) -> Result<LogState, BrokerError>;

    /// Appends an event when the path's last event is the one it `replaces` (0: there is none), else stores nothing. After an error it may or may
    /// not have been stored: publish the same event again, or read the path's last one.
    async fn publish(&self, event: &Event) -> Result<Published, BrokerError>;

    /// The newest event of each path, in the order asked.
    async fn lasts(&self, paths: &[MediaPath]) -> Result<Vec<Option<Logged>>, BrokerError>;

    /// The newest event of one path.
    async fn last(&self, path: &MediaPath) -> Result<Option<Logged>, BrokerError> {
        Ok(self.lasts(std::slice::from_ref(path)).await?.pop().flatten())
    }

    /// The newest event on a subject, for one that may name a path only by its hash.
    async fn last_on(&self, subject: &str) -> Result<Option<Logged>, BrokerError>;

    /// The oldest event of a path at or after a version: walking it gives the path's history as far as it is kept.
    async fn next_of(&self, path: &MediaPath, from: Version) -> Result<Option<Logged>, BrokerError>;

    /// The message at exactly this version, if the log still has it.
    async fn at(&self, version: Version) -> Result<Option<Logged>, BrokerError>;

    /// Up to `limit` (at most 500) events at or after `from`, oldest first, whatever their path. Empty: there are none.
    async fn read(&self, from: Version, limit: usize) -> Result<Vec<Logged>, BrokerError>;

    /// The durable consumer of this node, made when it is not there: it begins with the newest event of each path (rule 12). An existing one goes on
    /// where it is, and is never moved.
    async fn follow(&self, node: &NodeName) -> Result<Self::Follower, BrokerError>;

    /// A hint for each event that anybody publishes from now on.
    async fn hints(&self) -> Result<Hints, BrokerError>;
}
