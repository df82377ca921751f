//! Which blobs nothing needs. Pure.

use common::{
    event::{StreamCreated, Version},
    log::LogState,
    nodes::{NodeRecord, Role, SeenRecord},
    settings::Retention,
    time::Timestamp,
};
use std::{fmt, time::Duration};

/// A node that was not seen for so long does not count.
const KNOWN: Duration = Duration::from_secs(86_400);
/// The least nodes that must have a blob that the store drops though the log names it.
const HOLDERS: usize = 2;
/// One in so many blobs may be without a name.
const ONE_IN: u64 = 10;

/// Why nothing is taken away, unless an operator agrees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No node follows this log.
    Untrusted(String),
    /// The blobs are on their way to another store.
    Moving,
    /// So many of so many blobs have no name in the log.
    TooMany(u64, u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted(why) => write!(f, "the log may not be the one that names these blobs: {why}"),
            Self::Moving => {
                f.write_str("the blobs are moving to another store: end `replicator migrate` first")
            }
            Self::TooMany(unnamed, all) => {
                write!(f, "the log names none of {unnamed} of {all} blobs: more than one in {ONE_IN}")
            }
        }
    }
}

/// What is known of the nodes.
pub struct Nodes {
    created: StreamCreated,
    replicators: Vec<NodeRecord>,
    trusted: Result<(), String>,
}

impl Nodes {
    /// Takes those that count.
    pub fn of(records: Vec<SeenRecord>, log: &LogState, now: Timestamp) -> Self {
        let known = |seen: &SeenRecord| now.seconds_since(seen.written) < KNOWN.as_secs_f64();
        let records: Vec<NodeRecord> = records.into_iter().filter(known).map(|seen| seen.record).collect();
        let trusted = trusted(&records, log);
        let replicators = records.into_iter().filter(|record| record.role == Role::Replicator).collect();
        Self { created: log.created.clone(), replicators, trusted }
    }

    /// Whether the nodes take this log for the one that they have applied.
    pub fn trust(&self) -> Option<Refusal> {
        self.trusted.clone().err().map(Refusal::Untrusted)
    }

    /// Every node has applied the event, and there are enough of them.
    fn all_have(&self, version: Version) -> bool {
        let has = |record: &NodeRecord| {
            record.stream_created.as_ref() == Some(&self.created)
                && version <= record.version
                && !record.parked_at.contains(&version)
                && record.tells_of_parked(version)
        };
        self.replicators.len() >= HOLDERS && self.replicators.iter().all(has)
    }
}

