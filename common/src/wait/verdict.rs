//! Who has an event, who has not and why, and whether that is enough. Pure.

use crate::{
    event::{StreamCreated, Version},
    names::NodeName,
    nodes::{NodeRecord, NodeRunState, Role, SeenRecord, is_down},
    time::Timestamp,
};
use serde_json::{Value, json};
use std::{fmt, str::FromStr};

/// On how many nodes it is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Enough {
    /// On all that live.
    All,
    /// On so many that live, at least 1.
    Nodes(u64),
}

impl FromStr for Enough {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            _ => match text.parse() {
                Ok(nodes @ 1..) => Ok(Self::Nodes(nodes)),
                _ => Err("neither all nor a number from 1 on".into()),
            },
        }
    }
}

/// What the log says of what is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// It is this event.
    Event(Version),
    /// There is no such event yet.
    Unpublished,
    /// The newest event of the path takes the file away.
    Removed(Version),
}

/// Why a node counts as one that has it not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// The log has no such event.
    Unpublished,
    /// The newest event of the path takes the file away.
    Removed,
    /// Not seen for so many seconds.
    Down(u64),
    /// It was stopped.
    Stopped,
    /// It follows another life of the log.
    OtherLog,
    /// The event cannot be applied there.
    Parked,
    /// It has more parked events than its record names.
    MayBeParked(u64),
    /// It is at this version, and may say why.
    Behind(Version, Option<String>),
}

impl Why {
    /// In one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unpublished => "unpublished",
            Self::Removed => "removed",
            Self::Down(_) => "down",
            Self::Stopped => "stopped",
            Self::OtherLog => "other_log",
            Self::Parked => "parked",
            Self::MayBeParked(_) => "may_be_parked",
            Self::Behind(..) => "behind",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpublished => write!(f, "the log has no such event yet"),
            Self::Removed => write!(f, "the newest event of the path removes it"),
            Self::Down(seconds) => write!(f, "not seen for {seconds} s"),
            Self::Stopped => write!(f, "stopped"),
            Self::OtherLog => write!(f, "follows another life of the log"),
            Self::Parked => write!(f, "the event cannot be applied there (`replicator parked` says why)"),
            Self::MayBeParked(count) => write!(f, "{count} events cannot be applied there; this may be one"),
            Self::Behind(version, None) => write!(f, "not applied yet; at version {version}"),
            Self::Behind(version, Some(error)) => write!(f, "not applied yet; at version {version}: {error}"),
        }
    }
}

/// Whether to go on waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is there.
    There,
    /// Not yet.
    NotYet,
    /// It will not be unless somebody does something: it is parked where it is needed.
    Parked,
}

/// Who has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Whether to go on waiting.
    pub outcome: Outcome,
    /// The event; none where the log has none.
    pub version: Option<Version>,
    /// Live nodes that have applied it.
    pub have: Vec<NodeName>,
    /// All others, dead ones among them.
    pub missing: Vec<(NodeName, Why)>,
}

