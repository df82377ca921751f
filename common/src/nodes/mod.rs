//! The nodes of a mirror: what each says of itself in the key-value bucket, and who may speak under a name.
//!
//! Records are read by Direct Get, so that no reader needs the right to make a consumer.

mod bucket;
mod claim;
mod reporter;
mod survey;

pub use bucket::{NodeBucket, SeenRecord, Shared};
pub use claim::{Claim, ClaimError, instance_of};
pub use reporter::{Identity, Progress, ReportError, Reporter};
pub use survey::{Comparison, Survey, compare, is_down, is_settled};

use crate::{
    event::{StreamCreated, Version},
    hash::ContentHash,
    names::NodeName,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// A node whose record is older than this, by the broker's clock, is down.
pub const DOWN: Duration = Duration::from_secs(15);
/// A record is written at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// And at most this often, when it changes.
pub const CHANGES: Duration = Duration::from_millis(200);
/// Parked events that a record names at most.
pub const MAX_PARKED: usize = 64;
/// Hashes that a node asks for at once.
pub const MAX_WANTED: usize = 1000;

/// Which process of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It publishes.
    Watcher,
    /// It applies.
    Replicator,
}

impl Role {
    /// As in keys, locks and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Watcher => "watcher",
            Self::Replicator => "replicator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a process is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRunState {
    /// It has not seen the log yet.
    Starting,
    /// It has work to do that it knows of.
    Syncing,
    /// It has none.
    Ready,
    /// Something keeps it from its work, or a person must look.
    Degraded,
    /// It was told to end.
    Stopping,
}

impl NodeRunState {
    /// As in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Syncing => "syncing",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
        }
    }
}

impl fmt::Display for NodeRunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a process says of itself, as JSON in the bucket. Readers ignore fields they do not know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The version of this form: 1.
    pub v: u64,
    /// The node.
    pub node: NodeName,
    /// Which of its processes.
    pub role: Role,
    /// This run of the process.
    pub boot: String,
    /// This installation: random, kept in the state directory.
    pub instance: String,
    /// What it is doing.
    pub state: NodeRunState,
    /// The life of the log that it trusts.
    pub stream_created: Option<StreamCreated>,
    /// The node's version.
    pub version: Version,
    /// The newest event that it knows of.
    pub head: Version,
    /// Ranges applied past the version, at most 64.
    pub beyond: Vec<(Version, Version)>,
    /// Events (watcher: paths) known and not finished.
    pub pending: u64,
    /// Events set aside.
    pub parked: u64,
    /// Where the newest 64 of them stand in the log, newest first.
    #[serde(default)]
    pub parked_at: Vec<Version>,
    /// Over the paths that this node has applied.
    pub digest: String,
    /// How many those are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Free bytes under the root.
    pub disk_free: Option<u64>,
    /// Where its HTTP is, if anywhere.
    pub http: Option<String>,
    /// The version of the program.
    pub build: String,
    /// Whether the broker is known to sync its log before it acknowledges; `None`: not known.
    pub durable: Option<bool>,
    /// The blob store.
    pub store: String,
    /// How its files differ from those of the others, if they do.
    pub diverged: Option<Diverged>,
    /// Something long that it is at.
    #[serde(default)]
    pub underway: Option<Underway>,
    /// When this run began.
    pub started: Timestamp,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
}

impl NodeRecord {
    /// Whether `parked_at` tells if this event is parked. Only the newest are named, and a build before this one names none.
    pub fn tells_of_parked(&self, version: Version) -> bool {
        let all_named = self.parked_at.len() as u64 >= self.parked;
        all_named || self.parked_at.last().is_some_and(|oldest| version > *oldest)
    }
}

/// Something that takes over 10 s.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Underway {
    /// What, for people.
    pub what: String,
    /// How much of it is done.
    pub percent: u64,
    /// Seconds until its end, at the pace so far; `None`: there is no pace yet.
    pub left_s: Option<u64>,
}

/// A node that has not the same files as the others, although it has applied the same events.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Diverged {
    /// Since when it is known.
    pub since: Timestamp,
    /// From whom it differs.
    pub from: Vec<NodeName>,
    /// When its index was last compared with the log because of it.
    pub checked: Option<Timestamp>,
    /// How many paths differed then.
    pub differing: u64,
    /// The first 20 of them.
    pub paths: Vec<String>,
}

/// The list under `<node>.wanted`.
#[derive(Serialize, Deserialize)]
struct Wanted {
    v: u64,
    sha256: Vec<ContentHash>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_fields_of_the_design_and_comes_back() {
        let record = NodeRecord {
            v: 1,
            node: "cms-1".parse().expect("a name"),
            role: Role::Replicator,
            boot: "b".into(),
            instance: "i".into(),
            state: NodeRunState::Ready,
            stream_created: None,
            version: Version::new(7),
            head: Version::new(9),
            beyond: vec![(Version::new(9), Version::new(9))],
            pending: 1,
            parked: 1,
            parked_at: vec![Version::new(5)],
            digest: "00".into(),
            files: 1,
            bytes: 2,
            disk_free: Some(3),
            http: None,
            build: "0.1.0".into(),
            durable: Some(true),
            store: "nats".into(),
            diverged: None,
            underway: None,
            started: Timestamp::from_nanos(0),
            last_error: None,
        };
        let json = serde_json::to_value(&record).expect("JSON");
        let names: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
        let mut expected = [
            "v",
            "node",
            "role",
            "boot",
            "instance",
            "state",
            "stream_created",
            "version",
            "head",
            "beyond",
            "pending",
            "parked",
            "parked_at",
            "digest",
            "files",
            "bytes",
            "disk_free",
            "http",
            "build",
            "durable",
            "store",
            "diverged",
            "underway",
            "started",
            "last_error",
        ];
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert_eq!(json["beyond"], serde_json::json!([[9, 9]]));
        assert_eq!(serde_json::from_value::<NodeRecord>(json).expect("a record"), record);
    }
}