fn trusted(records: &[NodeRecord], log: &LogState) -> Result<(), String> {
    if records.is_empty() {
        return Err("no node was seen for a day".into());
    }
    for record in records {
        let who = format!("the {} of {}", record.role, record.node);
        match &record.stream_created {
            Some(created) if *created != log.created => {
                return Err(format!("{who} follows another life of it"));
            }
            _ if record.version > log.last => {
                return Err(format!("{who} is at version {}, and it ends with {}", record.version, log.last));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is done with a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Keep,
    /// The log does not name it.
    Unnamed,
    /// The log names it, and the nodes have it.
    Applied,
}

/// On what a decision rests.
pub struct Terms<'a> {
    pub retention: Retention,
    /// How long a blob without a name is left alone.
    pub grace: Duration,
    pub nodes: &'a Nodes,
}

impl Terms<'_> {
    /// Whether it is worth asking the log about a blob of this age.
    pub fn is_candidate(&self, age: f64) -> bool {
        let least = match self.retention {
            Retention::All => self.grace,
            Retention::Applied(least) => least.min(self.grace),
        };
        age >= least.as_secs_f64()
    }

    /// Decides. `named`: the newest event that names it. `wanted`: a node asks for it just now.
    pub fn fate(&self, age: f64, named: Option<Version>, wanted: bool) -> Fate {
        match (named, self.retention) {
            _ if wanted => Fate::Keep,
            (None, _) if age >= self.grace.as_secs_f64() => Fate::Unnamed,
            (Some(version), Retention::Applied(least))
                if age >= least.as_secs_f64() && self.nodes.all_have(version) =>
            {
                Fate::Applied
            }
            _ => Fate::Keep,
        }
    }
}

/// Whether so many without a name are to be expected.
pub fn too_many(unnamed: u64, all: u64) -> Option<Refusal> {
    (unnamed * ONE_IN > all).then_some(Refusal::TooMany(unnamed, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: f64 = 3_600.0;

    fn created(second: i128) -> StreamCreated {
        StreamCreated(Timestamp::from_nanos(second * 1_000_000_000))
    }

    fn log(last: u64) -> LogState {
        let (first, last) = (Version::new(1), Version::new(last));
        LogState { created: created(1), first, last, history: None, now: None }
    }

    fn seen(node: &str, role: Role, version: u64, parked_at: &[u64], age_s: i128) -> SeenRecord {
        let record = serde_json::json!({
            "v": 1, "node": node, "role": role, "boot": "", "instance": "", "state": "ready", "stream_created": created(1),
            "version": version, "head": version, "beyond": [], "pending": 0, "parked": parked_at.len(), "parked_at": parked_at,
            "digest": "", "files": 0, "bytes": 0, "disk_free": null, "http": null, "build": "", "durable": null, "store": "nats",
            "diverged": null, "started": Timestamp::from_nanos(0), "last_error": null,
        });
        let record = serde_json::from_value(record).expect("a record");
        SeenRecord { record, revision: 1, written: Timestamp::from_nanos(-age_s * 1_000_000_000) }
    }

    fn nodes(records: Vec<SeenRecord>) -> Nodes {
        Nodes::of(records, &log(9), Timestamp::from_nanos(0))
    }

    fn fate(nodes: &Nodes, retention: Retention, hours: f64, named: Option<u64>, wanted: bool) -> Fate {
        let terms = Terms { retention, grace: Duration::from_secs(86_400), nodes };
        terms.fate(hours * HOUR, named.map(Version::new), wanted)
    }

    #[test]
    fn what_the_log_names_is_kept_and_what_it_does_not_name_for_the_time_of_grace() {
        let nodes =
            nodes(vec![seen("a", Role::Replicator, 9, &[], 1), seen("b", Role::Replicator, 9, &[], 1)]);
        for (hours, named, wanted, expected) in [
            (1_000.0, Some(1), false, Fate::Keep),
            (23.9, None, false, Fate::Keep),
            (24.0, None, false, Fate::Unnamed),
            (24.0, None, true, Fate::Keep),
        ] {
            assert_eq!(fate(&nodes, Retention::All, hours, named, wanted), expected, "{hours} {named:?}");
        }
        assert_eq!(nodes.trust(), None);
    }

    #[test]
    fn in_transit_a_blob_goes_when_all_nodes_that_count_have_it_and_at_least_two() {
        let applied = Retention::Applied(Duration::ZERO);
        let both = nodes(vec![
            seen("a", Role::Replicator, 9, &[], 1),
            seen("b", Role::Replicator, 5, &[4], 80_000),
            seen("c", Role::Replicator, 1, &[], 90_000),
            seen("a", Role::Watcher, 0, &[], 1),
        ]);
        for (named, expected) in [(3, Fate::Applied), (4, Fate::Keep), (5, Fate::Applied), (6, Fate::Keep)] {
            assert_eq!(fate(&both, applied, 0.0, Some(named), false), expected, "{named}");
        }
        assert_eq!(fate(&both, applied, 0.0, Some(3), true), Fate::Keep, "a node asks for it");
        assert_eq!(fate(&both, applied, 0.0, None, false), Fate::Keep, "the time of grace is for these, too");
        let week = Retention::Applied(Duration::from_secs(7 * 86_400));
        assert_eq!(fate(&both, week, 167.0, Some(3), false), Fate::Keep);
        assert_eq!(fate(&both, week, 168.0, Some(3), false), Fate::Applied);
        let alone = nodes(vec![seen("a", Role::Replicator, 9, &[], 1)]);
        assert_eq!(fate(&alone, applied, 1_000.0, Some(3), false), Fate::Keep);
    }

    #[test]
    fn a_log_that_nodes_do_not_follow_is_not_trusted() {
        for (records, trusted) in [
            (vec![], false),
            (vec![seen("a", Role::Watcher, 9, &[], 1)], true),
            (vec![seen("a", Role::Watcher, 10, &[], 1)], false),
            (vec![seen("a", Role::Watcher, 10, &[], 90_000), seen("b", Role::Watcher, 9, &[], 1)], true),
        ] {
            assert_eq!(nodes(records.clone()).trust().is_none(), trusted, "{records:?}");
        }
        let mut other = seen("a", Role::Replicator, 3, &[], 1);
        other.record.stream_created = Some(created(2));
        assert!(nodes(vec![other]).trust().is_some());
    }

    #[test]
    fn more_than_one_in_ten_without_a_name_is_too_many() {
        for (unnamed, all, refused) in
            [(0, 0, false), (0, 9, false), (1, 9, true), (1, 10, false), (11, 100, true)]
        {
            assert_eq!(too_many(unnamed, all).is_some(), refused, "{unnamed} of {all}");
        }
    }
}
