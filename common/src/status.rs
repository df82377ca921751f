//! What the nodes of a mirror say of themselves, as a table that fits 80 columns and as JSON.

mod command;

pub use command::{Wanted, command};

use crate::{
    event::Version,
    exit::Exit,
    index::{Coverage, Index, IndexError, Scrub},
    nodes::{NodeRecord, NodeRunState, Role, SeenRecord, Underway, is_down},
    time::Timestamp,
};
use serde::Serialize;
use std::fmt;

/// Columns of a terminal that the table fits.
const COLUMNS: usize = 80;

/// One record with its age.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct NodeStatus {
    /// What the process said last.
    #[serde(flatten)]
    pub record: NodeRecord,
    /// Seconds since, by the broker's clock.
    pub age: f64,
    /// It has not been seen for 15 s.
    pub down: bool,
    /// Events between its version and the head of the log.
    pub lag: u64,
}

/// What this machine knows without the broker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LocalStatus {
    /// The node's version.
    pub version: Version,
    /// Paths known as present, of whatever life of the log.
    pub files: u64,
    /// The life of the log that the index trusts.
    pub log: Option<LogLife>,
    /// Offers that stand.
    pub offers: u64,
    /// Paths that the watcher has still to look at: what happened while the broker was away.
    pub outbox: u64,
    /// Removals held for an operator.
    pub held: u64,
    /// Folders that the watcher has seen, and how many of them inotify watches; `null` before its first scan.
    pub coverage: Option<CoverageStatus>,
    /// Replacements of unknown files held for an operator.
    pub held_replacements: u64,
    /// Paths whose content is to be brought to the disk again.
    pub repairs: u64,
    /// How far the background check of cold files is.
    pub scrub: ScrubStatus,
    /// Events that cannot be applied here.
    pub parked: Vec<ParkedStatus>,
    /// Lost conflicts in the trash.
    pub lost_conflicts: Vec<LostStatus>,
}

/// How much of the tree is watched; the rest is polled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CoverageStatus {
    /// Folders seen.
    pub folders: u64,
    /// Of them watched.
    pub watched: u64,
}

/// Since when the index trusts the log, and what had been found at the one before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LogLife {
    /// When the log was read from its start.
    pub began: Timestamp,
    /// Why.
    pub why: String,
}

/// The background check of cold files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ScrubStatus {
    /// When the last whole pass ended.
    pub finished: Option<Timestamp>,
    /// When the pass under way began; none: it waits until the next one is due.
    pub started: Option<Timestamp>,
    /// The last path that it has looked at.
    pub position: Option<String>,
    /// How much of the index that is.
    pub percent: u64,
    /// Files that it found rotten.
    pub rotten: u64,
}

impl ScrubStatus {
    fn of(scrub: &Scrub, files: u64) -> Self {
        let Scrub { started, finished, files: passed, rotten, ref position } = *scrub;
        let percent = passed.saturating_mul(100).checked_div(files).unwrap_or(0).min(100);
        Self { finished, started, position: position.as_ref().map(ToString::to_string), percent, rotten }
    }
}

/// A parked event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ParkedStatus {
    /// Its position.
    pub version: Version,
    /// Its path, where the payload names one; else its subject.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// A lost conflict.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LostStatus {
    /// The path that it had.
    pub path: String,
    /// Where it is, below the root.
    pub trash: String,
    /// Its content, where known.
    pub sha256: Option<String>,
    /// Its length.
    pub size: u64,
}

impl LocalStatus {
    /// Reads it from the index.
    pub fn read(index: &Index) -> Result<Self, IndexError> {
        let lost = |entry: crate::index::Trashed| LostStatus {
            trash: format!(".mirror/trash/{}/{}", entry.id, entry.path),
            path: entry.path.to_string(),
            sha256: entry.sha256.map(|hash| hash.to_string()),
            size: entry.stat.size,
        };
        let parked = |parked: crate::index::Parked| ParkedStatus {
            version: parked.version,
            path: parked.path.map_or(parked.subject, |path| path.to_string()),
            reason: parked.reason,
        };
        let (files, held) = (index.present_count()?, index.held_count()?);
        Ok(Self {
            version: index.node()?.version,
            files,
            offers: index.offer_count()?,
            outbox: index.outbox_count()?,
            log: index.began()?.map(|(began, why)| LogLife { began, why }),
            held: held.removals,
            held_replacements: held.replacements,
            repairs: index.repair_count()?,
            scrub: ScrubStatus::of(&index.scrub()?, files),
            coverage: index
                .coverage()?
                .map(|Coverage { folders, watched }| CoverageStatus { folders, watched }),
            parked: index.parked()?.into_iter().map(parked).collect(),
            lost_conflicts: index.trash()?.into_iter().filter(|entry| entry.lost).map(lost).collect(),
        })
    }
}

