//! What the records of all nodes say together: who is down, and whether the nodes have the same files. Pure.

use super::{DOWN, NodeRecord, NodeRunState, Role, SeenRecord};
use crate::{event::Version, index::Digest, names::NodeName, time::Timestamp};
use std::collections::BTreeMap;

/// All nodes of a mirror at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// Processes that were seen within 15 s.
    pub processes_up: u64,
    /// Processes that were not.
    pub processes_down: u64,
    /// Nodes of which no process was seen.
    pub nodes_down: u64,
    /// All nodes that have a record.
    pub nodes: u64,
}

impl Survey {
    /// Judges ages by the broker's clock.
    pub fn of(records: &[SeenRecord], now: Timestamp) -> Self {
        let mut nodes: BTreeMap<&NodeName, bool> = BTreeMap::new();
        let mut processes_up = 0;
        for seen in records {
            let up = !is_down(seen, now);
            processes_up += u64::from(up);
            *nodes.entry(&seen.record.node).or_default() |= up;
        }
        Self {
            processes_up,
            processes_down: records.len() as u64 - processes_up,
            nodes_down: nodes.values().filter(|up| !**up).count() as u64,
            nodes: nodes.len() as u64,
        }
    }

    /// More than half of the nodes are down.
    pub fn is_most_down(&self) -> bool {
        self.nodes_down * 2 > self.nodes
    }
}

/// A process that was not seen for 15 s.
pub fn is_down(seen: &SeenRecord, now: Timestamp) -> bool {
    now.seconds_since(seen.written) > DOWN.as_secs_f64()
}

/// How the digest of one node is to those of the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// There is no other at the same version of the same log that has nothing unfinished.
    Alone,
    /// It is that of most.
    Equal {
        /// Who has the same.
        with: Vec<NodeName>,
    },
    /// Most of the others have another.
    Differs {
        /// By how much; it stays the same while all go on, until what differs is mended.
        by: Digest,
        /// Those.
        from: Vec<NodeName>,
    },
}

/// Compares the digest of a node with those it can be compared with: at the same version of the same log, with nothing applied past it and nothing parked.
pub fn compare(records: &[SeenRecord], now: Timestamp, me: &NodeName) -> Comparison {
    let own = |seen: &&SeenRecord| seen.record.node == *me && seen.record.role == Role::Replicator;
    let Some((mine, at)) = records.iter().find(own).and_then(|seen| moment(seen, now)) else {
        return Comparison::Alone;
    };
    let mut groups: BTreeMap<[u8; 32], Vec<NodeName>> = BTreeMap::new();
    for seen in records.iter().filter(|seen| seen.record.node != *me) {
        if let Some((digest, theirs)) = moment(seen, now)
            && theirs == at
        {
            groups.entry(digest.raw()).or_default().push(seen.record.node.clone());
        }
    }
    let with = groups.remove(&mine.raw()).unwrap_or_default();
    match groups.into_iter().max_by_key(|(_, nodes)| nodes.len()) {
        // Where as many have this one as have another, nobody can tell who is wrong: both look.
        Some((theirs, from)) if from.len() > with.len() => {
            Comparison::Differs { by: mine.less(Digest::from_raw(theirs)), from }
        }
        None if with.is_empty() => Comparison::Alone,
        _ => Comparison::Equal { with },
    }
}

/// The digest of a replicator with nothing unfinished, and the moment of the log that it is of.
fn moment(seen: &SeenRecord, now: Timestamp) -> Option<(Digest, (String, Version))> {
    let record = &seen.record;
    let is_whole = is_settled(record) && !is_down(seen, now);
    let created = record.stream_created.as_ref().filter(|_| is_whole)?;
    Some((Digest::from_hex(&record.digest)?, (created.to_string(), record.version)))
}

