//! What the index asks of the loop: parked events to be tried, paths to be repaired, blobs to be asked for.

use super::{READY, Service, ServiceError, WANTED};
use crate::{node::ApplyError, restock, work::Item};
use common::{
    blobs::BlobStore,
    broker::BrokerError,
    error_chain,
    event::Version,
    hash::ContentHash,
    index::Repair,
    log::{EventLog, Logged},
    time::Timestamp,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

/// How often the index is asked.
const EVERY: Duration = Duration::from_secs(1);
/// How often blobs that are asked for are looked for in the store.
const RESTOCK: Duration = Duration::from_secs(5);

/// Repairs, each with its path's last event.
pub(super) type Repairs = Result<Vec<(Repair, Option<Logged>)>, BrokerError>;

/// When to ask.
pub(super) fn asking() -> Interval {
    let mut timer = interval(EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

impl<L: EventLog, B: BlobStore> Service<L, B> {
    pub(super) fn look_for_asked(&mut self) -> Result<(), ServiceError> {
        self.try_parked()?;
        self.look_for_repairs()?;
        self.look_for_wanted()?;
        self.heed_neighbours()?;
        if self.node.index.held_count()?.replacements == 0 {
            self.held_said = false;
        }
        Ok(())
    }

    fn is_free(&self, logged: &Logged) -> bool {
        !self.busy.contains_key(&logged.subject)
            && !self.again.iter().any(|item| item.logged.subject == logged.subject)
    }

    fn try_parked(&mut self) -> Result<(), ServiceError> {
        for parked in self.node.index.parked_due(Timestamp::now())? {
            let subjects = self.node.log.subjects();
            let (version, stamp) = (parked.version, parked.stamp);
            let logged = Logged::new(subjects, version, stamp, parked.subject, parked.payload.into());
            if self.again.len() < READY && self.is_free(&logged) {
                self.again.push_back(Item { parked: Some(parked.tries), ..Item::new(logged, None) });
            }
        }
        Ok(())
    }

    fn look_for_repairs(&mut self) -> Result<(), ServiceError> {
        if !self.repairs.is_empty() || self.again.len() >= READY {
            return Ok(());
        }
        let mut due = self.node.index.repairs_due(Timestamp::now())?;
        due.retain(|repair| !self.busy.contains_key(&self.node.log.subjects().of(&repair.path)));
        if due.is_empty() {
            return Ok(());
        }
        let log = self.node.log.clone();
        self.repairs.spawn(async move {
            let paths: Vec<_> = due.iter().map(|repair| repair.path.clone()).collect();
            Ok(due.into_iter().zip(log.lasts(&paths).await?).collect())
        });
        Ok(())
    }

    pub(super) async fn take_repairs(&mut self, found: Repairs) -> Result<(), ServiceError> {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                self.trouble(error_chain(&error));
                return Ok(());
            }
        };
        for (repair, last) in found {
            match last {
                Some(last) if last.event.is_ok() => {
                    if self.session.is_some() && self.is_free(&last) {
                        self.again.push_back(Item { repair: Some(repair), ..Item::new(last, None) });
                    }
                }
                // The log has nothing to fetch; what stands there, if anything, is for the watcher to publish.
                _ => {
                    self.node
                        .index
                        .write(move |tx| {
                            tx.ask_watcher(&repair.path)?;
                            tx.end_repair(&repair.path, repair.since)
                        })
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Blobs that a check found missing or damaged are asked for beside those that an event of this node needs, until they are whole.
    fn look_for_wanted(&mut self) -> Result<(), ServiceError> {
        let asked = self.node.index.wanted()?;
        let hashes: BTreeSet<ContentHash> = asked.iter().map(|blob| blob.content).collect();
        if hashes != self.asked {
            self.asked = hashes;
            self.wanted_changed = true;
        }
        if !asked.is_empty() && self.restock.is_empty() && self.restocked.elapsed() > RESTOCK {
            self.restocked = Instant::now();
            let node = Arc::clone(&self.node);
            self.restock.spawn(async move { restock::look(&node, asked).await });
        }
        Ok(())
    }

    pub(super) fn restocked(&mut self, done: Result<(), ApplyError>) {
        if let Err(error) = done {
            self.trouble(error_chain(&error));
        }
    }

    /// What the other nodes are asked for.
    pub(super) fn wanted_list(&self) -> Vec<ContentHash> {
        self.wanted.union(&self.asked).copied().take(WANTED).collect()
    }

    /// One error when replacements begin to be held, not one for each.
    pub(super) fn say_held(&mut self) {
        if !std::mem::replace(&mut self.held_said, true) {
            let text = "many files here that the log does not know would be replaced: they are held, `watcher approve` replaces them, \
                        `watcher approve --revert` publishes them instead";
            tracing::error!("{text}");
            self.last_error = Some(text.into());
        }
    }

    pub(super) fn forget_asked(&mut self) {
        self.repairs.abort_all();
        self.repairs.detach_all();
    }

    /// What is odd about the consumer is said; what it means for the events is known from the log and the index (rule 9).
    pub(super) fn look_at_consumer(&mut self, delivered: Version, last: Version, version: Version) {
        let name = self.node.name.consumer();
        let odd = if delivered > last {
            format!(
                "the consumer {name} is at {delivered}, ahead of the log, which ends at {last}: new events are read without it"
            )
        } else if delivered < version {
            format!(
                "the consumer {name} is at {delivered}, and this node at {version}: it was deleted or restored"
            )
        } else {
            return;
        };
        tracing::warn!("{odd}");
        self.last_error = Some(odd);
    }
}