impl Answer {
    /// `version`, `have`, `missing`.
    pub fn json(&self) -> Value {
        let missing = |(node, why): &(NodeName, Why)| json!({ "node": node, "reason": why.as_str(), "text": why.to_string() });
        json!({
            "version": self.version, "have": self.have, "missing": self.missing.iter().map(missing).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let have: Vec<&str> = self.have.iter().map(NodeName::as_str).collect();
        match self.version {
            Some(version) => write!(f, "version {version} is on {} nodes: {}", have.len(), have.join(", "))?,
            None => write!(f, "the log has no such event")?,
        }
        self.missing.iter().try_for_each(|(node, why)| write!(f, "\n{node}: {why}"))
    }
}

/// Judges by the records of the replicators: a node without one has no files of others. `created`: the life of the log that `target` is of.
pub fn judge(
    target: Target,
    enough: Enough,
    created: &StreamCreated,
    records: &[SeenRecord],
    now: Timestamp,
) -> Answer {
    let (mut have, mut missing) = (Vec::new(), Vec::new());
    for seen in records.iter().filter(|seen| seen.record.role == Role::Replicator) {
        let node = seen.record.node.clone();
        match lacks(target, created, seen, now) {
            None => have.push(node),
            Some(why) => missing.push((node, why)),
        }
    }
    let counts = |which: fn(&Why) -> bool| missing.iter().filter(|(_, why)| which(why)).count();
    let dead = counts(|why| matches!(why, Why::Down(_) | Why::Stopped));
    let parked = counts(|why| *why == Why::Parked);
    let there = match enough {
        Enough::All => !have.is_empty() && missing.len() == dead,
        Enough::Nodes(nodes) => have.len() as u64 >= nodes,
    };
    // A dead node may come back and have it.
    let may = (have.len() + missing.len() - parked) as u64;
    let hopeless = parked > 0 && !matches!(enough, Enough::Nodes(nodes) if may >= nodes);
    let outcome = match (there, hopeless) {
        (true, _) => Outcome::There,
        (false, true) => Outcome::Parked,
        (false, false) => Outcome::NotYet,
    };
    let version = match target {
        Target::Event(version) | Target::Removed(version) => Some(version),
        Target::Unpublished => None,
    };
    Answer { outcome, version, have, missing }
}

/// Why this node counts as one that has it not; `None`: it lives and has it.
fn lacks(target: Target, created: &StreamCreated, seen: &SeenRecord, now: Timestamp) -> Option<Why> {
    let record = &seen.record;
    if record.state == NodeRunState::Stopping {
        return Some(Why::Stopped);
    }
    if is_down(seen, now) {
        return Some(Why::Down(now.seconds_since(seen.written) as u64));
    }
    let version = match target {
        Target::Event(version) => version,
        Target::Unpublished => return Some(Why::Unpublished),
        Target::Removed(_) => return Some(Why::Removed),
    };
    match &record.stream_created {
        None => return Some(behind(record)),
        Some(theirs) if theirs != created => return Some(Why::OtherLog),
        Some(_) => {}
    }
    // The version passes what is parked.
    if record.parked_at.contains(&version) {
        return Some(Why::Parked);
    }
    let within = |(from, to): &(Version, Version)| (*from..=*to).contains(&version);
    if version > record.version && !record.beyond.iter().any(within) {
        return Some(behind(record));
    }
    (!record.tells_of_parked(version)).then_some(Why::MayBeParked(record.parked))
}

fn behind(record: &NodeRecord) -> Why {
    let error = record.last_error.clone().filter(|_| record.state == NodeRunState::Degraded);
    Why::Behind(record.version, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i128 = 100_000_000_000;

    fn v(version: u64) -> Version {
        Version::new(version)
    }

    fn created(seconds: i128) -> StreamCreated {
        StreamCreated(Timestamp::from_nanos(seconds * 1_000_000_000))
    }

    /// A replicator at version 9 that was seen just now.
    fn node(name: &str, change: impl FnOnce(&mut NodeRecord)) -> SeenRecord {
        let json = json!({
            "v": 1, "node": name, "role": "replicator", "boot": "", "instance": "", "state": "ready", "version": 9, "head": 9,
            "stream_created": created(1), "beyond": [], "pending": 0, "parked": 0, "digest": "", "files": 0, "bytes": 0,
            "build": "", "store": "nats", "started": created(1),
        });
        let mut record: NodeRecord = serde_json::from_value(json).expect("a record");
        change(&mut record);
        SeenRecord { record, revision: 1, written: Timestamp::from_nanos(NOW) }
    }

    fn well(name: &str) -> SeenRecord {
        node(name, |_| {})
    }

    fn at(name: &str, version: u64) -> SeenRecord {
        node(name, |record| record.version = v(version))
    }

    fn down(name: &str) -> SeenRecord {
        SeenRecord { written: Timestamp::from_nanos(NOW - 16_000_000_000), ..well(name) }
    }

    fn parked(name: &str, versions: &[u64], count: u64) -> SeenRecord {
        node(name, |record| {
            record.parked = count;
            record.parked_at = versions.iter().copied().map(v).collect();
        })
    }

    fn judged(target: Target, enough: Enough, records: &[SeenRecord]) -> Answer {
        judge(target, enough, &created(1), records, Timestamp::from_nanos(NOW))
    }

    #[test]
    fn a_node_has_what_it_has_applied_and_else_there_is_a_reason() {
        let in_backlog = |record: &mut NodeRecord| {
            record.version = v(2);
            record.beyond = vec![(v(5), v(6)), (v(8), v(9))];
        };
        for (record, version, expected) in [
            (well("a"), 9, None),
            (well("a"), 10, Some(Why::Behind(v(9), None))),
            // Its backlog is no reason.
            (node("a", in_backlog), 8, None),
            (node("a", in_backlog), 9, None),
            (node("a", in_backlog), 7, Some(Why::Behind(v(2), None))),
            (node("a", in_backlog), 10, Some(Why::Behind(v(2), None))),
            (down("a"), 9, Some(Why::Down(16))),
            (node("a", |r| r.state = NodeRunState::Stopping), 9, Some(Why::Stopped)),
            // It has not read any log yet.
            (node("a", |r| r.stream_created = None), 9, Some(Why::Behind(v(9), None))),
            (node("a", |r| r.stream_created = Some(created(2))), 9, Some(Why::OtherLog)),
            (parked("a", &[9, 7], 2), 9, Some(Why::Parked)),
            (parked("a", &[9, 7], 2), 8, None),
            (parked("a", &[9, 7], 2), 6, None),
            // Of the third it says nothing but that it is below the second.
            (parked("a", &[9, 7], 3), 8, None),
            (parked("a", &[9, 7], 3), 6, Some(Why::MayBeParked(3))),
            (parked("a", &[], 1), 9, Some(Why::MayBeParked(1))),
        ] {
            let found = lacks(Target::Event(v(version)), &created(1), &record, Timestamp::from_nanos(NOW));
            assert_eq!(found, expected, "{version} of {record:?}");
        }
        let says_why = node("a", |record| {
            (record.state, record.last_error) = (NodeRunState::Degraded, Some("no room".into()));
        });
        let why = lacks(Target::Event(v(10)), &created(1), &says_why, Timestamp::from_nanos(NOW));
        assert!(why.is_some_and(|why| why.to_string().contains("no room")));
    }

    #[test]
    fn it_is_enough_when_all_that_live_have_it_or_as_many_as_asked() {
        use Enough::{All, Nodes};
        use Outcome::{NotYet, Parked, There};
        let stuck = |name| parked(name, &[9], 1);
        for (enough, records, expected) in [
            (All, vec![], NotYet),
            (All, vec![well("a")], There),
            (All, vec![well("a"), at("b", 8)], NotYet),
            (All, vec![well("a"), down("b")], There),
            (All, vec![down("a"), down("b")], NotYet),
            (All, vec![well("a"), stuck("b")], Parked),
            (All, vec![well("a"), at("b", 8), stuck("c")], Parked),
            (Nodes(1), vec![well("a"), at("b", 8)], There),
            (Nodes(1), vec![well("a"), stuck("b")], There),
            (Nodes(2), vec![well("a"), at("b", 8)], NotYet),
            // It may come back.
            (Nodes(2), vec![well("a"), down("b")], NotYet),
            (Nodes(2), vec![well("a"), down("b"), stuck("c")], NotYet),
            (Nodes(2), vec![well("a"), stuck("b")], Parked),
            // There may be more nodes soon.
            (Nodes(3), vec![well("a"), well("b")], NotYet),
        ] {
            let answer = judged(Target::Event(v(9)), enough, &records);
            assert_eq!(answer.outcome, expected, "{enough:?} {answer:?}");
        }
        let watcher = node("w", |record| record.role = Role::Watcher);
        let answer = judged(Target::Event(v(9)), All, &[well("a"), watcher]);
        assert_eq!((answer.outcome, answer.have.len(), answer.missing.len()), (There, 1, 0));
    }

    #[test]
    fn what_the_log_does_not_have_no_node_has() {
        for (target, version, word) in
            [(Target::Unpublished, None, "unpublished"), (Target::Removed(v(4)), Some(v(4)), "removed")]
        {
            let answer = judged(target, Enough::All, &[well("a"), down("b")]);
            assert_eq!((answer.outcome, answer.version), (Outcome::NotYet, version));
            let json = answer.json();
            assert_eq!(json["have"], json!([]));
            assert_eq!(
                (&json["missing"][0]["node"], &json["missing"][0]["reason"]),
                (&json!("a"), &json!(word))
            );
            assert_eq!(json["missing"][1]["reason"], "down");
        }
    }

    #[test]
    fn how_many_nodes_is_all_or_a_number_from_1_on() {
        for (text, expected) in [
            ("all", Some(Enough::All)),
            ("1", Some(Enough::Nodes(1))),
            ("0", None),
            ("-1", None),
            ("", None),
            ("All", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }
}
