//! The world of a trial: nodes with disks and indexes, one log, one blob store, and what is remembered of it all for the checks.

use crate::{disk::Disk, process::Role};
use common::{
    event::{Event, Kind, Version},
    hash::ContentHash,
    index::Index,
    log::MemoryLog,
    path::MediaPath,
    time::Timestamp,
};
use futures_util::FutureExt;
use rand::{SeedableRng, rngs::SmallRng};
use std::collections::{BTreeMap, BTreeSet};

pub const NODES: usize = 2;
pub const PATHS: [&str; 2] = ["p", "q"];
/// An answer of the in-memory log or index, which never wait.
pub fn now<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("nothing in memory waits")
}

/// A tick as a point in time.
pub fn stamp(tick: i64) -> Timestamp {
    Timestamp::from_nanos(i128::from(tick) * 1_000_000_000)
}

pub fn path(text: &str) -> MediaPath {
    text.parse().expect("a good path")
}

/// One node.
pub struct Node {
    pub disk: Disk,
    pub index: Index,
    /// Who holds the lock of the root's marker.
    pub marker: Option<Role>,
    /// Copies of disk and index, for what is restored later.
    pub copies: Vec<(Disk, Index)>,
    /// What the replicator asks the other nodes for.
    pub wanted: BTreeSet<ContentHash>,
    /// The path whose newest event the replicator is asked to apply out of turn.
    pub read: Option<MediaPath>,
    /// Paths that the running watcher has heard of, or is to look at again, and has not yet.
    pub noticed: BTreeSet<MediaPath>,
    /// So much happens beside what is played here that rule 8 holds removals and replacements.
    pub bulk: bool,
}

impl Node {
    fn new() -> Self {
        Self {
            disk: Disk::default(),
            index: new_index(),
            marker: None,
            copies: Vec::new(),
            wanted: BTreeSet::new(),
            read: None,
            noticed: BTreeSet::new(),
            bulk: false,
        }
    }
}

pub fn new_index() -> Index {
    Index::in_memory().expect("an index in memory")
}

/// An event as it was published, and when it was offered.
#[derive(Clone)]
pub struct Published {
    pub path: MediaPath,
    pub kind: Kind,
    pub sha256: ContentHash,
    pub offered: i64,
}

/// What a user wrote.
pub struct Written {
    pub at: i64,
    pub path: MediaPath,
    pub content: ContentHash,
    pub node: usize,
    /// Into a file that was in the trash.
    pub late: bool,
}

/// What the checks need to know of what happened.
#[derive(Default)]
pub struct Past {
    /// The events of the log as it stands now.
    pub log: BTreeMap<Version, Published>,
    /// Every event there ever was.
    pub all: Vec<Published>,
    pub written: Vec<Written>,
    /// Content that a user replaced or removed: gone by his own will.
    pub dropped: BTreeSet<ContentHash>,
    /// Content that was on a disk when an older copy took its place.
    pub overwritten: BTreeSet<ContentHash>,
    /// What the log said of each path when a root was last restored.
    pub at_restore: BTreeMap<MediaPath, ContentHash>,
    /// The same bytes written again.
    pub rewritten: BTreeSet<(MediaPath, ContentHash)>,
    /// Events of the log were lost.
    pub log_lost: bool,
    /// What files have become by themselves.
    pub rotten: BTreeSet<ContentHash>,
}

pub struct World {
    pub nodes: Vec<Node>,
    pub log: MemoryLog,
    /// Counts connections: what was begun over another one may have met another log.
    pub epoch: u64,
    pub up: bool,
    pub blobs: BTreeSet<ContentHash>,
    pub past: Past,
    pub rng: SmallRng,
    /// The run of each process that lives.
    pub alive: BTreeMap<(usize, Role), u64>,
    pub failure: Option<String>,
    pub trace: Vec<String>,
    names: BTreeMap<ContentHash, String>,
    ticks: i64,
    pub steps: u64,
    pub last_note: u64,
}

impl World {
    pub fn new() -> Self {
        let mirror = "media".parse().expect("a good name");
        Self {
            nodes: (0..NODES).map(|_| Node::new()).collect(),
            log: MemoryLog::new(&mirror, None),
            epoch: 0,
            up: true,
            blobs: BTreeSet::new(),
            past: Past::default(),
            rng: SmallRng::seed_from_u64(0),
            alive: BTreeMap::new(),
            failure: None,
            trace: Vec::new(),
            names: BTreeMap::new(),
            ticks: 0,
            steps: 0,
            last_note: 0,
        }
    }

