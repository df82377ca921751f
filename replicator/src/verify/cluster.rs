//! `replicator verify --cluster`: whether all nodes have the same files, by their digests; which paths differ is asked of the nodes, which look for
//! themselves when they have diverged. It needs neither this node's folder nor a list of its files.

use common::{
    broker::BrokerError,
    event::Version,
    exit::{Exit, Failure},
    names::NodeName,
    nodes::{DOWN, Diverged, NodeBucket, NodeRecord, Role, SeenRecord, is_down, is_settled},
    settings::Settings,
    startup::connect_command,
    time::Timestamp,
};
use serde_json::{Value, json};
use std::{fmt, time::Duration};
use tokio::time::{Instant, sleep};

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the records say.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    /// All have the same.
    Equal { nodes: u64, files: u64, version: Version },
    /// These say that they differ, and have looked for what does.
    Differs(Vec<(NodeName, Diverged)>),
    /// It cannot be said yet, because of these.
    Unknown(Vec<(NodeName, Why)>),
}

/// Why a node cannot be compared.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Why {
    Down,
    /// It has applied the log up to here, and the newest event is there.
    Behind(Version, Version),
    Parked(u64),
    Busy(u64),
    /// It follows another life of the log.
    OtherLog,
    /// It has another digest than most, and has not found out what differs yet.
    Looking,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down => write!(f, "has not been seen for {} s", DOWN.as_secs()),
            Self::Behind(version, head) => write!(f, "is at version {version}, the newest event is {head}"),
            Self::Parked(count) => {
                write!(f, "has {count} events that cannot be applied there (`replicator parked`)")
            }
            Self::Busy(count) => write!(f, "has {count} events in work"),
            Self::OtherLog => write!(f, "follows another life of the log"),
            Self::Looking => write!(f, "has not the same files as the others, and has not said which yet"),
        }
    }
}

/// Looks until something can be said, for `limit` at most.
pub async fn run(settings: &Settings, limit: Duration, as_json: bool) -> Result<Exit, Failure> {
    let broker = connect_command(settings, "replicator-verify").await?;
    let looked = async {
        let bucket = NodeBucket::attach(broker.client().clone(), &settings.mirror).await?;
        let began = Instant::now();
        loop {
            let records = replicators(&bucket).await?;
            let verdict = judge(&records, bucket.now().await?);
            if !matches!(verdict, Verdict::Unknown(_)) || began.elapsed() >= limit {
                return Ok::<_, BrokerError>((verdict, records));
            }
            sleep(LOOK_AGAIN).await;
        }
    }
    .await;
    broker.shutdown().await;
    let (verdict, records) = looked?;
    say(&verdict, &records, as_json);
    Ok(if matches!(verdict, Verdict::Equal { .. }) { Exit::Done } else { Exit::Failed })
}

async fn replicators(bucket: &NodeBucket) -> Result<Vec<SeenRecord>, BrokerError> {
    let mut records = bucket.all().await?;
    records.retain(|seen| seen.record.role == Role::Replicator);
    Ok(records)
}

fn judge(records: &[SeenRecord], now: Timestamp) -> Verdict {
    let head = records.iter().map(|seen| seen.record.version.max(seen.record.head)).max().unwrap_or_default();
    let why = |seen: &SeenRecord| {
        let record = &seen.record;
        if is_down(seen, now) {
            Some(Why::Down)
        } else if record.stream_created != records[0].record.stream_created {
            Some(Why::OtherLog)
        } else if record.parked > 0 {
            Some(Why::Parked(record.parked))
        } else if record.version < head {
            Some(Why::Behind(record.version, head))
        } else {
            (!is_settled(record)).then_some(Why::Busy(record.pending))
        }
    };
    let unknown: Vec<_> =
        records.iter().filter_map(|seen| Some((seen.record.node.clone(), why(seen)?))).collect();
    let digests =
        |record: &NodeRecord| records.iter().filter(|seen| seen.record.digest == record.digest).count();
    let equal = records.iter().all(|seen| digests(&seen.record) == records.len());
    if let (true, true, Some(first)) = (unknown.is_empty(), equal, records.first()) {
        let NodeRecord { files, version, .. } = first.record;
        return Verdict::Equal { nodes: records.len() as u64, files, version };
    }
    let looked = |seen: &SeenRecord| {
        let diverged = seen.record.diverged.clone().filter(|diverged| diverged.checked.is_some())?;
        Some((seen.record.node.clone(), diverged))
    };
    let differing: Vec<_> = records.iter().filter_map(looked).collect();
    if !differing.is_empty() {
        return Verdict::Differs(differing);
    }
    if !unknown.is_empty() || records.is_empty() {
        return Verdict::Unknown(unknown);
    }
    let most = records.iter().map(|seen| digests(&seen.record)).max().unwrap_or_default();
    let few = records.iter().filter(|seen| digests(&seen.record) < most || most * 2 <= records.len());
    Verdict::Unknown(few.map(|seen| (seen.record.node.clone(), Why::Looking)).collect())
}