/// The state of a mirror.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Status {
    /// The newest event of the log; `None`: the broker is away.
    pub head: Option<Version>,
    /// All processes that have a record, what is wrong first.
    pub nodes: Vec<NodeStatus>,
    /// This machine's node, when it was asked for.
    pub local: Option<LocalStatus>,
}

impl Status {
    /// Judges records by the broker's clock.
    pub fn new(head: Version, records: Vec<SeenRecord>, now: Timestamp, local: Option<LocalStatus>) -> Self {
        let judge = |seen: SeenRecord| {
            let age = now.seconds_since(seen.written).max(0.0);
            let lag = head.get().saturating_sub(seen.record.version.get());
            let lag = if seen.record.role == Role::Replicator { lag } else { 0 };
            NodeStatus { down: is_down(&seen, now), record: seen.record, age, lag }
        };
        let mut nodes: Vec<NodeStatus> = records.into_iter().map(judge).collect();
        nodes.sort_by_key(NodeStatus::rank);
        Self { head: Some(head), nodes, local }
    }

    /// 0: all is well; 1: a node is not; 3: the broker is away.
    pub fn exit(&self) -> Exit {
        if self.head.is_none() {
            Exit::BrokerAway
        } else if self.nodes.iter().all(NodeStatus::is_well) {
            Exit::Done
        } else {
            Exit::Failed
        }
    }
}

impl NodeStatus {
    /// Its process runs, as far as anybody can tell.
    pub fn lives(&self) -> bool {
        !self.down && self.record.state != NodeRunState::Stopping
    }

    fn is_well(&self) -> bool {
        !self.down && matches!(self.record.state, NodeRunState::Ready | NodeRunState::Syncing)
    }

    /// What is worst comes first.
    fn rank(&self) -> u8 {
        match self.record.state {
            _ if self.down => 0,
            NodeRunState::Degraded => 1,
            NodeRunState::Stopping | NodeRunState::Starting => 2,
            NodeRunState::Syncing => 3,
            NodeRunState::Ready => 4,
        }
    }

    fn state(&self) -> String {
        if self.down { "down".into() } else { self.record.state.to_string() }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(head) = self.head else {
            write!(f, "the broker is away: what follows is what this machine knows by itself")?;
            return self.local.iter().try_for_each(|local| write!(f, "\n{local}"));
        };
        writeln!(
            f,
            "{:<20} {:<10} {:<9} {:>9} {:>7} {:>7} {:>6} {:>5}",
            "NODE", "ROLE", "STATE", "VERSION", "LAG", "PENDING", "PARKED", "SEEN"
        )?;
        for node in &self.nodes {
            let NodeRecord { node: name, role, version, pending, parked, .. } = &node.record;
            let mut name = name.to_string();
            if name.len() > 20 {
                name.truncate(19);
                name.push('~');
            }
            let (state, lag, age) = (node.state(), node.lag, format!("{:.0}s", node.age));
            writeln!(
                f,
                "{name:<20} {role:<10} {state:<9} {version:>9} {lag:>7} {pending:>7} {parked:>6} {age:>5}"
            )?;
            if let Some(Underway { what, percent, left_s }) = &node.record.underway {
                let left = left_s.map(|left| format!(", {} left", duration(left)));
                writeln!(f, "    {what}: {percent} %{}", left.unwrap_or_default())?;
            }
            if let (false, Some(error)) = (node.is_well(), &node.record.last_error) {
                writeln!(f, "    {}", shortened(error, COLUMNS - 4))?;
            }
        }
        write!(f, "head of the log: {head}")?;
        self.local.iter().try_for_each(|local| write!(f, "\n{local}"))
    }
}

/// As people say it: 59 s, 12 min, 3 h.
fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// At most so many characters; the whole of it is in the JSON form.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.into(),
        Some(_) => text.chars().take(most - 1).chain(['…']).collect(),
    }
}