    pub fn tick(&mut self) -> i64 {
        self.ticks += 1;
        self.ticks
    }

    pub fn note(&mut self, text: String) {
        self.trace.push(text);
        self.last_note = self.steps;
    }

    /// The first failure counts.
    pub fn fail(&mut self, text: String) {
        self.note(format!("!! {text}"));
        self.failure.get_or_insert(text);
    }

    /// A content that was never there before.
    pub fn new_content(&mut self) -> ContentHash {
        let name = format!("c{}", self.names.len() + 1);
        let content = ContentHash::of(name.as_bytes());
        self.names.insert(content, name);
        content
    }

    pub fn name(&self, content: ContentHash) -> &str {
        self.names.get(&content).map_or("?", String::as_str)
    }

    /// The broker's clock goes with the ticks, as the times of files do.
    pub fn set_clock(&mut self) {
        let now = stamp(self.tick());
        self.log.set_clock(now);
    }

    /// Remembers a stored event, and checks that neither old content nor rotten bytes come by themselves.
    pub fn published(&mut self, version: Version, event: &Event, offered: i64) {
        let known = |old: &Published| (old.kind, old.sha256) == (event.kind(), event.sha256);
        if self.past.log.get(&version).is_some_and(known) {
            return self.note(format!("log #{version} again"));
        }
        if self.past.rotten.contains(&event.sha256) {
            self.fail(format!("rotten bytes are published: #{version} {}", event.path));
        }
        // What a log has lost is published again as it was, by whoever has it: no user has written it since.
        let was = |old: &&Published| old.path == event.path && known(old);
        let offered = match &event.was {
            Some(_) => self.past.all.iter().filter(was).map(|old| old.offered).max().unwrap_or(offered),
            None => offered,
        };
        let new = Published { path: event.path.clone(), kind: event.kind(), sha256: event.sha256, offered };
        let said = format!(
            "log #{version} {:?} {}={} replaces {}{}",
            new.kind,
            new.path,
            self.name(new.sha256),
            event.replaces,
            if event.was.is_some() { " was" } else { "" }
        );
        self.note(said);
        let of_path = || self.past.log.values().filter(|old| old.path == new.path);
        let last = of_path().next_back().map(|last| (last.kind, last.sha256));
        let before = of_path()
            .filter(|old| (old.kind, old.sha256) == (Kind::Added, new.sha256))
            .map(|old| old.offered)
            .max();
        let again = |since| {
            self.past.written.iter().any(|w| w.at > since && w.path == new.path && w.content == new.sha256)
        };
        if new.kind == Kind::Added
            && last != Some((Kind::Added, new.sha256))
            && before.is_some_and(|since| !again(since))
        {
            self.fail(format!("old content comes back: #{version} {}={}", new.path, self.name(new.sha256)));
        }
        self.past.log.insert(version, new.clone());
        self.past.all.push(new);
    }

    /// The log loses its last events.
    pub fn roll_back(&mut self, events: u64) {
        let last = self.past.log.keys().next_back().map_or(0, |last| last.get());
        let to = Version::new(last.saturating_sub(events));
        self.log.rollback(to);
        self.past.log.retain(|version, _| *version <= to);
        self.past.log_lost = true;
        self.epoch += 1;
    }

    /// The log loses its oldest events.
    pub fn trim(&mut self, events: u64) {
        let end = self.past.log.keys().next_back().map_or(1, |last| last.get() + 1);
        let first = self.past.log.keys().next().map_or(end, |first| end.min(first.get() + events));
        self.log.trim(Version::new(first));
        self.past.log.retain(|version, _| version.get() >= first);
        self.past.log_lost = true;
        self.epoch += 1;
    }

    /// inotify tells the watcher, if it runs.
    pub fn notice(&mut self, node: usize, at: &MediaPath) {
        if self.alive.contains_key(&(node, Role::Watcher)) {
            self.nodes[node].noticed.insert(at.clone());
        }
    }

    /// The log is deleted and made anew.
    pub fn wipe(&mut self) {
        self.log.wipe();
        self.past.log.clear();
        self.past.log_lost = true;
        self.epoch += 1;
    }

    pub fn set_up(&mut self, up: bool) {
        self.up = up;
        self.log.set_away(!up);
        self.epoch += 1;
    }

    pub fn user_writes(&mut self, node: usize, at: &MediaPath, content: ContentHash) {
        let tick = self.tick();
        self.past.written.push(Written { at: tick, path: at.clone(), content, node, late: false });
        self.past.rotten.remove(&content);
        self.notice(node, at);
    }
}