/// A replicator that has applied all of the log that it knows of. A degraded one may have, too: that is what it says when it has diverged, or when most nodes are down.
pub fn is_settled(record: &NodeRecord) -> bool {
    record.role == Role::Replicator
        && matches!(record.state, NodeRunState::Ready | NodeRunState::Degraded)
        && record.version >= record.head
        && record.beyond.is_empty()
        && record.pending == 0
        && record.parked == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::ContentHash;

    const NOW: i128 = 100_000_000_000;

    fn digest(path: &str) -> Digest {
        let mut digest = Digest::default();
        if !path.is_empty() {
            digest.add(&path.parse().expect("a path"), ContentHash::of_nothing());
        }
        digest
    }

    fn seen(node: &str, change: impl FnOnce(&mut NodeRecord)) -> SeenRecord {
        let json = serde_json::json!({
            "v": 1, "node": node, "role": "replicator", "boot": "", "instance": "", "state": "ready", "version": 9, "head": 9,
            "stream_created": "2026-01-01T00:00:00Z", "beyond": [], "pending": 0, "parked": 0, "digest": digest("").to_string(),
            "files": 0, "bytes": 0, "build": "", "store": "nats", "started": "2026-01-01T00:00:00Z",
        });
        let mut record: NodeRecord = serde_json::from_value(json).expect("a record");
        change(&mut record);
        SeenRecord { record, revision: 1, written: Timestamp::from_nanos(NOW) }
    }

    fn other(record: &mut NodeRecord) {
        record.digest = digest("other").to_string();
    }

    fn compared(records: &[SeenRecord]) -> Comparison {
        compare(records, Timestamp::from_nanos(NOW), &"a".parse().expect("a name"))
    }

    fn names(names: &[&str]) -> Vec<NodeName> {
        names.iter().map(|name| name.parse().expect("a name")).collect()
    }

    #[test]
    fn most_are_right_and_of_two_both_look() {
        let by = digest("other").less(digest(""));
        let same = |node| seen(node, |_| {});
        let differs = |by, from: &[&str]| Comparison::Differs { by, from: names(from) };
        for (records, expected) in [
            (vec![same("a")], Comparison::Alone),
            (vec![same("a"), same("b")], Comparison::Equal { with: names(&["b"]) }),
            (vec![seen("a", other), same("b")], differs(by, &["b"])),
            (vec![same("a"), seen("b", other)], differs(digest("").less(digest("other")), &["b"])),
            (vec![seen("a", other), same("b"), same("c")], differs(by, &["b", "c"])),
            (vec![same("a"), seen("b", other), same("c")], Comparison::Equal { with: names(&["c"]) }),
        ] {
            assert_eq!(compared(&records), expected, "{records:?}");
        }
    }

    #[test]
    fn only_what_has_nothing_unfinished_at_the_same_version_is_compared() {
        let changes: [fn(&mut NodeRecord); 9] = [
            |r| r.version = Version::new(8),
            |r| r.head = Version::new(10),
            |r| r.pending = 1,
            |r| r.parked = 1,
            |r| r.beyond = vec![(Version::new(11), Version::new(11))],
            |r| r.state = NodeRunState::Syncing,
            |r| r.stream_created = None,
            |r| r.role = Role::Watcher,
            |r| r.digest.clear(),
        ];
        for change in changes {
            let unlike = |node| {
                seen(node, |record| {
                    other(record);
                    change(record);
                })
            };
            assert_eq!(compared(&[seen("a", |_| {}), unlike("b")]), Comparison::Alone);
            assert_eq!(compared(&[unlike("a"), seen("b", |_| {})]), Comparison::Alone);
        }
        let gone = SeenRecord { written: Timestamp::from_nanos(NOW - 16_000_000_000), ..seen("b", other) };
        assert_eq!(compared(&[seen("a", |_| {}), gone]), Comparison::Alone);
        // What diverged says so by being degraded, and is compared all the same.
        let degraded = seen("b", |record| record.state = NodeRunState::Degraded);
        assert!(matches!(compared(&[seen("a", |_| {}), degraded]), Comparison::Equal { .. }));
    }

    #[test]
    fn a_node_is_down_when_none_of_its_processes_was_seen_and_more_than_half_is_most() {
        let at = |node, role, age: i128| SeenRecord {
            written: Timestamp::from_nanos(NOW - age * 1_000_000_000),
            ..seen(node, |record| record.role = role)
        };
        let survey = |records: &[SeenRecord]| Survey::of(records, Timestamp::from_nanos(NOW));
        let (w, r) = (Role::Watcher, Role::Replicator);
        let half = [at("a", w, 0), at("a", r, 99), at("b", r, 16), at("b", w, 20)];
        let seen = survey(&half);
        assert_eq!((seen.processes_up, seen.processes_down, seen.nodes_down, seen.nodes), (1, 3, 1, 2));
        assert!(!seen.is_most_down());
        assert!(survey(&[at("a", w, 0), at("b", r, 16), at("c", r, 99)]).is_most_down());
        assert!(!survey(&[]).is_most_down());
    }
}