impl fmt::Display for LocalStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this node: version {}, {} files", self.version, self.files)?;
        if let Some(LogLife { began, why }) = &self.log {
            write!(f, "\nthe log was read from its start at {began}:\n    {}", shortened(why, COLUMNS - 4))?;
        }
        if self.offers > 0 {
            write!(f, "\n{} offers stand: what they name is being published", self.offers)?;
        }
        if self.outbox > 0 {
            write!(
                f,
                "\n{} paths in the outbox: the watcher looks at them when the broker is there",
                self.outbox
            )?;
        }
        if let Some(CoverageStatus { folders, watched }) = &self.coverage
            && watched < folders
        {
            write!(f, "\n{watched} of {folders} folders are watched, the others are polled")?;
        }
        if self.held > 0 {
            write!(f, "\n{} removals are held: `watcher approve` publishes them", self.held)?;
        }
        if self.held_replacements > 0 {
            let held = self.held_replacements;
            write!(f, "\n{held} files are held back from being replaced: `watcher approve [--revert]`")?;
        }
        if self.repairs > 0 {
            write!(f, "\n{} files wait to be fetched again", self.repairs)?;
        }
        match (&self.scrub.started, &self.scrub.finished) {
            (Some(_), _) => write!(f, "\nscrub: {} % of this pass", self.scrub.percent)?,
            (None, Some(finished)) => write!(f, "\nscrub: finished {finished}")?,
            (None, None) => {}
        }
        for parked in &self.parked {
            write!(f, "\nparked {} {}: {}", parked.version, parked.path, parked.reason)?;
        }
        for lost in &self.lost_conflicts {
            write!(f, "\nlost conflict {} ({} bytes): {}", lost.path, lost.size, lost.trash)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(node: &str, state: NodeRunState, version: u64) -> SeenRecord {
        let json = serde_json::json!({
            "v": 1, "node": node, "role": "replicator", "boot": "", "instance": "", "state": state, "version": version, "head": version,
            "beyond": [], "pending": 0, "parked": 0, "digest": "", "files": 0, "bytes": 0, "build": "", "store": "nats",
            "started": "2026-01-01T00:00:00Z", "last_error": format!("the disk is full{}", "!".repeat(100)),
        });
        let record = serde_json::from_value(json).expect("a record");
        SeenRecord { record, revision: 1, written: Timestamp::from_nanos(0) }
    }

    #[test]
    fn what_is_wrong_comes_first_and_the_table_fits_80_columns() {
        let long = "n".repeat(63);
        let records = vec![
            record("a", NodeRunState::Ready, 9),
            record("b", NodeRunState::Syncing, 9),
            record(&long, NodeRunState::Degraded, 1_000_000),
        ];
        let status =
            Status::new(Version::new(1_000_009), records, Timestamp::from_nanos(2_000_000_000), None);
        assert_eq!(status.exit(), Exit::Failed);
        assert_eq!(status.nodes[0].lag, 9);
        let table = status.to_string();
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
        assert!(table.lines().nth(3).is_some_and(|line| line.starts_with('b')), "{table}");
        assert!(table.lines().nth(2).is_some_and(|line| line.contains("disk is full")), "{table}");
    }

    #[test]
    fn a_node_unseen_for_over_15_s_is_down() {
        let at = |seconds: i128| Timestamp::from_nanos(seconds * 1_000_000_000);
        let status = |seconds| {
            Status::new(Version::ZERO, vec![record("a", NodeRunState::Ready, 0)], at(seconds), None)
        };
        assert_eq!((status(15).exit(), status(16).exit()), (Exit::Done, Exit::Failed));
        assert!(status(16).to_string().contains("down"));
    }

    #[test]
    fn every_field_of_the_json_form_is_in_the_documents() {
        let text = |path: &str| {
            std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).expect("a document")
        };
        let documented = text("docs/DESIGN.md");
        let none = || String::new();
        let local = LocalStatus {
            version: Version::ZERO,
            files: 0,
            log: Some(LogLife { began: Timestamp::from_nanos(0), why: none() }),
            offers: 0,
            outbox: 0,
            held: 0,
            coverage: Some(CoverageStatus { folders: 0, watched: 0 }),
            held_replacements: 0,
            repairs: 0,
            scrub: ScrubStatus::of(&Scrub::default(), 0),
            parked: vec![ParkedStatus { version: Version::ZERO, path: none(), reason: none() }],
            lost_conflicts: vec![LostStatus { path: none(), trash: none(), sha256: None, size: 0 }],
        };
        let records = vec![record("a", NodeRunState::Ready, 9)];
        let status = Status::new(Version::ZERO, records, Timestamp::from_nanos(0), Some(local));
        let mut waiting = vec![serde_json::to_value(status).expect("JSON")];
        while let Some(value) = waiting.pop() {
            match value {
                serde_json::Value::Object(fields) => {
                    for (name, value) in fields {
                        assert!(documented.contains(&format!("`{name}`")), "{name} is not documented");
                        waiting.push(value);
                    }
                }
                serde_json::Value::Array(values) => waiting.extend(values),
                _ => {}
            }
        }
    }
}
