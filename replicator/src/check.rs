//! After the broker was away, the log is read through beside live work: an event that was never delivered here, for whatever reason, is found without
//! anybody having to notice the gap.
//!
//! It begins anew after each loss of the broker, keeps one page in memory, and holds nothing back: the version goes on meanwhile. It reads behind the version,
//! where everything is known as applied that ever will be; past it only while nothing else is to be done.

use common::{
    broker::BrokerError,
    event::Version,
    index::{Generation, Index, IndexError, NodeState},
    log::{EventLog, Logged},
    vitals::Long,
};
use std::time::Duration;
use tokio::{task::JoinSet, time::Instant};

/// Events of one page.
const PAGE: usize = 256;
/// Between two pages: at most some 2,500 events a second, a few percent of what node and broker can do.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the version must have stood still below what is to be checked, with nothing in work, until the check goes past it: what was not delivered by then
/// is not about to be.
const STILL: Duration = Duration::from_secs(5);
/// Until a page that could not be read is asked for again.
const RETRY: Duration = Duration::from_secs(1);

/// Whether a check begins with a session. `unchecked`: the broker or the process was away since the last one.
pub fn is_due(unchecked: bool, node: &NodeState) -> bool {
    // A generation that is about to read its log from the start has nothing to check. One that has read a part of it does: after a crash of the
    // broker events may be there that were not before, below the version too (a trim that came undone).
    let from_the_start = node.fresh && !node.log_read && node.version == Version::ZERO;
    unchecked && !from_the_start
}

/// What one page of the log came to.
pub struct Page {
    /// Events that are the newest of their path, and that the index does not know.
    pub missing: Vec<Logged>,
    events: u64,
    /// Where to go on.
    pub next: Version,
}

/// Why a page could not be read. It is asked for again.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The log.
    #[error(transparent)]
    Log(#[from] BrokerError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
}

/// A check under way.
pub struct Check {
    generation: Generation,
    next: Version,
    to: Version,
    events: u64,
    missing: u64,
    began: Instant,
    pages: JoinSet<Result<Page, PageError>>,
    next_page: Instant,
    /// Since when it has waited at the version.
    still: Option<Instant>,
}

impl Check {
    /// Of everything up to `to`.
    pub fn new(generation: Generation, to: Version) -> Self {
        let (now, pages) = (Instant::now(), JoinSet::new());
        let next = Version::ZERO.next();
        Self { generation, next, to, events: 0, missing: 0, began: now, pages, next_page: now, still: None }
    }

    /// Asks for the next page when it is time to. `idle`: nothing is in work, so that the version does not move.
    pub fn go_on<L: EventLog>(&mut self, log: &L, index: &Index, version: Version, idle: bool) {
        let now = Instant::now();
        let behind = self.next <= version;
        self.still = self.still.or(Some(now)).filter(|_| idle && !behind);
        let limit = match self.still {
            _ if behind => version,
            Some(since) if now.duration_since(since) >= STILL => self.to,
            _ => return,
        };
        let to = self.to.min(limit);
        if self.pages.is_empty() && self.next <= to && self.next_page <= now {
            let (log, index, generation, from) = (log.clone(), index.clone(), self.generation, self.next);
            self.pages.spawn(async move { page(&log, &index, generation, from, to).await });
        }
    }

    /// What is to be applied. Said once: what the whole check has found.
    pub fn take(&mut self, page: Result<Page, PageError>) -> Vec<Logged> {
        self.next_page = Instant::now() + PAUSE;
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(%error, "a page of the log could not be read");
                self.next_page = Instant::now() + RETRY;
                return Vec::new();
            }
        };
        self.next = page.next;
        self.events += page.events;
        self.missing += page.missing.len() as u64;
        if self.is_over() {
            let (events, missing, elapsed_s) = (self.events, self.missing, self.began.elapsed().as_secs());
            match missing {
                0 => tracing::info!(events, missing, elapsed_s, "the log was read through"),
                _ => tracing::warn!(
                    events,
                    missing,
                    elapsed_s,
                    "the log was read through: events that this index did not know are applied now"
                ),
            }
        }
        page.missing
    }

    /// For who asks how far it is.
    pub fn long(&self) -> Long {
        Long {
            what: "reading the log through",
            done: self.next.get().saturating_sub(1),
            total: self.to.get(),
        }
    }

    /// Everything has been read.
    pub fn is_over(&self) -> bool {
        self.next > self.to
    }
}

/// The next page of a check. Never, while none is asked for.
pub async fn read_page(check: &mut Option<Check>) -> Result<Page, PageError> {
    let read = match check {
        Some(check) => check.pages.join_next().await,
        None => None,
    };
    match read {
        Some(Ok(page)) => page,
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        None => std::future::pending().await,
    }
}

/// The newest events of their paths from `from` to `to` that the index does not know; one page.
pub async fn page<L: EventLog>(
    log: &L,
    index: &Index,
    generation: Generation,
    from: Version,
    to: Version,
) -> Result<Page, PageError> {
    let mut events = log.read(from, PAGE).await?;
    let next = events.last().map_or(to, |last| last.version.min(to)).next();
    events.retain(|logged| logged.version <= to);
    let count = events.len() as u64;
    let mut missing = Vec::new();
    for logged in events {
        if is_known(index, generation, &logged)? {
            continue;
        }
        let newest = log.last_on(&logged.subject).await?;
        if newest.is_some_and(|newest| newest.version == logged.version) {
            missing.push(logged);
        }
    }
    Ok(Page { missing, events: count, next })
}

