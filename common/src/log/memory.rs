//! The log of simulations: the same promises in memory. The ways in which a real one fails are in [`failures`].

mod failures;

use super::{ConsumerState, Delivery, EventLog, Follower, Hint, Hints, LogState, Logged, Published};
use crate::{
    broker::BrokerError,
    event::{Event, EventId, StreamCreated, Version},
    names::{MirrorName, NodeName},
    path::MediaPath,
    subject::Subjects,
    time::Timestamp,
};
use async_trait::async_trait;
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
    pending: u64,
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

#[async_trait]
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

    async fn hints(&self) -> Result<Hints, BrokerError> {
        let mut seen = self.ask("listening to the log", |shared| shared.last)?;
        let (log, mut changed) = (self.clone(), self.changed.subscribe());
        Ok(Hints::start(async move |sender| {
            while changed.changed().await.is_ok() {
                let new = log.ask("listening", |shared| {
                    let new: Vec<_> =
                        shared.events.range(seen + 1..).map(|(_, logged)| logged.clone()).collect();
                    seen = shared.last;
                    new
                });
                for event in new.into_iter().flatten().filter_map(|logged| logged.event.ok()) {
                    // As on the wire: what cannot be held is left out.
                    let _ = sender.try_send(Hint::of(event));
                }
            }
        }))
    }
}

impl MemoryFollower {
    /// `None`: nothing to deliver now.
    fn take(&self) -> Result<Option<(Logged, u64)>, BrokerError> {
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
            let pending = consumer.first.len() + shared.events.range(consumer.next..).count();
            Ok(Some((logged.clone(), pending as u64)))
        })?
    }
}

#[async_trait]
impl Follower for MemoryFollower {
    type Delivery = MemoryDelivery;

    async fn next(&mut self) -> Result<MemoryDelivery, BrokerError> {
        loop {
            self.changed.mark_unchanged();
            if let Some((logged, pending)) = self.take()? {
                return Ok(MemoryDelivery {
                    log: self.log.clone(),
                    node: self.node.clone(),
                    life: self.life,
                    logged,
                    pending,
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

#[async_trait]
impl Delivery for MemoryDelivery {
    fn logged(&self) -> &Logged {
        &self.logged
    }

    fn pending(&self) -> u64 {
        self.pending
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
}
