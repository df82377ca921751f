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
use bytes::Bytes;
use std::{future::Future, sync::Arc};

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
pub trait Delivery: Send + Sync + 'static {
    /// What was delivered.
    fn logged(&self) -> &Logged;
    /// Events that were still to be delivered after this one.
    fn pending(&self) -> u64;
    /// Applied, superseded or parked here: never deliver it again. Best effort; when it is lost the event comes again, and is found superseded.
    fn acknowledge(&self) -> impl Future<Output = ()> + Send;
    /// Still being worked on: starts the acknowledgement wait anew.
    fn progress(&self) -> impl Future<Output = ()> + Send;
}

/// The durable consumer of one node.
pub trait Follower: Send + 'static {
    /// One delivered event.
    type Delivery: Delivery;

    /// The next event. Safe to drop between calls (nothing is lost, it comes again). An error ends this follower: check the log (rule 9), then follow
    /// anew. A consumer that was deleted, or a broker that does not answer for 10 s, is an error; waiting for a new event is not bounded.
    fn next(&mut self) -> impl Future<Output = Result<Self::Delivery, BrokerError>> + Send;

    /// How far it is.
    fn state(&mut self) -> impl Future<Output = Result<ConsumerState, BrokerError>> + Send;
}

/// An event log. Every call is bounded in time, 5 s unless it says otherwise.
pub trait EventLog: Clone + Send + Sync + 'static {
    /// This log's consumer.
    type Follower: Follower;

    /// The subjects of this log.
    fn subjects(&self) -> &Subjects;

    /// What the log says of itself now.
    fn state(&self) -> impl Future<Output = Result<LogState, BrokerError>> + Send;

    /// Appends an event when the path's last event is the one it `replaces` (0: there is none), else stores nothing. After an error it may or may
    /// not have been stored: publish the same event again, or read the path's last one.
    fn publish(&self, event: &Event) -> impl Future<Output = Result<Published, BrokerError>> + Send;

    /// The newest event of each path, in the order asked.
    fn lasts(
        &self,
        paths: &[MediaPath],
    ) -> impl Future<Output = Result<Vec<Option<Logged>>, BrokerError>> + Send;

    /// The newest event of one path.
    fn last(&self, path: &MediaPath) -> impl Future<Output = Result<Option<Logged>, BrokerError>> + Send {
        let path = path.clone();
        async move { Ok(self.lasts(&[path]).await?.pop().flatten()) }
    }

    /// The newest event on a subject, for one that may name a path only by its hash.
    fn last_on(&self, subject: &str) -> impl Future<Output = Result<Option<Logged>, BrokerError>> + Send;

    /// The oldest event of a path at or after a version: walking it gives the path's history as far as it is kept.
    fn next_of(
        &self,
        path: &MediaPath,
        from: Version,
    ) -> impl Future<Output = Result<Option<Logged>, BrokerError>> + Send;

    /// The message at exactly this version, if the log still has it.
    fn at(&self, version: Version) -> impl Future<Output = Result<Option<Logged>, BrokerError>> + Send;

    /// Up to `limit` (at most 500) events at or after `from`, oldest first, whatever their path. Empty: there are none.
    fn read(
        &self,
        from: Version,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Logged>, BrokerError>> + Send;

    /// The durable consumer of this node, made when it is not there: it begins with the newest event of each path (rule 12). An existing one goes on
    /// where it is, and is never moved.
    fn follow(&self, node: &NodeName) -> impl Future<Output = Result<Self::Follower, BrokerError>> + Send;

    /// A hint for each event that anybody publishes from now on.
    fn hints(&self) -> impl Future<Output = Result<Hints, BrokerError>> + Send;
}
