//! The ways in which a real log fails, for the one in memory.

use super::MemoryLog;
use crate::{event::Version, time::Timestamp};
use bytes::Bytes;
use tokio::time::Instant;

impl MemoryLog {
    /// A power cut of a broker that acknowledged too early: events above this version are gone, their versions will be given again, and nothing else
    /// tells of it. Consumers stay where they were, so that they miss what comes under versions they have passed; one that has delivered nothing is
    /// nowhere yet, and begins anew.
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
            shared.consumers.retain(|_, consumer| consumer.delivered > 0);
            // A broker that was started again knows of a consumer what it has delivered, and goes on after that: what was to be delivered first is forgotten.
            for consumer in shared.consumers.values_mut() {
                let delivered = consumer.delivered;
                consumer.first.retain(|sequence| *sequence <= delivered);
                consumer.next = consumer.next.min(delivered + 1);
            }
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::BrokerError,
        log::{Delivery, EventLog, Follower, Published, contract},
    };

    #[tokio::test]
    async fn it_fails_as_a_real_one_does() {
        let log = MemoryLog::new(&"media".parse().expect("a good name"), None);
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

        let delivered = follower.next().await.expect("the new one");
        assert_eq!(delivered.logged().version, Version::new(2), "and it is delivered");
        delivered.acknowledge().await;

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
