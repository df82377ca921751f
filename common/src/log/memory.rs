//! The log of simulations: the same promises in memory, and the ways in which a real one fails.

use super::{ConsumerState, Delivery, EventLog, Follower, LogState, Logged, Published};
use crate::{
    broker::BrokerError,
    event::{Event, EventId, StreamCreated, Version},
    names::{MirrorName, NodeName},
    path::MediaPath,
    subject::Subjects,
    time::Timestamp,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{sync::watch, time::Instant};

/// As many as the real one gives for one [`read`](EventLog::read).
const PAGE: usize = 500;

/// A log in memory. Clones are handles to the same one. Its clock is tokio's, so that paused time rules it.
#[derive(Clone)]
pub struct MemoryLog {
    subjects: Subjects,
    shared: Arc<Mutex<Shared>>,
    changed: watch::Sender<()>,
}

struct Shared {
    history: Option<u64>,
    began: (Timestamp, Instant),
    created: Timestamp,
    last: u64,
    events: BTreeMap<u64, Logged>,
    by_subject: HashMap<String, BTreeSet<u64>>,
    consumers: HashMap<NodeName, Consumer>,
    /// What was published within the window in which a broker tells duplicates. It outlives events that are trimmed.
    recent: HashMap<EventId, u64>,
    away: bool,
}

/// Where a node is. Lives until the log is wiped.
struct Consumer {
    /// To be delivered first: what was delivered and never acknowledged; at the beginning, the newest event of each path.
    first: VecDeque<u64>,
    /// After those, everything from here on.
    next: u64,
    delivered: u64,
    unacknowledged: BTreeSet<u64>,
}

/// Follows a [`MemoryLog`].
pub struct MemoryFollower {
    log: MemoryLog,
    node: NodeName,
    life: Timestamp,
    changed: watch::Receiver<()>,
}

/// An event from a [`MemoryLog`].
pub struct MemoryDelivery {
    log: MemoryLog,
    node: NodeName,
    life: Timestamp,
    logged: Logged,
}

impl MemoryLog {
    /// An empty log that keeps this many events of each path; `None`: all.
    pub fn new(mirror: &MirrorName, history: Option<u64>) -> Self {
        let now = Timestamp::now();
        let shared = Shared {
            history,
            began: (now, Instant::now()),
            created: now,
            last: 0,
            events: BTreeMap::new(),
            by_subject: HashMap::new(),
            consumers: HashMap::new(),
            recent: HashMap::new(),
            away: false,
        };
        let shared = Arc::new(Mutex::new(shared));
        Self { subjects: Subjects::new(mirror), shared, changed: watch::Sender::new(()) }
    }

    /// A power cut of a broker that acknowledged too early: events above this version are gone, their versions will be given again, and nothing else
    /// tells of it. Consumers stay where they were, so that they miss what comes under versions they have passed.
    pub fn rollback(&self, to: Version) {
        self.with(|shared| {
            let gone = shared.events.split_off(&(to.get() + 1));
            for (sequence, logged) in gone {
                if let Some(of_path) = shared.by_subject.get_mut(&logged.subject) {
                    of_path.remove(&sequence);
                }
            }
            shared.last = shared.last.min(to.get());
            shared.recent.retain(|_, sequence| *sequence <= to.get());
        });
    }

    /// The oldest events, up to and not including this version, are dropped, whether their path has a newer one or not.
    pub fn trim(&self, first: Version) {
        self.with(|shared| {
            let kept = shared.events.split_off(&first.get());
            for (sequence, logged) in std::mem::replace(&mut shared.events, kept) {
                if let Some(of_path) = shared.by_subject.get_mut(&logged.subject) {
                    of_path.remove(&sequence);
                }
            }
        });
    }

    /// All consumers are deleted.
    pub fn delete_consumers(&self) {
        self.with(|shared| shared.consumers.clear());
    }

    /// So much time passes that no duplicates are told any more.
    pub fn forget_duplicates(&self) {
        self.with(|shared| shared.recent.clear());
    }

    /// Sets the broker's clock.
    pub fn set_clock(&self, now: Timestamp) {
        self.with(|shared| shared.began = (now, Instant::now()));
    }

    /// The stream deleted and made anew: another creation time, no events, no consumers.
    pub fn wipe(&self) {
        self.with(|shared| {
            // Never the same twice, also when time is paused.
            let later = Timestamp::from_nanos(shared.created.nanos() + 1);
            shared.created = shared.now().max(later);
            shared.last = 0;
            shared.events.clear();
            shared.by_subject.clear();
            shared.consumers.clear();
            shared.recent.clear();
        });
    }

    /// While away, every call fails.
    pub fn set_away(&self, away: bool) {
        self.with(|shared| shared.away = away);
    }

    /// Stores any message, as a foreign client could.
    pub fn inject(&self, subject: String, payload: Bytes) -> Version {
        self.with(|shared| shared.append(&self.subjects, subject, payload))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        // A panic in a test that holds it is that test's failure, not ours.
        let done = act(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
        done
    }

    fn ask<T>(&self, doing: &str, act: impl FnOnce(&mut Shared) -> T) -> Result<T, BrokerError> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.away {
            return Err(away(doing));
        }
        Ok(act(&mut shared))
    }
}

fn away(doing: &str) -> BrokerError {
    BrokerError::Away { doing: doing.into(), reason: "set away".into() }
}

impl Shared {
    fn now(&self) -> Timestamp {
        let (began, since) = self.began;
        Timestamp::from_nanos(began.nanos() + i128::try_from(since.elapsed().as_nanos()).unwrap_or(i128::MAX))
    }

    fn last_of(&self, subject: &str) -> Option<&Logged> {
        self.events.get(self.by_subject.get(subject)?.last()?)
    }

    fn append(&mut self, subjects: &Subjects, subject: String, payload: Bytes) -> Version {
        self.last += 1;
        let version = Version::new(self.last);
        let logged = Logged::new(subjects, version, self.now(), subject.clone(), payload);
        self.events.insert(self.last, logged);
        let of_path = self.by_subject.entry(subject).or_default();
        of_path.insert(self.last);
        while self.history.is_some_and(|most| of_path.len() as u64 > most) {
            if let Some(oldest) = of_path.pop_first() {
                self.events.remove(&oldest);
            }
        }
        version
    }
}

impl EventLog for MemoryLog {
    type Follower = MemoryFollower;

    fn subjects(&self) -> &Subjects {
        &self.subjects
    }

    async fn state(&self) -> Result<LogState, BrokerError> {
        self.ask("asking for the log", |shared| LogState {
            created: StreamCreated(shared.created),
            // An empty one begins with what comes next, as a broker says it, unless it was never written to.
            first: match shared.events.keys().next() {
                Some(first) => Version::new(*first),
                None if shared.last == 0 => Version::ZERO,
                None => Version::new(shared.last + 1),
            },
            last: Version::new(shared.last),
            history: shared.history,
            now: Some(shared.now()),
        })
    }

    async fn publish(&self, event: &Event) -> Result<Published, BrokerError> {
        let (subject, id) = (self.subjects.of(&event.path), event.identity(&self.subjects));
        let published = self.ask("publishing", |shared| {
            // As a broker does it: duplicates first. One that is gone is published again.
            if let Some(sequence) = shared.recent.get(&id) {
                if *sequence <= event.replaces.get() {
                    return Published::Refused;
                }
                if shared.events.get(sequence).is_some_and(|stored| stored.id(&self.subjects) == id) {
                    return Published::Stored(Version::new(*sequence));
                }
            }
            match shared.last_of(&subject) {
                Some(last) if last.version > event.replaces && last.id(&self.subjects) == id => {
                    Published::Stored(last.version)
                }
                last if last.map_or(Version::ZERO, |last| last.version) != event.replaces => {
                    Published::Refused
                }
                _ => {
                    let version = shared.append(&self.subjects, subject, event.encode().into());
                    shared.recent.insert(id, version.get());
                    Published::Stored(version)
                }
            }
        })?;
        self.changed.send_replace(());
        Ok(published)
    }

    async fn lasts(&self, paths: &[MediaPath]) -> Result<Vec<Option<Logged>>, BrokerError> {
        self.ask("reading the log", |shared| {
            paths.iter().map(|path| shared.last_of(&self.subjects.of(path)).cloned()).collect()
        })
    }

    async fn last_on(&self, subject: &str) -> Result<Option<Logged>, BrokerError> {
        self.ask("reading the log", |shared| shared.last_of(subject).cloned())
    }

    async fn next_of(&self, path: &MediaPath, from: Version) -> Result<Option<Logged>, BrokerError> {
        let subject = self.subjects.of(path);
        self.ask("reading the log", |shared| {
            let sequence = shared.by_subject.get(&subject)?.range(from.get()..).next()?;
            shared.events.get(sequence).cloned()
        })
    }

    async fn at(&self, version: Version) -> Result<Option<Logged>, BrokerError> {
        self.ask("reading the log", |shared| shared.events.get(&version.get()).cloned())
    }

    async fn read(&self, from: Version, limit: usize) -> Result<Vec<Logged>, BrokerError> {
        self.ask("reading the log", |shared| {
            shared
                .events
                .range(from.get()..)
                .take(limit.min(PAGE))
                .map(|(_, logged)| logged.clone())
                .collect()
        })
    }

    async fn follow(&self, node: &NodeName) -> Result<MemoryFollower, BrokerError> {
        let life = self.ask("following the log", |shared| {
            let newest = || shared.by_subject.values().filter_map(BTreeSet::last).copied();
            let newest: BTreeSet<u64> = newest().collect();
            let consumer = shared.consumers.entry(node.clone()).or_insert_with(|| Consumer {
                first: newest.into_iter().collect(),
                next: shared.last + 1,
                delivered: 0,
                unacknowledged: BTreeSet::new(),
            });
            for sequence in std::mem::take(&mut consumer.unacknowledged).into_iter().rev() {
                consumer.first.push_front(sequence);
            }
            shared.created
        })?;
        let changed = self.changed.subscribe();
        Ok(MemoryFollower { log: self.clone(), node: node.clone(), life, changed })
    }
}

impl MemoryFollower {
    /// `None`: nothing to deliver now.
    fn take(&self) -> Result<Option<Logged>, BrokerError> {
        let doing = || format!("following the log by {}", self.node.consumer());
        self.log.ask(&doing(), |shared| {
            let known = shared.created == self.life;
            let consumer = shared.consumers.get_mut(&self.node).filter(|_| known);
            let consumer = consumer.ok_or_else(|| BrokerError::Absent { doing: doing() })?;
            let mut ready = std::iter::from_fn(|| consumer.first.pop_front());
            let logged = match ready.find_map(|sequence| shared.events.get(&sequence)) {
                Some(logged) => logged,
                None => match shared.events.range(consumer.next..).next() {
                    Some((sequence, logged)) => {
                        consumer.next = sequence + 1;
                        logged
                    }
                    None => return Ok(None),
                },
            };
            consumer.delivered = consumer.delivered.max(logged.version.get());
            consumer.unacknowledged.insert(logged.version.get());
            Ok(Some(logged.clone()))
        })?
    }
}

impl Follower for MemoryFollower {
    type Delivery = MemoryDelivery;

    async fn next(&mut self) -> Result<MemoryDelivery, BrokerError> {
        loop {
            self.changed.mark_unchanged();
            if let Some(logged) = self.take()? {
                return Ok(MemoryDelivery {
                    log: self.log.clone(),
                    node: self.node.clone(),
                    life: self.life,
                    logged,
                });
            }
            // The log holds a sender of its own, so this never ends with an error.
            let _ = self.changed.changed().await;
        }
    }

    async fn state(&mut self) -> Result<ConsumerState, BrokerError> {
        let absent = || BrokerError::Absent { doing: format!("asking for {}", self.node.consumer()) };
        self.log.ask("asking for a consumer", |shared| {
            let known = shared.created == self.life;
            let consumer = shared.consumers.get(&self.node).filter(|_| known).ok_or_else(absent)?;
            let open = consumer.unacknowledged.iter().chain(&consumer.first).min();
            let floor = open.map_or(consumer.delivered, |open| consumer.delivered.min(open - 1));
            let pending = consumer.first.len() + shared.events.range(consumer.next..).count();
            Ok(ConsumerState {
                acknowledged: Version::new(floor),
                delivered: Version::new(consumer.delivered),
                pending: pending as u64,
            })
        })?
    }
}

impl Delivery for MemoryDelivery {
    fn logged(&self) -> &Logged {
        &self.logged
    }

    async fn acknowledge(&self) {
        // Lost while away, as on the wire.
        let _ = self.log.ask("acknowledging", |shared| {
            if shared.created == self.life
                && let Some(consumer) = shared.consumers.get_mut(&self.node)
            {
                consumer.unacknowledged.remove(&self.logged.version.get());
                consumer.first.retain(|&sequence| sequence != self.logged.version.get());
            }
        });
    }

    async fn progress(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::contract;

    fn mirror() -> MirrorName {
        "media".parse().expect("a good name")
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let make = async |history| MemoryLog::new(&mirror(), history);
        let inject = async |log: &MemoryLog, subject, payload| {
            log.inject(subject, payload);
        };
        contract::suite(make, inject).await;
    }

    #[tokio::test]
    async fn it_fails_as_a_real_one_does() {
        let log = MemoryLog::new(&mirror(), None);
        let node = "n".parse().expect("a good name");
        for path in ["a", "b", "c"] {
            log.publish(&contract::event(path, b"1", Version::ZERO)).await.expect("stored");
        }
        let mut follower = log.follow(&node).await.expect("a follower");
        follower.next().await.expect("the first").acknowledge().await;
        let before = log.state().await.expect("a state");

        log.rollback(Version::new(1));
        let after = log.state().await.expect("a state");
        assert_eq!((&after.created, after.last), (&before.created, Version::new(1)));
        let again = log.publish(&contract::event("d", b"1", Version::ZERO)).await;
        assert_eq!(again.expect("stored"), Published::Stored(Version::new(2)), "a version is given twice");

        let event = contract::event("d", b"1", Version::ZERO);
        let again = log.publish(&contract::event("d", b"2", Version::new(2))).await;
        assert_eq!(again.expect("stored"), Published::Stored(Version::new(3)));
        let duplicate = log.publish(&event).await.expect("known");
        assert_eq!(
            duplicate,
            Published::Stored(Version::new(2)),
            "a duplicate is told although it was replaced"
        );
        log.forget_duplicates();
        assert_eq!(log.publish(&event).await.expect("a refusal"), Published::Refused);
        log.trim(Version::new(4));
        let state = log.state().await.expect("a state");
        assert_eq!((state.first, state.last), (Version::new(4), Version::new(3)), "as a broker says it");
        assert!(log.last(&event.path).await.expect("a read").is_none());
        assert_eq!(log.publish(&event).await.expect("stored"), Published::Stored(Version::new(4)));
        log.trim(Version::new(5));
        let gone = log.publish(&event).await.expect("stored");
        assert_eq!(
            gone,
            Published::Stored(Version::new(5)),
            "a duplicate of what is gone is published again"
        );

        log.delete_consumers();
        assert!(matches!(follower.next().await, Err(BrokerError::Absent { .. })));
        let mut follower = log.follow(&node).await.expect("another");

        log.set_away(true);
        assert!(log.state().await.expect_err("away").is_away());
        assert!(follower.next().await.err().expect("away").is_away());
        log.set_away(false);

        log.wipe();
        assert_ne!(log.state().await.expect("a state").created, before.created);
        assert!(matches!(follower.next().await, Err(BrokerError::Absent { .. })));
    }
}