/// Applied or superseded by the path's row, or parked.
fn is_known(index: &Index, generation: Generation, logged: &Logged) -> Result<bool, IndexError> {
    let row = match &logged.event {
        Ok(event) => index.path_state(&event.path)?.row,
        Err(_) => None,
    };
    if row.is_some_and(|row| row.generation == generation && row.version >= logged.version) {
        return Ok(true);
    }
    Ok(index.parked_on(&logged.subject)?.is_some_and(|parked| parked.version >= logged.version))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use common::{
        event::{Attributes, Event, EventId, Kind},
        hash::ContentHash,
        index::{Commit, Parked},
        log::{MemoryLog, Published},
        names::{MirrorName, NodeName},
        time::Timestamp,
    };

    struct World {
        log: MemoryLog,
        index: Index,
        _dir: tempfile::TempDir,
    }

    impl World {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let index = Index::open(&dir.path().join("index.db")).unwrap();
            let mirror: MirrorName = "media".parse().unwrap();
            let log = MemoryLog::new(&mirror, None);
            let created = log.state().await.unwrap().created;
            index.write(move |tx| tx.begin_generation(&created, "another")).await.unwrap();
            Self { log, index, _dir: dir }
        }

        async fn publish(&self, path: &str, replaces: Version) -> Version {
            let node: NodeName = "n".parse().unwrap();
            let now = Timestamp::now();
            let event = Event {
                path: path.parse().unwrap(),
                sha256: ContentHash::of(path.as_bytes()),
                added: Some(Attributes { size: 1, mtime: now, mode: 0o644 }),
                node,
                replaces,
                detected: now,
                was: None,
            };
            match self.log.publish(&event).await.unwrap() {
                Published::Stored(version) => version,
                Published::Refused => panic!("refused"),
            }
        }

        async fn apply(&self, path: &str, version: Version, generation: u64) {
            let commit = Commit {
                path: path.parse().unwrap(),
                kind: Kind::Added,
                sha256: ContentHash::of(path.as_bytes()),
                size: 1,
                stat: None,
                racy: false,
                version,
                replaced: Version::ZERO,
                subject: self.log.subjects().of(&path.parse().unwrap()),
                event: EventId::from_hash(ContentHash::of_nothing()),
                generation: Generation(generation),
            };
            assert!(self.index.write(move |tx| tx.commit(&commit)).await.unwrap());
        }

        async fn missing(&self, from: u64, to: u64) -> (Vec<u64>, u64) {
            let (from, to) = (Version::new(from), Version::new(to));
            let page = page(&self.log, &self.index, Generation(1), from, to).await.unwrap();
            (page.missing.iter().map(|logged| logged.version.get()).collect(), page.next.get())
        }
    }

    #[test]
    fn only_a_generation_that_reads_its_log_from_the_start_is_not_checked() {
        for (unchecked, fresh, log_read, version, due) in [
            (true, true, false, 0, false),
            (true, true, false, 10, true),
            (true, true, true, 0, true),
            (true, false, true, 10, true),
            (false, true, false, 10, false),
        ] {
            let node = NodeState { fresh, log_read, version: Version::new(version), ..NodeState::default() };
            assert_eq!(is_due(unchecked, &node), due, "{unchecked} {fresh} {log_read} {version}");
        }
    }

    #[tokio::test]
    async fn only_the_newest_event_of_a_path_that_the_index_does_not_know_is_missing() {
        let world = World::new().await;
        let applied = world.publish("applied", Version::ZERO).await;
        let first = world.publish("twice", Version::ZERO).await;
        world.publish("gap", Version::ZERO).await;
        world.publish("twice", first).await;
        let old = world.publish("of an older life", Version::ZERO).await;
        world.apply("applied", applied, 1).await;
        world.apply("of an older life", Version::new(900), 0).await;
        assert_eq!(world.missing(1, old.get()).await, (vec![3, 4, 5], 6));
        assert_eq!(world.missing(1, 3).await, (vec![3], 4), "what lies above is for later");
        world.apply("twice", Version::new(4), 1).await;
        world.apply("gap", Version::new(3), 1).await;
        assert_eq!(world.missing(1, 5).await, (vec![5], 6));
        assert_eq!(world.missing(6, 9).await, (vec![], 10), "the log ends before");
    }

    #[tokio::test]
    async fn what_is_no_event_is_missing_until_it_is_parked() {
        let world = World::new().await;
        let subject = "mirror.media.poison".to_owned();
        let version = world.log.inject(subject.clone(), "no event".into());
        assert_eq!(world.missing(1, 1).await.0, [1]);
        let now = Timestamp::now();
        let parked = Parked {
            subject,
            path: None,
            version,
            stamp: now,
            payload: b"no event".to_vec(),
            reason: "no event".into(),
            permanent: true,
            since: now,
            tries: 0,
            next_try: now,
        };
        let event = EventId::from_hash(ContentHash::of_nothing());
        world.index.write(move |tx| tx.park(&parked, event)).await.unwrap();
        assert_eq!(world.missing(1, 1).await.0, [] as [u64; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_stays_behind_the_version_unless_that_stands_still() {
        let world = World::new().await;
        for n in 0..3 {
            world.publish(&n.to_string(), Version::ZERO).await;
        }
        let mut check = Some(Check::new(Generation(1), Version::new(3)));
        let mut found = Vec::new();
        let steps = [(0, true, 0), (2, false, 2), (2, true, 2), (2, false, 2), (2, true, 2), (2, true, 3)];
        for (version, idle, expected) in steps {
            check.as_mut().unwrap().go_on(&world.log, &world.index, Version::new(version), idle);
            if !check.as_ref().unwrap().pages.is_empty() {
                let page = read_page(&mut check).await;
                found.extend(check.as_mut().unwrap().take(page));
            }
            assert_eq!(found.len(), expected);
            assert_eq!(check.as_ref().unwrap().is_over(), expected == 3);
            tokio::time::advance(STILL).await;
        }
    }
}