fn say(verdict: &Verdict, records: &[SeenRecord], as_json: bool) {
    if as_json {
        println!("{}", to_json(verdict, records));
        return;
    }
    match verdict {
        Verdict::Equal { nodes: 1, files, version } => {
            println!(
                "one node, with {files} files at version {version}: there is no other to compare it with"
            );
        }
        Verdict::Equal { nodes, files, version } => {
            println!("{nodes} nodes have the same {files} files, at version {version}");
            for NodeRecord { node, diverged, .. } in records.iter().map(|seen| &seen.record) {
                if let Some(diverged) = diverged {
                    println!(
                        "{node} differed until just now in {} paths{}",
                        diverged.differing,
                        listed(diverged)
                    );
                }
            }
        }
        Verdict::Differs(nodes) => {
            for (node, diverged) in nodes {
                let from: Vec<_> = diverged.from.iter().map(NodeName::to_string).collect();
                let (count, paths) = (diverged.differing, listed(diverged));
                println!(
                    "{node} differs from {}: {count} of its paths are not as the log says{paths}",
                    from.join(", ")
                );
            }
        }
        Verdict::Unknown(nodes) if nodes.is_empty() => println!("no node has a replicator"),
        Verdict::Unknown(nodes) => {
            println!("whether all nodes have the same files cannot be said:");
            nodes.iter().for_each(|(node, why)| println!("{node} {why}"));
        }
    }
}

fn listed(diverged: &Diverged) -> String {
    if diverged.paths.is_empty() {
        return String::new();
    }
    format!(":\n  {}", diverged.paths.join("\n  "))
}

fn to_json(verdict: &Verdict, records: &[SeenRecord]) -> Value {
    let why = |record: &NodeRecord| match verdict {
        Verdict::Unknown(nodes) => {
            nodes.iter().find(|(node, _)| *node == record.node).map(|(_, why)| why.to_string())
        }
        _ => None,
    };
    let nodes = records.iter().map(|seen| {
        let NodeRecord { node, version, digest, files, diverged, .. } = &seen.record;
        json!({
            "node": node, "version": version, "digest": digest, "files": files, "diverged": diverged, "why": why(&seen.record),
        })
    });
    let equal = match verdict {
        Verdict::Equal { .. } => Value::from(true),
        Verdict::Differs(_) => Value::from(false),
        Verdict::Unknown(_) => Value::Null,
    };
    json!({ "equal": equal, "nodes": nodes.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(node: &str, digest: &str, change: impl FnOnce(&mut NodeRecord)) -> SeenRecord {
        let json = json!({
            "v": 1, "node": node, "role": "replicator", "boot": "", "instance": "", "state": "ready", "version": 9, "head": 9,
            "stream_created": "2026-01-01T00:00:00Z", "beyond": [], "pending": 0, "parked": 0, "digest": digest, "files": 3, "bytes": 0,
            "build": "", "store": "nats", "started": "2026-01-01T00:00:00Z",
        });
        let mut record: NodeRecord = serde_json::from_value(json).expect("a record");
        change(&mut record);
        SeenRecord { record, revision: 1, written: Timestamp::from_nanos(0) }
    }

    fn same(node: &str) -> SeenRecord {
        seen(node, "d", |_| {})
    }

    fn name(node: &str) -> NodeName {
        node.parse().expect("a name")
    }

    fn judged(records: &[SeenRecord]) -> Verdict {
        judge(records, Timestamp::from_nanos(15_000_000_000))
    }

    #[test]
    fn nodes_that_can_be_compared_and_have_one_digest_are_equal() {
        let equal = |nodes| Verdict::Equal { nodes, files: 3, version: Version::new(9) };
        assert_eq!(judged(&[same("a"), same("b")]), equal(2));
        assert_eq!(judged(&[same("a")]), equal(1));
        assert_eq!(judged(&[]), Verdict::Unknown(Vec::new()));
    }

    #[test]
    fn who_cannot_be_compared_is_named_with_the_reason() {
        let later =
            |record: &mut NodeRecord| (record.version, record.head) = (Version::new(12), Version::new(12));
        let down = SeenRecord { written: Timestamp::from_nanos(-1_000_000_000), ..same("a") };
        for (record, why) in [
            (down, Why::Down),
            (seen("a", "d", |record| record.parked = 2), Why::Parked(2)),
            (seen("a", "d", |record| record.pending = 3), Why::Busy(3)),
            (
                seen("a", "d", |record| record.head = Version::new(10)),
                Why::Behind(Version::new(9), Version::new(10)),
            ),
        ] {
            assert_eq!(judged(&[record]), Verdict::Unknown(vec![(name("a"), why)]));
        }
        let behind = Why::Behind(Version::new(9), Version::new(12));
        assert_eq!(judged(&[same("a"), seen("b", "e", later)]), Verdict::Unknown(vec![(name("a"), behind)]));
        let other = seen("b", "d", |record| record.stream_created = None);
        assert_eq!(judged(&[same("a"), other]), Verdict::Unknown(vec![(name("b"), Why::OtherLog)]));
    }

    #[test]
    fn a_node_that_differs_is_waited_for_until_it_has_looked() {
        let looking =
            |nodes: &[&str]| Verdict::Unknown(nodes.iter().map(|node| (name(node), Why::Looking)).collect());
        let other = seen("c", "e", |_| {});
        assert_eq!(judged(&[same("a"), same("b"), other.clone()]), looking(&["c"]));
        assert_eq!(judged(&[same("a"), other]), looking(&["a", "c"]));
        let mut diverged = Diverged {
            since: Timestamp::from_nanos(0),
            from: vec![name("a")],
            checked: None,
            differing: 1,
            paths: vec!["x".into()],
        };
        let told = |diverged: &Diverged| seen("c", "e", |record| record.diverged = Some(diverged.clone()));
        assert_eq!(judged(&[same("a"), same("b"), told(&diverged)]), looking(&["c"]));
        diverged.checked = Some(Timestamp::from_nanos(0));
        let found = Verdict::Differs(vec![(name("c"), diverged.clone())]);
        assert_eq!(judged(&[same("a"), same("b"), told(&diverged)]), found);
        // It has been mended, and not looked at the others since.
        let mended = seen("c", "d", |record| record.diverged = Some(diverged));
        assert!(matches!(judged(&[same("a"), mended]), Verdict::Equal { .. }));
    }
}
